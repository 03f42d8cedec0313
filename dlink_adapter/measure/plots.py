"""Figures: embedding clouds, histograms of cosines, caption scores, published scores, trade-offs, curves against depth.

A function draws one Figure without pyplot, global state or a display, and writes it as a PNG file that is never
half-written. The colours are those of Okabe and Ito, which are distinct for colour-blind readers; audio and text have
different markers.
"""

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dlink_adapter.extras import import_extra
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.published import Measured, in_order

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AUDIO, TEXT, LINE = "#D55E00", "#0072B2", "#777777"
BARS = ("#999999", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
METRIC_NAMES = {f"bleu_{n}": f"BLEU-{n}" for n in (1, 2, 3, 4)} | dict(
    rouge_l="ROUGE-L", meteor="METEOR", cider_d="CIDEr-D", spice="SPICE", spider="SPIDEr", fense="FENSE"
)
MAX_POINTS = 2000  # of each modality in a panel: more would only overlap
COLUMNS = 4  # of panels in a figure


def plot_clouds(path: str | Path, panels: Mapping[str, tuple[Tensor, Tensor]], *, pairs: int = 12) -> Path:
    """Scatter plots of audio and text, a panel each, with lines between a few pairs.

    `panels` maps a title to (audio, text), each (n, dim), row i of one the pair of row i of the other. All panels show
    the first two principal components of the first one, which should be the raw embeddings. Raises ValueError on
    shapes that do not match, ImportError without matplotlib.
    """
    clouds = _unit_pairs(panels)
    figure, grid = _panels(len(clouds), 4.4, 4.8, sharex=True, sharey=True)
    project, explained = _principal_plane(torch.cat(next(iter(clouds.values()))))
    for axes, (title, (audio, text)) in zip(grid, clouds.items(), strict=True):
        shown = torch.randperm(len(audio), generator=torch.Generator().manual_seed(0))[:MAX_POINTS]
        points = project(audio[shown]), project(text[shown])
        for one, other in zip(*(cloud[:pairs].tolist() for cloud in points), strict=True):
            axes.plot(*zip(one, other, strict=True), color=LINE, linewidth=0.8, zorder=3)
        for cloud, color, marker, label in zip(points, (AUDIO, TEXT), "o^", ("audio", "text"), strict=True):
            style: dict[str, Any] = {"color": color, "marker": marker, "linewidths": 0}
            axes.scatter(*cloud.T.tolist(), s=16, alpha=0.45, label=label, **style)
            axes.scatter(*cloud[:pairs].T.tolist(), s=26, zorder=4, **style)
        axes.set_title(f"{_title(title)}\nmean paired cosine {(audio * text).sum(-1).mean():.2f}", fontsize=11)
        axes.set_xlabel(f"component 1 ({explained[0]:.0%} of the variance)")
    grid[0].set_ylabel(f"component 2 ({explained[1]:.0%})")
    _legend(figure, markerscale=1.8)
    figure.suptitle(f"Audio and text embeddings, {min(pairs, len(shown))} pairs joined")
    return _save(figure, path)


def plot_caption_scores(path: str | Path, scores: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Path:
    """Grouped bars of `scores[setup][method][metric]` with their values (x 100), one row of axes for each setup.

    A metric that is None everywhere is left out; a single None has no bar. Raises ValueError where no metric is left,
    ImportError without matplotlib.
    """
    values = [by_metric for methods in scores.values() for by_metric in methods.values()]
    metrics = [name for name in METRIC_NAMES if any(by_metric.get(name) is not None for by_metric in values)]
    if not metrics:
        raise ValueError(f"no caption score to draw: scores[setup][method] has none of {', '.join(METRIC_NAMES)}")
    methods = list(dict.fromkeys(name for by_method in scores.values() for name in by_method))
    figure = _figure(max(7.0, 0.42 * len(metrics) * (len(methods) + 1)), 3.4 * len(scores) + 0.4)
    rows = figure.subplots(len(scores), 1, squeeze=False)[:, 0]
    width = 0.84 / len(methods)
    for axes, (setup, by_method) in zip(rows, scores.items(), strict=True):
        for place, method in enumerate(methods):
            found = [by_method.get(method, {}).get(metric) for metric in metrics]
            heights = 100 * np.array(found, dtype=np.float64)  # None is NaN
            left = np.arange(len(metrics)) + (place - (len(methods) - 1) / 2) * width
            style = {"color": BARS[place % len(BARS)], "edgecolor": "black", "linewidth": 0.4}
            bars = axes.bar(left, heights, width * 0.94, label=_title(method), **style)
            axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)  # nothing for NaN
        axes.set_title(_title(setup), fontsize=11)
        axes.set_xticks(range(len(metrics)), [METRIC_NAMES[metric] for metric in metrics])
        axes.set_ylabel("score x 100")
        axes.margins(x=0.02, y=0.2)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    _legend(figure)
    return _save(figure, path)


def plot_cosines(path: str | Path, panels: Mapping[str, tuple[Tensor, Tensor]]) -> Path:
    """Histograms, a panel each, of the cosines of pairs and of each audio with the text of another clip.

    Shapes and errors as in `plot_clouds`. Retrieval depends on how little the two histograms overlap.
    """
    clouds = _unit_pairs(panels)
    figure, grid = _panels(len(clouds), 4.4, 3.8, sharex=True)
    for axes, (title, (audio, text)) in zip(grid, clouds.items(), strict=True):
        shift = max(1, len(audio) // 2)  # not 1, as neighbouring rows may be similar
        for other, color, hatch, label in ((text, TEXT, "", "pairs"), (text.roll(shift, 0), AUDIO, "///", "not pairs")):
            cosine = (audio * other).sum(-1)
            style: dict[str, Any] = {"color": color, "alpha": 0.5, "hatch": hatch, "edgecolor": color, "density": True}
            axes.hist(cosine.tolist(), bins=40, label=label, histtype="stepfilled", **style)
            axes.axvline(cosine.mean().item(), color=color, linewidth=1.4, linestyle="--")
        axes.set_title(_title(title), fontsize=11)
        axes.set_xlabel("cosine of audio and text")
        axes.set_yticks([])
    grid[0].set_ylabel("density")
    _legend(figure)
    figure.suptitle("Cosines of pairs and of others; dashed: the means")
    return _save(figure, path)


def plot_tradeoff(
    path: str | Path, points: Mapping[str, Mapping[str, Mapping[str, float]]], across: str = "rmg", up: str = "r_at_1"
) -> Path:
    """Two metrics against each other, from `points[method][metric]["mean" | "std"]`, a point for each method.

    Raises KeyError on a metric that a method lacks, ImportError without matplotlib.
    """
    figure, (axes,) = _panels(1, 7.0, 5.0)
    for place, (method, metrics) in enumerate(points.items()):
        x, y = metrics[across], metrics[up]
        style: dict[str, Any] = {"color": BARS[place % len(BARS)], "marker": "os^Dvp"[place % 6], "markersize": 8}
        axes.errorbar(x["mean"], y["mean"], xerr=x["std"], yerr=y["std"], capsize=2, linewidth=0.8, **style)
        axes.annotate(_title(method), (x["mean"], y["mean"]), (6, 5), textcoords="offset points", fontsize=9)
    axes.set_xlabel(f"{_title(across)} (mean and standard deviation over folds)")
    axes.set_ylabel(_title(up))
    axes.margins(0.12)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    return _save(figure, path)


def plot_depth(
    path: str | Path, panels: Mapping[str, Mapping[str, Mapping[int, float]]], cosines: Mapping[int, float], best: int
) -> Path:
    """Curves `panels[metric][curve][timestep]` against depth, a panel for each metric; the timestep `best` is marked.

    `cosines[timestep]` is the cosine of an embedding with itself after the noise of that timestep, a second axis label.
    """
    figure, grid = _panels(len(panels), 4.4, 3.6)
    shown = sorted(cosines)[:: max(1, len(cosines) // 6)]
    places = {label: place for place, label in enumerate(dict.fromkeys(chain(*panels.values())))}
    for axes, (metric, curves) in zip(grid, panels.items(), strict=True):
        for label, curve in curves.items():
            place = places[label]
            style: dict[str, Any] = {"color": BARS[(place + 6) % len(BARS)], "marker": "os^Dvp"[place % 6]}
            axes.plot([*curve], [*curve.values()], label=label, markersize=4, linewidth=1.2, **style)
        axes.axvline(best, color=LINE, linewidth=1, linestyle="--")
        axes.set_xticks(shown, [f"{timestep}\n{cosines[timestep]:.2f}" for timestep in shown], fontsize=8)
        axes.set_title(_title(metric), fontsize=11)
        axes.set_xlabel("depth: timestep, and cosine with the clean embedding")
        axes.grid(color="#dddddd", linewidth=0.6)
    _legend(figure)
    return _save(figure, path)


def plot_comparison(path: str | Path, ours: Sequence[Measured], metric: str = "cider_d") -> Path:
    """Bars of one metric (x 100) of our rows, filled, and of the published ones, hatched.

    A row without the metric is left out. Raises ValueError where none of ours has it, ImportError without matplotlib.
    """
    if all(row.scores.get(metric) is None for row in ours):
        raise ValueError(f"none of the {len(ours)} rows that were measured here has {metric}: nothing to compare")
    rows = [(row, score) for row in in_order(ours) if (score := row.scores.get(metric)) is not None]
    figure, (axes,) = _panels(1, 8.0, 0.38 * len(rows) + 1.4)
    names = []
    for place, (row, score) in enumerate(rows):
        if isinstance(row, Measured):
            origin, style = f"measured on {row.clips} clips", {"color": AUDIO, "label": "measured here"}
        else:
            origin, style = "published", {"facecolor": "white", "edgecolor": LINE, "hatch": "///"}
            style["label"] = "published, not measured here"
        names.append(f"{row.system} ({row.setup}), {origin}")
        bar = axes.barh(place, score, height=0.7, **style)
        axes.bar_label(bar, fmt="%.1f", fontsize=8, padding=3)
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.set_xlabel(f"{METRIC_NAMES[metric]} x 100 on AudioCaps test")
    axes.margins(x=0.1)
    _legend(figure)
    return _save(figure, path)


def _principal_plane(rows: Tensor) -> tuple[Callable[[Tensor], Tensor], list[float]]:
    """The projection on the first two principal components of (n, dim), and the fraction of variance of each."""
    mean = rows.mean(0)
    variances, axes = torch.linalg.eigh((rows - mean).T @ (rows - mean))  # the largest last
    return lambda x: (x - mean) @ axes[:, [-1, -2]], (variances[[-1, -2]] / variances.sum()).tolist()


def _unit_pairs(panels: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    if not panels:
        raise ValueError("there must be at least one panel, such as {'raw': (audio, text)}")
    unit = {}
    for title, (audio, text) in panels.items():
        if audio.ndim != 2 or audio.shape != text.shape or len(audio) < 2 or audio.shape[1] < 2:
            raise ValueError(f"{title!r}: audio and text must both be (n, dim), got {[*audio.shape]}, {[*text.shape]}")
        pair = torch.stack([audio.detach().cpu().double(), text.detach().cpu().double()])
        pair /= pair.norm(dim=-1, keepdim=True)
        if not pair.isfinite().all():
            raise ValueError(f"{title!r}: an embedding is zero, NaN or Inf")
        unit[title] = pair[0], pair[1]
    return unit


def _title(name: str) -> str:
    return name.replace("_", " ")


def _figure(width: float, height: float) -> "Figure":
    return import_extra("matplotlib.figure", "plot").Figure(figsize=(width, height), layout="constrained")


def _panels(count: int, width: float, height: float, **shared: Any) -> "tuple[Figure, list[Any]]":
    """A figure with `count` axes of a size in inches, `COLUMNS` a row."""
    columns = min(count, COLUMNS)
    rows = -(-count // columns)
    figure = _figure(width * columns, height * rows)
    grid = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
    for axes in grid[count:]:
        axes.remove()
    return figure, list(grid[:count])


def _legend(figure: "Figure", **style: Any) -> None:
    """One legend below all axes, with each label once."""
    pairs = (pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True))
    handles = {label: handle for handle, label in pairs}
    columns = min(len(handles), 5)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False, **style)


def _save(figure: "Figure", path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomically(path, picture.getvalue())
    return path
