"""fit(): it learns, it averages, it can be killed, and it leaves the caller's world as it was."""

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._python_dispatch import TorchDispatchMode

from dlink_adapter.baselines.mean_shift import MeanShift
from dlink_adapter.bridge.space import unit_mean
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.data.shard_rows import ShardRows
from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.registry import new_bridge
from dlink_adapter.training.config import FitConfig
from dlink_adapter.training.descent import Descent
from dlink_adapter.training.fit import fit
from dlink_adapter.training.log import LOG

BRIDGE = BridgeConfig(dim=32, time_dim=32, dropout=0.1, samples=4)
SHORT = FitConfig(steps=130, batch_size=32, save_every=30)
CHECKPOINT = "checkpoint.safetensors"

KILLED = """
import os, signal, sys
import torch
from safetensors.torch import load_file
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.training.config import FitConfig
from dlink_adapter.training.fit import fit

torch.set_num_threads(1)
folder, bridge, config = sys.argv[1:]
pairs, calls = load_file(folder + "/pairs.safetensors"), []

def die(*_):
    calls.append(1)
    if len(calls) == 77:
        os.kill(os.getpid(), signal.SIGKILL)

link = DiffusionLink(BridgeConfig(**eval(bridge)))
link.denoiser.register_forward_hook(die)
fit(link, (pairs["audio"], pairs["text"]), config=FitConfig(**eval(config)), out=folder + "/out", progress=False)
"""


def run(pairs, config=SHORT, bridge=BRIDGE, **options):
    link = DiffusionLink(bridge)
    return link, fit(link, pairs, config=config, progress=False, **options)


def equal_bits(one, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def turned_pairs(clips=1100, dim=32):
    """Audio is its text, turned by some degrees, noisy and moved away: the clouds of a contrastive encoder."""
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(clips, dim, generator=draw) * torch.linspace(2, 0.2, dim)
    skew = torch.randn(dim, dim, generator=draw)
    audio = text @ torch.linalg.matrix_exp((skew - skew.T) / 8) + 0.2 * torch.randn(clips, dim, generator=draw)
    return audio + 2 * torch.randn(dim, generator=draw), text + 2 * torch.randn(dim, generator=draw)


def test_it_beats_a_mean_shift_where_the_gap_is_more_than_a_shift():
    audio, text = turned_pairs()
    train, text_of_test = (audio[:1000], text[:1000]), normalize(text[1000:], dim=-1)
    link, measured = run(train, FitConfig(steps=300, batch_size=64, lr=3e-3))
    shift = MeanShift(MeanShift.config_class(32))
    shift.fit(train)

    def scores(bridge):
        cosines = bridge(audio[1000:]) @ text_of_test.T
        return cosines.diagonal().mean().item(), (cosines.argmax(-1) == torch.arange(100)).float().mean().item()

    (cosine, recall), (shifted, shifted_recall) = scores(link), scores(shift)
    assert cosine > 0.94 > 0.91 > shifted and recall > 0.85 > shifted_recall
    before, after = measured["gap_before_and_after"]["paired_cosine"]
    assert before < 0.5 and after == pytest.approx(cosine, abs=0.03)
    assert link.config.cosine is not None and not link.training


def test_the_losses_fall(tmp_path):
    run(turned_pairs(), FitConfig(steps=200, batch_size=64, lr=3e-3), out=tmp_path)
    first, *_, last = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert all(last[name] < first[name] for name in ("loss", "denoise_audio", "denoise_text", "topology"))


def test_the_bridge_keeps_the_average_of_the_weights(pairs):
    seen = []
    hook = register_optimizer_step_post_hook(
        lambda optimizer, *_: seen.append([value.detach().clone() for value in optimizer.param_groups[0]["params"]])
    )
    link, _ = run(pairs, FitConfig(steps=30, ema_decay=0.6))
    hook.remove()
    average = seen[0]
    for update, weights in enumerate(seen[1:], start=1):
        decay = min(0.6, (1 + update) / (10 + update))
        average = [decay * mean + (1 - decay) * weight for mean, weight in zip(average, weights, strict=True)]
    assert len(seen) == 30
    torch.testing.assert_close([value.detach() for value in link.denoiser.parameters()], average)
    assert not torch.allclose(link.denoiser.out.weight, seen[-1][-2], atol=1e-5)


def test_a_killed_run_ends_with_the_same_bits(pairs, tmp_path):
    save_file({"audio": pairs[0], "text": pairs[1]}, tmp_path / "pairs.safetensors")
    settings = [repr(vars(BRIDGE)), repr(vars(SHORT))]
    child = [sys.executable, "-c", KILLED, str(tmp_path), *settings]
    died = subprocess.run(child, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert (tmp_path / "out" / CHECKPOINT).is_file() and not (tmp_path / "out" / "config.json").exists()

    steps = []
    counter = register_optimizer_step_post_hook(lambda *_: steps.append(1))
    resumed, _ = run(pairs, out=tmp_path / "out")
    counter.remove()
    assert len(steps) == 130 - 60  # it went on from the second checkpoint
    whole, _ = run(pairs, out=tmp_path / "whole")
    assert equal_bits(resumed, whole) and resumed.config == whole.config
    for name in ("model.safetensors", "config.json", LOG):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "out" / CHECKPOINT).exists()


def test_a_checkpoint_of_another_run_is_refused(pairs, tmp_path):
    stopped = DiffusionLink(BRIDGE)
    stopped.denoiser.register_forward_hook(interrupt_at(40))
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, pairs, config=SHORT, out=tmp_path, progress=False)
    assert (tmp_path / CHECKPOINT).is_file()
    for changed in (
        {"config": replace(SHORT, lr=2e-3)},
        {"bridge": replace(BRIDGE, blocks=2)},
        {"pairs": (pairs[0][:300], pairs[1][:300])},
        {"pairs": (pairs[0].flip(0), pairs[1].flip(0))},  # as many, and others
        {"pairs": (pairs[0], pairs[1] + 1e-3)},
    ):
        with pytest.raises(ValueError, match="of a run with other settings or pairs: remove it, or choose"):
            run(**{"pairs": pairs, "out": tmp_path, **changed})


