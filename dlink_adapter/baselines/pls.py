"""Partial least squares: regression in the few directions in which the two clouds vary together (COMET, 2605.29628)."""

import torch
from torch import Tensor

from dlink_adapter.baselines.closed_form import LinearBridge

DIRECTIONS = (8, 16, 32, 64, 100, 150, 200, 300, 400, 600, 800, 1000)
FOLDS = 5


class PLS(LinearBridge):
    """W = U B V^T: U and V the first k singular vectors of A^T T, B the least squares of T V on A U.

    k is the number of `DIRECTIONS` that is best when the clips are cross-validated; all of them are fitted after that.
    """

    name = "pls"

    def regress(self, a: Tensor, t: Tensor) -> Tensor:
        order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0)).to(a.device)
        errors: dict[int, float] = {}
        for fold in range(FOLDS):
            out = order[fold::FOLDS]
            kept = torch.ones(len(a), dtype=torch.bool, device=a.device).index_fill(0, out, False)
            for k, weight in _weights(a[kept], t[kept]).items():
                errors[k] = errors.get(k, 0.0) + (a[out] @ weight - t[out]).square().sum().item()
        self.metadata["directions"] = best = min(errors, key=errors.__getitem__)
        return _weights(a, t, (best,))[best]


def _weights(a: Tensor, t: Tensor, directions: tuple[int, ...] = DIRECTIONS) -> dict[int, Tensor]:
    """W by the number of directions, for those that rows and columns suffice for; the smallest is always there."""
    left, _, right = torch.linalg.svd(a.T @ t)
    scores = a @ left
    gram, cross = scores.T @ scores, scores.T @ (t @ right.T)
    gram.diagonal().add_(1e-10 * gram.trace())  # least squares of fewer clips than directions has no one solution
    room = min(a.shape)
    weights = {}
    for k in {min(directions[0], room), *(k for k in directions if k <= room)}:
        weights[k] = left[:, :k] @ torch.linalg.solve(gram[:k, :k], cross[:k, :k]) @ right[:k]
    return weights
