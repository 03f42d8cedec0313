"""Pseudo-audio of a linear world whose noise is known."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.pseudo_audio import PseudoAudio

DIM = 6
SCATTER = torch.diag(torch.tensor([1.0, 0.6, 0.3, 0.1, 0.0, 0.0], dtype=torch.float64))


@pytest.fixture(scope="module")
def world():
    draw = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=draw, dtype=torch.float64)).Q
    text, noise = torch.randn(2, 4000, DIM, generator=draw, dtype=torch.float64)
    pseudo_audio = PseudoAudio(DIM)
    found = pseudo_audio.fit(text @ rotation + noise @ SCATTER, text)
    return pseudo_audio, rotation, found


def test_it_finds_the_map_and_the_scatter(world):
    pseudo_audio, rotation, found = world
    torch.testing.assert_close(pseudo_audio.weight.double(), rotation, atol=0.05, rtol=0)
    torch.testing.assert_close(pseudo_audio.spread.double(), SCATTER, atol=0.05, rtol=0)
    noise = SCATTER.square().sum().item()
    assert found["unexplained"] == pytest.approx(noise / (DIM + noise), abs=0.01)


def test_a_caption_scatters_around_its_mean_as_audio_does(world):
    pseudo_audio = world[0]
    text = 100 * torch.randn(1, DIM, generator=torch.Generator().manual_seed(1))  # so far out that norms hardly matter
    many = pseudo_audio(text.expand(20_000, DIM), torch.Generator().manual_seed(2))
    torch.testing.assert_close(many.norm(dim=-1), torch.full((20_000,), DIM**0.5))
    mean = pseudo_audio(text, noise=False)
    assert torch.cosine_similarity(many.mean(0, keepdim=True), mean).item() > 1 - 1e-5
    scale = DIM**0.5 / (text @ pseudo_audio.weight).norm()
    direction = normalize(mean, dim=-1)[0].double()
    across = torch.eye(DIM, dtype=torch.float64) - torch.outer(direction, direction)
    expected = across @ SCATTER.square() @ across * scale**2
    torch.testing.assert_close(torch.cov(many.double().T), expected, atol=0.03 * scale.item() ** 2, rtol=0)


def test_it_repeats_with_a_generator(world):
    text = torch.randn(5, DIM)
    first, again, other = (world[0](text, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.allclose(first, other)


def test_unfitted_it_is_text_itself():
    text = normalize(torch.randn(5, DIM), dim=-1) * DIM**0.5
    torch.testing.assert_close(PseudoAudio(DIM)(text), text)
