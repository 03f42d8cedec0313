"""Struck, ringing and operated objects: knock, glass, clock, church bell, telephone, alarm, hammer, typing, gunshot."""

import numpy as np

from dlink_adapter.soundscapes.events.event import Event, phrases
from dlink_adapter.soundscapes.synthesis import (
    Signal,
    beats,
    decay,
    fade,
    harmonics,
    impulses,
    log_uniform,
    noise,
    place,
    resonate,
    rolloff,
    samples_of,
    unit,
)


def _strike(rng: np.random.Generator, samples: int, rate: int, softness: float) -> Signal:
    """A Hann pulse of random samples, `softness` seconds long, that excites a struck body."""
    contact = max(2, int(softness * rate))
    out = np.zeros(samples, dtype=np.float32)
    out[:contact] = np.hanning(contact + 2)[1:-1][: len(out)] * rng.uniform(0.5, 1.0, contact)[: len(out)]
    return out


def door_knock(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A knock: a contact of 0.5 to 2 ms that excites three modes of wood, 0.22 s."""
    samples = samples_of(seconds, 0.22, rate)
    wood = log_uniform(rng, 130, 420)
    ratios = (1.0, rng.uniform(2, 2.5), rng.uniform(3, 5))
    modes = [(wood * ratio, rng.uniform(0.008, 0.03), 1 / ratio) for ratio in ratios]
    return resonate(_strike(rng, samples, rate, log_uniform(rng, 0.0005, 0.002)), rate, modes)


def glass_clink(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A clink: a contact of 0.2 ms that excites four modes, the lowest at 1.5 to 3.5 kHz, 0.3 to 0.8 s."""
    samples = samples_of(seconds, rng.uniform(0.3, 0.8), rate)
    glass, ring = log_uniform(rng, 1500, 3500), log_uniform(rng, 0.03, 0.2)
    modes = [(glass * ratio, ring / ratio**0.5, rng.uniform(0.3, 1)) for ratio in (1, 1.5, 2.3, 3.1)]
    return resonate(_strike(rng, samples, rate, 0.0002), rate, modes) * fade(samples, rate, 0, 0.02)


def clock_tick(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Ticks every 0.16 to 1 s: three impulses each through five modes, every other tick lower in pitch."""
    samples = round(seconds * rate)
    times = beats(rng, seconds, log_uniform(rng, 0.16, 1.0), 0.01)
    out = np.zeros(samples, dtype=np.float32)
    case, ring = log_uniform(rng, 500, 4500), log_uniform(rng, 0.001, 0.012)
    ratios, tock = rng.uniform(0.4, 3.0, 4), rng.uniform(0.6, 1.0)
    delays, length = np.cumsum(rng.uniform(0.0, 0.018, 3)), int(0.15 * rate)
    for number, time in enumerate(times):
        strike = impulses(length, rate, delays, rng.uniform(0.2, 1.0, 3))
        colour = case * (tock if number % 2 else 1.0)
        tick = resonate(strike, rate, [(colour * ratio, ring / ratio**0.5, 1.0) for ratio in (1.0, *ratios)])
        place(out, tick, time, rate, rng.uniform(0.8, 1.0))
    return out


def church_bell(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A stroke of a bell: a contact that excites eight partials, the higher ones shorter, 2.5 s."""
    samples = samples_of(seconds, 2.5, rate)
    strike, ring = log_uniform(rng, 180, 700), log_uniform(rng, 0.6, 2.0)
    partials = (0.5, 1.0, 1.2, 1.5, 2.0, 2.7, 3.0, 4.1)
    modes = [(strike * p * rng.uniform(0.995, 1.005), ring / p**0.7, rng.uniform(0.3, 1) / p**0.3) for p in partials]
    return resonate(_strike(rng, samples, rate, 0.0006), rate, modes) * fade(samples, rate, 0, 0.1)


def phone_ring(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A ring: four modes struck 12 to 28 times a second, or two pitches that alternate as fast, 0.6 to 1.4 s."""
    samples = samples_of(seconds, rng.uniform(0.6, 1.4), rate)
    t = np.arange(samples, dtype=np.float32) / rate
    warble, pitch = rng.uniform(12, 28), log_uniform(rng, 900, 2400)
    if rng.random() < 0.5:
        hammer = impulses(samples, rate, np.arange(0, samples / rate, 1 / warble))
        modes = [(pitch * ratio, 0.08, 1.0) for ratio in (1.0, 1.32, 2.4, 3.3)]
        return resonate(hammer, rate, modes) * fade(samples, rate, 0, 0.05)
    alternating = np.where(np.sin(2 * np.pi * warble * t) > 0, pitch, pitch * rng.uniform(1.15, 1.4))
    return harmonics(alternating, rate, rolloff(6, rng.uniform(4, 12))) * fade(samples, rate, 0.005, 0.03)


def alarm_beep(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Beeps: a steady tone of five harmonics, switched on and off 1.2 to 5 times a second."""
    samples = round(seconds * rate)
    t = np.arange(samples, dtype=np.float32) / rate
    on = ((t * log_uniform(rng, 1.2, 5.0) + rng.random()) % 1 < rng.uniform(0.3, 0.6)).astype(np.float32)
    return harmonics(np.full(samples, log_uniform(rng, 900, 3400)), rate, rolloff(5, rng.uniform(4, 15))) * on


def hammer(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A blow: a contact that excites one low and three metal modes, with a click of noise, 0.35 s."""
    samples = samples_of(seconds, 0.35, rate)
    metal, ring = log_uniform(rng, 600, 2800), log_uniform(rng, 0.008, 0.06)
    modes = [(metal * ratio, ring, rng.uniform(0.3, 1)) for ratio in (1, rng.uniform(1.4, 1.8), rng.uniform(2.2, 3))]
    blow = resonate(_strike(rng, samples, rate, 0.0003), rate, [(rng.uniform(90, 220), 0.025, 1.0), *modes])
    return blow + 0.2 * noise(rng, samples, rate, {200: -6, 7900: 0}) * decay(samples, rate, 0.001, 0.006)


def typing(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Keystrokes: a press and a weaker release, each a click of noise and one mode, at gamma-distributed intervals."""
    samples = round(seconds * rate)
    times = np.cumsum(rng.gamma(2.0, log_uniform(rng, 0.04, 0.09), int(seconds * 15)))
    presses = impulses(samples, rate, times, rng.uniform(0.3, 1.0, len(times)))
    presses += impulses(samples, rate, times + rng.uniform(0.06, 0.1, len(times)), rng.uniform(0.1, 0.4, len(times)))
    length = int(0.008 * rate)
    click = noise(rng, length, rate, {300: -12, 2500: 0, 7900: -4}) * decay(length, rate, 0, 0.002)
    body = resonate(presses, rate, [(log_uniform(rng, 250, 700), 0.006, 0.6)])
    return np.convolve(presses, click)[:samples].astype(np.float32) + body


def gunshot(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A shot: a noise burst that decays in 20 ms and a duller echo in 80 to 200 ms, 0.4 to 0.8 s."""
    samples = samples_of(seconds, rng.uniform(0.4, 0.8), rate)
    bang = noise(rng, samples, rate, {40: 3, 300: 3, 2000: -4, 7900: rng.uniform(-20, -8)})
    tail = noise(rng, samples, rate, {50: 0, 400: -3, 7900: -30})
    echo = rng.uniform(0.2, 0.6) * unit(tail * decay(samples, rate, 0.01, rng.uniform(0.08, 0.2)))
    return unit(bang * decay(samples, rate, 0, 0.02)) + echo


HOUSEHOLD = (
    Event(
        "door_knock",
        door_knock,
        phrases("someone | knocks on a door | knocking on a door", "a person | knocks on wood | knocking on wood"),
        once=0.22,
    ),
    Event("glass_clink", glass_clink, phrases("glass | clinks | clinking", "a glass | clinks | clinking"), once=0.8),
    Event("clock_tick", clock_tick, phrases("a clock | ticks | ticking", "a clock | ticks away | ticking away")),
    Event(
        "church_bell",
        church_bell,
        phrases("a church bell | tolls | tolling", "a bell | rings | ringing", "a large bell | chimes | chiming"),
        once=2.5,
    ),
    Event(
        "phone_ring",
        phone_ring,
        phrases("a telephone | rings | ringing", "a phone | rings | ringing"),
        once=1.4,
    ),
    Event(
        "alarm_beep",
        alarm_beep,
        phrases("an alarm | beeps | beeping", "a machine | beeps | beeping", "an alarm | sounds | sounding"),
    ),
    Event(
        "hammer",
        hammer,
        phrases("a hammer | strikes | striking", "someone | hammers | hammering", "metal | bangs | banging"),
        once=0.35,
    ),
    Event(
        "typing",
        typing,
        phrases("someone | types on a keyboard | typing on a keyboard", "a keyboard | clicks | clicking"),
    ),
    Event(
        "gunshot",
        gunshot,
        phrases("a gun | fires | firing", "a gunshot | rings out | ringing out"),
        once=0.8,
    ),
)
