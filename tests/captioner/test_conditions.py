"""Text conditions: pseudo-audio of a linear world whose noise is known, and what each makes of a caption."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.baselines.raw import Raw
from dlink_adapter.bridge.config import DimConfig
from dlink_adapter.captioner.conditions import EXEMPLARS, NEIGHBOURS, TEXT_CONDITIONS, Gaussian, PseudoAudio
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.data.embeddings import PairedEmbeddings

DIM = 6
SCATTER = torch.diag(torch.tensor([1.0, 0.6, 0.3, 0.1, 0.0, 0.0], dtype=torch.float64))
RAW = Raw(DimConfig(DIM))


def drawn(seed):
    return torch.Generator().manual_seed(seed)


class FlatSpace(torch.nn.Module):
    """Coordinates as they are, so that what happens in them can be compared with a world that is known."""

    is_fitted = True

    def fit(self, audio, text):
        return None

    def encode(self, x, modality="audio"):
        return x

    def decode(self, coordinates, modality="text"):
        return coordinates


@pytest.fixture(scope="module")
def world():
    """A rotation, and noise ten times as large where the first coordinate of the caption is positive."""
    draw = drawn(0)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM, generator=draw, dtype=torch.float64)).Q
    text, noise = torch.randn(2, 5000, DIM, generator=draw, dtype=torch.float64)
    noise = noise @ SCATTER * torch.where(text[:, :1] > 0, 1.0, 0.1)
    pseudo_audio = PseudoAudio(DIM)
    pseudo_audio.space = FlatSpace()
    return pseudo_audio, rotation, noise, pseudo_audio.fit(PairedEmbeddings.from_tensors(text @ rotation + noise, text))


def test_it_finds_the_map_and_keeps_errors_of_some_pairs(world):
    pseudo_audio, rotation, noise, found = world
    torch.testing.assert_close(pseudo_audio.weight.double(), rotation, atol=0.05, rtol=0)
    assert pseudo_audio.training_rows == EXEMPLARS
    torch.testing.assert_close(torch.cov(pseudo_audio.errors.double().T), torch.cov(noise.T), atol=0.05, rtol=0)
    variance = noise.square().sum(-1).mean().item()
    assert found["unexplained"] == pytest.approx(variance / (DIM + variance), abs=0.01)


@pytest.mark.parametrize(("side", "scale"), [(3.0, 1.0), (-3.0, 0.1)])
def test_a_caption_scatters_as_the_audio_of_captions_like_it(world, side, scale):
    text = torch.randn(4000, DIM, generator=drawn(1))
    text[:, 0] = side
    errors = world[0].draw(text, drawn(2)) - world[0].draw(text)
    torch.testing.assert_close(errors.std(0), SCATTER.diagonal().float() * scale, atol=0.15 * scale, rtol=0)


def test_it_draws_from_the_nearest_pairs_alone(world):
    pseudo_audio = world[0]
    text = torch.randn(1, DIM, generator=drawn(3))
    nearest = (normalize(text, dim=-1) @ pseudo_audio.captions.T).topk(NEIGHBOURS).indices[0]
    expected = text @ pseudo_audio.weight + pseudo_audio.errors[nearest]
    many = pseudo_audio.draw(text.expand(500, DIM), drawn(4))
    apart = torch.cdist(many, expected, compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.argmin(1).bincount(minlength=NEIGHBOURS).min() > 30
    assert apart.amin(1).max() < 1e-5
    torch.testing.assert_close(pseudo_audio.draw(text), text @ pseudo_audio.weight)


def test_a_caption_of_a_pair_never_meets_its_own_audio(world):
    pseudo_audio = world[0]
    own = 17
    text = pseudo_audio.captions[own : own + 1] * DIM**0.5
    many = pseudo_audio.draw(text.expand(500, DIM), drawn(7)) - pseudo_audio.draw(text)
    assert (many - pseudo_audio.errors[own]).abs().amax(-1).min() > 1e-3


def test_fewer_pairs_than_places():
    text = torch.randn(7, DIM, generator=drawn(5), dtype=torch.float64)
    pseudo_audio = PseudoAudio(DIM)
    pseudo_audio.space = FlatSpace()
    pseudo_audio.fit(PairedEmbeddings.from_tensors(text + 0.1, text))
    assert pseudo_audio.training_rows == 7
    opposite = -text[:1].float()  # to whom the places that are left are nearer than most captions
    many = pseudo_audio.draw(opposite.expand(200, DIM), drawn(6)) - pseudo_audio.draw(opposite)
    assert torch.cdist(many, pseudo_audio.errors[:7]).amin(1).max() < 1e-3


@pytest.fixture
def fitted(pairs):
    """Each condition, for pairs of 32 numbers."""
    conditions = {name: make(32, 0.1) for name, make in TEXT_CONDITIONS.items()}
    conditions["pseudo_audio"].fit(PairedEmbeddings.from_tensors(*pairs))
    return conditions


def test_pseudo_audio_lies_in_the_cloud_of_audio(fitted, pairs):
    audio, text = (normalize(rows, dim=-1) for rows in pairs)
    where = fitted["pseudo_audio"].draw(pairs[1], drawn(0))
    assert (where * audio).sum(-1).mean() > 0.9 > 0.6 > (text * audio).sum(-1).mean()
    torch.testing.assert_close(where.mean(0), audio.mean(0), atol=0.03, rtol=0)


@pytest.mark.parametrize("name", TEXT_CONDITIONS)
def test_a_condition_repeats_with_a_generator_and_draws_nothing_without(name, fitted, pairs, make_link):
    link, text = make_link(dim=32), pairs[1][:6]
    first, again, other = (fitted[name](text, link, drawn(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again) and torch.equal(first, other) == (name == "clean")
    torch.testing.assert_close(first.norm(dim=-1), torch.ones(6))
    state = torch.get_rng_state()
    assert torch.equal(fitted[name](text, link), fitted[name](text, link))
    assert torch.equal(torch.get_rng_state(), state)
    rows = fitted[name](text, link, [drawn(seed) for seed in range(6)])
    torch.testing.assert_close(fitted[name](text[4:], link, [drawn(4), drawn(5)]), rows[4:])


def test_what_goes_through_the_bridge_and_how(fitted, pairs, make_link):
    link, text = make_link(dim=32), pairs[1][:6]
    unit = normalize(text, dim=-1)
    torch.testing.assert_close(fitted["clean"](text, link, drawn(0)), unit)
    noisy = normalize(unit + 0.1 * torch.randn(6, 32, generator=drawn(0)), dim=-1)
    torch.testing.assert_close(fitted["gaussian"](text, link, drawn(0)), noisy)
    torch.testing.assert_close(
        fitted["bridged"](text, link, drawn(0)), link(text, modality="text", generator=drawn(0), samples=1)
    )
    torch.testing.assert_close(fitted["pseudo_audio"](text, link), link(fitted["pseudo_audio"].draw(text)))


def test_through_no_bridge_pseudo_audio_is_raw(fitted, pairs):
    raw, text = Raw(DimConfig(32)), pairs[1][:6]
    torch.testing.assert_close(
        fitted["pseudo_audio"](text, raw, drawn(0)), fitted["pseudo_audio"].draw(text, drawn(0)), rtol=0, atol=1e-6
    )


def test_sigma_is_per_dimension():
    text = torch.eye(64)[:1].expand(2000, 64)
    noise = Gaussian(0.05)(text, RAW, drawn(0))
    assert noise[:, 1:].std().item() == pytest.approx(0.05 / (1 + 64 * 0.05**2) ** 0.5, rel=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text_condition": "noisy"}, "text_condition is 'noisy': expected clean, gaussian, bridged, pseudo_audio"),
        ({"text_condition": "gaussian"}, "sigma is 0.0 and text_condition gaussian"),
        ({"text_condition": "gaussian", "sigma": -1.0}, "sigma is -1.0"),
        ({"sigma": 0.1}, "sigma is 0.1 and text_condition bridged: gaussian alone takes one"),
    ],
)
def test_what_the_config_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        CaptionerConfig(**settings)


def test_unfitted_pseudo_audio():
    with pytest.raises(ValueError, match=r"not fitted: call captioner\.text_condition\.fit\(pairs\)"):
        PseudoAudio(DIM)(torch.randn(5, DIM), RAW)
