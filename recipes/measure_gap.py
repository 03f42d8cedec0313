"""Measure the modality gap that each method leaves, cross-validated, on your own embeddings.

dlink measure-gap --pairs dlink-demo/embeddings/pairs
dlink measure-gap --audio images.npy --text captions.npy --methods "[raw, ridge, diffusion_link]" --folds 3

Every method is fitted on the same part of a fold's training clips, and calibrated on the same rest; what is reported
comes from the test clips alone. A row "ridge, matched" is `ridge` behind `MomentMatched`. The output folder holds
gap.json (`methods.<name>.<metric>.{mean,std}` over the folds), clouds.png, cosines.png, tradeoff.png and the bridges.
A run that was stopped goes on with the next method and fold; a method that is added later is added to the table.
"""

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dlink_adapter import BRIDGES, PairedEmbeddings
from dlink_adapter.baselines.diffusion_bridge import DiffusionBridge
from dlink_adapter.files import write_atomically
from dlink_adapter.integrations.precomputed import read_array
from dlink_adapter.recipes.gap_folds import fold_of, measure_fold
from dlink_adapter.recipes.gap_report import draw, over_folds, table
from dlink_adapter.recipes.methods import has_unet, plain_methods, reduced_note
from dlink_adapter.refine.moment_matched import MomentMatched
from dlink_adapter.stages import Stages


def main(
    *,
    pairs: Path | None = None,
    audio: Path | None = None,
    text: Path | None = None,
    out: Path = Path("dlink-gap"),
    methods: list[str] | None = None,
    matched: bool = True,
    folds: int = 5,
    bridge_steps: int = 1000,
    unet_steps: int = 30,
    seed: int = 0,
) -> None:
    """Fit, measure, tabulate and draw.

    Args:
        pairs: folder of PairedEmbeddings.
        audio: or, with `text`, embeddings (n, dim) in a .npy or .safetensors file; row i of one belongs to row i of the
            other.
        text: see `audio`.
        out: folder for the table, the figures and the bridges.
        methods: some of the known bridges; by default all that can run here.
        matched: measures each method behind `MomentMatched` too.
        folds: parts of the clips, each the test part once.
        bridge_steps: optimiser steps of diffusion_link and of regression.
        unet_steps: those of diffusion_bridge, of 16 captions each and at half the width: a reduced budget.
        seed: of the folds and of the training.
    """
    data, chosen = _read(pairs, audio, text), _chosen(methods)
    if not 2 <= folds <= data.clips // 3:
        raise ValueError(f"folds is {folds}: with {data.clips} clips it must lie in [2, {data.clips // 3}]")
    settings: dict[str, Any] = {"seed": seed, "folds": folds, "bridge_steps": bridge_steps, "unet_steps": unet_steps}
    settings |= {"clips": data.clips, "captions": len(data), "dim": data.dim, "digest": data.digest()}
    stages = Stages(out, len(chosen) * folds, settings)
    found: dict[str, list[Any]] = {}
    for name in chosen:
        for fold in range(folds):
            work = partial(measure_fold, name, data, fold, settings, out)
            for row, part in stages(f"{name}-{fold}", f"{name}, fold {fold + 1} of {folds}", work).items():
                if matched or row == name:
                    found.setdefault(row, []).append(part)
    seconds = {name: sum(stages.seconds[f"{name}-{fold}"] for fold in range(folds)) for name in chosen}
    left_out = [] if methods is not None or has_unet() else [DiffusionBridge.name]
    results = _results(found, left_out, seconds, settings)
    write_atomically(out / "gap.json", json.dumps(results, indent=2))
    print(table(results))
    draw(results, fold_of(data, 0, folds, seed)[1].first_captions(), out)


def _results(
    found: dict[str, list[Any]], left_out: list[str], seconds: dict[str, float], settings: dict[str, Any]
) -> dict[str, Any]:
    """The content of gap.json, given what was measured by row and fold."""
    unet = DiffusionBridge.name
    return {
        "methods": {row: over_folds([part["metrics"] for part in parts]) for row, parts in found.items()},
        "chosen": {row: [part["chosen"] for part in parts] for row, parts in found.items()},
        "notes": {row: reduced_note(settings["unet_steps"]) for row in found if row.startswith(unet)},
        "not_run": {name: 'it needs pip install "dlink-adapter[bench]"' for name in left_out},
        "seconds": seconds,
        "settings": settings,
        "versions": {name: version(name) for name in ("torch", "dlink-adapter")},
    }


def _chosen(methods: list[str] | None) -> list[str]:
    if methods is None:
        return plain_methods()
    known = [name for name in BRIDGES if name != MomentMatched.name]
    if unknown := sorted(set(methods) - set(known)):
        raise ValueError(f"unknown method {', '.join(unknown)}; known: {', '.join(known)}")
    return methods


def _read(pairs: Path | None, audio: Path | None, text: Path | None) -> PairedEmbeddings:
    if (pairs is None) == (audio is None and text is None) or (audio is None) != (text is None):
        raise ValueError("give either --pairs DIR, or both --audio FILE and --text FILE")
    if audio is not None and text is not None:
        return PairedEmbeddings.from_tensors(read_array(audio), read_array(text))
    assert pairs is not None
    return PairedEmbeddings.open(pairs)
