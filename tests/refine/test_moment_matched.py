"""MomentMatched: the moments it promises, behind any bridge."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.baselines.ridge import Ridge
from dlink_adapter.bridge.config import DimConfig
from dlink_adapter.bridge.space import unit_mean
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.refine.moment_matched import MomentMatched, matching_moments, moved
from dlink_adapter.registry import new_bridge


@pytest.fixture
def noisy(pairs):
    """(train, val): pairs of which an estimate is unsure, so that it is less spread out than text."""
    noise = 2 * torch.randn(pairs[0].shape, generator=torch.Generator().manual_seed(0))
    return [
        PairedEmbeddings.from_tensors((pairs[0] + noise)[part], pairs[1][part])
        for part in (slice(400), slice(400, 600))
    ]


def spread(rows):
    return (1 - unit_mean(rows).square().sum()).item()


def test_estimates_get_the_spread_of_text_and_the_length_of_its_mean():
    draw = torch.Generator().manual_seed(0)
    text = normalize(torch.randn(2000, 16, generator=draw, dtype=torch.float64) + 0.7, dim=-1)
    estimates = normalize(0.3 * (text - text.mean(0)) + text.mean(0), dim=-1)
    mean = unit_mean(text)
    matched = moved(estimates, mean, *matching_moments(estimates, mean))
    assert spread(estimates) < 0.3 * spread(text)
    assert spread(matched) == pytest.approx(spread(text), rel=1e-3)
    assert unit_mean(matched).norm().item() == pytest.approx(mean.norm().item(), rel=1e-3)


def test_text_itself_is_left_alone():
    text = normalize(torch.randn(500, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1, dim=-1)
    mean = unit_mean(text)
    torch.testing.assert_close(moved(text, mean, *matching_moments(text, mean)), text, rtol=0, atol=2e-3)


@pytest.mark.parametrize("clips", [10, 20, 50])
def test_few_clips_do_not_make_it_stretch(clips):
    """The mean of few rows is too long by chance; text itself needs no stretch, however few texts are looked at."""
    draw = torch.Generator().manual_seed(0)
    text = normalize(torch.randn(4000, 64, generator=draw, dtype=torch.float64) + 0.5, dim=-1)
    mean = unit_mean(text)
    found = [matching_moments(rows, mean)[0] for rows in text.split(clips)[:40]]
    assert sum(found) / len(found) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("name", ["ridge", "kernel_ridge", "memory"])
def test_new_bridged_audio_has_the_spread_of_text(name, noisy):
    train, val = noisy
    one, other = val.split((0.5, 0.5))
    base = new_bridge(name, 32)
    base.learn(train, None)
    matched = MomentMatched.of(base)
    matched.find_moments(train, one)
    before, after = (spread(bridge(other.audio).double()) / spread(train.text) for bridge in (base, matched))
    assert before < 0.96 and abs(1 - after) < 0.7 * (1 - before)


def test_estimates_without_any_spread_are_finite(noisy):
    """A base that says the same of everything: nothing is stretched to NaN."""
    train, val = noisy
    base = Ridge(DimConfig(32))
    base.learn(train, None)
    base.weight.zero_()
    matched = MomentMatched.of(base)
    matched.find_moments(train, val)
    assert matched.stretch[0] == 1 and matched.is_fitted
    torch.testing.assert_close(matched(val.audio), normalize(matched.text_mean, dim=-1).expand(200, 32))


def test_it_wraps_a_bridge_that_is_there_or_fits_one(noisy):
    train, val = noisy
    base = new_bridge("ridge", 32)
    wrapped, whole = MomentMatched.of(base), new_bridge("moment_matched", 32, {"base": "ridge"})
    base.learn(train, None)
    wrapped.find_moments(train, val)
    whole.fit(train, val=val)
    assert torch.equal(wrapped(val.audio), whole(val.audio)) and wrapped.settings() == whole.settings()


def test_unfitted(noisy):
    base = new_bridge("ridge", 32)
    base.learn(noisy[0], None)
    with pytest.raises(ValueError, match="this MomentMatched is not fitted"):
        MomentMatched.of(base)(noisy[0].audio)


def test_it_keeps_to_the_encoder_of_its_base_and_finds_the_same_in_train_mode(make_link, noisy):
    train, val = noisy
    link = make_link(dim=32)
    link.metadata["fingerprint"] = "clap-1"
    one, other = MomentMatched.of(link), MomentMatched.of(link)
    one.find_moments(train, val)
    other.train().find_moments(train, val)
    assert torch.equal(one.stretch, other.stretch) and other.training
    with pytest.raises(ValueError, match="fitted on the encoder clap-1"):
        one.check_encoder("clap-2")


def test_an_unknown_base():
    with pytest.raises(ValueError, match="unknown bridge 'bride'; known: raw"):
        new_bridge("moment_matched", 32, {"base": "bride"})
