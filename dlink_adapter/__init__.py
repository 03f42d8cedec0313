"""A diffusion bridge between a frozen encoder and an LLM's projector (Diffusion-Link, arXiv 2510.11330)."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a source checkout `integrations` and `recipes` stand beside this package and not in it, as they do in the wheel:
# look for sub-packages in the repository root too, so that both behave the same.
_root = Path(__file__).resolve().parent.parent
if all((_root / name).exists() for name in ("integrations", "recipes", "pyproject.toml")):
    __path__.append(str(_root))

if TYPE_CHECKING:
    from dlink_adapter.attachment.attach import attach, bridge_state_dict, detach, disabled, mark_only_bridge_trainable
    from dlink_adapter.data.embeddings import PairedEmbeddings
    from dlink_adapter.diffusion_link.config import BridgeConfig
    from dlink_adapter.diffusion_link.link import DiffusionLink
    from dlink_adapter.registry import BRIDGES, load_bridge
    from dlink_adapter.training.fit import FitConfig, fit

# The public names are imported when they are first used, so that `dlink --help` need not wait for torch.
_HOME = {
    "BRIDGES": "registry",
    "BridgeConfig": "diffusion_link.config",
    "DiffusionLink": "diffusion_link.link",
    "FitConfig": "training.fit",
    "PairedEmbeddings": "data.embeddings",
    "attach": "attachment.attach",
    "bridge_state_dict": "attachment.attach",
    "detach": "attachment.attach",
    "disabled": "attachment.attach",
    "fit": "training.fit",
    "load_bridge": "registry",
    "mark_only_bridge_trainable": "attachment.attach",
}
__all__ = [
    "BRIDGES", "BridgeConfig", "DiffusionLink", "FitConfig", "PairedEmbeddings", "__version__", "attach",
    "bridge_state_dict", "detach", "disabled", "fit", "load_bridge", "mark_only_bridge_trainable",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
