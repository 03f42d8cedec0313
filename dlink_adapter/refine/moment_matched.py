"""MomentMatched: what a bridge gives, scaled and shifted along the mean of text until it has the moments of text. Ours.

An estimate of text is less spread out than text, and its mean is longer: on the sphere these two are the same, so that
one matches both. ReAlign (arXiv 2602.07026) matches the moments of raw audio; this does it behind any bridge.
"""

from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.bridge.base import Bridge, Descend
from dlink_adapter.bridge.config import require_counts
from dlink_adapter.bridge.noise import Draws
from dlink_adapter.bridge.space import Modality, unit_mean
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.registry import new_bridge

MAX_CLIPS = 4096  # that are looked at
STRETCHES = (0.1, 10.0)  # that are looked at; estimates without any spread can't be stretched to one


@dataclass(frozen=True)
class MomentMatchedConfig:
    """Settings of `MomentMatched`.

    Args:
        dim: width of the encoder's embeddings.
        base: name of the bridge that is wrapped.
        base_settings: its settings, as its config has them.
    """

    dim: int
    base: str = "diffusion_link"
    base_settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_counts(self, "dim")


class MomentMatched(Bridge):
    """normalize(m + stretch * (base(x) - centre * m)), m being the mean of text; two numbers for each modality.

    `centre` * m is the mean of the estimates along m, and `stretch` gives them the spread of text. A shift in other
    directions is left out: estimated on held-out clips, it costs more than it brings.
    """

    name = "moment_matched"
    config_class = MomentMatchedConfig
    stretch: Tensor  # (2,) of audio and of text
    centre: Tensor  # (2,)
    text_mean: Tensor

    def __init__(self, config: MomentMatchedConfig, base: Bridge | None = None):
        super().__init__(config)
        self.base = base or new_bridge(config.base, config.dim, config.base_settings)
        for name, size in (("stretch", 2), ("centre", 2), ("text_mean", config.dim)):
            self.register_buffer(name, torch.full((size,), torch.nan))

    @classmethod
    def of(cls, base: Bridge) -> Self:
        """Wrap a bridge that is there; `find_moments`, or `fit`, finds the numbers."""
        matched = cls(MomentMatchedConfig(base.dim, base.name, base.settings()), base)
        matched.metadata["fingerprint"] = base.metadata.get("fingerprint")
        return matched

    @property
    def is_fitted(self) -> bool:
        return self.base.is_fitted and bool(self.stretch.isfinite().all())

    @property
    def training_rows(self) -> int:
        return self.base.training_rows

    def settings(self) -> dict[str, Any]:
        return {"dim": self.dim, "base": self.base.name, "base_settings": self.base.settings()}

    def learn(self, pairs: PairedEmbeddings, descend: Descend) -> None:
        self.base.learn(pairs, descend)
        self.base.eval()

    def calibrate(self, train: PairedEmbeddings, val: PairedEmbeddings) -> None:
        self.base.calibrate(train, val)
        self.find_moments(train, val)

    def find_moments(self, train: PairedEmbeddings, val: PairedEmbeddings) -> None:
        """Find the mean of text, and the numbers for a fitted base on pairs that it was not fitted on."""
        mean = unit_mean(train.blocks("text"))
        self.text_mean.copy_(mean.float())
        val = val.sample(MAX_CLIPS)
        for row, estimates in enumerate((self.base.map_rows(val.audio), self.base.map_rows(val.text, "text"))):
            self.stretch[row], self.centre[row] = matching_moments(estimates.double(), mean)
        numbers = {"stretch": self.stretch.tolist(), "centre": self.centre.tolist()}
        self.metadata |= {"moments": numbers, "base": self.base.metadata}

    def bridge(self, x: Tensor, modality: Modality, generator: Draws, samples: int | None) -> Tensor:
        row, y = int(modality == "text"), self.base.bridge(x, modality, generator, samples)
        return moved(y, self.text_mean.to(y), self.stretch[row].to(y), self.centre[row].to(y))


def moved(y: Tensor, mean: Tensor, stretch: Tensor | float, centre: Tensor | float) -> Tensor:
    """normalize(mean + stretch * (y - centre * mean)) of unit-norm y (..., dim)."""
    return normalize(mean + stretch * (y - centre * mean), dim=-1)


def matching_moments(estimates: Tensor, mean: Tensor) -> tuple[float, float]:
    """Stretch and centre that give unit-norm estimates (n, dim) the spread of texts whose mean is `mean` (dim,).

    The stretch is found by bisection. It is 1 for estimates that none of `STRETCHES` brings there, such as those that
    are all the same.
    """
    centre, n = (unit_mean(estimates) @ mean / mean.square().sum()).item(), len(estimates)

    def too_narrow(stretch: float) -> bool:
        squared = unit_mean(moved(estimates, mean, stretch, centre)).square().sum()
        return bool((n * squared - 1) / (n - 1) > mean.square().sum())  # without the bias of a mean of n rows

    low, high = STRETCHES
    if not too_narrow(low) or too_narrow(high):
        return 1.0, centre
    while high / low > 1 + 1e-6:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if too_narrow(middle) else (low, middle)
    return low, centre
