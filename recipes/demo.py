"""Make a small world of sounds, close its modality gap and caption it: the main job, end to end, without a download.

dlink demo
dlink demo --out runs/nf4 --quantize nf4

Renders procedural scenes, trains a small CLAP on them, fits the bridge and simpler methods on other pairs, pre-trains a
small LLaMA on caption text, trains a captioner behind each method on text alone (zero-shot) and from there on audio
(supervised), and scores them on scenes whose combinations of events are new.

The output folder holds results.json, clouds.png, captions.png, examples/ and every trained part; afterwards
`dlink caption a.wav --model dlink-demo` captions any file. A demo that was stopped goes on where it was.
"""

import json
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from dlink_adapter import BRIDGES, DiffusionLink, FitConfig, PairedEmbeddings, fit, load_bridge
from dlink_adapter.baselines.closed_form import ClosedFormBridge
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.captioner.model import Captioner
from dlink_adapter.captioner.training import train_captioner
from dlink_adapter.files import write_atomically
from dlink_adapter.integrations.causal_lm import load_captioner, new_captioner
from dlink_adapter.integrations.transformers_clap import ClapEncoder
from dlink_adapter.measure.gap import before_and_after, measure
from dlink_adapter.recipes.demo_report import report, table
from dlink_adapter.soundscapes.small_clap import train_small_clap
from dlink_adapter.soundscapes.small_llama import train_small_llama
from dlink_adapter.soundscapes.world import World
from dlink_adapter.stages import Stages
from dlink_adapter.training.trainer import TrainerConfig

SIMPLE = ("raw", "mean_shift", "ridge", "kernel_ridge", "memory")  # they leave captions as they are
METHODS = {**{name: name for name in SIMPLE}, "bridge": "diffusion_link"}
SETUPS = ("zero_shot", "supervised")


@dataclass(frozen=True)
class Size:
    """How much of everything: scenes, then epochs and steps."""

    scenes: dict[str, int]
    clap_epochs: int
    bridge_steps: int
    llama_steps: int
    text_steps: int
    audio_steps: int


FULL = Size({"encoder": 3000, "pairs": 2000, "text": 12000, "val": 200, "test": 250}, 10, 400, 600, 1600, 300)
FAST = Size({"encoder": 64, "pairs": 64, "text": 200, "val": 20, "test": 25}, 1, 20, 5, 5, 5)


def main(
    out: Path = Path("dlink-demo"), seed: int = 0, quantize: Literal["nf4"] | None = None, fast: bool = False
) -> None:
    """Run the demo.

    Args:
        out: folder for everything that it makes.
        seed: of the world, the order and the weights.
        quantize: nf4 trains the captioners by QLoRA, on a 4-bit LLaMA.
        fast: a toy size that checks the plumbing; its scores mean nothing.
    """
    size = FAST if fast else FULL
    world = World(seed, size.scenes)
    stages = Stages(out, 5 + len(METHODS), {"seed": seed, "quantize": quantize, "fast": fast})
    stages("clap", "train a small CLAP on rendered scenes", lambda: _clap(world, size, out), out / "clap")
    stages("embeddings", "embed scenes and captions", lambda: _embed(world, out), out / "embeddings")
    gap = stages(
        "bridges", "fit the bridge and the simpler methods", lambda: _bridges(size, seed, out), out / "bridges"
    )
    stages("llama", "pre-train a small LLaMA on captions", lambda: _llama(world, size, out), out / "llama")
    captions: dict[str, dict[str, list[str]]] = {setup: {} for setup in SETUPS}
    for method in METHODS:
        made = out / "captioners" / method
        said = stages(
            f"captions_{method}", f"caption with {method}", partial(_captions, method, world, size, quantize, out), made
        )
        for setup in SETUPS:
            captions[setup][method] = said[setup]
    scores = stages(
        "scores", "score the captions and draw the figures", lambda: report(world, captions, out), out / "examples"
    )
    results = {
        "captions": scores["scores"],
        "gap": gap,
        "not_run": scores["not_run"],
        "tokenizer": scores["tokenizer"],
        "seconds": stages.seconds,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "dlink-adapter")},
        "seed": seed,
    }
    write_atomically(out / "results.json", json.dumps(results, indent=2))
    print(table(results))


