"""Paired embeddings, which bridges are trained on: in memory, or in a folder of the format in `shards.py`."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dlink_adapter.data.shard_rows import Blocks, ShardRows
from dlink_adapter.data.shards import (
    BLOCK_ROWS,
    Array,
    Captions,
    Lines,
    MappedShard,
    Shard,
    check_ids,
    in_memory,
    read_header,
    shard_files,
    write_header,
    write_shard,
)
from dlink_adapter.files import appearing_folder

SHARD_CLIPS = 65536


class PairedEmbeddings(Dataset[tuple[Tensor, Tensor]]):
    """A map-style dataset of (audio, text) pairs of embeddings, one for each caption; both are (dim,) in one dtype.

    It is made by `write`, `open` or `from_tensors`. Indexing and a DataLoader read the rows they need from disk.
    `audio`, `text` and `tensors()` are whole tensors: memory-mapped where there is one shard and no selection, copied
    into memory otherwise.
    """

    def __init__(self, table: ShardRows, metadata: dict[str, Any], chosen: Tensor | None = None):
        self._table, self.metadata, self._is_whole = table, metadata, chosen is None
        self._rows = torch.arange(table.count("audio")) if chosen is None else chosen  # of the table's audio

    @classmethod
    def write(
        cls,
        folder: str | Path,
        audio: Array,
        text: Array,
        captions: Captions,
        ids: Sequence[str] | None = None,
        metadata: dict[str, Any] | None = None,
        shard_clips: int = SHARD_CLIPS,
    ) -> "PairedEmbeddings":
        """Save audio (n, dim) and text (m, dim), one row for each caption in order, and open the folder.

        `metadata` is any JSON: encoder id, revision, fingerprint, window rule, sampling rate in Hz. The folder appears
        complete or not at all. Raises FileExistsError if it holds anything, ValueError on data that do not fit.
        """
        return cls.from_tensors(audio, text, captions, ids=ids, metadata=metadata).save(folder, shard_clips)

    @classmethod
    def open(cls, folder: str | Path, *, check_values: bool = True) -> "PairedEmbeddings":
        """Open a folder without loading it. Raises FileNotFoundError, or ValueError on a folder that is damaged.

        Shapes, counts and the checksums of the captions are always compared with the header. `check_values` also reads
        every row, a shard at a time, to compare its checksum and to find NaN, Inf and zeros: about a second a GB. Turn
        it off where that takes too long. Folders without checksums are those of earlier versions.
        """
        folder = Path(folder).absolute()
        header = read_header(folder)
        count = len(header["shards"])
        shards = []
        for index, entry in enumerate(header["shards"]):
            shard = MappedShard(*shard_files(folder, index, count))
            shard.check_layout(entry["clips"], entry["captions"], header["dim"], header["dtype"])
            shard.check_files(entry, captions_only=not check_values)
            if check_values:
                shard.check_values()
            shards.append(shard)
        return cls(ShardRows(shards), header["metadata"])

    @classmethod
    def from_tensors(
        cls,
        audio: Array,
        text: Array,
        captions: Captions | None = None,
        clip: Array | None = None,
        *,
        ids: Sequence[str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> "PairedEmbeddings":
        """Pairs in memory, on the CPU: audio (n, dim), text (m, dim), and the clip of each row of text.

        The clips are given by `captions`, a list for each clip, or by `clip` (m,), the row of audio of each row of
        text, which never decreases. With neither, row i of text belongs to row i of audio. numpy arrays and tensors on
        any device are taken. Raises ValueError on data that do not fit.
        """
        return cls(ShardRows([in_memory(audio, text, captions, clip, ids)]), metadata or {})

    def __len__(self) -> int:
        """The number of pairs, which is the number of captions."""
        return self._table.count("text") if self._is_whole else len(self._caption_rows)

    def __getitem__(self, index: int | slice) -> tuple[Tensor, Tensor]:
        """(audio, text) of a pair, each (dim,), or of a slice of the pairs, each (n, dim). `select` chooses clips."""
        if isinstance(index, slice):
            return self._gathered(list(range(len(self))[index]))
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self)}")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """The pairs of a batch, fetched together: what a DataLoader calls."""
        return list(zip(*self._gathered(indices), strict=True))

    def _gathered(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        audio, text = self._table.gather("pair", self._caption_rows[indices]).unbind(1)
        return audio, text

    @property
    def clips(self) -> int:
        """The number of clips."""
        return len(self._rows)

    @property
    def dim(self) -> int:
        """The width of an embedding."""
        return self._table.empty["audio"].shape[1]

    @property
    def audio(self) -> Tensor:
        """(clips, dim), one row for each clip."""
        return self._table.whole("audio") if self._is_whole else self._table.gather("audio", self._rows)

    @property
    def text(self) -> Tensor:
        """(pairs, dim), one row for each caption, in the order of `captions`."""
        return self._table.whole("text") if self._is_whole else self._table.gather("text", self._caption_rows)

    @property
    def clip(self) -> Tensor:
        """(pairs,) the row of `audio` that each row of `text` describes."""
        return self._table.whole("clip") if self._is_whole else self._selection[1]

    @property
    def ids(self) -> list[str]:
        """The name of each clip."""
        return self._lines[0]

    @property
    def has_captions(self) -> bool:
        """Whether the captions are known: not where the pairs were made from tensors alone."""
        return self._lines[1] is not None

    @property
    def captions(self) -> Captions:
        """The captions of each clip. Raises ValueError where the pairs were made from tensors alone."""
        captions = self._lines[1]
        if captions is None:
            raise ValueError("these pairs have no captions: give captions= to from_tensors")
        return captions

    def tensors(self) -> tuple[Tensor, Tensor]:
        """(audio, text), each (pairs, dim): the row of audio is repeated for each caption of its clip."""
        return self.audio[self.clip], self.text

    def first_captions(self) -> Tensor:
        """(clips, dim) the row of `text` of each clip's first caption."""
        first = torch.searchsorted(self.clip, torch.arange(self.clips))
        return self._table.gather("text", self._caption_rows[first])

    def digest(self) -> str:
        """SHA-256 in hex over `audio`, `text` and `clip`: their dtypes, shapes and values, read a block at a time.

        The same rows have the same digest in memory and on disk, in any number of shards.
        """
        sha = hashlib.sha256()
        blocks = {"audio": self.blocks("audio"), "text": self.blocks("text"), "clip": self.clip.split(BLOCK_ROWS)}
        for name, of_name in blocks.items():
            count = self.clips if name == "audio" else len(self)
            sha.update(f"{name} {self._table.empty[name].dtype} {count} {self.dim}\n".encode())
            for block in of_name:
                sha.update(block.contiguous().view(torch.uint8).numpy())
        return sha.hexdigest()

    def select(self, clips: Array | Sequence[int]) -> "PairedEmbeddings":
        """These clips, in this order, with all their captions; nothing is copied."""
        rows = torch.as_tensor(clips, dtype=torch.long).cpu()
        if rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= self.clips:
            raise ValueError(f"select takes a list of clips between 0 and {self.clips - 1}, got {clips}")
        if len(rows.unique()) < len(rows):
            raise ValueError("select takes each clip once")
        return PairedEmbeddings(self._table, self.metadata, self._rows[rows])

    def split(self, fractions: Sequence[float], seed: int = 0) -> "list[PairedEmbeddings]":
        """Disjoint random parts, such as (0.9, 0.1); all captions of a clip go to the same part."""
        if not fractions or min(fractions) <= 0 or sum(fractions) > 1 + 1e-9:
            raise ValueError(f"fractions must be positive and add up to 1 at most, got {tuple(fractions)}")
        order = torch.randperm(self.clips, generator=torch.Generator().manual_seed(seed))
        ends = [round(self.clips * end) for end in accumulate(fractions)]
        parts = [order[start:end].sort().values for start, end in zip([0, *ends], ends, strict=False)]
        if not all(len(part) for part in parts):
            raise ValueError(f"{self.clips} clips are too few for fractions {tuple(fractions)}: a part would be empty")
        return [self.select(part) for part in parts]

    @classmethod
    def merge(cls, parts: "Sequence[PairedEmbeddings]") -> "PairedEmbeddings":
        """The clips of all parts, in order; nothing is copied, and `save` writes them as one folder.

        Metadata that differ between the parts become a list with the value of each. Raises ValueError where dim, dtype
        or encoder fingerprint differ, and where two clips have the same id.
        """
        if not parts:
            raise ValueError("merge takes at least one PairedEmbeddings, got none")
        kinds = {(part.dim, part._table.empty["audio"].dtype, part.metadata.get("fingerprint")) for part in parts}
        if len(kinds) > 1:
            raise ValueError(f"merge takes pairs of one dim, dtype and encoder fingerprint, got {kinds}")
        check_ids([name for part in parts for name in part.ids])
        shards = [shard for part in parts for shard in part._table.shards]
        starts = accumulate((part._table.count("audio") for part in parts), initial=0)
        rows = [start + part._rows for start, part in zip(starts, parts, strict=False)]
        chosen = None if all(part._is_whole for part in parts) else torch.cat(rows)
        return cls(ShardRows(shards), _merged([part.metadata for part in parts]), chosen)

    def save(self, folder: str | Path, shard_clips: int = SHARD_CLIPS) -> "PairedEmbeddings":
        """Write these pairs, with one shard in memory at a time, and open the folder.

        The folder appears complete or not at all. Raises FileExistsError if it holds anything.
        """
        if shard_clips < 1:
            raise ValueError(f"shard_clips must be at least 1, got {shard_clips}")
        groups = torch.arange(self.clips).split(shard_clips)
        counts = []
        with appearing_folder(folder) as unfinished:
            for index, group in enumerate(groups):
                part = self.select(group)
                tensors = {"audio": part.audio, "text": part.text, "clip": part.clip}
                shard = Shard(tensors, (part.ids, part.captions))
                counts.append(write_shard(shard, *shard_files(unfinished, index, len(groups))))
            write_header(unfinished, tensors["audio"], counts, self.metadata)
        return PairedEmbeddings.open(folder, check_values=False)

    def blocks(self, name: Literal["audio", "text"]) -> Blocks:
        """The rows of `audio` or of `text`, a block (n, dim) at a time, for any number of passes."""
        return Blocks(self._table, name, self._rows if name == "audio" else self._caption_rows)

    def sample(self, most: int) -> "PairedEmbeddings":
        """Some `most` clips, always the same and in order, or all of them where they are fewer."""
        order = torch.randperm(self.clips, generator=torch.Generator().manual_seed(0))
        return self if self.clips <= most else self.select(order[:most].sort().values)

    @cached_property
    def _caption_rows(self) -> Tensor:
        """The rows of the table's text that these pairs have."""
        return torch.arange(len(self)) if self._is_whole else self._selection[0]

    @cached_property
    def _selection(self) -> tuple[Tensor, Tensor]:
        """The rows of the table's text that a selection has, and the selected clip that each of them describes."""
        place = torch.full((self._table.count("audio"),), -1)
        place[self._rows] = torch.arange(self.clips)
        clip, rows = place[self._table.whole("clip")].sort(stable=True)
        return rows[clip >= 0], clip[clip >= 0]

    @cached_property
    def _lines(self) -> Lines:
        return self._table.lines(self._rows)


def _merged(metadata: list[dict[str, Any]]) -> dict[str, Any]:
    names = dict.fromkeys(chain.from_iterable(metadata))
    values = {name: [of_part.get(name) for of_part in metadata] for name in names}
    return {name: of[0] if all(value == of[0] for value in of) else of for name, of in values.items()}
