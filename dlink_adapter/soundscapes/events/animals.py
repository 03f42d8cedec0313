"""Animals: dog, cat, rooster, small birds, crow, cow, sheep, frog, cricket, owl, duck."""

import numpy as np

from dlink_adapter.soundscapes.events.event import Event, phrases
from dlink_adapter.soundscapes.synthesis import (
    Signal,
    beats,
    contour,
    decay,
    equalize,
    fade,
    harmonics,
    log_uniform,
    noise,
    place,
    samples_of,
    unit,
    voice,
)


def dog_bark(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A bark: a voice that rises and falls in pitch, through three formants, 0.1 to 0.5 s."""
    samples = samples_of(seconds, log_uniform(rng, 0.1, 0.5), rate)
    pitch = log_uniform(rng, 160, 1000)
    curve = pitch * contour(samples, rng.uniform(0.4, 0.9), 1.0, rng.uniform(0.7, 1.0), rng.uniform(0.3, 0.8))
    tract = log_uniform(rng, 450, 1200) * (pitch / 400) ** 0.4
    peaks = [(tract, 0.4), (tract * rng.uniform(1.7, 2.4), 0.3), (tract * rng.uniform(3, 4.5), 0.3)]
    bark = voice(rng, curve, rate, peaks, rng.uniform(1, 7), rng.uniform(0.05, 0.5), log_uniform(rng, 0.01, 0.2))
    bark = equalize(bark, rate, {60: -6, 400: 0, 1000: 0, 4000: rng.uniform(-20, -3), 7900: rng.uniform(-30, -10)})
    return bark * decay(samples, rate, rng.uniform(0.008, 0.05), log_uniform(rng, 0.05, 0.25))


def cat_meow(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A meow: a voice that crossfades from one low formant to two higher ones and back, 0.4 to 1.2 s."""
    samples = samples_of(seconds, log_uniform(rng, 0.4, 1.2), rate)
    pitch = log_uniform(rng, 350, 900) * contour(samples, 0.75, 1.0, 1.05, rng.uniform(0.6, 0.95))
    opening = contour(samples, 0.2, 1.0, rng.uniform(0.6, 1.0), 0.25)
    tract = log_uniform(rng, 900, 1700)
    closed = voice(rng, pitch, rate, [(tract * 0.6, 0.3)], 9.0, 0.05)
    opened = voice(rng, pitch, rate, [(tract, 0.3), (tract * 2.4, 0.2)], 4.0, rng.uniform(0.03, 0.2))
    return (opening * opened + (1 - opening) * closed) * fade(samples, rate, 0.08, 0.25)


def rooster(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A crow: two to five short syllables and a falling last one, voiced through two formants, 1.2 to 2.4 s."""
    samples = samples_of(seconds, rng.uniform(1.2, 2.4), rate)
    pitch, tract, out = log_uniform(rng, 420, 1050), rng.uniform(1000, 1800), np.zeros(samples, dtype=np.float32)
    tilt, breath, rough = rng.uniform(2, 8), log_uniform(rng, 0.005, 0.2), log_uniform(rng, 0.003, 0.06)
    # Cock-a-doodle: two to five short syllables; doo: a long one that falls.
    ends = np.cumsum(rng.uniform(0.08, 0.22, rng.integers(2, 6)))
    ends = np.minimum(1.0, 0.75 / ends[-1]) * ends
    for start, stop in zip([0.0, *ends], [*(ends - rng.uniform(0.01, 0.04)), 1.0], strict=True):
        length, height = int((stop - start) * samples), rng.uniform(0.75, 1.15)
        curve = pitch * height * contour(length, 0.8, 1.0, 1.0, 0.97, rng.uniform(0.5, 0.85) if stop == 1.0 else 0.9)
        call = voice(rng, curve, rate, [(tract, 0.25), (tract * 1.9, 0.3)], tilt, breath, rough)
        place(out, call * fade(length, rate, 0.02, 0.06), start * samples / rate, rate, height)
    return out


def bird_chirps(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Chirps of one to three birds: short trilled pitch sweeps of two harmonics, at irregular intervals."""
    samples = round(seconds * rate)
    out = np.zeros(samples, dtype=np.float32)
    for _ in range(rng.integers(1, 4)):
        pitch, length = log_uniform(rng, 2200, 5500), int(log_uniform(rng, 0.03, 0.25) * rate)
        shape, gain = rng.uniform(0.7, 1.3, 4), log_uniform(rng, 0.2, 1.0)
        trill = 1 + rng.uniform(0, 0.15) * np.sin(2 * np.pi * rng.uniform(15, 60) * np.arange(length) / rate)
        for time in beats(rng, seconds, log_uniform(rng, 0.12, 0.8), 0.5):
            if rng.random() < 0.7:
                curve = pitch * rng.uniform(0.9, 1.1) * contour(length, *shape) * trill
                chirp = harmonics(curve, rate, [1.0, 0.1]) * fade(length, rate, 0.01, 0.02)
                place(out, chirp, time, rate, gain * rng.uniform(0.5, 1.0))
    return out


def crow_caw(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A caw: a rough, breathy voice through two formants, 0.2 to 0.5 s."""
    samples = samples_of(seconds, log_uniform(rng, 0.2, 0.5), rate)
    pitch = log_uniform(rng, 320, 600) * contour(samples, 0.85, 1.0, 1.0, 0.8)
    tract = rng.uniform(1100, 1900)
    caw = voice(rng, pitch, rate, [(tract, 0.25), (tract * 1.7, 0.25)], 2.0, rng.uniform(0.25, 0.5), 0.2)
    return caw * fade(samples, rate, 0.04, 0.1)


def cow_moo(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A moo: a low voice with a slow rise and fall in level, through three formants, 1 to 2 s."""
    samples = samples_of(seconds, rng.uniform(1.0, 2.0), rate)
    pitch = log_uniform(rng, 80, 190) * contour(samples, 0.75, 1.0, 1.05, 1.0, rng.uniform(0.7, 1.0))
    tract = rng.uniform(250, 450)
    peaks = [(tract, 0.4), (tract * 2.2, 0.25), (tract * 5, 0.2)]
    return voice(rng, pitch, rate, peaks, 5.0, 0.05, 0.02) * fade(samples, rate, 0.25, 0.3)


def sheep_bleat(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A bleat: a voice with a tremor of 7 to 13 Hz in pitch and level, through three formants, 0.5 to 1.1 s."""
    samples = samples_of(seconds, rng.uniform(0.5, 1.1), rate)
    t = np.arange(samples, dtype=np.float32) / rate
    tremor: Signal = np.sin(2 * np.pi * rng.uniform(7, 13) * t)
    pitch = log_uniform(rng, 180, 500) * contour(samples, 0.95, 1.0, 0.9) * (1 + 0.06 * tremor)
    tract = rng.uniform(700, 1100)
    bleat = voice(rng, pitch, rate, [(tract, 0.3), (tract * 2, 0.2), (tract * 3.2, 0.2)], 3.0, 0.1, 0.03)
    return bleat * (1 + 0.6 * tremor) * fade(samples, rate, 0.05, 0.15)


def frog_croak(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A croak: a voice through two formants, in 18 to 60 pulses a second, 0.2 to 0.6 s."""
    samples = samples_of(seconds, log_uniform(rng, 0.2, 0.6), rate)
    t = np.arange(samples, dtype=np.float32) / rate
    pulses = np.square(np.sin(np.pi * log_uniform(rng, 18, 60) * t)) ** 2
    pitch = log_uniform(rng, 150, 700) * contour(samples, 0.9, 1.0, 1.1)
    tract = log_uniform(rng, 600, 1800)
    croak = voice(rng, pitch, rate, [(tract, 0.2), (tract * 2, 0.2)], 4.0, 0.15)
    return croak * pulses * fade(samples, rate, 0.05, 0.05)


def crickets(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """One to three crickets: sines of 3 to 6 kHz in 18 to 45 pulses a second, gated into phrases."""
    samples = round(seconds * rate)
    t = np.arange(samples, dtype=np.float32) / rate
    out = np.zeros(samples, dtype=np.float32)
    for _ in range(rng.integers(1, 4)):
        tone = np.sin(2 * np.pi * log_uniform(rng, 3000, 6000) * t)
        phrase = np.clip(np.sin(2 * np.pi * (rng.uniform(0.8, 4) * t + rng.random())) * 4 + rng.uniform(-1, 4), 0, 1)
        syllable = np.square(np.sin(np.pi * rng.uniform(18, 45) * t))
        out += log_uniform(rng, 0.2, 1.0) * tone * phrase * syllable
    return out


def owl_hoot(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A hoot: a nearly pure tone of three harmonics with a little breath noise, 0.35 to 0.8 s."""
    samples = samples_of(seconds, rng.uniform(0.35, 0.8), rate)
    pitch = log_uniform(rng, 280, 550) * contour(samples, 0.93, 1.0, 1.0, 0.94)
    hoot = unit(harmonics(pitch, rate, [1.0, rng.uniform(0.02, 0.15), 0.03]))
    return (hoot + 0.05 * noise(rng, samples, rate, {200: -10, 600: 0, 2000: -20})) * fade(samples, rate, 0.08, 0.15)


def duck_quack(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A quack: a bright voice that falls in pitch, through two narrow formants, 0.12 to 0.28 s."""
    samples = samples_of(seconds, rng.uniform(0.12, 0.28), rate)
    pitch = log_uniform(rng, 180, 330) * contour(samples, 1.05, 1.0, 0.85)
    tract = rng.uniform(1000, 1500)
    quack = voice(rng, pitch, rate, [(tract, 0.15), (tract * 1.9, 0.15)], 0.5, 0.1, 0.05)
    return quack * fade(samples, rate, 0.015, 0.06)


ANIMALS = (
    Event(
        "dog_bark",
        dog_bark,
        phrases(
            "a dog | barks | barking",
            "a dog | yaps | yapping",
            "a dog | woofs | woofing",
        ),
        once=0.5,
    ),
    Event(
        "cat_meow",
        cat_meow,
        phrases("a cat | meows | meowing", "a kitten | meows | meowing", "a cat | cries out | crying out"),
        once=1.2,
    ),
    Event(
        "rooster",
        rooster,
        phrases("a rooster | crows | crowing", "a rooster | calls | calling", "a cockerel | crows | crowing"),
        once=2.4,
    ),
    Event(
        "bird_chirps",
        bird_chirps,
        phrases(
            "birds | chirp | chirping",
            "birds | sing | singing",
            "small birds | tweet | tweeting",
        ),
    ),
    Event(
        "crow_caw",
        crow_caw,
        phrases("a crow | caws | cawing", "a crow | squawks | squawking", "a bird | caws | cawing"),
        once=0.5,
    ),
    Event(
        "cow_moo",
        cow_moo,
        phrases("a cow | moos | mooing", "a cow | bellows | bellowing"),
        once=2.0,
    ),
    Event(
        "sheep_bleat",
        sheep_bleat,
        phrases("a sheep | bleats | bleating", "a goat | bleats | bleating", "a sheep | baas | baaing"),
        once=1.1,
    ),
    Event(
        "frog_croak",
        frog_croak,
        phrases("a frog | croaks | croaking", "a frog | ribbits | ribbiting"),
        once=0.6,
    ),
    Event(
        "crickets",
        crickets,
        phrases("crickets | chirp | chirping", "insects | buzz | buzzing", "crickets | sing | singing"),
    ),
    Event("owl_hoot", owl_hoot, phrases("an owl | hoots | hooting", "an owl | calls | calling"), once=0.8),
    Event("duck_quack", duck_quack, phrases("a duck | quacks | quacking", "a duck | calls | calling"), once=0.28),
)
