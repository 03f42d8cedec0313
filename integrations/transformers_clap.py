"""CLAP through transformers, the default audio encoder: any `ClapModel` on the hub or in a local folder.

CLAP (Wu et al., ICASSP 2023; arXiv 2211.06687) takes at most ten seconds and crops longer clips at random, so that the
same file has a different embedding each time. Here the embedding of a longer clip is the mean over its non-overlapping
windows.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

import dlink_adapter
from dlink_adapter.extract.audio import SHORTEST_TAIL, Waveform, clip_windows, load_audio, log_mel, windows
from dlink_adapter.extract.encoders import Loaded, check_sequence, encode_windows, fingerprint, pooled
from dlink_adapter.integrations.two_towers import TwoTowers, settings_of

try:
    from transformers import AutoFeatureExtractor, ClapFeatureExtractor, ClapModel
except ImportError as error:
    raise ImportError('CLAP needs transformers: pip install "dlink-adapter[clap]"') from error

logger = logging.getLogger(__name__)

# Settings that change the outputs of a model with the same weights.
AUDIO_SETTINGS = ("depths", "enable_fusion", "num_attention_heads", "patch_stride", "spec_size", "window_size")
TEXT_SETTINGS = ("max_position_embeddings", "num_attention_heads", "pad_token_id")
FEATURE_SETTINGS = (
    "feature_size", "fft_window_size", "frequency_max", "frequency_min", "hop_length", "max_length_s", "padding",
    "sampling_rate", "truncation",
)  # fmt: skip


class TorchClapFeatureExtractor(ClapFeatureExtractor):
    """`ClapFeatureExtractor` with the spectrogram computed by torch instead of a Python loop over the frames."""

    def _np_extract_fbank_features(self, waveform: np.ndarray, mel_filters: np.ndarray | None = None) -> np.ndarray:
        filters = torch.from_numpy(self.mel_filters if mel_filters is None else mel_filters)
        clip = torch.from_numpy(waveform)
        return log_mel(clip, filters, fft_size=self.fft_window_size, hop=self.hop_length).numpy()


@dataclass(frozen=True)
class ClapLoader:
    """Audio files to the input of CLAP: decoded, resampled, cut into windows, log-mel."""

    extractor: ClapFeatureExtractor
    rate: int  # Hz
    seconds: float  # of a window

    def __call__(self, path: str | Path) -> Loaded:
        audio = load_audio(path, self.rate)
        return Loaded(self.features(audio), len(audio) / self.rate)

    def features(self, audio: Waveform) -> NDArray[np.float32]:
        """`(samples,)` at `rate` -> `(windows, channels, frames, mels)`."""
        batch = windows(audio, self.rate, self.seconds)
        features = self.extractor(batch, sampling_rate=self.rate, return_tensors="np")["input_features"]
        return np.asarray(features, dtype=np.float32)


class ClapEncoder(TwoTowers):
    """A frozen CLAP, e.g. `laion/clap-htsat-unfused`: audio and captions to unit-norm embeddings `(n, dim)`.

    Attributes:
        id: hub id, folder or shipped name it was loaded from.
        revision: hub revision that was asked for, else the commit that was loaded; None for a folder.
        dim: width of the shared space.
        rate: sampling rate of the model, in Hz.
        seconds: length of a window in seconds.
        fingerprint: 16 hex digits over the weights, the preprocessing and the vocabulary.
        load: reads a file for `encode_audio`, in any process.
    """

    model_types, processor_class = ("clap",), AutoFeatureExtractor
    shipped: ClassVar = {"small": Path(dlink_adapter.__file__).parent / "soundscapes" / "clap"}

    def __init__(
        self,
        model: ClapModel,
        extractor: ClapFeatureExtractor,
        tokenizer: Any,
        *,
        id: str = "",
        revision: str | None = None,
        batch_size: int = 32,
    ) -> None:
        text, dim = model.config.text_config, model.config.projection_dim
        # RoBERTa counts positions from pad_token_id + 1.
        max_tokens = min(tokenizer.model_max_length, text.max_position_embeddings - text.pad_token_id - 1)
        super().__init__(
            model, tokenizer, dim=dim, max_tokens=max_tokens, id=id, revision=revision, batch_size=batch_size
        )
        self.rate: int = extractor.sampling_rate
        self.seconds: float = extractor.max_length_s
        self.load = ClapLoader(TorchClapFeatureExtractor.from_dict(extractor.to_dict()), self.rate, self.seconds)
        audio = (model.config.audio_config, AUDIO_SETTINGS)
        settings = settings_of(audio, (text, TEXT_SETTINGS), (extractor, FEATURE_SETTINGS))
        self.fingerprint = fingerprint(model, settings, tokenizer.get_vocab())
        if model.config.audio_config.enable_fusion:
            logger.warning(
                "%s is a fusion checkpoint: in transformers its embedding of a short clip depends on which clip of the "
                "batch is marked `is_longer`. Here no window is marked, so the embeddings are deterministic, but may "
                "differ from those of ClapProcessor.", id,
            )  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Id, revision, fingerprint, sampling rate in Hz and how clips are cut into windows."""
        rule = (
            f"mean over non-overlapping {self.seconds} s, tails under {SHORTEST_TAIL} s dropped, shorter clips "
            f"{self.load.extractor.padding}, unit norm"
        )
        names = ("id", "revision", "fingerprint", "rate")
        return {**{name: getattr(self, name) for name in names}, "windows": rule}

    @torch.no_grad()
    def encode_audio(self, clips: Iterable[Any], *, sampling_rate: int | None = None, progress: bool = False) -> Tensor:
        """Audio to unit-norm embeddings `(n, dim)`.

        Args:
            clips: files of any rate and channel count, `(array, rate)`, audio of the library datasets, or mono arrays
                `(samples,)`, as in `as_waveform`; or what `self.load` made of files. They are read one by one,
                as the batches need them. The embedding of a clip longer than `self.seconds` is the mean over its
                windows; a shorter clip is repeated.
            sampling_rate: of arrays that come without theirs, in Hz.
            progress: shows a bar when on a terminal.

        Raises:
            AudioError: a clip that cannot be used, or an array of unknown rate, by its place in `clips`.
        """
        check_sequence(clips)
        bar = tqdm(clips, desc="audio", unit="clip", disable=None if progress else True)
        pieces = clip_windows(bar, self.load.features, self.rate, sampling_rate)
        return encode_windows(pieces, self._embed_windows, batch_size=self.batch_size, dim=self.dim)

    def _embed_windows(self, batch: list[NDArray[np.float32]]) -> Tensor:
        mel = torch.from_numpy(np.stack(batch)).to(self.model.device)
        # The extractor marks a random window of a batch without long ones: see the warning about fusion.
        is_longer = torch.zeros(len(batch), 1, dtype=torch.bool, device=mel.device)
        return pooled(self.model.get_audio_features(input_features=mel, is_longer=is_longer), self.dim)
