"""Chooses how deep a bridge noises, on validation pairs: too little leaves the gap open, too much erases meaning."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.bridge import DiffusionLink
from dlink_adapter.embeddings import PairedEmbeddings
from dlink_adapter.pretrained import PretrainedBridge

COSINES = (0.995, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.45, 0.3)  # of the noised embedding with the clean one
MAX_CLIPS = 4096
ROWS_AT_ONCE = 512  # each is sent through the bridge with every sample of the noise


@torch.no_grad()
def calibrate(
    link: DiffusionLink,
    pairs: PairedEmbeddings,
    distractors: Tensor | None = None,
    *,
    cosines: tuple[float, ...] = COSINES,
) -> dict[str, float]:
    """Set the depth, if `link.config` leaves it open, to the best of these; returns what was measured.

    The criterion is paired cosine, centred on the text mean, + mean reciprocal rank of each clip's own caption: a
    collapse to the mean wins the one and loses the other, and the gap after centring is what predicts captions (arXiv
    2604.00279). The rank is among the clips' captions and `distractors` (n, dim), other texts such as those
    of the training pairs: without them few clips tell little. At most `MAX_CLIPS` of each are looked at.
    """
    pairs = pairs.select(range(min(pairs.clips, MAX_CLIPS)))
    first = torch.searchsorted(pairs.clip, torch.arange(pairs.clips))
    device = link.space.text_mean.device
    audio, text = pairs.audio.to(device), normalize(pairs.text[first].to(device).float(), dim=-1)
    others = text[:0] if distractors is None else normalize(distractors[:MAX_CLIPS].to(device).float(), dim=-1)
    given, mode = link.config, link.training
    link.eval()
    scores, paired = {}, {}
    for depth in cosines if given.depth is None else [given.depth]:
        link.config = replace(given, depth=depth)
        bridged = bridge_rows(link, audio).float()
        centred = (link.space.encode(bridged, "text") * link.space.encode(text, "text")).mean().item()
        scores[depth] = centred, _reciprocal_rank(bridged, text, others)
        paired[depth] = (bridged * text).sum(-1).mean().item()
    best = max(scores, key=lambda depth: sum(scores[depth]))
    link.config = replace(given, depth=best)
    measured = {"depth": best, "paired_cosine": paired[best], "mrr": scores[best][1], "clips": pairs.clips}
    link.metadata["calibration"] = measured
    link.train(mode)
    return measured


def bridge_rows(bridge: PretrainedBridge, audio: Tensor) -> Tensor:
    """Audio (n, dim) -> (n, dim), some rows at a time."""
    return torch.cat([bridge(rows) for rows in audio.split(ROWS_AT_ONCE)])


def _reciprocal_rank(bridged: Tensor, text: Tensor, others: Tensor) -> float:
    """Mean reciprocal rank of each row's own text among all texts."""
    own = (bridged * text).sum(-1, keepdim=True)
    closer = torch.cat([bridged @ text.T > own + 1e-6, bridged @ others.T > own + 1e-6], dim=1)
    return (1 / (1 + closer.sum(-1))).mean().item()
