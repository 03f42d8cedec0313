"""The rows of many shards, numbered from the first shard to the last, and gathered by those numbers."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dlink_adapter.data.shards import BLOCK_ROWS, Lines, Shard

ROWS_AT_ONCE = 256  # rows read from one mapping of a file; each may bring 2 MiB of its neighbours into memory


class ShardRows:
    """The `audio`, `text` and `clip` of all shards, and `pair`: of each caption the audio and the text (2, dim).

    `clip` counts the rows of `audio` over all shards.
    """

    def __init__(self, shards: Sequence[Shard]):
        self.shards = shards
        self.starts = {
            name: list(accumulate((len(shard.tensors[name]) for shard in shards), initial=0))
            for name in ("audio", "text")
        }
        self.empty = {name: self.read(name, 0, torch.arange(0)) for name in ("audio", "text", "clip", "pair")}

    def count(self, name: str) -> int:
        """The number of rows of `audio` or of `text`."""
        return self.starts[name][-1]

    def read(self, name: str, shard: int, rows: Any = ...) -> Tensor:
        """Rows of one shard, by their places in it."""
        tensors = self.shards[shard].tensors
        if name == "pair":
            return torch.stack([tensors["audio"][tensors["clip"][rows]], tensors["text"][rows]], dim=1)
        found = tensors[name][rows]
        return found + self.starts["audio"][shard] if name == "clip" and shard else found

    def whole(self, name: str) -> Tensor:
        """All rows: memory-mapped where there is one shard."""
        parts = [self.read(name, shard) for shard in range(len(self.shards))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def gather(self, name: str, rows: Tensor) -> Tensor:
        """The rows with these numbers, copied into memory."""
        shard_of, places = self._find("audio" if name == "audio" else "text", rows)
        gathered = self.empty[name].new_empty(len(rows), *self.empty[name].shape[1:])
        for shard in shard_of.unique().tolist():
            for here in (shard_of == shard).nonzero().flatten().split(ROWS_AT_ONCE):
                gathered[here] = self.read(name, shard, places[here])
        return gathered

    def lines(self, rows: Tensor) -> Lines:
        """The ids and captions of these rows of `audio`; the captions are None where a shard has none."""
        shard_of, places = self._find("audio", rows)
        lines = {shard: self.shards[shard].lines for shard in shard_of.unique().tolist()}
        found = list(zip(shard_of.tolist(), places.tolist(), strict=True))
        ids = [lines[shard][0][place] for shard, place in found]
        if any(captions is None for _, captions in lines.values()):
            return ids, None
        return ids, [(lines[shard][1] or [])[place] for shard, place in found]

    def _find(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The shard of each row, and the row's place in that shard."""
        starts = torch.tensor(self.starts[name])
        shard_of = torch.bucketize(rows, starts[1:], right=True)
        return shard_of, rows - starts[shard_of]


class Blocks(Iterable[Tensor]):
    """Some rows of `audio` or of `text`, a block at a time. It can be iterated any number of times."""

    def __init__(self, table: ShardRows, name: str, rows: Tensor):
        self.table, self.name, self.rows = table, name, rows

    def __iter__(self) -> Iterator[Tensor]:
        return (self.table.gather(self.name, block) for block in self.rows.split(BLOCK_ROWS))
