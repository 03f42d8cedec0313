"""The closed-form reader, in worlds where what can be read is known."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.bridge.reader import reading_gains

DIM, ROWS = 48, 6000


def draws(seed: int, rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def noised(text: torch.Tensor, sigma: float, seed: int) -> torch.Tensor:
    return text + sigma * draws(seed, len(text))


def gain(taught: float, sigma: float, text: torch.Tensor, true_text: torch.Tensor) -> float:
    """The gain of a reader that was taught with noise of one sigma, and sees that of another."""
    gains = reading_gains(
        noised(text, taught, 2), text, noised(true_text, sigma, 3), noised(true_text, taught, 4), true_text
    )
    assert gains.shape == (len(true_text),)
    return gains.mean().item()


@pytest.fixture(scope="module")
def text() -> torch.Tensor:
    return draws(0)


@pytest.fixture(scope="module")
def true_text() -> torch.Tensor:
    return draws(1)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_a_noisy_channel_gives_its_capacity(sigma, text, true_text):
    assert gain(sigma, sigma, text, true_text) == pytest.approx(math.log1p(sigma**-2) / 2, abs=0.03)


def test_the_best_condition_is_as_noisy_as_what_is_seen(text, true_text):
    gains = {taught: gain(taught, 1.0, text, true_text) for taught in (0.1, 0.5, 1.0, 2.0, 4.0)}
    assert max(gains, key=gains.get) == 1.0


def test_a_reader_of_clean_captions_is_sure_and_wrong(text, true_text):
    assert gain(0.0, 1.0, text, true_text) < -10 < 1 < gain(0.0, 0.0, text, true_text)


def test_it_is_as_sure_as_it_should_be_of_captions_that_it_has_not_seen(text, true_text):
    """A condition that knows the captions of the training by heart is not taken at its word."""
    by_heart = reading_gains(text, text, noised(true_text, 1.0, 3), noised(true_text, 1.0, 4), true_text).mean()
    assert by_heart == pytest.approx(-math.log(2 - 2**0.5) / 2, abs=0.03)


def test_a_gap_that_is_left_costs(text, true_text):
    seen, apart = noised(true_text, 1.0, 3), 3 * torch.eye(DIM, dtype=torch.float64)[0]
    taught = noised(text, 1.0, 2), text
    gains = [reading_gains(*taught, rows, noised(true_text, 1.0, 4), true_text).mean() for rows in (seen, seen + apart)]
    assert gains[1] < gains[0] - 0.02


def test_nothing_can_be_read_off_noise(text, true_text):
    assert reading_gains(draws(5), text, draws(6), draws(7), true_text).mean() == pytest.approx(0, abs=0.01)


def test_norms_do_not_count(text, true_text):
    rows = noised(text, 1.0, 2), text, noised(true_text, 1.0, 3), noised(true_text, 1.0, 4), true_text
    scaled = [scale * of for scale, of in zip((3, 0.1, 7, 2, 1), rows, strict=True)]
    torch.testing.assert_close(reading_gains(*scaled), reading_gains(*(normalize(of, dim=-1) for of in rows)))


def test_directions_without_variance_are_not_read(text, true_text):
    flat = torch.ones(DIM, dtype=torch.float64).index_fill(0, torch.arange(8), 1e-4)
    rows = noised(text, 1.0, 2), text, noised(true_text, 1.0, 3), noised(true_text, 1.0, 4), true_text
    assert reading_gains(*(of * flat for of in rows)).mean() == pytest.approx(math.log(2) / 2, abs=0.04)
