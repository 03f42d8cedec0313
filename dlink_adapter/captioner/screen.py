"""What a zero-shot captioner would make of a text condition behind a bridge, said in a second by a closed-form reader.

It orders conditions, and depths, behind one bridge. Between bridges under one condition it and captions do not agree.
"""

import torch
from torch import Generator, Tensor

from dlink_adapter.bridge.base import Bridge
from dlink_adapter.bridge.reader import reading_gains
from dlink_adapter.captioner.conditions import TextCondition
from dlink_adapter.data.embeddings import PairedEmbeddings

MAX_ROWS = 4096


@torch.no_grad()
def gains_behind(
    bridge: Bridge, condition: TextCondition, text: Tensor, clips: PairedEmbeddings, seed: int = 0
) -> Tensor:
    """What a reader makes of bridged clips, that was taught on captions in a text condition: `reading_gains` of each.

    Args:
        bridge: a fitted bridge, in eval mode on the CPU.
        condition: what the captions become, one draw each.
        text: (n, dim) embeddings of captions to teach it on, of which at most `MAX_ROWS` are looked at.
        clips: those to read, of which at most `MAX_ROWS` are.
        seed: of the draws.
    """
    text, clips, draw = text[:MAX_ROWS], clips.sample(MAX_ROWS), Generator().manual_seed(seed)
    true_text = clips.first_captions()
    drawn, true_drawn = (condition(rows.float(), bridge, draw) for rows in (text, true_text))
    return reading_gains(drawn, text, bridge.map_rows(clips.audio), true_drawn, true_text)
