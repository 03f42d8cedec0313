"""Captions that a captioner said, and which clip of a data set each is of.

A JSONL file, as `dlink caption --out` writes it: `{"clip": ..., "caption": ...}` a line, where `clip` (or `file`) is
the clip's id or the path of its file. A path belongs to the clip whose id, or other name of its file, ends in the same
parts, suffix aside: `audio/rain/1.wav` is `rain/1`, and `1.flac` is too, unless there is another `1`.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from dlink_adapter.data.clip_tables import AUDIO, OTHER, Clip

KEYS = ("clip", "file")


@dataclass(frozen=True)
class Matched:
    """Clips with what was said of each, and the names of those that were left over on either side."""

    clips: list[Clip]
    captions: list[str]
    without_prediction: list[str]
    without_references: list[str]

    def only(self, ids: Collection[str]) -> "Matched":
        """The same without the matched clips of other ids."""
        kept = [(clip, said) for clip, said in zip(self.clips, self.captions, strict=True) if clip.id in ids]
        return replace(self, clips=[clip for clip, _ in kept], captions=[said for _, said in kept])


def read_predictions(path: Path) -> dict[str, str]:
    """The caption of each name. Raises ValueError on a name that is given twice, and on what is not such a line."""
    captions: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            (name,) = (row[key] for key in KEYS if key in row)
            caption = row["caption"]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f'{path}, line {number}: expected {{"clip": ..., "caption": ...}}, got {line}') from error
        if not isinstance(name, str) or not isinstance(caption, str):
            raise ValueError(f"{path}, line {number}: the clip and the caption must be strings, got {line}")
        if name in captions:
            raise ValueError(f"{path}, line {number}: a second caption of {name!r}")
        captions[name] = caption
    return captions


def match(clips: Sequence[Clip], predictions: dict[str, str]) -> Matched:
    """Predictions to clips, in the clips' order.

    Raises:
        ValueError: no prediction is of any of the clips, one could be of several, or a clip has two.
    """
    find, said = _Names(clips), dict[str, str]()  # by clip id, the name of its prediction
    left_over = []
    for name in predictions:
        clip = find(name)
        if clip is None:
            left_over.append(name)
        elif clip in said:
            raise ValueError(f"clip {clip!r} has two predictions, {said[clip]!r} and {name!r}: leave one out")
        else:
            said[clip] = name
    if not said:
        first = f"{next(iter(predictions), None)!r}, the first clip {clips[0].id!r}"
        raise ValueError(
            f"none of {len(predictions)} predictions is of a clip with references: the first is of {first}"
        )
    matched = [clip for clip in clips if clip.id in said]
    missing = [clip.id for clip in clips if clip.id not in said]
    return Matched(matched, [predictions[said[clip.id]] for clip in matched], missing, left_over)


class _Names:
    """Finds the id of the clip that a name is of."""

    def __init__(self, clips: Sequence[Clip]):
        self.ids = {clip.id for clip in clips}
        self.by_last_part = defaultdict[str, list[tuple[tuple[str, ...], str]]](list)
        for clip in clips:
            for parts in {_parts(name) for name in (clip.id, *clip.aliases)}:
                self.by_last_part[parts[0]].append((parts, clip.id))

    def __call__(self, name: str) -> str | None:
        if name in self.ids:
            return name
        parts, longest, found = _parts(name), 0, set[str]()
        for other, clip in self.by_last_part.get(parts[0], ()):
            shared = list(zip(parts, other, strict=False))
            if len(shared) < longest or any(one != another for one, another in shared):
                continue
            found = {clip} if len(shared) > longest else found | {clip}
            longest = len(shared)
        if len(found) > 1:
            raise ValueError(f"a prediction for {name!r} could be of the clips {sorted(found)}: give the clip's id")
        return next(iter(found), None)


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path from its last one, whose suffix goes if it is that of a media file (ids may have dots)."""
    path = PurePath(name)
    return (path.with_suffix("") if path.suffix.lower() in AUDIO + OTHER else path).parts[::-1] or (name,)
