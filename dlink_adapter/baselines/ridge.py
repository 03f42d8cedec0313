"""Ridge regression from centred audio to centred text, its strength chosen by leave-one-out error."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedFormBridge, ClosedFormConfig

STRENGTHS = tuple(10 ** (power / 2) for power in range(-6, 7))  # relative to the mean eigenvalue of audio^T audio


class Ridge(ClosedFormBridge):
    """W = argmin ||A W - T||^2 + strength ||W||^2 in the coordinates of `EmbeddingSpace`; text passes through."""

    name = "ridge"
    weight: Tensor

    def __init__(self, config: ClosedFormConfig):
        super().__init__(config)
        self.register_buffer("weight", torch.zeros(config.dim, config.dim))

    def fit(self, audio: Tensor, text: Tensor) -> None:
        super().fit(audio, text)
        a, t = self.space.encode(audio.double()), self.space.encode(text.double(), "text")
        eigenvalues, vectors = torch.linalg.eigh(a.T @ a)
        rotated, projected = a @ vectors, vectors.T @ (a.T @ t)
        errors = {}
        for strength in STRENGTHS:
            shrunk = 1 / (eigenvalues + strength * eigenvalues.mean())
            leverage = (rotated.square() * shrunk).sum(-1, keepdim=True)
            residual = (t - rotated @ (shrunk.unsqueeze(-1) * projected)) / (1 - leverage).clamp_min(1e-6)
            errors[strength] = residual.square().mean().item()  # the exact leave-one-out error (Allen's PRESS)
        best = min(errors, key=errors.__getitem__)
        shrunk = 1 / (eigenvalues + best * eigenvalues.mean())
        self.weight.copy_(vectors @ (shrunk.unsqueeze(-1) * projected))
        self.metadata["strength"] = best

    def bridge(self, x: Tensor, modality: str, generator: Generator | None, samples: int | None) -> Tensor:
        if modality == "text":
            return normalize(x, dim=-1)
        return self.space.decode(self.space.encode(x) @ self.weight.to(x))
