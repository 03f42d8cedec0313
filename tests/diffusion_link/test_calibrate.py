"""Calibration of the depth: what a reader says of each, and which is taken."""

from dataclasses import replace

import pytest
import torch

from dlink_adapter.bridge.reader import reading_gains
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.calibrate import COSINES, best_config
from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.training.config import FitConfig


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


def gain(link, train, val):
    """What a reader makes of it, who has seen one draw of each training caption."""

    def draw(text):
        return link(text, modality="text", generator=torch.Generator().manual_seed(0), samples=1)

    with torch.no_grad():
        return reading_gains(draw(train.text), train.text, link(val.audio), draw(val.text), val.text).mean().item()


def test_the_depth_is_the_one_that_a_reader_does_best_with(fitted, train, val):
    options = [replace(fitted.config, cosine=cosine) for cosine in (0.98, 0.7, 0.3)]
    gains = {}
    for fitted.config in options:
        gains[fitted.config] = gain(fitted, train, val)
    best, measured = best_config(fitted, options, train, val)
    assert best == max(gains, key=gains.get)
    assert measured == {"reading_gain": pytest.approx(gains[best], abs=1e-3), "clips": 100}


def test_some_noise_is_needed_and_too_much_erases(fitted, train, pairs):
    val = PairedEmbeddings.from_tensors(pairs[0][500:], pairs[1][500:])
    options = [replace(fitted.config, cosine=cosine) for cosine in (0.999, *COSINES, 0.05)]
    best, _ = best_config(fitted, options, train, val)
    assert best not in (options[0], options[-1])


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
