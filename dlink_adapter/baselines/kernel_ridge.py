"""Kernel ridge regression from centred audio to centred text: the strongest smooth map with a closed form."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedFormBridge, ClosedFormConfig
from dlink_adapter.baselines.leave_one_out import RidgeFit, ridge_by_leave_one_out

SHARPNESS = (0.25, 0.5, 1.0, 2.0, 4.0)
LANDMARKS = 2048  # with more clips, the kernel is seen through this many of them (Williams and Seeger, NeurIPS 2000)
SAMPLE = 8192  # clips that are left out in turn
FEW = 512  # clips that the sharpness is chosen on; everything else is on all of them
BLOCK_ROWS = 8192


class KernelRidge(ClosedFormBridge):
    """s a + sum_j k(a, a_j) c_j in the coordinates of `EmbeddingSpace`, k(a, b) = exp(g (cos(a, b) - 1)).

    The sharpness g, the ridge's strength and s, the share of the input that the rest is added to, are those with the
    smallest leave-one-out error, g on `FEW` clips. Text passes through.
    """

    name = "kernel_ridge"
    data_sized = ("landmarks", "dual")
    landmarks: Tensor  # (m, dim), unit norm
    dual: Tensor  # (m, dim), the c_j
    sharpness: Tensor
    share: Tensor

    def __init__(self, config: ClosedFormConfig):
        super().__init__(config)
        self.register_buffer("landmarks", torch.zeros(0, config.dim))
        self.register_buffer("dual", torch.zeros(0, config.dim))
        self.register_buffer("sharpness", torch.tensor(torch.nan))
        self.register_buffer("share", torch.tensor(torch.nan))

    def fit(self, audio: Tensor, text: Tensor) -> None:
        super().fit(audio, text)
        a, t = self.clip_coordinates(audio, text)
        order = torch.randperm(len(a), generator=torch.Generator().manual_seed(0)).to(a.device)
        a, t = a[order], t[order]
        few = a[:FEW], t[:FEW]
        best = min(SHARPNESS, key=lambda sharpness: _fit(*few, normalize(few[0], dim=-1), sharpness).error)
        landmarks = normalize(a[:LANDMARKS], dim=-1)
        found = _fit(a, t, landmarks, best)
        self.landmarks, self.dual = landmarks.to(self.landmarks), found.weight.to(self.dual)
        self.sharpness.fill_(best)
        self.share.fill_(found.anchor_scale)
        self.metadata |= {"sharpness": best, "strength": found.strength, "share": round(found.anchor_scale, 4)}

    def bridge(self, x: Tensor, modality: str, generator: Generator | None, samples: int | None) -> Tensor:
        if modality == "text":
            return normalize(x, dim=-1)
        a = self.space.encode(x)
        similar = kernel(a, self.landmarks.to(x), self.sharpness.to(x))
        return self.space.decode(self.share.to(x) * a + similar @ self.dual.to(x))


def kernel(a: Tensor, landmarks: Tensor, sharpness: Tensor | float) -> Tensor:
    """exp(g (cos - 1)) of coordinates (..., dim) and unit rows (m, dim): an RBF kernel of gamma g / 2."""
    return (sharpness * (normalize(a, dim=-1) @ landmarks.T - 1)).exp()


def _fit(a: Tensor, t: Tensor, landmarks: Tensor, sharpness: float) -> RidgeFit:
    """Ridge on K(a, landmarks) K(landmarks, landmarks)^(-1/2): kernel ridge itself where every clip is a landmark."""
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