def interrupt_at(call):
    calls = []

    def hook(*_):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt

    return hook


def test_what_is_written(pairs, tmp_path):
    link, measured = run(pairs, out=tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        LOG,
        "model.safetensors",
    ]
    lines = [json.loads(line) for line in (tmp_path / "out" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 100, 130]
    assert set(lines[0]) == {"step", "lr", "loss", "denoise_audio", "denoise_text", "topology"}
    loaded = DiffusionLink.from_pretrained(tmp_path / "out")
    assert equal_bits(link, loaded) and loaded.config == link.config
    assert loaded.metadata["training"]["clips"] == 540
    assert loaded.metadata["gap_before_and_after"] == measured["gap_before_and_after"]
    assert measured["losses"].keys() == lines[-1].keys() - {"step", "lr"} and measured["seconds"] > 0


def test_the_seed_decides(pairs):
    few = FitConfig(steps=10)
    one, _ = run(pairs, few)
    torch.manual_seed(5)
    assert equal_bits(one, run(pairs, few)[0])
    assert not equal_bits(one, run(pairs, replace(few, seed=1))[0])


def test_the_callers_random_state_is_left_alone(pairs):
    link = DiffusionLink(BRIDGE)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    fit(link, pairs, config=FitConfig(steps=3), progress=False)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_several_captions_a_clip(pairs):
    audio, text = pairs
    captions = torch.cat([text[:100], text[:100] + 0.1 * torch.randn(100, 32)])
    clip = torch.arange(100).repeat(2).sort(stable=True)
    many = PairedEmbeddings.from_tensors(audio[:100], captions[clip.indices], clip=clip.values)
    many.metadata["fingerprint"] = "clap-1"
    link, _ = run(many, FitConfig(steps=10, holdout=0.2))
    assert link.metadata["training"]["pairs"] == 160 and link.metadata["training"]["clips"] == 80
    assert link.metadata["calibration"]["clips"] == 20 and link.metadata["fingerprint"] == "clap-1"


def test_pairs_and_tensors_are_the_same(pairs):
    few = FitConfig(steps=5)
    assert equal_bits(run(pairs, few)[0], run(PairedEmbeddings.from_tensors(*pairs), few)[0])


def test_pairs_on_disk_are_the_same_and_are_never_whole(pairs, tmp_path, monkeypatch):
    few, captions = FitConfig(steps=5), [["x"]] * len(pairs[0])
    for most in ("training.fit.MEASURED_CLIPS", "diffusion_link.calibrate.MAX_CLIPS", "data.alarms.MOST"):
        monkeypatch.setattr(f"dlink_adapter.{most}", 100)
    expected, _ = run(pairs, few)
    on_disk = PairedEmbeddings.write(tmp_path / "pairs", *pairs, captions, shard_clips=250)
    gathered = []
    gather = ShardRows.gather
    monkeypatch.setattr("dlink_adapter.data.shard_rows.BLOCK_ROWS", 100)
    monkeypatch.setattr(ShardRows, "gather", lambda *args: gathered.append(len(args[2])) or gather(*args))
    assert equal_bits(expected, run(on_disk, few)[0])
    assert max(gathered) == 128  # a batch


@pytest.mark.parametrize("name", ["diffusion_link", "ridge"])
def test_with_validation_pairs_nothing_is_held_out(name, pairs):
    train, val = (tuple(rows[part] for rows in pairs) for part in (slice(500), slice(500, 600)))
    bridge = new_bridge(name, 32)
    bridge.fit(train, val=val, config=FitConfig(steps=5), progress=False)
    torch.testing.assert_close(bridge.space.text_mean.double(), unit_mean(train[1]))


@pytest.mark.parametrize("name", ["diffusion_link", "ridge"])
def test_the_bridge_that_is_kept_is_the_one_that_was_measured(name, pairs, tmp_path):
    """No part of it is fitted again after calibration: on the held-out clips it gives the figures of its card."""
    bridge = new_bridge(name, 32)
    found = bridge.fit(pairs, config=FitConfig(steps=20), out=tmp_path, progress=False)
    train, held_out = PairedEmbeddings.from_tensors(*pairs).split((0.9, 0.1), seed=0)
    cosine = (bridge(held_out.audio) * normalize(held_out.text, dim=-1)).sum(-1).mean().item()
    assert found["gap_before_and_after"]["paired_cosine"][1] == pytest.approx(cosine, abs=1e-4)
    if name == "diffusion_link":
        assert bridge.metadata["calibration"]["cosine"] == bridge.config.cosine
        torch.testing.assert_close(bridge.space.text_mean.double(), unit_mean(train.text))


class NoDoubles(TorchDispatchMode):
    """Refuses float64, which the accelerator of a Mac does not have."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            assert not isinstance(value, torch.Tensor) or value.dtype != torch.float64, function
        return result


def test_what_runs_on_the_accelerator_is_never_float64(pairs):
    train, val = (
        PairedEmbeddings.from_tensors(*(rows[part] for rows in pairs)) for part in (slice(500), slice(500, 600))
    )
    link = DiffusionLink(replace(BRIDGE, cosine=0.5))
    link.space.fit(train.audio, train.text)  # this runs where the pairs lie, on the CPU
    with NoDoubles():
        Descent(FitConfig(steps=3), progress=False)(link, train)
        link(val.audio)
        link.map_rows(val.audio, seed=0)  # calibration takes these to the CPU


def test_a_batch_larger_than_the_pairs_and_half_precision_pairs(pairs):
    few = tuple(rows[:40].half() for rows in pairs)
    link, measured = run(few, FitConfig(steps=5, batch_size=1000))
    assert link(few[0]).dtype == torch.float16 and all(np.isfinite(value) for value in measured["losses"].values())


def test_a_given_depth_is_kept(pairs):
    link, _ = run(pairs, FitConfig(steps=5), replace(BRIDGE, timestep=300))
    assert link.config.timestep == link.timestep == 300


def test_too_few_clips_to_calibrate_on(pairs):
    with pytest.raises(ValueError, match="2 held-out clips are too few"):
        run(tuple(rows[:20] for rows in pairs), FitConfig(steps=5))


def test_pairs_of_another_width(pairs):
    with pytest.raises(ValueError, match="the bridge has dim 16, the pairs have dim 32"):
        fit(DiffusionLink(BridgeConfig(dim=16)), pairs, progress=False)


def test_too_few_pairs(pairs):
    with pytest.raises(ValueError, match="2 clips are too few"):
        run((pairs[0][:2], pairs[1][:2]))


@pytest.mark.parametrize("name", ["raw", "ridge", "memory", "moment_matched", "regression"])
def test_every_bridge_is_fitted_in_the_same_way(name, pairs, tmp_path):
    bridge = new_bridge(name, 32)
    found = bridge.fit(pairs, config=FitConfig(steps=20), out=tmp_path, progress=False)
    assert set(found) == {"losses", "gap_before_and_after", "seconds"}
    assert (tmp_path / "config.json").is_file() and not list(tmp_path.glob("checkpoint*"))
    before, after = found["gap_before_and_after"]["paired_cosine"]
    assert after == before if name == "raw" else after > before + 0.1
    assert torch.equal(bridge(pairs[0][:9]), type(bridge).from_pretrained(tmp_path)(pairs[0][:9]))


def test_another_precision_in_one_process(pairs):
    for precision in ("bf16", "no"):
        run(pairs, FitConfig(steps=2, mixed_precision=precision))


@pytest.mark.parametrize("steps", [1, 2, 9, 10])
def test_few_steps(pairs, steps):
    assert run(pairs, FitConfig(steps=steps))[0].is_fitted


def test_pairs_of_two_encoders(pairs):
    one, other = (
        PairedEmbeddings.from_tensors(*pairs, metadata={"fingerprint": name}) for name in ("clap-1", "clap-2")
    )
    with pytest.raises(ValueError, match="come from different encoders: clap-1, clap-2"):
        run(one, FitConfig(steps=1), val=other)


def test_a_sampler_that_can_not_be_calibrated_is_refused_before_the_training(pairs):
    with pytest.raises(ValueError, match='fit with "ddim", and set "ddpm" afterwards'):
        run(pairs, bridge=replace(BRIDGE, sampler="ddpm", steps=3))


def test_arrays_are_pairs_too(pairs):
    few = FitConfig(steps=5)
    assert equal_bits(run(tuple(rows.numpy() for rows in pairs), few)[0], run(pairs, few)[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("batch_size", 0), ("save_every", 0), ("holdout", 0.0), ("holdout", 1.0), ("ema_decay", 1.0)],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=r"must be (at least 1|in \(0, 1\))"):
        FitConfig(**{name: value})


def test_pairs_that_are_not_sound(pairs):
    audio, text = pairs
    with pytest.warns(UserWarning, match=r"captions of clips \d+ to \d+ seem to be shifted by \+1"):
        fit(new_bridge("ridge", audio.shape[1]), (audio, text.roll(1, 0)))
    with pytest.raises(ValueError, match=r"the audio embeddings have collapsed .*: are all files the same"):
        fit(new_bridge("ridge", audio.shape[1]), (audio[:1].expand_as(audio), text))
    with pytest.raises(ValueError, match=r"val has the very rows of pairs: leave it out"):
        fit(new_bridge("ridge", audio.shape[1]), pairs, val=pairs)
