"""Intervals and paired tests against closed forms, plain resampling, and corpora that are scored again."""

import sys

import numpy as np
import pytest

from dlink_adapter.measure.caption_metrics import score
from dlink_adapter.measure.caption_scorers import BLEU
from dlink_adapter.measure.significance import Pooled, compare, interval, over_clips_and_seeds
from dlink_adapter.soundscapes import captions as grammar
from dlink_adapter.soundscapes.world import World


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    return np.random.default_rng(0).normal(size=300) + 0.1


def test_the_interval_of_a_mean_is_that_of_the_normal_law_and_of_numpy(values):
    found = interval(Pooled.mean(values), seed=3)
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    means = np.random.default_rng(1).choice(values, (10_000, len(values))).mean(1)
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.1 * half)


def test_the_randomisation_is_exact_where_all_swaps_can_be_listed():
    """Four clips, each better by one: of the 16 swaps two differ as much, so p is 1 / 8."""
    ours, theirs = Pooled.mean([2.0, 3.0, 4.0, 5.0]), Pooled.mean([1.0, 2.0, 3.0, 4.0])
    found = compare(ours, theirs, seed=1)
    assert found.difference == pytest.approx(1) and found.interval == pytest.approx((1, 1))
    assert found.p == pytest.approx(1 / 8)


def test_p_is_the_share_of_random_swaps_that_differ_as_much(values):
    draw = np.random.default_rng(1)
    other = values + 0.6 * draw.normal(size=300)
    found = compare(Pooled.mean(values), Pooled.mean(other))
    swapped = (draw.choice([-1, 1], (10_000, 300)) * (values - other)).mean(1)
    expected = (np.abs(swapped) >= abs((values - other).mean())).mean()
    assert 0.01 < expected < 0.9 and found.p == pytest.approx(expected, abs=0.02)


def test_rounding_does_not_tell_equal_differences_apart():
    """The sums are equal, but in floating point some of the swaps that also give equal sums do not."""
    assert compare(Pooled.mean([0.6, 0.4, 0.2, 0.5]), Pooled.mean([0.7, 0.2, 0.4, 0.4])).p == 1


def test_one_clip_has_one_resample():
    ours, theirs = Pooled.mean([0.5]), Pooled.mean([0.2])
    assert interval(ours) == (0.5, 0.5)
    found = compare(ours, theirs)
    assert (found.difference, found.interval, found.p) == (pytest.approx(0.3), pytest.approx((0.3, 0.3)), 1)


def test_the_same_system_twice_does_not_differ(values):
    found = compare(Pooled.mean(values), Pooled.mean(values))
    assert (found.difference, found.interval, found.p) == (0, (0, 0), 1)


def test_a_seed_gives_the_same_and_another_gives_another(values):
    pooled = Pooled.mean(values)
    assert interval(pooled, seed=1) == interval(pooled, seed=1) != interval(pooled, seed=2)


def test_over_clips_and_seeds_is_as_wide_as_both_vary():
    """A difference of seeds and one of clips, which add up: the variance of a mean is the sum of its parts."""
    draw = np.random.default_rng(0)
    of_seed, of_clip = draw.normal(size=(8, 1)), draw.normal(size=(1, 500))
    low, high = over_clips_and_seeds(3 + 0.2 * of_seed + 2 * of_clip)
    error = (0.04 * of_seed.var() / 8 + 4 * of_clip.var() / 500) ** 0.5
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.1)


def test_one_seed_leaves_the_interval_of_the_clips(values):
    assert over_clips_and_seeds(values[None]) == pytest.approx(interval(Pooled.mean(values)), abs=0.02)
    repeated = over_clips_and_seeds(np.repeat(values[None], 3, axis=0))
    assert repeated == pytest.approx(over_clips_and_seeds(values[None]), abs=1e-9)


def test_systems_are_drawn_together(values):
    """Their difference is the same on every clip, whichever are drawn."""
    assert over_clips_and_seeds((values + 0.1 - values)[None]) == pytest.approx((0.1, 0.1))


def test_a_resample_is_what_scoring_the_resample_gives():
    """BLEU and ROUGE-L of clips that are drawn twice or not at all; METEOR by the test of its own."""
    said, references = captions_of(24)
    drawn = np.random.default_rng(0).integers(24, size=24)
    names = (*BLEU, "rouge_l")
    whole = score(said, references, names, tokenizer="plain")
    again = score([said[i] for i in drawn], [references[i] for i in drawn], names, tokenizer="plain")
    for name in names:
        assert whole.pooled[name](np.arange(24)) == pytest.approx(whole.scores[name], abs=1e-12)
        assert whole.pooled[name](drawn) == pytest.approx(again.scores[name], abs=1e-12)


def captions_of(clips: int) -> tuple[list[str], list[list[str]]]:
    scenes = World(0, {"test": clips}).scenes("test")
    groups = [grammar.references(scene, 4, seed=0) for scene in scenes]
    return [group[0] for group in groups], [group[1:] for group in groups]


def test_missing_scipy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(ImportError, match=r'pip install "dlink-adapter\[metrics\]"'):
        interval(Pooled.mean([1.0, 2.0]))


def test_bad_input(values):
    with pytest.raises(ValueError, match="300 and 2 were scored"):
        compare(Pooled.mean(values), Pooled.mean([1.0, 2.0]))
    with pytest.raises(ValueError, match="`n_resamples` must be positive"):
        interval(Pooled.mean([1.0, 2.0]), resamples=0)
