"""Ridge regression from centred audio to centred text, its strength chosen by leave-one-out error."""

from torch import Tensor

from dlink_adapter.baselines.leave_one_out import ridge_by_leave_one_out
from dlink_adapter.baselines.linear import LinearBridge


class Ridge(LinearBridge):
    """W = argmin ||A W - T||^2 + strength ||W||^2."""

    name = "ridge"

    def solve(self, a: Tensor, t: Tensor) -> Tensor:
        found = ridge_by_leave_one_out(a, t)
        self.metadata["strength"] = found.strength
        return found.weight
