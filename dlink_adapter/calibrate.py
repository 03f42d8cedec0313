"""Chooses how deep a bridge noises, on validation pairs: too little leaves the gap open, too much erases meaning."""

from dataclasses import replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from dlink_adapter.bridge import DiffusionLink
from dlink_adapter.embeddings import PairedEmbeddings

COSINES = (0.995, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.45)  # of the noised embedding with the clean one
MAX_CLIPS = 4096


@torch.no_grad()
def calibrate(link: DiffusionLink, pairs: PairedEmbeddings, cosines: tuple[float, ...] = COSINES) -> dict[str, float]:
    """Set `link.config.depth` to the best of `cosines` on validation pairs, unless it is set; returns what was measured.

    The criterion is paired cosine + mean reciprocal rank of the bridged audio among the captions: a mean collapse wins
    the one and loses the other. At most `MAX_CLIPS` clips are looked at, each with its first caption.
    """
    pairs = pairs.select(range(min(pairs.clips, MAX_CLIPS)))
    first = torch.searchsorted(pairs.clip, torch.arange(pairs.clips))
    device = link.space.text_mean.device
    audio, text = pairs.audio.to(device), normalize(pairs.text[first].to(device).float(), dim=-1)
    given = link.config.depth
    scores = {}
    for depth in [given] if given is not None else cosines:
        link.config = replace(link.config, depth=depth)
        scores[depth] = _agreement(link(audio, generator=Generator(device).manual_seed(0)).float(), text)
    best = max(scores, key=lambda depth: sum(scores[depth]))
    link.config = replace(link.config, depth=best)
    measured = {"depth": best, "paired_cosine": scores[best][0], "mrr": scores[best][1], "clips": pairs.clips}
    link.metadata["calibration"] = measured
    return measured


def _agreement(bridged: Tensor, text: Tensor) -> tuple[float, float]:
    """Mean paired cosine, and mean reciprocal rank of each row's own text."""
    cosines = bridged @ text.T
    own = cosines.diagonal()
    rank = (cosines > own.unsqueeze(-1)).sum(-1) + 1
    return own.mean().item(), (1 / rank).mean().item()
