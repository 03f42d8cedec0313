"""Scenes: one to three placed events with a temporal relation, sampled by split and rendered as waveforms."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.io import wavfile
from tqdm.auto import tqdm

from dlink_adapter.soundscapes.events import EVENTS
from dlink_adapter.soundscapes.synthesis import Signal, colour, decay, fade, gains, log_uniform, noise, place

SPLITS = ("train", "val", "test")
TEST_SHARE, VAL_SHARE = 10, 5  # per cent of the pairs of events
BACKGROUND = {"while": 1, "over": 2, "while_then": 1}  # index of the event that goes on behind the others
LOST_DB, MASKED_DB = 12, 6  # an event that is further below the loudest one, or below the background, is raised to it


@dataclass(frozen=True)
class Placed:
    """An event in a scene: onset and duration in seconds, loudness in dB, distance from 0 (near) to 1 (far).

    `count` is the number of occurrences, 1 for a continuous sound; `seed` is that of its synthesis.
    """

    event: str
    onset: float
    duration: float
    count: int
    loudness: float
    distance: float
    seed: int

    @property
    def end(self) -> float:
        """End time in seconds."""
        return self.onset + self.duration

    @property
    def level(self) -> float:
        """RMS of its loudest tenth of a second at the listener, in dB relative to full scale."""
        return -14 + self.loudness - 8 * self.distance


@dataclass(frozen=True)
class Scene:
    """Placed events and their temporal relation.

    `relation` orders the events a, b and c: "alone" (a), "while" (a during b), "then" (a, then b), "then_then" (a, then
    b, then c), "over" (a, then b, both during c) or "while_then" (a during b, then c).
    """

    events: tuple[Placed, ...]
    relation: str
    seed: int
    seconds: float = 5.0


def pair_split(first: str, second: str) -> str:
    """Return the split of an unordered pair of events, from a hash of their names."""
    digest = hashlib.sha256("+".join(sorted((first, second))).encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % 100
    return "test" if bucket < TEST_SHARE else "val" if bucket < TEST_SHARE + VAL_SHARE else "train"


def combination_split(names: Iterable[str]) -> str:
    """Return the strictest split of all pairs of the events, so that a test pair never occurs in a train scene."""
    return max((pair_split(*pair) for pair in combinations(names, 2)), key=SPLITS.index)


def sample_scenes(count: int, split: str, seed: int, events: Sequence[str] = tuple(EVENTS)) -> list[Scene]:
    """Draw `count` scenes of a split from the named events; the same arguments give the same scenes.

    Single events occur in every split; each combination of events occurs in one. Raises ValueError for an unknown
    split or event, fewer than three events or a negative count.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; use one of {', '.join(SPLITS)}")
    if count < 0:
        raise ValueError(f"count is {count}; it must not be negative")
    if len(set(events)) < 3 or not set(events) <= set(EVENTS):
        raise ValueError(f"expected at least three of {', '.join(EVENTS)}, got {', '.join(events)}")
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    return [_sample(rng, split, list(events)) for _ in range(count)]


def _sample(rng: np.random.Generator, split: str, events: list[str]) -> Scene:
    size = int(rng.choice([1, 2, 3], p=[0.28, 0.47, 0.25]))
    while True:
        names = [str(name) for name in rng.choice(events, size, replace=False)]
        if size == 1 or combination_split(names) == split:
            break
    # Continuous events come last, where _relation expects the background event; in while_then it is the second.
    names.sort(key=lambda name: EVENTS[name].continuous)
    relation, spans = _relation(rng, names)
    if relation == "while_then":
        names = [names[0], names[2], names[1]]
    placed = tuple(_place(rng, name, *span, throughout=len(names) > 1) for name, span in zip(names, spans, strict=True))
    return Scene(_audible(placed, BACKGROUND.get(relation)), relation, int(rng.integers(2**31)))


