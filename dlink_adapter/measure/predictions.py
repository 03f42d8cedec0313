"""Predicted captions, read from a file and matched to the clips of a data set.

The file is JSONL, as `dlink caption --out` writes it: a line is `{"clip": ..., "caption": ...}`, where `clip` (or
`file`) is the id of a clip or a path; `candidates` and a `confidence` may be there too. A path matches a clip if it
ends in the clip's id or alias, or they end in it, part by part and without suffixes; the longest match counts.
`audio/rain/1.wav` matches `rain/1`, and so does `1.flac` unless the id of another clip ends in `1` too.
"""

import json
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import NamedTuple

from dlink_adapter.data.clip_tables import AUDIO, OTHER, Clip
from dlink_adapter.files import read_text

KEYS = ("clip", "file")


class Prediction(NamedTuple):
    """What was said of a clip: the caption, the candidates that it was chosen from, and how sure it is, if known."""

    caption: str
    candidates: Sequence[str] = ()
    confidence: float | None = None


@dataclass(frozen=True)
class Matched:
    """Clips with their predictions, and the names of the clips and predictions that have no match."""

    clips: list[Clip]
    predictions: list[Prediction]
    without_prediction: list[str]
    without_references: list[str]

    @property
    def captions(self) -> list[str]:
        """A caption for each clip."""
        return [prediction.caption for prediction in self.predictions]

    def only(self, ids: Collection[str]) -> "Matched":
        """The same without the matched clips whose ids are not among `ids`."""
        kept = [pair for pair in zip(self.clips, self.predictions, strict=True) if pair[0].id in ids]
        return replace(self, clips=[clip for clip, _ in kept], predictions=[said for _, said in kept])


def read_predictions(path: Path) -> dict[str, Prediction]:
    """Predictions by name. Raises ValueError on a name that occurs twice, and on a line of another form."""
    predictions: dict[str, Prediction] = {}
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            (name,) = (row[key] for key in KEYS if key in row)
            said = Prediction(row["caption"], row.get("candidates", ()), row.get("confidence"))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f'{path}, line {number}: expected {{"clip": ..., "caption": ...}}, got {line}') from error
        if not isinstance(said.candidates, list | tuple) or not isinstance(said.confidence, float | int | None):
            raise ValueError(
                f"{path}, line {number}: expected a list of candidates and a number as confidence, got {line}"
            )
        if not all(isinstance(text, str) for text in (name, said.caption, *said.candidates)):
            raise ValueError(f"{path}, line {number}: the clip and the caption must be strings, got {line}")
        if name in predictions:
            raise ValueError(f"{path}, line {number}: a second caption of {name!r}")
        predictions[name] = said
    return predictions


def match(clips: Sequence[Clip], predictions: dict[str, Prediction]) -> Matched:
    """Match predictions to clips, in the order of the clips.

    Raises ValueError where no prediction matches a clip, one matches several, or a clip has two predictions.
    """
    find, names = _Names(clips), dict[str, str]()  # the name of its prediction, by clip id
    unmatched = []
    for name in predictions:
        clip = find(name)
        if clip is None:
            unmatched.append(name)
        elif clip in names:
            raise ValueError(f"clip {clip!r} has two predictions, {names[clip]!r} and {name!r}: leave one out")
        else:
            names[clip] = name
    if not names:
        first = f"the first is of {next(iter(predictions), None)!r}, the first clip {clips[0].id!r}"
        raise ValueError(f"none of {len(predictions)} predictions is of a clip with references: {first}")
    matched = [clip for clip in clips if clip.id in names]
    missing = [clip.id for clip in clips if clip.id not in names]
    return Matched(matched, [predictions[names[clip.id]] for clip in matched], missing, unmatched)


class _Names:
    """Finds the id of the clip that a name belongs to."""

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
            length = min(len(parts), len(other))
            if length < longest or parts[:length] != other[:length]:
                continue
            found = {clip} if length > longest else found | {clip}
            longest = length
        if len(found) > 1:
            raise ValueError(f"a prediction for {name!r} could be of the clips {sorted(found)}: give the clip's id")
        return next(iter(found), None)


def _parts(name: str) -> tuple[str, ...]:
    """The parts of a path, the last one first and without the suffix of a media file (an id may contain dots)."""
    path = PurePath(name)
    return (path.with_suffix("") if path.suffix.lower() in AUDIO + OTHER else path).parts[::-1] or (name,)
