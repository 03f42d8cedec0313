"""Plain regression with the bridge's own network and losses: what is left of Diffusion-Link without diffusion."""

from dataclasses import dataclass

from torch import Tensor

from dlink_adapter.bridge.config import BridgeConfig
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.training.fit import FitConfig, fit


@dataclass(frozen=True)
class RegressionConfig(BridgeConfig):
    """The settings of the bridge; nothing is noised or averaged, and no kernel ridge estimate is corrected."""

    depth: int | float | None = 0
    samples: int = 1
    kernel: bool = False
    pseudo_audio: bool = False


class Regression(DiffusionLink):
    """The three residual blocks, trained by `dlink_adapter.fit` on clean embeddings and called once on them.

    No noise: alpha_bar is 1 at every timestep. No time: the network is told that same level, always.
    """

    name = "regression"
    config_class = RegressionConfig

    @property
    def alpha_bars(self) -> tuple[float, ...]:
        """alpha_bar(t) = 1 for t = 0 ... T."""
        return (1.0,) * (self.config.timesteps + 1)

    def fit(self, audio: Tensor, text: Tensor, *, config: FitConfig | None = None, progress: bool = True) -> None:
        """Train on pairs, both (n, dim), as `dlink_adapter.fit` trains the bridge."""
        fit(self, (audio, text), config=config, progress=progress)
