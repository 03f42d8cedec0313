"""What an extraction has to do, written down before it starts, so that every process and every resumed run agree.

While it is unfinished, the output folder has a sub-folder `.work` with `settings.json` and a plan of independent
pieces: `plan/texts-00000.json`, distinct captions to encode, and `plan/clips-00000.jsonl`, the clips of a shard, a line
each with the places of their captions among the distinct ones. A piece that is done is a file beside the plan. When all
are, the folder gets its `header.json`, and `.work` goes. Needs a POSIX system, for its lock.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from dlink_adapter.data.clip_tables import Clip
from dlink_adapter.files import appearing_folder, write_atomically

TEXTS = 65536  # distinct captions a piece


class Plan:
    """The pieces of an extraction into `out`, and where each is kept."""

    def __init__(self, out: Path):
        self.out, self.work = out, out / ".work"
        self.folder = self.work / "plan"

    def prepare(self, clips: Sequence[Clip], settings: dict[str, Any], shard_clips: int) -> None:
        """Write the plan, or check that the one in the folder is for the same settings. One process calls this.

        Raises:
            ValueError: the folder holds an unfinished extraction with other settings, or no clip of the table is there.
        """
        path = self.work / "settings.json"
        if not path.is_file():
            write_atomically(path, json.dumps(settings, indent=2))
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in settings.keys() | before.keys() if settings.get(name) != before.get(name)]
        if changed:
            was = ", ".join(f"{name} {before.get(name)!r} then, {settings.get(name)!r} now" for name in sorted(changed))
            raise ValueError(f"{self.out} holds an unfinished extraction with other settings ({was}): remove it first")
        for left_by_a_kill in self.work.glob(".*-*"):
            left_by_a_kill.unlink()
        if not self.folder.exists():
            self._write(clips, shard_clips)

    def _write(self, clips: Sequence[Clip], shard_clips: int) -> None:
        there = [clip for clip in clips if clip.path.is_file()]
        if not there:
            raise ValueError(f"none of the {len(clips)} files is there; the first would be {clips[0].path}")
        found = {clip.id for clip in there}
        # In order of length, as a batch of captions is padded to its longest.
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
            missing = (skipped(clip.id, clip.path, "no such file") for clip in clips if clip.id not in found)
            write_atomically(folder / "missing.jsonl", to_jsonl(missing))

    @cached_property
    def clips(self) -> list[Path]:
        """The clips of each shard."""
        return sorted(self.folder.glob("clips-*.jsonl"))

    @cached_property
    def texts(self) -> list[Path]:
        """The distinct captions, in pieces."""
        return sorted(self.folder.glob("texts-*.json"))

    @property
    def missing(self) -> list[dict[str, str]]:
        """The clips without a file."""
        return read_jsonl(self.folder / "missing.jsonl")

    def text_file(self, piece: int) -> Path:
        """The embeddings of `texts[piece]`."""
        return self.work / f"texts-{piece:05d}.safetensors"

    def shard_files(self, piece: int) -> tuple[Path, Path]:
        """The tensors and the captions of `clips[piece]`."""
        return self.work / f"shard-{piece:05d}.safetensors", self.work / f"shard-{piece:05d}.jsonl"

    def record(self, piece: int) -> Path:
        """What is known of `clips[piece]`; it is written last, and says that the shard is done."""
        return self.work / f"shard-{piece:05d}.json"


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the folder, made where it is not there, for this process; the lock goes with the process, however that ends.

    Raises BlockingIOError where another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which worker processes would go on holding
        except OSError as error:
            raise BlockingIOError(f"another process is writing to {folder.parent}: wait for it, or stop it") from error
        yield


def skipped(name: str, path: str | Path, reason: str) -> dict[str, str]:
    """A line of skipped.jsonl."""
    return {"id": name, "path": os.fspath(path), "reason": reason}


def to_jsonl(entries: Any) -> str:
    """A line of JSON an entry."""
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def read_jsonl(path: Path) -> list[Any]:
    """The entries of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
