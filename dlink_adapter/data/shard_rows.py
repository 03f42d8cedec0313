"""Rows of many shards as if they lay in one: numbered through, gathered by number, never all in memory."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from dlink_adapter.data.shards import BLOCK_ROWS, Lines, Shard

ROWS_KEPT = 256  # how many are read before the mapped files let go: each may bring 2 MiB of neighbours into memory


class ShardRows:
    """The `audio`, `text` and `clip` of all shards; `clip` counts the audio through, as rows are counted here."""

    def __init__(self, shards: Sequence[Shard]):
        self.shards = shards
        self.starts = {
            name: list(accumulate((len(shard.tensors[name]) for shard in shards), initial=0))
            for name in ("audio", "text")
        }
        self.rows_read = 0

    def count(self, name: str) -> int:
        """The number of rows of `audio` or of `text`."""
        return self.starts[name][-1]

    def read(self, name: str, shard: int, rows: Any = ...) -> Tensor:
        """Rows of one shard, by their places in it."""
        found = self.shards[shard].tensors[name][rows]
        return found + self.starts["audio"][shard] if name == "clip" and shard else found

    def whole(self, name: str) -> Tensor:
        """All rows: memory-mapped where there is one shard."""
        parts = [self.read(name, shard) for shard in range(len(self.shards))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def gather(self, name: str, rows: Tensor) -> Tensor:
        """The rows of these numbers, in memory."""
        shard_of, places = self._find("audio" if name == "audio" else "text", rows)
        first = self.shards[0].tensors[name]
        gathered = first.new_empty(len(rows), *first.shape[1:])
        for shard in shard_of.unique().tolist():
            for here in (shard_of == shard).nonzero().flatten().split(ROWS_KEPT):
                gathered[here] = self.read(name, shard, places[here])
                self._let_go_after(len(here))
        return gathered

    def lines(self, rows: Tensor) -> Lines:
        """The ids and captions of these rows of `audio`; the captions are None where a shard has none."""
        shard_of, places = self._find("audio", rows)
        lines = {shard: self.shards[shard].lines for shard in shard_of.unique().tolist()}  # other files stay closed
        found = list(zip(shard_of.tolist(), places.tolist(), strict=True))
        ids = [lines[shard][0][place] for shard, place in found]
        if any(captions is None for _, captions in lines.values()):
            return ids, None
        return ids, [(lines[shard][1] or [])[place] for shard, place in found]

    def _let_go_after(self, rows: int) -> None:
        self.rows_read += rows
        if self.rows_read > ROWS_KEPT:
            self.rows_read = 0
            for shard in self.shards:
                shard.let_go()

    def _find(self, name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row, its shard and its place there."""
        starts = torch.tensor(self.starts[name])
        shard_of = torch.bucketize(rows, starts[1:], right=True)
        return shard_of, rows - starts[shard_of]


class Blocks(Iterable[Tensor]):
    """Rows of one name in blocks, for any number of passes that never hold them all."""

    def __init__(self, table: ShardRows, name: str, rows: Tensor):
        self.table, self.name, self.rows = table, name, rows

    def __iter__(self) -> Iterator[Tensor]:
        return (self.table.gather(self.name, block) for block in self.rows.split(BLOCK_ROWS))
