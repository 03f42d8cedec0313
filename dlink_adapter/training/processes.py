"""Data parallelism: several processes share the rows of a batch, and the losses are those of one process.

Every process draws the noise of the whole batch from the same generator and computes the loss of the whole batch, but
sends only its own rows through the network; the rows of the others are gathered here. So losses that compare rows see
all of them, and are written as on one device. What differs from one process is dropout.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def process_state() -> Any:
    """accelerate's `PartialState`, told what it does not see: `accelerate launch --cpu`, and torchrun on CPUs."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    launched_on_cpus = "WORLD_SIZE" in os.environ and not torch.cuda.is_available()
    return PartialState(cpu=launched_on_cpus or bool(parse_flag_from_env("ACCELERATE_USE_CPU")))


@contextmanager
def precision_kept() -> Iterator[None]:
    """Afterwards, undo the mixed precision that accelerate fixes for the whole process, unless it was fixed before."""
    from accelerate.state import AcceleratorState

    untouched = not AcceleratorState._shared_state
    try:
        yield
    finally:
        if untouched:
            AcceleratorState._reset_state()


@contextmanager
def rows_shared(network: nn.Module, index: int, count: int) -> Iterator[None]:
    """Within this context, process `index` of `count` sends only every `count`-th row of a batch through the network.

    Rows are counted along the first axis of all inputs, whose number `count` must divide. The output has the rows of
    all processes; gradients reach the own ones, so the gradient of one process is the sum over all.
    """

    def own_rows(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(rows[index::count] for rows in inputs)

    def all_rows(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
        parts = [torch.empty_like(output, memory_format=torch.contiguous_format) for _ in range(count)]
        torch.distributed.all_gather(parts, output.detach().contiguous())
        parts[index] = output
        return torch.stack(parts, dim=1).flatten(0, 1)

    hooks = [network.register_forward_pre_hook(own_rows), network.register_forward_hook(all_rows)] if count > 1 else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
