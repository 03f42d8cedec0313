"""Plain regression with the network and the losses of Diffusion-Link: what is left of it without diffusion."""

import torch
from torch import Generator, Tensor

from dlink_adapter.bridge.base import TrainedBridge
from dlink_adapter.bridge.noise import Draws
from dlink_adapter.bridge.space import Modality
from dlink_adapter.diffusion_link.config import NetworkConfig
from dlink_adapter.diffusion_link.losses import link_loss
from dlink_adapter.diffusion_link.network import Denoiser


class Regression(TrainedBridge):
    """The three residual blocks on clean embeddings, called once: no noise, and alpha_bar is always 1."""

    name = "regression"
    config_class = NetworkConfig

    def new_denoiser(self) -> Denoiser:
        return Denoiser(self.config)

    def loss(self, audio: Tensor, text: Tensor, *, generator: Generator | None = None) -> dict[str, Tensor]:
        """The losses of Diffusion-Link at alpha_bar = 1: `loss`, `denoise_audio`, `denoise_text`, `topology`."""
        self.check_pairs(audio, text)
        target = self.space.encode(text.float(), "text")
        from_audio, from_text = self.regress(torch.cat([self.space.encode(audio.float()), target])).chunk(2)
        return link_loss(from_audio, from_text, target, self.config)

    def regress(self, coordinates: Tensor) -> Tensor:
        """Clean coordinates (..., dim) -> text coordinates (..., dim)."""
        found: Tensor = self.denoiser(coordinates, torch.ones_like(coordinates[..., :1]))
        return found

    def bridge(self, x: Tensor, modality: Modality, generator: Draws, samples: int | None) -> Tensor:
        return self.space.decode(self.regress(self.space.encode(x, modality)))
