"""From files and captions to paired embeddings, shard by shard: resumable, and the same in any number of processes.

Files are decoded and preprocessed in worker processes while the encoder works; a batch never spans two shards, and a
distinct caption is encoded once, so that neither a kill nor the number of processes changes a bit. Processes divide the
pieces of a plan and meet in its folder: none waits for another by way of the network, so there is no time limit.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from dlink_adapter.atomic import write_atomically
from dlink_adapter.clip_tables import Clip
from dlink_adapter.encoders import AudioEncoder, ImageEncoder, Loaded, UnreadableError
from dlink_adapter.extraction_plan import TEXTS, Plan, only_run, read_jsonl, skipped, to_jsonl
from dlink_adapter.shards import MappedShard, Shard, read_header, shard_files, usable, write_header, write_shard
from dlink_adapter.space import unit_mean

CONSTANT = 0.9999  # mean pairwise cosine of distinct captions above which a text tower says nothing
POLL = 0.2  # seconds
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Processes:
    """This process's place among those that share the work, and where all of them meet before it."""

    index: int = 0
    count: int = 1
    meet: Callable[[], None] = lambda: None


def extract(
    clips: list[Clip],
    encoder: AudioEncoder | ImageEncoder,
    out: str | Path,
    *,
    settings: dict[str, Any] | None = None,
    shard_clips: int = 8192,
    workers: int = 1,
    processes: Processes | None = None,
    progress: bool = True,
) -> dict[str, Any] | None:
    """Encode clips and captions into a folder of `PairedEmbeddings`; called again after a kill, it goes on.

    Args:
        clips: of `read_clips`.
        encoder: of `load_encoder`.
        out: folder to make. A finished one with the same settings is left as it is.
        settings: free JSON that must be the same for a run to go on, and is kept in the header.
        shard_clips: clips a shard: what a kill can cost, and what is in memory at a time.
        workers: processes that decode; 0 decodes in this one.
        processes: of a run that is shared; the first of them reports.
        progress: shows a bar when on a terminal.

    Returns:
        The report, from the first process: clips, missing, unreadable, captions a clip, hours, seconds a clip, mean
        pairwise cosine of each tower.

    Raises:
        FileExistsError: the folder holds something else.
        BlockingIOError: another run writes to it.
        ValueError: an unfinished run with other settings, no usable clip, a text tower that is constant.
        OSError: the folder cannot be written, or the disk is full; what was done stays, and the next run goes on.
    """
    if shard_clips < 1 or workers < 0:
        raise ValueError(f"shard_clips must be at least 1 and workers at least 0, got {shard_clips} and {workers}")
    processes, out = processes or Processes(), Path(out).absolute()
    settings = {**encoder.describe(), **(settings or {}), "shard_clips": shard_clips}
    with _room_for(out):
        if processes.index:
            processes.meet()
            if not _finished(out, settings):
                _Run(Plan(out), encoder, processes, workers, progress=False).encode()
            return None
        if _finished(out, settings):
            processes.meet()
        else:
            (out / ".work").mkdir(parents=True, exist_ok=True)
            with only_run(out / ".work"):
                plan = Plan.prepare(out, clips, settings, shard_clips)
                processes.meet()
                _Run(plan, encoder, processes, workers, progress).encode()
                _finish(plan, settings)
        shutil.rmtree(out / ".work", ignore_errors=True)
    report: dict[str, Any] = read_header(out)["metadata"]["report"]
    return report


@contextmanager
def _room_for(out: Path) -> Iterator[None]:
    """Says of a full disk what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        raise OSError(
            error.errno, f"{error.strerror}: make room for {out} and run this again; what is done is kept"
        ) from error


def _finished(out: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder is what these settings make. Raises FileExistsError where it holds something else."""
    if (out / "header.json").is_file():
        metadata = read_header(out)["metadata"]
        if all(metadata.get(name) == value for name, value in settings.items()):
            return True
    elif not out.exists() or (out.is_dir() and ((out / ".work").is_dir() or not any(out.iterdir()))):
        return False
    raise FileExistsError(f"{out} holds something else already: choose another name or remove it first")


class _Files(Dataset[Loaded | str]):
    """Files as the encoder takes them, or the reason why not."""

    def __init__(self, paths: list[str], load: Callable[[str | Path], Loaded]):
        self.paths, self.load = paths, load

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Loaded | str:
        try:
            return self.load(self.paths[index])
        except UnreadableError as error:
            return str(error)


