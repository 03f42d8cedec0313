"""The coordinates that bridges work in: each modality centred on its own mean and scaled to unit variance a dimension.

Centring each modality takes out the constant part of the modality gap in closed form (Zhang et al., ICLR 2024). An
embedding keeps its distance from the mean: an estimate of text that is unsure lies near the mean of text.
"""

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

Modality = Literal["audio", "text"]
Rows = Tensor | Iterable[Tensor]  # (n, dim), whole or in blocks


class EmbeddingSpace(nn.Module):
    """Maps embeddings (..., dim) of a modality to its coordinates, and coordinates back to embeddings.

    It is fitted on training pairs and saved with the bridge. Until then its means are NaN and `is_fitted` is False.
    """

    audio_mean: Tensor
    audio_radius: Tensor
    text_mean: Tensor
    text_radius: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        for modality in ("audio", "text"):
            self.register_buffer(f"{modality}_mean", torch.full((dim,), torch.nan))
            self.register_buffer(f"{modality}_radius", torch.tensor(torch.nan))

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` was called, or fitted values were loaded. Waits for the device."""
        return bool(self.text_radius.isfinite())

    def fit(self, audio: Rows, text: Rows) -> None:
        """Take means and radii from embeddings (n, dim) and (m, dim), which need not be paired; sums run in float64.

        A radius is the root mean square distance of unit-normed embeddings from their mean. Either can be blocks of
        rows instead, a list or `PairedEmbeddings.blocks`.
        """
        of_audio, of_text = (audio, self.audio_mean, self.audio_radius), (text, self.text_mean, self.text_radius)
        for rows, mean, radius in (of_audio, of_text):
            found = unit_mean(rows)
            mean.copy_(found)
            radius.copy_((1 - found.square().sum()).clamp_min(1e-12).sqrt())  # one row has none

    def encode(self, x: Tensor, modality: Modality = "audio") -> Tensor:
        """Embeddings (..., dim) of any norm -> coordinates of norm sqrt(dim) on average."""
        mean, radius = self._moments(modality, x)
        return (unit(x) - mean) * (self.dim**0.5 / radius)

    def decode(self, coordinates: Tensor, modality: Modality = "text") -> Tensor:
        """Coordinates (..., dim) -> unit-norm embeddings: the inverse of `encode` on unit-norm embeddings."""
        mean, radius = self._moments(modality, coordinates)
        return normalize(coordinates * (radius / self.dim**0.5) + mean, dim=-1)

    def _moments(self, modality: Modality, like: Tensor) -> tuple[Tensor, Tensor]:
        of_text = modality == "text"
        mean, radius = (self.text_mean, self.text_radius) if of_text else (self.audio_mean, self.audio_radius)
        return mean.to(like), radius.to(like)


def check_modality(modality: str) -> None:
    """Raise ValueError on a word that is not a modality."""
    if modality not in get_args(Modality):
        raise ValueError(f"modality is {modality!r}: expected one of {', '.join(get_args(Modality))}")


def within_range(x: Tensor) -> Tensor:
    """Rows (..., dim), each scaled by its largest entry where its square could leave the range of float32."""
    largest = x.abs().amax(dim=-1, keepdim=True)
    return torch.where((largest > 1e-6) & (largest < 1e6), x, x / largest.clamp_min(torch.finfo(torch.float32).tiny))


def unit(x: Tensor) -> Tensor:
    """Rows (..., dim) of any norm that their dtype has -> rows of unit norm."""
    return normalize(within_range(x), dim=-1)


def unit_mean(x: Rows) -> Tensor:
    """The mean of the unit-normed rows of x (n, dim): (dim,) in float64, a block at a time."""
    sums, counts = zip(*((unit(rows.double()).sum(0), len(rows)) for rows in _blocks(x)), strict=True)
    return torch.stack(sums).sum(0) / sum(counts)


def _blocks(x: Rows) -> Iterable[Tensor]:
    return x.split(16384) if isinstance(x, Tensor) else x
