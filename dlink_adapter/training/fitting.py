"""Fits a bridge of any kind on pairs, and notes which encoder they are of and what the bridge leaves of the gap."""

from pathlib import Path

from dlink_adapter.bridge.base import PretrainedBridge
from dlink_adapter.bridge.noise import process_state
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.training.fit import FitConfig, fit, gap_left


def fit_bridge(
    bridge: PretrainedBridge,
    pairs: PairedEmbeddings,
    *,
    val: PairedEmbeddings | None = None,
    config: FitConfig | None = None,
    out: str | Path,
    progress: bool = True,
) -> None:
    """Fit any of `BRIDGES` in place and save it: by `fit` where it is trained, else by its own formula on all pairs.

    Args:
        bridge: what is fitted.
        pairs: what it is fitted on.
        val: pairs to measure the gap on, and to calibrate on; without them a share of the clips is held out, and what
            has a closed form is fitted again on all of them afterwards.
        config: settings of `fit`; its `holdout` and `seed` hold for every kind.
        out: folder for the bridge; a `fit` that was killed goes on from there.
        progress: shows a bar when on a terminal.
    """
    if isinstance(bridge, DiffusionLink):
        fit(bridge, pairs, val=val, config=config, out=out, progress=progress)
        return
    config = config or FitConfig()
    train, held_out = pairs, val
    if held_out is None:
        train, held_out = pairs.split((1 - config.holdout, config.holdout), seed=config.seed)
    bridge.fit(*train.tensors())
    bridge.metadata["gap_before_and_after"] = gap_left(bridge, held_out)
    bridge.metadata["fingerprint"] = pairs.metadata.get("fingerprint")
    if train is not pairs:
        bridge.fit(*pairs.tensors())
    if process_state().is_main_process:
        bridge.save_pretrained(out)
