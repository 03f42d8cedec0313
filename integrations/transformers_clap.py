"""CLAP through transformers, the default audio encoder: any `ClapModel` on the hub or in a local folder.

CLAP (Wu et al., ICASSP 2023; arXiv 2211.06687) hears at most ten seconds and crops longer clips at random, so that the
same file has a different embedding every time. Here a longer clip is the mean over its non-overlapping windows.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from dlink_adapter.audio import AudioError, Waveform, check_waveform, load_audio, log_mel, windows

try:
    from transformers import AutoFeatureExtractor, AutoTokenizer, ClapFeatureExtractor, ClapModel
except ImportError as error:
    raise ImportError('CLAP needs transformers: pip install "dlink-adapter[clap]"') from error

logger = logging.getLogger(__name__)

# What changes the function of a model without changing any of its parameters.
AUDIO_SETTINGS = ("depths", "enable_fusion", "num_attention_heads", "patch_stride", "spec_size", "window_size")
TEXT_SETTINGS = ("max_position_embeddings", "num_attention_heads", "pad_token_id")
FEATURE_SETTINGS = (
    "feature_size", "fft_window_size", "frequency_max", "frequency_min", "hop_length", "max_length_s", "padding",
    "sampling_rate", "truncation",
)  # fmt: skip


class TorchClapFeatureExtractor(ClapFeatureExtractor):
    """`ClapFeatureExtractor` with its spectrogram, a Python loop over the frames, as one call of torch."""

    def _np_extract_fbank_features(self, waveform: np.ndarray, mel_filters: np.ndarray | None = None) -> np.ndarray:
        filters = torch.from_numpy(self.mel_filters if mel_filters is None else mel_filters)
        clip = torch.from_numpy(waveform)
        return log_mel(clip, filters, fft_size=self.fft_window_size, hop=self.hop_length).numpy()


class ClapEncoder:
    """A frozen CLAP: audio and captions to unit-norm embeddings `(n, dim)`, float32 on the CPU.

    Attributes:
        id: hub id or folder it was loaded from.
        revision: hub revision, if one was asked for.
        dim: width of the shared space.
        rate: sampling rate of the arrays `encode_audio` takes, in Hz.
        seconds: length of a window.
        fingerprint: 16 hex digits over the weights, the preprocessing and the vocabulary.
    """

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
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        _check_tokenizer(tokenizer, model.config.text_config.vocab_size)
        self.model = model.float().eval().requires_grad_(False)
        self.extractor = TorchClapFeatureExtractor.from_dict(extractor.to_dict())
        self.tokenizer = tokenizer
        self.id, self.revision, self.batch_size = id, revision, batch_size
        self.dim: int = model.config.projection_dim
        self.rate: int = extractor.sampling_rate
        self.seconds: float = extractor.max_length_s
        self.fingerprint = _fingerprint(model, extractor, tokenizer)
        if model.config.audio_config.enable_fusion:
            logger.warning(
                "%s is a fusion checkpoint: in transformers its embedding of a short clip depends on which clip of the "
                "batch is marked `is_longer`. Here no window is marked, so the embeddings are deterministic, but may "
                "differ from those of ClapProcessor.", id,
            )  # fmt: skip

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
    ) -> "ClapEncoder":
        """Loads a CLAP from the hub or a folder.

        Args:
            name_or_path: e.g. `laion/clap-htsat-unfused`, or a folder with the model, tokenizer and preprocessor.
            revision: branch, tag or commit on the hub.
            device: where the model runs; CUDA where there is one unless told otherwise.
            batch_size: windows, or captions, a forward pass.

        Raises:
            OSError: there is no such model.
            ValueError: it is not a CLAP, or its tokenizer came back without a vocabulary.
        """
        name = str(name_or_path)
        extractor = AutoFeatureExtractor.from_pretrained(name, revision=revision)
        if not isinstance(extractor, ClapFeatureExtractor):
            raise ValueError(f"{name} is not a CLAP: its feature extractor is a {type(extractor).__name__}")
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model = ClapModel.from_pretrained(name, revision=revision)
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(model, extractor, tokenizer, id=name, revision=revision, batch_size=batch_size)

    @torch.no_grad()
    def encode_audio(self, clips: Sequence[str | Path | Waveform], *, progress: bool = False) -> Tensor:
        """Audio to unit-norm embeddings `(n, dim)`.

        Args:
            clips: files of any rate and channel count, or mono arrays `(samples,)` at `self.rate` Hz. Clips longer
                than `self.seconds` are the mean of their windows' embeddings, shorter ones are repeated.
            progress: shows a bar when on a terminal.

        Raises:
            AudioError: a clip that cannot be used, by its file name or its place in `clips`.
        """
        _check_sequence(clips)
        total = torch.zeros(len(clips), self.dim)
        pieces = self._windows(tqdm(clips, desc="audio", unit="clip", disable=None if progress else True))
        while batch := list(islice(pieces, self.batch_size)):
            owners = torch.tensor([clip for clip, _ in batch])
            total.index_add_(0, owners, self._embed_windows([window for _, window in batch]))
        return normalize(total, dim=-1)

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str], *, progress: bool = False) -> Tensor:
        """Captions to unit-norm embeddings `(n, dim)`; equal captions are computed once.

        Raises:
            ValueError: a caption is blank or not a string, by its place in `captions`.
        """
        _check_sequence(captions)
        for index, caption in enumerate(captions):
            if not isinstance(caption, str) or not caption.strip():
                raise ValueError(f"caption {index} is {caption!r}: expected a string with words")
        unique = sorted(set(captions), key=lambda caption: (len(caption), caption))  # like lengths waste less padding
        starts = tqdm(
            range(0, len(unique), self.batch_size), desc="text", unit="batch", disable=None if progress else True
        )
        rows = [self._embed_captions(unique[start : start + self.batch_size]) for start in starts]
        row_of = {caption: row for row, caption in enumerate(unique)}
        stacked = torch.cat(rows) if rows else torch.zeros(0, self.dim)
        return normalize(stacked[[row_of[caption] for caption in captions]], dim=-1)

    def _windows(self, clips: Iterable[str | Path | Waveform]) -> Iterator[tuple[int, Waveform]]:
        for index, clip in enumerate(clips):
            if isinstance(clip, (str, Path)):
                audio = load_audio(clip, self.rate)
            else:
                try:
                    audio = check_waveform(clip)
                except AudioError as error:
                    raise AudioError(f"clip {index}: {error}") from None
            for window in windows(audio, self.rate, self.seconds):
                yield index, window

    def _embed_windows(self, batch: list[Waveform]) -> Tensor:
        features = self.extractor(batch, sampling_rate=self.rate, return_tensors="pt")
        mel = features["input_features"].to(self.model.device)
        # The extractor marks a random window of a batch without long ones: see the warning about fusion.
        is_longer = torch.zeros(len(batch), 1, dtype=torch.bool, device=mel.device)
        return self._pooled(self.model.get_audio_features(input_features=mel, is_longer=is_longer))

    def _embed_captions(self, batch: list[str]) -> Tensor:
        text = self.model.config.text_config
        # RoBERTa counts positions from pad_token_id + 1.
        room = min(self.tokenizer.model_max_length, text.max_position_embeddings - text.pad_token_id - 1)
        tokens = self.tokenizer(batch, padding=True, truncation=True, max_length=room, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        return self._pooled(
            self.model.get_text_features(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"])
        )

    def _pooled(self, output: Any) -> Tensor:
        """transformers 4 returns the projected embedding itself, transformers 5 an object that holds it."""
        embedding: Tensor = output if isinstance(output, Tensor) else output.pooler_output
        if embedding.shape[-1] != self.dim:
            raise ValueError(f"expected embeddings of width {self.dim}, {self.id} gave {tuple(embedding.shape)}")
        return embedding.float().cpu()


def _check_sequence(items: Any) -> None:
    if isinstance(items, (str, Path)):
        raise TypeError(f"expected a sequence, got the single item {str(items)!r}: put it in a list")


def _check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    """Without its files a RoBERTa tokenizer loads empty and silent, and every caption becomes the same one."""
    words = set(tokenizer("a dog barks")["input_ids"]) - set(tokenizer.all_special_ids)
    if not words:
        raise ValueError(f"the tokenizer has no vocabulary ({len(tokenizer)} entries): are its files in the folder?")
    if len(tokenizer) > vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} entries, the model only {vocab_size}: not the same CLAP")


def _fingerprint(model: ClapModel, extractor: ClapFeatureExtractor, tokenizer: Any) -> str:
    digest = hashlib.sha256()
    for source, names in (
        (model.config.audio_config, AUDIO_SETTINGS),
        (model.config.text_config, TEXT_SETTINGS),
        (extractor, FEATURE_SETTINGS),
    ):
        digest.update(json.dumps({name: getattr(source, name) for name in names}).encode())
    digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    for name, parameter in sorted(model.named_parameters()):
        # Training moves every tensor, so the head of each tells checkpoints apart at no cost.
        head = parameter.detach().flatten()[:64].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + head.numpy().tobytes())
    return digest.hexdigest()[:16]
