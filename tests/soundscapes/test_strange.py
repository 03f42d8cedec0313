"""Sounds that are none: silence, noise and tones at any level."""

import numpy as np

from dlink_adapter.soundscapes.strange import strange_sounds


def test_they_are_finite_within_range_and_of_each_kind():
    sounds = strange_sounds(30, 0.5, 16_000)
    assert {sound.shape for sound in sounds} == {(8000,)} and {sound.dtype for sound in sounds} == {np.dtype("float32")}
    levels = np.abs(sounds).max(axis=1)
    assert levels.max() <= 1 and (levels[::3] < 1e-3).all() and (levels[1::3] > 1e-4).all()
    spectra = np.abs(np.fft.rfft(sounds)) ** 2
    peak = spectra.max(axis=1) / spectra.sum(axis=1).clip(1e-20)
    assert (peak[2::3] > 0.3).all() and np.median(peak[1::3]) < 0.1


def test_the_seed_decides():
    first, again, other = (np.stack(strange_sounds(6, 0.1, 16_000, seed)) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
