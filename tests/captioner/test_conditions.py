"""Pseudo-audio of a linear world whose noise is known."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.bridge.noise import ALONE
from dlink_adapter.captioner.pseudo_audio import NEIGHBOURS, PseudoAudio

DIM, EXEMPLARS = 6, 3000
SCATTER = torch.diag(torch.tensor([1.0, 0.6, 0.3, 0.1, 0.0, 0.0], dtype=torch.float64))


def drawn(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def world():
    """A rotation, and noise ten times as large where the first coordinate of the caption is positive."""
    draw = drawn(0)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=draw, dtype=torch.float64)).Q
    text, noise = torch.randn(2, 5000, DIM, generator=draw, dtype=torch.float64)
    noise = noise @ SCATTER * torch.where(text[:, :1] > 0, 1.0, 0.1)
    pseudo_audio = PseudoAudio(DIM, EXEMPLARS)
    return pseudo_audio, rotation, noise, pseudo_audio.fit(text @ rotation + noise, text)


def test_it_finds_the_map_and_keeps_errors_of_some_pairs(world):
    pseudo_audio, rotation, noise, found = world
    torch.testing.assert_close(pseudo_audio.weight.double(), rotation, atol=0.05, rtol=0)
    assert pseudo_audio.captions.shape == pseudo_audio.errors.shape == (EXEMPLARS, DIM)
    torch.testing.assert_close(torch.cov(pseudo_audio.errors.double().T), torch.cov(noise.T), atol=0.05, rtol=0)
    variance = noise.square().sum(-1).mean().item()
    assert found["unexplained"] == pytest.approx(variance / (DIM + variance), abs=0.01)


@pytest.mark.parametrize(("side", "scale"), [(3.0, 1.0), (-3.0, 0.1)])
def test_a_caption_scatters_as_the_audio_of_captions_like_it(world, side, scale):
    pseudo_audio = world[0]
    text = torch.randn(4000, DIM, generator=drawn(1))
    text[:, 0] = side
    errors = pseudo_audio._errors_nearby(text, drawn(2), ALONE)
    expected = SCATTER.diagonal().float() * scale
    torch.testing.assert_close(errors.std(0), expected, atol=0.15 * scale, rtol=0)


def test_it_draws_from_the_nearest_pairs_alone(world):
    pseudo_audio = world[0]
    text = torch.randn(1, DIM, generator=drawn(3))
    nearest = (normalize(text, dim=-1) @ pseudo_audio.captions.T).topk(NEIGHBOURS).indices[0]
    expected = text @ pseudo_audio.weight + pseudo_audio.errors[nearest]
    many = pseudo_audio(text.expand(500, DIM), drawn(4))
    apart = torch.cdist(many, expected, compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.argmin(1).bincount(minlength=NEIGHBOURS).min() > 30
    assert apart.amin(1).max() < 1e-5
    torch.testing.assert_close(pseudo_audio(text, noise=False), text @ pseudo_audio.weight)


def test_it_repeats_with_a_generator(world):
    text = torch.randn(5, DIM)
    first, again, other = (world[0](text, drawn(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_a_caption_of_a_pair_never_meets_its_own_audio(world):
    pseudo_audio = world[0]
    own = 17
    text = pseudo_audio.captions[own : own + 1] * DIM**0.5
    many = pseudo_audio._errors_nearby(text.expand(500, DIM), drawn(7), ALONE)
    assert (many - pseudo_audio.errors[own]).abs().amax(-1).min() > 1e-3


def test_fewer_pairs_than_places(world):
    text = torch.randn(7, DIM, generator=drawn(5), dtype=torch.float64)
    pseudo_audio = PseudoAudio(DIM, EXEMPLARS)
    pseudo_audio.fit(text + 0.1, text)
    assert (pseudo_audio.captions.norm(dim=-1) > 0).sum() == 7
    opposite = -text[:1].float()  # to whom the places that are left are nearer than most captions
    many = pseudo_audio._errors_nearby(opposite.expand(200, DIM), drawn(6), ALONE)
    assert torch.cdist(many, pseudo_audio.errors[:7]).amin(1).max() < 1e-3


def test_unfitted_it_is_text_itself():
    text = normalize(torch.randn(5, DIM), dim=-1) * DIM**0.5
    torch.testing.assert_close(PseudoAudio(DIM)(text), text)
