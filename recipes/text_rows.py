"""Captions that nobody hears: a file of embeddings and a text file with a caption for each row."""

from pathlib import Path

import torch
from torch import Tensor

from dlink_adapter.files import read_text
from dlink_adapter.integrations.precomputed import read_array


def read_text_rows(embeddings: Path, captions: Path) -> tuple[Tensor, list[str]]:
    """Embeddings (n, dim) of a .npy or .safetensors file, and the n lines of a text file.

    Raises ValueError where their numbers differ.
    """
    rows = torch.from_numpy(read_array(embeddings))
    lines = read_text(captions).removesuffix("\n").split("\n")
    if len(rows) != len(lines):
        raise ValueError(
            f"{embeddings} has {len(rows)} rows, {captions} {len(lines)} lines: give a caption for each row"
        )
    return rows, lines
