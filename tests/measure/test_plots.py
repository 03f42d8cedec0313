"""Figures: real PNGs of what was given, nothing left behind, no global state touched."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from torch import Tensor

from dlink_adapter.measure import plots
from dlink_adapter.measure.plots import (
    plot_caption_scores,
    plot_clouds,
    plot_comparison,
    plot_cosines,
    plot_depth,
    plot_tradeoff,
)
from dlink_adapter.measure.published import PUBLISHED, Measured

SCORES = {
    "zero_shot": {
        "raw": {"bleu_4": 0.101, "cider_d": 0.6417, "meteor": None, "spice": None},
        "mean_shift": {"bleu_4": 0.15, "cider_d": 1.1, "meteor": 0.2},
        "bridge": {"bleu_4": 0.2, "cider_d": 1.7, "meteor": 0.3, "spice": None},
    },
    "supervised": {"raw": {"bleu_4": 0.3, "cider_d": 1.9, "meteor": 0.3}},
}


@pytest.fixture
def panels() -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(80, 16, generator=generator)
    audio = text + 0.5 * torch.randn(80, 16, generator=generator) + 2
    return {"raw": (audio, text), "shifted": ((audio - 2).bfloat16(), text.bfloat16())}


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures as they are saved, to look at what is in them."""
    figures = []
    save = plots.save_figure
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: (figures.append(figure), save(figure, path))[1])
    return figures


def assert_is_picture(path: Path) -> None:
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 300 and pixels[..., :3].std() > 0.02
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def offsets(axes, index: int) -> np.ndarray:
    """The points (n, 2) of a scatter: audio, its joined pairs and its centroid, then the same of text."""
    return np.asarray(axes.collections[index].get_offsets())


