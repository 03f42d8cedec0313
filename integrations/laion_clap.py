"""LAION's own CLAP: the package `laion_clap`, and its `.pt` checkpoints with or without the package.

`LaionClapEncoder` runs the package (numpy < 2, torchvision). `CheckpointEncoder` needs only transformers: it loads the
weights into a `ClapModel` (`laion_checkpoint.py`).
"""

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlink_adapter.extract.audio import SHORTEST_TAIL, Waveform, clip_windows, load_audio, windows
from dlink_adapter.extract.encoders import Loaded, check_sequence, encode_distinct, encode_windows, fingerprint
from dlink_adapter.integrations.laion_checkpoint import clap_model, read_checkpoint
from dlink_adapter.integrations.transformers_clap import ClapEncoder
from dlink_adapter.integrations.two_towers import on_device

RATE, SECONDS = 48_000, 10
MAX_TOKENS = 77  # as in LAION's training


class CheckpointEncoder(ClapEncoder):
    """A `.pt` checkpoint of LAION in transformers' `ClapModel`; see `ClapEncoder`."""

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
        tokenizer: str = "roberta-base",
    ) -> "CheckpointEncoder":
        """Loads a checkpoint.

        Args:
            name_or_path: e.g. `630k-audioset-best.pt` or `music_audioset_epoch_15_esc_90.14.pt`.
            revision: of the tokenizer on the hub.
            device: where the model runs; CUDA where there is one unless told otherwise.
            batch_size: windows, or captions, a forward pass.
            tokenizer: hub id or folder of RoBERTa's tokenizer.

        Raises:
            FileNotFoundError, ValueError: as `read_checkpoint` and `clap_model`.
        """
        from transformers import AutoTokenizer, ClapFeatureExtractor

        model = on_device(clap_model(read_checkpoint(name_or_path)), device)
        words = AutoTokenizer.from_pretrained(tokenizer, revision=revision, model_max_length=MAX_TOKENS)
        audio = model.config.audio_config
        extractor = ClapFeatureExtractor(
            feature_size=audio.num_mel_bins,
            frequency_min=50,
            frequency_max=14_000,
            truncation="fusion" if audio.enable_fusion else "rand_trunc",
        )
        return cls(model, extractor, words, id=str(name_or_path), batch_size=batch_size)


def load_windows(path: str | Path) -> Loaded:
    """A file as windows `(windows, samples)` of 10 s at 48 kHz, a shorter one repeated and filled with zeros."""
    audio = load_audio(path, RATE)
    return Loaded(filled_windows(audio), len(audio) / RATE)


def filled_windows(audio: Waveform) -> Waveform:
    """`(samples,)` at 48 kHz -> `(windows, samples)` of 10 s each."""
    return np.stack([_filled(window) for window in windows(audio, RATE, SECONDS)])


def _filled(window: Waveform) -> Waveform:
    size = RATE * SECONDS
    repeated = np.tile(window, size // len(window))
    return np.pad(repeated, (0, size - len(repeated)))


class LaionClapEncoder:
    """A frozen `laion_clap.CLAP_Module`: audio and captions to unit-norm embeddings `(n, dim)`, float32 on the CPU.

    Attributes:
        id: the checkpoint.
        rate: sampling rate in Hz.
        dim: width of the shared space.
        fingerprint: 16 hex digits over the weights.
        load: reads a file for `encode_audio`, in any process.
    """

    rate = RATE

    def __init__(self, module: Any, *, id: str = "", batch_size: int = 32) -> None:
        self.module, self.id, self.batch_size = module.eval().requires_grad_(False), id, batch_size
        self.dim: int = module.model.text_projection[-1].out_features
        self.fingerprint = fingerprint(module.model, [], module.tokenize.get_vocab())
        self.load = load_windows

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
    ) -> "LaionClapEncoder":
        """Loads a `.pt` checkpoint into the model of the package.

        Raises:
            ImportError: the package is not installed.
            FileNotFoundError, ValueError: as `read_checkpoint`; ValueError also on a `revision`, which a file has not.
            RuntimeError: the weights are not those of the package's model.
        """
        if revision is not None:
            raise ValueError(f"{name_or_path} is a file: it has no revision {revision!r}")
        weights = read_checkpoint(name_or_path)
        try:
            package = import_module("laion_clap")
        except ImportError as error:
            raise ImportError(
                'the package laion_clap is needed here (numpy < 2): pip install "dlink-adapter[laion-clap]". The '
                "encoder laion_checkpoint loads the same file without it"
            ) from error
        width = len(weights["audio_branch.patch_embed.proj.bias"])
        module = package.CLAP_Module(
            enable_fusion="audio_branch.patch_embed.mel_conv2d.weight" in weights,
            device=device or ("cuda" if torch.cuda.is_available() else "cpu"),
            amodel={96: "HTSAT-tiny", 128: "HTSAT-base", 256: "HTSAT-large"}[width],
        )
        weights.pop("text_branch.embeddings.position_ids", None)  # transformers no longer saves it
        module.model.load_state_dict(weights)
        return cls(module, id=str(name_or_path), batch_size=batch_size)

    def describe(self) -> dict[str, Any]:
        """Id, fingerprint, sampling rate in Hz and how clips are cut into windows."""
        rule = f"mean over non-overlapping {SECONDS} s, tails under {SHORTEST_TAIL} s dropped, shorter clips repeatpad"
        return {"id": self.id, "fingerprint": self.fingerprint, "rate": RATE, "windows": rule}

    @torch.no_grad()
    def encode_audio(self, clips: Iterable[Any], *, sampling_rate: int | None = None) -> Tensor:
        """Audio to unit-norm embeddings `(n, dim)`: see `ClapEncoder.encode_audio`."""
        check_sequence(clips)
        pieces = clip_windows(clips, filled_windows, RATE, sampling_rate)
        return encode_windows(pieces, self._embed_windows, batch_size=self.batch_size, dim=self.dim)

    @torch.no_grad()
    def encode_text(self, captions: Iterable[str]) -> Tensor:
        """Captions to unit-norm embeddings `(n, dim)`; equal captions are computed once.

        Raises:
            ValueError: a caption is blank or not a string, by its place in `captions`.
        """
        return encode_distinct(captions, self._embed_captions, batch_size=self.batch_size, dim=self.dim)

    def _embed_windows(self, batch: list[Waveform]) -> Tensor:
        return torch.from_numpy(self.module.get_audio_embedding_from_data(batch)).float()

    def _embed_captions(self, batch: list[str]) -> Tensor:
        return torch.from_numpy(self.module.get_text_embedding(batch)).float()
