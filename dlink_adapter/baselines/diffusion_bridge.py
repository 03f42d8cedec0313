"""Diffusion-Bridge: a diffusion model of text alone that audio is dropped into half way (Lee et al., CVPR 2025).

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
from torch import Tensor
from torch.nn.functional import normalize
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel
from tqdm.auto import trange

from dlink_adapter.bridge.base import PretrainedBridge
from dlink_adapter.bridge.noise import Draws, normal
from dlink_adapter.bridge.space import EmbeddingSpace
from dlink_adapter.diffusion_link.link import add_noise, mirrored_noise
from dlink_adapter.diffusion_link.schedules import alpha_bars

PACKAGE = "denoising_diffusion_pytorch"


@dataclass(frozen=True)
class DiffusionBridgeConfig:
    """Settings of `DiffusionBridge`: those of the published code, but for the length of the training.

    Args:
        dim: width of the encoder's embeddings, a multiple of 8 (the U-Net halves it three times).
        width: channels of the U-Net, which has 1, 2, 4 and 8 times as many on its four levels.
        radius: norm of the embeddings that the U-Net sees.
        timesteps: length T of the forward process, cosine schedule.
        audio_start: timestep at which audio is put in, without noise.
        text_start: timestep that captions are noised to.
        calls: of the U-Net, from there on down.
        train_steps: optimiser steps of `fit`; the published model has many more.
        batch_size: captions a step.
        lr: peak of the one-cycle schedule of AdamW.
        ema_decay: of the average of the weights, which is what the fitted bridge keeps.
        seed: of the training.
    """

    dim: int
    width: int = 32
    radius: float = 5.0
    timesteps: int = 1000
    audio_start: int = 600
    text_start: int = 400
    calls: int = 5
    train_steps: int = 2000
    batch_size: int = 64
    lr: float = 1e-3
    ema_decay: float = 0.995
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.dim, int) or self.dim < 8 or self.dim % 8:
            raise ValueError(f"dim is {self.dim!r}: the U-Net halves it three times, so it must be a multiple of 8")
        starts = self.audio_start, self.text_start
        if not self.calls <= min(starts) <= max(starts) <= self.timesteps:
            raise ValueError(f"audio_start and text_start must lie between calls and timesteps: {self}")
        if min(self.width, self.calls, self.train_steps, self.batch_size) < 1:
            raise ValueError(f"width, calls, train_steps and batch_size must be at least 1: {self}")


class DiffusionBridge(PretrainedBridge):
    """Embeddings (..., dim) -> text-like embeddings, by a model that saw captions alone.

    Centred on the own modality's mean, an audio embedding is taken for a caption at `audio_start`, and denoised from
    there; the state is brought back to norm `radius` before every call. What comes out keeps text's mean.
    """

    name = "diffusion_bridge"
    config_class = DiffusionBridgeConfig
    fixed_noise: Tensor

    def __init__(self, config: DiffusionBridgeConfig):
        super().__init__(config)
        self.space = EmbeddingSpace(config.dim)
        self.denoiser = import_unet()(config.width, dim_mults=(1, 2, 4, 8), channels=1)
        self.register_buffer("fixed_noise", mirrored_noise(1, config.dim)[0])

    @property
    def is_fitted(self) -> bool:
        return self.space.is_fitted

    @property
    def alpha_bars(self) -> tuple[float, ...]:
        """alpha_bar(t) for t = 0 ... T."""
        return alpha_bars("cosine", self.config.timesteps)

    def fit(self, audio: Tensor, text: Tensor, *, progress: bool = True) -> None:
        """Train on the captions of pairs (n, dim); of the audio only the mean is used."""
        if audio.ndim != 2 or text.ndim != 2 or not audio.shape[1] == text.shape[1] == self.dim:
            raise ValueError(f"expected (n, {self.dim}) each, got audio {tuple(audio.shape)}, text {tuple(text.shape)}")
        config = self.config
        self.space.fit(audio, text)
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            for module in self.denoiser.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            self._train(self._scaled(text.float(), "text"), progress)
        self.metadata["training"] = {"steps": config.train_steps, "captions": len(text)}
        self.eval()

    def _train(self, captions: Tensor, progress: bool) -> None:
        config = self.config
        optimizer = AdamW(self.denoiser.parameters(), lr=config.lr, betas=(0.9, 0.99))
        schedule = OneCycleLR(optimizer, config.lr, total_steps=config.train_steps + 1, pct_start=0.1)
        average = AveragedModel(self.denoiser, avg_fn=_warmed_up(config.ema_decay))
        self.denoiser.train()
        for _ in trange(config.train_steps, desc=self.name, unit="step", disable=None if progress else True):
            x0 = captions[torch.randint(len(captions), (config.batch_size,), device=captions.device)]
            loss = self.loss(x0)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(self.denoiser)
        self.denoiser.load_state_dict(average.module.state_dict())

    def loss(self, x0: Tensor) -> Tensor:
        """The squared error of the reconstructed x0 (n, dim) at random timesteps, weighted with the SNR."""
        timestep = torch.randint(1, self.config.timesteps + 1, (len(x0),), device=x0.device)
        alpha_bar = torch.tensor(self.alpha_bars, device=x0.device)[timestep]
        noised = add_noise(x0, alpha_bar.unsqueeze(-1), torch.randn_like(x0))
        error = (self.denoise(noised, timestep) - x0).square().mean(-1)
        return (alpha_bar / (1 - alpha_bar) * error).mean()

    def denoise(self, x: Tensor, timestep: Tensor) -> Tensor:
        """x0 (n, dim) of states (n, dim) of any norm at timesteps (n,) of 1 ... T."""
        x0: Tensor = self.denoiser(self._at_radius(x).unsqueeze(1), timestep - 1).squeeze(1)
        return x0

    def bridge(self, x: Tensor, modality: str, generator: Draws, samples: int | None) -> Tensor:
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

    def _scaled(self, x: Tensor, modality: str) -> Tensor:
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
    package is put in place without being executed, and of its modules only the one with the U-Net is imported.
    """
    try:
        if PACKAGE not in sys.modules and (spec := find_spec(PACKAGE)) is not None:
            sys.modules[PACKAGE] = module_from_spec(spec)
        return import_module(f"{PACKAGE}.{PACKAGE}_1d").Unet1D
    except ImportError as error:
        raise ImportError(
            'diffusion_bridge needs denoising-diffusion-pytorch: pip install "dlink-adapter[bench]"'
        ) from error


def _warmed_up(decay: float) -> Any:
    """An exponential moving average that forgets the first steps faster, for trainings of any length."""
    return lambda average, new, steps: average + (new - average) * max(1 - decay, 9 / (10 + int(steps)))
