"""Bootstrap intervals of corpus scores, and a paired test of two systems on the same clips, by scipy.stats.

A corpus score is a function of sums over the clips: of n-gram counts for BLEU, of matches for METEOR, of the clips'
scores for a mean. So no caption is scored again for a resample of the clips. Intervals are percentiles of the bootstrap
(Efron, 1979; Koehn, EMNLP 2004). p is that of approximate randomisation, which swaps the captions of the two systems
for random clips, and is two-sided (Noreen, 1989; Riezler and Maxwell, 2005).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlink_adapter.extras import import_extra

Floats = NDArray[np.float64]

RESAMPLES = 10_000
BATCH = 100  # resamples in memory at a time
LEVEL = 0.95
DECIMALS = 12  # of a difference: without rounding, equal ones would differ by the order of their sums


@dataclass(frozen=True)
class Pooled:
    """A corpus score as a function of sums over clips: `score` maps sums (..., k) of `counts` (clips, k) to (...,)."""

    counts: Floats
    score: Callable[[Floats], Floats]

    @classmethod
    def mean(cls, values: Sequence[float] | Floats) -> "Pooled":
        """The corpus score that is the mean of the clips' scores."""
        return cls(np.stack([values, np.ones(len(values))], axis=-1), lambda sums: sums[..., 0] / sums[..., 1])

    @property
    def corpus(self) -> float:
        """The score of all clips together."""
        return float(self.score(self.counts.sum(axis=0)))

    @property
    def clips(self) -> list[float]:
        """The score of each clip alone."""
        return self.score(self.counts).tolist()

    def __call__(self, clips: NDArray[np.int64]) -> Floats:
        """Scores (...,) of corpora, each made of the clips whose rows are in `clips` (..., n), some more than once."""
        return self.score(self.counts[clips].sum(axis=-2))


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """One system's corpus score minus another's, its interval, and the p-value of no difference."""

    difference: float
    interval: Interval
    p: float


def interval(score: Pooled, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The 95 % bootstrap interval of a corpus score. CIDEr-D keeps the idf of all references in every resample."""
    return _bootstrap(lambda clips, axis: score(clips), [np.arange(len(score.counts))], resamples, seed)


def compare(ours: Pooled, theirs: Pooled, *, resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
    """Compare two systems whose rows of `counts` are the same clips. Raises ValueError on unequal numbers of clips."""
    clips = len(ours.counts)
    if len(theirs.counts) != clips:
        raise ValueError(f"a paired test needs the same clips: {clips} and {len(theirs.counts)} were scored")
    both = Pooled(np.concatenate([ours.counts, theirs.counts]), ours.score)
    rows = [np.arange(clips), np.arange(clips) + clips]  # of `both`

    def difference(left: NDArray[np.int64], right: NDArray[np.int64], axis: int) -> Floats:
        return np.round(both(left) - both(right), DECIMALS)

    observed, drawn = float(difference(rows[0], rows[1], axis=-1)), _bootstrap(difference, rows, resamples, seed)
    if clips == 1:  # scipy needs two
        return Comparison(observed, drawn, 1.0)
    test = import_extra("scipy.stats", "metrics").permutation_test(
        rows, difference, permutation_type="samples", n_resamples=resamples, batch=BATCH, rng=seed
    )
    return Comparison(observed, drawn, float(test.pvalue))


def over_clips_and_seeds(values: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """The 95 % interval of a mean over values (seeds, clips), both drawn anew in every resample.

    Values may be differences of two systems on the same clips and seeds. All calls draw the same clips and seeds.
    """
    of_seed, of_clip = _weights(*values.shape, resamples, seed)
    means = np.einsum("rn,rn->r", of_seed @ values, of_clip)
    return Interval(*map(float, np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])))


@cache
def _weights(seeds: int, clips: int, resamples: int, seed: int) -> tuple[Floats, Floats]:
    """How often each seed and each clip is drawn: (resamples, seeds) and (resamples, clips), rows that sum to 1."""
    rng = np.random.default_rng(seed)
    of_clip, of_seed = (rng.multinomial(n, np.full(n, 1 / n), resamples) / n for n in (clips, seeds))
    return of_seed, of_clip


def _bootstrap(statistic: Callable[..., Floats], rows: list[NDArray[np.int64]], resamples: int, seed: int) -> Interval:
    """The percentile interval of a statistic of paired rows, (n,) each, that are drawn together."""
    if len(rows[0]) == 1:  # scipy needs two; the only resample of one clip is that clip
        return Interval(*[float(statistic(*rows, axis=-1))] * 2)
    found = import_extra("scipy.stats", "metrics").bootstrap(
        rows, statistic, paired=True, method="percentile", confidence_level=LEVEL, n_resamples=resamples, batch=BATCH,
        rng=seed,
    )  # fmt: skip
    return Interval(*map(float, found.confidence_interval))
