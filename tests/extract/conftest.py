"""An encoder that reads its embeddings from files, clips for it, and a process that is killed."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from dlink_adapter.data.clip_tables import Clip
from dlink_adapter.extract.extraction import extract
from dlink_adapter.integrations.precomputed import PrecomputedEncoder

TEXTS = ["rain", "wind", "a dog", "a bell"]


@pytest.fixture
def encoder() -> PrecomputedEncoder:
    return PrecomputedEncoder(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), TEXTS, id="table")


@pytest.fixture
def clips(tmp_path) -> list[Clip]:
    """Seven clips: one is missing, one is damaged, one is zero."""
    folder, draw = tmp_path / "media", np.random.default_rng(0)
    folder.mkdir()
    found = []
    for number in range(7):
        path = folder / f"{number}.npy"
        found.append(Clip(path.name, path, [TEXTS[number % 4], TEXTS[(number + 1) % 4]][: 1 + number % 2]))
        if number != 2:
            np.save(path, np.zeros(6) if number == 5 else draw.normal(size=6))
    (folder / "4.npy").write_bytes(b"damaged")
    return found


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """The content of each file below a folder."""
    return _contents


@pytest.fixture
def killed_at() -> Callable[..., None]:
    """Extract, and die by SIGKILL just before or just after the `write`-th time that a file takes its name."""
    return _killed_at


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _killed_at(write: int, *arguments, **options) -> None:
    count, replace = 0, os.replace

    def deadly(source, target):
        nonlocal count
        count += 1
        if count == write // 2 + 1:
            if write % 2:
                replace(source, target)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = deadly
    extract(*arguments, **options)
