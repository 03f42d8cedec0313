"""Residual: a bridge, and as much of what another adds to it as held-out pairs say is worth it. Ours."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.bridge.base import Bridge, Descend
from dlink_adapter.bridge.config import require, require_counts
from dlink_adapter.bridge.noise import Draws
from dlink_adapter.bridge.space import Modality
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.registry import new_bridge

MAX_CLIPS = 4096  # that the gain is chosen on


@dataclass(frozen=True)
class ResidualConfig:
    """Settings of `Residual`.

    Args:
        dim: width of the encoder's embeddings.
        base: name of the bridge that is added to.
        link: name of the bridge whose difference from it is added.
        base_settings: settings of `base`, as its config has them.
        link_settings: settings of `link`.
        gain: share of the difference that is added, in [0, 1]; None lets `fit` choose it on held-out pairs.
    """

    dim: int
    base: str = "kernel_ridge"
    link: str = "diffusion_link"
    base_settings: dict[str, Any] = field(default_factory=dict)
    link_settings: dict[str, Any] = field(default_factory=dict)
    gain: float | None = None

    def __post_init__(self) -> None:
        require_counts(self, "dim")
        require(self.gain is None or 0 <= self.gain <= 1, self, "gain", "in [0, 1]")


class Residual(Bridge):
    """normalize(base(x) + gain * (link(x) - base(x))). With a gain of 0 the link is not called."""

    name = "residual"
    config_class = ResidualConfig

    def __init__(self, config: ResidualConfig, base: Bridge | None = None, link: Bridge | None = None):
        super().__init__(config)
        self.base = base or new_bridge(config.base, config.dim, config.base_settings)
        self.link = link or new_bridge(config.link, config.dim, config.link_settings)

    @classmethod
    def of(cls, base: Bridge, link: Bridge) -> Self:
        """Join two bridges that are there; `choose_gain`, or `fit`, finds the gain."""
        if base.dim != link.dim:
            raise ValueError(f"the base has dim {base.dim}, the link {link.dim}: they must share a space")
        joined = cls(ResidualConfig(base.dim, base.name, link.name, base.settings(), link.settings()), base, link)
        if (fingerprint := base.metadata.get("fingerprint")) is not None:
            link.check_encoder(fingerprint)
            joined.metadata["fingerprint"] = fingerprint
        return joined

    @property
    def is_fitted(self) -> bool:
        return self.base.is_fitted and self.link.is_fitted and self.config.gain is not None

    @property
    def training_rows(self) -> int:
        return self.base.training_rows + self.link.training_rows

    def settings(self) -> dict[str, Any]:
        nested = {"base_settings": self.base.settings(), "link_settings": self.link.settings()}
        return {**vars(self.config), **nested}

    def learn(self, pairs: PairedEmbeddings, descend: Descend) -> None:
        for part in (self.base, self.link):
            part.learn(pairs, descend)
            part.eval()

    def calibrate(self, train: PairedEmbeddings, val: PairedEmbeddings) -> None:
        for part in (self.base, self.link):
            part.calibrate(train, val)
        self.metadata |= {"base": self.base.metadata, "link": self.link.metadata}
        if self.config.gain is None:
            self.choose_gain(val)

    def choose_gain(self, val: PairedEmbeddings) -> None:
        """Set the gain to the one that leaves the least squared error on pairs that both were not fitted on."""
        val = val.sample(MAX_CLIPS)
        of_base, of_link = (part.map_rows(val.audio).double() for part in (self.base, self.link))
        added, error = of_link - of_base, normalize(val.first_captions().double(), dim=-1) - of_base
        gain = ((error * added).sum() / added.square().sum().clamp_min(1e-12)).clamp(0, 1).item()
        self.config = replace(self.config, gain=gain)
        self.metadata["gain"] = gain

    def bridge(self, x: Tensor, modality: Modality, generator: Draws, samples: int | None) -> Tensor:
        estimate, gain = self.base.bridge(x, modality, generator, samples), self.config.gain
        if gain == 0:
            return estimate
        return normalize(estimate + gain * (self.link.bridge(x, modality, generator, samples) - estimate), dim=-1)
