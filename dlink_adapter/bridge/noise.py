"""Normal draws from one generator, or from one for each row, and the noise of a bridge in eval mode."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

Draws = Generator | Sequence[Generator] | None  # one for a batch, or one for each of its rows


def normal(shape: Sequence[int], like: Tensor, generator: Draws = None) -> Tensor:
    """Normal draws (..., n, dim) in the dtype and on the device of `like`.

    With a generator for each of the n rows, a row's noise does not depend on the rows beside it. Raises ValueError
    where there is another number of generators than of rows.
    """
    if generator is None or isinstance(generator, Generator):
        return torch.randn(tuple(shape), generator=generator, dtype=like.dtype, device=like.device)
    if len(shape) < 2 or len(generator) != shape[-2]:
        raise ValueError(f"{len(generator)} generators for embeddings {tuple(shape)}: give one, or one a row")
    rows = [normal((*shape[:-2], shape[-1]), like, of_row) for of_row in generator]
    return torch.stack(rows, dim=-2) if rows else like.new_empty(tuple(shape))


def mirrored_noise(samples: int, dim: int) -> Tensor:
    """(samples, dim) draws z, -z, z', -z', ... that are always the same; the mean of an even number is zero."""
    half = torch.randn((samples + 1) // 2, dim, generator=Generator().manual_seed(0))
    return torch.stack([half, -half], dim=1).flatten(0, 1)[:samples].clone()