def _relation(rng: np.random.Generator, names: list[str]) -> tuple[str, list[tuple[float, float]]]:
    """Draw a relation that the events allow and the span (start, end) in seconds of each; may shuffle `names`."""
    goes_on = EVENTS[names[-1]].continuous
    if len(names) == 1:
        return "alone", [(0.0, 5.0)]
    if len(names) == 2:
        if goes_on and rng.random() < 0.6:
            return "while", [(0.2, 4.8), (0.0, 5.0)]
        rng.shuffle(names)
        cut = rng.uniform(1.9, 3.1)
        return "then", [(0.0, cut), (cut + 0.1, 5.0)]
    if goes_on and rng.random() < 0.7:
        cut = rng.uniform(2.2, 2.8)
        if rng.random() < 0.6:
            return "over", [(0.1, cut), (cut + 0.1, 4.9), (0.0, 5.0)]
        return "while_then", [(0.1, cut), (0.0, cut + 0.3), (cut + 0.4, 5.0)]
    rng.shuffle(names)
    first, second = rng.uniform(1.4, 1.8), rng.uniform(3.1, 3.5)
    return "then_then", [(0.0, first), (first + 0.1, second), (second + 0.1, 5.0)]


def _place(rng: np.random.Generator, name: str, start: float, end: float, throughout: bool = False) -> Placed:
    once, span, count = EVENTS[name].once, end - start, 1
    if once is None:
        cut = rng.uniform(0, 0.5) if rng.random() < 0.25 and not throughout else 0.0
        onset, duration = start, span * (1 - cut)
    else:
        most = max(1, min(8, int(span / (1.1 * once))))
        count = int(rng.integers(1, most + 1)) if rng.random() < 0.7 else 1
        slot = min(span / count, once * rng.uniform(1.1, 3.5))
        duration = min(span, slot * count)
        onset = start + (span - duration) * rng.random() ** 2
    loudness = float(rng.uniform(-15, 0))
    distance = float(rng.random() ** 1.5)
    return Placed(name, float(onset), float(duration), count, loudness, distance, int(rng.integers(2**31)))


def _audible(events: tuple[Placed, ...], background: int | None) -> tuple[Placed, ...]:
    """Raise the events that nobody would hear: a caption names what is there."""
    heard = max(event.level for event in events) - LOST_DB
    over = heard if background is None else max(heard, events[background].level - MASKED_DB)
    floors = [heard if index == background else over for index in range(len(events))]
    return tuple(
        replace(event, loudness=event.loudness + max(0.0, floor - event.level))
        for event, floor in zip(events, floors, strict=True)
    )


def render(scene: Scene, rate: int = 16000) -> Signal:
    """Render (samples,) float32 audio within [-1, 1], with a random room, microphone response and noise floor."""
    rng = np.random.default_rng(scene.seed)
    samples = round(scene.seconds * rate)
    near, far = np.zeros(samples, dtype=np.float32), np.zeros(samples, dtype=np.float32)
    for placed in scene.events:
        sound = _render_event(placed, rate)
        place(near, sound, placed.onset, rate, 1 - placed.distance)
        place(far, sound, placed.onset, rate, 0.1 + 0.9 * placed.distance)
    audio = _room(rng, near, far, rate)
    audio = audio + loudest(audio, rate) * log_uniform(rng, 3e-4, 0.1) * noise(rng, samples, rate, _floor(rng))
    if rng.random() < 0.35:
        audio *= _cut(rng, scene, rate)
    audio = audio * log_uniform(rng, 0.4, 1.4)
    return (audio / max(1.0, np.abs(audio).max() / 0.98)).astype(np.float32)


def render_all(scenes: Sequence[Scene], rate: int = 16000, *, progress: bool = True) -> Signal:
    """Render scenes of equal length as (n, samples) float32, in one process per core."""
    return in_processes(partial(render, rate=rate), scenes, progress=progress)


