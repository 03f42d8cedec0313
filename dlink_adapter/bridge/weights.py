"""Weights from a file, or an error that names it."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn


def load_weights(module: nn.Module, path: Path) -> None:
    """Load all of a safetensors file into a module. Raises ValueError, which names file and keys, where it cannot."""
    try:
        module.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged, or does not fit the config: {error}") from error
