"""The format of paired embeddings on disk: shards of memory-mapped safetensors, each with a JSONL file of captions.

A folder holds `header.json` and, for each shard, `embeddings-00000-of-00003.safetensors` with `audio` (n, dim), `text`
(m, dim) and `clip` (m,), the row of `audio` in the same shard that each caption describes, and
`captions-00000-of-00003.jsonl` with a line `{"id": ..., "captions": [...]}` for each row of `audio`. A clip has one or
more captions, and the rows of `text` are those captions in order, so `clip` never decreases. The header has the SHA-256
of both files of each shard, which ties them to each other; folders that were written without it open all the same.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dlink_adapter.files import check_sha256, read_json, read_jsonl, sha256, to_jsonl, write_atomically
from dlink_adapter.folders import PAIRS_FILE, wrong_folder

FORMAT_VERSION = 1
BLOCK_ROWS = 16384
DTYPES = ("float64", "float32", "float16", "bfloat16")
COUNTS = ("clips", "captions")
FIELDS = {"dim": int, "dtype": str, "clips": int, "captions": int, "shards": list, "metadata": dict}  # of a header

Captions = list[list[str]]
Lines = tuple[list[str], Captions | None]  # ids, captions
Array = Tensor | NDArray[Any]


@dataclass
class Shard:
    """The tensors (`audio`, `text` and `clip`) and the lines (ids and captions) of one shard, in memory."""

    tensors: dict[str, Tensor]
    lines: Lines

    def check_values(self) -> None:
        """Raise ValueError where ids, captions and rows differ in number, or a row is zero or has NaN or Inf."""
        audio, text, clip = (self.tensors[name] for name in ("audio", "text", "clip"))
        (ids, captions), clips = self.lines, len(audio)
        if not clips:
            raise ValueError("there are no clips")
        if len(ids) != clips or (captions is not None and len(captions) != clips):
            lists = "no" if captions is None else len(captions)
            raise ValueError(f"audio has {clips} rows, but there are {len(ids)} ids and {lists} lists of captions")
        check_ids(ids)
        if len(clip) != len(text):
            raise ValueError(f"text has {len(text)} rows, but there are {len(clip)} captions")
        if not torch.equal(clip.unique_consecutive(), torch.arange(clips)):
            raise ValueError(f"clip must run from 0 to {clips - 1}, each clip's captions together and no clip without")
        counts = clip.bincount(minlength=clips).tolist()
        for name, count, captions_of in zip(ids, counts, captions or [], strict=False):
            if len(captions_of) != count:
                raise ValueError(f"clip {name!r} has {len(captions_of)} captions, but {count} rows of text")
            if not isinstance(captions_of, list | tuple) or not all(
                isinstance(caption, str) and caption.strip() for caption in captions_of
            ):
                raise ValueError(f"clip {name!r} has a caption that is empty or not a string: {captions_of}")
        for what, rows, owners in (("the audio", audio, torch.arange(clips)), ("a caption", text, clip)):
            if len(bad := owners[~usable(rows)]):
                raise ValueError(f"the embedding of {what} of clip {ids[bad[0]]!r} is zero, or has NaN or Inf")


class MappedShard(Shard):
    """A shard in a folder. Each access to `tensors` maps the file anew, until these tensors are no longer used.

    The pages that are read of a mapped file count as memory of the process: see `shard_rows.ROWS_AT_ONCE`.
    """

    def __init__(self, tensors_file: Path, captions_file: Path):
        self.tensors_file, self.captions_file = tensors_file, captions_file

    @property
    def tensors(self) -> dict[str, Tensor]:  # type: ignore[override]
        try:
            with safe_open(self.tensors_file, framework="pt") as file:
                return {name: file.get_tensor(name) for name in ("audio", "text", "clip")}
        except SafetensorError as error:
            raise ValueError(f"{self.tensors_file} is damaged: {error}") from error

    @property
    def lines(self) -> Lines:  # type: ignore[override]
        entries = read_jsonl(self.captions_file)
        for number, entry in enumerate(entries, start=1):
            if not isinstance(entry.get("id"), str) or not isinstance(entry.get("captions"), list):
                raise ValueError(
                    f"{self.captions_file}, line {number} is damaged: expected an id and a list of captions"
                )
        return [entry["id"] for entry in entries], [entry["captions"] for entry in entries]

    def check_files(self, entry: dict[str, Any], *, captions_only: bool = False) -> None:
        """Raise ValueError where a file has another checksum than in the shard's entry in the header."""
        files = self.tensors_file, self.captions_file
        for file, expected in list(zip(files, entry.get("sha256", []), strict=False))[captions_only:]:
            check_sha256(file, expected, PAIRS_FILE)

    def check_values(self) -> None:
        try:
            super().check_values()
        except ValueError as error:
            raise ValueError(f"{self.tensors_file} and {self.captions_file.name}: {error}") from error

    def check_layout(self, clips: int, captions: int, dim: int, dtype: str) -> None:
        """Raise ValueError unless the tensors are those the header announces."""
        layout = {"audio": (dtype, clips, dim), "text": (dtype, captions, dim), "clip": ("int64", captions)}
        for name, tensor in self.tensors.items():
            expected, found = layout[name], (_dtype_name(tensor), *tensor.shape)
            if found != expected:
                raise ValueError(f"{self.tensors_file}: {name} is {found}, but header.json says {expected}")


