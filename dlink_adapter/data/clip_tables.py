"""Tables and folders of files, read as clips with their captions.

Each reader is `(source, media) -> list[Clip]`: `source` is a table (`.csv`, `.tsv`, `.jsonl`) or a folder, `media` the
folder that file names are relative to. A new data set is one function and its name in `LAYOUTS`.
"""

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from dlink_adapter.files import printable, read_text

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff")
OTHER = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".npy", ".npz", ".safetensors")
DISTINCTIVE = {"audiocaps": "youtube_id", "clotho": "caption_1"}  # a column that only this layout has

QUOTE_ADVICE = 'put a cell with a comma or a quote in quotes, and double the quotes in it: "a dog, ""Rex"", barks"'
LAYOUT_ADVICE = "rename the columns to path and caption, or give the layout that has these"

Row = dict[str, Any]


@dataclass(frozen=True)
class Clip:
    """One clip. The file at `path` need not exist; `aliases` are other names, without suffix, that it may have."""

    id: str
    path: Path
    captions: list[str]
    aliases: tuple[str, ...] = ()


def read_clips(source: str | Path, layout: str | None = None, media: str | Path | None = None) -> list[Clip]:
    """The clips of a table or a folder, in its order. A clip that has several rows has several captions.

    Args:
        source: a `.csv`, `.tsv` or `.jsonl` file, or a folder.
        layout: a key of `LAYOUTS`; None is "folder" for a folder, and for a table the layout that has its columns.
        media: folder that the table's file names are relative to; None is the folder of the table.

    Raises FileNotFoundError without that source or media folder, and ValueError on an unknown layout, a missing column,
    a caption without words, or no clips.
    """
    source = Path(source)
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}")
    media = Path(media) if media is not None else source if source.is_dir() else source.parent
    for path in (source, media):
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder")
    clips = LAYOUTS[layout or _layout(source)](source, media.absolute())
    if blank := [clip.id for clip in clips if not clip.captions or not all(map(str.strip, clip.captions))]:
        raise ValueError(f"{source}: {len(blank)} clips have a caption without words, the first is {blank[0]!r}")
    if not clips:
        raise ValueError(f"{source} names no clips")
    return clips


def read_table(source: Path, media: Path) -> list[Clip]:
    """Columns `path` (or `clip`) and `caption`; in JSONL also `captions` (or `references`), a list. Rows add up."""
    lists = ("captions", "references")

    def group(place: str, row: Row) -> tuple[str, Path, list[str]]:
        name = row.get("path", row.get("clip"))
        captions = next((row[key] for key in lists if key in row), [row.get("caption")])
        if name is None:
            raise ValueError(f"{place}: no path in it; it has {', '.join(row)}: {LAYOUT_ADVICE}")
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError(f"{place}: {name} needs a caption, or captions that are a list; it has {', '.join(row)}")
        return str(name), media / str(name), captions

    return _grouped(group(place, row) for place, row in _rows(source, []))


def read_audiocaps(source: Path, media: Path) -> list[Clip]:
    """AudioCaps (Kim et al., NAACL 2019): columns `youtube_id`, `start_time`, `caption`, a row for each caption.

    Files are `{id}.wav`, `Y{id}.wav`, `{id}_{start}.wav` or `Y{id}_{start}.wav` (or .flac, ...), anywhere in `media`.
    """
    files = {path.stem: path for path in files_below(media, AUDIO)}
    clips: dict[str, Clip] = {}
    for place, row in _rows(source, ["youtube_id", "start_time", "caption"]):
        try:
            name, start = str(row["youtube_id"]), float(row["start_time"])
        except ValueError as error:
            raise ValueError(f"{place}: start_time is {row['start_time']!r}: expected seconds") from error
        stems = (name, f"Y{name}", f"{name}_{start:g}", f"Y{name}_{start:g}")
        found = next((files[stem] for stem in stems if stem in files), media / f"{name}.wav")
        clips.setdefault(stems[2], Clip(stems[2], found, [], stems)).captions.append(row["caption"])
    return list(clips.values())


def read_clotho(source: Path, media: Path) -> list[Clip]:
    """Clotho (Drossos et al., ICASSP 2020): columns `file_name` and `caption_1` to `caption_5`."""
    columns = [f"caption_{number}" for number in range(1, 6)]
    rows = _rows(source, ["file_name", *columns])
    return _grouped((row["file_name"], media / row["file_name"], [row[name] for name in columns]) for _, row in rows)


