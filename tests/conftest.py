"""Shared objects: pairs whose gap is known, a bridge with weights that do something, a tiny language model."""

import os
from pathlib import Path

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # before torch is imported: the tests know the bits of a CPU

import pytest
import torch
from torch import Tensor

from dlink_adapter.bridge import DiffusionLink
from dlink_adapter.config import BridgeConfig

CAPTIONS = [
    f"{subject} {verb} {place}"
    for subject in ("a dog", "a man", "a bell", "a small engine")
    for verb in ("is heard", "makes a sound", "gets louder")
    for place in ("nearby", "far away", "in the rain", "behind a door")
]


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
    config = {"dim": 16, "time_dim": 8, "depth": 0.9, "dropout": 0.1, "samples": 4, **settings}
    link = DiffusionLink(BridgeConfig(**config))
    audio, text = torch.randn(2, 50, link.dim, generator=draw)
    link.space.fit(audio + 1, text - 1)
    link.fit_regressions(audio + 1, text + audio - 1, torch.arange(50))
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
    from dlink_adapter.trainer import TrainerConfig

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
