"""Ridge regression with its strength chosen by the exact leave-one-out error, in closed form (Allen's PRESS, 1974)."""

from typing import NamedTuple

import torch
from torch import Tensor

STRENGTHS = tuple(10 ** (power / 2) for power in range(-6, 7))  # relative to the mean eigenvalue of rows^T rows


class RidgeFit(NamedTuple):
    """rows @ weight + anchor_scale * anchor predicts the targets."""

    weight: Tensor  # (features, dim)
    anchor_scale: float
    strength: float
    left_out: Tensor  # (n, dim) target minus prediction of each row when it is left out

    @property
    def error(self) -> float:
        """The mean square of `left_out`."""
        return self.left_out.square().mean().item()


def press_ridge(
    rows: Tensor, targets: Tensor, anchor: Tensor | None = None, sums: tuple[Tensor, Tensor] | None = None
) -> RidgeFit:
    """Regress targets (n, dim) on rows (n, features), in float64, with the strength of `STRENGTHS` that is best.

    A row that is left out has the error e_i / (1 - H_ii), H being the hat matrix, so none has to be left out in fact.
    These errors are linear in the targets. That gives the share s of the anchor too, as a regression of the errors of
    the targets on those of the anchor.

    Args:
        rows, targets: the rows that are left out in turn.
        anchor: (n, dim) what to shrink to: s * anchor instead of zero.
        sums: rows^T rows and rows^T [targets, anchor], or rows^T targets without one, over all the data, where the rows
            are some of many.
    """
    dim = targets.shape[-1]
    both = targets if anchor is None else torch.cat([targets, anchor], dim=-1)
    gram, cross = (rows.T @ rows, rows.T @ both) if sums is None else sums
    eigenvalues, vectors = torch.linalg.eigh(gram)
    rotated, projected = rows @ vectors, vectors.T @ cross

    def fit(strength: float) -> RidgeFit:
        shrunk = 1 / (eigenvalues + strength * eigenvalues.mean())
        leverage = (rotated.square() * shrunk).sum(-1, keepdim=True)
        left_out = (both - rotated @ (shrunk.unsqueeze(-1) * projected)) / (1 - leverage).clamp_min(1e-6)
        if anchor is None:
            return RidgeFit(shrunk.unsqueeze(-1) * projected, 0.0, strength, left_out)
        error, anchor_error = left_out[:, :dim], left_out[:, dim:]
        scale = (error * anchor_error).sum() / anchor_error.square().sum().clamp_min(1e-12)
        weight = shrunk.unsqueeze(-1) * (projected[:, :dim] - scale * projected[:, dim:])
        return RidgeFit(weight, scale.item(), strength, error - scale * anchor_error)

    best = min((fit(strength) for strength in STRENGTHS), key=lambda fit: fit.error)  # one by one: each is (n, dim)
    return best._replace(weight=vectors @ best.weight)
