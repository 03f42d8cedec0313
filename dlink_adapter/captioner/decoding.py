"""Ways to decode several rows together, as logits processors: the `generate` of any causal language model takes them.

`generate(..., logits_processor=LogitsProcessorList([Marginal(8)]))`, with greedy search in both cases.
"""

from collections.abc import Sequence
from math import log

import torch
from torch import Generator, Tensor


class Marginal:
    """One caption for `draws` rows that follow one another: the next token is the likeliest on average over them.

    Where rows are conditions drawn from p(condition | clip), this decodes from the marginal p(token | clip) instead of
    from a single condition. All rows of a clip come out alike.
    """

    def __init__(self, draws: int):
        self.draws = draws

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (clips x draws, vocabulary) -> log-probabilities of the same shape, equal for all rows of a clip."""
        of_draws = scores.float().log_softmax(-1).unflatten(0, (-1, self.draws))
        return (of_draws.logsumexp(1, keepdim=True) - log(self.draws)).expand_as(of_draws).flatten(0, 1)


class RowSampling:
    """Samples each row with a generator of its own, so that it does not depend on the rows beside it.

    The largest of log-probabilities with Gumbel noise is a sample (Gumbel, 1954), so that greedy search samples.
    """

    def __init__(self, generators: Sequence[Generator]):
        self.generators = generators

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) -> the same with noise."""
        exponential = [torch.empty_like(row, dtype=torch.float32).exponential_(generator=of_row)
                       for row, of_row in zip(scores, self.generators, strict=True)]  # fmt: skip
        return scores.float() - torch.stack(exponential).log()
