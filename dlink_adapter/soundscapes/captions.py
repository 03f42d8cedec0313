"""Captions of a scene from a small grammar; every word agrees with the events, their order, count and level.

As people do, a caption leaves out now and then what is only in the background.
"""

import numpy as np

from dlink_adapter.soundscapes.events import EVENTS
from dlink_adapter.soundscapes.events.event import Phrase
from dlink_adapter.soundscapes.scenes import BACKGROUND, Placed, Scene

COUNTS = {
    1: ("once",),
    2: ("twice", "two times"),
    3: ("three times", "several times", "repeatedly"),
    4: ("four times", "several times", "repeatedly", "multiple times"),
    5: ("several times", "repeatedly", "multiple times", "many times"),
}
BEHIND_DB = 6  # a background this far below the loudest event may be called one, or left out
UNMENTIONED = 0.25  # share of the captions that leave such a background out
WITHOUT = {"while": "alone", "over": "then", "while_then": "then"}  # the relation of the others
FAR, NEAR = ("in the distance", "far away"), ("nearby",)

# a, b, c are the events of the scene: {a} is a clause ("a dog barks" or "a dog is barking"), {a:s} the same in the
# simple present, {a:ing} a noun phrase ("a dog barking"), {a:heard} "a dog can be heard barking".
TEMPLATES = {
    "alone": ("{a}", "{a}", "{a:ing}", "{a:ing}", "the sound of {a:ing}", "{a:heard}"),
    "while": (
        "{a} while {b}",
        "{a} as {b}",
        "{b} while {a}",
        "{b} as {a}",
        "{b} and {a}",
        "{a} with {b:ing}",
        "{b:ing} with {a:ing}",
        "{a:ing} and {b:ing}",
        "{a:ing} over the sound of {b:ing}",
    ),
    "then": (
        "{a} followed by {b:ing}",
        "{a}, followed by {b:ing}",
        "{a:ing} followed by {b:ing}",
        "{a} and then {b}",
        "{a}, then {b}",
        "{a:s} before {b:s}",
        "{b:s} after {a:s}",
        "{a:ing} and then {b:ing}",
    ),
    "then_then": (
        "{a}, then {b}, and then {c}",
        "{a} followed by {b:ing} and then {c:ing}",
        "{a:ing} followed by {b:ing} and {c:ing}",
        "{a}, followed by {b:ing}, and finally {c}",
        "first {a:s}, then {b:s}, and finally {c:s}",
    ),
    "over": (
        "{c} while {a} and then {b}",
        "{a} followed by {b:ing} while {c}",
        "{c} as {a}, followed by {b:ing}",
        "{a} and then {b} as {c} throughout",
        "{a:ing} followed by {b:ing} over the sound of {c:ing}",
    ),
    "while_then": (
        "{a} while {b}, then {c}",
        "{a} as {b}, followed by {c:ing}",
        "{b} and {a}, and then {c}",
        "{a:ing} with {b:ing}, followed by {c:ing}",
        "{b:s} while {a:s} before {c:s}",
    ),
}


def describe(scene: Scene, rng: np.random.Generator) -> str:
    """Return one random caption of the scene."""
    relation, events, background = scene.relation, scene.events, None
    if relation in BACKGROUND:
        ongoing = events[BACKGROUND[relation]]
        if ongoing.level < max(placed.level for placed in events) - BEHIND_DB:
            background = ongoing
    if background is not None and rng.random() < UNMENTIONED:
        relation, events = WITHOUT[relation], tuple(placed for placed in events if placed is not background)
    template = str(rng.choice(TEMPLATES[relation]))
    clauses = {
        key: _Clause(placed, rng, behind=placed is background) for key, placed in zip("abc", events, strict=False)
    }
    caption = template.format(**clauses)
    return caption[0].upper() + caption[1:]


def references(scene: Scene, count: int, seed: int) -> list[str]:
    """Return `count` distinct captions of the scene. Raises ValueError if the grammar gives fewer."""
    rng, found = np.random.default_rng([seed, scene.seed]), dict[str, None]()
    for _ in range(50 * count):
        if len(found) == count:
            return list(found)
        found[describe(scene, rng)] = None
    raise ValueError(f"found {len(found)} distinct captions of the scene; ask for fewer than {count}")


class _Clause:
    """Formats a placed event as the clause that a template field asks for.

    `behind` is true for a background event more than 6 dB below the loudest event.
    """

    def __init__(self, placed: Placed, rng: np.random.Generator, behind: bool):
        self.placed, self.rng, self.behind = placed, rng, behind

    def __format__(self, form: str) -> str:
        options = EVENTS[self.placed.event].phrases
        phrase = options[self.rng.integers(len(options))]
        adjective, adverbs = _modifiers(self.placed, self.rng)
        if self.behind and not adjective and not adverbs and self.rng.random() < 0.5:
            adverbs = ["in the background"]
        subject = _qualify(phrase.subject, adjective)
        return " ".join((subject, self._predicate(phrase, form), *adverbs))

    def _predicate(self, phrase: Phrase, form: str) -> str:
        if form == "heard":
            return f"can be heard {phrase.participle}"
        if form == "ing":
            return phrase.participle
        return phrase.verb if form == "s" or self.rng.random() < 0.65 else f"{phrase.auxiliary} {phrase.participle}"


def _qualify(subject: str, adjective: str) -> str:
    article, _, noun = subject.partition(" ")
    return f"a {adjective} {noun}" if adjective and article in ("a", "an") else subject


def _modifiers(placed: Placed, rng: np.random.Generator) -> tuple[str, list[str]]:
    """Draw an adjective for the subject and adverbs for the verb, from the loudness, count and distance."""
    event = EVENTS[placed.event]
    adjective, adverbs = "", []
    draw = rng.random(3)
    if placed.distance < 0.6 and draw[0] < 0.35:
        if placed.loudness > -3:
            adverbs.append(str(rng.choice(event.loud)))
        elif placed.loudness < -12:
            adverbs.append(str(rng.choice(event.soft)))
    if not event.continuous and draw[1] < (0.1 if placed.count == 1 else 0.7):
        adverbs.append(str(rng.choice(COUNTS[min(placed.count, 5)])))
    if placed.distance > 0.75 and draw[2] < 0.6:
        if all(phrase.subject.startswith(("a ", "an ")) for phrase in event.phrases) and rng.random() < 0.5:
            adjective = "distant"
        else:
            adverbs.append(str(rng.choice(FAR)))
    elif placed.distance < 0.1 and not adverbs and draw[2] < 0.4:
        adverbs.append(str(rng.choice(NEAR)))
    return adjective, adverbs
