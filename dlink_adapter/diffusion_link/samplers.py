"""The reverse process, for a network that predicts x0: plain functions over a ladder of alpha_bar values.

A ladder runs from the depth at which the embedding was noised up to alpha_bar 1.0, which is clean, in Python floats. At
every rung the network reconstructs the text embedding; the sampler makes the state of the next rung from it.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor

from dlink_adapter.bridge.noise import Draws, normal
from dlink_adapter.diffusion_link.schedules import add_noise

Denoise = Callable[[Tensor, float], Tensor]  # (x_t (..., dim), alpha_bar) -> x0 (..., dim)
Sampler = Callable[[Denoise, Tensor, Sequence[float], Draws], Tensor]


def ddim(denoise: Denoise, x: Tensor, ladder: Sequence[float], generator: Draws = None) -> Tensor:
    """Deterministic: keeps the noise it infers, with less of it at each rung (Song et al., 2021, eq. 12, eta 0)."""
    for level, next_level in pairwise(ladder):
        x0 = denoise(x, level)
        noise = (x - math.sqrt(level) * x0) / math.sqrt(1 - level)
        x = add_noise(x0, next_level, noise)
    return x


def ddpm(denoise: Denoise, x: Tensor, ladder: Sequence[float], generator: Draws = None) -> Tensor:
    """Ancestral: draws from the posterior q(x_s | x_t, x0) at each rung (Ho et al., 2020, eq. 7)."""
    for level, next_level in pairwise(ladder):
        x0 = denoise(x, level)
        kept = level / next_level  # alpha of this step
        mean = (math.sqrt(next_level) * (1 - kept) * x0 + math.sqrt(kept) * (1 - next_level) * x) / (1 - level)
        spread = math.sqrt((1 - next_level) / (1 - level) * (1 - kept))
        x = mean + spread * normal(x.shape, x, generator) if spread else mean
    return x


SAMPLERS: dict[str, Sampler] = {"ddim": ddim, "ddpm": ddpm}


def ladder(alpha_bar: Sequence[float], timestep: int, steps: int) -> list[float]:
    """`steps` evenly spaced rungs from `timestep` down to 0, as alpha_bar; fewer where there are fewer timesteps."""
    steps = min(steps, timestep)
    return [alpha_bar[round(timestep * (steps - rung) / steps)] for rung in range(steps + 1)] if steps else [1.0]
