"""How paired embeddings lie on disk: shards of safetensors that are memory-mapped, with their captions beside them.

A folder holds `header.json` and, for each shard, `embeddings-00000-of-00003.safetensors` with `audio` (n, dim), `text`
(m, dim) and `clip` (m,), the row of `audio` in the same shard that each caption describes, and
`captions-00000-of-00003.jsonl` with a line `{"id": ..., "captions": [...]}` for each row of `audio`. A clip has one or
more captions, and the rows of `text` are those captions in order, so `clip` never decreases.
"""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from math import prod
from mmap import ACCESS_COPY, mmap
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from dlink_adapter.files import write_atomically

if sys.platform != "win32":
    from mmap import MADV_DONTNEED

FORMAT_VERSION = 1
BLOCK_ROWS = 16384
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
}  # fmt: skip

Captions = list[list[str]]
Lines = tuple[list[str], Captions | None]  # ids, captions


class Shard:
    """The rows and the lines of one shard."""

    tensors: dict[str, Tensor]
    lines: Lines

    def __init__(self, tensors: dict[str, Tensor], lines: Lines):
        self.tensors, self.lines = tensors, lines

    def check_values(self) -> None:
        """Raise ValueError on lines that do not match the rows, and on rows that no encoder gives."""
        (ids, captions), clip = self.lines, self.tensors["clip"]
        clips = len(self.tensors["audio"])
        if not clips:
            raise ValueError("there are no clips")
        if len(ids) != clips or (captions is not None and len(captions) != clips):
            lists = "no" if captions is None else len(captions)
            raise ValueError(f"audio has {clips} rows, but there are {len(ids)} ids and {lists} lists of captions")
        check_ids(ids)
        if len(clip) != len(self.tensors["text"]):
            raise ValueError(f"text has {len(self.tensors['text'])} rows, but there are {len(clip)} captions")
        if not torch.equal(clip.unique_consecutive(), torch.arange(clips)):
            raise ValueError(f"clip must run from 0 to {clips - 1}, each clip's captions together and no clip without")
        for name, captions_of in zip(ids, captions or [], strict=False):
            if not all(isinstance(caption, str) and caption.strip() for caption in captions_of):
                raise ValueError(f"clip {name!r} has a caption that is empty or not a string: {captions_of}")
        _check_rows("the audio", self.tensors["audio"], ids, torch.arange(clips))
        _check_rows("a caption", self.tensors["text"], ids, clip)

    def let_go(self) -> None:
        """Give back memory that can be read again; there is none here."""


class MappedShard(Shard):
    """A shard in a folder, mapped when it is first read; a copy, or another process, maps it for itself."""

    def __init__(self, tensors_file: Path, captions_file: Path):
        self.tensors_file, self.captions_file = tensors_file, captions_file

    def __getstate__(self) -> dict[str, Path]:
        return {"tensors_file": self.tensors_file, "captions_file": self.captions_file}

    @cached_property
    def _mapping(self) -> mmap:
        # Not by way of safetensors: its mapping cannot be told to let go of the pages that were read.
        with self.tensors_file.open("rb") as file:
            return mmap(file.fileno(), 0, access=ACCESS_COPY)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:  # type: ignore[override]
        try:
            start = 8 + int.from_bytes(self._mapping[:8], "little")
            layout = json.loads(self._mapping[8:start])
            return {name: self._tensor(start, layout[name]) for name in ("audio", "text", "clip")}
        except (ValueError, LookupError) as error:
            raise ValueError(f"{self.tensors_file} is damaged: {error}") from error

    def _tensor(self, start: int, layout: dict[str, Any]) -> Tensor:
        offset, shape = start + layout["data_offsets"][0], layout["shape"]
        return torch.frombuffer(self._mapping, dtype=DTYPES[layout["dtype"]], count=prod(shape), offset=offset).view(
            shape
        )

    @property
    def lines(self) -> Lines:  # type: ignore[override]
        with self.captions_file.open(encoding="utf-8") as file:
            entries = [json.loads(line) for line in file]
        return [entry["id"] for entry in entries], [entry["captions"] for entry in entries]

    def let_go(self) -> None:
        """Pages that were read count as this process's memory until they are given back; they can be read again."""
        if sys.platform != "win32" and "_mapping" in self.__dict__:
            self._mapping.madvise(MADV_DONTNEED)

    def check_layout(self, clips: int, captions: int, dim: int, dtype: str) -> None:
        """Raise ValueError unless the tensors are those the header announces."""
        layout = {"audio": (dtype, clips, dim), "text": (dtype, captions, dim), "clip": ("int64", captions)}
        for name, expected in layout.items():
            found = _dtype_name(self.tensors[name]), *self.tensors[name].shape
            if found != expected:
                raise ValueError(f"{self.tensors_file.name}: {name} is {found}, but header.json says {expected}")


