"""Shared objects: pairs whose gap is known, a bridge with weights that do something, a tiny language model."""

import csv
import os
from itertools import count
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # before torch is imported: the tests know the bits of a CPU

import pytest
import torch
from torch import Tensor

from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.diffusion_link.link import DiffusionLink

CAPTIONS = [
    f"{subject} {verb} {place}"
    for subject in ("a dog", "a man", "a bell", "a small engine")
    for verb in ("is heard", "makes a sound", "gets louder")
    for place in ("nearby", "far away", "in the rain", "behind a door")
]

AUDIOCAPS_CLIPS = {"train": 9, "val": 4, "test": 4}  # and one more each, which is gone
ENCODER = "  encoder: clap\n  encoder_path: somewhere\n"
AUDIOCAPS_CONFIGS = {
    "bridge.yaml": "fit: {steps: 4, batch_size: 4, save_every: 2}\n",
    "text.yaml": f"condition: text\ncaptioner:\n{ENCODER}training: {{steps: 4, batch_size: 4, save_every: 2}}\n",
    "audio.yaml": f"condition: audio\ncaptioner:\n{ENCODER}training: {{steps: 4, batch_size: 4, save_every: 2}}\n",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "quantised: quantises on a CPU, which transformers 4.48 does on a GPU alone")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("quantised"):
        import transformers

        if transformers.__version__.startswith("4.48."):
            pytest.skip(f"transformers {transformers.__version__} does not quantise on a CPU")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pairs() -> tuple[Tensor, Tensor]:
    """Audio that is its text, rotated, noisy and moved away: (600, 32) each."""
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(600, 32, generator=draw)
    rotation = torch.linalg.qr(torch.randn(32, 32, generator=draw)).Q
    audio = text @ rotation + 0.3 * torch.randn(600, 32, generator=draw)
    return audio + 2 * torch.randn(32, generator=draw), text + 2 * torch.randn(32, generator=draw)


@pytest.fixture
def link() -> DiffusionLink:
    """A small bridge in eval mode whose weights are random everywhere, also where a new one has zeros."""
    return random_link()


@pytest.fixture
def make_link():
    """`link` with other settings."""
    return random_link


def random_link(**settings) -> DiffusionLink:
    draw = torch.Generator().manual_seed(0)
    depth = {} if {"timestep", "cosine"} & set(settings) else {"cosine": 0.9}
    link = DiffusionLink(BridgeConfig(**{"dim": 16, "time_dim": 8, "dropout": 0.1, "samples": 4, **depth, **settings}))
    audio, text = torch.randn(2, 50, link.dim, generator=draw)
    link.space.fit(audio + 1, text - 1)
    with torch.no_grad():
        for parameter in link.denoiser.parameters():
            parameter.normal_(0, 0.2, generator=draw)
    return link.eval()


@pytest.fixture(scope="session")
def captions() -> list[str]:
    return CAPTIONS


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Path:
    """The folder of a tiny `LlamaForCausalLM` that has seen the captions."""
    from dlink_adapter.soundscapes.small_llama import train_small_llama
    from dlink_adapter.training.config import TrainerConfig

    folder = tmp_path_factory.mktemp("models") / "llama"
    config = TrainerConfig(steps=2, batch_size=16, lr=3e-3)
    train_small_llama(CAPTIONS, folder, config=config, hidden_size=64, layers=2, progress=False)
    return folder


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `dlink demo --fast` makes."""
    from dlink_adapter.recipes import demo

    folder = tmp_path_factory.mktemp("demo") / "out"
    demo.main(folder, fast=True)
    return folder


@pytest.fixture(scope="session")
def audiocaps_folder(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small AudioCaps: one caption a clip or five, and files with each of the names that they may have."""
    folder, wavs, numbers = tmp_path_factory.mktemp("audiocaps"), sorted(demo_folder.glob("examples/*.wav")), count()
    (folder / "audio").mkdir()
    for split, clips in AUDIOCAPS_CLIPS.items():
        with (folder / f"audiocaps_{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["audiocap_id", "youtube_id", "start_time", "caption"])
            for clip in range(clips + 1):
                number = next(numbers)
                name, start = f"id-{number:02d}", 10 * clip
                for caption in range(1 if split == "train" else 5):
                    table.writerow([number, name, start, CAPTIONS[(number + caption) % len(CAPTIONS)]])
                if clip < clips:
                    stem = (name, f"Y{name}", f"{name}_{start}")[number % 3]
                    (folder / "audio" / f"{stem}.wav").symlink_to(wavs[number % len(wavs)])
    for name, text in AUDIOCAPS_CONFIGS.items():
        (folder / name).write_text(text)
    return folder
