"""Every bridge by its name: Diffusion-Link, the methods beside it, and the parts that any of them can be given.

A new method is a file in its room and a line here. Its module is imported when it is first asked for.
"""

from collections import UserDict
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from dlink_adapter.bridge.base import Bridge
from dlink_adapter.bridge.config import from_known
from dlink_adapter.bridge.hub import CONFIG_FILE, read_config, resolve_folder, settings_in


class _Bridges(UserDict[str, Any]):
    """Names to classes; a class may be given as "module:Class" of this package."""

    def __getitem__(self, name: str) -> type[Bridge]:
        if isinstance(self.data[name], str):
            module, _, attribute = self.data[name].partition(":")
            self.data[name] = getattr(import_module(f"dlink_adapter.{module}"), attribute)
        kind: type[Bridge] = self.data[name]
        return kind


BRIDGES = _Bridges(
    raw="baselines.raw:Raw",
    mean_shift="baselines.mean_shift:MeanShift",
    realign="baselines.realign:ReAlign",
    procrustes="baselines.procrustes:Procrustes",
    pls="baselines.pls:PLS",
    ridge="baselines.ridge:Ridge",
    kernel_ridge="baselines.kernel_ridge:KernelRidge",
    memory="baselines.memory:Memory",
    regression="baselines.regression:Regression",
    diffusion_bridge="baselines.diffusion_bridge:DiffusionBridge",
    diffusion_link="diffusion_link.link:DiffusionLink",
    moment_matched="refine.moment_matched:MomentMatched",
)
LOADABLE = _Bridges(BRIDGES.data, token_bridge="token_bridge:TokenBridge")  # also what is not fitted on pairs


def new_bridge(name: str, dim: int, settings: Mapping[str, Any] | None = None) -> Bridge:
    """An unfitted bridge by name, with these settings of its config. Raises ValueError on one that it does not have."""
    kind = _kind(name, BRIDGES)
    return kind(from_known(kind.config_class, {**(settings or {}), "dim": dim}))


def load_bridge(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    subfolder: str = "",
    **hub: Any,
) -> Bridge:
    """Load a saved bridge of any kind from a folder or from the hub; the arguments are those of `from_pretrained`."""
    folder = resolve_folder(name_or_path, subfolder=subfolder, **hub)
    values = read_config(folder)
    with settings_in(folder / CONFIG_FILE, values.get("version")):
        kind = _kind(values["bridge"], LOADABLE)
    return kind.from_pretrained(folder, device=device, dtype=dtype)


def _kind(name: str, known: _Bridges) -> Any:
    if name not in known:
        raise ValueError(f"unknown bridge {name!r}; known: {', '.join(known)}")
    return known[name]
