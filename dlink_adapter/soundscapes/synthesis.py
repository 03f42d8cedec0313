"""Building blocks that the sound events share: shaped noise, harmonic stacks, resonators, envelopes and random curves.

Signals are one-dimensional float32 arrays; times are in seconds, frequencies in Hz, and every random choice comes from
the caller's generator. Static filters are applied to the spectrum, which is cheaper than running them sample by sample.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft, signal

Signal = NDArray[np.float32]
CONTROL = 16  # samples between two points of a control curve


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw from a log-uniform distribution, which suits pitches, tempi and decay times."""
    return float(low * (high / low) ** rng.random())


def _bands(samples: int, rate: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Centres (Hz) of eighth-octave bands from 10 Hz to Nyquist, and the number of rfft bins in each."""
    edges = 10 * 2 ** (np.arange(int(8 * np.log2(rate / 20)) + 1) / 8)
    starts = np.ceil(edges * (samples / rate)).astype(np.int64)
    return edges * 2 ** (1 / 16), np.diff([0, *starts[1:], samples // 2 + 1])


def gains(samples: int, rate: int, response: Mapping[float, float]) -> Signal:
    """Amplitude of each rfft bin for a response {Hz: dB}, linear in dB over log frequency, in eighth-octave steps."""
    centres, widths = _bands(samples, rate)
    decibels = np.interp(np.log(centres), np.log(list(response)), list(response.values()))
    return np.repeat((10 ** (decibels / 20)).astype(np.float32), widths)


def equalize(audio: Signal, rate: int, response: Mapping[float, float]) -> Signal:
    """Apply a zero-phase response {Hz: dB} to (samples,) audio."""
    length = fft.next_fast_len(len(audio), real=True)
    filtered: Signal = fft.irfft(fft.rfft(audio, length) * gains(length, rate, response), length)
    return filtered[: len(audio)]


def colour(rng: np.random.Generator, spread: float) -> dict[float, float]:
    """Draw a response {Hz: dB} as of a body, room or microphone: a tilt and gains with a sigma of `spread` dB."""
    hertz = np.geomspace(60, 7900, 12)
    tilt = rng.normal(0, spread) * np.linspace(-1, 1, 12)
    return dict(zip(hertz.tolist(), (tilt + rng.normal(0, spread, 12)).tolist(), strict=True))


def noise(rng: np.random.Generator, samples: int, rate: int, response: Mapping[float, float]) -> Signal:
    """Stationary noise of unit RMS with the spectrum {Hz: dB}, made in the frequency domain."""
    length = fft.next_fast_len(max(samples, 64), real=True)
    # Uniform parts are four times cheaper than normal ones, and the sum over many bins is nearly Gaussian anyway.
    parts = rng.random((length // 2 + 1, 2), dtype=np.float32) - np.float32(0.5)
    shaped = fft.irfft(parts.view(np.complex64)[:, 0] * gains(length, rate, response), length)[:samples]
    return unit(shaped)


def samples_of(seconds: float, limit: float, rate: int) -> int:
    """Number of samples in the shorter of `seconds` and `limit`, the natural length of the sound in seconds."""
    return int(min(seconds, limit) * rate)


def unit(audio: Signal) -> Signal:
    """Scale to an RMS of one; zeros stay zeros."""
    return (audio / (np.sqrt(np.mean(np.square(audio))) + 1e-9)).astype(np.float32)


def contour(samples: int, *values: float) -> Signal:
    """Interpolate equally spaced values linearly, in steps of `CONTROL` samples."""
    steps = samples // CONTROL + 1
    curve = np.interp(np.linspace(0, 1, steps), np.linspace(0, 1, len(values)), values)
    return np.repeat(curve.astype(np.float32), CONTROL)[:samples]


def drift(rng: np.random.Generator, samples: int, rate: int, hz: float, low: float, high: float) -> Signal:
    """Draw a smooth random curve between low and high, from about `hz` random values a second."""
    points = rng.uniform(low, high, max(2, int(samples / rate * hz) + 2))
    return contour(samples, *signal.resample(points, 4 * len(points)).clip(low, high))


def decay(samples: int, rate: int, attack: float, time: float) -> Signal:
    """Linear attack, then an exponential fall by a factor e every `time` seconds, closed by a short fade."""
    t = np.arange(samples, dtype=np.float32) / rate
    envelope: Signal = np.minimum(t / max(attack, 1 / rate), np.exp(np.minimum((attack - t) / time, 0)))
    return envelope * fade(samples, rate, 0.0, 0.01)


def fade(samples: int, rate: int, rise: float, fall: float) -> Signal:
    """Flat envelope with linear ends of `rise` and `fall` seconds."""
    t = np.arange(samples, dtype=np.float32) / rate
    rising = (t + 1 / rate) / max(rise, 1 / rate)
    falling = (samples / rate - t) / max(fall, 1 / rate)
    return np.minimum(np.minimum(rising, falling), 1)


def harmonics(pitch: ArrayLike, rate: int, amplitudes: ArrayLike, phases: ArrayLike = 0.0) -> Signal:
    """Harmonic stack over a pitch curve (samples,) in Hz, read from one period of a band-limited wavetable.

    `amplitudes` are those of harmonics 1, 2, ...; the ones that would alias are left out.
    """
    pitch = np.asarray(pitch)
    spectrum = np.asarray(amplitudes) * np.exp(1j * np.asarray(phases)) * -1j
    kept = spectrum[: max(1, int(0.48 * rate / pitch.max()))]
    table = (fft.irfft(np.concatenate([[0], kept]), 4096) * 2048).astype(np.float32)
    # The phase is a 32-bit integer whose overflow is the end of a period; its top 12 bits address the table.
    phase = np.cumsum((pitch * (2**32 / rate)).astype(np.uint32), dtype=np.uint32)
    return table[phase >> 20]


def rolloff(count: int, decibels_per_octave: float) -> NDArray[np.float64]:
    """Amplitudes of `count` harmonics that fall by `decibels_per_octave`."""
    return np.arange(1.0, count + 1) ** (-decibels_per_octave / 6.02)


def resonate(audio: Signal, rate: int, modes: Sequence[tuple[float, float, float]]) -> Signal:
    """Convolve the audio with a sum of decaying sines, one for each mode (Hz, decay time in seconds, gain).

    Modes near or above Nyquist are left out.
    """
    samples = min(len(audio), int(7 * max(time for _, time, _ in modes) * rate) + 1)
    t = np.arange(samples, dtype=np.float32) / rate
    kernel = np.zeros(samples, dtype=np.float32)
    for hz, time, gain in modes:
        if hz < 0.48 * rate:
            kernel += np.float32(gain) * np.sin(np.float32(2 * np.pi * hz) * t) * np.exp(t / np.float32(-time))
    return signal.oaconvolve(audio, kernel)[: len(audio)]


def impulses(samples: int, rate: int, times: ArrayLike, heights: ArrayLike = 1.0) -> Signal:
    """Single-sample impulses at times in seconds; those outside the signal are dropped."""
    train = np.zeros(samples, dtype=np.float32)
    index = np.round(np.asarray(times) * rate).astype(int)
    inside = (index >= 0) & (index < samples)
    np.add.at(train, index[inside], np.broadcast_to(heights, index.shape)[inside])
    return train


def scatter(rng: np.random.Generator, samples: int, rate: int, per_second: float, spread: float = 1.0) -> Signal:
    """Impulses at random times with log-normal heights of random sign; `spread` is the sigma of their logarithm."""
    count = rng.poisson(per_second * samples / rate)
    heights = np.exp(spread * rng.standard_normal(count)) * rng.choice([-1.0, 1.0], count)
    return impulses(samples, rate, rng.random(count) * samples / rate, heights)


def beats(rng: np.random.Generator, seconds: float, period: float, jitter: float) -> NDArray[np.float64]:
    """Times of a nearly regular beat from a random start, each moved by up to `jitter` of the period."""
    times = np.arange(rng.uniform(0.05, 0.6) * period, seconds, period)
    return np.maximum(times + period * jitter * rng.uniform(-0.5, 0.5, len(times)), 0.0)


def place(out: Signal, grain: Signal, seconds: float, rate: int, gain: float = 1.0) -> None:
    """Add a grain to `out` in place at a time in seconds; samples past the end are dropped."""
    start = round(seconds * rate)
    part = grain[: max(0, len(out) - start)]
    out[start : start + len(part)] += gain * part


def formants(samples: int, rate: int, peaks: Sequence[tuple[float, float]]) -> Signal:
    """Amplitude of each rfft bin for a vocal tract with peaks (Hz, relative half width) of 0, -4, -8, ... dB."""
    centres, widths = _bands(samples, rate)
    response = np.full(len(centres), 0.03)
    for rank, (hz, width) in enumerate(peaks):
        response += 10 ** (-rank / 5) / (1 + np.square((centres - hz) / (width * hz)))
    return np.repeat(response.astype(np.float32), widths)


def voice(
    rng: np.random.Generator,
    pitch: Signal,
    rate: int,
    peaks: Sequence[tuple[float, float]],
    tilt: float = 6.0,
    breath: float = 0.1,
    roughness: float = 0.02,
) -> Signal:
    """An animal or human call of unit RMS: a harmonic source with jitter and breath through formants.

    `pitch` is (samples,) in Hz, `tilt` the fall of the source in dB an octave, `breath` the share of noise, and
    `roughness` the relative depth of the fast pitch wobble.
    """
    wobble = 1 + roughness * drift(rng, len(pitch), rate, 40.0, -1.0, 1.0)
    source = unit(harmonics(pitch * wobble, rate, rolloff(60, tilt)))
    hiss = noise(rng, len(pitch), rate, {100: -10, 1000: 0, 6000: 0})
    source = (1 - breath) * source + breath * hiss
    # The formants move during the call, between `peaks` and a randomly scaled copy.
    moved = [(hz * log_uniform(rng, 0.7, 1.4), width) for hz, width in peaks]
    length = fft.next_fast_len(len(source), real=True)
    spectrum = fft.rfft(source, length)
    here, there = (fft.irfft(spectrum * formants(length, rate, tract), length) for tract in (peaks, moved))
    towards = contour(len(source), *rng.random(3))
    return unit((1 - towards) * here[: len(source)] + towards * there[: len(source)])