def test_clouds(tmp_path, panels, drawn):
    assert_is_picture(plot_clouds(tmp_path / "new" / "clouds.png", panels, pairs=5))
    first, second = drawn[0].axes
    assert first.get_xlim() == second.get_xlim() and len(first.lines) == 5
    assert len(offsets(first, 0)) == len(offsets(first, 3)) == 80
    labels = ["audio", "centroid of audio", "text", "centroid of text"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == labels
    assert first.get_xlabel() == second.get_xlabel() == 'along the line between the centroids of "raw"'


def test_first_axis_of_clouds_is_the_line_between_the_first_centroids(tmp_path, panels, drawn):
    plot_clouds(tmp_path / "clouds.png", panels)
    unit = {title: [x.double() / x.double().norm(dim=-1, keepdim=True) for x in pair] for title, pair in panels.items()}
    gap = unit["raw"][1].mean(0) - unit["raw"][0].mean(0)
    for axes, (title, (audio, text)) in zip(drawn[0].axes, unit.items(), strict=True):
        apart = text.mean(0) - audio.mean(0)
        facts = f"centroids {apart.norm():.2f} apart, mean paired cosine {(audio * text).sum(-1).mean():.2f}"
        assert axes.get_title() == f"{title}\n{facts}"
        from_audio, from_text = (offsets(axes, i).mean(0) for i in (0, 3))
        assert offsets(axes, 2)[0] == pytest.approx(from_audio) and offsets(axes, 5)[0] == pytest.approx(from_text)
        assert (from_text - from_audio)[0] == pytest.approx((apart @ gap / gap.norm()).item())
    first = drawn[0].axes[0]  # where that is the whole distance, with 0 halfway
    assert offsets(first, 2)[0] == pytest.approx([-gap.norm().item() / 2, 0])
    assert offsets(first, 5)[0] == pytest.approx([gap.norm().item() / 2, 0])


def test_second_axis_of_clouds_is_the_main_component_of_content(tmp_path, drawn):
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(200, 1, generator=generator) * torch.eye(16)[3]
    text = content + 0.2 * torch.randn(200, 16, generator=generator) + 4 * torch.eye(16)[0]
    audio = content + 0.2 * torch.randn(200, 16, generator=generator) - 4 * torch.eye(16)[0]
    plot_clouds(tmp_path / "clouds.png", {"raw": (audio, text)})
    (axes,) = drawn[0].axes
    for i, rows in ((0, audio), (3, text)):
        order = torch.randperm(200, generator=torch.Generator().manual_seed(0))  # that of the figure
        height = torch.from_numpy(offsets(axes, i)[:, 1]).float()
        along = (rows / rows.norm(dim=-1, keepdim=True))[order, 3]
        assert abs(torch.corrcoef(torch.stack([height, along]))[0, 1]) > 0.99
    centred = torch.cat([x - x.mean(0) for x in (x / x.norm(dim=-1, keepdim=True) for x in (audio, text))])[:, 1:]
    part = torch.linalg.svdvals(centred - centred.mean(0)).square()
    assert axes.get_ylabel() == f"first principal component of the rest ({part[0] / part.sum():.0%} of its variance)"


def test_centroids_that_coincide_leave_the_principal_components(tmp_path, panels, drawn):
    text = panels["raw"][1]
    plot_clouds(tmp_path / "clouds.png", {"two_orders": (text.roll(1, 0), text)})
    (axes,) = drawn[0].axes
    unit = (text / text.norm(dim=-1, keepdim=True)).double()
    variance = torch.linalg.svdvals(unit - unit.mean(0)).square()
    first, why = axes.get_xlabel().split("\n")
    assert first == f"first principal component ({variance[0] / variance.sum():.0%} of the variance):"
    assert why == 'the centroids of "two orders" coincide'
    across, up = torch.from_numpy(offsets(axes, 3)).T
    assert across.square().sum() == pytest.approx(variance[0].item(), rel=1e-5)
    assert up.square().sum() == pytest.approx(variance[1].item(), rel=1e-5)


def test_lines_join_true_pairs(tmp_path, panels, drawn):
    plot_clouds(tmp_path / "clouds.png", panels, pairs=3)
    axes = drawn[0].axes[0]
    audio, text = offsets(axes, 0), offsets(axes, 3)
    for row, line in enumerate(axes.lines):
        assert line.get_xydata() == pytest.approx(torch.tensor([audio[row].tolist(), text[row].tolist()]).numpy())


def test_caption_scores(tmp_path, drawn):
    assert_is_picture(plot_caption_scores(tmp_path / "scores.png", SCORES))
    figure = drawn[0]
    assert figure.get_size_inches()[0] == 9  # text of 10 points can be read where it is shown 850 pixels wide
    zero_shot, supervised = figure.axes[:3], figure.axes[3:]
    for row, setup in ((zero_shot, "zero shot"), (supervised, "supervised")):
        assert row[0].get_ylabel() == setup and len(row) == 3
        assert [tick.get_text() for tick in row[0].get_yticklabels()] == ["raw", "mean shift", "bridge"]
    assert [shown_metrics(axes) for axes in zero_shot] == [["BLEU-4"], ["METEOR"], ["CIDEr-D"]]
    values = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert values == [
        ["10.1", "15.0", "20.0"],
        ["20.0", "30.0"],
        ["64.2", "110.0", "170.0"],
        ["30.0"],
        ["30.0"],
        ["190.0"],
    ]
    points = zero_shot[2].lines[0]
    assert list(points.get_xdata()) == pytest.approx([64.17, 110, 170]) and list(points.get_ydata()) == [0, 1, 2]
    assert zero_shot[0].get_ylim() == (2.5, -0.5)  # the first method on top
    assert figure.get_supxlabel() == "score x 100"


def shown_metrics(axes) -> list[str]:
    """The labels of the points of a panel."""
    return [line.get_label() for line in axes.lines]


def test_a_family_of_metrics_has_one_panel(tmp_path, drawn):
    every = {name: 0.1 + 0.01 * place for place, name in enumerate(plots.METRIC_NAMES)}
    plot_caption_scores(tmp_path / "scores.png", {"zero_shot": {"raw": every}})
    bleu = [f"BLEU-{n}" for n in (1, 2, 3, 4)]
    families = [bleu, ["ROUGE-L", "METEOR"], ["CIDEr-D"], ["SPICE", "SPIDEr", "SPIDEr-FL"], ["FENSE", "FER"]]
    assert [shown_metrics(axes) for axes in drawn[0].axes] == families
    for axes, family in zip(drawn[0].axes, families, strict=True):
        assert [text.get_text() for text in axes.get_legend().get_texts()] == family
        assert len({float(line.get_ydata()[0]) for line in axes.lines}) == len(family)  # none hides another


def test_intervals_of_caption_scores(tmp_path, drawn):
    intervals = {
        "zero_shot": {"raw": {"cider_d": (0.6, 0.7)}, "bridge": {"cider_d": [1.5, 1.75], "meteor": (0.2, 0.4)}}
    }
    assert_is_picture(plot_caption_scores(tmp_path / "scores.png", SCORES, intervals))
    meteor, cider = drawn[0].axes[1:3]
    for axes, expected in ((meteor, {2: (20, 40)}), (cider, {0: (60, 70), 2: (150, 175)})):
        lines = [line for line in axes.collections[0].get_segments() if len(line)]
        assert lines == [pytest.approx(np.array([(low, y), (high, y)])) for y, (low, high) in expected.items()]
        low, high = axes.get_xlim()
        assert all(low < end < high for ends in expected.values() for end in ends)
    assert {text.xy[1]: text.xy[0] for text in cider.texts} == pytest.approx({0: 70, 1: 110, 2: 175})  # beside the end
    assert drawn[0].get_supxlabel() == "score x 100; lines: 95 % intervals"


def test_an_interval_without_a_score_raises(tmp_path):
    unknown = ("zero-shot", "raw", "bleu_4"), ("supervised", "x", "bleu_4"), ("zero_shot", "raw", "meteor")
    for setup, method, metric in unknown:
        with pytest.raises(ValueError, match=f"'{setup}', '{method}': there is an interval of '{metric}' but no score"):
            plot_caption_scores(tmp_path / "x.png", SCORES, {setup: {method: {metric: (0.1, 0.2)}}})
    assert list(tmp_path.iterdir()) == []


def test_comparison(tmp_path, drawn):
    ours = [
        Measured("bridge", "zero-shot", {"cider_d": 0.7, "spider": None}, clips=957),
        Measured("raw", "supervised", {"cider_d": None}, clips=957),
    ]
    assert_is_picture(plot_comparison(tmp_path / "comparison.png", ours))
    (axes,) = drawn[0].axes
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    for label, bar in zip(labels, axes.patches, strict=True):
        measured = label == "bridge (zero-shot), measured on 957 clips"
        assert measured != label.endswith("published") and bool(bar.get_hatch()) != measured
    assert len(labels) == len(PUBLISHED) + 1 and "70.0" in [text.get_text() for text in axes.texts]
    with pytest.raises(ValueError, match="none of the 2 rows that were measured here has spider"):
        plot_comparison(tmp_path / "x.png", ours, "spider")


def test_cosines(tmp_path, panels, drawn):
    assert_is_picture(plot_cosines(tmp_path / "cosines.png", panels))
    audio, text = (x / x.norm(dim=-1, keepdim=True) for x in panels["raw"])
    paired, others = (line.get_xdata()[0] for line in drawn[0].axes[0].lines)
    assert paired == pytest.approx((audio * text).sum(-1).mean().item(), abs=1e-6)
    assert others < paired


def test_many_panels_take_several_rows(tmp_path, panels, drawn):
    many = {f"method_{place}": panels["raw"] for place in range(6)}
    assert_is_picture(plot_cosines(tmp_path / "cosines.png", many))
    assert [axes.get_title() for axes in drawn[0].axes] == [f"method {place}" for place in range(6)]
    assert drawn[0].axes[4].get_position().y1 < drawn[0].axes[0].get_position().y0


def test_tradeoff(tmp_path, drawn):
    points = {
        "mean_shift": {"rmg": {"mean": 0.3, "std": 0.01}, "r_at_1": {"mean": 0.88, "std": 0.02}},
        "ridge": {"rmg": {"mean": 0.2, "std": 0.01}, "r_at_1": {"mean": 0.86, "std": 0.02}},
    }
    assert_is_picture(plot_tradeoff(tmp_path / "tradeoff.png", points))
    axes = drawn[0].axes[0]
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("mean shift", (0.3, 0.88)), ("ridge", (0.2, 0.86))]
    assert (axes.get_xlabel().split(" (")[0], axes.get_ylabel()) == ("rmg", "r at 1")


