"""A batch that several processes share: each holds some of its rows, and makes of them what one process would.

Every process draws for the whole batch and keeps what belongs to its rows; losses that compare rows see all of them.
Where rows come in batches of any make-up, each row can bring a generator of its own instead.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

Draws = Generator | Sequence[Generator] | None  # one for a batch, or one for each of its rows


@dataclass(frozen=True)
class Share:
    """Of `count` processes the one that holds every `count`-th row of a batch, from row `index` on."""

    index: int = 0
    count: int = 1

    def of(self, whole: Tensor, dim: int) -> Tensor:
        """This process's rows, which lie along `dim`."""
        return whole.movedim(dim, 0)[self.index :: self.count].movedim(0, dim)

    def whole(self, rows: Tensor, dim: int) -> Tensor:
        """The rows of all processes in the batch's order. Gradients reach the own ones alone."""
        if self.count == 1:
            return rows
        parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.count)]
        torch.distributed.all_gather(parts, rows.detach().contiguous())
        parts[self.index] = rows
        return torch.stack(parts, dim=dim + 1).flatten(dim, dim + 1)


ALONE = Share()


def normal(shape: Sequence[int], like: Tensor, generator: Draws, share: Share = ALONE) -> Tensor:
    """Normal draws (..., n, dim) in dtype and device of `like`: those of this share's n rows, or of n generators."""
    options: dict[str, Any] = {"dtype": like.dtype, "device": like.device}
    if generator is None or isinstance(generator, Generator):
        if share.count == 1:
            return torch.randn(tuple(shape), generator=generator, **options)
        whole = (*shape[:-2], shape[-2] * share.count, shape[-1])
        return share.of(torch.randn(whole, generator=generator, **options), dim=-2)
    if len(shape) < 2 or len(generator) != shape[-2]:
        raise ValueError(f"{len(generator)} generators for embeddings {tuple(shape)}: give one, or one a row")
    rows = [torch.randn((*shape[:-2], shape[-1]), generator=of_row, **options) for of_row in generator]
    return torch.stack(rows, dim=-2) if rows else like.new_empty(tuple(shape))


class SharedDropout(nn.Dropout):
    """Dropout of rows (..., n, width) with the mask that they have in the whole batch."""

    share = ALONE

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.share.count == 1:
            return super().forward(x)
        whole = x.new_empty((*x.shape[:-2], x.shape[-2] * self.share.count, x.shape[-1]))
        return x * self.share.of(whole.bernoulli_(1 - self.p).div_(1 - self.p), dim=-2)


def process_state() -> Any:
    """accelerate's `PartialState`, told what it does not see: `accelerate launch --cpu`, and torchrun on CPUs."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    launched_on_cpus = "WORLD_SIZE" in os.environ and not torch.cuda.is_available()
    return PartialState(cpu=launched_on_cpus or bool(parse_flag_from_env("ACCELERATE_USE_CPU")))
