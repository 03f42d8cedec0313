"""The denoiser: three residual MLP blocks, conditioned on the noise level (Diffusion-Link, arXiv 2510.11330)."""

import math

import torch
from torch import Tensor, nn

from dlink_adapter.diffusion_link.config import NetworkConfig


class NoiseLevelEmbedding(nn.Module):
    """Sinusoidal features of the noise angle arccos(sqrt(alpha_bar)), then an MLP: (...,) -> (..., time_dim).

    The angle says how noisy x_t is on any schedule, so that a trained bridge can be sampled on another one.
    """

    def __init__(self, time_dim: int):
        super().__init__()
        self.time_dim = time_dim
        self.mlp = nn.Sequential(nn.Linear(time_dim, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim), nn.SiLU())

    def forward(self, alpha_bar: Tensor) -> Tensor:
        angle = torch.acos(alpha_bar.float().sqrt().clamp(0, 1)) * (2 / math.pi)
        octaves = torch.arange(self.time_dim // 2, device=alpha_bar.device, dtype=torch.float32)
        frequency = 1000 ** (1 - octaves / (self.time_dim // 2))
        phase = angle.unsqueeze(-1) * frequency
        features = torch.cat([phase.sin(), phase.cos()], dim=-1)
        return self.mlp(features.to(next(self.mlp.parameters()).dtype))


class ResidualMLP(nn.Module):
    """x + MLP(scale * LayerNorm(x) + shift), with scale and shift from the noise level. It starts as the identity."""

    def __init__(self, dim: int, hidden: int, time_dim: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(time_dim, 2 * dim))
        self.mlp = residual_branch(dim, hidden, dropout)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:  # (..., dim), (..., time_dim)
        scale, shift = self.modulation(level).chunk(2, dim=-1)
        return x + self.mlp(self.norm(x) * (1 + scale) + shift)


class Denoiser(nn.Module):
    """D(x_t, alpha_bar) -> text x0, in the coordinates of `EmbeddingSpace`; zero, the mean of text, when untrained."""

    def __init__(self, config: NetworkConfig):
        super().__init__()
        dim, hidden = config.dim, round(config.mlp_ratio * config.dim)
        self.level = NoiseLevelEmbedding(config.time_dim)
        self.blocks = nn.ModuleList(
            ResidualMLP(dim, hidden, config.time_dim, config.dropout) for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.out = zeroed(nn.Linear(dim, dim))

    def forward(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        """Noised embeddings (..., dim) and their alpha_bar (..., 1) -> (..., dim), float32."""
        level = self.level(alpha_bar.squeeze(-1))
        h = x.to(self.out.weight.dtype)
        for block in self.blocks:
            h = block(h, level)
        return self.out(self.norm(h)).float()


def residual_branch(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """The MLP of a residual block, zero when untrained: (..., dim) -> (..., dim)."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), zeroed(nn.Linear(hidden, dim)))


def zeroed(layer: nn.Linear) -> nn.Linear:
    """The layer, with weights and bias of zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
