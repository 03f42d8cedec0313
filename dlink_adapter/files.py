"""Files and folders that appear complete or not at all, also where the process is killed, and JSONL files."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Write a file under a temporary name in the same folder and rename it; text is UTF-8."""
    path = Path(path)
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, path)
    except BaseException:
        os.unlink(unfinished)
        raise


@contextmanager
def appearing_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to write to that takes its name at the end of the block; what a killed run left of it is removed first.

    Raises FileExistsError where there is something of that name, unless it is an empty folder.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not an empty folder: remove it to write it again, or choose another name")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def to_jsonl(entries: Any) -> str:
    """The entries as JSON, one on each line."""
    return "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)


def read_jsonl(path: Path) -> list[Any]:
    """The entries of a JSONL file."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
