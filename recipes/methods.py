"""The methods that a study compares: which can run here, and each fitted at its budget."""

from dataclasses import replace
from pathlib import Path

from dlink_adapter import BRIDGES, FitConfig, PairedEmbeddings
from dlink_adapter.baselines.diffusion_bridge import DiffusionBridge, import_unet
from dlink_adapter.bridge.base import Bridge
from dlink_adapter.refine.moment_matched import MomentMatched
from dlink_adapter.registry import new_bridge

# Of diffusion_bridge: on a CPU the published width costs four times as much.
UNET, UNET_BATCH = {"width": 16}, 16


def plain_methods() -> list[str]:
    """Every method that can run here, but for the part that any of them can be given."""
    return [name for name in BRIDGES if name != MomentMatched.name and (name != DiffusionBridge.name or has_unet())]


def has_unet() -> bool:
    """Whether the extra `bench`, with the U-Net of diffusion_bridge, is installed."""
    try:
        return import_unet() is not None
    except ImportError:
        return False


def fit_method(
    name: str, train: PairedEmbeddings, val: PairedEmbeddings, config: FitConfig, unet_steps: int, out: Path
) -> Bridge:
    """A fitted bridge; diffusion_bridge at a reduced budget."""
    bridge = new_bridge(name, train.dim, UNET if name == DiffusionBridge.name else None)
    if name == DiffusionBridge.name:
        config = replace(config, steps=unet_steps, batch_size=UNET_BATCH)
    bridge.fit(train, val=val, config=config, out=out)
    return bridge


def match_moments(bridge: Bridge, train: PairedEmbeddings, val: PairedEmbeddings) -> MomentMatched:
    """A fitted bridge behind `MomentMatched`."""
    matched = MomentMatched.of(bridge)
    matched.find_moments(train, val)
    return matched.eval()


def reduced_note(steps: int) -> str:
    """What the figures of diffusion_bridge rest on."""
    return f"reduced: {steps} training steps of {UNET_BATCH} captions, U-Net of width {UNET['width']}"