def _clap(world: World, size: Size, out: Path) -> None:
    waveforms = torch.from_numpy(world.waveforms("encoder"))
    captions = [caption for (caption,) in world.captions("encoder")]
    train_small_clap(waveforms, captions, out / "clap", seed=world.seed, epochs=size.clap_epochs)


def _embed(world: World, out: Path) -> None:
    encoder = ClapEncoder.from_pretrained(out / "clap")
    metadata = {"encoder": "clap", "fingerprint": encoder.fingerprint, "rate": encoder.rate}
    for name in ("pairs", "val", "test"):
        captions = world.captions(name)
        audio = encoder.encode_audio(list(world.waveforms(name)), progress=True)
        text = encoder.encode_text([caption for group in captions for caption in group])
        PairedEmbeddings.write(out / "embeddings" / name, audio, text, captions, metadata=metadata)
    unheard = encoder.encode_text([captions[0] for captions in world.captions("text")], progress=True)
    save_file({"text": unheard}, out / "embeddings" / "text.safetensors")


def _bridges(size: Size, seed: int, out: Path) -> dict[str, dict[str, float]]:
    pairs, val, test = (PairedEmbeddings.open(out / "embeddings" / name) for name in ("pairs", "val", "test"))
    gap = {}
    for label, name in METHODS.items():
        bridge = BRIDGES[name](BRIDGES[name].config_class(pairs.dim))
        if isinstance(bridge, DiffusionLink):
            fit(
                bridge,
                pairs,
                val=val,
                config=FitConfig(steps=size.bridge_steps, seed=seed),
                out=out / "bridges" / label,
            )
        elif isinstance(bridge, ClosedFormBridge):
            bridge.fit(*pairs.tensors())
            bridge.metadata["fingerprint"] = pairs.metadata["fingerprint"]
        text = bridge(test.text, modality="text")
        gap[label] = measure(bridge(test.audio), test.text, test.clip, bridged_text=text)
        bridge.metadata["gap_before_and_after"] = before_and_after(gap["raw"], gap[label])
        bridge.save_pretrained(out / "bridges" / label)
    return gap


def _llama(world: World, size: Size, out: Path) -> None:
    documents = ["\n".join(captions) for captions in world.captions("text")]
    config = TrainerConfig(steps=size.llama_steps, batch_size=48, lr=3e-3, seed=world.seed)
    train_small_llama(documents, out / "llama", config=config, layers=2)


def _captions(label: str, world: World, size: Size, quantize: str | None, out: Path) -> dict[str, list[str]]:
    pairs, test = (PairedEmbeddings.open(out / "embeddings" / name) for name in ("pairs", "test"))
    captioner, made, said = _text_only(label, world, size, quantize, out), out / "captioners" / label, {}
    captioner.save_pretrained(made / "zero_shot")
    said["zero_shot"] = captioner.generate(test.audio)
    heard = [captions[0] for captions in pairs.captions]
    training = TrainerConfig(steps=size.audio_steps, lr=3e-4, seed=world.seed)
    train_captioner(captioner, heard, audio=pairs.audio, config=training)
    captioner.save_pretrained(made / "supervised")
    said["supervised"] = captioner.generate(test.audio)
    return said


def _text_only(label: str, world: World, size: Size, quantize: str | None, out: Path) -> Captioner:
    """A captioner trained on captions alone. The simple methods share one training."""
    bridge = load_bridge(out / "bridges" / label)
    if label in SIMPLE[1:]:
        captioner = load_captioner(out / "captioners" / SIMPLE[0] / "zero_shot")
        captioner.set_bridge(bridge)
        return captioner
    llama, clap = str(out / "llama"), str(out / "clap")
    config = CaptionerConfig(
        llama, prefix_tokens=4, hidden=256, after="\n", quantize=quantize, encoder="clap", encoder_path=clap
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world.seed)
        captioner = new_captioner(bridge, config)
    unheard = [captions[0] for captions in world.captions("text")]
    text = load_file(out / "embeddings" / "text.safetensors")["text"]
    train_captioner(
        captioner, unheard, text=text, config=TrainerConfig(steps=size.text_steps, lr=3e-3, seed=world.seed)
    )
    return captioner
