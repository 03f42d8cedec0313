"""Every bridge by its name: Diffusion-Link, the methods beside it, and the parts that any of them can be given.

A new method is a file in its room and a line here. Its module is imported when it is first asked for.
"""

from collections import UserDict
from importlib import import_module
from pathlib import Path
from typing import Any

from dlink_adapter.bridge.base import PretrainedBridge as Bridge
from dlink_adapter.bridge.base import read_config, resolve_folder


class _Bridges(UserDict[str, Any]):
    """Names to classes; a class may be given as "module:Class" of this package."""

    def __getitem__(self, name: str) -> type[Bridge]:
        if name not in self.data:
            raise ValueError(f"unknown bridge {name!r}; known: {', '.join(self)}")
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
)


def load_bridge(name_or_path: str | Path, *, revision: str | None = None, token: str | None = None) -> Bridge:
    """Load a saved bridge of any kind from a folder or from the hub. Raises as `from_pretrained` does."""
    folder = resolve_folder(name_or_path, revision=revision, token=token)
    return BRIDGES[read_config(folder)["bridge"]].from_pretrained(folder)
