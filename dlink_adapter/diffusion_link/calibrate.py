"""Chooses the depth on held-out pairs: with too little noise the gap stays open, too much erases the meaning.

What counts is a zero-shot captioner: trained on captions that were noised and denoised, it is shown audio that was.
Cosine and retrieval of bridged audio hardly gain from noise; a captioner can, because the noise covers the difference
that is left between the two clouds.
"""

from collections.abc import Sequence

from dlink_adapter.bridge.base import TrainedBridge
from dlink_adapter.bridge.reader import reading_gains
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.config import BridgeConfig

COSINES = (0.995, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # of the noised embedding with the clean one
MAX_CLIPS = 4096  # that are looked at; of the training captions as many


def best_config(
    link: TrainedBridge, options: Sequence[BridgeConfig], train: PairedEmbeddings, val: PairedEmbeddings
) -> tuple[BridgeConfig, dict[str, float]]:
    """The config with which a reader of `link` does best on held-out pairs, and what was measured with it.

    The reader (`reading_gains`) learns from the captions of `train`, a draw of the link each, and reads the audio of
    `val` as the link gives it in eval mode.
    """
    train, val = train.sample(MAX_CLIPS), val.sample(MAX_CLIPS)
    text, true_text = train.first_captions().float(), val.first_captions().float()
    found: dict[BridgeConfig, float] = {}
    for link.config in options:
        drawn, true_drawn = (link.map_rows(rows, "text", seed=0) for rows in (text, true_text))
        gains = reading_gains(drawn, text, link.map_rows(val.audio), true_drawn, true_text)
        found[link.config] = gains.mean().item()
    best = max(found, key=lambda option: found[option])
    return best, {"reading_gain": found[best], "clips": val.clips}
