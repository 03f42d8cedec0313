"""People: baby cry, sneeze, cough, laugh, clapping, footsteps, whistle, snore."""

import numpy as np

from dlink_adapter.soundscapes.events.event import Event, phrases
from dlink_adapter.soundscapes.synthesis import (
    Signal,
    beats,
    contour,
    decay,
    drift,
    fade,
    harmonics,
    impulses,
    log_uniform,
    noise,
    place,
    resonate,
    samples_of,
    unit,
    voice,
)


def baby_cry(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Cries with rests between them: voices with a bent, wavering pitch through three formants."""
    out = np.zeros(round(seconds * rate), dtype=np.float32)
    pitch, tract = log_uniform(rng, 280, 620), rng.uniform(900, 1600)
    tilt, breath, rough = rng.uniform(-1, 4), log_uniform(rng, 0.003, 0.1), log_uniform(rng, 0.002, 0.04)
    time, pace, rest = rng.uniform(0, 0.5), log_uniform(rng, 0.25, 2.2), log_uniform(rng, 0.1, 1.0)
    while time < seconds - 0.25:
        length = int(pace * log_uniform(rng, 0.5, 1.6) * rate)
        bend = contour(length, rng.uniform(0.55, 0.95), *rng.uniform(0.85, 1.3, 4), rng.uniform(0.5, 0.95))
        waver = 1 + rng.uniform(0, 0.06) * drift(rng, length, rate, 12.0, -1.0, 1.0)
        peaks = [(tract * rng.uniform(0.8, 1.2), 0.35), (tract * 2.6, 0.25), (tract * 3.8, 0.25)]
        # Few cries are strained: rougher and noisier than the rest.
        strain = rng.random() ** 4
        cry = voice(rng, pitch * bend * waver, rate, peaks, tilt, max(breath, 0.5 * strain), rough + 0.1 * strain)
        place(out, cry * fade(length, rate, 0.06, 0.15), time, rate, log_uniform(rng, 0.3, 1.0))
        time += length / rate + rest * rng.uniform(0.5, 1.5)
    return out


def sneeze(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A sneeze: a voiced gasp, then noise that turns from bright to dull over a falling voice, 0.3 to 1.3 s."""
    samples = samples_of(seconds, log_uniform(rng, 0.3, 1.3), rate)
    out = np.zeros(samples, dtype=np.float32)
    inhale = int(rng.uniform(0.1, 0.6) * samples)
    burst = samples - inhale
    pitch, tract = log_uniform(rng, 150, 500), rng.uniform(600, 1100)
    rise = pitch * contour(inhale, 0.9, 1.0, rng.uniform(1.0, 1.4))
    gasp = voice(rng, rise, rate, [(tract, 0.3), (tract * 1.8, 0.3)], 6.0, rng.uniform(0.2, 0.9))
    place(out, gasp * contour(inhale, 0.1, 1.0, 0.3), 0.0, rate, log_uniform(rng, 0.02, 0.6))
    # The "choo" after the gasp.
    bright = noise(rng, burst, rate, {200: -16, 1000: -4, log_uniform(rng, 1500, 5000): 0, 7900: -4})
    dull = noise(rng, burst, rate, {150: -12, log_uniform(rng, 700, 1600): 0, 3500: -14, 7900: -25})
    closing = np.clip(contour(burst, -0.2, rng.uniform(0.3, 1.2), 1.0), 0, 1)
    hiss = (1 - closing) * bright + closing * dull
    fall = pitch * contour(burst, rng.uniform(1.2, 2.2), 1.1, 0.6)
    shout = voice(rng, fall, rate, [(tract, 0.3), (tract * 2.2, 0.3)], 3.0, 0.3, 0.06)
    blow = (hiss + log_uniform(rng, 0.1, 1.5) * shout) * decay(burst, rate, 0.015, log_uniform(rng, 0.05, 0.22))
    place(out, blow, inhale / rate, rate)
    return out


def cough(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A cough: a rough, breathy voice that falls in pitch and decays fast, through three formants, 0.25 to 0.5 s."""
    samples = samples_of(seconds, rng.uniform(0.25, 0.5), rate)
    tract = rng.uniform(500, 900)
    pitch = log_uniform(rng, 100, 260) * contour(samples, 1.2, 1.0, 0.7)
    peaks = [(tract, 0.35), (tract * 2.2, 0.3), (tract * 4, 0.3)]
    chest = voice(rng, pitch, rate, peaks, 4.0, rng.uniform(0.5, 0.8), 0.1)
    return chest * decay(samples, rate, 0.01, log_uniform(rng, 0.05, 0.12))


def laughter(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Laughter: runs of up to nine voiced syllables that fall in pitch and level, with rests between them."""
    out = np.zeros(round(seconds * rate), dtype=np.float32)
    pitch, tract = log_uniform(rng, 130, 420), rng.uniform(500, 950)
    period, time, step = rng.uniform(0.16, 0.26), rng.uniform(0, 0.3), 0
    while time < seconds - 0.2:
        length = int(period * rng.uniform(0.5, 0.75) * rate)
        curve = pitch * rng.uniform(0.9, 1.1) * (1.3 - 0.05 * step) * contour(length, 1.1, 1.0, 0.85)
        ha = voice(rng, curve, rate, [(tract, 0.3), (tract * 1.9, 0.2), (tract * 3.8, 0.2)], 5.0, 0.3)
        place(out, ha * fade(length, rate, 0.03, 0.06), time, rate, 1 - 0.07 * step)
        ends = step >= 8 or rng.random() < 0.1
        time, step = time + period + (rng.uniform(0.3, 0.8) if ends else 0), 0 if ends else step + 1
    return out


def clapping(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Clapping of 1 to 29 people, each at a beat of their own: noise bursts of 12 ms through two modes."""
    samples = round(seconds * rate)
    people = int(log_uniform(rng, 1, 30))
    times = [beats(rng, seconds, log_uniform(rng, 0.2, 0.45), 0.3) for _ in range(people)]
    train = np.concatenate(times)
    heights = np.concatenate([np.full(len(each), log_uniform(rng, 0.3, 1.0)) for each in times])
    hands = impulses(samples, rate, train, heights * rng.uniform(0.7, 1.0, len(train)))
    burst = np.convolve(hands, noise(rng, int(0.012 * rate), rate, {300: -6, 1500: 0, 7900: -8}))[:samples]
    centre = log_uniform(rng, 800, 2200)
    return resonate(burst, rate, [(centre, 0.003, 1.0), (centre * 1.7, 0.002, 0.6)])


def footsteps(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Footsteps every 0.3 to 0.8 s: heel and toe impulses through three modes, and noise for a soft floor."""
    samples = round(seconds * rate)
    times = beats(rng, seconds, log_uniform(rng, 0.3, 0.8), 0.1)
    out = np.zeros(samples, dtype=np.float32)
    hard, body = rng.random(), log_uniform(rng, 90, 300)
    for time in times:
        length = int(0.25 * rate)
        strike = impulses(length, rate, [0.0, rng.uniform(0.03, 0.09)], [1.0, rng.uniform(0.2, 0.6)])
        knock = resonate(strike, rate, [(body, 0.02, 1.0), (body * 7, 0.006, hard), (body * 14, 0.004, 0.7 * hard)])
        grit = noise(rng, length, rate, {200: -10, 2000: 0, 7900: -10}) * contour(length, 0.6, 0.3, 0.1, 0.0)
        place(out, knock + 0.25 * (1.1 - hard) * grit, time, rate, rng.uniform(0.6, 1.0))
    return out


def whistling(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A whistled tune: a nearly pure tone that glides between four random notes a second, with breath noise."""
    samples = round(seconds * rate)
    notes = log_uniform(rng, 900, 1800) * 2 ** (rng.choice([-5, -3, 0, 2, 4, 5, 7], max(2, int(seconds * 4))) / 12)
    glide = contour(samples, *np.repeat(notes, 8))
    breath = np.clip(drift(rng, samples, rate, 4.0, -0.2, 1.4), 0.0, 1.0)
    tone = harmonics(glide * (1 + 0.01 * drift(rng, samples, rate, 6.0, -1, 1)), rate, [1.0, 0.03])
    return unit(tone + 0.03 * noise(rng, samples, rate, {500: -20, 1500: 0, 6000: -10})) * breath


def snoring(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Snores: a rough voice of 35 to 90 Hz through two formants on each inhale, noise on each exhale."""
    samples = round(seconds * rate)
    t = np.arange(samples, dtype=np.float32) / rate
    breath = np.clip(np.sin(2 * np.pi * (rng.uniform(0.25, 0.5) * t + rng.random())), -0.3, 1)
    pitch = log_uniform(rng, 35, 90) * (1 + 0.1 * drift(rng, samples, rate, 5.0, -1, 1))
    tract = rng.uniform(250, 600)
    snort = voice(rng, pitch, rate, [(tract, 0.3), (tract * 3, 0.3)], 2.0, 0.4, 0.1)
    exhale = noise(rng, samples, rate, {200: -12, 1200: 0, 6000: -15})
    return snort * np.maximum(breath, 0) + 0.3 * exhale * np.maximum(-breath, 0)


PEOPLE = (
    Event(
        "baby_cry",
        baby_cry,
        phrases("a baby | cries | crying", "an infant | cries | crying", "a baby | wails | wailing"),
    ),
    Event(
        "sneeze",
        sneeze,
        phrases("a person | sneezes | sneezing", "someone | sneezes | sneezing"),
        once=1.3,
    ),
    Event("cough", cough, phrases("a person | coughs | coughing", "someone | coughs | coughing"), once=0.5),
    Event(
        "laughter",
        laughter,
        phrases("a person | laughs | laughing", "someone | laughs | laughing", "someone | giggles | giggling"),
    ),
    Event(
        "clapping",
        clapping,
        phrases("people | clap | clapping", "hands | clap | clapping"),
    ),
    Event(
        "footsteps",
        footsteps,
        phrases("footsteps | tap | tapping", "someone | walks | walking", "a person | walks along | walking along"),
    ),
    Event(
        "whistling",
        whistling,
        phrases("someone | whistles | whistling", "a person | whistles a tune | whistling a tune"),
    ),
    Event("snoring", snoring, phrases("a person | snores | snoring", "someone | snores | snoring")),
)
