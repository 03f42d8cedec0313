"""The captioners of `dlink demo`: one that learns to read embeddings, and from there one for each method."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from dlink_adapter import PairedEmbeddings, load_bridge
from dlink_adapter.captioner.conditions import PseudoAudio
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.captioner.model import Captioner
from dlink_adapter.captioner.training import train_captioner
from dlink_adapter.integrations.causal_lm import load_captioner, new_captioner
from dlink_adapter.recipes.demo_parts import Size
from dlink_adapter.soundscapes.world import World
from dlink_adapter.training.trainer import TrainerConfig


def make_start(world: World, size: Size, encoder: str, quantize: str | None, out: Path) -> None:
    """The captioner that every other starts from: it has learned to read embeddings, of captions as they are."""
    config = CaptionerConfig(
        *(str(out / "llama"), 4, 256), after="\n", tuning="lora" if quantize else "full", quantize=quantize,
        encoder="clap", encoder_path=encoder, text_condition="clean",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(world.seed)
        captioner = new_captioner(load_bridge(out / "bridges" / "raw"), config)
    _train_on_text(captioner, world, out, TrainerConfig(steps=size.start_steps, lr=4e-3, seed=world.seed))
    captioner.save_pretrained(out / "captioners" / "start")


def captions_of(label: str, bridge: str, condition: str, world: World, size: Size, out: Path) -> dict[str, list[str]]:
    """Train the captioner of a method, on text and then on audio, and caption the test clips after each."""
    pairs, test = (PairedEmbeddings.open(out / "embeddings" / name) for name in ("pairs", "test"))
    captioner, made = _text_only(bridge, condition, world, size, out), out / "captioners" / label
    captioner.save_pretrained(made / "zero_shot")
    said = {"zero_shot": captioner.generate(test.audio)}
    training = TrainerConfig(steps=size.audio_steps, lr=5e-4, seed=world.seed)
    train_captioner(captioner, [of[0] for of in pairs.captions], audio=pairs.audio, config=training)
    captioner.save_pretrained(made / "supervised")
    said["supervised"] = captioner.generate(test.audio)
    return said


def _text_only(bridge: str, condition: str, world: World, size: Size, out: Path) -> Captioner:
    """A captioner trained on captions alone. Simple methods leave captions as they are: one training serves all."""
    as_raw = condition == "clean" and bridge != "raw"
    captioner = load_captioner(out / "captioners" / ("raw/zero_shot" if as_raw else "start"))
    captioner.set_bridge(load_bridge(out / "bridges" / bridge))
    if not as_raw:
        captioner.set_text_condition(condition)
        if isinstance(captioner.text_condition, PseudoAudio):
            captioner.text_condition.fit(PairedEmbeddings.open(out / "embeddings" / "pairs"))
        _train_on_text(captioner, world, out, TrainerConfig(steps=size.text_steps, lr=2e-3, seed=world.seed))
    return captioner


def _train_on_text(captioner: Captioner, world: World, out: Path, config: TrainerConfig) -> None:
    unheard, text = [of[0] for of in world.captions("text")], load_file(out / "embeddings" / "text.safetensors")["text"]
    train_captioner(captioner, unheard, text=text, config=config)
