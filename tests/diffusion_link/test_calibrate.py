"""Calibration of the depth against the same choice by brute force."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.calibrate import COSINES, best_config
from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.training.fit import FitConfig


@pytest.fixture(scope="module")
def fitted(pairs):
    link = DiffusionLink(BridgeConfig(dim=32, time_dim=32, dropout=0.1, samples=4, cosine=0.9))
    link.fit(tuple(rows[:400] for rows in pairs), config=FitConfig(steps=60, lr=3e-3), progress=False)
    return link


@pytest.fixture
def train(pairs):
    return PairedEmbeddings.from_tensors(pairs[0][:400], pairs[1][:400])


@pytest.fixture
def val(pairs):
    noise = 2 * torch.randn(100, 32, generator=torch.Generator().manual_seed(0))
    return PairedEmbeddings.from_tensors(pairs[0][500:] + noise, pairs[1][500:])


def score(link, val, texts):
    """Paired cosine around the text mean, paired cosine and mean reciprocal rank, a row at a time."""
    ranks, cosines, centred = [], [], []
    mean = link.space.text_mean
    for row, audio in enumerate(val.audio):
        against = normalize(texts, dim=-1) @ link(audio)
        cosines.append(against[row].item())
        ranks.append(1 + sum(other > against[row] + 1e-6 for other in against).item())
        own = normalize(val.text[row], dim=-1)
        centred.append(torch.cosine_similarity(link(audio) - mean, own - mean, dim=-1).item())
    return sum(centred) / len(centred), sum(cosines) / len(cosines), sum(1 / rank for rank in ranks) / len(ranks)


def test_the_best_of_all_choices_among_all_captions(fitted, train, val):
    options = [replace(fitted.config, cosine=cosine) for cosine in (0.98, 0.7, 0.45)]
    scores = {}
    for fitted.config in options:
        scores[fitted.config] = score(fitted, val, torch.cat([val.text, train.text]))
    best, measured = best_config(fitted, options, train, val)
    assert best == max(scores, key=lambda option: scores[option][0] + scores[option][2])
    found = measured["centred_cosine"], measured["paired_cosine"], measured["mrr"]
    assert found == pytest.approx(scores[best], abs=1e-4) and measured["clips"] == 100


@pytest.mark.parametrize("depth", [{"cosine": 0.5}, {"timestep": 250}, {"timestep": 0}, {}])
def test_only_an_open_depth_is_chosen(fitted, train, val, depth):
    fitted.config = replace(fitted.config, **{"timestep": None, "cosine": None, **depth})
    given = fitted.config
    fitted.calibrate(train, val)
    assert fitted.config == given if depth else fitted.config.cosine in COSINES
    assert fitted.metadata["calibration"]["timestep"] == fitted.timestep


@pytest.mark.parametrize("mode", [True, False])
def test_it_draws_nothing_and_keeps_the_mode(fitted, train, val, mode):
    fitted.config = replace(fitted.config, timestep=None, cosine=None)
    state = torch.get_rng_state()
    fitted.train(mode).calibrate(train, val)
    assert torch.equal(torch.get_rng_state(), state) and fitted.training == mode
    fitted.eval()


def test_of_several_captions_the_first_counts(fitted, train, val):
    both = torch.stack([val.text, val.text.roll(1, 0)], dim=1).flatten(0, 1)
    several = PairedEmbeddings.from_tensors(val.audio, both, clip=torch.arange(100).repeat_interleave(2))
    options = [replace(fitted.config, timestep=None, cosine=0.9)]
    assert best_config(fitted, options, train, several) == best_config(fitted, options, train, val)