def test_depth(tmp_path, drawn):
    curves = {"r_at_1": {"1 sample": {0: 0.5, 300: 0.6, 900: 0.1}, "16 samples": {0: 0.5, 300: 0.7, 900: 0.2}}}
    assert_is_picture(plot_depth(tmp_path / "depth.png", curves, {0: 1.0, 300: 0.88, 900: 0.15}, best=300))
    (axes,) = drawn[0].axes
    assert [list(line.get_xdata()) for line in axes.lines] == [[0, 300, 900], [0, 300, 900], [300, 300]]
    assert list(axes.lines[1].get_ydata()) == [0.5, 0.7, 0.2]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0\n1.00", "300\n0.88", "900\n0.15"]


def test_the_same_figure_twice_and_no_random_state(tmp_path, panels):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = plot_clouds(tmp_path / "a.png", panels).read_bytes()
    assert torch.equal(torch.rand(1), expected)
    assert plot_clouds(tmp_path / "b.png", panels).read_bytes() == first


def test_bad_input(tmp_path, panels):
    audio, text = panels["raw"]
    for draw in (plot_clouds, plot_cosines):
        with pytest.raises(ValueError, match=r"'raw': .* got \[80, 16\], \[79, 16\]"):
            draw(tmp_path / "x.png", {"raw": (audio, text[1:])})
        with pytest.raises(ValueError, match="'raw': an embedding is zero, NaN or Inf"):
            draw(tmp_path / "x.png", {"raw": (audio, text.index_fill(0, torch.tensor([3]), 0.0))})
        with pytest.raises(ValueError, match="at least one panel"):
            draw(tmp_path / "x.png", {})
    with pytest.raises(ValueError, match="no caption score to draw"):
        plot_caption_scores(tmp_path / "x.png", {"zero_shot": {"raw": {"spice": None}}})
    assert list(tmp_path.iterdir()) == []


def test_matplotlib_is_only_imported_to_draw_and_pyplot_never():
    code = "import sys, dlink_adapter.measure.plots as p; before = 'matplotlib' in sys.modules; p._figure(1, 1); "
    code += "print(before, 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split() == ["False"] * 2


def test_missing_matplotlib_names_the_extra(monkeypatch, tmp_path, panels):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "dlink-adapter\[plot\]"'):
        plot_clouds(tmp_path / "x.png", panels)
