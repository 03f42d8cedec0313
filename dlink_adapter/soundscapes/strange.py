"""Sounds that are none: silence, noise and tones. A captioner that is asked about them should not be sure."""

import numpy as np
from numpy.typing import NDArray

from dlink_adapter.soundscapes.synthesis import Signal, log_uniform

Samples = NDArray[np.float64]


def strange_sounds(count: int, seconds: float, rate: int, seed: int = 0) -> list[Signal]:
    """As many silent clips, clips of noise of any colour, and pure tones, at any level: `count` together."""
    rng = np.random.default_rng(seed)
    kinds = (_silence, _noise, _tone)
    return [kinds[number % len(kinds)](rng, round(seconds * rate), rate).astype(np.float32) for number in range(count)]


def _silence(rng: np.random.Generator, samples: int, rate: int) -> Samples:
    """Digital silence, or the noise of a converter."""
    return rng.choice([0.0, log_uniform(rng, 1e-7, 1e-4)]) * rng.standard_normal(samples)


def _noise(rng: np.random.Generator, samples: int, rate: int) -> Samples:
    """White noise, or noise whose power goes with a power of the frequency, from -2 (brown) to 0.5."""
    hertz, power = np.fft.rfftfreq(samples, 1 / rate).clip(20), rng.choice([0.0, rng.uniform(-2, 0.5)])
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) * hertz ** (power / 2), samples)
    return log_uniform(rng, 1e-3, 0.9) * noise / np.abs(noise).max()


def _tone(rng: np.random.Generator, samples: int, rate: int) -> Samples:
    hertz = log_uniform(rng, 50, 0.45 * rate)
    return log_uniform(rng, 1e-3, 0.9) * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)
