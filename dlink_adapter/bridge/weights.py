"""Weights from a file, or an error that names it."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dlink_adapter.files import check_sha256


def load_weights(module: nn.Module, path: Path, sha256: str | None = None) -> None:
    """Load all of a safetensors file into a module, in the module's dtypes; one on the meta device gets its tensors.

    Raises ValueError, which names file and keys, where it cannot, where the file has another checksum than `sha256`,
    which a config kept of it, and where a parameter has NaN or Inf.
    """
    check_sha256(path, sha256, "the config")
    own = module.state_dict()
    try:
        tensors = {name: _like(tensor, own.get(name)) for name, tensor in load_file(path).items()}
        module.load_state_dict(tensors, assign=any(tensor.is_meta for tensor in own.values()))
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} is damaged, or does not fit the config: {error}") from error
    check_finite(dict(module.named_parameters()), path)


def _like(tensor: Tensor, own: Tensor | None) -> Tensor:
    """A copy in memory: a tensor of a file is mapped, and whoever writes to that file would change it."""
    return tensor.to(tensor.dtype if own is None else own.dtype, copy=True)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise ValueError, which names file and keys, where a tensor has NaN or Inf."""
    if bad := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{path} has NaN or Inf in {', '.join(bad)}: train again, or get a file that is whole")
