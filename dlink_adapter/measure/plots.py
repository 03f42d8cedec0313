"""Figures: embedding clouds, histograms of cosines, caption scores, published scores, trade-offs, curves against depth.

A function draws one Figure without pyplot, global state or a display, and writes it as a PNG file that is never
half-written. The colours are those of Okabe and Ito, which are distinct for colour-blind readers; audio and text have
different markers.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dlink_adapter.extras import import_extra
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.gap_plane import gap_plane, unit_pairs
from dlink_adapter.measure.published import Measured, in_order
from dlink_adapter.measure.significance import LEVEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Scores = Mapping[str, Mapping[str, Mapping[str, float | None]]]
Intervals = Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]

AUDIO, TEXT, LINE = "#D55E00", "#0072B2", "#777777"
MODALITIES = (("audio", AUDIO, "o"), ("text", TEXT, "^"))
BARS = ("#999999", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
METRIC_NAMES = {f"bleu_{n}": f"BLEU-{n}" for n in (1, 2, 3, 4)} | dict(
    rouge_l="ROUGE-L", meteor="METEOR", cider_d="CIDEr-D", spice="SPICE", spider="SPIDEr", fense="FENSE",
    spider_fl="SPIDEr-FL", fer="FER",
)  # fmt: skip
FAMILIES = (
    tuple(METRIC_NAMES)[:4],
    ("rouge_l", "meteor"),
    ("cider_d",),
    ("spice", "spider", "spider_fl"),
    ("fense", "fer"),
)
POINTS = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"))  # of the metrics of a family
MAX_POINTS = 2000  # of each modality in a panel: more would only overlap
COLUMNS = 4  # of panels in a figure


def plot_clouds(path: str | Path, panels: Mapping[str, tuple[Tensor, Tensor]], *, pairs: int = 12) -> Path:
    """Scatter plots of unit-norm audio and text, a panel each, with their centroids and lines between a few pairs.

    `panels` maps a title to (audio, text), each (n, dim), row i of one the pair of row i of the other. The first panel,
    which should be the raw embeddings, gives the axes of all: the line between its centroids, which shows the modality
    gap, and the first principal component of the rest, which shows content. Where its centroids coincide, the axes are
    the first two principal components. Raises ValueError on shapes that do not match, ImportError without matplotlib.
    """
    clouds = unit_pairs(panels)
    figure, grid = _panels(len(clouds), 4.4, 4.8, sharex=True, sharey=True)
    project, across, up = gap_plane(clouds)
    for axes, (title, (audio, text)) in zip(grid, clouds.items(), strict=True):
        shown = torch.randperm(len(audio), generator=torch.Generator().manual_seed(0))[:MAX_POINTS]
        points = project(audio[shown]), project(text[shown])
        for one, other in zip(*(cloud[:pairs].tolist() for cloud in points), strict=True):
            axes.plot(*zip(one, other, strict=True), color=LINE, linewidth=0.8, zorder=3)
        centroids = audio.mean(0), text.mean(0)
        for cloud, centroid, (label, color, marker) in zip(points, centroids, MODALITIES, strict=True):
            style: dict[str, Any] = {"color": color, "marker": marker, "linewidths": 0}
            axes.scatter(*cloud.T.tolist(), s=16, alpha=0.45, **style)
            axes.scatter(*cloud[:pairs].T.tolist(), s=26, zorder=4, label=label, **style)
            style |= {"linewidths": 1.6, "edgecolors": "black", "label": f"centroid of {label}"}
            axes.scatter(*project(centroid).tolist(), s=150, zorder=5, **style)
        distance, cosine = (centroids[0] - centroids[1]).norm(), (audio * text).sum(-1).mean()
        axes.set_title(f"{_title(title)}\ncentroids {distance:.2f} apart, mean paired cosine {cosine:.2f}", fontsize=11)
        axes.set_xlabel(across)
    for axes in grid[::COLUMNS]:
        axes.set_ylabel(up)
    _legend(figure)
    figure.suptitle(f"Audio and text embeddings, {min(pairs, len(shown))} pairs joined")
    return save_figure(figure, path)


def plot_caption_scores(path: str | Path, scores: Scores, intervals: Intervals | None = None) -> Path:
    """`scores[setup][method][metric]` (x 100): a row of panels for each setup, a column for each of `FAMILIES`.

    `intervals[setup][method][metric]` are the (low, high) ends of 95 % intervals, such as `significance.interval`
    gives, drawn as lines; any may be missing. A metric that is None everywhere is left out; a single None has no
    point. Raises ValueError where no metric is left or an interval has no score, ImportError without matplotlib.
    """
    values = [by_metric for by_method in scores.values() for by_metric in by_method.values()]
    drawn = [[name for name in family if any(of.get(name) is not None for of in values)] for family in FAMILIES]
    families = [family for family in drawn if family]
    if not families:
        raise ValueError(f"no caption score to draw: scores[setup][method] has none of {', '.join(METRIC_NAMES)}")
    _check_intervals(scores, intervals or {})
    methods = list(dict.fromkeys(name for by_method in scores.values() for name in by_method))
    figure = _figure(9.0, len(scores) * max(1.2, 0.34 * len(methods)) + 1.4)
    grid = figure.subplots(len(scores), len(families), squeeze=False, sharex="col", sharey=True)
    for row, (setup, by_method) in zip(grid, scores.items(), strict=True):
        ends = (intervals or {}).get(setup, {})
        for axes, family in zip(row, families, strict=True):
            _draw_family(axes, family, [(by_method.get(name, {}), ends.get(name, {})) for name in methods])
        row[0].set_ylabel(_title(setup), fontsize=12, fontweight="bold")
    for axes, family in zip(grid[0], families, strict=True):
        style: dict[str, Any] = {"handlelength": 1, "handletextpad": 0.3, "columnspacing": 0.6, "frameon": False}
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=-(-len(family) // 2), borderpad=0, **style)
        left, right = axes.get_xlim()
        if len(family) <= 2:  # there are values on the right of the points
            axes.set_xlim(left, right + (right - left) * 0.09 * len(families))
    grid[0, 0].set_yticks(range(len(methods)), [_title(name) for name in methods])
    grid[0, 0].set_ylim(len(methods) - 0.5, -0.5)  # the first method on top
    figure.supxlabel("score x 100" + f"; lines: {100 * LEVEL:g} % intervals" * bool(intervals), fontsize=11)
    return save_figure(figure, path)


def _draw_family(axes: Any, family: Sequence[str], rows: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Points and intervals of a few metrics, from the (scores, intervals) of each method."""
    for place in range(0, len(rows), 2):
        axes.axhspan(place - 0.5, place + 0.5, color="#f2f2f2", zorder=0)
    for place, metric in enumerate(family):
        height = np.arange(len(rows)) + (place - (len(family) - 1) / 2) * 0.72 / len(family)
        color, marker = POINTS[place]
        found = 100 * np.array([scores.get(metric) for scores, _ in rows], dtype=np.float64)  # None is NaN
        low, high = 100 * np.array([ends.get(metric, (np.nan, np.nan)) for _, ends in rows]).T
        axes.hlines(height, low, high, color=color, linewidth=1.5, zorder=2)  # above the grid
        axes.plot(found, height, marker, color=color, markersize=5, label=METRIC_NAMES[metric])
        if len(family) <= 2:  # there is room for values
            for value, x, y in zip(found, np.fmax(found, high), height, strict=True):
                if np.isfinite(value):
                    axes.annotate(f"{value:.1f}", (x, y), (5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)


def plot_cosines(path: str | Path, panels: Mapping[str, tuple[Tensor, Tensor]]) -> Path:
    """Histograms, a panel each, of the cosines of pairs and of each audio with the text of another clip.

    Shapes and errors as in `plot_clouds`. Retrieval depends on how little the two histograms overlap.
    """
    clouds = unit_pairs(panels)
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
    return save_figure(figure, path)


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
    return save_figure(figure, path)


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
    return save_figure(figure, path)


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
    return save_figure(figure, path)


def _check_intervals(scores: Scores, intervals: Intervals) -> None:
    names = ((setup, method, name) for setup, of in intervals.items() for method, ends in of.items() for name in ends)
    for setup, method, name in names:
        if scores.get(setup, {}).get(method, {}).get(name) is None:
            raise ValueError(f"{setup!r}, {method!r}: there is an interval of {name!r} but no score")


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


def _legend(figure: "Figure") -> None:
    """One legend below all axes, with each label once."""
    pairs = (pair for axes in figure.axes for pair in zip(*axes.get_legend_handles_labels(), strict=True))
    handles = {label: handle for handle, label in pairs}
    columns = min(len(handles), 5)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False)


def save_figure(figure: "Figure", path: str | Path) -> Path:
    """Write a figure as PNG."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_atomically(path, picture.getvalue())
    return path
