"""Calibration against the same choice by brute force."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.training.calibrate import COSINES, calibrate
from dlink_adapter.training.fit import FitConfig, fit


@pytest.fixture(scope="module")
def fitted(pairs):
    link = DiffusionLink(BridgeConfig(dim=32, time_dim=32, dropout=0.1, samples=4, depth=0.9, kernel=False))
    fit(link, tuple(rows[:400] for rows in pairs), config=FitConfig(steps=60, lr=3e-3, ema_decay=0.9), progress=False)
    return link


@pytest.fixture
def held_out(pairs):
    return PairedEmbeddings.from_tensors(pairs[0][500:], pairs[1][500:])


def score(link, pairs, text):
    """Paired cosine, mean reciprocal rank and paired cosine around the text mean, a row at a time."""
    ranks, cosines, centred = [], [], []
    mean = link.space.text_mean
    for row, audio in enumerate(pairs.audio):
        against = normalize(text, dim=-1) @ link(audio)
        cosines.append(against[row].item())
        ranks.append(1 + sum(other > against[row] + 1e-6 for other in against).item())
        own = normalize(text[row], dim=-1)
        centred.append(torch.cosine_similarity(link(audio) - mean, own - mean, dim=-1).item())
    return sum(cosines) / len(cosines), sum(1 / rank for rank in ranks) / len(ranks), sum(centred) / len(centred)


def test_the_best_of_all_choices(fitted, held_out):
    link, cosines = fitted, (0.98, 0.7, 0.45)
    scores = {}
    for depth in cosines:
        link.config = replace(link.config, depth=depth)
        scores[depth] = score(link, held_out, held_out.text)
    link.config = replace(link.config, depth=None)
    measured = calibrate(link, held_out, cosines=cosines)
    best = max(scores, key=lambda depth: scores[depth][1] + scores[depth][2])
    assert link.config.depth == measured["depth"] == best
    assert (measured["paired_cosine"], measured["mrr"]) == pytest.approx(scores[best][:2], abs=1e-4)
    assert link.metadata["calibration"] == measured and measured["clips"] == 100


def test_the_gain_is_the_best_share_of_what_the_network_adds(fitted, held_out):
    link = deepcopy(fitted)
    link.config = replace(link.config, depth=0.9)
    with torch.no_grad():
        for parameter in link.denoiser.out.parameters():
            parameter.mul_(30)
    gain = calibrate(link, held_out)["gain"]
    x0, target = link.space.encode(held_out.audio), link.space.encode(held_out.text, "text")

    @torch.no_grad()
    def error(share):
        link.gain.fill_(share)
        return (link.reconstruct(x0, link.estimate(x0)) - target).square().mean().item()

    assert 0 < gain < 1
    assert error(gain) < min(error(gain - 0.01), error(gain + 0.01))


def test_without_gain_the_closed_form_is_left_alone(make_link, pairs):
    link = make_link(dim=32)  # of random weights
    link.space.fit(*pairs)
    link.fit_regressions(*pairs, torch.arange(600))
    assert calibrate(link, PairedEmbeddings.from_tensors(*pairs))["gain"] == 0
    x0 = link.space.encode(pairs[0])
    torch.testing.assert_close(link.reconstruct(x0, link.estimate(x0)), link.estimate(x0))


def test_distractors_make_the_rank_harder(fitted, pairs):
    fitted.config = replace(fitted.config, depth=0.9)
    noise = 2 * torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    held_out = PairedEmbeddings.from_tensors(pairs[0][500:] + noise, pairs[1][500:])
    alone = calibrate(fitted, held_out)
    among = calibrate(fitted, held_out, pairs[1][:400])
    assert among["mrr"] < alone["mrr"] and among["paired_cosine"] == alone["paired_cosine"]
    expected = score(fitted, held_out, torch.cat([held_out.text, pairs[1][:400]]))
    assert (among["paired_cosine"], among["mrr"]) == pytest.approx(expected[:2], abs=1e-4)


@pytest.mark.parametrize("depth", [0.5, 250, 0, None])
def test_only_an_open_depth_is_chosen(fitted, held_out, depth):
    fitted.config = replace(fitted.config, depth=depth)
    calibrate(fitted, held_out)
    assert fitted.config.depth in (COSINES if depth is None else (depth,))


@pytest.mark.parametrize("train", [True, False])
def test_it_draws_nothing_and_keeps_the_mode(fitted, held_out, train):
    fitted.config = replace(fitted.config, depth=None)
    state = torch.get_rng_state()
    calibrate(fitted.train(train), held_out)
    assert torch.equal(torch.get_rng_state(), state) and fitted.training == train
    fitted.eval()


def test_of_several_captions_the_first_counts(fitted, pairs):
    fitted.config = replace(fitted.config, depth=0.9)
    audio, text = (rows[500:] for rows in pairs)
    both = torch.stack([text, text.roll(1, 0)], dim=1).flatten(0, 1)
    clip = torch.arange(100).repeat_interleave(2)
    several = PairedEmbeddings.from_tensors(audio, both, clip=clip)
    assert calibrate(fitted, several) == calibrate(fitted, PairedEmbeddings.from_tensors(audio, text))
