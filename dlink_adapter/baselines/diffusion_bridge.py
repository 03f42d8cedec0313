"""Diffusion-Bridge: a text-only diffusion model whose reverse process audio enters half way (Lee et al., CVPR 2025).

The network is the 1-D U-Net of `denoising-diffusion-pytorch`, which reads an embedding as a sequence of numbers.
"""

import math
import sys
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from dlink_adapter.bridge.base import TrainedBridge
from dlink_adapter.bridge.config import require, require_counts
from dlink_adapter.bridge.noise import Draws, mirrored_noise, normal
from dlink_adapter.bridge.space import Modality
from dlink_adapter.diffusion_link.schedules import add_noise, alpha_bars

PACKAGE = "denoising_diffusion_pytorch"


@dataclass(frozen=True)
class DiffusionBridgeConfig:
    """Settings of `DiffusionBridge`, those of the published code.

    Args:
        dim: width of the encoder's embeddings, a multiple of 8 (the U-Net halves it three times).
        width: channels of the U-Net, which has 1, 2, 4 and 8 times as many on its four levels.
        radius: norm of the embeddings that the U-Net sees.
        timesteps: length T of the forward process, cosine schedule.
        audio_start: timestep at which audio is put in, without noise.
        text_start: timestep that captions are noised to.
        calls: of the U-Net, from there on down.
    """

    dim: int
    width: int = 32
    radius: float = 5.0
    timesteps: int = 1000
    audio_start: int = 600
    text_start: int = 400
    calls: int = 5

    def __post_init__(self) -> None:
        require_counts(self, "dim", "width", "timesteps", "calls")
        require(self.dim % 8 == 0, self, "dim", "a multiple of 8, because the U-Net halves it three times")
        for name in ("audio_start", "text_start"):
            valid = self.calls <= getattr(self, name) <= self.timesteps
            require(valid, self, name, f"between calls = {self.calls} and timesteps = {self.timesteps}")


class DiffusionBridge(TrainedBridge):
    """Embeddings (..., dim) -> text-like embeddings, by a model that saw captions alone.

    Centred on the own modality's mean, an audio embedding is taken for a caption at `audio_start`, and denoised from
    there; the state is brought back to norm `radius` before every call. The output keeps the mean of text.
    """

    name = "diffusion_bridge"
    config_class = DiffusionBridgeConfig
    fixed_noise: Tensor

    def __init__(self, config: DiffusionBridgeConfig):
        super().__init__(config)
        self.register_buffer("fixed_noise", mirrored_noise(1, config.dim)[0])

    def new_denoiser(self) -> nn.Module:
        unet: nn.Module = import_unet()(self.config.width, dim_mults=(1, 2, 4, 8), channels=1)
        return unet

    @property
    def alpha_bars(self) -> tuple[float, ...]:
        """alpha_bar(t) for t = 0 ... T."""
        return alpha_bars("cosine", self.config.timesteps)

    def loss(self, audio: Tensor, text: Tensor, *, generator: Generator | None = None) -> dict[str, Tensor]:
        """The squared error of captions (n, dim) at random timesteps, weighted with the SNR; audio is ignored."""
        self.check_pairs(audio, text)
        x0 = self._scaled(text.float(), "text")
        timestep = torch.randint(1, self.config.timesteps + 1, (len(x0),), generator=generator, device=x0.device)
        alpha_bar = torch.tensor(self.alpha_bars, device=x0.device)[timestep]
        noised = add_noise(x0, alpha_bar.unsqueeze(-1), normal(x0.shape, x0, generator))
        error = (self.denoise(noised, timestep) - x0).square().mean(-1)
        return {"loss": (alpha_bar / (1 - alpha_bar) * error).mean()}

    def denoise(self, x: Tensor, timestep: Tensor) -> Tensor:
        """x0 (n, dim) of states (n, dim) of any norm at timesteps (n,) of 1 ... T."""
        dtype = next(self.denoiser.parameters(), x).dtype
        x0: Tensor = self.denoiser(self._at_radius(x).unsqueeze(1).to(dtype), timestep - 1).squeeze(1)
        return x0.float()

    def bridge(self, x: Tensor, modality: Modality, generator: Draws, samples: int | None) -> Tensor:
        state = self._scaled(x, modality).reshape(-1, self.dim)
        start = self.config.audio_start
        if modality == "text":
            start = self.config.text_start
            state = add_noise(state, self.alpha_bars[start], self._noise(state, generator))
        calls = self.config.calls
        timesteps = [round(start * (calls - call) / calls) for call in range(calls + 1)]
        for timestep, following in pairwise(timesteps):
            level, next_level = self.alpha_bars[timestep], self.alpha_bars[following]
            state = self._at_radius(state)
            x0 = self.denoise(state, torch.full((len(state),), timestep, device=x.device))
            noise = (state - math.sqrt(level) * x0) / math.sqrt(1 - level)
            state = add_noise(x0, next_level, noise)
        return self.space.decode(normalize(state, dim=-1) * self.dim**0.5).reshape(x.shape)

    def _scaled(self, x: Tensor, modality: Modality) -> Tensor:
        return self._at_radius(self.space.encode(x, modality))

    def _at_radius(self, x: Tensor) -> Tensor:
        return self.config.radius * normalize(x, dim=-1)

    def _noise(self, x: Tensor, generator: Draws) -> Tensor:
        if self.training or generator is not None:
            return normal(x.shape, x, generator)
        return self.fixed_noise.to(x).expand_as(x)


def import_unet() -> Any:
    """The U-Net of denoising-diffusion-pytorch. Raises ImportError where it is not installed.

    Its package imports torchvision, which the U-Net does not need and which does not load beside every torch. So the
    module with the U-Net is imported below a stand-in for the package that is not executed and does not stay.
    """
    module = f"{PACKAGE}.{PACKAGE}_1d"
    if PACKAGE in sys.modules:
        return import_module(module).Unet1D
    spec = find_spec(PACKAGE)
    if spec is None:
        raise ImportError('diffusion_bridge needs denoising-diffusion-pytorch: pip install "dlink-adapter[bench]"')
    sys.modules[PACKAGE] = module_from_spec(spec)
    try:
        return import_module(module).Unet1D
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]
