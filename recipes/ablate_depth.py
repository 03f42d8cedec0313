"""Measure how deep a bridge should noise: too little leaves the gap open, too much erases meaning.

dlink ablate-depth --pairs dlink-demo/embeddings/pairs
dlink ablate-depth --pairs dlink-demo/embeddings/pairs --test dlink-demo/embeddings/test --llm dlink-demo/llama \
    --text_embeddings dlink-demo/embeddings/text.safetensors --captions dlink-demo/embeddings/text.txt

Trains the bridge, and the bridge without the topology loss and without the text branch, and measures each at every
depth, with one sample and with four, and in one and in more steps. The methods without a depth are measured beside it,
each with and without matching. With a language model and captions, a zero-shot captioner is trained at every depth too,
on captions that were noised to it, and its captions of the test clips are scored. The output folder holds depth.json,
depth.png and steps.png. A run that was stopped goes on where it was.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from dlink_adapter import FitConfig, PairedEmbeddings
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.plots import plot_depth
from dlink_adapter.recipes.captioner_rows import PREFIX, CaptionerRows, Row
from dlink_adapter.recipes.captioner_settings import CaptionerSteps
from dlink_adapter.recipes.depth_points import CAPTION_METRICS, METRICS, PURE, VARIANTS, DepthStudy, Point
from dlink_adapter.recipes.methods import plain_methods
from dlink_adapter.recipes.text_rows import read_text_rows
from dlink_adapter.stages import Stages

TIMESTEPS = [0, 25, 50, 100, 150, 200, 300, 400, 500, 600, 700, 800, 900, 950, 1000]
STEPS = [1, 2, 5, 20, 100]
LOWER_IS_BETTER = ("rmg", "frechet_centred", "gram_error")


def main(
    *,
    pairs: Path,
    test: Path | None = None,
    llm: str | None = None,
    text_embeddings: Path | None = None,
    captions: Path | None = None,
    quantize: str | None = None,
    out: Path = Path("dlink-depth"),
    timesteps: list[int] = TIMESTEPS,
    steps: list[int] = STEPS,
    baselines: list[str] | None = None,
    bridge_steps: int = 1000,
    unet_steps: int = 30,
    captioner_steps: CaptionerSteps = CaptionerSteps(audio=0),
    seed: int = 0,
) -> None:
    """Train, measure at every depth, and draw.

    Args:
        pairs: folder of PairedEmbeddings to train on.
        test: folder of pairs to measure on; without it, a fifth of the clips of `pairs` is held out.
        llm: folder or hub id of a causal language model, to caption `test` at every depth.
        text_embeddings: for that, a .npy or .safetensors file of a row (dim,) for each caption to train on.
        captions: those captions, a text file with one a line.
        quantize: nf4, fp4 or int8 tunes the language model by LoRA, quantised; without it, it is tuned in full.
        out: folder for the measurements, the figures and the bridges.
        timesteps: the depths.
        steps: network calls from a depth to the clean end, all of them with one sample.
        baselines: methods to measure beside it; by default all that can run here.
        bridge_steps: optimiser steps of each bridge.
        unet_steps: those of diffusion_bridge, of 16 captions each and at half the width: a reduced budget.
        captioner_steps: steps of the captioners.
        seed: of the held-out clips and of the training.
    """
    baselines = [name for name in plain_methods() if name != PURE] if baselines is None else baselines
    tuned: dict[str, Any] = {"tuning": "lora" if quantize else "full", "quantize": quantize}
    parts, fit = _split(pairs, test, seed), FitConfig(steps=bridge_steps, seed=seed)
    study, captioners = DepthStudy(*parts, fit, timesteps, steps, unet_steps, out), None
    if llm and text_embeddings and captions:
        text, config = read_text_rows(text_embeddings, captions), CaptionerConfig(llm, **PREFIX, **tuned)
        captioners = CaptionerRows(study.train, study.test, *text, config, captioner_steps, seed, out)
    elif llm or text_embeddings or captions:
        raise ValueError("to caption, give all of --llm, --text_embeddings and --captions")
    settings = {**study.settings(), "baselines": baselines, **(captioners.settings() if captioners else {})}
    points = _points(study, baselines, captioners, settings)
    best = {metric: _best(points, metric) for metric in (*METRICS, *CAPTION_METRICS) if _best(points, metric)}
    write_atomically(out / "depth.json", json.dumps({"points": points, "best": best, "settings": settings}, indent=2))
    _draw(points, best, out)
    print(_table(best))


def _table(best: dict[str, Point]) -> str:
    rows = [(f"{metric:<18}{point[metric]:>8.3f}", point) for metric, point in best.items()]
    return "\n".join(f"{row} at timestep {point['timestep']}, cosine {point['cosine']:.3f}" for row, point in rows)


def _points(
    study: DepthStudy, baselines: list[str], captioners: CaptionerRows | None, settings: dict[str, Any]
) -> list[Point]:
    rows = {f"timestep {timestep}": Row(f"timestep-{timestep}", "bridged") for timestep in study.timesteps}
    count = len(baselines) + len(VARIANTS) + (CaptionerRows.stages(rows) if captioners else 0)
    stages, points = Stages(study.out, count, settings), list[Point]()
    for name in baselines:
        points += stages(f"baseline-{name}", f"fit and measure: {name}", partial(study.baseline, name))
    for name in VARIANTS:
        points += stages(name, f"train and measure: {name}", partial(study.variant, name))
    return points + (study.captions(captioners, rows, stages) if captioners else [])


def _split(pairs: Path, test: Path | None, seed: int) -> tuple[PairedEmbeddings, PairedEmbeddings, PairedEmbeddings]:
    """Train, val and test; without test pairs, a fifth of the clips."""
    fitting = PairedEmbeddings.open(pairs)
    if test is None:
        fitting, tested = fitting.split((0.8, 0.2), seed=seed)
    else:
        tested = PairedEmbeddings.open(test)
    train, val = fitting.split((0.9, 0.1), seed=seed)
    return train, val, tested


def _best(points: list[Point], metric: str) -> Point:
    """The point of the unchanged bridge, or of the captioner, at which a metric is best; empty without any."""
    full = [point for point in points if point["method"] in (PURE, "captioner") and point.get(metric) is not None]
    choose = min if metric in LOWER_IS_BETTER else max
    return choose(full, key=lambda point: point[metric]) if full else {}


def _draw(points: list[Point], best: dict[str, Any], out: Path) -> None:
    of_depth = [point for point in points if point["timestep"] is not None]
    cosines = {point["timestep"]: point["cosine"] for point in of_depth}
    by_depth: dict[str, dict[str, dict[int, float]]] = {metric: {} for metric in best}
    by_steps: dict[str, dict[str, dict[int, float]]] = {metric: {} for metric in METRICS}
    for point in of_depth:
        for metric in set(best) & set(point):
            label = f"{point['method'].replace('_', ' ')}, {point['samples']} samples"
            if point["steps"] == 1 or point["method"] == "captioner":
                by_depth[metric].setdefault(label, {})[point["timestep"]] = point[metric]
            if metric in METRICS and point["method"] == PURE and point["samples"] == 1:
                by_steps[metric].setdefault(f"{point['steps']} steps", {})[point["timestep"]] = point[metric]
    plot_depth(out / "depth.png", by_depth, cosines, best["r_at_1"]["timestep"])
    plot_depth(out / "steps.png", by_steps, cosines, best["r_at_1"]["timestep"])
