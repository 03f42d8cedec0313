"""Kernel ridge regression from centred audio to centred text, everything chosen by leave-one-out error."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedForm
from dlink_adapter.bridge.config import DimConfig
from dlink_adapter.bridge.press import RidgeFit, press_ridge
from dlink_adapter.data.embeddings import PairedEmbeddings

SHARPNESS = (1 / 64, 1 / 16, 0.25, 0.5, 1.0, 2.0, 4.0)  # from next to linear on
LANDMARKS = 1024
SAMPLE = 16384  # rows that are left out in turn
FEW = 512  # rows that the sharpness is chosen on; everything else is on all of them
BLOCK_ROWS = 8192


class KernelRidge(ClosedForm):
    """s a + sum_j k(a, a_j) c_j of coordinates a, with k(a, b) = (exp(g cos(a, b)) - 1) / (exp(g) - 1).

    The sharpness g, the ridge's strength and s, the share of the input that the rest is added to, are those with the
    smallest leave-one-out error, g on `FEW` rows. The a_j are the training clips, or `LANDMARKS` of them where they are
    more, through which the kernel is then seen (Williams and Seeger, NeurIPS 2000).
    """

    name = "kernel_ridge"
    data_sized = ("landmarks", "dual")
    landmarks: Tensor  # (m, dim), unit norm
    dual: Tensor  # (m, dim), the c_j
    sharpness: Tensor
    anchor: Tensor  # s

    def __init__(self, config: DimConfig):
        super().__init__(config)
        for name in self.data_sized:
            self.register_buffer(name, torch.zeros(0, config.dim))
        for name in ("sharpness", "anchor"):
            self.register_buffer(name, torch.tensor(torch.nan))

    @property
    def training_rows(self) -> int:
        return len(self.landmarks)

    def solve(self, pairs: PairedEmbeddings) -> None:
        a, t = self.clip_coordinates(pairs)
        order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0))
        a, t = a[order], t[order]
        few = a[:FEW], t[:FEW]
        best = min(SHARPNESS, key=lambda sharpness: _fit(*few, normalize(few[0], dim=-1), sharpness).error)
        landmarks = normalize(a[:LANDMARKS], dim=-1)
        found = _fit(a, t, landmarks, best)
        self.landmarks, self.dual = landmarks.to(self.landmarks), found.weight.to(self.dual)
        self.sharpness.fill_(best)
        self.anchor.fill_(found.anchor_scale)
        self.metadata |= {"sharpness": best, "strength": found.strength, "anchor": round(found.anchor_scale, 4)}

    def move(self, x: Tensor) -> Tensor:
        a = self.space.encode(x)
        similar = kernel(a, self.landmarks.to(a), self.sharpness)
        return self.space.decode(self.anchor.to(a) * a + similar @ self.dual.to(a))


def kernel(a: Tensor, landmarks: Tensor, sharpness: Tensor | float) -> Tensor:
    """(exp(g cos) - 1) / (exp(g) - 1) of rows (..., dim) and unit rows (m, dim): RBF less its constant.

    Without the constant it tends to the cosine as g tends to 0.
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
    found = press_ridge(features, t[:SAMPLE], a[:SAMPLE], (gram, cross))
    return found._replace(weight=whiten @ found.weight)
