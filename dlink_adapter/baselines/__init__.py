"""Every bridge by name: Diffusion-Link and the methods it has to beat. A new one is a file and a line here."""

from pathlib import Path

from dlink_adapter.baselines.diffusion_bridge import DiffusionBridge
from dlink_adapter.baselines.identity import Identity
from dlink_adapter.baselines.kernel_ridge import KernelRidge
from dlink_adapter.baselines.mean_shift import MeanShift
from dlink_adapter.baselines.memory import Memory
from dlink_adapter.baselines.pls import PLS
from dlink_adapter.baselines.procrustes import Procrustes
from dlink_adapter.baselines.realign import ReAlign
from dlink_adapter.baselines.regression import Regression
from dlink_adapter.baselines.ridge import Ridge
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.diffusion_link.link.base import PretrainedBridge, read_config, resolve_folder

BRIDGES: dict[str, type[PretrainedBridge]] = {
    bridge.name: bridge
    for bridge in (
        *(Identity, MeanShift, ReAlign, Procrustes, PLS, Ridge, KernelRidge, Memory),
        *(Regression, DiffusionBridge, DiffusionLink),
    )
}


def load_bridge(name_or_path: str | Path, *, revision: str | None = None, token: str | None = None) -> PretrainedBridge:
    """Load a saved bridge of any kind from a folder or from the hub. Raises as `from_pretrained` does."""
    folder = resolve_folder(name_or_path, revision=revision, token=token)
    kind = read_config(folder)["bridge"]
    if kind not in BRIDGES:
        raise ValueError(f"{name_or_path} holds a bridge of unknown kind {kind!r}; known: {', '.join(BRIDGES)}")
    return BRIDGES[kind].from_pretrained(folder)
