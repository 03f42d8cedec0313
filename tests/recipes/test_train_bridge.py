"""`dlink train-bridge`: every method, and one loss curve for one process and for two."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from dlink_adapter.cli import main as dlink
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.measure.gap import measure
from dlink_adapter.registry import load_bridge
from dlink_adapter.training.choice import CANDIDATES
from dlink_adapter.training.log import LossLog

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "-m", "dlink_adapter"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pairs):
    """Pairs of width 16, two captions a clip, and the last clips of them to validate on."""
    audio, text = (rows[:, :16] for rows in pairs)
    folder, metadata = tmp_path_factory.mktemp("pairs"), {"fingerprint": "clap-1"}
    for name, clips in (("pairs", range(200)), ("val", range(200, 240))):
        captions = [[f"sound {clip}", f"noise {clip}"] for clip in clips]
        rows = text[clips.start : clips.stop]
        twice = torch.stack([rows, rows + 0.1 * rows.flip(0)], dim=1).flatten(0, 1)
        PairedEmbeddings.write(folder / name, audio[clips.start : clips.stop], twice, captions, metadata=metadata)
    return folder


@pytest.mark.parametrize("method", ["raw", "ridge", "diffusion_link", "regression", "moment_matched"])
@pytest.mark.parametrize("validated", [False, True])
def test_every_kind(folder, tmp_path, method, validated, capsys):
    settings = ["--bridge.blocks", "2"] if method in ("diffusion_link", "regression") else []
    val = ["--val", str(folder / "val")] if validated else []
    out = tmp_path / "out"
    command = ["train-bridge", "--pairs", str(folder / "pairs"), "--out", str(out), "--method", method]
    assert dlink([*command, "--fit.steps", "3", *settings, *val]) == 0
    bridge = load_bridge(out)
    assert bridge.name == method and bridge.dim == 16 and bridge.metadata["fingerprint"] == "clap-1"
    if settings:
        assert bridge.config.blocks == 2
    before, after = bridge.metadata["gap_before_and_after"]["rmg"]
    assert f"{before:>8.4f} before {after:>8.4f} after" in capsys.readouterr().out
    if validated:
        held_out = PairedEmbeddings.open(folder / "val")
        assert after == pytest.approx(measure(bridge(held_out.audio), held_out.text, held_out.clip)["rmg"], abs=1e-4)


def test_auto_keeps_the_best_and_says_why(folder, tmp_path, capsys):
    command = ["train-bridge", "--pairs", str(folder / "pairs"), "--out", str(tmp_path), "--method", "auto"]
    assert dlink([*command, "--bridge.blocks", "2"]) == 1
    assert "auto fits each method with its default settings: leave out blocks" in capsys.readouterr().err
    assert dlink([*command, "--fit.steps", "3"]) == 0
    kept, shown = load_bridge(tmp_path), capsys.readouterr().out
    assert f"\n{kept.name}: " in shown and shown.endswith(f"{tmp_path}\n")
    assert all(f"\n{name} " in shown for name in CANDIDATES)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors", "stages"}


def test_a_finished_folder(folder, tmp_path, capsys):
    """The same settings say that it is finished; others, other pairs of the same number among them, are refused."""
    pairs = PairedEmbeddings.open(folder / "pairs")
    PairedEmbeddings.write(tmp_path / "turned", -pairs.audio, pairs.text, pairs.captions)
    out = tmp_path / "out"
    command = ["train-bridge", "--out", str(out), "--fit.steps", "3", "--bridge.blocks", "1"]
    ours = ["--pairs", str(folder / "pairs")]
    assert dlink([*command, *ours]) == 0
    said, made = capsys.readouterr().out, {path: path.stat().st_mtime_ns for path in out.iterdir()}
    for option, *others in (
        ("fit", *ours, "--fit.lr", "0.1"),
        ("bridge", *ours, "--bridge.blocks", "2"),
        ("method", *ours, "--method", "regression"),
        ("pairs", "--pairs", str(tmp_path / "turned")),
        ("val", *ours, "--val", str(folder / "val")),
    ):
        assert dlink([*command, *others]) == 1
        error = capsys.readouterr().err
        assert f"{out} holds a run with other settings ({option} " in error and "choose another folder" in error
    assert dlink([*command, *ours]) == 0
    again = capsys.readouterr()
    assert again.out == said and "(done before)" in again.err
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == made


def test_a_folder_of_somebody_else_is_refused(folder, tmp_path, capsys):
    (tmp_path / "README.md").write_text("mine")
    command = ["train-bridge", "--pairs", str(folder / "pairs"), "--method", "ridge", "--out"]
    assert dlink([*command, str(tmp_path)]) == 1
    assert "holds README.md, which is not of such a run" in capsys.readouterr().err
    assert dlink([*command, str(tmp_path / "README.md")]) == 1
    assert "README.md is a file: choose another name" in capsys.readouterr().err
    assert (tmp_path / "README.md").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_a_part_goes_on_any_base(folder, tmp_path, capsys):
    command = ["train-bridge", "--pairs", str(folder / "pairs"), "--base", "ridge", "--out", str(tmp_path)]
    assert dlink([*command, "--method", "moment_matched"]) == 0
    assert load_bridge(tmp_path).base.name == "ridge"
    assert dlink([*command, "--method", "memory"]) == 1
    assert "unknown DimConfig key base; known: dim" in capsys.readouterr().err


def test_what_it_does_not_know(folder, tmp_path, capsys):
    command = ["train-bridge", "--pairs", str(folder / "pairs"), "--out", str(tmp_path)]
    assert dlink([*command, "--method", "bridge"]) == 1
    assert "unknown bridge 'bridge'; known: raw, mean_shift" in capsys.readouterr().err
    assert dlink([*command, "--method", "ridge", "--bridge.dropout", "0"]) == 1
    assert "unknown DimConfig key dropout; known: dim" in capsys.readouterr().err
    assert dlink([*command, "--bridge.dim", "8"]) == 1
    assert "the bridge has dim 8, the pairs have dim 16" in capsys.readouterr().err


def test_two_processes_have_the_losses_of_one(folder, tmp_path):
    options = [
        *("train-bridge", "--pairs", folder / "pairs", "--fit.steps", "50", "--fit.batch_size", "32"),
        *("--fit.log_every", "1", "--fit.lr", "0.01", "--bridge.dropout", "0", "--out"),
    ]
    assert dlink([str(part) for part in (*options, tmp_path / "one")]) == 0
    launched = [str(part) for part in (*LAUNCH, *options, tmp_path / "two")]
    run = subprocess.run(launched, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("fitted on") == 1
    one, two = (LossLog(tmp_path / name).read() for name in ("one", "two"))
    assert len(one) == len(two) == 50 and min(line["denoise_audio"] for line in one) < one[0]["denoise_audio"] - 0.02
    for ours, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)
    weights = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)
    assert json.loads((tmp_path / "two" / "config.json").read_text())["metadata"]["fingerprint"] == "clap-1"
