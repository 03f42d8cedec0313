"""Encoders: the interface of frozen two-tower models, and the table of those that are loaded by name."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm

Window = TypeVar("Window")


class UnreadableError(ValueError):
    """A file that cannot be used, with its name and the cause."""


@dataclass(frozen=True)
class Loaded:
    """A file after decoding and preprocessing, which need no model and can run in another process.

    `features` has the shape that its encoder takes; `seconds` is the length of audio, and 0 for all else.
    """

    features: NDArray[np.float32]
    seconds: float = 0.0


@runtime_checkable
class Encoder(Protocol):
    """A frozen encoder of text and another modality into one space: see `AudioEncoder` and `ImageEncoder`.

    `fingerprint` identifies the weights and the preprocessing: a bridge that was trained on one encoder refuses the
    embeddings of another. The `encode_` methods return unit-norm float32 on the CPU, one row for each item, in order.
    """

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def load(self) -> Callable[[str | Path], Loaded]:
        """A function that reads one file. It can be pickled, needs no model, and raises UnreadableError."""

    def describe(self) -> dict[str, Any]:
        """Id, revision, fingerprint and preprocessing as JSON, for the header of the embeddings."""

    def encode_text(self, captions: Iterable[str], /) -> Tensor:
        """Captions -> (n, dim)."""


@runtime_checkable
class AudioEncoder(Encoder, Protocol):
    """An encoder of audio and text."""

    def encode_audio(self, clips: Iterable[Any], /) -> Tensor:
        """Files, what `load` made of them, or what else the encoder takes -> (n, dim)."""


@runtime_checkable
class ImageEncoder(Encoder, Protocol):
    """An encoder of images and text."""

    def encode_image(self, images: Iterable[Any], /) -> Tensor:
        """Files, what `load` made of them, or what else the encoder takes -> (n, dim)."""


# name -> "module:Class". The class has `from_pretrained(path, **options)`; its module is imported on first use.
ENCODERS: dict[str, str] = {
    "clap": "dlink_adapter.integrations.transformers_clap:ClapEncoder",
    "clip": "dlink_adapter.integrations.transformers_clip:ClipEncoder",
    "laion_clap": "dlink_adapter.integrations.laion_clap:LaionClapEncoder",
    "laion_checkpoint": "dlink_adapter.integrations.laion_clap:CheckpointEncoder",
    "open_clip": "dlink_adapter.integrations.open_clip:OpenClipEncoder",
    "precomputed": "dlink_adapter.integrations.precomputed:PrecomputedEncoder",
}


def register_encoder(name: str, place: str) -> None:
    """Let an encoder of yours be loaded by name, wherever one is: by `load_encoder`, `Captioner` and the commands.

        register_encoder("imagebind", "my_package.imagebind:ImageBindEncoder")

    Args:
        name: for `load_encoder`, and for `encoder` in a captioner's settings.
        place: "module:Class" of an `AudioEncoder` or `ImageEncoder` with `from_pretrained(path, *, revision, device,
            batch_size)`; the module is imported when the encoder is loaded.

    Raises:
        ValueError: another encoder has the name, or a place without a module and a class.
    """
    module, _, attribute = place.partition(":")
    if not module or not attribute:
        raise ValueError(f"encoder {name!r} is at {place!r}: expected 'module:Class'")
    if ENCODERS.setdefault(name, place) != place:
        raise ValueError(f"encoder {name!r} is registered already, as {ENCODERS[name]}")


def load_encoder(name: str, path: str, **options: Any) -> Any:
    """Loads the `AudioEncoder` or `ImageEncoder` with this name in `ENCODERS` from a hub id or a local folder.

    `path` and `options` are those of its class's `from_pretrained`; each takes `revision`, `device` and `batch_size`.
    Raises ValueError on an unknown name, and ImportError, which names the extra, without the library behind it.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; known: {', '.join(sorted(ENCODERS))}")
    module, _, attribute = ENCODERS[name].partition(":")
    return getattr(import_module(module), attribute).from_pretrained(path, **options)


