"""The space the bridge works in: each modality centred on its own mean and scaled to unit variance a dimension.

Centring by modality takes out the constant part of the modality gap in closed form (Zhang et al., ICLR 2024), so that
the network only has to learn what a shift cannot do. On the way out the text mean comes back. How far an embedding lies
from its mean is kept: an estimate of text that is unsure lies near the mean of text, as an average of texts does.
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
    audio_radius: Tensor
    text_radius: Tensor
    stretch: Tensor
    offset: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.register_buffer("audio_mean", torch.full((dim,), torch.nan))
        self.register_buffer("text_mean", torch.full((dim,), torch.nan))
        self.register_buffer("audio_radius", torch.tensor(torch.nan))
        self.register_buffer("text_radius", torch.tensor(torch.nan))
        self.register_buffer("stretch", torch.ones(()))
        self.register_buffer("offset", torch.zeros(dim))

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
        self.reset()

    def describe(self) -> dict[str, float]:
        """Norms of the means and the radii around them, for a model card."""
        values = {"audio_mean_norm": self.audio_mean.norm(), "text_mean_norm": self.text_mean.norm()}
        radii = {"audio_radius": self.audio_radius, "text_radius": self.text_radius}
        return {name: round(value.item(), 4) for name, value in {**values, **radii}.items()}

    def encode(self, x: Tensor, modality: str = "audio") -> Tensor:
        """Embeddings of one modality, "audio" or "text", of any norm, to coordinates of norm sqrt(dim) on average."""
        of_text = modality == "text"
        mean, radius = (self.text_mean, self.text_radius) if of_text else (self.audio_mean, self.audio_radius)
        return (normalize(x, dim=-1) - mean.to(x)) * (self.dim**0.5 / radius.to(x))

    def decode(self, coordinates: Tensor) -> Tensor:
        """Text coordinates -> unit-norm embeddings: of text's own coordinates that text, until `match` is called."""
        scale = (self.stretch * self.text_radius / self.dim**0.5).to(coordinates)
        on_sphere = normalize(coordinates * scale + self.text_mean.to(coordinates), dim=-1)
        return normalize(on_sphere + self.offset.to(coordinates), dim=-1)

    def match(self, estimates: Tensor, text: Tensor) -> None:
        """Bring what `decode` gives nearer to text, given estimates of text and the text itself, both (n, dim).

        Estimates are less spread out than what they estimate, which is best for the cosine and worst for geometry:
        `stretch` is the geometric mean of leaving that and undoing it. Nor do they average to the mean of text once
        they have unit norm: `offset` moves them there.
        """
        self.reset()
        self.stretch.copy_((self.dim / estimates.square().sum(-1).mean()) ** 0.25)
        for _ in range(2):  # the second time for what the norm makes of the first
            self.offset.add_((unit_mean(text) - unit_mean(self.decode(estimates))).to(self.offset))

    def reset(self) -> None:
        """Undo `match`."""
        self.stretch.fill_(1)
        self.offset.zero_()


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
