"""How sure a corpus score is: bootstrap intervals over clips, and a paired test of two systems on the same clips.

Every corpus score here is a function of sums over the clips: of n-gram counts for BLEU, of matches for METEOR, of
scores for a mean. So a resample of the clips is a weighted sum, and no caption is scored twice. Intervals are
percentiles of the bootstrap (Efron, 1979; Koehn, EMNLP 2004). p is that of approximate randomisation, two-sided: how
often the systems differ as much when they swap their captions of random clips (Noreen, 1989; Riezler and Maxwell,
2005).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES = 10_000
CHUNK = 500  # resamples in memory at a time
LEVEL = 0.95
ROUNDING = 1e-12  # differences closer than this are the same one


@dataclass(frozen=True)
class Pooled:
    """A corpus score as a function of sums over clips.

    Args:
        counts: float64 (clips, k), what is summed.
        score: sums (..., k) to scores (...,).
    """

    counts: Tensor
    score: Callable[[Tensor], Tensor]

    @classmethod
    def mean(cls, values: Sequence[float]) -> "Pooled":
        """The score that is the mean of the clips' scores."""
        column = torch.tensor(values, dtype=torch.float64)
        return cls(torch.stack([column, torch.ones_like(column)], dim=-1), lambda sums: sums[..., 0] / sums[..., 1])

    def __call__(self, weights: Tensor) -> Tensor:
        """Scores (n,) of the corpora in which a clip counts as often as `weights` (n, clips) say."""
        return self.score(weights @ self.counts)


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One system's corpus score minus another's, its interval, and the probability of such a difference by chance."""

    difference: float
    interval: Interval
    p: float


def interval(score: Pooled, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The 95 % bootstrap interval of a corpus score. CIDEr-D keeps the idf of all references in every resample."""
    return _percentiles(torch.cat([score(weights) for weights in _bootstrap(len(score.counts), resamples, seed)]))


def compare(ours: Pooled, theirs: Pooled, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare two systems whose rows of `counts` are the same clips. Raises ValueError on unequal numbers of clips."""
    clips = len(ours.counts)
    if len(theirs.counts) != clips:
        raise ValueError(f"a paired test needs the same clips: {clips} and {len(theirs.counts)} were scored")
    everything = torch.ones(1, clips, dtype=torch.float64)
    observed = (ours(everything) - theirs(everything)).item()
    drawn = [ours(weights) - theirs(weights) for weights in _bootstrap(clips, resamples, seed)]
    as_far = 0
    for kept in _coins(clips, resamples, seed):
        mixed = kept @ ours.counts + (1 - kept) @ theirs.counts
        swapped = (1 - kept) @ ours.counts + kept @ theirs.counts
        difference = ours.score(mixed) - theirs.score(swapped)
        as_far += int((difference.abs() >= abs(observed) - ROUNDING).sum())
    return Comparison(observed, _percentiles(torch.cat(drawn)), (1 + as_far) / (1 + resamples))


def _percentiles(scores: Tensor) -> Interval:
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=scores.dtype)
    return Interval(*scores.quantile(ends).tolist())


def _bootstrap(clips: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """How often each clip is drawn: (n, clips), a chunk of resamples at a time."""
    for count, generator in _chunks(resamples, seed):
        drawn = torch.randint(clips, (count, clips), generator=generator)
        yield torch.zeros(count, clips, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())


def _coins(clips: int, resamples: int, seed: int) -> Iterator[Tensor]:
    """0 or 1 for each clip: (n, clips), a chunk at a time."""
    for count, generator in _chunks(resamples, seed):
        yield torch.randint(2, (count, clips), generator=generator).double()


def _chunks(resamples: int, seed: int) -> Iterator[tuple[int, torch.Generator]]:
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, resamples, CHUNK):
        yield min(CHUNK, resamples - start), generator
