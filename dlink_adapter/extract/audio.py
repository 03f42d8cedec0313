"""Audio as mono float32 waveforms: decode, downmix, scale, resample, cut into windows, log-mel.

This is everything that an audio encoder needs before its first layer. soundfile (libsndfile) decodes wav, flac, ogg and
mp3, soxr changes the sampling rate; both are in `pip install "dlink-adapter[clap]"`.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from dlink_adapter.extract.containers import lost_share
from dlink_adapter.extract.encoders import Loaded, UnreadableError
from dlink_adapter.extras import import_extra

import_clap_extra = partial(import_extra, extra="clap")

Waveform = NDArray[np.float32]

BLOCK_SAMPLES = 1 << 18  # of all channels together
RATES = (1_000, 768_000)  # Hz
LONGEST = 3600  # seconds, and what is decoded has at most MOST_SAMPLES a channel: 1 GiB
MOST_SAMPLES = 1 << 28
LEAST_CUT = 0.25  # seconds that a file may hold less than it promises: encoders and decoders differ by a frame or two
FRAMES_AT_ONCE = 64  # of a spectrogram: half a megabyte of samples, which fits the processor's cache
SHORTEST_TAIL = 0.5  # seconds
PCM = {"uint8": (128, 128), "int8": (0, 128), "int16": (0, 1 << 15), "int32": (0, 1 << 31)}  # silence, full scale


class AudioError(UnreadableError):
    """A clip that cannot be used; the message names the clip and the cause."""


def load_audio(path: str | Path, rate: int) -> Waveform:
    """Decodes an audio file to mono at `rate` Hz: float32 `(samples,)`, full scale is 1.

    wav, flac, ogg and mp3 are read, in any sample format; any number of channels is averaged. Raises AudioError where
    the file is missing, empty, not audio, cut short, longer than an hour, too short for one sample, of a rate outside
    `RATES`, or has NaN or infinite samples.
    """
    try:
        audio, native_rate = _decode(Path(path))
        return check_waveform(resample(check_waveform(audio), native_rate, rate))
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error.__cause__


def _decode(path: Path) -> tuple[Waveform, int]:
    soundfile = import_clap_extra("soundfile")
    try:
        if not path.is_file():
            raise AudioError("no such file")
        if path.stat().st_size == 0:
            raise AudioError("the file is empty (0 bytes)")
        with soundfile.SoundFile(os.fsencode(path)) as file:  # bytes: a name need not be UTF-8
            _check_promise(file.frames, file.samplerate)
            audio = _read(file)
            seconds = len(audio) / file.samplerate
            lost = max(file.frames / file.samplerate - seconds, seconds * lost_share(path))
            if lost > LEAST_CUT:
                found = f"it ends after {seconds:.2f} seconds, before its header says so"
                raise AudioError(f"the file is cut short or damaged: {found}. Fetch it again, or convert it to wav.")
            return audio, file.samplerate
    except soundfile.LibsndfileError as error:
        raise AudioError(f"not readable as audio: {error.error_string} Convert it to wav, flac, ogg or mp3.") from error
    except OSError as error:  # no permission, a name that is too long, a file that has vanished
        raise AudioError(f"not readable: {error.strerror}") from error


def _check_promise(frames: int, rate: int) -> None:
    """Raise AudioError where the header tells of more than can be decoded: libsndfile reads no more frames than it."""
    check_rate(rate)
    if frames > min(LONGEST * rate, MOST_SAMPLES):
        most = f"at most {LONGEST} seconds and {MOST_SAMPLES} samples a channel are decoded"
        raise AudioError(f"it promises {frames / rate:.0f} seconds at {rate} Hz, {most}: cut it into parts")


def _read(file: Any) -> Waveform:
    """The mean of the channels of an open file, a block at a time: ten minutes of 5.1 at 192 kHz would take 2.8 GB.

    A damaged file ends before its header says so. `SoundFile.blocks` would go on with the samples of earlier blocks.
    """
    frames = max(1, BLOCK_SAMPLES // file.channels)
    mono = [np.zeros(0, np.float32)]
    while len(block := file.read(frames, dtype="float32", always_2d=True)):
        mono.append(block.mean(axis=1))
    return np.concatenate(mono)


def check_rate(rate: Any) -> None:
    """Raise AudioError unless it is a rate in Hz within `RATES`, outside which a small file could fill the memory."""
    if not isinstance(rate, Real) or not RATES[0] <= float(rate) <= RATES[1]:
        raise AudioError(f"expected a rate of {RATES[0]} to {RATES[1]} Hz, got {rate!r:.40}")


def resample(audio: Waveform, rate: int, new_rate: int) -> Waveform:
    """Changes the sampling rate from `rate` to `new_rate` Hz with soxr: `(samples,)` -> `(samples * new_rate / rate,)`.

    The length is rounded to the nearest integer, and the first sample keeps its time. The gain is within 0.02 dB up to
    92 % of the lower Nyquist frequency; above that frequency aliases and images are attenuated by more than 100 dB.
    """
    return audio if rate == new_rate else import_clap_extra("soxr").resample(audio, rate, new_rate)


def as_waveform(clip: Any, rate: int, sampling_rate: int | None = None) -> Waveform:
    """One clip as mono at `rate` Hz: float32 `(samples,)`, full scale is 1.

    Args:
        clip: a file, `(array, its rate in Hz)`, `{"array": ..., "sampling_rate": ...}` as in the library
            datasets, or an array or tensor `(samples,)`. Integers are PCM samples: full scale is that of their dtype.
        rate: of the result.
        sampling_rate: of an array that comes without its rate, in Hz.

    Raises:
        AudioError: a clip that cannot be used, or an array of unknown rate.
    """
    if isinstance(clip, (str, Path)):
        return load_audio(clip, rate)
    if not isinstance(clip, (np.ndarray, Tensor, list, tuple)):  # a dict, or the decoder of datasets that acts as one
        try:
            clip = clip["array"], clip["sampling_rate"]
        except (KeyError, TypeError) as error:
            raise AudioError(
                f"expected a file, (array, rate in Hz) or a dict with array and sampling_rate, got {clip!r:.60}"
            ) from error
    array, own_rate = clip if isinstance(clip, tuple) and len(clip) == 2 else (clip, sampling_rate)
    if own_rate is None:
        raise AudioError("an array does not tell its rate: give (array, rate in Hz), or sampling_rate= for all arrays")
    check_rate(own_rate)
    return check_waveform(resample(check_waveform(array), own_rate, rate))


def clip_windows(
    clips: Iterable[Any],
    features: Callable[[Waveform], Iterable[NDArray[np.float32]]],
    rate: int,
    sampling_rate: int | None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The windows of clips, each with the number of its clip: `features` of `as_waveform`, or what is in a `Loaded`."""
    for index, clip in enumerate(clips):
        try:
            made = clip.features if isinstance(clip, Loaded) else features(as_waveform(clip, rate, sampling_rate))
        except AudioError as error:
            raise AudioError(f"clip {index}: {error}") from error.__cause__
        for window in made:
            yield index, window


