"""Which events a caption names, to see whether a captioner heard what was there."""

import re
from collections.abc import Sequence
from functools import cache

from dlink_adapter.soundscapes.events import EVENTS
from dlink_adapter.soundscapes.events.event import Phrase
from dlink_adapter.soundscapes.scenes import Scene


def named_events(caption: str) -> list[str]:
    """The events that a caption names in the words of the grammar, in the order of the words, repetitions included."""
    found = [(match.start(), name) for name, pattern in _patterns() for match in pattern.finditer(caption.lower())]
    return [name for _, name in sorted(found)]


def share_right(captions: Sequence[str], scenes: Sequence[Scene]) -> float:
    """Share of captions that name each event of their scene once and nothing else.

    True captions score .97 and not 1: some leave a quiet background out.
    """
    right = [
        sorted(named_events(caption)) == sorted(placed.event for placed in scene.events)
        for caption, scene in zip(captions, scenes, strict=True)
    ]
    return sum(right) / len(right)


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """The wordings of every event."""
    return [(name, re.compile("|".join(map(_pattern, event.phrases)))) for name, event in EVENTS.items()]


def _pattern(phrase: Phrase) -> str:
    article, _, noun = phrase.subject.partition(" ")
    subject = noun if article in ("a", "an", "the") else phrase.subject
    predicates = "|".join(map(re.escape, (phrase.verb, phrase.participle)))
    return rf"\b{re.escape(subject)} (?:(?:is|are|can be heard) )?(?:{predicates})\b"
