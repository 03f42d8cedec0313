"""The text-only diffusion model: needs denoising-diffusion-pytorch and ema-pytorch, of the extra `bench`."""

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.baselines.diffusion_bridge import PACKAGE, DiffusionBridge, DiffusionBridgeConfig, import_unet
from dlink_adapter.training.config import FitConfig

needs_unet = pytest.mark.skipif(
    not (find_spec(PACKAGE) and find_spec("ema_pytorch")), reason='needs the extra "bench": denoising-diffusion-pytorch'
)
SMALL = DiffusionBridgeConfig(16, width=8)
TRAINING = FitConfig(steps=1, batch_size=16)


class Oracle(torch.nn.Module):
    """A denoiser that knows the answer, and keeps what it was shown."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.shown = answer, []

    def forward(self, x, timestep):
        self.shown.append((x.squeeze(1), timestep.tolist()))
        return self.answer.expand_as(x.squeeze(1)).unsqueeze(1)


@pytest.fixture
def fitted(pairs):
    bridge = DiffusionBridge(SMALL)
    bridge.fit(tuple(rows[:100, :16] for rows in pairs), config=TRAINING, progress=False)
    return bridge


@needs_unet
def test_the_unet_comes_without_torchvision():
    code = f"import sys; from {DiffusionBridge.__module__} import import_unet; import_unet()\n"
    code += "print('torchvision' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@needs_unet
def test_size_of_the_published_network():
    bridge = DiffusionBridge(DiffusionBridgeConfig(512))
    assert 3.5e6 < sum(parameter.numel() for parameter in bridge.denoiser.parameters()) < 4.5e6


@needs_unet
def test_audio_goes_in_clean_at_600_and_the_calls_are_those_published(fitted, pairs):
    x = pairs[0][:3, :16]
    answer = torch.randn(16)
    fitted.denoiser = oracle = Oracle(answer)
    out = fitted(x)
    assert [timesteps[0] for _, timesteps in oracle.shown] == [599, 479, 359, 239, 119]
    for state, _ in oracle.shown:
        torch.testing.assert_close(state.norm(dim=-1), torch.full((3,), 5.0))
    torch.testing.assert_close(oracle.shown[0][0], 5 * normalize(fitted.space.encode(x), dim=-1))
    at_radius = 4 * normalize(answer, dim=-1)  # the last call ends in its x0
    torch.testing.assert_close(out, fitted.space.decode(at_radius).expand(3, 16))


@needs_unet
def test_captions_are_noised_first(fitted, pairs):
    fitted.denoiser = oracle = Oracle(torch.randn(16))
    text = pairs[1][:3, :16]
    fitted(text, modality="text")
    state, timesteps = oracle.shown[0]
    assert timesteps == [399] * 3
    clean = 5 * normalize(fitted.space.encode(text, "text"), dim=-1)
    noised = fitted.alpha_bars[400] ** 0.5 * clean + (1 - fitted.alpha_bars[400]) ** 0.5 * fitted.fixed_noise
    torch.testing.assert_close(state, 5 * normalize(noised, dim=-1))


@needs_unet
def test_training_lowers_the_loss_repeats_and_leaves_the_global_state(pairs):
    few = tuple(rows[:100, :16] for rows in pairs)
    bridges = [DiffusionBridge(SMALL) for _ in range(3)]
    before, losses = torch.get_rng_state(), []
    for bridge, steps in zip(bridges, (1, 30, 1), strict=True):
        bridge.fit(few, config=replace(TRAINING, steps=steps), progress=False)
        with torch.no_grad():
            losses.append(bridge.loss(*few, generator=torch.Generator().manual_seed(3))["loss"].item())
    assert losses[1] < 0.7 * losses[0] and losses[2] == losses[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert bridges[1].metadata["training"]["steps"] == 30


@needs_unet
def test_audio_does_not_matter_to_the_loss(fitted, pairs):
    audio, text = (rows[:20, :16] for rows in pairs)
    one, other = (fitted.loss(x, text, generator=torch.Generator().manual_seed(0)) for x in (audio, audio.flip(0)))
    assert one["loss"] == other["loss"]


@needs_unet
def test_nothing_of_the_package_stays_in_place_unexecuted():
    import_unet()
    assert not [name for name in sys.modules if name.partition(".")[0] == PACKAGE]


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr("dlink_adapter.baselines.diffusion_bridge.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "dlink-adapter\[bench\]"'):
        import_unet()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 12}, "multiple of 8"),
        ({"audio_start": 1001}, "between calls = 5 and timesteps"),
        ({"text_start": 2}, "between calls = 5 and timesteps"),
        ({"width": 0}, "at least 1"),
    ],
)
def test_what_the_config_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        DiffusionBridgeConfig(**{"dim": 16, **wrong})
