"""From files and captions to paired embeddings, shard by shard: resumable, and the same in any number of processes.

A plan (`plan.py`) lists the pieces of the work. The processes divide the pieces (`run.py`), and the first process puts
the results together. A process waits for another by looking at the plan's folder and not over the network, so there is
no time limit; it stops with an error where the other has died.
"""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from dlink_adapter.data.clip_tables import Clip
from dlink_adapter.data.shards import MappedShard, read_header, shard_files, write_header
from dlink_adapter.extract.encoders import AudioEncoder, ImageEncoder
from dlink_adapter.extract.plan import Plan, digest, hold
from dlink_adapter.extract.run import Processes, Run, mean_pairwise_cosine
from dlink_adapter.files import check_own, check_same, read_json, read_jsonl, to_jsonl, write_atomically

__all__ = ["MARKS", "Processes", "extract"]

MARKS = ("header.json", ".work")  # what an extraction, finished or not, has in its folder
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        clips: from `read_clips`; the other processes than the first may give none.
        encoder: from `load_encoder`.
        out: folder to make. A finished one of the same settings, clips and files is left as it is.
        settings: any JSON; it is kept in the header, and a run with other settings does not go on with this one.
        shard_clips: clips in a shard, which a kill can cost; workers: processes that decode, 0 for this one.
        processes: this process and the others where several share the extraction.
        progress: shows a bar when on a terminal.

    Returns:
        The report, in the first process alone: counts of clips, hours, mean pairwise cosine of each tower.

    Raises:
        FileExistsError, BlockingIOError: the folder holds something else, or another run writes to it.
        ChildProcessError, OSError: another process died, the folder cannot be written, or a shard is gone.
        ImportError, ValueError: no `fcntl` (Windows); other settings, no usable clip, a text tower that is constant.
    """
    if shard_clips < 1 or workers < 0:
        raise ValueError(f"shard_clips must be at least 1 and workers at least 0, got {shard_clips} and {workers}")
    out, processes = Path(out).absolute(), processes or Processes()
    settings = {**encoder.describe(), **(settings or {}), "shard_clips": shard_clips}
    settings |= {} if processes.index else {"clips_and_files": digest(clips)}  # the others need not know the clips
    run = Run(Plan(out), encoder, processes, workers, progress)
    try:
        if _finished(out, settings):
            processes.meet()
        else:
            _share(run, clips, settings, shard_clips)
    except OSError as error:
        if error.errno in NO_SPACE:
            error.strerror = f"{error.strerror}: make room for {out} and run this again; what is done is kept"
        raise
    if processes.index:
        return None
    shutil.rmtree(run.plan.work, ignore_errors=True)
    report: dict[str, Any] = read_header(out)["metadata"]["report"]
    return report


def _share(run: Run, clips: list[Clip], settings: dict[str, Any], shard_clips: int) -> None:
    """This process's part: its pieces, and, for the first one, the plan before them and the header after them."""
    is_first = not run.processes.index
    with hold(run.plan.lock(run.processes.index)):  # before they meet, as others look at the lock afterwards
        if is_first:
            run.plan.prepare(clips, settings, shard_clips)
        run.processes.meet()
        run.encode()
        if is_first:
            finish(run.plan, settings)


def _finished(out: Path, settings: dict[str, Any]) -> bool:
    """Whether the folder is complete.

    Raises FileExistsError where it is another's, ValueError on other settings or clips and on a shard that is damaged,
    FileNotFoundError where a shard is gone.
    """
    check_own(out, *MARKS)
    if not (out / "header.json").is_file():
        return False
    header = read_header(out)
    metadata, entries = header["metadata"], header["shards"]
    check_same({name: metadata.get(name) for name in settings}, settings, f"{out} holds embeddings")
    for number, entry in enumerate(entries):
        files = shard_files(out, number, len(entries))
        if lost := [file for file in files if not file.is_file()]:
            raise FileNotFoundError(f"{lost[0]} is gone: remove {out} to extract again, or choose another folder")
        MappedShard(*files).check_files(entry)
    return True


def finish(plan: Plan, settings: dict[str, Any]) -> None:
    """Give the shards their final names and write the header, with which the folder is complete."""
    records = [read_json(plan.record(piece)) for piece in range(len(plan.clips))]
    unreadable = [entry for record in records for entry in record["skipped"]]
    full = [piece for piece, record in enumerate(records) if record["clips"]]
    if not full:
        shutil.rmtree(plan.work)  # so that it can be started again when the files are there
        raise ValueError(f"none of the {len(unreadable)} files can be used; the first: {unreadable[0]['reason']}")
    shards = []
    for number, piece in enumerate(full):
        named = shard_files(plan.out, number, len(full))
        for made, path in zip(plan.shard_files(piece), named, strict=True):
            if made.exists():  # otherwise a run that was killed has renamed it
                os.replace(made, path)
        shards.append(MappedShard(*named))
    missing = read_jsonl(plan.folder / "missing.jsonl")
    seconds = [value for record in records for value in record["seconds"]]
    audio = mean_pairwise_cosine(shard.tensors["audio"] for shard in shards)
    text = mean_pairwise_cosine(load_file(plan.text_file(piece))["text"] for piece in range(len(plan.texts)))
    report = {
        "clips": len(seconds),
        "missing": len(missing),
        "unreadable": len(unreadable),
        "captions_a_clip": _spread([value for record in records for value in record["captions_a_clip"]]),
        "hours": round(sum(seconds) / 3600, 4),
        "seconds_a_clip": _spread(seconds),
        "mean_pairwise_cosine": {"audio": audio and round(audio, 5), "text": text and round(text, 5)},
    }
    entries = [{name: records[piece][name] for name in ("clips", "captions", "sha256")} for piece in full]
    write_atomically(plan.work / "skipped.jsonl", to_jsonl(missing + unreadable))
    write_header(plan.work, shards[0].tensors["audio"], entries, {**settings, "report": report})
    for name in ("skipped.jsonl", "header.json"):
        os.replace(plan.work / name, plan.out / name)


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": round(sum(values) / len(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}
