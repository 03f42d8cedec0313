"""Both captioning set-ups on AudioCaps: extract, bridge, gap, zero-shot, supervised, evaluate, report.

dlink audiocaps --data audiocaps --out runs/audiocaps
dlink audiocaps --data audiocaps --out runs/llama2 --zero_shot audiocaps_zero_shot.yaml \
    --supervised audiocaps_supervised.yaml
accelerate launch --num_processes 8 -m dlink_adapter audiocaps --data audiocaps --out runs/audiocaps

The data folder holds AudioCaps' tables, train.csv, val.csv and test.csv (or audiocaps_train.csv, ...), and the audio in
folders of any name, as far as it is still to be had. Each stage is a command of its own, which is shown and can be run
alone, with a config that says what is set; a stage that was stopped goes on when it is started again. Zero-shot
captioners are trained on captions alone, their bridges on pairs. The others are tested against the first method.

The output folder holds report.md, results.json, comparison.png, captions.png, clouds.png and every trained part.
"""

import gc
import shlex
from functools import partial
from pathlib import Path

import torch

from dlink_adapter import BRIDGES
from dlink_adapter.cli import config_path, list_recipes, run
from dlink_adapter.recipes.audiocaps_report import SETUPS, gap, report
from dlink_adapter.stages import Stages
from dlink_adapter.training.processes import process_state

SPLITS = ("train", "val", "test")
SHARED = ("extract-embeddings", "train-bridge", "train-captioner")  # by all processes; the rest is done by one


def main(
    *,
    data: Path,
    out: Path,
    methods: list[str] = ["raw", "diffusion_link"],  # noqa: B006
    clap: str | None = None,
    llm: str | None = None,
    extract: str = "audiocaps_extract.yaml",
    bridge: str = "audiocaps_bridge.yaml",
    zero_shot: str = "audiocaps_zero_shot_smollm2.yaml",
    supervised: str = "audiocaps_supervised_smollm2.yaml",
) -> None:
    """Run both set-ups with each method between CLAP and the projector.

    Args:
        data: folder with the tables of AudioCaps and its audio.
        out: folder for everything that it makes.
        methods: bridges; `raw` is none.
        clap: hub id or folder of the CLAP, or small, instead of the configs'.
        llm: hub id or folder of the language model, instead of the configs'.
        extract: config of extract-embeddings.
        bridge: config of train-bridge.
        zero_shot: config of train-captioner on text; audiocaps_zero_shot.yaml has the paper's LLaMA-2-7B, whose
            licence has to be accepted on the hub.
        supervised: config of train-captioner on audio; audiocaps_supervised.yaml has LLaMA-2-7B.
    """
    if unknown := sorted(set(methods) - set(BRIDGES)):
        raise ValueError(f"unknown method {', '.join(unknown)}; known: {', '.join(BRIDGES)}")
    tables = {split: _table(data, split) for split in SPLITS}
    configs = {"extract": extract, "bridge": bridge, "zero_shot": zero_shot, "supervised": supervised}
    before = _extraction(tables, data, out, extract, clap) | _bridges(methods, out, bridge)
    after: dict[str, list[str]] = {}
    for setup in SETUPS:
        after |= _captioners(setup, methods, tables["test"], out, configs[setup], clap, llm)
    given = {"data": str(data), "methods": methods, "clap": clap, "llm": llm}
    texts = {name: Path(config_path(config)).read_text(encoding="utf-8") for name, config in configs.items()}
    main_process = process_state().is_main_process
    stages = Stages(out, len(before) + 1 + len(after), {**given, **texts}, leads=main_process)
    for name, argv in before.items():
        stages(name, f"dlink {shlex.join(argv)}", partial(_run, argv))
    measured = stages("gap", "measure the gap on the test clips", partial(gap, methods, out))
    for name, argv in after.items():
        stages(name, f"dlink {shlex.join(argv)}", partial(_run, argv))
    if main_process:
        print(report(methods, measured, stages.seconds, out))


def _table(data: Path, split: str) -> Path:
    names = (f"{split}.csv", f"audiocaps_{split}.csv")
    found = next((data / name for name in names if (data / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"{data} holds neither {' nor '.join(names)}: AudioCaps' tables belong there")
    return found


def _extraction(tables: dict[str, Path], data: Path, out: Path, config: str, clap: str | None) -> dict[str, list[str]]:
    return {
        f"extract_{split}": [
            *("extract-embeddings", str(table), "--config", config, "--layout", "audiocaps", "--media", str(data)),
            *("--out", str(out / "embeddings" / split), *_if("--model", clap)),
        ]
        for split, table in tables.items()
    }


def _bridges(methods: list[str], out: Path, config: str) -> dict[str, list[str]]:
    return {
        f"bridge_{method}": [
            *("train-bridge", "--config", config, "--method", method, *_train_and_val(out)),
            *("--out", str(out / "bridges" / method)),
        ]
        for method in methods
    }


def _captioners(
    setup: str, methods: list[str], references: Path, out: Path, config: str, clap: str | None, llm: str | None
) -> dict[str, list[str]]:
    """For each method: train, caption the test clips, score what was said."""
    commands = {}
    for method in methods:
        captioner, said = out / "captioners" / method / setup, out / "said" / setup
        against = _if("--against", None if method == methods[0] else str(said / f"{methods[0]}.jsonl"))
        commands[f"train_{setup}_{method}"] = [
            *("train-captioner", "--config", config, *_train_and_val(out), "--bridge", str(out / "bridges" / method)),
            *("--out", str(captioner), *_if("--captioner.encoder_path", clap), *_if("--captioner.base_model", llm)),
        ]
        commands[f"caption_{setup}_{method}"] = [
            *("caption", str(out / "embeddings" / "test"), "--model", str(captioner)),
            *("--out", str(said / f"{method}.jsonl")),
        ]
        commands[f"evaluate_{setup}_{method}"] = [
            *("evaluate", str(said / f"{method}.jsonl"), "--references", str(references), *against),
            *("--out", str(out / "scores" / setup / method)),
        ]
    return commands


def _train_and_val(out: Path) -> list[str]:
    return ["--pairs", str(out / "embeddings" / "train"), "--val", str(out / "embeddings" / "val")]


def _if(option: str, value: str | None) -> list[str]:
    return [] if value is None else [option, value]


def _run(argv: list[str]) -> None:
    """Run a command, in every process or in the main one, and wait until all of them are through."""
    state = process_state()
    if argv[0] in SHARED or state.is_main_process:
        run(list_recipes()[argv[0]], argv[1:])
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # of a language model, before the next one is loaded
    state.wait_for_everyone()