class _Run:
    """One process's share of a plan."""

    def __init__(
        self, plan: Plan, encoder: AudioEncoder | ImageEncoder, processes: Processes, workers: int, progress: bool
    ):
        self.plan, self.encoder, self.processes, self.workers = plan, encoder, processes, workers
        self.encode_media = encoder.encode_image if isinstance(encoder, ImageEncoder) else encoder.encode_audio
        self.hide = None if progress else True

    def encode(self) -> None:
        """Encode this process's pieces; the first process then waits for those of the others."""
        texts = [self.plan.text_file(piece) for piece in range(len(self.plan.texts))]
        for piece in self._mine(texts, "captions"):
            rows = self.encoder.encode_text(json.loads(self.plan.texts[piece].read_text(encoding="utf-8")))
            write_atomically(texts[piece], save({"text": rows}))
        _wait_for(texts)
        check_text_tower(load_file(path)["text"] for path in texts)
        records = [self.plan.record(piece) for piece in range(len(self.plan.clips))]
        for piece in self._mine(records, "shards"):
            self._encode_shard(piece)
        if self.processes.index == 0:
            _wait_for(records)

    def _mine(self, made: list[Path], unit: str) -> Iterator[int]:
        pieces = range(self.processes.index, len(made), self.processes.count)
        left = [piece for piece in pieces if not made[piece].exists()]
        done = len(pieces) - len(left)
        yield from tqdm(left, desc=unit, initial=done, total=len(pieces), unit="piece", disable=self.hide)

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

        rows = self.encode_media(readable())
        good = usable(rows) if len(rows) else torch.zeros(0, dtype=torch.bool)
        for (clip, _), is_good in zip(items, good.tolist(), strict=True):
            if not is_good:
                reasons[clip["id"]] = "its embedding is zero, or has NaN or Inf"
        kept = [item for item, is_good in zip(items, good.tolist(), strict=True) if is_good]
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
        record["skipped"] = [
            skipped(clip["id"], clip["path"], reasons[clip["id"]]) for clip in clips if clip["id"] in reasons
        ]
        write_atomically(self.plan.record(piece), json.dumps(record))

    def _text_rows(self, places: Tensor) -> Tensor:
        rows = torch.empty(len(places), self.encoder.dim)
        for piece in (places // TEXTS).unique().tolist():
            here = places // TEXTS == piece
            rows[here] = load_file(self.plan.text_file(piece))["text"][places[here] % TEXTS]
        return rows

    def _loaded(self, paths: list[str]) -> Iterable[Loaded | str]:
        files = _Files(paths, self.encoder.load)
        if not self.workers:
            return (files[index] for index in range(len(files)))
        return DataLoader(files, batch_size=None, num_workers=self.workers, prefetch_factor=64 // self.workers + 1)


def check_text_tower(blocks: Iterable[Tensor]) -> None:
    """Raises ValueError where distinct captions all have the same embedding, which is what a lost tokenizer does."""
    cosine = mean_pairwise_cosine(blocks)
    if cosine is not None and cosine > CONSTANT:
        raise ValueError(
            f"the text tower says nothing: distinct captions have a mean pairwise cosine of {cosine:.5f}. "
            "Are the tokenizer's files and the weights those of this encoder?"
        )


def mean_pairwise_cosine(blocks: Iterable[Tensor]) -> float | None:
    """Mean cosine of two distinct rows of unit-norm blocks `(n, dim)`, from their sum; None for fewer than two."""
    parts = [(unit_mean(block) * len(block), len(block)) for block in blocks]
    total, n = torch.stack([part for part, _ in parts]).sum(0), sum(count for _, count in parts)
    return None if n < 2 else (total.square().sum().item() - n) / (n * (n - 1))


def _wait_for(paths: list[Path]) -> None:
    while not all(path.exists() for path in paths):
        time.sleep(POLL)


def _finish(plan: Plan, settings: dict[str, Any]) -> None:
    """Name the shards by their number and write the header, the last thing that a folder of pairs needs."""
    records = [json.loads(plan.record(piece).read_text(encoding="utf-8")) for piece in range(len(plan.clips))]
    unreadable = [entry for record in records for entry in record["skipped"]]
    full = [piece for piece, record in enumerate(records) if record["clips"]]
    if not full:
        raise ValueError(f"none of the {len(unreadable)} files can be used; the first: {unreadable[0]['reason']}")
    shards = []
    for number, piece in enumerate(full):
        named = shard_files(plan.out, number, len(full))
        for made, path in zip(plan.shard_files(piece), named, strict=True):
            if made.exists():  # else it was named before this run
                os.replace(made, path)
        shards.append(MappedShard(*named))
    missing = plan.missing
    report = {"clips": sum(record["clips"] for record in records), "missing": len(missing)}
    report |= {"unreadable": len(unreadable), **_statistics(records), **_towers(plan, shards)}
    counts = [{name: records[piece][name] for name in ("clips", "captions")} for piece in full]
    write_atomically(plan.work / "skipped.jsonl", to_jsonl(missing + unreadable))
    write_header(plan.work, shards[0].tensors["audio"], counts, {**settings, "report": report})
    for name in ("skipped.jsonl", "header.json"):
        os.replace(plan.work / name, plan.out / name)


def _statistics(records: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [value for record in records for value in record["seconds"]]
    captions = [value for record in records for value in record["captions_a_clip"]]
    return {
        "captions_a_clip": _spread(captions),
        "hours": round(sum(seconds) / 3600, 4),
        "seconds_a_clip": _spread(seconds),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": round(sum(values) / len(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def _towers(plan: Plan, shards: list[MappedShard]) -> dict[str, Any]:
    texts = (load_file(plan.text_file(piece))["text"] for piece in range(len(plan.texts)))
    towers = {"audio": mean_pairwise_cosine(_let_go(shards)), "text": mean_pairwise_cosine(texts)}
    return {"mean_pairwise_cosine": {name: value and round(value, 5) for name, value in towers.items()}}


def _let_go(shards: list[MappedShard]) -> Iterator[Tensor]:
    for shard in shards:
        yield shard.tensors["audio"]
        shard.let_go()
