"""A training's checkpoint: one safetensors file, complete or not there, that says which run it belongs to."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from dlink_adapter.files import remove_unfinished, write_atomically


def save_checkpoint(
    path: Path, run: str, step: int, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Write weights, averaged weights and the optimiser's state after `step` of the run with this identity."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    remove_unfinished(path.parent, path.name)
    write_atomically(path, save(tensors, metadata={"step": str(step), "run": run}))


def load_checkpoint(
    path: Path, run: str, model: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> int:
    """Load what `save_checkpoint` wrote and return the step. Raises ValueError on a checkpoint of another run."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, remove it to start again: {error}") from error
    if metadata["run"] != run:
        raise ValueError(f"{path} is of a run with other settings or pairs: remove it, or choose another folder")
    model.load_state_dict(_under("model.", tensors))
    average.load_state_dict(_under("average.", tensors))
    state: dict[int, dict[str, Any]] = {}
    for key, value in _under("optimizer.", tensors).items():
        index, name = key.split(".")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(metadata["step"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
