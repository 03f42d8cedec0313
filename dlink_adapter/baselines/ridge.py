"""Ridge regression from centred audio to centred text, its strength chosen by leave-one-out error."""

from torch import Tensor

from dlink_adapter.baselines.closed_form import LinearBridge
from dlink_adapter.bridge.press import press_ridge


class Ridge(LinearBridge):
    """W = argmin ||A W - T||^2 + strength ||W||^2."""

    name = "ridge"

    def regress(self, a: Tensor, t: Tensor) -> Tensor:
        found = press_ridge(a, t)
        self.metadata["strength"] = found.strength
        return found.weight
