"""Paired embeddings on disk: shards of safetensors that are memory-mapped, and their captions in JSONL beside them.

A folder holds `header.json` and, for each shard, `embeddings-00000-of-00003.safetensors` with `audio` (n, dim), `text`
(m, dim) and `clip` (m,), the row of `audio` in the same shard that each caption describes, and
`captions-00000-of-00003.jsonl` with a line `{"id": ..., "captions": [...]}` for each row of `audio`. A clip has one or
more captions, and the rows of `text` are those captions in order, so `clip` never decreases.
"""

import json
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from copy import copy
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

FORMAT_VERSION = 1
BLOCK_ROWS = 16384

Captions = list[list[str]]
_Lines = tuple[list[str], Captions | None]  # ids, captions


class PairedEmbeddings(Dataset[tuple[Tensor, Tensor]]):
    """A map-style dataset of (audio, text) embedding pairs, one a caption; each is (dim,), in the stored dtype.

    Made by `write`, `open` or `from_tensors`. Indexing and a DataLoader, also with workers, touch single rows. `audio`,
    `text` and `tensors()` are whole tensors: memory-mapped where there is one shard and no selection, else gathered.
    """

    def __init__(self, shards: "Sequence[_Shard]", metadata: dict[str, Any], chosen: Tensor | None = None):
        self.metadata = metadata
        self._shards = shards
        self._chosen = chosen  # rows of the shards' audio, or None for every one
        self._starts = {
            "audio": [0, *accumulate(len(shard.tensors["audio"]) for shard in shards)],
            "text": [0, *accumulate(len(shard.tensors["text"]) for shard in shards)],
        }

    @classmethod
    def write(
        cls,
        folder: str | Path,
        audio: Tensor,
        text: Tensor,
        captions: Captions,
        ids: Sequence[str] | None = None,
        metadata: dict[str, Any] | None = None,
        shard_clips: int = 65536,
    ) -> "PairedEmbeddings":
        """Save audio (n, dim) and text (m, dim), text in the order of the flattened captions, and open the folder.

        `metadata` is free JSON: encoder id, revision, fingerprint, window rule, sampling rate in Hz. The folder appears
        complete or not at all. Raises FileExistsError if it holds anything, ValueError on data that do not fit.
        """
        folder = Path(folder).absolute()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} is not an empty folder: choose another name or remove it first")
        if shard_clips < 1:
            raise ValueError(f"shard_clips must be at least 1, got {shard_clips}")
        whole = cls.from_tensors(audio, text, captions, ids=ids, metadata=metadata)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
            unfinished = Path(parent, folder.name)
            unfinished.mkdir()
            whole._write_shards(unfinished, shard_clips)
            os.replace(unfinished, folder)
        return cls.open(folder, check_values=False)

    @classmethod
    def open(cls, folder: str | Path, *, check_values: bool = True) -> "PairedEmbeddings":
        """Open a folder without loading it.

        Shapes and counts are always compared with the header. `check_values` also reads every row once, a shard at a
        time, to find NaN, Inf and zeros: leave it out where that takes too long. Raises FileNotFoundError, ValueError.
        """
        folder = Path(folder).absolute()
        header = _read_header(folder / "header.json")
        count = len(header["shards"])
        shards = [_MappedShard(*_shard_files(folder, index, count)) for index in range(count)]
        for shard, counts in zip(shards, header["shards"], strict=True):
            shard.check_layout(counts["clips"], counts["captions"], header["dim"], header["dtype"])
            if check_values:
                copy(shard).check_values()  # the copy maps the file for itself, and lets it go again
        return cls(shards, header["metadata"])

    @classmethod
    def from_tensors(
        cls,
        audio: Tensor,
        text: Tensor,
        captions: Captions | None = None,
        clip: Tensor | None = None,
        *,
        ids: Sequence[str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> "PairedEmbeddings":
        """Pairs in memory: audio (n, dim), text (m, dim), and whose caption each row of text is.

        `captions`, one list a clip, tells that, or `clip` (m,), never decreasing; with neither, row i belongs to row i.
        Raises ValueError on data that do not fit.
        """
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
        shard = _Shard({"audio": audio.detach(), "text": text.detach(), "clip": clip}, (names, captions))
        shard.check_values()
        return cls([shard], metadata or {})

    def __len__(self) -> int:
        """The number of pairs, which is the number of captions."""
        return self._starts["text"][-1] if self._chosen is None else len(self._selection[0])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(audio, text), each (dim,)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """The pairs of a batch, fetched together: what a DataLoader calls."""
        rows = torch.as_tensor(indices)
        if self._chosen is not None:
            rows = self._selection[0][rows]
        audio = self._gather("audio", self._gather("clip", rows))
        return list(zip(audio, self._gather("text", rows), strict=True))

    @property
    def clips(self) -> int:
        """The number of clips."""
        return self._starts["audio"][-1] if self._chosen is None else len(self._chosen)

    @property
    def dim(self) -> int:
        """The width of an embedding."""
        return self._shards[0].tensors["audio"].shape[1]

    @property
    def audio(self) -> Tensor:
        """(clips, dim), one row a clip."""
        return self._whole("audio") if self._chosen is None else self._gather("audio", self._chosen)

    @property
    def text(self) -> Tensor:
        """(pairs, dim), one row a caption, in the order of the flattened `captions`."""
        return self._whole("text") if self._chosen is None else self._gather("text", self._selection[0])

    @property
    def clip(self) -> Tensor:
        """(pairs,) the row of `audio` that each row of `text` describes."""
        return self._whole("clip") if self._chosen is None else self._selection[1]

    @property
    def ids(self) -> list[str]:
        """The name of each clip."""
        return self._lines[0]

    @property
    def captions(self) -> Captions:
        """The captions of each clip. Raises ValueError where the pairs were made from tensors alone."""
        captions = self._lines[1]
        if captions is None:
            raise ValueError("these pairs have no captions: give captions= to from_tensors")
        return captions

    def tensors(self) -> tuple[Tensor, Tensor]:
        """(audio, text), each (pairs, dim): the audio row is repeated for each of its captions."""
        return self.audio[self.clip], self.text

    def select(self, clips: Tensor | Sequence[int]) -> "PairedEmbeddings":
        """The given clips, in the given order, with all their captions; nothing is copied."""
        rows = torch.as_tensor(clips, dtype=torch.long).cpu()
        if rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= self.clips:
            raise ValueError(f"select takes a list of clips between 0 and {self.clips - 1}, got {clips}")
        if len(rows.unique()) < len(rows):
            raise ValueError("select takes each clip once")
        return PairedEmbeddings(self._shards, self.metadata, rows if self._chosen is None else self._chosen[rows])

    def split(self, fractions: Sequence[float], seed: int = 0) -> "list[PairedEmbeddings]":
        """Disjoint random parts, such as (0.9, 0.1); all captions of a clip go to the same one."""
        if not fractions or min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
            raise ValueError(f"fractions must be positive and add up to 1 at most, got {tuple(fractions)}")
        order = torch.randperm(self.clips, generator=torch.Generator().manual_seed(seed))
        ends = [round(self.clips * end) for end in accumulate(fractions)]
        parts = [order[start:end].sort().values for start, end in zip([0, *ends], ends, strict=False)]
        if not all(len(part) for part in parts):
            raise ValueError(f"{self.clips} clips are too few for fractions {tuple(fractions)}: a part would be empty")
        return [self.select(part) for part in parts]

    @cached_property
    def _selection(self) -> tuple[Tensor, Tensor]:
        """Of a selection: the rows of the shards' text, and the selected clip that each describes."""
        assert self._chosen is not None
        place = torch.full((self._starts["audio"][-1],), -1)
        place[self._chosen] = torch.arange(len(self._chosen))
        clip, rows = place[self._whole("clip")].sort(stable=True)
        return rows[clip >= 0], clip[clip >= 0]

    @cached_property
    def _lines(self) -> _Lines:
        ids, captions = zip(*(shard.lines for shard in self._shards), strict=True)
        every_id, every_list = list(chain(*ids)), None if None in captions else list(chain(*captions))
        if self._chosen is None:
            return every_id, every_list
        rows = self._chosen.tolist()
        return [every_id[row] for row in rows], every_list and [every_list[row] for row in rows]

    def _read(self, name: str, shard: int, rows: Any = ...) -> Tensor:
        found = self._shards[shard].tensors[name][rows]
        return found + self._starts["audio"][shard] if name == "clip" and shard else found

    def _whole(self, name: str) -> Tensor:
        parts = [self._read(name, shard) for shard in range(len(self._shards))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _gather(self, name: str, rows: Tensor) -> Tensor:
        starts = torch.tensor(self._starts["audio" if name == "audio" else "text"])
        shard_of = torch.bucketize(rows, starts[1:], right=True)
        first = self._shards[0].tensors[name]
        gathered = first.new_empty(len(rows), *first.shape[1:])
        for shard in shard_of.unique().tolist():
            here = shard_of == shard
            gathered[here] = self._read(name, shard, rows[here] - starts[shard])
        return gathered

    def _write_shards(self, folder: Path, shard_clips: int) -> None:
        parts = [self.select(rows) for rows in torch.arange(self.clips).split(shard_clips)]
        for index, part in enumerate(parts):
            tensors_file, captions_file = _shard_files(folder, index, len(parts))
            tensors = {"audio": part.audio, "text": part.text, "clip": part.clip}
            save_file({name: rows.cpu().contiguous() for name, rows in tensors.items()}, tensors_file)
            with captions_file.open("w", encoding="utf-8") as file:
                for name, captions in zip(part.ids, part.captions, strict=True):
                    file.write(json.dumps({"id": name, "captions": captions}, ensure_ascii=False) + "\n")
        header = {
            "format_version": FORMAT_VERSION,
            "dim": self.dim,
            "dtype": _dtype_name(self.audio),
            "clips": self.clips,
            "captions": len(self),
            "shards": [{"clips": part.clips, "captions": len(part)} for part in parts],
            "metadata": self.metadata,
        }
        Path(folder, "header.json").write_text(json.dumps(header, indent=2), encoding="utf-8")


class _Shard:
    """The rows and the lines of one shard."""

    tensors: dict[str, Tensor]
    lines: _Lines

    def __init__(self, tensors: dict[str, Tensor], lines: _Lines):
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
        if len(set(ids)) < clips:
            raise ValueError(f"the id {Counter(ids).most_common(1)[0][0]!r} is given to more than one clip")
        if len(clip) != len(self.tensors["text"]):
            raise ValueError(f"text has {len(self.tensors['text'])} rows, but there are {len(clip)} captions")
        if not torch.equal(clip.unique_consecutive(), torch.arange(clips)):
            raise ValueError(f"clip must run from 0 to {clips - 1}, each clip's captions together and no clip without")
        for name, captions_of in zip(ids, captions or [], strict=False):
            if not all(isinstance(caption, str) and caption.strip() for caption in captions_of):
                raise ValueError(f"clip {name!r} has a caption that is empty or not a string: {captions_of}")
        _check_rows("the audio", self.tensors["audio"], ids, torch.arange(clips))
        _check_rows("a caption", self.tensors["text"], ids, clip)


class _MappedShard(_Shard):
    """A shard in a folder, opened when it is first read; a copy, or another process, opens it for itself."""

    def __init__(self, tensors_file: Path, captions_file: Path):
        self.tensors_file, self.captions_file = tensors_file, captions_file

    def __getstate__(self) -> dict[str, Path]:
        return {"tensors_file": self.tensors_file, "captions_file": self.captions_file}

    @cached_property
    def tensors(self) -> dict[str, Tensor]:  # type: ignore[override]
        try:
            with safe_open(self.tensors_file, framework="pt") as file:
                return {name: file.get_tensor(name) for name in ("audio", "text", "clip")}
        except SafetensorError as error:
            raise ValueError(f"{self.tensors_file} is damaged: {error}") from error

    @cached_property
    def lines(self) -> _Lines:  # type: ignore[override]
        with self.captions_file.open(encoding="utf-8") as file:
            entries = [json.loads(line) for line in file]
        return [entry["id"] for entry in entries], [entry["captions"] for entry in entries]

    def check_layout(self, clips: int, captions: int, dim: int, dtype: str) -> None:
        """Raise ValueError unless the tensors are those the header announces."""
        layout = {"audio": (dtype, clips, dim), "text": (dtype, captions, dim), "clip": ("int64", captions)}
        for name, expected in layout.items():
            found = _dtype_name(self.tensors[name]), *self.tensors[name].shape
            if found != expected:
                raise ValueError(f"{self.tensors_file.name}: {name} is {found}, but header.json says {expected}")


def _check_rows(what: str, rows: Tensor, ids: list[str], clip: Tensor) -> None:
    for block, owner in zip(rows.split(BLOCK_ROWS), clip.split(BLOCK_ROWS), strict=True):
        norm = block.float().norm(dim=-1).cpu()
        bad = (~norm.isfinite() | (norm == 0)).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"the embedding of {what} of clip {ids[owner[bad[0]]]!r} is zero, or has NaN or Inf")


def _shard_files(folder: Path, index: int, count: int) -> tuple[Path, Path]:
    number = f"{index:05d}-of-{count:05d}"
    return folder / f"embeddings-{number}.safetensors", folder / f"captions-{number}.jsonl"


def _read_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no header.json: it is not a folder of paired embeddings")
    header = json.loads(path.read_text(encoding="utf-8"))
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version {header.get('format_version')!r}, this version of dlink-adapter reads "
            f"{FORMAT_VERSION}: update the package, or write the embeddings again"
        )
    for name in ("clips", "captions"):
        if header[name] != sum(shard[name] for shard in header["shards"]):
            raise ValueError(f"{path}: the shards hold another number of {name} than the {header[name]} announced")
    return header


def _dtype_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
