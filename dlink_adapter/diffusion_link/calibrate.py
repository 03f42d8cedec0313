"""Chooses the depth on held-out pairs: with too little noise the gap stays open, too much erases the meaning."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from dlink_adapter.bridge.base import TrainedBridge
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.config import BridgeConfig

COSINES = (0.995, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.45, 0.3)  # of the noised embedding with the clean one
MAX_CLIPS = 4096  # that are looked at; of the training captions as many


def best_config(
    link: TrainedBridge, options: Sequence[BridgeConfig], train: PairedEmbeddings, val: PairedEmbeddings
) -> tuple[BridgeConfig, dict[str, float]]:
    """The config with which `link` serves held-out pairs best, and what was measured with it.

    The criterion is paired cosine, centred on the text mean, + mean reciprocal rank of each clip's own caption: a
    collapse to the mean wins the first and loses the second, and the gap after centring is what predicts captions
    (arXiv 2604.00279). The rank is among the captions of `val` and of `train`.
    """
    val = val.sample(MAX_CLIPS)
    text = normalize(val.first_captions().float(), dim=-1)
    others = normalize(train.sample(MAX_CLIPS).text[:MAX_CLIPS].float(), dim=-1)
    mean = link.space.text_mean.cpu()
    found: dict[BridgeConfig, dict[str, float]] = {}
    for link.config in options:
        bridged = link.map_rows(val.audio)
        centred = cosine_similarity(bridged - mean, text - mean)
        paired = (bridged * text).sum(-1)
        measured = {"centred_cosine": centred, "paired_cosine": paired, "mrr": _reciprocal_rank(bridged, text, others)}
        found[link.config] = {name: value.mean().item() for name, value in measured.items()}
    best = max(found, key=lambda option: found[option]["centred_cosine"] + found[option]["mrr"])
    return best, {**found[best], "clips": val.clips}


def _reciprocal_rank(bridged: Tensor, text: Tensor, others: Tensor) -> Tensor:
    """1 / rank of each row's own text among all texts: (n,)."""
    own = (bridged * text).sum(-1, keepdim=True)
    closer = torch.cat([bridged @ text.T > own + 1e-6, bridged @ others.T > own + 1e-6], dim=1)
    return 1 / (1 + closer.sum(-1))
