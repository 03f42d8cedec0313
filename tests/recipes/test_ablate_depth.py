"""The depth study at toy size: its grid, its optimum, its captions."""

import json

import pytest

from dlink_adapter import load_bridge
from dlink_adapter.cli import main as dlink
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.schedules import alpha_bars
from dlink_adapter.recipes import ablate_depth, depth_points
from dlink_adapter.recipes.captioner_settings import CaptionerSteps


@pytest.fixture
def folder(tmp_path, pairs):
    audio, text = (rows[:60, :16] for rows in pairs)
    PairedEmbeddings.write(tmp_path / "pairs", audio, text, [[f"a sound {i}"] for i in range(60)])
    return tmp_path / "pairs"


def test_the_packaged_config_at_toy_size(folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["ablate-depth", "--config", "ablate_depth.yaml", "--pairs", str(folder), "--out", str(out)]
    command += ["--timesteps", "[0, 300, 1000]", "--steps", "[1, 4]", "--bridge_steps", "2"]
    command += ["--baselines", "[raw, kernel_ridge]"]
    assert dlink(command) == 0
    found = json.loads((out / "depth.json").read_text())
    grid = [(point["method"], point["samples"], point["steps"], point["timestep"]) for point in found["points"]]
    plain = [(row, None, None, None) for row in ("raw", "raw, matched", "kernel_ridge", "kernel_ridge, matched")]
    expected = [("diffusion_link", 1, 1, timestep) for timestep in (0, 300, 1000)]
    expected += [("diffusion_link", 4, 1, timestep) for timestep in (0, 300, 1000)]
    expected += [("diffusion_link", 1, 4, timestep) for timestep in (0, 300, 1000)]
    runs = [(name, samples) for name in ("no_topology", "no_text_branch") for samples in (1, 4)]
    expected += [(*run, 1, timestep) for run in runs for timestep in (0, 300, 1000)]
    assert grid == plain + expected
    levels = alpha_bars("cosine", 1000)
    assert all(set(ablate_depth.METRICS) <= set(point) for point in found["points"])
    for point in found["points"][len(plain) :]:
        assert point["cosine"] == pytest.approx(levels[point["timestep"]] ** 0.5)
        if (point["method"], point["timestep"]) == ("no_topology", 1000):  # nothing but noise: all clips are the same
            assert point["r_at_1"] == pytest.approx(1 / 12)
    full = [point for point in found["points"] if point["method"] == "diffusion_link"]
    assert found["best"]["rmg"]["rmg"] == min(point["rmg"] for point in full)
    assert found["best"]["r_at_1"]["r_at_1"] == max(point["r_at_1"] for point in full)
    for picture in ("depth.png", "steps.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"rmg{found['best']['rmg']['rmg']:>23.3f} at timestep {found['best']['rmg']['timestep']}," in printed
    assert dlink(command) == 0
    assert capsys.readouterr().err.count("done before") == 5


def test_captions_at_every_depth(demo_folder, tmp_path, monkeypatch, capsys):
    for module in (ablate_depth, depth_points):
        monkeypatch.setattr(module, "CAPTION_METRICS", ("rouge_l", "cider_d"))
    embeddings, out = demo_folder / "embeddings", tmp_path / "out"
    options = {
        **{"pairs": embeddings / "pairs", "test": embeddings / "test", "llm": str(demo_folder / "llama")},
        **{"text_embeddings": embeddings / "text.safetensors", "captions": embeddings / "text.txt"},
        **{"steps": [1], "bridge_steps": 1, "baselines": [], "captioner_steps": CaptionerSteps(2, 2, 0)},
    }
    ablate_depth.main(**options, out=out, timesteps=[0, 500])
    found = json.loads((out / "depth.json").read_text())
    captioned = [point for point in found["points"] if point["method"] == "captioner"]
    assert [point["timestep"] for point in captioned] == [0, 500]
    assert found["best"]["rouge_l"]["rouge_l"] == max(point["rouge_l"] for point in captioned)
    assert [load_bridge(out / "bridges" / f"timestep-{timestep}").timestep for timestep in (0, 500)] == [0, 500]
    with pytest.raises(ValueError, match="give all of --llm, --text_embeddings and --captions"):
        ablate_depth.main(**{**options, "captions": None}, out=tmp_path / "other")
