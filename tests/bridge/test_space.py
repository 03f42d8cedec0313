"""EmbeddingSpace: what it fits, and that text comes back."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.bridge.space import EmbeddingSpace, unit_mean


@pytest.fixture
def space(pairs):
    space = EmbeddingSpace(32)
    space.fit(*pairs)
    return space


def test_means_and_radii_are_those_of_unit_rows(space, pairs):
    found = (space.audio_mean, space.audio_radius), (space.text_mean, space.text_radius)
    for (mean, radius), rows in zip(found, pairs, strict=True):
        unit = normalize(rows, dim=-1)
        torch.testing.assert_close(mean, unit.mean(0))
        torch.testing.assert_close(radius, (unit - mean).square().sum(-1).mean().sqrt())


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
    torch.testing.assert_close(coordinates.square().mean(), torch.tensor(1.0))
    torch.testing.assert_close(space.encode(7 * rows, modality), coordinates, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(coordinates.mean(0), torch.zeros(32), atol=1e-4, rtol=0)


def test_text_comes_back(space, pairs):
    torch.testing.assert_close(space.decode(space.encode(pairs[1], "text")), normalize(pairs[1], dim=-1))


def test_audio_comes_back_as_audio(space, pairs):
    torch.testing.assert_close(space.decode(space.encode(pairs[0]), "audio"), normalize(pairs[0], dim=-1))


def test_text_without_any_spread_is_what_it_decodes_to():
    space, text = EmbeddingSpace(4), torch.ones(3, 4)
    space.fit(torch.eye(4), text)
    torch.testing.assert_close(space.decode(torch.ones(2, 4)), torch.full((2, 4), 0.5), atol=1e-5, rtol=0)


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
