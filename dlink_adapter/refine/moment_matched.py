"""MomentMatched: what a bridge gives, scaled and shifted towards the spread and the mean of text.

An estimate of text is less spread out than text, and estimates of unit norm lie further out along the mean of text than
text does. ReAlign (arXiv 2602.07026) matches both moments of raw audio; this does it behind any bridge. Ours.
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

ROUNDS = 5  # of finding the lift: unit norm takes a part of each step back
NO_SPREAD = 1e-6  # of the variance of text


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
    """normalize(lift * m + stretch * (base(x) - m)), m being the mean of text; two numbers for each modality.

    `stretch` is the geometric mean of leaving the spread of estimates, which is best for the cosine, and giving them
    that of text, which is best for geometry. `lift` gives them the mean of text along m. More than one direction of the
    mean would ask for more held-out clips than there are.
    """

    name = "moment_matched"
    config_class = MomentMatchedConfig
    stretch: Tensor  # (2,) of audio and of text
    lift: Tensor  # (2,)
    text_mean: Tensor

    def __init__(self, config: MomentMatchedConfig, base: Bridge | None = None):
        super().__init__(config)
        self.base = base or new_bridge(config.base, config.dim, config.base_settings)
        for name, shape in (("stretch", 2), ("lift", 2), ("text_mean", config.dim)):
            self.register_buffer(name, torch.full((shape,), torch.nan))

    @classmethod
    def of(cls, base: Bridge) -> Self:
        """Wrap a bridge that is there; `match`, or `fit`, finds the moments."""
        return cls(MomentMatchedConfig(base.dim, base.name, base.settings()), base)

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
        self.match(train, val)

    @torch.no_grad()
    def match(self, train: PairedEmbeddings, val: PairedEmbeddings) -> None:
        """Find the moments of text, and those of a fitted base on pairs that it was not fitted on."""
        mean = unit_mean(train.blocks("text"))
        self.text_mean.copy_(mean)
        for modality, rows in (("audio", val.audio), ("text", val.text)):
            row = int(modality == "text")
            self.stretch[row], self.lift[row] = moments(self.base.map_rows(rows, modality).double(), mean)
        self.metadata["moments"] = {"stretch": self.stretch.tolist(), "lift": self.lift.tolist()}
        self.metadata["base"] = self.base.metadata

    def bridge(self, x: Tensor, modality: Modality, generator: Draws, samples: int | None) -> Tensor:
        row, y = int(modality == "text"), self.base.bridge(x, modality, generator, samples)
        return moved(y, self.text_mean.to(y), self.stretch[row].to(y), self.lift[row].to(y))


def moved(y: Tensor, mean: Tensor, stretch: Tensor | float, lift: Tensor | float) -> Tensor:
    """normalize(lift * mean + stretch * (y - mean)) of unit-norm y (..., dim)."""
    return normalize(lift * mean + stretch * (y - mean), dim=-1)


def moments(estimates: Tensor, mean: Tensor) -> tuple[float, float]:
    """`stretch` and `lift` of unit-norm estimates (n, dim) of texts whose mean is `mean` (dim,), in float64.

    Estimates without any spread are not stretched: there is nothing in them to make larger.
    """
    of_text, spread = 1 - mean.square().sum(), 1 - unit_mean(estimates).square().sum()
    stretch = 1.0 if spread < NO_SPREAD * of_text else (of_text / spread).item() ** 0.25
    lift = 1.0
    for _ in range(ROUNDS):
        along = moved(estimates, mean, stretch, lift).mean(0) @ mean / mean.square().sum()
        lift += 1 - along.item()
    return stretch, lift