def in_memory(
    audio: Array, text: Array, captions: Captions | None, clip: Array | None, ids: Sequence[str] | None
) -> Shard:
    """A shard of tensors on the CPU: see `PairedEmbeddings.from_tensors`."""
    audio, text = (torch.as_tensor(rows).detach().cpu() for rows in (audio, text))
    if audio.ndim != 2 or text.ndim != 2 or audio.shape[1] != text.shape[1] or audio.dtype != text.dtype:
        given = f"{tuple(audio.shape)} {audio.dtype} and {tuple(text.shape)} {text.dtype}"
        raise ValueError(f"audio and text must be (n, dim) and (m, dim) of one dim and dtype, got {given}")
    if _dtype_name(audio) not in DTYPES:
        raise ValueError(f"embeddings are floating-point ({', '.join(DTYPES)}), got {audio.dtype}")
    owners = torch.arange(len(text)) if clip is None else torch.as_tensor(clip).cpu().long()
    if captions is not None:
        counts = torch.tensor([*map(len, captions)], dtype=torch.long)
        counted = torch.arange(len(captions)).repeat_interleave(counts)
        if clip is not None and not torch.equal(counted, owners):
            raise ValueError("captions and clip disagree on how many captions each clip has")
        owners = counted
    names = [str(row) for row in range(len(audio))] if ids is None else list(ids)
    shard = Shard({"audio": audio, "text": text, "clip": owners}, (names, captions))
    shard.check_values()
    return shard


def shard_files(folder: Path, index: int, count: int) -> tuple[Path, Path]:
    """The files of shard `index` of `count`: its tensors and its captions."""
    number = f"{index:05d}-of-{count:05d}"
    return folder / f"embeddings-{number}.safetensors", folder / f"captions-{number}.jsonl"


def write_shard(shard: Shard, tensors_file: Path, captions_file: Path) -> dict[str, Any]:
    """Write the two files of a shard, and return its entry in the header: its counts, and the files' checksums."""
    ids, captions = shard.lines
    if captions is None:
        raise ValueError("these pairs have no captions, which a folder of pairs keeps: give captions= to from_tensors")
    write_atomically(tensors_file, save({name: rows.contiguous() for name, rows in shard.tensors.items()}))
    entries = ({"id": name, "captions": of_clip} for name, of_clip in zip(ids, captions, strict=True))
    write_atomically(captions_file, to_jsonl(entries))
    checksums = [sha256(tensors_file), sha256(captions_file)]
    return {"clips": len(ids), "captions": len(shard.tensors["text"]), "sha256": checksums}


def write_header(folder: Path, rows: Tensor, shards: list[dict[str, Any]], metadata: dict[str, Any]) -> None:
    """Write `header.json`, with the dim and the dtype of `rows`. A folder without it cannot be opened."""
    totals = {name: sum(shard[name] for shard in shards) for name in COUNTS}
    layout = {"format_version": FORMAT_VERSION, "dim": rows.shape[1], "dtype": _dtype_name(rows)}
    header = {**layout, **totals, "shards": shards, "metadata": metadata}
    write_atomically(folder / PAIRS_FILE, json.dumps(header, indent=2))


def read_header(folder: Path) -> dict[str, Any]:
    """The header of a folder of pairs. Raises FileNotFoundError, or ValueError on another format or wrong counts."""
    path = folder / PAIRS_FILE
    if not path.is_file():
        raise wrong_folder(folder, PAIRS_FILE, "a folder of paired embeddings")
    header = read_json(path)
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {header.get('format_version')!r}, this version of dlink-adapter reads "
            f"{FORMAT_VERSION}: update the package, or write the embeddings again"
        )
    for name, kind in FIELDS.items():
        if not isinstance(header.get(name), kind):
            raise ValueError(f"{path} is damaged: {name} is {header.get(name)!r:.40}")
    if not header["shards"] or not all(map(_is_entry, header["shards"])):
        raise ValueError(f"{path} is damaged: shards is {header['shards']!r:.80}")
    if header["dtype"] not in DTYPES:
        raise ValueError(f"{path}: embeddings are floating-point ({', '.join(DTYPES)}), not {header['dtype']!r}")
    for name in COUNTS:
        if header[name] != sum(shard[name] for shard in header["shards"]):
            raise ValueError(f"{path}: the shards hold another number of {name} than the {header[name]} announced")
    return header


def _is_entry(shard: Any) -> bool:
    return isinstance(shard, dict) and all(isinstance(shard.get(name), int) for name in COUNTS)


def check_ids(ids: Sequence[str]) -> None:
    """Raise ValueError where two clips have one id."""
    if len(set(ids)) < len(ids):
        raise ValueError(f"the id {Counter(ids).most_common(1)[0][0]!r} is given to more than one clip")


def usable(rows: Tensor) -> Tensor:
    """(n,) bool: which of these rows (n, dim) are finite and not zero."""
    largest = torch.cat([block.abs().amax(-1) for block in rows.split(BLOCK_ROWS)])
    return largest.isfinite() & (largest > 0)


def _dtype_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
