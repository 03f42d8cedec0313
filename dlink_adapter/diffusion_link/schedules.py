"""The forward process: x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise, with alpha_bar(t) of a noise schedule.

A schedule is a function of the length T that returns alpha_bar(t) for t = 0 ... T as Python floats: a cast or a meta
device can't spoil them, as it could a buffer.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import accumulate, pairwise

from torch import Tensor

MAX_BETA = 0.999  # of one step, so that alpha_bar(T) stays above zero


def cosine(timesteps: int) -> list[float]:
    """The squared cosine of Nichol and Dhariwal, 2021, eq. 17, with their offset .008 and their cap on beta."""

    def level(t: int) -> float:
        return math.cos((t / timesteps + 0.008) / 1.008 * math.pi / 2) ** 2

    return _cumulative(min(1 - level(t + 1) / level(t), MAX_BETA) for t in range(timesteps))


def linear(timesteps: int) -> list[float]:
    """Betas from 1e-4 to .02 (Ho et al., 2020), scaled so that the end is as noisy as theirs for any T."""
    scale = 1000 / timesteps
    span = max(timesteps - 1, 1)
    return _cumulative(min(scale * (1e-4 + (0.02 - 1e-4) * t / span), MAX_BETA) for t in range(timesteps))


def sigmoid(timesteps: int) -> list[float]:
    """Sigmoid of Jabri et al., 2022 (start -3, end 3, tau 1)."""

    def level(t: int) -> float:
        return 1 / (1 + math.exp(6 * t / timesteps - 3))

    first, last = level(0), level(timesteps)
    levels = [(level(t) - last) / (first - last) for t in range(timesteps + 1)]
    return _cumulative(min(1 - after / before, MAX_BETA) for before, after in pairwise(levels))


SCHEDULES: dict[str, Callable[[int], list[float]]] = {"cosine": cosine, "linear": linear, "sigmoid": sigmoid}


def add_noise(x0: Tensor, alpha_bar: Tensor | float, noise: Tensor) -> Tensor:
    """x_t of x_0 (Ho et al., 2020, eq. 4)."""
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise


@lru_cache(maxsize=64)
def alpha_bars(schedule: str, timesteps: int) -> tuple[float, ...]:
    """alpha_bar(t) for t = 0 ... T, from 1 down."""
    return tuple(SCHEDULES[schedule](timesteps))


def timestep_of_cosine(alpha_bar: tuple[float, ...], cosine: float) -> int:
    """The first timestep at which the expected cosine between x_t and x_0 has fallen to `cosine`.

    Coordinates have unit variance on average (`EmbeddingSpace`): for one of that norm the cosine is sqrt(alpha_bar).
    """
    falling = [-math.sqrt(level) for level in alpha_bar]
    return min(bisect_right(falling, -cosine - 1e-12), len(alpha_bar) - 1)


def _cumulative(betas: Iterable[float]) -> list[float]:
    return list(accumulate((1 - beta for beta in betas), lambda left, kept: left * kept, initial=1.0))
