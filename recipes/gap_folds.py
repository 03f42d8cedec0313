"""One fold of `dlink measure-gap`: a method fitted on its training part and measured on its test part."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from dlink_adapter import FitConfig, PairedEmbeddings
from dlink_adapter.bridge.base import Bridge
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.gap import measure
from dlink_adapter.recipes.methods import fit_method, match_moments


def measure_fold(
    name: str, data: PairedEmbeddings, fold: int, settings: dict[str, Any], out: Path
) -> dict[str, dict[str, Any]]:
    """Metrics on the test part by row: the method, and the method behind `MomentMatched`."""
    fitting, test = fold_of(data, fold, settings["folds"], settings["seed"])
    config = FitConfig(steps=settings["bridge_steps"], seed=settings["seed"])
    train, val = fitting.split((1 - config.holdout, config.holdout), seed=config.seed)
    bridge = fit_method(name, train, val, config, settings["unet_steps"], out / "bridges" / str(fold) / name)
    rows = {name: bridge, f"{name}, matched": match_moments(bridge, train, val)}
    return {row: _measured(row, rows[row].eval(), test, out if fold == 0 else None) for row in rows}


def _measured(row: str, bridge: Bridge, test: PairedEmbeddings, out: Path | None) -> dict[str, Any]:
    """The metrics of a row and what its bridge chose; the bridged audio is written to `out` for the figures."""
    bridged = bridge.map_rows(test.audio)
    if out is not None:
        (out / "bridged").mkdir(exist_ok=True)
        write_atomically(out / "bridged" / f"{row}.safetensors", save({"audio": bridged.contiguous()}))
    metrics = measure(bridged, test.text, test.clip, bridged_text=bridge.map_rows(test.text, "text"))
    chosen = {key: value for key, value in bridge.metadata.items() if key != "gap_before_and_after"}
    return {"metrics": metrics, "chosen": chosen}


def fold_of(data: PairedEmbeddings, fold: int, folds: int, seed: int) -> tuple[PairedEmbeddings, PairedEmbeddings]:
    """(train, test): the clips in a random order, every `folds`-th from `fold` on is tested."""
    order = torch.randperm(data.clips, generator=torch.Generator().manual_seed(seed))
    tested = torch.zeros(data.clips, dtype=torch.bool).index_fill(0, order[fold::folds], True)
    return data.select((~tested).nonzero().flatten()), data.select(tested.nonzero().flatten())
