"""The space the bridge works in: each modality centred on its own mean, every embedding of unit variance a dimension.

Centring by modality takes out the constant part of the modality gap in closed form (Zhang et al., ICLR 2024), so that
the network only has to learn what a shift cannot do. On the way out the text mean comes back.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

Rows = Tensor | Iterable[Tensor]  # (n, dim), whole or in blocks


class EmbeddingSpace(nn.Module):
    """Maps embeddings (..., dim) into the bridge's coordinates, and text coordinates back to the encoder's space.

    It is fitted on training pairs and saved with the bridge. Until then its means are NaN and `is_fitted` is False.
    """

    audio_mean: Tensor
    text_mean: Tensor
    text_radius: Tensor
    offset: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.register_buffer("audio_mean", torch.full((dim,), torch.nan))
        self.register_buffer("text_mean", torch.full((dim,), torch.nan))
        self.register_buffer("text_radius", torch.tensor(torch.nan))
        self.register_buffer("offset", torch.zeros(dim))

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` was called, or fitted values were loaded. Waits for the device."""
        return bool(self.text_radius.isfinite())

    def fit(self, audio: Rows, text: Rows) -> None:
        """Take the means from embeddings (n, dim) and (m, dim), which need not be paired; sums run in float64.

        Either can be blocks of rows instead, a list or `PairedEmbeddings.blocks`: they are gone through twice.
        """
        audio_mean, text_mean = unit_mean(audio), unit_mean(text)
        residual = torch.cat([(normalize(rows.double(), dim=-1) - text_mean).norm(dim=-1) for rows in _blocks(text)])
        self.audio_mean.copy_(audio_mean)
        self.text_mean.copy_(text_mean)
        self.text_radius.copy_(residual.mean())
        self.offset.zero_()

    def describe(self) -> dict[str, float]:
        """Norms of the means and the radius of text around its mean, for a model card."""
        values = {"audio_mean_norm": self.audio_mean.norm(), "text_mean_norm": self.text_mean.norm()}
        return {name: round(value.item(), 4) for name, value in {**values, "text_radius": self.text_radius}.items()}

    def encode(self, x: Tensor, modality: str = "audio") -> Tensor:
        """Embeddings of one modality, "audio" or "text", to coordinates of norm sqrt(dim)."""
        mean = self.text_mean if modality == "text" else self.audio_mean
        return normalize(normalize(x, dim=-1) - mean.to(x), dim=-1) * self.dim**0.5

    def decode(self, coordinates: Tensor) -> Tensor:
        """Coordinates -> unit-norm text embeddings, at the radius around the text mean at which text lies."""
        direction = normalize(coordinates, dim=-1) * self.text_radius.to(coordinates)
        on_sphere = normalize(direction + self.text_mean.to(coordinates), dim=-1)
        return normalize(on_sphere + self.offset.to(coordinates), dim=-1)

    def centre(self, decoded: Rows, text: Rows) -> None:
        """Move what `decode` gives towards the mean of text, given what it gave of audio, and its text, both (n, dim).

        Directions of one length around the text mean do not average to it: their cloud is not symmetric.
        """
        self.offset.add_((unit_mean(text) - unit_mean(decoded)).to(self.offset))


def unit_mean(x: Rows) -> Tensor:
    """The mean of the unit-normed rows of x (n, dim): (dim,) in float64, a block at a time."""
    sums, counts = zip(*((normalize(rows.double(), dim=-1).sum(0), len(rows)) for rows in _blocks(x)), strict=True)
    return torch.stack(sums).sum(0) / sum(counts)


def mean_pairwise_cosine(blocks: Iterable[Tensor]) -> float | None:
    """Mean cosine of two distinct rows of unit-norm blocks `(n, dim)`, from their sum; None for fewer than two."""
    parts = [(unit_mean(block) * len(block), len(block)) for block in blocks]
    total, n = torch.stack([part for part, _ in parts]).sum(0), sum(count for _, count in parts)
    return None if n < 2 else (total.square().sum().item() - n) / (n * (n - 1))


def _blocks(x: Rows) -> Iterable[Tensor]:
    return x.split(16384) if isinstance(x, Tensor) else x
