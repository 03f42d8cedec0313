"""The work of one process in an extraction: it encodes every `count`-th piece of a plan, one after another.

Worker processes decode and preprocess files while the encoder runs. A batch never spans two shards, so that the
embeddings are the same to the bit after a kill and in any number of processes.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from dlink_adapter.bridge.space import unit_mean
from dlink_adapter.data.shards import Shard, usable, write_shard
from dlink_adapter.extract.encoders import AudioEncoder, ImageEncoder, Loaded, UnreadableError, encode_media
from dlink_adapter.extract.plan import DIED, HELD, TEXTS, Plan, skipped, state
from dlink_adapter.files import read_jsonl, write_atomically

CONSTANT = 0.9999  # mean pairwise cosine above which distinct captions count as one and the same embedding
POLL = 0.2  # seconds


@dataclass(frozen=True)
class Processes:
    """The processes that share an extraction: `meet` waits until all of them have called it."""

    index: int = 0  # of this process
    count: int = 1
    meet: Callable[[], None] = lambda: None


def _read(load: Callable[[str | Path], Loaded], path: str) -> Loaded | str:
    """A file as the encoder takes it, or the reason why it cannot be used."""
    try:
        return load(path)
    except (UnreadableError, OSError) as error:  # such as of a file that was there when the plan was made
        return str(error)


def _end_with(parent: int, worker: int) -> None:
    """Let a worker process end when its parent was killed: it would wait for ever to hand over what it has decoded."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Run:
    """The work of one process on a plan."""

    def __init__(
        self, plan: Plan, encoder: AudioEncoder | ImageEncoder, processes: Processes, workers: int, progress: bool
    ):
        self.plan, self.encoder, self.processes, self.workers = plan, encoder, processes, workers
        self.others = set(range(processes.count)) - {processes.index}
        self.hide = None if progress and not processes.index else True

    def encode(self) -> None:
        """Encode the pieces of this process; the first process then waits until the others have encoded theirs."""
        texts = [self.plan.text_file(piece) for piece in range(len(self.plan.texts))]
        for piece in self._mine(texts, "captions"):
            rows = self.encoder.encode_text(json.loads(self.plan.texts[piece].read_text(encoding="utf-8")))
            write_atomically(texts[piece], save({"text": rows}))
        self._wait_for(texts)
        check_text_tower(load_file(path)["text"] for path in texts)
        records = [self.plan.record(piece) for piece in range(len(self.plan.clips))]
        for piece in self._mine(records, "shards"):
            self._encode_shard(piece)
        if self.processes.index == 0:
            self._wait_for(records)
            while any(state(self.plan.lock(other)) == HELD for other in self.others):
                time.sleep(POLL)  # until none of them reads the plan

    def _mine(self, made: list[Path], unit: str) -> Iterator[int]:
        pieces = range(self.processes.index, len(made), self.processes.count)
        left = [piece for piece in pieces if not made[piece].exists()]
        done = len(pieces) - len(left)
        yield from tqdm(left, desc=unit, initial=done, total=len(pieces), unit="piece", disable=self.hide)

    def _wait_for(self, made: list[Path]) -> None:
        """Wait until all pieces are made. Raises ChildProcessError where a process died before it made its own."""
        count = self.processes.count
        while True:
            died = {other for other in self.others if state(self.plan.lock(other)) == DIED}
            unfinished = [piece % count for piece, path in enumerate(made) if not path.exists()]  # a process for each
            for other in died.intersection(unfinished):
                left = f"{unfinished.count(other)} of its pieces left to encode"
                advice = f"run this again, what is done in {self.plan.out} is kept"
                raise ChildProcessError(f"process {other} of {count} (numbered from 0) died with {left}: {advice}")
            if not unfinished:
                return
            time.sleep(POLL)

    def _encode_shard(self, piece: int) -> None:
        clips = read_jsonl(self.plan.clips[piece])
        items: list[tuple[dict[str, Any], float]] = []  # what was readable, with its seconds
        reasons: dict[str, str] = {}

        def readable() -> Iterator[Loaded]:
            files = self._loaded([clip["path"] for clip in clips])
            bar = tqdm(files, desc=f"shard {piece}", total=len(clips), unit="clip", leave=False, disable=self.hide)
            for clip, item in zip(clips, bar, strict=True):
                if isinstance(item, Loaded):
                    items.append((clip, item.seconds))
                    yield item
                else:
                    reasons[clip["id"]] = item

        rows = encode_media(self.encoder, readable())
        good = usable(rows)
        kept = [items[place] for place in good.nonzero().flatten()]
        for place in (~good).nonzero().flatten():
            reasons[items[place][0]["id"]] = "its embedding is zero, or has NaN or Inf"
        record: dict[str, Any] = {"clips": 0, "captions": 0}
        if kept:
            captions = [clip["captions"] for clip, _ in kept]
            places = torch.tensor([place for clip, _ in kept for place in clip["texts"]])
            owners = torch.arange(len(kept)).repeat_interleave(torch.tensor([len(group) for group in captions]))
            tensors = {"audio": rows[good], "text": self._text_rows(places), "clip": owners}
            shard = Shard(tensors, ([clip["id"] for clip, _ in kept], captions))
            record = dict(write_shard(shard, *self.plan.shard_files(piece)))
        record["seconds"] = [seconds for _, seconds in kept]
        record["captions_a_clip"] = [len(clip["captions"]) for clip, _ in kept]
        lost = [clip for clip in clips if clip["id"] in reasons]
        record["skipped"] = [skipped(clip["id"], clip["path"], reasons[clip["id"]]) for clip in lost]
        write_atomically(self.plan.record(piece), json.dumps(record))

    def _text_rows(self, places: Tensor) -> Tensor:
        rows = torch.empty(len(places), self.encoder.dim)
        for piece in (places // TEXTS).unique().tolist():
            here = places // TEXTS == piece
            rows[here] = load_file(self.plan.text_file(piece))["text"][places[here] % TEXTS]
        return rows

    def _loaded(self, paths: list[str]) -> Iterator[Loaded | str]:
        read = partial(_read, self.encoder.load)
        if not self.workers:
            return map(read, paths)
        workers: dict[str, Any] = {"num_workers": self.workers, "prefetch_factor": 64 // self.workers + 1}
        workers["worker_init_fn"] = partial(_end_with, os.getpid())
        # An iterator, because tqdm would iterate over the loader twice, and each iteration starts workers.
        return iter(DataLoader(paths, batch_size=None, collate_fn=read, **workers))  # type: ignore[arg-type]


def check_text_tower(blocks: Iterable[Tensor]) -> None:
    """Raises ValueError where distinct captions all have the same embedding, as with a tokenizer without its files."""
    cosine = mean_pairwise_cosine(blocks)
    if cosine is not None and cosine > CONSTANT:
        question = "Are the tokenizer's files and the weights those of this encoder?"
        found = f"distinct captions have a mean pairwise cosine of {cosine:.5f}"
        raise ValueError(f"the text tower is constant: {found}. {question}")


def mean_pairwise_cosine(blocks: Iterable[Tensor]) -> float | None:
    """Mean cosine of two distinct rows of unit-norm blocks `(n, dim)`, from their sum; None for fewer than two."""
    parts = [(unit_mean(block) * len(block), len(block)) for block in blocks]
    total, n = torch.stack([part for part, _ in parts]).sum(0), sum(count for _, count in parts)
    return None if n < 2 else (total.square().sum().item() - n) / (n * (n - 1))
