"""What an extraction has to do, written down before it starts, so that every process and every resumed run agree.

While it is unfinished, the output folder has a sub-folder `.work` with `settings.json` and a plan of independent
pieces: `plan/texts-00000.json`, distinct captions to encode, and `plan/clips-00000.jsonl`, the clips of a shard, a line
for each with the places of their captions among the distinct ones. A piece that is done is a file in `.work`. When all
are done, the folder gets its `header.json`, and `.work` is removed.

Each process holds a lock in `.work` while it works on the plan. The locks are POSIX record locks: the system releases
them when the process ends, and worker processes do not inherit them, as they would those of `flock`.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from dlink_adapter.data.clip_tables import Clip
from dlink_adapter.files import appearing_folder, keep_settings, remove_unfinished, to_jsonl, write_atomically

TEXTS = 65536  # distinct captions in a piece
HELD, DONE, DIED = "held", "done", ""  # states of a lock


class Plan:
    """The pieces of an extraction into the folder `out`, and the file that each is kept in."""

    def __init__(self, out: Path):
        self.out, self.work = out, out / ".work"
        self.folder = self.work / "plan"

    def prepare(self, clips: Sequence[Clip], settings: dict[str, Any], shard_clips: int) -> None:
        """Write the plan, or check that the one in the folder has the same settings. The first process calls this.

        Raises ValueError where an unfinished extraction has other settings, or the file of no clip exists.
        """
        is_new = not self.folder.exists()
        lacks = [_lack(clip) for clip in clips] if is_new else []
        if is_new and None not in lacks:  # before the settings are kept, as it takes others to find the files
            first = f"the first would be {clips[0].path} ({lacks[0]})"
            raise ValueError(f"none of the {len(clips)} files is there; {first}")
        keep_settings(self.work / "settings.json", settings, f"{self.out} holds an unfinished extraction")
        remove_unfinished(self.work)
        if is_new:
            self._write(clips, lacks, shard_clips)

    def _write(self, clips: Sequence[Clip], lacks: Sequence[str | None], shard_clips: int) -> None:
        there = [clip for clip, lack in zip(clips, lacks, strict=True) if lack is None]
        # Sorted by length, because a batch of captions is padded to its longest.
        texts = sorted({caption for clip in there for caption in clip.captions}, key=lambda text: (len(text), text))
        place = {text: number for number, text in enumerate(texts)}
        with appearing_folder(self.folder) as folder:
            for piece, first in enumerate(range(0, len(texts), TEXTS)):
                write_atomically(folder / f"texts-{piece:05d}.json", json.dumps(texts[first : first + TEXTS]))
            for piece, first in enumerate(range(0, len(there), shard_clips)):
                lines = (
                    {"id": clip.id, "path": str(clip.path), "captions": clip.captions,
                     "texts": [place[caption] for caption in clip.captions]}
                    for clip in there[first : first + shard_clips]
                )  # fmt: skip
                write_atomically(folder / f"clips-{piece:05d}.jsonl", to_jsonl(lines))
            missing = (skipped(clip.id, clip.path, lack) for clip, lack in zip(clips, lacks, strict=True) if lack)
            write_atomically(folder / "missing.jsonl", to_jsonl(missing))

    @cached_property
    def clips(self) -> list[Path]:
        """The files that list the clips, one for each shard."""
        return sorted(self.folder.glob("clips-*.jsonl"))

    @cached_property
    def texts(self) -> list[Path]:
        """The files that list the distinct captions, one for each piece."""
        return sorted(self.folder.glob("texts-*.json"))

    def text_file(self, piece: int) -> Path:
        """The embeddings of `texts[piece]`."""
        return self.work / f"texts-{piece:05d}.safetensors"

    def shard_files(self, piece: int) -> tuple[Path, Path]:
        """The files of the shard that is made of `clips[piece]`: its tensors and its captions."""
        return self.work / f"shard-{piece:05d}.safetensors", self.work / f"shard-{piece:05d}.jsonl"

    def record(self, piece: int) -> Path:
        """The counts and skipped files of `clips[piece]`. It is written last: where it exists, the shard is done."""
        return self.work / f"shard-{piece:05d}.json"

    def lock(self, process: int) -> Path:
        """The lock that a process holds while it works on the plan."""
        return self.work / f"process-{process}.lock"


def digest(clips: Sequence[Clip]) -> str:
    """A hash of the clips: their names and captions, and the size and the time of change of their files."""
    sha = hashlib.sha256()
    for clip in clips:
        try:
            found = clip.path.stat()
            state_of_file = [found.st_size, found.st_mtime_ns]
        except OSError:
            state_of_file = []
        sha.update(to_jsonl([[clip.id, clip.captions, state_of_file]]).encode())
    return sha.hexdigest()


def _lack(clip: Clip) -> str | None:
    """Why a clip cannot be tried, if it cannot."""
    try:
        "".join(clip.captions).encode()
        return None if clip.path.is_file() else "no such file"
    except UnicodeEncodeError:
        return "a caption is not UTF-8"
    except OSError as error:  # a name that is too long, a folder without permission
        return error.strerror


@contextmanager
def hold(lock: Path) -> Iterator[None]:
    """Hold a lock, a file that is made where it is missing, until the block ends or the process does.

    Raises BlockingIOError where another process holds it, ImportError where the system has no such locks.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        if not _locked(file):
            raise BlockingIOError(f"another process is writing to {lock.parent.parent}: wait for it, or stop it")
        file.truncate(0)
        yield
        file.write(DONE)


def state(lock: Path) -> str:
    """HELD while another process holds a lock, DONE after its block has ended, DIED where it ended before its block.

    A process must not ask for its own lock: this would release it.
    """
    with lock.open("r+") as file:
        return file.read() if _locked(file) else HELD


def _locked(file: IO[str]) -> bool:
    """Whether the file could be locked. Closing it releases the lock."""
    try:
        import fcntl
    except ImportError as error:
        lack = "an extraction locks its folder with fcntl, which this system lacks"
        raise ImportError(f"{lack}: run it on Linux or macOS, or in WSL") from error
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def skipped(name: str, path: str | Path, reason: str) -> dict[str, str]:
    """A line of skipped.jsonl."""
    return {"id": name, "path": os.fspath(path), "reason": reason}
