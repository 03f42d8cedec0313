"""The depth study at toy size: its grid, its optimum, its captions."""

import json

import pytest

from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.cli import main as dlink
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.schedules import alpha_bars
from dlink_adapter.integrations.causal_lm import new_captioner
from dlink_adapter.recipes import ablate_depth


@pytest.fixture
def folder(tmp_path, pairs):
    audio, text = (rows[:60, :16] for rows in pairs)
    PairedEmbeddings.write(tmp_path / "pairs", audio, text, [[f"a sound {i}"] for i in range(60)])
    return tmp_path / "pairs"


def test_the_packaged_config_at_toy_size(folder, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["ablate-depth", "--config", "ablate_depth.yaml", "--pairs", str(folder), "--out", str(out)]
    command += ["--depths", "[0, 300, 1000]", "--steps", "[1, 4]", "--bridge_steps", "2"]
    assert dlink(command) == 0
    found = json.loads((out / "depth.json").read_text())
    grid = [(point["variant"], point["samples"], point["steps"], point["depth"]) for point in found["points"]]
    runs = [("bridge", 1, 1), ("bridge", 16, 1), ("bridge", 1, 4)]
    runs += [(name, samples, 1) for name in ("no_topology", "no_text_branch", "no_kernel") for samples in (1, 16)]
    assert grid == [(*run, depth) for run in runs for depth in (0, 300, 1000)]
    levels = alpha_bars("cosine", 1000)
    for point in found["points"]:
        assert point["cosine"] == pytest.approx(levels[point["depth"]] ** 0.5)
        assert set(ablate_depth.METRICS) <= set(point)
        if (point["variant"], point["depth"]) == ("no_kernel", 1000):  # nothing but noise: every clip gives the same
            assert point["r_at_1"] == pytest.approx(1 / 12)
    full = [point for point in found["points"] if point["variant"] == "bridge"]
    assert found["best"]["rmg"]["rmg"] == min(point["rmg"] for point in full)
    assert found["best"]["r_at_1"]["r_at_1"] == max(point["r_at_1"] for point in full)
    for picture in ("depth.png", "steps.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"rmg{found['best']['rmg']['rmg']:>23.3f} at timestep {found['best']['rmg']['depth']}," in printed
    assert dlink(command) == 0
    assert capsys.readouterr().err.count("done before") == 4


def test_captions_at_every_depth(folder, tmp_path, llama, make_link, monkeypatch):
    monkeypatch.setattr(ablate_depth, "CAPTION_METRICS", ("rouge_l", "cider_d"))
    config = CaptionerConfig(str(llama), prefix_tokens=2, hidden=16, tuning="frozen", max_caption_tokens=8)
    new_captioner(make_link(), config).save_pretrained(tmp_path / "captioner")
    options = {"pairs": folder, "captioner": tmp_path / "captioner", "steps": [1], "bridge_steps": 1}
    ablate_depth.main(**options, out=tmp_path / "out", depths=[0, 500])
    found = json.loads((tmp_path / "out" / "depth.json").read_text())
    captioned = [point for point in found["points"] if point["variant"] == "captioner"]
    assert [point["depth"] for point in captioned] == [0, 500]
    assert found["best"]["rouge_l"]["rouge_l"] == max(point["rouge_l"] for point in captioned)


def test_a_captioner_whose_bridge_has_no_depth(folder, tmp_path, llama):
    config = CaptionerConfig(str(llama), prefix_tokens=2, hidden=16, tuning="frozen")
    new_captioner(Raw(Raw.config_class(16)), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has a 'raw' bridge, which has no depth"):
        ablate_depth._caption(tmp_path, PairedEmbeddings.open(folder), [0])