def in_memory(
    audio: Tensor, text: Tensor, captions: Captions | None, clip: Tensor | None, ids: Sequence[str] | None
) -> Shard:
    """A shard of tensors: see `PairedEmbeddings.from_tensors`."""
    if audio.ndim != 2 or text.ndim != 2 or audio.shape[1] != text.shape[1] or audio.dtype != text.dtype:
        raise ValueError(
            "audio and text must be (n, dim) and (m, dim) of one dim and dtype, got "
            f"{tuple(audio.shape)} {audio.dtype} and {tuple(text.shape)} {text.dtype}"
        )
    if captions is None:
        clip = torch.arange(len(text)) if clip is None else clip.cpu()
    else:
        counts = torch.tensor([len(of_clip) for of_clip in captions], dtype=torch.long)
        counted = torch.arange(len(captions)).repeat_interleave(counts)
        if clip is not None and not torch.equal(counted, clip.cpu()):
            raise ValueError("captions and clip disagree on how many captions each clip has")
        clip = counted
    names = [str(row) for row in range(len(audio))] if ids is None else list(ids)
    shard = Shard({"audio": audio.detach(), "text": text.detach(), "clip": clip}, (names, captions))
    shard.check_values()
    return shard


def shard_files(folder: Path, index: int, count: int) -> tuple[Path, Path]:
    """Where the tensors and the captions of shard `index` of `count` lie."""
    number = f"{index:05d}-of-{count:05d}"
    return folder / f"embeddings-{number}.safetensors", folder / f"captions-{number}.jsonl"


def write_shard(shard: Shard, tensors_file: Path, captions_file: Path) -> dict[str, int]:
    """Write a shard's two files, and count it for the header."""
    ids, captions = shard.lines
    if captions is None:
        raise ValueError("these pairs have no captions, which a folder of pairs keeps: give captions= to from_tensors")
    write_atomically(tensors_file, save({name: rows.cpu().contiguous() for name, rows in shard.tensors.items()}))
    entries = ({"id": name, "captions": of_clip} for name, of_clip in zip(ids, captions, strict=True))
    write_atomically(captions_file, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    return {"clips": len(ids), "captions": len(shard.tensors["text"])}


def write_header(folder: Path, rows: Tensor, shards: list[dict[str, int]], metadata: dict[str, Any]) -> None:
    """Write `header.json`, with the dim and the dtype of `rows`: until it is there, the folder does not open."""
    header = {
        "format_version": FORMAT_VERSION,
        "dim": rows.shape[1],
        "dtype": _dtype_name(rows),
        "clips": sum(shard["clips"] for shard in shards),
        "captions": sum(shard["captions"] for shard in shards),
        "shards": shards,
        "metadata": metadata,
    }
    write_atomically(folder / "header.json", json.dumps(header, indent=2))


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a folder of pairs. Raises FileNotFoundError, ValueError on another format or wrong sums."""
    path = folder / "header.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no header.json: it is not a folder of paired embeddings")
    header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {header.get('format_version')!r}, this version of dlink-adapter reads "
            f"{FORMAT_VERSION}: update the package, or write the embeddings again"
        )
    for name in ("clips", "captions"):
        if header[name] != sum(shard[name] for shard in header["shards"]):
            raise ValueError(f"{path}: the shards hold another number of {name} than the {header[name]} announced")
    return header


def check_ids(ids: Sequence[str]) -> None:
    """Raise ValueError where two clips have one id."""
    if len(set(ids)) < len(ids):
        raise ValueError(f"the id {Counter(ids).most_common(1)[0][0]!r} is given to more than one clip")


def usable(rows: Tensor) -> Tensor:
    """(n,) bool: which rows (n, dim) are embeddings, neither zero nor with NaN or Inf."""
    norm = torch.cat([block.float().norm(dim=-1).cpu() for block in rows.split(BLOCK_ROWS)])
    return norm.isfinite() & (norm > 0)


def _check_rows(what: str, rows: Tensor, ids: list[str], clip: Tensor) -> None:
    bad = (~usable(rows)).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"the embedding of {what} of clip {ids[clip[bad[0]]]!r} is zero, or has NaN or Inf")


def _dtype_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
