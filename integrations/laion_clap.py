"""LAION's own CLAP: the package `laion_clap`, and its `.pt` checkpoints with or without the package.

`LaionClapEncoder` runs the package (numpy < 2, torchvision). `CheckpointEncoder` needs transformers alone: it loads a
checkpoint into `ClapModel` by renaming its weights, with every size read off the weights themselves. The names are
those of HTSAT (Chen et al., ICASSP 2022) and CLAP (Wu et al., ICASSP 2023) as LAION trained them.
"""

import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlink_adapter.audio import SHORTEST_TAIL, Waveform, load_audio, windows
from dlink_adapter.encoders import Loaded, check_sequence, encode_distinct, encode_windows, fingerprint
from dlink_adapter.integrations.transformers_clap import ClapEncoder

try:
    from transformers import AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel
except ImportError as error:
    raise ImportError('CLAP needs transformers: pip install "dlink-adapter[clap]"') from error

RATE, SECONDS = 48_000, 10
MAX_TOKENS = 77  # what LAION trained with
HEAD_WIDTH = 64  # of RoBERTa's attention
# Parts of a checkpoint that an embedding does not need: the spectrogram, the classifier, heads of other losses.
UNUSED = re.compile(
    r"audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\."
    r"|(audio|text)_transform\.|.*\.(attn_mask|relative_position_index|position_ids|token_type_ids)$"
)
RENAMED = (
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.bn0\.", "audio_model.audio_encoder.batch_norm."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
    (r"(\.blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(\.blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The weights in a `.pt` checkpoint by LAION's names. Nothing but tensors and numbers is unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint of a CLAP.
    """
    scalar = np.dtype(np.float64).type(0).__reduce__()[0]
    # LAION's training state has numpy scalars beside the weights, under the name they had before numpy 2.
    plain: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype(np.float64))]
    try:
        with torch.serialization.safe_globals(plain):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))  # what it would have called
        raise ValueError(
            f"{path} holds more than weights, or is damaged ({found[1] if found else str(error).splitlines()[0]}): "
            "save its state_dict alone"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    weights = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    if "audio_branch.patch_embed.proj.weight" not in weights or "text_branch.pooler.dense.weight" not in weights:
        raise ValueError(f"{path} is not a CLAP with HTSAT and RoBERTa: it has {', '.join(list(weights)[:3])}, ...")
    return weights


def clap_model(weights: dict[str, Tensor]) -> ClapModel:
    """A `ClapModel` with the weights of a checkpoint.

    Raises:
        ValueError: a weight that `ClapModel` has no place for, or lacks.
    """
    model = ClapModel(_config(weights))
    missing, unknown = model.load_state_dict(dict(_renamed(weights)), strict=False)
    missing = [name for name in missing if not UNUSED.match(name)]
    if missing or unknown:
        raise ValueError(f"not the CLAP that transformers has: it lacks {missing[:3]}, and has {unknown[:3]} besides")
    return model


def _config(weights: dict[str, Tensor]) -> ClapConfig:
    shape = {name: value.shape for name, value in weights.items()}
    stages = _count(r"audio_branch\.layers\.(\d+)\.", weights)
    block = "audio_branch.layers.{}.blocks.0."
    bias_tables = [shape[block.format(stage) + "attn.relative_position_bias_table"] for stage in range(stages)]
    width, _, patch, _ = shape["audio_branch.patch_embed.proj.weight"]
    fused = "audio_branch.patch_embed.mel_conv2d.weight" in weights
    audio: dict[str, Any] = dict(
        num_mel_bins=shape["audio_branch.bn0.weight"][0],
        patch_size=patch,
        patch_stride=[patch, patch],
        patch_embeds_hidden_size=width,
        hidden_size=width * 2 ** (stages - 1),
        depths=[_count(rf"audio_branch\.layers\.{stage}\.blocks\.(\d+)\.", weights) for stage in range(stages)],
        num_attention_heads=[heads for _, heads in bias_tables],
        window_size=(isqrt(bias_tables[0][0]) + 1) // 2,
        mlp_ratio=shape[block.format(0) + "mlp.fc1.weight"][0] / width,
        enable_fusion=fused,
        fusion_type="aff_2d" if fused else None,
    )
    if fused:
        audio["aff_block_r"] = width // shape["audio_branch.patch_embed.fusion_model.local_att.0.weight"][0]
    vocabulary, hidden = shape["text_branch.embeddings.word_embeddings.weight"]
    text = dict(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=_count(r"text_branch\.encoder\.layer\.(\d+)\.", weights),
        num_attention_heads=max(1, hidden // HEAD_WIDTH),
        intermediate_size=shape["text_branch.encoder.layer.0.intermediate.dense.weight"][0],
        max_position_embeddings=shape["text_branch.embeddings.position_embeddings.weight"][0],
        layer_norm_eps=1e-5,
    )
    return ClapConfig(audio_config=audio, text_config=text, projection_dim=shape["text_projection.0.weight"][0])


def _count(pattern: str, names: Iterable[str]) -> int:
    return 1 + max(int(found[1]) for name in names if (found := re.match(pattern, name)))


def _renamed(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in weights.items():
        if UNUSED.match(name):
            continue
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                yield name.replace("qkv", part), rows
        else:
            yield name, value


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
        model = clap_model(read_checkpoint(name_or_path))
        model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
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
    return Loaded(np.stack([_filled(window) for window in windows(audio, RATE, SECONDS)]), len(audio) / RATE)


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
        """Loads a `.pt` checkpoint into the package's own model.

        `revision` is what every encoder takes; a file has none, and another value than None is a ValueError.

        Raises:
            ImportError: the package is not installed.
            FileNotFoundError, ValueError: as `read_checkpoint`; RuntimeError where the package's model is another.
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
        weights.pop("text_branch.embeddings.position_ids", None)  # which transformers no longer saves
        module.model.load_state_dict(weights)
        return cls(module, id=str(name_or_path), batch_size=batch_size)

    def describe(self) -> dict[str, Any]:
        """Id, fingerprint, sampling rate in Hz and what becomes of clips that do not fill a window."""
        rule = f"mean over non-overlapping {SECONDS} s, tails under {SHORTEST_TAIL} s dropped, shorter clips repeatpad"
        return {"id": self.id, "fingerprint": self.fingerprint, "rate": RATE, "windows": rule}

    @torch.no_grad()
    def encode_audio(self, clips: Iterable[str | Path | Loaded]) -> Tensor:
        """Files, or what `load` made of them, to unit-norm embeddings `(n, dim)`; long clips are means of windows.

        Raises:
            AudioError: a file that cannot be used, by its name.
        """
        check_sequence(clips)
        pieces = (
            (index, window)
            for index, clip in enumerate(clips)
            for window in (clip if isinstance(clip, Loaded) else self.load(clip)).features
        )
        return encode_windows(pieces, self._embed_windows, batch_size=self.batch_size, dim=self.dim)

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Captions to unit-norm embeddings `(n, dim)`; equal captions are computed once.

        Raises:
            ValueError: a caption is blank or not a string, by its place in `captions`.
        """
        return encode_distinct(captions, self._embed_captions, batch_size=self.batch_size, dim=self.dim)

    def _embed_windows(self, batch: list[Waveform]) -> Tensor:
        return torch.from_numpy(self.module.get_audio_embedding_from_data(batch)).float()

    def _embed_captions(self, batch: list[str]) -> Tensor:
        return torch.from_numpy(self.module.get_text_embedding(batch)).float()