def read_folder(source: Path, media: Path) -> list[Clip]:
    """Files with their captions beside them: `rain.wav` and `rain.txt`, with a caption on each line."""

    clips = []
    for path in files_below(source, AUDIO + OTHER):
        beside = path.with_suffix(".txt")
        try:
            has_captions = beside.is_file()
        except OSError as error:  # of a folder without permission
            _left_out(error)
            continue
        if not has_captions:
            advice = "write some, or use the layout labels, for which the folder's name is the caption"
            raise ValueError(f"{path} has no captions in {beside.name} beside it: {advice}")
        captions = [line for line in read_text(beside).split("\n") if line.strip()]
        clips.append(Clip(path.relative_to(source).as_posix(), path, captions))
    return clips


def read_labels(source: Path, media: Path) -> list[Clip]:
    """Files in folders whose name is the caption: `dog_bark/1.wav` has the caption "dog bark"."""
    paths = files_below(source, AUDIO + OTHER)
    return [Clip(path.relative_to(source).as_posix(), path, [path.parent.name.replace("_", " ")]) for path in paths]


LAYOUTS: dict[str, Callable[[Path, Path], list[Clip]]] = dict(
    table=read_table, audiocaps=read_audiocaps, clotho=read_clotho, folder=read_folder, labels=read_labels
)


def _layout(source: Path) -> str:
    if source.is_dir():
        return "folder"
    _, columns = next(_rows(source, []), ("", {}))
    return next((layout for layout, column in DISTINCTIVE.items() if column in columns), "table")


def _grouped(rows: Iterator[tuple[str, Path, list[str]]]) -> list[Clip]:
    clips: dict[str, Clip] = {}
    for name, path, captions in rows:
        clips.setdefault(name, Clip(name, path, [])).captions.extend(captions)
    return list(clips.values())


def _rows(source: Path, columns: list[str]) -> Iterator[tuple[str, Row]]:
    """The rows of a table, each with its file and line. Raises ValueError on one that is damaged or lacks a column."""
    if source.is_dir():
        raise ValueError(f"{source} is a folder: this layout takes a .csv, .tsv or .jsonl table")
    if source.suffix not in READERS:
        raise ValueError(f"{source}: expected a .csv, .tsv or .jsonl table")
    for place, row in READERS[source.suffix](source):
        if missing := [column for column in columns if row.get(column) is None]:
            raise ValueError(f"{place}: no {missing[0]} in it; it has {', '.join(row)}: {LAYOUT_ADVICE}")
        yield place, row


def _json_rows(source: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(read_text(source).split("\n"), start=1):
        place = f"{source}, line {number}"
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{place}: not JSON ({error}): {line:.200}") from error
            if not isinstance(row, dict):
                raise ValueError(f'{place}: expected {{"path": ..., "caption": ...}}, got {line:.200}')
            yield place, row


def _separated_rows(source: Path, delimiter: str) -> Iterator[tuple[str, Row]]:
    """Strict where the csv module is not: it cuts rows that are too long, and merges rows where a quote is open."""
    rows = csv.reader(StringIO(read_text(source), newline=""), delimiter=delimiter, strict=True)
    head: list[str] = []
    line = 1  # on which the row starts
    try:
        for row in rows:
            if rows.line_num > line:
                raise csv.Error(f"it goes on to line {rows.line_num}, is a quote left open?")
            if head and len(row) > len(head):
                raise csv.Error(f"{len(row)} cells for {len(head)} columns")
            if head and row:
                yield f"{source}, line {line}", dict(zip(head, row, strict=False))
            head, line = head or row, rows.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{source}, line {line}: {error}: {QUOTE_ADVICE}") from error


READERS: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
    ".jsonl": _json_rows,
    ".csv": partial(_separated_rows, delimiter=","),
    ".tsv": partial(_separated_rows, delimiter="\t"),
}


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files below a folder, sorted by name. Symlinks are followed, each folder once.

    Warns of a folder that cannot be listed, and leaves it out.
    """
    found, seen = [], set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_left_out):
        seen.add(os.path.realpath(here))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(here, name)) not in seen]
        found += [Path(here, name) for name in names if name.lower().endswith(suffixes)]
    return sorted(found)


def _left_out(error: OSError) -> None:
    warnings.warn(f"{printable(error.filename)} is left out: {error.strerror}", stacklevel=3)
