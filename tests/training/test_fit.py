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

from dlink_adapter.baselines.mean_shift import MeanShift
from dlink_adapter.bridge.space import unit_mean
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.data.shard_rows import ShardRows
from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.training.fit import CHECKPOINT, FitConfig, fit
from dlink_adapter.training.log import LOG

BRIDGE = BridgeConfig(dim=32, time_dim=32, dropout=0.1, samples=4, landmarks=64)
SHORT = FitConfig(steps=130, batch_size=32, save_every=30)

KILLED = """
import os, signal, sys
import torch
from safetensors.torch import load_file
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.training.fit import FitConfig, fit

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


def test_it_beats_a_mean_shift_where_the_gap_is_more_than_a_shift(pairs):
    audio, text = pairs
    train, text_of_test = (audio[:500], text[:500]), normalize(text[500:], dim=-1)
    link, measured = run(train, FitConfig(steps=300, batch_size=64, lr=3e-3, ema_decay=0.97))
    shift = MeanShift(MeanShift.config_class(32))
    shift.fit(*train)

    def scores(bridge):
        cosines = bridge(audio[500:]) @ text_of_test.T
        return cosines.diagonal().mean().item(), (cosines.argmax(-1) == torch.arange(100)).float().mean().item()

    (cosine, recall), (shifted, _) = scores(link), scores(shift)
    assert cosine > 0.92 > 0.85 > shifted and recall > 0.9
    assert measured["calibration"]["paired_cosine"] == pytest.approx(cosine, abs=0.03)
    assert link.config.depth == measured["calibration"]["depth"] and not link.training


def test_bridged_audio_has_the_mean_and_more_of_the_spread_of_text(pairs):
    noisy = pairs[0] + 2 * torch.randn(pairs[0].shape, generator=torch.Generator().manual_seed(0)), pairs[1]
    link, _ = run(noisy)

    def differences():
        bridged, text = link(noisy[0]), normalize(pairs[1], dim=-1)
        return (bridged.mean(0) - text.mean(0)).norm(), (bridged.var(0).sum() - text.var(0).sum()).abs()

    with torch.no_grad():
        matched = differences()
        link.space.reset()
        assert all(after < 0.7 * before for after, before in zip(matched, differences(), strict=True))


def test_the_losses_fall(pairs, tmp_path):
    alone = replace(BRIDGE, kernel=False)  # kernel ridge leaves nothing to learn in a linear world
    run(pairs, FitConfig(steps=200, batch_size=64, lr=3e-3), alone, out=tmp_path)
    first, *_, last = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert all(last[name] < first[name] for name in ("loss", "denoise_audio", "topology", "contrastive"))


def test_the_bridge_keeps_the_average_of_the_weights(pairs):
    seen = []
    hook = register_optimizer_step_post_hook(
        lambda optimizer, *_: seen.append([value.detach().clone() for value in optimizer.param_groups[0]["params"]])
    )
    link, _ = run(pairs, FitConfig(steps=12, ema_decay=0.8))
    hook.remove()
    average = seen[0]
    for weights in seen[1:]:
        average = [0.8 * mean + 0.2 * weight for mean, weight in zip(average, weights, strict=True)]
    assert len(seen) == 12
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
    assert set(lines[0]) == {"step", "lr", "loss", "denoise_audio", "denoise_text", "topology", "contrastive"}
    loaded = DiffusionLink.from_pretrained(tmp_path / "out")
    assert equal_bits(link, loaded) and loaded.config == link.config
    assert loaded.metadata["training"]["clips"] == 540 and loaded.metadata["calibration"] == measured["calibration"]
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
    link, measured = run(many, FitConfig(steps=10, holdout=0.2))
    assert link.metadata["training"]["pairs"] == 160 and link.metadata["training"]["clips"] == 80
    assert measured["calibration"]["clips"] == 20 and link.metadata["fingerprint"] == "clap-1"


def test_pairs_and_tensors_are_the_same(pairs):
    few = FitConfig(steps=5)
    assert equal_bits(run(pairs, few)[0], run(PairedEmbeddings.from_tensors(*pairs), few)[0])


def test_pairs_on_disk_are_the_same_and_are_never_whole(pairs, tmp_path, monkeypatch):
    few, captions = FitConfig(steps=5), [["x"]] * len(pairs[0])
    for most in ("REGRESSION_CLIPS", "MAX_CLIPS"):
        monkeypatch.setattr(f"dlink_adapter.training.fit.{most}", 100)
    expected, _ = run(pairs, few)
    on_disk = PairedEmbeddings.write(tmp_path / "pairs", *pairs, captions, shard_clips=250)
    gathered = []
    gather = ShardRows.gather
    monkeypatch.setattr("dlink_adapter.data.shard_rows.BLOCK_ROWS", 100)
    monkeypatch.setattr(ShardRows, "gather", lambda *args: gathered.append(len(args[2])) or gather(*args))
    assert equal_bits(expected, run(on_disk, few)[0])
    assert max(gathered) == 128  # a batch


def test_with_validation_pairs_nothing_is_held_out(pairs):
    audio, text = pairs
    val = audio[500:], text[500:]
    link, measured = run((audio[:500], text[:500]), FitConfig(steps=5), val=val)
    assert link.metadata["training"]["clips"] == 500 and measured["calibration"]["clips"] == 100


@pytest.mark.parametrize(("validated", "clips"), [(False, 600), (True, 500)])
def test_in_the_end_means_and_closed_forms_are_those_of_all_pairs(pairs, validated, clips):
    given = tuple(rows[:clips] for rows in pairs)
    val = tuple(rows[clips:] for rows in pairs) if validated else None
    link, _ = run(given, FitConfig(steps=5), replace(BRIDGE, landmarks=1000), val=val)
    assert link.kernel.landmarks.any(-1).sum() == clips
    torch.testing.assert_close(link.space.text_mean.double(), unit_mean(given[1]))


def test_where_pairs_are_many_the_closed_forms_are_not_fitted_again(pairs, monkeypatch):
    monkeypatch.setattr("dlink_adapter.training.fit.REGRESSION_CLIPS", 100)
    link, _ = run(pairs, FitConfig(steps=5))
    train, _ = PairedEmbeddings.from_tensors(*pairs).split((0.9, 0.1))
    torch.testing.assert_close(link.space.text_mean.double(), unit_mean(train.text))


def test_a_batch_larger_than_the_pairs_and_half_precision_pairs(pairs):
    few = tuple(rows[:40].half() for rows in pairs)
    link, measured = run(few, FitConfig(steps=5, batch_size=1000))
    assert link(few[0]).dtype == torch.float16 and all(np.isfinite(value) for value in measured["losses"].values())


def test_a_given_depth_is_kept(pairs):
    link, _ = run(pairs, FitConfig(steps=5), replace(BRIDGE, depth=300))
    assert link.config.depth == 300


def test_too_few_clips_to_calibrate_on(pairs):
    with pytest.raises(ValueError, match="2 held-out clips are too few"):
        run(tuple(rows[:20] for rows in pairs), FitConfig(steps=5))


def test_pairs_of_another_width(pairs):
    with pytest.raises(ValueError, match="the bridge has dim 16, the pairs have dim 32"):
        fit(DiffusionLink(BridgeConfig(dim=16)), pairs, progress=False)


def test_too_few_pairs(pairs):
    with pytest.raises(ValueError, match="2 clips are too few"):
        run((pairs[0][:2], pairs[1][:2]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("batch_size", 0), ("save_every", 0), ("holdout", 0.0), ("holdout", 1.0), ("ema_decay", 1.0)],
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=r"must be (at least 1|in \(0, 1\))"):
        FitConfig(**{name: value})
