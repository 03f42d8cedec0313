"""Measure how deep a bridge should noise: too little leaves the gap open, too much erases meaning.

dlink ablate-depth --pairs dlink-demo/embeddings/pairs
dlink ablate-depth --pairs dlink-demo/embeddings/pairs --test dlink-demo/embeddings/test --captioner dlink-demo

Trains the bridge, and the bridge without the topology loss, the text branch or kernel ridge, and measures each at
every depth, with one sample and with sixteen, and in one and in more steps. With a captioner, its captions are scored
at every depth too, through its own bridge. The output folder holds depth.json, depth.png and steps.png. A run that was
stopped goes on where it was.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dlink_adapter import BridgeConfig, DiffusionLink, FitConfig, PairedEmbeddings, fit
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.gap import measure
from dlink_adapter.measure.plots import plot_depth
from dlink_adapter.stages import Stages

DEPTHS = [0, 25, 50, 100, 150, 200, 300, 400, 500, 600, 700, 800, 900, 950, 1000]
STEPS = [1, 2, 5, 20, 100]
VARIANTS: dict[str, dict[str, Any]] = {
    "bridge": {},
    "no_topology": {"topology_weight": 0.0},
    "no_text_branch": {"text_weight": 0.0},
    "no_kernel": {"kernel": False},
}
SAMPLES = (1, 16)
METRICS = ("r_at_1", "paired_cosine", "rmg", "frechet_centred", "gram_error", "knn_overlap", "text_identity")
LOWER_IS_BETTER = ("rmg", "frechet_centred", "gram_error")
CAPTION_METRICS = ("bleu_4", "rouge_l", "meteor", "cider_d")


def main(
    *,
    pairs: Path,
    test: Path | None = None,
    captioner: Path | None = None,
    out: Path = Path("dlink-depth"),
    depths: list[int] = DEPTHS,
    steps: list[int] = STEPS,
    bridge_steps: int = 400,
    seed: int = 0,
) -> None:
    """Train, measure at every depth, and draw.

    Args:
        pairs: folder of PairedEmbeddings to train on.
        test: folder of pairs to measure on; without it, a fifth of the clips of `pairs` is held out.
        captioner: folder of a captioner with a diffusion_link bridge; its captions of `test` are scored too.
        out: folder for the measurements, the figures and the bridges.
        depths: timesteps.
        steps: network calls from a depth to the clean end, all of them with one sample.
        bridge_steps: optimiser steps of each bridge.
        seed: of the held-out clips and of the training.
    """
    train = PairedEmbeddings.open(pairs)
    if test is None:
        train, held_out = train.split((0.8, 0.2), seed=seed)
    else:
        held_out = PairedEmbeddings.open(test)
    settings = {
        **{"pairs": str(pairs), "test": test and str(test), "captioner": captioner and str(captioner)},
        **{"depths": depths, "steps": steps, "bridge_steps": bridge_steps, "seed": seed},
    }
    stages = Stages(out, len(VARIANTS) + (captioner is not None), settings)
    points: list[dict[str, Any]] = []
    for name, changes in VARIANTS.items():
        config = BridgeConfig(train.dim, samples=max(SAMPLES), **changes)
        runs = [(samples, 1) for samples in SAMPLES] + [(1, count) for count in steps if count > 1 and name == "bridge"]
        training = FitConfig(steps=bridge_steps, seed=seed)
        work = partial(_measure, config, training, train, held_out, depths, runs, out / "bridges" / name)
        points += [{"variant": name, **point} for point in stages(name, f"train and measure: {name}", work)]
    if captioner is not None:
        work = partial(_caption, captioner, held_out, depths)
        points += [{"variant": "captioner", **point} for point in stages("captions", "caption at every depth", work)]
    best = {metric: _best(points, metric) for metric in (*METRICS, *CAPTION_METRICS) if _best(points, metric)}
    write_atomically(out / "depth.json", json.dumps({"points": points, "best": best, "settings": settings}, indent=2))
    _draw(points, best, out)
    for metric, point in best.items():
        print(f"{metric:<18}{point[metric]:>8.3f} at timestep {point['depth']}, cosine {point['cosine']:.3f}")


def _measure(
    config: BridgeConfig, training: FitConfig, train: PairedEmbeddings, test: PairedEmbeddings, depths: list[int],
    runs: list[tuple[int, int]], folder: Path,
) -> list[dict[str, Any]]:  # fmt: skip
    """A point for each (samples, steps) of `runs` and each depth."""
    link = DiffusionLink(config)
    fit(link, train, config=training, out=folder)
    link.space.reset()  # it was matched to the cloud of one depth, for which the gain was chosen too
    link.gain.fill_(1)
    points = []
    with torch.no_grad():
        for samples, steps in runs:
            for depth in depths:
                link.config = replace(link.config, depth=depth, steps=steps)
                bridged = link(test.audio, samples=samples)
                bridged_text = link(test.text, modality="text", samples=samples)
                found = measure(bridged, test.text, test.clip, bridged_text=bridged_text)
                metrics = {name: found[name] for name in METRICS}
                points.append({"samples": samples, "steps": steps, **_depth(link, depth), **metrics})
    return points


def _caption(folder: Path, test: PairedEmbeddings, depths: list[int]) -> list[dict[str, Any]]:
    """Scores of the captions of `test` at each depth, by the captioner and the bridge that it was trained with."""
    from dlink_adapter.integrations.causal_lm import load_captioner
    from dlink_adapter.measure.caption_metrics import score

    captioner = load_captioner(folder)
    link = captioner.bridge
    if not isinstance(link, DiffusionLink):
        raise ValueError(f"{folder} has a {link.name!r} bridge, which has no depth: give one with diffusion_link")
    points = []
    for depth in depths:
        link.config = replace(link.config, depth=depth)
        scores = score(captioner.generate(test.audio), test.captions, CAPTION_METRICS).scores
        points.append({"samples": link.config.samples, "steps": link.config.steps, **_depth(link, depth), **scores})
    return points


def _depth(link: DiffusionLink, timestep: int) -> dict[str, float]:
    return {"depth": timestep, "cosine": link.alpha_bars[timestep] ** 0.5}


def _best(points: list[dict[str, Any]], metric: str) -> dict[str, Any]:
    """The point of the unchanged bridge, or of the captioner, at which a metric is best; empty without any."""
    full = [point for point in points if point["variant"] in ("bridge", "captioner") and point.get(metric) is not None]
    choose = min if metric in LOWER_IS_BETTER else max
    return choose(full, key=lambda point: point[metric]) if full else {}


def _draw(points: list[dict[str, Any]], best: dict[str, Any], out: Path) -> None:
    cosines = {point["depth"]: point["cosine"] for point in points}
    by_depth: dict[str, dict[str, dict[int, float]]] = {metric: {} for metric in best}
    by_steps: dict[str, dict[str, dict[int, float]]] = {metric: {} for metric in METRICS}
    for point in points:
        for metric in set(best) & set(point):
            label = f"{point['variant'].replace('_', ' ')}, {point['samples']} samples"
            if point["steps"] == 1 or point["variant"] == "captioner":
                by_depth[metric].setdefault(label, {})[point["depth"]] = point[metric]
            if metric in METRICS and point["variant"] == "bridge" and point["samples"] == 1:
                by_steps[metric].setdefault(f"{point['steps']} steps", {})[point["depth"]] = point[metric]
    plot_depth(out / "depth.png", by_depth, cosines, best["r_at_1"]["depth"])
    plot_depth(out / "steps.png", by_steps, cosines, best["r_at_1"]["depth"])
