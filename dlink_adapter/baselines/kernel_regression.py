"""Kernel ridge regression between two sets of coordinates: the strongest smooth map with a closed form."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from dlink_adapter.baselines.leave_one_out import RidgeFit, ridge_by_leave_one_out

SHARPNESS = (1 / 64, 1 / 16, 0.25, 0.5, 1.0, 2.0, 4.0)  # from next to linear on
SAMPLE = 16384  # rows that are left out in turn
FEW = 512  # rows that the sharpness is chosen on; everything else is on all of them
BLOCK_ROWS = 8192


class KernelRegression(nn.Module):
    """s a + sum_j k(a, a_j) c_j of rows a (..., dim), with k(a, b) = (exp(g cos(a, b)) - 1) / (exp(g) - 1).

    The sharpness g, the ridge's strength and s, the share of the input that the rest is added to, are those with the
    smallest leave-one-out error, g on `FEW` rows.

    Args:
        dim: width of a row.
        landmarks: the most a_j there can be; with more rows than that, the kernel is seen through so many of them
            (Williams and Seeger, NeurIPS 2000). With fewer, the places that are left are zero.
    """

    landmarks: Tensor  # (landmarks, dim), unit norm
    dual: Tensor  # (landmarks, dim), the c_j
    sharpness: Tensor
    share: Tensor

    def __init__(self, dim: int, landmarks: int = 1024):
        super().__init__()
        self.register_buffer("landmarks", torch.zeros(landmarks, dim))
        self.register_buffer("dual", torch.zeros(landmarks, dim))
        self.register_buffer("sharpness", torch.tensor(torch.nan))
        self.register_buffer("share", torch.tensor(torch.nan))

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` was called, or fitted values were loaded. Waits for the device."""
        return bool(self.sharpness.isfinite())

    def fit(self, a: Tensor, t: Tensor) -> tuple[dict[str, float], Tensor]:
        """Regress t on a, both (n, dim) in float64.

        Returns:
            The settings that were chosen, and what each row of t is predicted to be when it is left out, (n, dim); with
            more than `SAMPLE` rows only so many are left out.
        """
        order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0)).to(a.device)
        a, t = a[order], t[order]
        few = a[:FEW], t[:FEW]
        best = min(SHARPNESS, key=lambda sharpness: _fit(*few, normalize(few[0], dim=-1), sharpness).error)
        landmarks = normalize(a[: len(self.landmarks)], dim=-1)
        found = _fit(a, t, landmarks, best)
        for buffer, rows in ((self.landmarks, landmarks), (self.dual, found.weight)):
            buffer.zero_()[: len(rows)] = rows
        self.sharpness.fill_(best)
        self.share.fill_(found.anchor_scale)
        predicted = self(a)
        predicted[: len(found.left_out)] = t[: len(found.left_out)] - found.left_out
        settings = {"sharpness": best, "strength": found.strength, "share": round(found.anchor_scale, 4)}
        return settings, predicted[order.argsort()]

    def forward(self, a: Tensor) -> Tensor:
        similar = kernel(a, self.landmarks.to(a), self.sharpness.to(a))
        return self.share.to(a) * a + similar @ self.dual.to(a)


def kernel(a: Tensor, landmarks: Tensor, sharpness: Tensor | float) -> Tensor:
    """(exp(g cos) - 1) / (exp(g) - 1) of rows (..., dim) and unit rows (m, dim): RBF less its constant.

    So it tends to the cosine as g tends to 0, instead of to a constant that hides it.
    """
    sharpness = torch.as_tensor(sharpness).to(a)
    return (sharpness * (normalize(a, dim=-1) @ landmarks.T)).expm1() / sharpness.expm1()


def _fit(a: Tensor, t: Tensor, landmarks: Tensor, sharpness: float) -> RidgeFit:
    """Ridge on K(a, landmarks) K(landmarks, landmarks)^(-1/2): kernel ridge itself where every row is a landmark."""
    eigenvalues, vectors = torch.linalg.eigh(kernel(landmarks, landmarks, sharpness))
    seen = eigenvalues > 1e-10 * eigenvalues[-1]
    whiten = vectors[:, seen] / eigenvalues[seen].sqrt()
    gram, cross = a.new_zeros(len(whiten.T), len(whiten.T)), a.new_zeros(len(whiten.T), 2 * a.shape[-1])
    for some_a, some_t in zip(a.split(BLOCK_ROWS), t.split(BLOCK_ROWS), strict=True):
        features = kernel(some_a, landmarks, sharpness) @ whiten
        gram, cross = gram + features.T @ features, cross + features.T @ torch.cat([some_t, some_a], dim=-1)
    features = kernel(a[:SAMPLE], landmarks, sharpness) @ whiten
    found = ridge_by_leave_one_out(features, t[:SAMPLE], a[:SAMPLE], (gram, cross))
    return found._replace(weight=whiten @ found.weight)
