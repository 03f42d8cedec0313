"""From files and captions to paired embeddings, shard by shard: resumable, and the same in any number of processes.

What is to do is written down as a plan (`extraction_plan.py`), whose pieces processes divide (`extraction_run.py`) and
one of them puts together (`extraction_report.py`). They meet in the plan's folder: none waits for another by way of the
network, so there is no time limit.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dlink_adapter.data.clip_tables import Clip
from dlink_adapter.data.shards import read_header
from dlink_adapter.extract.encoders import AudioEncoder, ImageEncoder
from dlink_adapter.extract.plan import Plan, only_run
from dlink_adapter.extract.report import finish
from dlink_adapter.extract.run import Processes, Run

__all__ = ["Processes", "extract"]

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
    out, processes = Path(out).absolute(), processes or Processes()
    settings = {**encoder.describe(), **(settings or {}), "shard_clips": shard_clips}
    run = Run(Plan(out), encoder, processes, workers, progress)
    with _room_for(out):
        if processes.index:
            processes.meet()
            if not _finished(out, settings):
                run.encode()
            return None
        _lead(run, clips, settings, shard_clips)
    report: dict[str, Any] = read_header(out)["metadata"]["report"]
    return report


def _lead(run: Run, clips: list[Clip], settings: dict[str, Any], shard_clips: int) -> None:
    """The first process's part: what to do, its share of it, and the end."""
    plan = run.plan
    if _finished(plan.out, settings):
        run.processes.meet()
    else:
        with only_run(plan.work):
            plan.prepare(clips, settings, shard_clips)
            run.processes.meet()
            run.encode()
            finish(plan, settings)
    shutil.rmtree(plan.work, ignore_errors=True)


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
