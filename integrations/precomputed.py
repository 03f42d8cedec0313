"""Embeddings that other software made, in `.npy`, `.npz` or `.safetensors` files.

`read_pairs` makes `PairedEmbeddings` of one file for all clips and one for all captions. `PrecomputedEncoder` reads a
file for each clip, in the place of a model.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.data.shards import Array, Captions, usable
from dlink_adapter.extract.encoders import Loaded, UnreadableError, check_sequence

SUFFIXES = (".npy", ".npz", ".safetensors")


def read_array(path: str | Path, name: str | None = None) -> NDArray[Any]:
    """The array in a `.npy`, `.npz` or `.safetensors` file; of several arrays the one called `name`.

    A `.npy` file is memory-mapped. Nothing is unpickled.

    Raises:
        UnreadableError: no such file or array, another kind of file, a damaged one, or no floats in it.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UnreadableError(f"{path}: expected one of {', '.join(SUFFIXES)}")
    try:
        found = _read_safetensors(path, name) if path.suffix == ".safetensors" else _read_numpy(path, name)
    except (OSError, ValueError, SafetensorError) as error:
        raise UnreadableError(f"{path}: {error}") from error
    if found.dtype.kind != "f":
        raise UnreadableError(f"{path}: expected floats, got {found.dtype}")
    return found


def _read_numpy(path: Path, name: str | None) -> NDArray[Any]:
    if path.suffix == ".npy":
        return np.asarray(np.lib.format.open_memmap(path, mode="c"))
    with np.load(path, allow_pickle=False) as arrays:
        return np.asarray(arrays[_only(name, arrays.files)])


def _read_safetensors(path: Path, name: str | None) -> NDArray[Any]:
    with safe_open(path, framework="pt") as file:
        tensor = file.get_tensor(_only(name, list(file.keys())))
    return np.asarray((tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy())


def _only(name: str | None, names: list[str]) -> str:
    if len(names) != 1 and name not in names:
        raise ValueError(f"it holds the arrays {', '.join(names)}: say which, got {name!r}")
    return names[0] if name is None or name not in names else name


def read_pairs(
    audio: str | Path,
    text: str | Path,
    captions: Captions,
    *,
    ids: Sequence[str] | None = None,
    metadata: dict[str, Any] | None = None,
) -> PairedEmbeddings:
    """Pairs from a file of audio (or image) rows `(n, dim)` and one of caption rows `(m, dim)`; `save` keeps them.

    Args:
        audio: a file with one array, or one called `audio`, with a row for each clip.
        text: a file with one array, or one called `text`, with a row for each caption, in the order of `captions`.
        captions: a list for each clip.
        ids: the names of the clips; by default their numbers.
        metadata: any JSON. A bridge that is trained on the pairs keeps its `fingerprint`.

    Raises:
        UnreadableError: a file that cannot be used.
        ValueError: rows that do not fit one another or the captions.
    """
    return PairedEmbeddings.from_tensors(
        read_array(audio, "audio"), read_array(text, "text"), captions, ids=ids, metadata=metadata
    )


def load_embedding(path: str | Path) -> Loaded:
    """The embedding of one clip: an array `(dim,)`, or the mean over windows of an array `(windows, dim)`."""
    array = np.atleast_2d(np.asarray(read_array(path), dtype=np.float32))
    if array.ndim != 2 or not len(array):
        raise UnreadableError(f"{path}: expected an embedding (dim,) or (windows, dim), got {array.shape}")
    return Loaded(array.mean(axis=0))


class PrecomputedEncoder:
    """An encoder that reads embeddings: from a file for each clip, and from a table for the captions.

    Attributes:
        id: the file of caption embeddings.
        dim: width of the embeddings.
        fingerprint: 16 hex digits over the captions and their embeddings.
    """

    def __init__(self, text: Array, captions: Sequence[str], *, id: str = "") -> None:
        text = torch.as_tensor(text)
        if text.ndim != 2 or len(text) != len(captions):
            raise ValueError(f"expected a row (dim,) for each of {len(captions)} captions, got {tuple(text.shape)}")
        if not usable(text).all():
            raise ValueError(f"{id}: a row is zero, or has NaN or Inf")
        self.id, self.dim = id, text.shape[1]
        self.text = normalize(text.float(), dim=-1)
        self.row_of = {caption: row for row, caption in enumerate(captions)}
        content = "\n".join(captions).encode() + self.text.numpy().tobytes()
        self.fingerprint = hashlib.sha256(content).hexdigest()[:16]
        self.load = load_embedding

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, revision: str | None = None, device: Any = None, batch_size: int = 32
    ) -> "PrecomputedEncoder":
        """Reads caption embeddings `(m, dim)`, e.g. `text.npy`, and the captions, a line for each, in `text.txt`.

        `revision`, `device` and `batch_size` are options of all encoders, and are not used by this one.
        """
        path = Path(path)
        captions = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
        return cls(read_array(path), captions, id=str(path))

    def describe(self) -> dict[str, Any]:
        """Id and fingerprint."""
        return {"id": self.id, "fingerprint": self.fingerprint}

    def encode_audio(self, clips: Iterable[str | Path | Loaded]) -> Tensor:
        """Files of embeddings, or what `load` made of them, to unit-norm rows `(n, dim)`.

        Raises:
            UnreadableError: a file that cannot be used.
            ValueError: an embedding of another width than the captions'.
        """
        check_sequence(clips)
        clips = list(clips)
        for index, clip in enumerate(clips):
            if not isinstance(clip, (str, Path, Loaded)):
                raise TypeError(f"clip {index} is of type {type(clip).__name__}: expected a file with its embedding")
        rows = [(clip if isinstance(clip, Loaded) else self.load(clip)).features for clip in clips]
        if any(len(row) != self.dim for row in rows):
            raise ValueError(f"the captions are {self.dim} wide, the clips {sorted({len(row) for row in rows})}")
        return normalize(torch.from_numpy(np.stack(rows)), dim=-1) if rows else torch.zeros(0, self.dim)

    def encode_text(self, captions: Iterable[str]) -> Tensor:
        """The rows `(n, dim)` of these captions. Raises ValueError on one that is not in the table."""
        check_sequence(captions)
        captions = list(captions)
        unknown = next((caption for caption in captions if caption not in self.row_of), None)
        if unknown is not None:
            raise ValueError(f"{self.id} has no embedding of the caption {unknown!r}")
        return self.text[[self.row_of[caption] for caption in captions]]
