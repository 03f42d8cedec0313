"""Plain regression with the network and the losses of Diffusion-Link: what is left of it without diffusion."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dlink_adapter.bridge.base import TrainedBridge
from dlink_adapter.bridge.config import require, require_counts
from dlink_adapter.bridge.noise import Draws
from dlink_adapter.bridge.space import Modality
from dlink_adapter.diffusion_link.losses import link_loss
from dlink_adapter.diffusion_link.network import Denoiser


@dataclass(frozen=True)
class RegressionConfig:
    """Settings of `Regression`, those of `BridgeConfig` that do not speak of noise.

    Args:
        dim: width of the encoder's embeddings.
        blocks: residual MLP blocks.
        mlp_ratio: hidden width of a block, as a multiple of `dim`.
        dropout: in the blocks, while training.
        text_weight: weight of the text-to-text loss beside the audio-to-text one.
        topology_weight: weight of the topology loss.
    """

    dim: int
    blocks: int = 3
    mlp_ratio: float = 2.0
    dropout: float = 0.4
    text_weight: float = 1.0
    topology_weight: float = 1.0

    def __post_init__(self) -> None:
        require_counts(self, "dim", "blocks")
        require(self.mlp_ratio > 0, self, "mlp_ratio", "positive")
        require(0 <= self.dropout < 1, self, "dropout", "in [0, 1)")
        for name in ("text_weight", "topology_weight"):
            require(getattr(self, name) >= 0, self, name, "at least 0")


class Regression(TrainedBridge):
    """The three residual blocks on clean embeddings, called once: no noise, and alpha_bar is always 1."""

    name = "regression"
    config_class = RegressionConfig

    def new_denoiser(self) -> Denoiser:
        config = self.config
        return Denoiser(config.dim, config.blocks, round(config.mlp_ratio * config.dim), dropout=config.dropout)

    def loss(self, audio: Tensor, text: Tensor, *, generator: Generator | None = None) -> dict[str, Tensor]:
        """The losses of Diffusion-Link at alpha_bar = 1: `loss`, `denoise_audio`, `denoise_text`, `topology`."""
        self.check_pairs(audio, text)
        target = self.space.encode(text.float(), "text")
        from_audio, from_text = self.regress(torch.cat([self.space.encode(audio.float()), target])).chunk(2)
        return link_loss(from_audio, from_text, target, self.config.text_weight, self.config.topology_weight)

    def regress(self, coordinates: Tensor) -> Tensor:
        """Clean coordinates (..., dim) -> text coordinates (..., dim)."""
        found: Tensor = self.denoiser(coordinates, torch.ones_like(coordinates[..., :1]))
        return found

    def bridge(self, x: Tensor, modality: Modality, generator: Draws, samples: int | None) -> Tensor:
        return self.space.decode(self.regress(self.space.encode(x, modality)))