def in_processes(work: Callable[[Scene], NDArray[Any]], scenes: Sequence[Scene], *, progress: bool) -> NDArray[Any]:
    """What `work` makes of each scene, stacked, in one process per core."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        made = pool.map(work, scenes, chunksize=32)
        bar = tqdm(made, desc="scenes", total=len(scenes), unit="scene", disable=None if progress else True)
        return np.stack(list(bar))


def _render_event(placed: Placed, rate: int) -> Signal:
    """Render one event without the room, scaled to its level."""
    rng, event = np.random.default_rng(placed.seed), EVENTS[placed.event]
    slot = placed.duration / placed.count
    sound = event.render(rng, slot, rate)
    if event.continuous:
        sound = sound * fade(len(sound), rate, 0.03, 0.05)
    else:
        sound = _repeat(rng, sound, placed.count, slot, rate)
    return sound * np.float32(10 ** (placed.level / 20) / (loudest(sound, rate) + 1e-9))


def _repeat(rng: np.random.Generator, sound: Signal, count: int, slot: float, rate: int) -> Signal:
    """Repeat one occurrence `count` times, later ones slightly faster and weaker, at regular or clustered onsets."""
    out = np.zeros(round(count * slot * rate), dtype=np.float32)
    length = len(sound) / rate
    shares = 0.4 / count + 0.6 * rng.dirichlet(np.full(count, log_uniform(rng, 0.3, 30.0)))
    onsets = np.arange(count) * length + np.cumsum(shares) * (slot - length) * count
    for number, onset in enumerate(onsets - onsets[0]):
        grid = np.arange(0, len(sound) - 1, rng.uniform(1.0, 1.08) if number else 1.0)
        again = np.interp(grid, np.arange(len(sound)), sound)
        place(out, again, onset, rate, rng.uniform(0.7, 1.0) if number else 1.0)
    return out


def loudest(audio: Signal, rate: int) -> float:
    """RMS of the loudest tenth of a second."""
    window = rate // 10
    blocks = np.pad(audio, (0, -len(audio) % window)).reshape(-1, window)
    return float(np.sqrt(np.square(blocks).mean(1).max()))


def _room(rng: np.random.Generator, near: Signal, far: Signal, rate: int) -> Signal:
    """Low-pass and reverberate the far bus, add the near bus and apply a random microphone response."""
    tail = int(log_uniform(rng, 0.05, 0.8) * rate)
    echo = noise(rng, tail, rate, {100: -6, 500: 0, 3000: -4, 7900: -15}) * decay(tail, rate, 0.0, tail / rate / 5)
    echo *= rng.uniform(0.3, 1.0) / np.sqrt(np.square(echo).sum())
    echo[0] += 0.5
    length = fft.next_fast_len(len(near) + tail, real=True)
    air = gains(length, rate, {100: 0, 1000: rng.uniform(-6, -1), 7900: rng.uniform(-30, -8)})
    spectrum = fft.rfft(near, length) + fft.rfft(far, length) * fft.rfft(echo, length) * air
    response = gains(length, rate, colour(rng, 3.0)) * gains(length, rate, _passband(rng))
    return fft.irfft(spectrum * response, length)[: len(near)]


def _passband(rng: np.random.Generator) -> dict[float, float]:
    """Draw the response {Hz: dB} of a recorder: flat, or with a low or a high cut, or both."""
    low, high = log_uniform(rng, 50, 300), log_uniform(rng, 2500, 7500)
    low_cut = {low / 2: -40.0, low: 0.0} if rng.random() < 0.15 else {}
    return {**low_cut, 1000: 0.0, **({high: 0.0, high * 1.15: -60.0} if rng.random() < 0.12 else {})}


def _floor(rng: np.random.Generator) -> dict[float, float]:
    """Draw the spectrum {Hz: dB} of a recording's noise floor, from hum to hiss."""
    hum, traffic, air, hiss = rng.uniform([-5, -6, -15, -25], [25, 12, 3, 6])
    return {40: hum, 200: traffic, 1000: 0, 3000: air, 7900: hiss}


def _cut(rng: np.random.Generator, scene: Scene, rate: int) -> Signal:
    """Gate that zeroes the audio before the first and after the last event, as in trimmed and padded clips."""
    start = min(placed.onset for placed in scene.events) - rng.uniform(0.0, 0.3)
    end = max(placed.end for placed in scene.events) + rng.uniform(0.0, 0.6)
    t = np.arange(round(scene.seconds * rate), dtype=np.float32) / rate
    return np.clip(np.minimum(t - start, end - t) * 200, 0, 1)


def write_wav(path: str | Path, audio: Sequence[float] | Signal, rate: int = 16000) -> None:
    """Write (samples,) audio within [-1, 1] as 16-bit PCM."""
    wavfile.write(path, rate, np.round(np.clip(audio, -1, 1) * 32767).astype(np.int16))