def check_waveform(audio: Any) -> Waveform:
    """One mono waveform as a float32 array `(samples,)`, integers scaled by the full scale of their dtype.

    Raises AudioError on other shapes and dtypes, no samples, NaN or Inf.
    """
    audio = audio.detach().cpu().numpy() if isinstance(audio, Tensor) else np.asarray(audio)
    if audio.dtype.kind != "f":
        if audio.dtype.name not in PCM:
            raise AudioError(f"expected samples of floats, {', '.join(PCM)}, got {audio.dtype}")
        silence, full_scale = PCM[audio.dtype.name]
        audio = (audio.astype(np.float64) - silence) / full_scale
    audio = audio.astype(np.float32, copy=False)
    if audio.ndim != 1:
        raise AudioError(f"expected mono audio of shape (samples,), got {audio.shape}; average the channels first")
    if audio.size == 0:
        raise AudioError("there are no samples in it")
    if bad := int(np.count_nonzero(~np.isfinite(audio))):
        raise AudioError(f"{bad} of {audio.size} samples are NaN or infinite")
    return audio


def windows(audio: Waveform, rate: int, seconds: float = 10.0) -> list[Waveform]:
    """Cuts `(samples,)` into non-overlapping windows of `seconds`; the last one is what is left.

    A last window shorter than half a second is dropped, as it would weigh as much as a whole one in the mean; a clip
    that is shorter than that is kept.
    """
    size = round(seconds * rate)
    pieces = [audio[start : start + size] for start in range(0, len(audio), size)]
    if len(pieces) > 1 and len(pieces[-1]) < SHORTEST_TAIL * rate:
        pieces.pop()
    return pieces


def log_mel(audio: Tensor, filters: Tensor, *, fft_size: int, hop: int) -> Tensor:
    """Log-mel spectrogram in dB of power, floored at -100 dB: `(..., samples)` -> `(..., frames, mels)` float32.

    `filters` is the mel filter bank `(fft_size // 2 + 1, mels)`. Frames have the length of the periodic Hann window and
    of the transform, `fft_size` samples, are `hop` samples apart, and centred, with reflected edges.
    """
    window = torch.hann_window(fft_size, dtype=torch.float64, device=audio.device)
    edges = pad(audio.reshape(-1, audio.shape[-1]), (fft_size // 2, fft_size // 2), mode="reflect")
    decibels = []
    for frames in edges.unfold(-1, fft_size, hop).split(FRAMES_AT_ONCE, dim=1):
        # A float32 transform would round away a bin that is 100 dB below the loudest one.
        spectrum = torch.fft.rfft(frames * window)  # (n, frames, bins)
        mel = (spectrum.real.square() + spectrum.imag.square()) @ filters.to(window)
        decibels.append((10 * mel.clamp_min(1e-10).log10()).float())
    return torch.cat(decibels, dim=1).reshape(*audio.shape[:-1], -1, filters.shape[-1])
