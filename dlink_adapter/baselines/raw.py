"""No bridge: the raw swap of an audio embedding for a text embedding."""

from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedFormBridge
from dlink_adapter.bridge.noise import Draws


class Raw(ClosedFormBridge):
    """x, unit-normed."""

    name = "raw"

    @property
    def is_fitted(self) -> bool:
        return True

    def bridge(self, x: Tensor, modality: str, generator: Draws, samples: int | None) -> Tensor:
        return normalize(x, dim=-1)
