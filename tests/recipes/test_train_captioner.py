"""`dlink train-captioner`: its conditions, its stages, a kill, and one loss curve for one process and for two."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dlink_adapter.captioner.config import CaptionerConfig, read_captioner_config
from dlink_adapter.captioner.training import CaptionRows
from dlink_adapter.cli import main as dlink
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.integrations.causal_lm import load_captioner
from dlink_adapter.recipes import train_captioner
from dlink_adapter.recipes.captioner_settings import CaptionerSettings
from dlink_adapter.training.config import TrainerConfig
from dlink_adapter.training.log import LossLog
from dlink_adapter.training.trainer import _Stream

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "-m", "dlink_adapter"]
TINY = TrainerConfig(steps=6, batch_size=8, lr=5e-3, save_every=2, log_every=1)


@pytest.fixture
def folder(tmp_path, captions, make_link):
    """A bridge, pairs of two captions a clip, and some of the captions with their embeddings alone."""
    draw = torch.Generator().manual_seed(0)
    link, text = make_link(), torch.randn(len(captions), 16, generator=draw)
    link.metadata["fingerprint"] = "clap-1"
    link.save_pretrained(tmp_path / "bridge")
    by_clip = [captions[row : row + 2] for row in range(0, len(captions), 2)]
    audio = text[::2] + torch.randn(len(by_clip), 16, generator=draw)
    pairs = PairedEmbeddings.write(tmp_path / "pairs", audio, text, by_clip, metadata={"fingerprint": "clap-1"})
    pairs.select(range(8)).save(tmp_path / "val")
    np.save(tmp_path / "text.npy", text.numpy())
    (tmp_path / "text.txt").write_text("\n".join(captions) + "\n")
    return tmp_path


@pytest.fixture
def config(llama):
    return CaptionerConfig(str(llama), prefix_tokens=2, hidden=32)


def train(folder, config, out, condition="text", training=TINY, **options):
    given = {"pairs": folder / "pairs", "bridge": folder / "bridge", **options}
    train_captioner.main(out=folder / out, condition=condition, captioner=config, training=training, **given)
    return LossLog(folder / out).read()


def weights(folder):
    return {
        **load_file(folder / "projector.safetensors"),
        **load_file(folder / "adapter" / "adapter_model.safetensors"),
    }


def test_text_then_audio(folder, config, captions, capsys):
    log = train(folder, config, "zero-shot", val=folder / "val")
    assert [line["step"] for line in log if "loss" in line] == [1, 2, 3, 4, 5, 6]
    validated = [line["val_loss"] for line in log if "val_loss" in line]
    assert len(validated) == 3 and f"best validation loss {min(validated):.4f}" in capsys.readouterr().out
    assert not list((folder / "zero-shot").glob("checkpoint-*"))
    assert read_captioner_config(folder / "zero-shot").base_model == config.base_model
    new = CaptionerConfig(text_condition="gaussian", sigma=0.1)
    train(folder, new, "supervised", "audio", init=folder / "zero-shot", bridge=None)
    saved = read_captioner_config(folder / "supervised")
    assert (saved.text_condition, saved.sigma) == ("gaussian", 0.1)
    assert any(
        not torch.equal(value, weights(folder / "supervised")[name])
        for name, value in weights(folder / "zero-shot").items()
    )
    for name in ("clean", "pseudo_audio"):  # away from a condition, and to one that has to be fitted
        other = CaptionerSettings(text_condition=name)
        train(folder, other, name, init=folder / "supervised", bridge=None)
        saved = read_captioner_config(folder / name)
        assert (saved.text_condition, saved.sigma) == (name, 0.0)
    train(folder, config, "zero-shot", val=folder / "val")
    assert "done before" in capsys.readouterr().err
    with pytest.raises(ValueError, match="run with other settings"):
        train(folder, config, "zero-shot", "text+audio", val=folder / "val")


def test_text_alone_never_reads_audio(folder, config, captions):
    """The audio of these pairs is changed, and nothing else is; text files are the same again."""
    pairs = PairedEmbeddings.open(folder / "pairs")
    PairedEmbeddings.write(folder / "deaf", -pairs.audio, pairs.text, pairs.captions, metadata=pairs.metadata)
    whole = train(folder, config, "whole", val=folder / "val")
    assert train(folder, config, "other", pairs=folder / "deaf", val=folder / "val") == whole
    files = {"pairs": None, "text_embeddings": folder / "text.npy", "captions": folder / "text.txt"}
    assert train(folder, config, "files", val=folder / "val", **files) == whole
    assert train(folder, config, "heard", "audio", val=folder / "val") != whole


def test_the_best_on_the_validation_rows_is_kept(folder, config):
    """A learning rate that rises until it destroys what it has learned: the last weights are not the best ones."""
    log = train(folder, config, "out", training=replace(TINY, steps=8, lr=0.05, warmup=1.0), val=folder / "val")
    validated = {line["step"]: line["val_loss"] for line in log if "val_loss" in line}
    best = min(validated, key=validated.get)
    assert best < max(validated)
    captioner = load_captioner(folder / "out")
    rows = CaptionRows.of_pairs(PairedEmbeddings.open(folder / "val"), "text")
    rows = _Stream(rows, len(rows), seed=0)  # with the seeds of their noise
    ids = [torch.tensor(of_row) for of_row in captioner.tokenize([rows[i]["caption"] for i in range(len(rows))])]
    losses, tokens = [], [len(of_row) for of_row in ids]
    with torch.no_grad():
        for i, of_row in enumerate(ids):
            seen = torch.ones(1, len(of_row), dtype=torch.long)
            row = rows[i]["embedding"].unsqueeze(0), torch.tensor([True]), of_row.unsqueeze(0), seen
            losses.append(captioner(*row, seed=torch.tensor([rows[i]["seed"]]))["loss"].item())
    assert np.average(losses, weights=tokens) == pytest.approx(validated[best], rel=1e-4)


def test_text_conditions(folder, config):
    """Four conditions, four first losses, each the same again; and each is saved."""
    settings = {name: replace(config, text_condition=name) for name in ("clean", "bridged", "pseudo_audio")}
    settings["gaussian"] = replace(config, text_condition="gaussian", sigma=0.5)
    first = {name: train(folder, of, name)[0]["loss"] for name, of in settings.items()}
    again = {name: train(folder, of, name + "2")[0]["loss"] for name, of in settings.items()}
    assert first == again and len(set(first.values())) == 4
    for name in settings:
        saved, twin = load_captioner(folder / name), load_captioner(folder / f"{name}2")
        assert saved.settings.text_condition == name
        assert {key: value.shape for key, value in saved.text_condition.state_dict().items()} == {
            key: value.shape for key, value in twin.text_condition.state_dict().items()
        }
    assert (
        load_captioner(folder / "pseudo_audio").text_condition.training_rows
        == PairedEmbeddings.open(folder / "pairs").clips
    )


def test_pseudo_audio_of_text_files_is_fitted_on_pairs(folder, config):
    pseudo = replace(config, text_condition="pseudo_audio")
    files = {"pairs": None, "text_embeddings": folder / "text.npy", "captions": folder / "text.txt"}
    with pytest.raises(ValueError, match="fitted on pairs: give --pseudo_audio DIR"):
        train(folder, pseudo, "without", **files)
    assert train(folder, pseudo, "with", **files, pseudo_audio=folder / "pairs") == train(folder, pseudo, "same")
    with pytest.raises(ValueError, match="bridged has no use for --pseudo_audio"):
        train(folder, config, "unused", pseudo_audio=folder / "pairs")


def test_other_pairs_of_the_same_name_are_another_run(folder, config):
    train(folder, config, "run")
    pairs = PairedEmbeddings.open(folder / "pairs")
    moved = PairedEmbeddings.from_tensors(pairs.audio, pairs.text.flip(0), pairs.captions, metadata=pairs.metadata)
    shutil.rmtree(folder / "pairs")
    moved.save(folder / "pairs")
    with pytest.raises(ValueError, match="run with other settings"):
        train(folder, config, "run")


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_killed_run_ends_with_the_same_bits(folder, config, monkeypatch, log_every):
    training = replace(TINY, log_every=log_every)
    log = train(folder, config, "whole", training=training, val=folder / "val")
    calls, forward = [], train_captioner.Captioner.forward

    def dying(self, *args, **kwargs):
        calls.append(self.training)
        if calls.count(True) == 6:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(train_captioner.Captioner, "forward", dying)
    with pytest.raises(KeyboardInterrupt):
        train(folder, config, "killed", training=training, val=folder / "val")
    monkeypatch.setattr(train_captioner.Captioner, "forward", forward)
    # At log_every 1 five losses and two validations; else the losses at the two checkpoints.
    assert len(LossLog(folder / "killed").read()) == (7 if log_every == 1 else 4)
    assert train(folder, config, "killed", training=training, val=folder / "val") == log
    assert all(
        torch.equal(value, weights(folder / "killed")[name]) for name, value in weights(folder / "whole").items()
    )
    whole, killed = (
        json.loads((folder / name / "stages" / "captioner.json").read_text())["result"] for name in ("whole", "killed")
    )
    assert killed == whole and (
        log_every > 1 or whole["loss"] == pytest.approx(np.mean([line["loss"] for line in log if "loss" in line]))
    )


def test_two_processes_have_the_losses_of_one(folder, config, llama):
    options = [
        *("train-captioner", "--pairs", folder / "pairs", "--bridge", folder / "bridge", "--condition", "text+audio"),
        *("--val", folder / "val", "--captioner.base_model", llama, "--captioner.lora_dropout", "0"),
        *("--captioner.text_condition", "pseudo_audio", "--training.steps", "50", "--training.batch_size", "20"),
        *("--training.log_every", "1", "--training.save_every", "25", "--out"),
    ]
    assert dlink([str(part) for part in (*options, folder / "one")]) == 0
    launched = [*LAUNCH, *options, folder / "two", "--training.gradient_accumulation", "2"]
    run = subprocess.run([str(part) for part in launched], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("mean loss") == 1
    one, two = (LossLog(folder / name).read() for name in ("one", "two"))
    assert len(one) == len(two) == 52
    for ours, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-4)


def test_what_does_not_fit(folder, config):
    with pytest.raises(ValueError, match="give either --pairs DIR, or both --text_embeddings FILE and --captions FILE"):
        train(folder, config, "out", text_embeddings=folder / "text.npy", captions=folder / "text.txt")
    files = {"pairs": None, "text_embeddings": folder / "text.npy", "captions": folder / "text.txt"}
    with pytest.raises(ValueError, match="has no audio: condition audio needs --pairs"):
        train(folder, config, "out", "audio", **files)
    with pytest.raises(ValueError, match=r"give --bridge DIR and --captioner\.base_model NAME, or --init DIR"):
        train(folder, CaptionerConfig(), "out")
    pairs = PairedEmbeddings.open(folder / "pairs")
    PairedEmbeddings.write(folder / "other", pairs.audio, pairs.text, pairs.captions, metadata={"fingerprint": "x"})
    with pytest.raises(ValueError, match="pairs and val come from different encoders: clap-1 and x"):
        train(folder, config, "out", val=folder / "other")
    pairs.save(folder / "same")
    with pytest.raises(ValueError, match=r"val has the very rows of pairs, .*pairs: give others"):
        train(folder, config, "out", val=folder / "same")
    with pytest.raises(ValueError, match="fitted on the encoder clap-1, these embeddings come from x"):
        train(folder, config, "out2", pairs=folder / "other")
