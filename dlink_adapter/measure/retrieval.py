"""Cross-modal retrieval: recall and mean average precision in both directions, without a whole similarity matrix."""

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**23  # float64 similarities held at a time: 64 MiB


def retrieval(x: Tensor, y: Tensor, clip: Tensor) -> dict[str, float]:
    """Recall at 1, 5, 10 and mAP@10, from audio to text and, as `text_*`, from text to audio.

    x: (n, dim), y: (m, dim), clip: (m,) the row of x that each caption describes. Average precision is
    sum_k precision@k rel(k) over the first ten, divided by min(10, captions of the clip).
    """
    places = ranks(x[clip], y, torch.arange(len(y), device=y.device))  # (m,) of each caption, queried by its clip
    best = torch.full((len(x),), len(y), device=x.device).scatter_reduce(0, clip, places, "amin")
    back = ranks(y, x, clip)
    return {
        **{f"r_at_{k}": (best < k).double().mean().item() for k in (1, 5, 10)},
        "map_at_10": _mean_average_precision(places, clip, len(x)),
        **{f"text_r_at_{k}": (back < k).double().mean().item() for k in (1, 5, 10)},
        "text_map_at_10": torch.where(back < 10, 1 / (back + 1).double(), 0.0).mean().item(),
    }


def ranks(queries: Tensor, keys: Tensor, target: Tensor) -> Tensor:
    """(q,) the rank, from 0, of `keys[target[i]]` among the keys by similarity to `queries[i]`.

    Of keys with equal similarity the first is ranked first, as in argmax: a collapsed cloud has a recall of 1/n, not 1.
    """
    column = torch.arange(len(keys), device=keys.device)
    places = []
    for rows, similarity in similarities(queries, keys):
        goal = target[rows, None]
        right = similarity.gather(1, goal)
        ahead = (similarity > right) | ((similarity == right) & (column < goal))
        places.append(ahead.sum(-1))
    return torch.cat(places)


def _mean_average_precision(places: Tensor, clip: Tensor, clips: int) -> float:
    order = (clip * len(clip) + places).argsort()
    owner, places = clip[order], places[order]
    captions = torch.bincount(clip, minlength=clips)
    before = captions.cumsum(0) - captions
    nth = torch.arange(len(clip), device=clip.device) - before[owner] + 1  # of the clip's captions, best first
    precision = torch.where(places < 10, nth / (places + 1).double(), 0.0)
    return (precision.new_zeros(clips).index_add(0, owner, precision) / captions.clamp_max(10)).mean().item()


def similarities(queries: Tensor, keys: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The rows of some queries, and their products with all keys (rows, k), one block after another."""
    step = max(1, BLOCK_ELEMENTS // len(keys))
    for first in range(0, len(queries), step):
        rows = slice(first, first + step)
        yield rows, queries[rows] @ keys.T
