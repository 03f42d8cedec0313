"""Pseudo-audio: where the audio that a caption describes might lie, with all that the caption leaves open.

Captions lie still where recordings scatter, and how they scatter depends on the sound: one is mistaken for another of
its kind. A captioner that learns from captions alone would trust directions of the embedding that audio does not
determine; shown pseudo-audio, it meets the uncertainty of audio without hearing any. It is the forward process of the
text branch with errors that real pairs made in place of isotropic noise; ours.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from dlink_adapter.baselines.leave_one_out import ridge_by_leave_one_out
from dlink_adapter.bridge.noise import ALONE, Draws, Share, normal

NEIGHBOURS = 8  # pairs whose errors a caption draws from
SAME = 1 - 1e-4  # the cosine from which on a caption is the same


class PseudoAudio(nn.Module):
    """text W + e: text coordinates (..., dim) -> audio coordinates (..., dim).

    W is a ridge regression from text to audio, e the leave-one-out error of one of the `NEIGHBOURS` pairs with the
    captions nearest to this one, drawn at random. Pairs with this very caption are left out: their audio is not heard.

    Args:
        dim: width of a row.
        exemplars: the most pairs that are kept to draw from. With fewer, the places that are left are zero.
    """

    weight: Tensor
    captions: Tensor  # (exemplars, dim), unit norm
    errors: Tensor  # (exemplars, dim)

    def __init__(self, dim: int, exemplars: int = 2048):
        super().__init__()
        self.register_buffer("weight", torch.eye(dim))
        self.register_buffer("captions", torch.zeros(exemplars, dim))
        self.register_buffer("errors", torch.zeros(exemplars, dim))

    def fit(self, audio: Tensor, text: Tensor) -> dict[str, float]:
        """Fit on coordinates of pairs, both (n, dim) in float64; returns what was found."""
        found = ridge_by_leave_one_out(text, audio)
        order = torch.randperm(len(text), generator=torch.Generator().manual_seed(0))
        kept = order[: len(self.captions)].to(text.device)
        self.weight.copy_(found.weight)
        for buffer, rows in ((self.captions, normalize(text, dim=-1)), (self.errors, found.left_out)):
            buffer.zero_()[: len(kept)] = rows[kept]
        return {"strength": found.strength, "unexplained": round(found.error / audio.square().mean().item(), 4)}

    def forward(self, text: Tensor, generator: Draws = None, *, noise: bool = True, share: Share = ALONE) -> Tensor:
        audio = text @ self.weight.to(text)
        if noise:
            audio = audio + self._errors_nearby(text, generator, share)
        return audio

    def _errors_nearby(self, text: Tensor, generator: Draws, share: Share) -> Tensor:
        captions = self.captions.to(text)
        similar = normalize(text, dim=-1) @ captions.T
        similar = similar.masked_fill((captions == 0).all(-1) | (similar > SAME), -torch.inf)
        similar, near = similar.topk(min(NEIGHBOURS, len(self.captions)), dim=-1)
        draws = normal(near.shape, text, generator, share).masked_fill(similar.isneginf(), -torch.inf)
        return self.errors.to(text)[near.gather(-1, draws.argmax(-1, keepdim=True)).squeeze(-1)]
