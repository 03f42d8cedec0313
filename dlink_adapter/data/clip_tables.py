"""Tables and folders of files, read as clips with their captions.

Each reader is `(source, media) -> list[Clip]`: `source` is a table (`.csv`, `.tsv`, `.jsonl`) or a folder, `media` the
folder that file names are relative to. A new data set is one function and its name in `LAYOUTS`.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AUDIO = (".wav", ".flac", ".ogg", ".mp3", ".opus", ".aif", ".aiff")
OTHER = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".npy", ".npz", ".safetensors")
DISTINCTIVE = {"audiocaps": "youtube_id", "clotho": "caption_1"}  # a column that only this layout has

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
    """Columns `path` and `caption`, or in JSONL `captions`, a list. A clip may have several rows."""

    def group(row: Row) -> tuple[str, Path, list[str]]:
        name, captions = str(row["path"]), row.get("captions", [row.get("caption")])
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError(f"{source}: {name} needs a caption, or captions that are a list; it has {', '.join(row)}")
        return name, media / name, captions

    return _grouped(map(group, _rows(source, ["path"])))


def read_audiocaps(source: Path, media: Path) -> list[Clip]:
    """AudioCaps (Kim et al., NAACL 2019): columns `youtube_id`, `start_time`, `caption`, a row for each caption.

    Files are `{id}.wav`, `Y{id}.wav`, `{id}_{start}.wav` or `Y{id}_{start}.wav` (or .flac, ...), anywhere in `media`.
    """
    files = {path.stem: path for path in files_below(media, AUDIO)}
    clips: dict[str, Clip] = {}
    for row in _rows(source, ["youtube_id", "start_time", "caption"]):
        name, start = str(row["youtube_id"]), float(row["start_time"])
        stems = (name, f"Y{name}", f"{name}_{start:g}", f"Y{name}_{start:g}")
        found = next((files[stem] for stem in stems if stem in files), media / f"{name}.wav")
        clips.setdefault(stems[2], Clip(stems[2], found, [], stems)).captions.append(row["caption"])
    return list(clips.values())


def read_clotho(source: Path, media: Path) -> list[Clip]:
    """Clotho (Drossos et al., ICASSP 2020): columns `file_name` and `caption_1` to `caption_5`."""
    columns = [f"caption_{number}" for number in range(1, 6)]
    rows = _rows(source, ["file_name", *columns])
    return _grouped((row["file_name"], media / row["file_name"], [row[column] for column in columns]) for row in rows)


def read_folder(source: Path, media: Path) -> list[Clip]:
    """Files with their captions beside them: `rain.wav` and `rain.txt`, with a caption on each line."""

    clips = []
    for path in files_below(source, AUDIO + OTHER):
        beside = path.with_suffix(".txt")
        if not beside.is_file():
            advice = "write some, or use the layout labels, for which the folder's name is the caption"
            raise ValueError(f"{path} has no captions in {beside.name} beside it: {advice}")
        captions = [line for line in beside.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
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
    columns = next(iter(_rows(source, [])), {}).keys()
    return next((layout for layout, column in DISTINCTIVE.items() if column in columns), "table")


def _grouped(rows: Iterator[tuple[str, Path, list[str]]]) -> list[Clip]:
    clips: dict[str, Clip] = {}
    for name, path, captions in rows:
        clips.setdefault(name, Clip(name, path, [])).captions.extend(captions)
    return list(clips.values())


def _rows(source: Path, columns: list[str]) -> Iterator[Row]:
    if source.is_dir():
        raise ValueError(f"{source} is a folder: this layout takes a .csv, .tsv or .jsonl table")
    with source.open(encoding="utf-8-sig", newline="") as file:
        if source.suffix == ".jsonl":
            rows: Iterator[Row] = (json.loads(line) for line in file if line.strip())
        elif source.suffix in (".csv", ".tsv"):
            rows = csv.DictReader(file, delimiter="\t" if source.suffix == ".tsv" else ",")
        else:
            raise ValueError(f"{source}: expected a .csv, .tsv or .jsonl table")
        for number, row in enumerate(rows, start=1):
            if missing := [column for column in columns if row.get(column) is None]:
                raise ValueError(f"{source}, row {number}: no {missing[0]} in it; it has {', '.join(map(str, row))}")
            yield row


def files_below(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files below a folder, sorted by name. Symlinks are followed, each folder once."""
    found, seen = [], set()
    for here, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(here))
        folders[:] = [name for name in folders if os.path.realpath(os.path.join(here, name)) not in seen]
        found += [Path(here, name) for name in names if name.lower().endswith(suffixes)]
    return sorted(found)
