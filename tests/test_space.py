"""EmbeddingSpace: what it fits, and that text comes back."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.space import EmbeddingSpace, mean_pairwise_cosine, unit_mean


@pytest.fixture
def space(pairs):
    space = EmbeddingSpace(32)
    space.fit(*pairs)
    return space


def test_the_means_are_those_of_unit_rows(space, pairs):
    for found, rows in ((space.audio_mean, pairs[0]), (space.text_mean, pairs[1])):
        torch.testing.assert_close(found, normalize(rows, dim=-1).mean(0))
    radius = (normalize(pairs[1], dim=-1) - space.text_mean).norm(dim=-1).mean()
    torch.testing.assert_close(space.text_radius, radius)


def test_the_two_modalities_need_not_be_paired(pairs):
    one, other = EmbeddingSpace(32), EmbeddingSpace(32)
    one.fit(*pairs)
    other.fit(pairs[0].flip(0), pairs[1].repeat(2, 1))
    torch.testing.assert_close(one.audio_mean, other.audio_mean)
    torch.testing.assert_close(one.text_mean, other.text_mean)


@pytest.mark.parametrize("modality", ["audio", "text"])
def test_coordinates_have_unit_variance_a_dimension_and_ignore_length(space, pairs, modality):
    rows = pairs[modality == "text"]
    coordinates = space.encode(rows, modality)
    torch.testing.assert_close(coordinates.norm(dim=-1), torch.full((600,), 32**0.5))
    torch.testing.assert_close(space.encode(7 * rows, modality), coordinates, rtol=1e-4, atol=1e-4)
    assert coordinates.mean(0).norm() < 0.1 * 32**0.5


def test_text_comes_back(space, pairs):
    text = normalize(pairs[1], dim=-1)
    back = space.decode(space.encode(text, "text"))
    torch.testing.assert_close(back.norm(dim=-1), torch.ones(600))
    assert (back * text).sum(-1).mean() > 0.98  # all but its own radius
    centred = text - space.text_mean
    on_radius = normalize(space.text_mean + normalize(centred, dim=-1) * space.text_radius, dim=-1)
    torch.testing.assert_close(back, on_radius)


def test_centred_the_mean_of_what_is_decoded_is_that_of_text(space, pairs):
    coordinates = torch.randn(600, 32, generator=torch.Generator().manual_seed(1)) + 0.5
    decoded = space.decode(coordinates)
    space.centre(decoded, pairs[1])
    after = space.decode(coordinates)
    torch.testing.assert_close(after.norm(dim=-1), torch.ones(600))
    apart = [(unit_mean(rows) - space.text_mean).norm() for rows in (decoded, after)]
    assert apart[1] < 0.3 * apart[0]
    space.fit(coordinates, coordinates)
    assert not space.offset.any()


def test_unit_mean_of_more_rows_than_a_block():
    rows = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0)) + 1
    torch.testing.assert_close(unit_mean(rows), normalize(rows.double(), dim=-1).mean(0))


def test_blocks_of_rows_are_the_rows(space, pairs):
    by_blocks = EmbeddingSpace(32)
    by_blocks.fit(pairs[0].split(70), pairs[1].split(90))
    for name, value in space.state_dict().items():
        torch.testing.assert_close(by_blocks.state_dict()[name], value)


def test_a_new_space_is_unfitted_and_a_loaded_one_is_fitted(space):
    new = EmbeddingSpace(32)
    assert not new.is_fitted and space.is_fitted
    new.load_state_dict(space.state_dict())
    assert new.is_fitted


def test_mean_pairwise_cosine():
    rows = normalize(torch.randn(50, 8, generator=torch.Generator().manual_seed(0)) + 1, dim=-1)
    gram = rows @ rows.T
    expected = (gram.sum() - gram.trace()) / (50 * 49)
    assert mean_pairwise_cosine(rows.split(7)) == pytest.approx(expected.item(), abs=1e-5)
    assert mean_pairwise_cosine([rows[:1]]) is None
