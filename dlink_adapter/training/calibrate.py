"""Chooses how deep a bridge noises, on validation pairs: too little leaves the gap open, too much erases meaning.

And with it how much of what the network then adds to the closed form is kept.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from dlink_adapter.bridge.base import PretrainedBridge
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.link import DiffusionLink

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
    """Set the depth, if `link.config` leaves it open, to the best of these, and the gain; returns what was measured.

    The criterion is paired cosine, centred on the text mean, + mean reciprocal rank of each clip's own caption: a
    collapse to the mean wins the one and loses the other, and the gap after centring is what predicts captions (arXiv
    2604.00279). The rank is among the clips' captions and `distractors` (n, dim), other texts such as those
    of the training pairs: without them few clips tell little. At most `MAX_CLIPS` of each are looked at.

    The gain is the share of the network's correction that leaves the least squared error: where there are too few pairs
    for it to learn what the closed form misses, the closed form is left alone.
    """
    pairs = pairs.select(range(min(pairs.clips, MAX_CLIPS)))
    first = torch.searchsorted(pairs.clip, torch.arange(pairs.clips))
    device = link.space.text_mean.device
    audio, text = pairs.audio.to(device), normalize(pairs.text[first].to(device).float(), dim=-1)
    others = text[:0] if distractors is None else normalize(distractors[:MAX_CLIPS].to(device).float(), dim=-1)
    given, mode = link.config, link.training
    link.eval()
    scores, paired, gains = {}, {}, {}
    for depth in cosines if given.depth is None else [given.depth]:
        link.config = replace(given, depth=depth)
        gains[depth] = _best_gain(link, audio, text)
        bridged = bridge_rows(link, audio).float()
        centred = cosine_similarity(link.space.encode(bridged, "text"), link.space.encode(text, "text")).mean().item()
        scores[depth] = centred, _reciprocal_rank(bridged, text, others)
        paired[depth] = (bridged * text).sum(-1).mean().item()
    best = max(scores, key=lambda depth: sum(scores[depth]))
    link.config = replace(given, depth=best)
    link.gain.copy_(gains[best])
    measured = {"depth": best, "gain": gains[best].item(), "paired_cosine": paired[best], "mrr": scores[best][1]}
    link.metadata["calibration"] = measured = {**measured, "clips": pairs.clips}
    link.train(mode)
    return measured


def bridge_rows(bridge: PretrainedBridge, audio: Tensor) -> Tensor:
    """Audio (n, dim) -> (n, dim), some rows at a time."""
    return torch.cat([bridge(rows) for rows in audio.split(ROWS_AT_ONCE)])


def _best_gain(link: DiffusionLink, audio: Tensor, text: Tensor) -> Tensor:
    """Set and return the share, in [0, 1], of what the network adds that leaves the least squared error."""
    link.gain.fill_(1)
    x0 = link.space.encode(audio)
    estimate = link.estimate(x0)
    found = map(link.reconstruct, x0.split(ROWS_AT_ONCE), estimate.split(ROWS_AT_ONCE))
    added, error = torch.cat(list(found)) - estimate, link.space.encode(text, "text") - estimate
    link.gain.copy_(((error * added).sum() / added.square().sum().clamp_min(1e-12)).clamp(0, 1))
    return link.gain.clone()


def _reciprocal_rank(bridged: Tensor, text: Tensor, others: Tensor) -> float:
    """Mean reciprocal rank of each row's own text among all texts."""
    own = (bridged * text).sum(-1, keepdim=True)
    closer = torch.cat([bridged @ text.T > own + 1e-6, bridged @ others.T > own + 1e-6], dim=1)
    return (1 / (1 + closer.sum(-1))).mean().item()
