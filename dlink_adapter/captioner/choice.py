"""Which of several captions to take.

mbr         the one nearest to all others: by the encoder's text tower, or by ROUGE-L where there is none
encoder     the one whose text embedding is nearest to the bridged audio
likelihood  the one that is likeliest to the language model
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from dlink_adapter.captioner.candidates import Candidates
from dlink_adapter.extras import import_extra

Choice = Literal["mbr", "encoder", "likelihood"]


def choose_best(candidates: Candidates, by: Choice) -> list[int]:
    """The place of the best candidate of each clip. Raises ValueError on an unknown way to choose."""
    if by not in CHOICES:
        raise ValueError(f"choose is {by!r}: expected {', '.join(CHOICES)}")
    if candidates.log_likelihood.shape[1] == 1:
        return [0] * len(candidates.captions)
    places: list[int] = CHOICES[by](candidates).argmax(-1).tolist()
    return places


def agreement(candidates: Candidates) -> Tensor:
    """(n, k): how much each candidate has in common with all of its clip."""
    if candidates.embedding is None:
        return torch.tensor([_rouge(captions) for captions in candidates.captions])
    return (candidates.embedding @ candidates.embedding.transpose(1, 2)).mean(-1)


def _rouge(captions: list[str]) -> list[float]:
    rouge = import_extra("pycocoevalcap.rouge.rouge", "metrics").Rouge()
    return [sum(rouge.calc_score([one], [other]) for other in captions) / len(captions) for one in captions]


CHOICES: dict[str, Callable[[Candidates], Tensor]] = {
    "mbr": agreement,
    "encoder": lambda candidates: candidates.match,
    "likelihood": lambda candidates: candidates.log_likelihood,
}
