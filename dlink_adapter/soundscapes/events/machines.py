"""Engines and vehicles: siren, car horn, idling engine, helicopter, chainsaw, train, motorcycle, airplane, vacuum."""

import numpy as np

from dlink_adapter.soundscapes.events.event import Event, phrases
from dlink_adapter.soundscapes.synthesis import (
    Signal,
    colour,
    contour,
    drift,
    equalize,
    fade,
    harmonics,
    impulses,
    log_uniform,
    noise,
    resonate,
    rolloff,
    samples_of,
    unit,
)


def siren(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A siren: 12 harmonics whose pitch moves between two values as a sine, a triangle or a square wave."""
    samples = round(seconds * rate)
    cycle = np.arange(samples) / rate * log_uniform(rng, 0.2, 4.0) + rng.random()
    low = log_uniform(rng, 400, 750)
    high = low * rng.uniform(1.3, 2.2)
    shape = rng.integers(3)
    if shape == 0:
        sweep = 0.5 - 0.5 * np.cos(2 * np.pi * cycle)
    elif shape == 1:
        sweep = 1 - np.abs(1 - 2 * (cycle % 1))
    else:
        sweep = ((cycle * 0.4) % 1 < 0.5).astype(float)
    return harmonics(low + (high - low) * sweep, rate, rolloff(12, rng.uniform(3, 12)))


def car_horn(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A honk: two tones of 20 harmonics, about a third apart, equalized, 0.2 to 1 s."""
    samples = samples_of(seconds, log_uniform(rng, 0.2, 1.0), rate)
    pitch, tilt = log_uniform(rng, 280, 480), rng.uniform(0, 4)
    tones = [harmonics(np.full(samples, hz), rate, rolloff(20, tilt)) for hz in (pitch, pitch * rng.uniform(1.18, 1.3))]
    honk = equalize(tones[0] + rng.uniform(0.3, 1) * tones[1], rate, {200: -15, 600: -3, 2000: 0, 7900: -20})
    return honk * fade(samples, rate, 0.02, 0.05)


def _motor(rng: np.random.Generator, pitch: Signal, rate: int, cylinders: int, tilt: float) -> Signal:
    """Firing pulses at `pitch` Hz; the cylinders differ, which gives the sound energy below the firing rate."""
    amplitudes = rolloff(100 * cylinders, tilt) * rng.uniform(0.1, 0.4, 100 * cylinders)
    amplitudes[cylinders - 1 :: cylinders] *= 5
    phases = rng.uniform(0, 2 * np.pi, len(amplitudes)) * 0.6
    return unit(harmonics(pitch / cylinders, rate, amplitudes, phases))


def engine_idling(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """An idling engine: firing pulses at 22 to 60 Hz, low-passed, and noise modulated at half that rate."""
    samples = round(seconds * rate)
    pitch = log_uniform(rng, 22, 60) * drift(rng, samples, rate, 3.0, 0.97, 1.03)
    motor = _motor(rng, pitch, rate, int(rng.choice([2, 4])), rng.uniform(2, 5))
    chug = 1 + rng.uniform(0, 0.6) * harmonics(pitch / 2, rate, [1.0])
    rattle = noise(rng, samples, rate, {60: 0, 400: -6, 2000: rng.uniform(-24, -8), 7900: -40})
    engine = equalize(motor, rate, {30: -6, 80: 0, 300: -6, 1500: rng.uniform(-24, -10), 7900: -45})
    return unit(engine) + log_uniform(rng, 0.05, 0.3) * rattle * chug


def motorcycle(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A motorcycle: firing pulses of two cylinders that drift in rate, louder at high rates, and faint noise."""
    samples = round(seconds * rate)
    revs = drift(rng, samples, rate, rng.uniform(0.6, 1.5), 1.0, rng.uniform(2.0, 3.5))
    motor = _motor(rng, log_uniform(rng, 60, 110) * revs, rate, 2, rng.uniform(1, 4))
    exhaust = equalize(motor, rate, {40: -10, 150: 0, 800: -4, 3000: -16, 7900: -36})
    return exhaust * (0.4 + 0.6 * revs / revs.max()) + 0.1 * noise(rng, samples, rate, {100: 0, 7900: -20})


def helicopter(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A helicopter: noise chopped by the blades at 9 to 28 Hz, their thump, a turbine whine and gearbox tones."""
    samples = round(seconds * rate)
    blade = log_uniform(rng, 9, 28) * drift(rng, samples, rate, 0.5, 0.98, 1.02)
    pulse = unit(harmonics(blade, rate, rolloff(6, rng.uniform(2, 9))))
    chop = np.clip(1 + log_uniform(rng, 0.1, 0.8) * pulse, 0.02, None)
    edge = log_uniform(rng, 100, 400)
    slope = {30: rng.uniform(3, 15), edge: 0, edge * 3: rng.uniform(-12, -4), 8000: rng.uniform(-42, -20)}
    wash = equalize(noise(rng, samples, rate, slope), rate, colour(rng, 4.0))
    thump = equalize(harmonics(blade, rate, rolloff(40, 1)), rate, {20: -12, 60: 0, 200: -3, 600: -18, 7900: -50})
    turbine = log_uniform(rng, 400, 5000) * contour(samples, rng.uniform(0.97, 1.03), 1.0)
    whine = harmonics(turbine, rate, [1.0, 0.3])
    gearbox = harmonics(blade * rng.integers(4, 12), rate, rolloff(12, 4) * rng.uniform(0.2, 1.0, 12))
    tones = log_uniform(rng, 0.01, 0.3) * whine + log_uniform(rng, 0.03, 1.0) * unit(gearbox)
    passing = contour(samples, *log_uniform(rng, 0.25, 1.0) ** rng.uniform(0, 1, 4))
    return passing * (wash * chop + rng.uniform(0.2, 1.2) * unit(thump) + tones)


def chainsaw(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A chainsaw: firing pulses at a rate set by a random throttle, and noise, both louder with it."""
    samples = round(seconds * rate)
    throttle = np.clip(drift(rng, samples, rate, log_uniform(rng, 0.3, 3.0), -0.7, 1.5) + rng.uniform(-0.3, 0.3), 0, 1)
    idle, full = log_uniform(rng, 40, 80), log_uniform(rng, 90, 260)
    pitch = (idle + (full - idle) * throttle) * drift(rng, samples, rate, 12.0, 0.97, 1.03)
    motor = _motor(rng, pitch, rate, int(rng.choice([1, 1, 2])), rng.uniform(-1, 4))
    peak = log_uniform(rng, 300, 3000)
    saw = equalize(motor, rate, {50: rng.uniform(-14, 3), 200: rng.uniform(-6, 3), peak: 0, 7900: rng.uniform(-25, -5)})
    saw = equalize(saw, rate, colour(rng, 4.0))
    chain = noise(rng, samples, rate, {200: -20, peak: 0, 7900: rng.uniform(-15, 0)})
    rough = drift(rng, samples, rate, log_uniform(rng, 10, 60), rng.uniform(0.1, 0.8), 1.0)
    return rough * (log_uniform(rng, 0.1, 0.5) + 0.75 * throttle) * (unit(saw) + log_uniform(rng, 0.2, 1.5) * chain)


def train(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A train: pairs of impulses every 0.45 to 1.1 s through two modes, over low-passed noise."""
    samples = round(seconds * rate)
    period = log_uniform(rng, 0.45, 1.1)
    starts = np.arange(rng.uniform(0, period), seconds, period)
    pair = (starts[:, None] + np.array([0.0, rng.uniform(0.1, 0.22)]) * period).ravel()
    clack = impulses(samples, rate, pair, rng.uniform(0.6, 1.0, len(pair)))
    wheels = resonate(clack, rate, [(rng.uniform(90, 250), 0.03, 1.0), (rng.uniform(500, 1400), 0.012, 0.6)])
    rumble = noise(rng, samples, rate, {30: -3, 100: 0, 600: -12, 3000: -24, 7900: -40})
    return unit(wheels) + rng.uniform(0.3, 0.9) * rumble * drift(rng, samples, rate, 3.0, 0.7, 1.0)


def airplane(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """An airplane: low-passed noise and a whine that falls in pitch, at a slowly varying level."""
    samples = round(seconds * rate)
    passing = contour(samples, *rng.uniform(0.2, 1.0, 3))
    roar = noise(rng, samples, rate, {30: -3, 150: 0, 800: -5, 3000: rng.uniform(-20, -8), 7900: -40})
    whine = harmonics(log_uniform(rng, 700, 1800) * contour(samples, 1.05, 1.0, 0.93), rate, [1.0, 0.3, 0.2])
    return passing * (roar + log_uniform(rng, 0.05, 0.4) * whine)


def vacuum_cleaner(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A vacuum cleaner: 20 harmonics of a motor at 180 to 420 Hz and broadband noise."""
    samples = round(seconds * rate)
    pitch = log_uniform(rng, 180, 420) * drift(rng, samples, rate, 0.8, 0.97, 1.03)
    motor = harmonics(pitch, rate, rolloff(20, 2) * rng.uniform(0.1, 1.0, 20))
    suction = noise(rng, samples, rate, {100: -14, 500: -2, 1500: 0, 7900: -10})
    return unit(motor) + rng.uniform(0.7, 1.5) * suction


MACHINES = (
    Event(
        "siren",
        siren,
        phrases("a siren | wails | wailing", "an emergency siren | blares | blaring", "a siren | sounds | sounding"),
    ),
    Event(
        "car_horn",
        car_horn,
        phrases("a car horn | honks | honking", "a horn | beeps | beeping", "a car | honks | honking"),
        once=1.0,
    ),
    Event(
        "engine_idling",
        engine_idling,
        phrases("an engine | idles | idling", "a motor | hums | humming", "a truck engine | rumbles | rumbling"),
    ),
    Event(
        "motorcycle",
        motorcycle,
        phrases("a motorcycle | revs | revving", "a motorcycle engine | revs up | revving up"),
    ),
    Event(
        "helicopter",
        helicopter,
        phrases(
            "a helicopter | flies overhead | flying overhead",
            "a helicopter | hovers | hovering",
            "helicopter blades | whir | whirring",
        ),
    ),
    Event(
        "chainsaw",
        chainsaw,
        phrases("a chainsaw | buzzes | buzzing", "a chainsaw | cuts wood | cutting wood", "a saw | whines | whining"),
    ),
    Event(
        "train",
        train,
        phrases(
            "a train | passes by | passing by",
            "a train | clatters along the tracks | clattering along the tracks",
            "a train | rolls down the tracks | rolling down the tracks",
        ),
    ),
    Event(
        "airplane",
        airplane,
        phrases("an airplane | flies by | flying by", "a jet | roars past | roaring past"),
    ),
    Event(
        "vacuum_cleaner",
        vacuum_cleaner,
        phrases("a vacuum cleaner | runs | running", "a vacuum | hums | humming"),
    ),
)
