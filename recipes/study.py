"""Compare bridges and text conditions by the captions that they lead to, each under the same condition.

dlink study --pairs dlink-demo/embeddings/pairs --test dlink-demo/embeddings/test --llm dlink-demo/llama \
    --text_embeddings dlink-demo/embeddings/text.safetensors --captions dlink-demo/embeddings/text.txt
dlink study ... --screen                      # no captioners: what a closed-form reader makes of every row
dlink study ... --variants '{"deep": {"cosine": 0.5}, "no_topology": {"topology_weight": 0}}' --seeds "[0, 1, 2]"

A row is a bridge and a text condition. For each seed every bridge is fitted on the same pairs and calibrated on the
same held-out ones, and a captioner is trained in every condition behind it, on the same text and then on the audio of
the pairs, in the same steps. The reader of --screen orders conditions behind a bridge; it does not tell bridges apart.

The output folder holds study.json, study.png, bridges and captioners. Headroom closed is (score - raw) / (supervised -
raw), both without a bridge and with clean captions: 1 is a captioner that heard the pairs. A study that was stopped
goes on where it was.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from dlink_adapter import PairedEmbeddings
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.files import check_own, keep_settings, write_atomically
from dlink_adapter.recipes.captioner_rows import PREFIX, CaptionerRows, Row
from dlink_adapter.recipes.captioner_settings import CaptionerSteps
from dlink_adapter.recipes.study_parts import Material, rows_of
from dlink_adapter.recipes.study_report import plot_study, study_results, study_table
from dlink_adapter.recipes.text_rows import read_text_rows
from dlink_adapter.stages import Stages

METHODS = ["raw", "mean_shift", "ridge", "kernel_ridge", "memory", "regression", "diffusion_link"]
CONDITIONS = ["clean", "gaussian", "bridged", "pseudo_audio"]


def main(
    *,
    pairs: Path,
    test: Path,
    text_embeddings: Path,
    captions: Path,
    llm: str,
    out: Path = Path("dlink-study"),
    val: Path | None = None,
    bridges: list[str] = METHODS,
    conditions: list[str] = CONDITIONS,
    variants: dict[str, dict[str, Any]] = {},  # noqa: B006
    seeds: list[int] = [0],  # noqa: B006
    screen: bool = False,
    quantize: str | None = None,
    bridge_steps: int = 1000,
    steps: CaptionerSteps = CaptionerSteps(),
) -> None:
    """Fit, train, caption, compare.

    Args:
        pairs: folder of PairedEmbeddings to fit the bridges on, with captions for the supervised training.
        test: folder of PairedEmbeddings with reference captions.
        text_embeddings: a .npy or .safetensors file of a row (dim,) for each caption that the captioners train on.
        captions: those captions, a text file with one a line.
        llm: folder or hub id of the causal language model.
        out: folder for the study.
        val: folder of PairedEmbeddings to calibrate on; without it, a tenth of the clips of `pairs`.
        bridges: the methods.
        conditions: the text conditions.
        variants: more diffusion_link bridges by name, each with its settings.
        seeds: each is a whole study of its own, of bridges, order and noise.
        screen: stop before captions are trained.
        quantize: nf4, fp4 or int8 tunes the language model by LoRA, quantised; without it, it is tuned in full.
        bridge_steps: optimiser steps of the networks.
        steps: those of the captioners.
    """
    check_own(out, "seed-*")
    data, tested = PairedEmbeddings.open(pairs), PairedEmbeddings.open(test)
    fitting, held_out = data.split((0.9, 0.1)) if val is None else (data, PairedEmbeddings.open(val))
    text, rows = read_text_rows(text_embeddings, captions), rows_of(bridges, conditions, variants)
    material = Material(fitting, held_out, tested, text[0], variants, bridge_steps, 0, out)
    config = CaptionerConfig(llm, tuning="lora" if quantize else "full", quantize=quantize, **PREFIX)
    captioners = CaptionerRows(fitting, tested, *text, config, steps, 0, out)
    settings = {**material.settings(), **captioners.settings()}
    work = partial(_one_seed, rows, material, None if screen else captioners, settings)
    runs = {seed: work(seed, out / f"seed-{seed}") for seed in seeds}
    results = study_results(rows, runs, tested.captions) | {"settings": settings}
    _show(results, out, screen)


def _show(results: dict[str, Any], out: Path, screen: bool) -> None:
    write_atomically(out / "study.json", json.dumps(results, indent=2))
    print(study_table(results))
    if not screen:
        plot_study(out / "study.png", results)


def _one_seed(
    rows: list[Row], material: Material, captioners: CaptionerRows | None, settings: Any, seed: int, out: Path
) -> dict[str, Any]:
    """The gap of each bridge; of each row, by label, the reading gain and the captions, if any."""
    methods = list(dict.fromkeys(row.bridge for row in rows))
    stages = Stages(out, len(methods) + len(rows), settings)
    for name, variant in material.variants.items():
        keep_settings(out / "stages" / f"variant_{name}.json", variant, f"{out} holds {name}")
    material = replace(material, seed=seed, folder=out / "bridges")
    gap = {name: stages(f"bridge_{name}", f"fit {name}", partial(material.fit, name)) for name in methods}
    found = {row: stages(f"screen_{row.label}", f"read {row.label}", partial(material.screen, row)) for row in rows}
    run = {"gap": gap, "reading_gain": {row.label: found[row]["reading_gain"] for row in rows}}
    if captioners is None:
        return run
    tuned = {row.label: row._replace(sigma=found[row]["sigma"]) for row in rows}
    stages = Stages(out, CaptionerRows.stages(tuned), settings)
    return run | {"said": replace(captioners, seed=seed, out=out).run(tuned, stages)}
