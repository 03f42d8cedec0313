"""Measure the modality gap that each method leaves, cross-validated, on your own embeddings.

dlink measure-gap --pairs dlink-demo/embeddings/pairs
dlink measure-gap --audio images.npy --text captions.npy --methods "[raw, ridge, diffusion_link]" --folds 3

Every method is fitted on the same pairs of a fold's training part and chooses its settings inside it, by leaving clips
out or on a share that it holds out; what is reported comes from the test part alone. The output folder holds gap.json
(`methods.<name>.<metric>.{mean,std}` over the folds), clouds.png, cosines.png and tradeoff.png. A run that was stopped
goes on with the next method and fold; a method that is added later is added to the table.
"""

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from dlink_adapter import BRIDGES, DiffusionLink, FitConfig, PairedEmbeddings, fit
from dlink_adapter.baselines.diffusion_bridge import DiffusionBridge, import_unet
from dlink_adapter.bridge.base import PretrainedBridge
from dlink_adapter.files import write_atomically
from dlink_adapter.integrations.precomputed import read_array
from dlink_adapter.measure.gap import measure
from dlink_adapter.recipes.gap_report import draw, over_folds, table
from dlink_adapter.stages import Stages

UNET = {"width": 16, "batch_size": 16}  # of diffusion_bridge: on a CPU the published width costs four times as much


def main(
    *,
    pairs: Path | None = None,
    audio: Path | None = None,
    text: Path | None = None,
    out: Path = Path("dlink-gap"),
    methods: list[str] | None = None,
    folds: int = 5,
    bridge_steps: int = 400,
    unet_steps: int = 30,
    seed: int = 0,
) -> None:
    """Fit, measure, tabulate and draw.

    Args:
        pairs: folder of PairedEmbeddings.
        audio: or, with `text`, embeddings (n, dim) in a .npy or .safetensors file; row i of one belongs to row i of the
            other.
        text: see `audio`.
        out: folder for the table and the figures.
        methods: some of the known bridges; by default all that can run here.
        folds: parts of the clips, each the test part once.
        bridge_steps: optimiser steps of diffusion_link and of regression.
        unet_steps: those of diffusion_bridge, of 16 captions each and at half the width: a reduced budget.
        seed: of the folds and of the training.
    """
    data = _read(pairs, audio, text)
    chosen = methods or [name for name in BRIDGES if name != DiffusionBridge.name or _has_unet()]
    if unknown := sorted(set(chosen) - set(BRIDGES)):
        raise ValueError(f"unknown method {', '.join(unknown)}; known: {', '.join(BRIDGES)}")
    if not 2 <= folds <= data.clips // 3:
        raise ValueError(f"folds is {folds}: with {data.clips} clips it must lie in [2, {data.clips // 3}]")
    settings = {"seed": seed, "folds": folds, "bridge_steps": bridge_steps, "unet_steps": unet_steps}
    source = {"clips": data.clips, "captions": len(data), "dim": data.dim, "sum": data.audio.double().sum().item()}
    stages = Stages(out, len(chosen) * folds, {**settings, **source})
    found: dict[str, list[Any]] = {name: [] for name in chosen}
    for name in chosen:
        for fold in range(folds):
            work = partial(_measure_fold, name, data, fold, settings, out)
            found[name].append(stages(f"{name}-{fold}", f"{name}, fold {fold + 1} of {folds}", work))
    left_out = set(BRIDGES) - set(chosen) if methods is None else ()
    results = {
        "methods": {name: over_folds([part["metrics"] for part in parts]) for name, parts in found.items()},
        "chosen": {name: [part["chosen"] for part in parts] for name, parts in found.items()},
        "notes": {name: _reduced(unet_steps) for name in chosen if name == DiffusionBridge.name},
        "not_run": {name: 'it needs pip install "dlink-adapter[bench]"' for name in left_out},
        "seconds": {name: sum(stages.seconds[f"{name}-{fold}"] for fold in range(folds)) for name in chosen},
        "data": source,
        "settings": settings,
        "versions": {name: version(name) for name in ("torch", "dlink-adapter")},
    }
    write_atomically(out / "gap.json", json.dumps(results, indent=2))
    print(table(results))
    _, test = _fold(data, 0, folds, seed)
    draw(results, test.text[torch.searchsorted(test.clip, torch.arange(test.clips))], out)


def _measure_fold(name: str, data: PairedEmbeddings, fold: int, settings: dict[str, int], out: Path) -> dict[str, Any]:
    train, test = _fold(data, fold, settings["folds"], settings["seed"])
    bridge = _fitted(name, train, settings)
    with torch.no_grad():
        bridged, bridged_text = bridge(test.audio), bridge(test.text, modality="text")
    if fold == 0:
        (out / "bridged").mkdir(exist_ok=True)
        write_atomically(out / "bridged" / f"{name}.safetensors", save({"audio": bridged.contiguous()}))
    described = {key: value for key, value in bridge.metadata.items() if key not in ("space", "gap_before_and_after")}
    return {"metrics": measure(bridged, test.text, test.clip, bridged_text=bridged_text), "chosen": described}


def _fitted(name: str, train: PairedEmbeddings, settings: dict[str, int]) -> PretrainedBridge:
    reduced = {**UNET, "train_steps": settings["unet_steps"], "seed": settings["seed"]}
    sizes = reduced if name == DiffusionBridge.name else {}
    bridge = BRIDGES[name](BRIDGES[name].config_class(train.dim, **sizes))
    if isinstance(bridge, DiffusionLink):
        fit(bridge, train, config=FitConfig(steps=settings["bridge_steps"], seed=settings["seed"]))
    else:
        bridge.fit(*train.tensors())
    return bridge.eval()


def _fold(data: PairedEmbeddings, fold: int, folds: int, seed: int) -> tuple[PairedEmbeddings, PairedEmbeddings]:
    """(train, test): the clips in a random order, every `folds`-th from `fold` on is tested."""
    order = torch.randperm(data.clips, generator=torch.Generator().manual_seed(seed))
    tested = torch.zeros(data.clips, dtype=torch.bool).index_fill(0, order[fold::folds], True)
    return data.select((~tested).nonzero().flatten()), data.select(tested.nonzero().flatten())


def _reduced(steps: int) -> str:
    return f"reduced: {steps} training steps of {UNET['batch_size']} captions, U-Net of width {UNET['width']}"


def _has_unet() -> bool:
    try:
        return import_unet() is not None
    except ImportError:
        return False


def _read(pairs: Path | None, audio: Path | None, text: Path | None) -> PairedEmbeddings:
    if (pairs is None) == (audio is None and text is None) or (audio is None) != (text is None):
        raise ValueError("give either --pairs DIR, or both --audio FILE and --text FILE")
    if audio is not None and text is not None:
        return PairedEmbeddings.from_tensors(torch.from_numpy(read_array(audio)), torch.from_numpy(read_array(text)))
    assert pairs is not None
    return PairedEmbeddings.open(pairs)
