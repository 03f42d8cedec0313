"""What an event of the sound world is: a way to render it and the words people use for it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dlink_adapter.soundscapes.synthesis import Signal

Render = Callable[[np.random.Generator, float, int], Signal]


class Phrase(NamedTuple):
    """Subject, finite verb and participle, e.g. ("a dog", "barks", "barking")."""

    subject: str
    verb: str
    participle: str

    @property
    def auxiliary(self) -> str:
        head = self.verb.split()[0]
        return "is" if head.endswith("s") and not head.endswith("ss") else "are"


@dataclass(frozen=True)
class Event:
    """A kind of sound.

    `render(rng, seconds, rate)` returns float32 audio of any level. Where `once` is None the sound fills its duration
    (rain, an engine) and the array has round(seconds * rate) samples. Otherwise the array is one countable occurrence
    (one bark) of at most that many samples, and `once` is the longest natural occurrence in seconds.
    """

    name: str
    render: Render
    phrases: tuple[Phrase, ...]
    once: float | None = None
    loud: tuple[str, ...] = ("loudly",)
    soft: tuple[str, ...] = ("softly", "quietly")

    @property
    def continuous(self) -> bool:
        """Whether it fills its duration, so that it is never counted."""
        return self.once is None


def phrases(*lines: str) -> tuple[Phrase, ...]:
    """Read "a dog | barks | barking" lines."""
    return tuple(Phrase(*(part.strip() for part in line.split("|"))) for line in lines)
