"""Resampling: flat where it should be, silent where it should be, in time, for any two rates."""

import numpy as np
import pytest
import torch

from dlink_adapter.extract.resampling import BLOCK, BLOCKS_AT_ONCE, resample

RATES = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 96_000, 192_000]
PASSBAND = 0.9  # of the lower Nyquist frequency: nearer to the roll-off a sweep is not as good as a steady sine
SECONDS = 2.0


def sine(frequency, rate, seconds=1.0):
    return torch.from_numpy(np.sin(2 * np.pi * frequency * np.arange(round(rate * seconds)) / rate)).float()


def sweep(top, rate):
    """From silence at 0 Hz to `top` Hz, evenly, with the frequency at each sample."""
    time = np.arange(round(SECONDS * rate)) / rate
    frequency = top * time / SECONDS
    return torch.from_numpy(np.sin(np.pi * frequency * time)).float(), torch.from_numpy(frequency)


def loudest_db(audio):
    return 20 * audio.abs().max().clamp_min(1e-10).log10().item()


@pytest.mark.parametrize("rate", RATES)
def test_a_sweep_survives_the_way_to_48_khz_and_back_where_both_rates_have_room(rate):
    lower = min(rate, 48_000) / 2
    audio, frequency = sweep(rate / 2, rate)
    there = resample(audio, rate, 48_000)
    back = resample(there, 48_000, rate)
    ideal, frequency_there = sweep(rate / 2, 48_000)
    # Against the sweep itself, sample by sample: level, time, images and aliases are all in the difference.
    for made, expected, at in ((there, ideal, frequency_there), (back, audio, frequency)):
        assert made.shape == expected.shape and made.dtype == torch.float32
        audible = (at > 0.01 * lower) & (at < PASSBAND * lower)
        assert loudest_db((made - expected)[audible]) < -80
        beyond = (at > 1.02 * lower) & (at < 0.99 * rate / 2)  # the sweep ends with a click
        assert loudest_db(made[beyond]) < -80 if beyond.any() else rate <= 48_000
    spectra = [torch.fft.rfft(some.double()).abs() for some in (audio, back)]
    hertz = torch.arange(len(spectra[0])) / SECONDS
    heard = (hertz > 0.05 * lower) & (hertz < PASSBAND * lower)  # the sweep's ends ripple in its spectrum
    assert (20 * (spectra[1] / spectra[0])[heard].log10()).abs().max() < 0.1


@pytest.mark.parametrize(("rate", "new_rate"), [(44_100, 16_000), (16_000, 8_000), (8_000, 44_100), (22_254, 48_000),
                                                (44_100, 47_999), (192_000, 8_000)])  # fmt: skip
def test_a_sine_at_any_two_rates(rate, new_rate):
    lower = min(rate, new_rate) / 2
    for share in (0.1, 0.5, 0.92, 1.01, 1.9):
        if share * lower < rate / 2:
            resampled = resample(sine(share * lower, rate), rate, new_rate)
            expected = sine(share * lower, new_rate) if share < 1 else torch.zeros(new_rate)
            middle = slice(new_rate // 4, -new_rate // 4)
            assert loudest_db((resampled - expected)[middle]) < -80


@pytest.mark.parametrize("samples", [1, 100, BLOCK * BLOCKS_AT_ONCE * 2 + 1])
def test_lengths(samples):
    audio = torch.rand(samples, generator=torch.Generator().manual_seed(0))
    assert resample(audio, 44_100, 48_000).shape == (-(-samples * 160 // 147),)
    assert resample(audio, 192_000, 16_000).shape == (-(-samples // 12),)


def test_a_click_keeps_its_time():
    click = torch.zeros(44_100)
    click[22_050] = 1
    assert resample(click, 44_100, 16_000).abs().argmax() == 8_000


def test_equal_rates_change_nothing():
    audio = sine(440, 16_000)
    assert resample(audio, 16_000, 16_000) is audio
