"""Changing the sampling rate of audio: a linear-phase low-pass and the change of rate in one step, in the spectrum.

Each block is transformed, its spectrum cut or filled with zeros to the new Nyquist frequency, and transformed back at
the new length (overlap-save). The low-pass is a sinc in a Kaiser window, sampled at the lower of the two rates, so that
it is the same 150 taps whatever the rates; its spectrum beyond the Nyquist frequency is below the stopband.
"""

from functools import lru_cache
from math import ceil, gcd, pi

import torch
from torch import Tensor

STOPBAND_DB = 96.0  # attenuation of the low-pass: what is left of an alias is below 16-bit resolution
TRANSITION = 0.08  # share of the lower Nyquist frequency given to the low-pass's roll-off
BLOCK = 4096  # samples of a block at the lower rate, about
BLOCKS_AT_ONCE = 64


def resample(audio: Tensor, rate: int, new_rate: int) -> Tensor:
    """Changes the sampling rate from `rate` to `new_rate` Hz: `(samples,)` -> `(ceil(samples * new_rate / rate),)`.

    Flat within .1 dB up to 92 % of the lower Nyquist frequency; what would alias is attenuated by 96 dB. The first
    sample keeps its time.
    """
    if rate == new_rate:
        return audio
    up, down = new_rate // gcd(rate, new_rate), rate // gcd(rate, new_rate)  # samples of a period that both rates have
    low = min(up, down)
    edge = ceil((len(_lowpass()) // 2) / low)  # periods on either side of a block that the next one overwrites
    periods = max(BLOCK // low, 4 * edge)
    kept = periods - 2 * edge
    response = _response(periods * low).to(audio) * (up / down)
    blocks = ceil(len(audio) / (kept * down))
    padded = audio.new_zeros((blocks * kept + 2 * edge) * down)
    padded[edge * down : edge * down + len(audio)] = audio
    resampled = []
    for some in padded.unfold(0, periods * down, kept * down).split(BLOCKS_AT_ONCE):
        spectrum = torch.fft.rfft(some)[:, : len(response)] * response
        block = torch.fft.irfft(spectrum, n=periods * up)
        resampled.append(block[:, edge * up : (periods - edge) * up].flatten())
    return torch.cat(resampled)[: ceil(len(audio) * up / down)]


@lru_cache(maxsize=1)
def _lowpass() -> Tensor:
    """The taps, an odd number, in float64; length and beta by Kaiser's formulas."""
    taps = ceil((STOPBAND_DB - 7.95) / (2.285 * pi * TRANSITION)) | 1
    window = torch.kaiser_window(taps, periodic=False, beta=0.1102 * (STOPBAND_DB - 8.7), dtype=torch.float64)
    sinc = torch.sinc((1 - TRANSITION / 2) * (torch.arange(taps, dtype=torch.float64) - taps // 2))
    return window * sinc / (window * sinc).sum()


@lru_cache(maxsize=8)
def _response(size: int) -> Tensor:
    """The low-pass at the frequencies of a block of `size` samples, `(size // 2 + 1,)`, real as it delays nothing."""
    taps = _lowpass()
    around_zero = torch.cat([taps, taps.new_zeros(size - len(taps))]).roll(-(len(taps) // 2))
    return torch.fft.rfft(around_zero).real
