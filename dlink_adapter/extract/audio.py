"""Audio files as mono float32 waveforms: decode, downmix, resample, cut into windows, log-mel.

Everything an audio encoder needs before its first layer. Decoding is libsndfile's (wav, flac, ogg, mp3). Needs
`pip install "dlink-adapter[clap]"` for soundfile.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from dlink_adapter.extract.encoders import UnreadableError
from dlink_adapter.extract.resampling import resample

Waveform = NDArray[np.float32]

BLOCK_FRAMES = 1 << 18
FRAMES_AT_ONCE = 64  # of a spectrogram: half a megabyte of samples, which stays in the cache
SHORTEST_TAIL = 0.5  # seconds


class AudioError(UnreadableError):
    """A clip that cannot be used, with its name and the cause."""


def import_clap_extra(module: str) -> Any:
    """Imports a library of the extra `clap`, or raises an ImportError that names it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is needed here: pip install "dlink-adapter[clap]"') from error


def load_audio(path: str | Path, rate: int) -> Waveform:
    """Decodes an audio file to mono at `rate` Hz.

    Args:
        path: wav, flac, ogg or mp3 with any number of channels, which are averaged, and any sample format.
        rate: sampling rate of the result in Hz.

    Returns:
        float32 `(samples,)`, full scale is 1. Silence is audio; it is returned as zeros.

    Raises:
        AudioError: the file is missing, empty, not audio, has no samples, or holds NaN or infinite samples.
    """
    try:
        audio, native_rate = _decode(Path(path))
        return resample(torch.from_numpy(check_waveform(audio)), native_rate, rate).numpy()
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error.__cause__


def _decode(path: Path) -> tuple[Waveform, int]:
    soundfile = import_clap_extra("soundfile")
    if not path.is_file():
        raise AudioError("no such file")
    if path.stat().st_size == 0:
        raise AudioError("the file is empty (0 bytes)")
    try:
        with soundfile.SoundFile(path) as file:
            # Block by block, so that ten minutes of 5.1 at 192 kHz never stand in memory with all their channels.
            blocks = file.blocks(blocksize=BLOCK_FRAMES, dtype="float32", always_2d=True)
            mono = [block.mean(axis=1) for block in blocks]
            return np.concatenate(mono) if mono else np.zeros(0, np.float32), file.samplerate
    except soundfile.LibsndfileError as error:
        raise AudioError(f"not readable as audio: {error.error_string} Convert it to wav, flac, ogg or mp3.") from error


def check_waveform(audio: Any) -> Waveform:
    """One mono waveform as a float32 array `(samples,)`.

    Raises:
        AudioError: not one-dimensional, without samples, or with NaN or infinite samples.
    """
    audio = np.asarray(audio, dtype=np.float32)
    if audio.ndim != 1:
        raise AudioError(f"expected mono audio of shape (samples,), got {audio.shape}; average the channels first")
    if audio.size == 0:
        raise AudioError("there are no samples in it")
    if bad := int(np.count_nonzero(~np.isfinite(audio))):
        raise AudioError(f"{bad} of {audio.size} samples are NaN or infinite")
    return audio


def windows(audio: Waveform, rate: int, seconds: float = 10.0) -> list[Waveform]:
    """Cuts `(samples,)` into non-overlapping windows of `seconds`; the last one is what is left.

    A tail under half a second says too little to weigh as much as a whole window: it is dropped, unless it is all
    there is.
    """
    size = round(seconds * rate)
    pieces = [audio[start : start + size] for start in range(0, len(audio), size)]
    if len(pieces) > 1 and len(pieces[-1]) < SHORTEST_TAIL * rate:
        pieces.pop()
    return pieces


def log_mel(audio: Tensor, filters: Tensor, *, fft_size: int, hop: int) -> Tensor:
    """Log-mel spectrogram in dB of power, floored at -100 dB: `(..., samples)` -> `(..., frames, mels)` float32.

    Args:
        audio: waveforms.
        filters: mel filter bank `(fft_size // 2 + 1, mels)`.
        fft_size: length of the periodic Hann window and of the transform, in samples; frames are centred, with
            reflected edges.
        hop: distance between frames in samples.
    """
    window = torch.hann_window(fft_size, dtype=torch.float64, device=audio.device)
    edges = pad(audio.reshape(-1, audio.shape[-1]), (fft_size // 2, fft_size // 2), mode="reflect")
    decibels = []
    for frames in edges.unfold(-1, fft_size, hop).split(FRAMES_AT_ONCE, dim=1):
        # In double precision, as a bin 100 dB under the loudest one is lost in the rounding of a float32 transform.
        spectrum = torch.fft.rfft(frames * window)  # (n, frames, bins)
        mel = (spectrum.real.square() + spectrum.imag.square()) @ filters.to(window)
        decibels.append((10 * mel.clamp_min(1e-10).log10()).float())
    return torch.cat(decibels, dim=1).reshape(*audio.shape[:-1], -1, filters.shape[-1])