def encode_media(encoder: AudioEncoder | ImageEncoder, clips: Iterable[Any]) -> Tensor:
    """The clips through the tower that is not text's: unit-norm (n, dim)."""
    return encoder.encode_image(clips) if isinstance(encoder, ImageEncoder) else encoder.encode_audio(clips)


def encode_distinct(
    captions: Iterable[str], embed: Callable[[list[str]], Tensor], *, batch_size: int, dim: int, progress: bool = False
) -> Tensor:
    """Captions to unit-norm rows `(n, dim)` by `embed`, a batch at a time; equal ones are computed once.

    Raises ValueError on a caption that is blank or not a string, with its place in `captions`.
    """
    check_sequence(captions)
    captions = list(captions)
    for index, caption in enumerate(captions):
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"caption {index} is {caption!r}: expected a string with words")
    unique = sorted(set(captions), key=lambda caption: (len(caption), caption))  # similar lengths need less padding
    starts = tqdm(range(0, len(unique), batch_size), desc="text", unit="batch", disable=None if progress else True)
    rows = [embed(unique[start : start + batch_size]) for start in starts]
    row_of = {caption: row for row, caption in enumerate(unique)}
    stacked = torch.cat(rows) if rows else torch.zeros(0, dim)
    return normalize(stacked[[row_of[caption] for caption in captions]], dim=-1)


def encode_windows(
    windows: Iterable[tuple[int, Window]], embed: Callable[[list[Window]], Tensor], *, batch_size: int, dim: int
) -> Tensor:
    """The unit-norm embeddings of clips `(clips, dim)`: each the mean over the windows of the clip.

    `windows` are (clip, window), with clips numbered from 0 and the windows of a clip one after another. `embed` maps a
    batch of windows to rows `(n, dim)`.
    """
    sums: list[Tensor] = []
    left = iter(windows)
    while batch := list(islice(left, batch_size)):
        for (clip, _), row in zip(batch, embed([window for _, window in batch]), strict=True):
            if clip == len(sums):
                sums.append(row)
            else:
                sums[clip] = sums[clip] + row
    return normalize(torch.stack(sums), dim=-1) if sums else torch.zeros(0, dim)


def check_sequence(items: Any) -> None:
    """Raises TypeError on a single item: a string, a path, a dict or (array, rate)."""
    if isinstance(items, (str, Path, Mapping)) or (
        isinstance(items, tuple) and len(items) == 2 and isinstance(items[1], Real)
    ):
        raise TypeError(f"expected a sequence, got the single item {str(items)!r:.80}: put it in a list")


def pooled(output: Any, dim: int) -> Tensor:
    """The projected embedding, float32 on the CPU; transformers 4 returns a tensor, transformers 5 an output object.

    Raises ValueError where it is not `dim` wide.
    """
    embedding: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    if embedding.shape[-1] != dim:
        raise ValueError(f"expected embeddings of width {dim}, the model gave {tuple(embedding.shape)}")
    return embedding.float().cpu()


def check_tokenizer(tokenizer: Any, vocab_size: int) -> None:
    """Raises ValueError on a tokenizer without a vocabulary, or with a larger one than that of the model.

    A RoBERTa tokenizer whose files are missing loads without an error, and gives all captions the same tokens.
    """
    words = set(tokenizer("a dog barks")["input_ids"]) - set(tokenizer.all_special_ids)
    if not words:
        raise ValueError(f"the tokenizer has no vocabulary ({len(tokenizer)} entries): are its files in the folder?")
    if len(tokenizer) > vocab_size:
        raise ValueError(f"the tokenizer has {len(tokenizer)} entries, the model only {vocab_size}: not the same one")


def fingerprint(model: nn.Module, settings: Sequence[dict[str, Any]], vocabulary: dict[str, int]) -> str:
    """16 hex digits of a hash over the weights of a model, the settings that change its outputs, and the vocabulary."""
    digest = hashlib.sha256()
    for group in (*settings, sorted(vocabulary.items())):
        digest.update(json.dumps(group).encode())
    for name, parameter in sorted(model.named_parameters()):
        # Training changes every tensor, so that its first values are enough to tell checkpoints apart.
        first = parameter.detach().flatten()[:64].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + first.numpy().tobytes())
    return digest.hexdigest()[:16]
