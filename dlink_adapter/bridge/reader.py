"""A captioner in closed form, which says in a second what a zero-shot captioner would make of bridged audio.

Trained on text alone, a captioner learns p(caption | condition), condition being what stands in for audio, and is then
shown bridged audio. The reader does the same with a normal distribution: it regresses text embeddings on the conditions
of captions, takes the spread of its errors on other captions for what a condition leaves open, and is tested on pairs.
It punishes a reader that is sure and wrong, which retrieval and cosines do not: where conditions are clean captions,
nothing seems to be left open, and bridged audio is read with a certainty that it does not deserve.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.bridge.press import press_ridge

LEAST_VARIANCE = 1e-3  # of the directions that are read, as a share of the largest
SURE = 0.1  # the smallest standard deviation of the errors, that of text being 1: no captioner is surer


def reading_gains(condition: Tensor, text: Tensor, seen: Tensor, true_condition: Tensor, true_text: Tensor) -> Tensor:
    """How much more likely true text is to a reader of what is seen than to one that sees nothing.

    Args:
        condition: (n, dim) what stood in for audio of the captions while the reader was trained.
        text: (n, dim) embeddings of those captions.
        seen: (m, dim) bridged audio of other clips.
        true_condition: (m, dim) what stands in for audio of a caption of each, which tells how sure the reader is.
        true_text: (m, dim) embeddings of these captions.

    Returns:
        (m,) nats a direction of text's principal axes; the higher, the better, and below 0 worse than to see nothing.
    """
    units = (normalize(x.double(), dim=-1) for x in (condition, text, seen, true_condition, true_text))
    condition, text, seen, true_condition, true_text = units
    mean, centre = text.mean(0), condition.mean(0)
    variances, axes = torch.linalg.eigh(torch.cov(text.T, correction=0))
    read = variances > LEAST_VARIANCE * variances[-1]
    whiten = axes[:, read] / variances[read].sqrt()
    truth, weight = (true_text - mean) @ whiten, press_ridge(condition - centre, (text - mean) @ whiten).weight
    unsure, error = (truth - (rows - centre) @ weight for rows in (true_condition, seen))
    spread = unsure.square().mean(0).sqrt().clamp_min(SURE)
    return (truth.square() / 2 - (error / spread).square() / 2 - spread.log()).mean(-1)
