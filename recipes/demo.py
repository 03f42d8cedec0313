"""Make a small world of sounds, close its modality gap and caption it: the main job, end to end, without a download.

dlink demo
dlink demo --out runs/nf4 --quantize nf4

Renders procedural scenes, embeds them with the small CLAP that comes with the package (`--clap scratch` trains another
first), fits the bridge and simpler methods, pre-trains a small LLaMA on caption text, teaches it to read embeddings of
captions, trains a captioner behind each method from there, on text alone (zero-shot) and then on audio (supervised),
and scores them on scenes whose combinations of events are new. While it is trained on text, a captioner sees captions
as they are behind the simple methods, bridged ones behind the bridge, and pseudo-audio in the rows that say so.

The output folder holds report.html, with scores, figures and sounds to listen to, results.json, clouds.png,
captions.png, examples/, bridges and captioners; afterwards `dlink caption a.wav --model dlink-demo` captions any file.
A demo that was stopped goes on where it was.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dlink_adapter import FitConfig, PairedEmbeddings
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.gap import measure
from dlink_adapter.recipes.calibrate import calibrate
from dlink_adapter.recipes.captioner_rows import PREFIX, SETUPS, CaptionerRows, Row
from dlink_adapter.recipes.demo_page import PAGE, write_page
from dlink_adapter.recipes.demo_parts import FAST, FULL, Size, embed_world, make_clap, make_llama
from dlink_adapter.recipes.demo_report import SHOWN, report, table
from dlink_adapter.recipes.text_rows import read_text_rows
from dlink_adapter.registry import new_bridge
from dlink_adapter.soundscapes.world import World
from dlink_adapter.stages import Stages
from dlink_adapter.versions import versions

METHODS = {
    **{name: Row(name, "clean") for name in ("raw", "mean_shift", "ridge", "kernel_ridge", "memory")},
    "bridge": Row("diffusion_link", "bridged"),
    "raw_pseudo_audio": Row("raw", "pseudo_audio"),
    "bridge_pseudo_audio": Row("diffusion_link", "pseudo_audio"),
}


def main(
    out: Path = Path("dlink-demo"),
    seed: int = 0,
    clap: Literal["small", "scratch"] = "small",
    quantize: Literal["nf4"] | None = None,
    fast: bool = False,
) -> None:
    """Run the demo.

    Args:
        out: folder for everything that it makes.
        seed: of the world, the order and the weights of what is trained.
        clap: small, the one that comes with the package, or scratch, one that the run trains, which hears less.
        quantize: nf4 trains the captioners by QLoRA, on a 4-bit LLaMA.
        fast: a toy size that checks the plumbing; its scores mean nothing.
    """
    size = FAST if fast else FULL
    world = World(seed, size.scenes)
    settings = {"seed": seed, "clap": clap, "quantize": quantize, "fast": fast}
    stages = Stages(out, 6 + (clap == "scratch") + CaptionerRows.stages(METHODS), settings)
    encoder = "small" if clap == "small" else str(out / "clap")
    if clap == "scratch":
        train = partial(make_clap, world, size.clap_steps, out / "clap")
        stages("clap", "train a small CLAP on rendered scenes", train, out / "clap")
    work: Callable[[], Any] = partial(embed_world, world, encoder, out / "embeddings")
    stages("embeddings", "embed scenes and captions", work, out / "embeddings")
    work = partial(_bridges, size, seed, out)
    gap = stages("bridges", "fit the bridge and the simpler methods", work, out / "bridges")
    work = partial(make_llama, world, size.llama_steps, out / "llama")
    stages("llama", "pre-train a small LLaMA on captions", work, out / "llama")
    said = _captioners(size, seed, encoder, quantize, out).run(METHODS, stages)
    captions = {setup: {method: said[method][setup] for method in METHODS} for setup in SETUPS}
    work = partial(report, world, captions, out / "captioners" / METHODS[SHOWN].text_training, out)
    scores = stages("scores", "score the captions and draw the figures", work, out / "examples")
    work = partial(calibrate, out, out / "embeddings" / "val", out / "embeddings" / "pairs")
    right = stages("confidence", "calibrate how sure the captioner is", work)
    results = {
        "captions": scores["scores"],
        "gap": {method: gap[row.bridge] for method, row in METHODS.items()},
        **{name: scores[name] for name in ("intervals", "not_run", "tokenizer")},
        "right_captions_of_val": right,
        "seconds": stages.seconds,
        "versions": versions(),
        **settings,
    }
    work = partial(write_page, world, captions, results, out)
    stages("page", f"write {PAGE}", work)
    write_atomically(out / "results.json", json.dumps(results, indent=2))
    print(f"{table(results)}\n\nreport: {out / PAGE}")


def _captioners(size: Size, seed: int, encoder: str, quantize: str | None, out: Path) -> CaptionerRows:
    embeddings = out / "embeddings"
    pairs, test = (PairedEmbeddings.open(embeddings / name) for name in ("pairs", "test"))
    tuned = {"tuning": "lora" if quantize else "full", "quantize": quantize}
    config = CaptionerConfig(str(out / "llama"), **PREFIX | tuned, encoder="clap", encoder_path=encoder)
    text = read_text_rows(embeddings / "text.safetensors", embeddings / "text.txt")
    return CaptionerRows(pairs, test, *text, config, size.captioner_steps, seed, out)


def _bridges(size: Size, seed: int, out: Path) -> dict[str, dict[str, float]]:
    pairs, val, test = (PairedEmbeddings.open(out / "embeddings" / name) for name in ("pairs", "val", "test"))
    gap = {}
    for name in dict.fromkeys(row.bridge for row in METHODS.values()):
        bridge = new_bridge(name, pairs.dim)
        bridge.fit(pairs, val=val, config=FitConfig(steps=size.bridge_steps, seed=seed), out=out / "bridges" / name)
        text = bridge.map_rows(test.text, "text")
        gap[name] = measure(bridge.map_rows(test.audio), test.text, test.clip, bridged_text=text)
    return gap
