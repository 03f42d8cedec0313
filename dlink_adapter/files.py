"""Files and folders that appear complete or not at all, also after a kill; checksums, JSON and JSONL."""

import hashlib
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


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what `write_atomically` left of files of this name when it was killed. Nobody else may be writing them."""
    for unfinished in folder.glob(f".{name}-????????"):
        unfinished.unlink()


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


def check_own(folder: Path, *marks: str) -> None:
    """Check that a run may write to a folder: it is not there, empty, or has an entry that matches one of `marks`.

    Raises FileExistsError where it is a file, or holds what the run did not make and would mix with its own.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another name for the folder")
    entry = next(folder.iterdir(), None) if folder.exists() else None
    if entry is not None and not any(any(folder.glob(mark)) for mark in marks):
        raise FileExistsError(f"{folder} holds {entry.name}, which is not of such a run: choose another folder")


def keep_settings(path: Path, settings: dict[str, Any], holder: str) -> None:
    """Write the settings of a run to a file. Raises ValueError where it holds others; `holder` says what has them."""
    if not path.is_file():
        write_atomically(path, json.dumps(settings, indent=2))
    check_same(read_json(path), settings, holder)


def check_same(before: dict[str, Any], settings: dict[str, Any], holder: str) -> None:
    """Raises ValueError where a run has other settings than before; `holder` says what has them."""
    if before != settings:
        changed = sorted(name for name in settings | before if settings.get(name, ...) != before.get(name, ...))
        was = ", ".join(f"{name} {before.get(name)!r} then, {settings.get(name)!r} now" for name in changed)
        raise ValueError(f"{holder} with other settings ({was}): remove it first, or choose another folder")


def sha256(path: Path) -> str:
    """The checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str | None, keeper: str) -> None:
    """Raises ValueError where a file has another checksum than the one that `keeper` has, if it has one."""
    if expected is not None and sha256(path) != expected:
        raise ValueError(
            f"{path} is damaged, or does not fit {keeper}: its SHA-256 is another than {keeper} has. "
            "Put back the file that was saved with it"
        )


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ValueError, which names the file, where it holds something else."""
    return _json_object(path.read_bytes(), str(path))


def _json_object(text: bytes | str, place: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{place} is damaged: expected a JSON object, got {json.dumps(values):.40}")
    return values


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises ValueError with file and line where it has another encoding."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        advice = f"save it as UTF-8, for example with `iconv -f latin1 -t utf-8 {path.name}`"
        raise ValueError(f"{path}, line {line}: byte {content[error.start]:#x} is not UTF-8: {advice}") from error


def printable(text: object) -> str:
    """Text for a line on a terminal. What a file's name may have is escaped: newlines, escape sequences, non-UTF-8."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(text))


def to_jsonl(entries: Any) -> str:
    """The entries as JSON, one on each line."""
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    # A file's name that is not UTF-8 has lone surrogates, which JSON can only escape.
    return "".join(line.encode("utf-8", "backslashreplace").decode() for line in lines)


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The entries of a JSONL file. Raises ValueError, which names file and line, where one is no JSON object."""
    with path.open("rb") as file:
        return [_json_object(line, f"{path}, line {number}") for number, line in enumerate(file, start=1)]
