"""Pseudo-audio: where the audio that a caption describes might lie, with all that the caption leaves open.

Captions lie still where recordings scatter. A captioner that learns from captions alone would trust directions of the
embedding that audio does not determine; shown pseudo-audio, it meets the uncertainty of audio without hearing any. It
is the forward process of the text branch with noise of audio's own covariance in place of isotropic noise; ours.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from dlink_adapter.leave_one_out import ridge_by_leave_one_out
from dlink_adapter.sharing import ALONE, Draws, Share, normal


class PseudoAudio(nn.Module):
    """text W + z R: text coordinates (..., dim) -> audio coordinates (..., dim) of norm sqrt(dim).

    W is a ridge regression from text to audio, R R^T the covariance of its leave-one-out errors, z normal.
    """

    weight: Tensor
    spread: Tensor

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("weight", torch.eye(dim))
        self.register_buffer("spread", torch.zeros(dim, dim))

    def fit(self, audio: Tensor, text: Tensor) -> dict[str, float]:
        """Fit on coordinates of pairs, both (n, dim) in float64; returns what was found."""
        found = ridge_by_leave_one_out(text, audio)
        variance, directions = torch.linalg.eigh(found.left_out.T @ found.left_out / len(audio))
        self.weight.copy_(found.weight)
        self.spread.copy_(directions * variance.clamp_min(0).sqrt() @ directions.T)
        return {"strength": found.strength, "unexplained": round(found.error / audio.square().mean().item(), 4)}

    def forward(self, text: Tensor, generator: Draws = None, *, noise: bool = True, share: Share = ALONE) -> Tensor:
        audio = text @ self.weight.to(text)
        if noise:
            audio = audio + normal(text.shape, text, generator, share) @ self.spread.to(text)
        return normalize(audio, dim=-1) * text.shape[-1] ** 0.5
