"""Train the small CLAP that comes with the package, from procedural sounds alone.

dlink train-small-clap --out small-clap
dlink train-small-clap --out smaller --scenes 12000 --epochs 10 --training.seed 1

Renders scenes and keeps their log-mels, trains a `ClapModel` on them, and scores it on scenes whose combinations of
events it never heard. `OUT/clap` is the model with its card, scores.json and training_log.jsonl; any command takes it,
as in `dlink extract-embeddings --model OUT/clap`. A run that was stopped goes on from its last checkpoint. Two cores of
a CPU that computes in bfloat16 need about an hour; elsewhere give `--training.bf16 false`.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlink_adapter.files import to_jsonl, write_atomically
from dlink_adapter.integrations.transformers_clap import ClapEncoder
from dlink_adapter.measure.gap import measure
from dlink_adapter.soundscapes.clap_card import clap_card
from dlink_adapter.soundscapes.clap_training import train_small_clap
from dlink_adapter.soundscapes.small_clap import feature_extractor, render_mels
from dlink_adapter.soundscapes.world import World
from dlink_adapter.stages import Stages
from dlink_adapter.training.config import TrainerConfig
from dlink_adapter.training.log import LossLog

RETRIEVAL = ("r_at_1", "r_at_5", "r_at_10")
GAP = ("rmg", "centroid_distance", "paired_cosine", "unpaired_cosine")


@dataclass(frozen=True)
class ClapTrainerConfig(TrainerConfig):
    """Settings of the training; 0 steps are `epochs` passes over the scenes."""

    steps: int | None = 0
    epochs: None = field(default=None, init=False)  # the recipe has its own
    batch_size: int = 256
    lr: float = 1.5e-3
    warmup: float = 0.1
    weight_decay: float = 0.05
    bf16: bool = True
    save_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        """They are checked when the steps are known."""


def main(
    *,
    out: Path,
    scenes: int = 120_000,
    test_scenes: int = 1_000,
    epochs: int = 10,
    width: int = 64,
    logit_scale: float = 100.0,
    world: int = 1_000_003,
    training: ClapTrainerConfig = ClapTrainerConfig(),
) -> None:
    """Train and score a small CLAP.

    Args:
        out: folder for the run; the model is in its folder `clap`.
        scenes: scenes to train on, with five captions each.
        test_scenes: scenes to score on, with five captions each.
        epochs: passes over the scenes, unless `training.steps` says how many steps.
        width: of HTSAT's first layers, a multiple of 8.
        logit_scale: inverse temperature of the loss; the higher, the wider the gap.
        world: seed of the scenes and captions, far from those of demos.
        training: settings of the training; its seed is that of the weights and the order.
    """
    steps = training.steps or epochs * scenes // max(1, training.batch_size)
    config = TrainerConfig(**{**vars(training), "steps": steps})
    scale = {"scenes": scenes, "test_scenes": test_scenes, "epochs": epochs, "width": width, "logit_scale": logit_scale}
    settings = {**scale, "world": world, "training": asdict(config)}
    sounds = World(world, {"encoder": scenes, "test": test_scenes})
    stages = Stages(out, 3, settings)
    stages("mels", "render scenes", partial(_mels, sounds, out / "mels.npy"))
    work = partial(_train, sounds, out, width, logit_scale, config)
    stages("training", "train a small CLAP", work, out / "clap")
    scores = stages("scores", "score it on new scenes", partial(_scores, sounds, out / "clap", settings))
    (out / "mels.npy").unlink(missing_ok=True)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    print("  ".join(f"{name} {value:.3f}" for name, value in scores.items()))


def _mels(sounds: World, file: Path) -> None:
    mels = render_mels(sounds.scenes("encoder"), feature_extractor(sounds.rate))
    np.save(file, mels.numpy())


def _train(sounds: World, out: Path, width: int, logit_scale: float, config: TrainerConfig) -> None:
    mels = torch.from_numpy(np.load(out / "mels.npy", mmap_mode="c"))
    train_small_clap(
        mels, sounds.captions("encoder"), feature_extractor(sounds.rate), out / "clap",
        config=config, width=width, logit_scale=logit_scale, checkpoints=out / "checkpoints",
    )  # fmt: skip
    write_atomically(out / "clap" / "training_log.jsonl", to_jsonl(LossLog(out / "checkpoints").read()))


def _scores(sounds: World, clap: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Retrieval and gap on the test scenes, which go into scores.json and the card."""
    encoder = ClapEncoder.from_pretrained(clap)
    captions = sounds.captions("test")
    audio = encoder.encode_audio(sounds.waveforms("test"), sampling_rate=sounds.rate, progress=True)
    text = encoder.encode_text([caption for group in captions for caption in group])
    clip = torch.arange(len(captions)).repeat_interleave(len(captions[0]))
    found = measure(audio, text, clip, names=GAP)
    scores = {name: round(found[name], 4) for name in (*RETRIEVAL, *GAP)}
    record = {"scores": scores, "settings": settings}
    record["versions"] = {name: version(name) for name in ("torch", "transformers", "dlink-adapter")}
    write_atomically(clap / "scores.json", json.dumps(record, indent=2))
    write_atomically(clap / "README.md", clap_card(record))
    return scores
