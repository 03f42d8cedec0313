"""Weather, water and fire: rain, thunder, sea waves, wind, crackling fire, dripping and running water."""

import numpy as np
from scipy import signal

from dlink_adapter.soundscapes.events.event import Event, phrases
from dlink_adapter.soundscapes.synthesis import (
    Signal,
    colour,
    contour,
    decay,
    drift,
    equalize,
    log_uniform,
    noise,
    place,
    resonate,
    samples_of,
    scatter,
    unit,
)


def rain(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Rain: noise that drifts in level, and drops as 8 to 800 random impulses a second through two short modes."""
    samples = round(seconds * rate)
    # The spectra range from rain on open ground (bright) to rain on a roof or a window pane (dull).
    rumble, low, middle, high = rng.uniform([-8, -12, -9, -20], [18, 9, 9, 6])
    hiss = noise(rng, samples, rate, {40: rumble, 150: low, 600: middle, 2500: 0, 7900: high})
    drops = scatter(rng, samples, rate, log_uniform(rng, 8, 800), rng.uniform(0.7, 1.3))
    splash = log_uniform(rng, 300, 5000)
    modes = [(splash * ratio, log_uniform(rng, 0.0001, 0.001), 1.0) for ratio in (1.0, rng.uniform(1.5, 3.0))]
    patter = equalize(resonate(drops, rate, modes), rate, colour(rng, 3.0))
    return unit(hiss) * drift(rng, samples, rate, 1.0, 0.8, 1.0) + log_uniform(rng, 0.1, 2.0) * unit(patter)


def thunder(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Thunder: noise below 80 to 250 Hz with a rolling, decaying level, and a brighter crack, 1.5 to 3 s."""
    samples = samples_of(seconds, rng.uniform(1.5, 3.0), rate)
    crack = 0.6 * rng.random() ** 2
    rumble = noise(rng, samples, rate, {25: 0, log_uniform(rng, 80, 250): 0, 1000: -30, 7900: -60})
    rolling = drift(rng, samples, rate, 7.0, 0.1, 1.0)
    rolling *= decay(samples, rate, rng.uniform(0.01, 0.4), 0.25 * samples / rate)
    snap = noise(rng, samples, rate, {60: 0, 500: -3, 2000: -15, 7900: -30})
    return rumble * rolling + crack * snap * decay(samples, rate, 0.005, rng.uniform(0.05, 0.2))


def sea_waves(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Waves: deep noise and brighter foam noise over a floor, both with one slow swell that splashes break up."""
    samples = round(seconds * rate)
    swell = drift(rng, samples, rate, log_uniform(rng, 0.25, 1.2), 0.0, 1.0)
    swell = (swell - swell.min()) / np.ptp(swell)
    swell *= drift(rng, samples, rate, log_uniform(rng, 3, 15), rng.uniform(0.1, 1.0), 1.0)
    deep = noise(rng, samples, rate, {40: -3, 150: 0, 600: -5, 2500: -16, 7900: -28})
    foam = noise(rng, samples, rate, {100: -15, 500: -3, rng.uniform(800, 3000): 0, 7900: rng.uniform(-22, -3)})
    foam = equalize(foam, rate, colour(rng, 2.0))
    floor = log_uniform(rng, 0.05, 1.0)  # of a calm sea the swell is hardly heard
    return deep * (floor + swell) + rng.uniform(0.3, 2) * foam * (0.4 * floor + swell ** rng.uniform(1, 3))


def wind(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Wind: two bands of noise; the lower follows random gusts, the higher follows their square."""
    samples = round(seconds * rate)
    gusts = drift(rng, samples, rate, rng.uniform(0.5, 2.5), 0.0, 1.0)
    gusts = 0.1 + 0.9 * (gusts - gusts.min()) / np.ptp(gusts)
    centre, sharp = log_uniform(rng, 150, 700), rng.uniform(10, 30)
    low = noise(rng, samples, rate, {30: -10, centre: 0, centre * 3: -sharp, 7900: -sharp - 30})
    high = noise(rng, samples, rate, {30: -30, centre: -sharp, centre * 1.8: 0, centre * 4: -sharp, 7900: -50})
    return gusts * low + rng.uniform(0, 1.0) * gusts**2 * high


def fire_crackling(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """A fire: random impulses through two short modes, noise bursts as pops, and low noise."""
    samples = round(seconds * rate)
    crackle = scatter(rng, samples, rate, log_uniform(rng, 8, 250), rng.uniform(0.7, 1.4))
    bright = log_uniform(rng, 1500, 6000)
    sparks = resonate(crackle, rate, [(bright, log_uniform(rng, 0.0001, 0.0008), 1.0), (bright / 3, 0.0005, 0.7)])
    # A log pops with a longer burst of noise.
    burst = int(0.08 * rate)
    pop = noise(rng, burst, rate, {100: -12, bright: 0, 7900: -3})
    pop *= decay(burst, rate, 0.0, log_uniform(rng, 0.002, 0.02))
    pops = signal.oaconvolve(scatter(rng, samples, rate, log_uniform(rng, 0.3, 8), 0.8), pop)[:samples]
    edge, draught = log_uniform(rng, 80, 250), rng.uniform(-35, -15)
    roar = noise(rng, samples, rate, {30: 0, edge: 0, 500: -20, 3000: draught, 7900: draught - 4})
    roar *= drift(rng, samples, rate, 6.0, 0.5, 1.0)
    return unit(sparks) + rng.uniform(0, 0.8) * unit(pops) + log_uniform(rng, 0.03, 2.0) * roar


def water_drip(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Drips every 0.25 to 1 s: sines that rise in pitch and decay within 10 to 30 ms."""
    out = np.zeros(round(seconds * rate), dtype=np.float32)
    pitch, time, period = log_uniform(rng, 500, 1800), rng.uniform(0, 0.5), log_uniform(rng, 0.25, 1.0)
    while time < seconds:
        length = int(0.15 * rate)
        rise = pitch * rng.uniform(0.85, 1.2) * contour(length, 1.0, rng.uniform(1.2, 1.8))
        plop = np.sin(2 * np.pi * np.cumsum(rise) / rate) * decay(length, rate, 0.002, rng.uniform(0.01, 0.03))
        place(out, plop.astype(np.float32), time, rate, rng.uniform(0.5, 1.0))
        time += period * rng.uniform(0.7, 1.3)
    return out


def running_water(rng: np.random.Generator, seconds: float, rate: int) -> Signal:
    """Running water: 150 to 500 random impulses a second through five modes, and noise."""
    samples = round(seconds * rate)
    bubbles = scatter(rng, samples, rate, log_uniform(rng, 150, 500), 0.8)
    pitches = np.exp(rng.uniform(np.log(350), np.log(2500), 5))
    gurgle = resonate(bubbles, rate, [(hz, rng.uniform(0.004, 0.012), 1.0) for hz in pitches])
    stream = noise(rng, samples, rate, {150: -20, 900: -5, 3000: 0, 7900: -8})
    return unit(gurgle) + rng.uniform(0.1, 0.7) * stream


WEATHER = (
    Event(
        "rain",
        rain,
        phrases("rain | falls | falling", "rain | pours down | pouring down", "rain | patters | pattering"),
        loud=("heavily", "hard"),
        soft=("lightly", "gently"),
    ),
    Event(
        "thunder",
        thunder,
        phrases("thunder | rumbles | rumbling", "thunder | rolls | rolling", "thunder | booms | booming"),
        once=3.0,
    ),
    Event(
        "sea_waves",
        sea_waves,
        phrases(
            "waves | crash on the shore | crashing on the shore",
            "ocean waves | roll in | rolling in",
            "the sea | washes onto the beach | washing onto the beach",
        ),
    ),
    Event(
        "wind",
        wind,
        phrases("the wind | blows | blowing", "wind | howls | howling", "wind | blows | blowing"),
        loud=("strongly", "hard"),
        soft=("gently", "softly"),
    ),
    Event(
        "fire_crackling",
        fire_crackling,
        phrases("a fire | crackles | crackling", "flames | crackle | crackling", "a campfire | burns | burning"),
    ),
    Event(
        "water_drip",
        water_drip,
        phrases("water | drips | dripping", "drops of water | fall | falling"),
    ),
    Event(
        "running_water",
        running_water,
        phrases("water | runs | running", "water | trickles | trickling", "a stream | flows | flowing"),
    ),
)
