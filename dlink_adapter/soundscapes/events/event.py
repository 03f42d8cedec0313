"""An `Event` is one kind of sound: the function that synthesises it and the phrases that name it in captions."""

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
        """The auxiliary of the participle: "is" for a singular verb, "are" for a plural one."""
        head = self.verb.split()[0]
        return "is" if head.endswith("s") and not head.endswith("ss") else "are"


@dataclass(frozen=True)
class Event:
    """A kind of sound.

    `render(rng, seconds, rate)` returns (samples,) float32 audio of any level. If `once` is None, the sound is
    continuous (rain, an engine) and has round(seconds * rate) samples. Otherwise it is one occurrence (one bark) of at
    most that many samples, and `once` is the longest occurrence in seconds. `loud` and `soft` are adverbs for captions.
    """

    name: str
    render: Render
    phrases: tuple[Phrase, ...]
    once: float | None = None
    loud: tuple[str, ...] = ("loudly",)
    soft: tuple[str, ...] = ("softly", "quietly")

    @property
    def continuous(self) -> bool:
        """True for a sound that fills its duration; captions never count it."""
        return self.once is None


def phrases(*lines: str) -> tuple[Phrase, ...]:
    """Parse lines such as "a dog | barks | barking"."""
    return tuple(Phrase(*(part.strip() for part in line.split("|"))) for line in lines)
