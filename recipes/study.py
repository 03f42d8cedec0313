"""Compare bridges and text conditions by the captions that they lead to, each under the same condition.

dlink study --pairs dlink-demo/embeddings/pairs --test dlink-demo/embeddings/test --llm dlink-demo/llama \
    --text_embeddings dlink-demo/embeddings/text.safetensors --captions dlink-demo/embeddings/text.txt
dlink study ... --screen                      # no captions: what a closed-form reader makes of every row, in a minute
dlink study ... --variants '{"deep": {"cosine": 0.5}, "no_topology": {"topology_weight": 0}}' --seeds "[0, 1, 2]"

A row is a bridge and a text condition. For each seed every bridge is fitted on the same pairs and calibrated on the
same held-out ones, and a captioner is trained in every condition behind it, on the same text and then on the audio of
the pairs, in the same steps. The output folder holds study.json, study.png and every trained part. Headroom closed is
(score - raw) / (supervised - raw), both without a bridge and with clean captions: 1 is a captioner that heard the
pairs. A study that was stopped goes on where it was.
"""

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dlink_adapter import PairedEmbeddings
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.files import write_atomically
from dlink_adapter.recipes.captioner_rows import PREFIX, CaptionerRows, CaptionerSteps
from dlink_adapter.recipes.study_parts import CONDITIONS, METHODS, Material, rows_of
from dlink_adapter.recipes.study_report import plot_study, study_results, study_table
from dlink_adapter.recipes.text_rows import read_text_rows
from dlink_adapter.stages import Stages


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
    variants: dict[str, dict[str, Any]] | None = None,
    seeds: list[int] = [0],  # noqa: B006 (jsonargparse shows it)
    screen: bool = False,
    tuning: str = "full",
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
        tuning: of the language model: full, lora or frozen.
        quantize: nf4, fp4 or int8, of a language model with LoRA.
        bridge_steps: optimiser steps of the networks.
        steps: those of the captioners.
    """
    data, tested = PairedEmbeddings.open(pairs), PairedEmbeddings.open(test)
    fitting, held_out = data.split((0.9, 0.1)) if val is None else (data, PairedEmbeddings.open(val))
    text, lines = read_text_rows(text_embeddings, captions)
    variants = variants or {}
    rows = rows_of(bridges, conditions, list(variants))
    settings = {"pairs": fitting.digest(), "test": tested.digest(), "val": held_out.digest(), "llm": llm}
    settings |= {"tuning": tuning, "quantize": quantize, "bridge_steps": bridge_steps, "steps": asdict(steps)}
    config = CaptionerConfig(llm, tuning=tuning, quantize=quantize, **PREFIX)
    gaps: dict[int, Any] = {}
    screened: dict[int, Any] = {}
    said: dict[int, Any] = {}
    for seed in seeds:
        folder = out / f"seed-{seed}"
        methods = list(dict.fromkeys(row.bridge for row in rows))
        stages = Stages(folder, len(methods) + len(rows) * (1 if screen else 3), settings)
        material = Material(fitting, held_out, tested, text, variants, bridge_steps, seed, folder / "bridges")
        fits = {name: stages(f"bridge_{name}", f"fit {name}", partial(material.fit, name)) for name in methods}
        gaps[seed] = fits
        found = {row: stages(f"screen_{row.label}", f"read {row.label}", partial(material.screen, row)) for row in rows}
        screened[seed] = {row.label: found[row]["reading_gain"] for row in rows}
        if not screen:
            tuned = {row.label: row._replace(sigma=found[row]["sigma"]) for row in rows}
            said[seed] = CaptionerRows(fitting, tested, text, lines, config, steps, seed, folder).run(tuned, stages)
    results = study_results(rows, gaps, screened, said, tested.captions) | {"settings": settings}
    write_atomically(out / "study.json", json.dumps(results, indent=2))
    print(study_table(results))
    if said:
        plot_study(out / "study.png", results)
