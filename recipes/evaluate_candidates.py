"""What `dlink evaluate` says of candidates and confidences, where the predictions have any."""

from typing import Any

import numpy as np
import torch

from dlink_adapter.extract.encoders import load_encoder
from dlink_adapter.measure.caption_metrics import score
from dlink_adapter.measure.predictions import Matched
from dlink_adapter.measure.reliability import Reliability, reliability
from dlink_adapter.measure.right import right_captions

BEST_OF = ("cider_d", "spider")  # of which the best candidate counts, as in SPIDEr-max (Labbé et al., DCASE 2022)


def best_of(matched: Matched, tokenizer: Any) -> dict[str, float | None]:
    """The mean over the clips of the score of the best candidate, None for a metric that did not run, and their `k`.

    Where clips have different numbers of candidates, the first k of each count, k being the fewest.
    """
    lists, groups = [said.candidates for said in matched.predictions], [clip.captions for clip in matched.clips]
    k = min(map(len, lists))
    columns = [
        score([of_clip[column] for of_clip in lists], groups, BEST_OF, tokenizer=tokenizer) for column in range(k)
    ]
    best = {
        name: float(np.max([column.per_clip[name] for column in columns], axis=0).mean())
        if name in columns[0].per_clip
        else None
        for name in BEST_OF
    }
    return {"k": k, **best}


def confidence(matched: Matched, encoder: str, model: str) -> Reliability:
    """How far confidences can be relied on; the text tower of an encoder says which captions are right.

    Raises ValueError on a prediction without a confidence.
    """
    sure = [said.confidence for said in matched.predictions if said.confidence is not None]
    if len(sure) < len(matched.predictions):
        raise ValueError(f"{len(matched.predictions) - len(sure)} predictions have no confidence: leave out --model")
    groups = [clip.captions for clip in matched.clips]
    encode = load_encoder(encoder, model).encode_text
    clip = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
    right = right_captions(encode(matched.captions), encode([caption for group in groups for caption in group]), clip)
    return reliability(sure, right.tolist())
