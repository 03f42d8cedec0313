"""Figures: real PNGs of what was given, nothing left behind, no global state touched."""

import subprocess
import sys
from pathlib import Path

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
    save = plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: (figures.append(figure), save(figure, path))[1])
    return figures


def assert_is_picture(path: Path) -> None:
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 300 and pixels[..., :3].std() > 0.02
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_clouds(tmp_path, panels, drawn):
    assert_is_picture(plot_clouds(tmp_path / "new" / "clouds.png", panels, pairs=5))
    first, second = drawn[0].axes
    assert first.get_xlim() == second.get_xlim() and len(first.lines) == 5
    assert "raw" in first.get_title() and "shifted" in second.get_title()
    audio, text = (first.collections[i].get_offsets() for i in (0, 2))
    assert len(audio) == len(text) == 80
    # In the raw frame the gap is the first component: it parts the clouds.
    gap = audio[:, 0].mean() - text[:, 0].mean()
    assert abs(gap) > audio[:, 0].std() + text[:, 0].std()


def test_lines_join_true_pairs(tmp_path, panels, drawn):
    plot_clouds(tmp_path / "clouds.png", panels, pairs=3)
    axes = drawn[0].axes[0]
    audio, text = (axes.collections[i].get_offsets() for i in (0, 2))
    for row, line in enumerate(axes.lines):
        assert line.get_xydata() == pytest.approx(torch.tensor([audio[row].tolist(), text[row].tolist()]).numpy())


def test_caption_scores(tmp_path, drawn):
    assert_is_picture(plot_caption_scores(tmp_path / "scores.png", SCORES))
    zero_shot, supervised = drawn[0].axes
    assert (zero_shot.get_title(), supervised.get_title()) == ("zero shot", "supervised")
    assert [tick.get_text() for tick in zero_shot.get_xticklabels()] == ["BLEU-4", "METEOR", "CIDEr-D"]
    values = [text.get_text() for text in zero_shot.texts]
    assert values == ["10.1", "", "64.2", "15.0", "20.0", "110.0", "20.0", "30.0", "170.0"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["raw", "mean shift", "bridge"]


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
