"""Intervals and paired tests against closed forms, scipy, and whole corpora scored again."""

import pytest
import torch

from dlink_adapter.measure.caption_metrics import score
from dlink_adapter.measure.caption_scorers import BLEU
from dlink_adapter.measure.significance import Pooled, compare, interval
from dlink_adapter.soundscapes import captions as grammar
from dlink_adapter.soundscapes.world import World


@pytest.fixture(scope="module")
def values() -> torch.Tensor:
    return torch.randn(300, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1


def test_the_interval_of_a_mean_is_that_of_the_normal_law_and_of_scipy(values):
    from scipy.stats import bootstrap

    found = interval(Pooled.mean(values.tolist()), seed=3)
    half = 1.96 * values.std().item() / len(values) ** 0.5
    assert found == pytest.approx((values.mean().item() - half, values.mean().item() + half), abs=0.1 * half)
    theirs = bootstrap((values.numpy(),), lambda x, axis: x.mean(axis), method="percentile", rng=0).confidence_interval
    assert found == pytest.approx(theirs, abs=0.1 * half)


def test_the_randomisation_is_exact_where_all_swaps_can_be_listed():
    """Four clips, each better by one: of the 16 swaps two differ as much, so p is 1 / 8."""
    ours, theirs = Pooled.mean([2.0, 3.0, 4.0, 5.0]), Pooled.mean([1.0, 2.0, 3.0, 4.0])
    found = compare(ours, theirs, seed=1)
    assert found.difference == pytest.approx(1) and found.interval == pytest.approx((1, 1))
    assert found.p == pytest.approx(1 / 8, abs=0.015)


def test_p_is_that_of_scipy(values):
    from scipy.stats import permutation_test

    noise = torch.randn(300, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    other = values + 0.6 * noise - 0.05
    found = compare(Pooled.mean(values.tolist()), Pooled.mean(other.tolist()))
    pair = values.numpy(), other.numpy()
    theirs = permutation_test(pair, lambda a, b, axis: (a - b).mean(axis), permutation_type="samples", rng=0)
    assert 0.01 < theirs.pvalue < 0.9 and found.p == pytest.approx(theirs.pvalue, abs=0.02)


def test_the_same_system_twice_does_not_differ(values):
    found = compare(Pooled.mean(values.tolist()), Pooled.mean(values.tolist()))
    assert (found.difference, found.interval, found.p) == (0, (0, 0), 1)


def test_a_seed_gives_the_same_and_another_gives_another(values):
    pooled = Pooled.mean(values.tolist())
    assert interval(pooled, seed=1) == interval(pooled, seed=1) != interval(pooled, seed=2)


def test_a_resample_is_what_scoring_the_resample_gives():
    """BLEU and ROUGE-L of clips that are drawn twice or not at all; METEOR by the test of its own."""
    said, references = captions_of(24)
    drawn = torch.randint(24, (24,), generator=torch.Generator().manual_seed(0)).tolist()
    weights = torch.bincount(torch.tensor(drawn), minlength=24).double()[None]
    names = (*BLEU, "rouge_l")
    whole = score(said, references, names, tokenizer="plain")
    again = score([said[i] for i in drawn], [references[i] for i in drawn], names, tokenizer="plain")
    for name in names:
        assert whole.pooled[name](torch.ones(1, 24).double()).item() == pytest.approx(whole.scores[name], abs=1e-12)
        assert whole.pooled[name](weights).item() == pytest.approx(again.scores[name], abs=1e-12)


def captions_of(clips: int) -> tuple[list[str], list[list[str]]]:
    scenes = World(0, {"test": clips}).scenes("test")
    groups = [grammar.references(scene, 4, seed=0) for scene in scenes]
    return [group[0] for group in groups], [group[1:] for group in groups]


def test_bad_input(values):
    with pytest.raises(ValueError, match="300 and 2 were scored"):
        compare(Pooled.mean(values.tolist()), Pooled.mean([1.0, 2.0]))
    with pytest.raises(ValueError, match="resamples must be at least 1, got 0"):
        interval(Pooled.mean([1.0]), resamples=0)
