"""Trains a captioner on captions alone (zero-shot) or on audio with captions (supervised)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from dlink_adapter.captioner import Captioner
from dlink_adapter.trainer import TrainerConfig, run_trainer


class CaptionRows(Dataset[dict[str, Any]]):
    """Rows of an embedding (dim,), whether it is a caption's, and the caption's token ids."""

    def __init__(self, embedding: Tensor, is_text: Tensor, ids: list[list[int]]):
        if not len(embedding) == len(is_text) == len(ids):
            raise ValueError(f"{len(embedding)} embeddings, {len(is_text)} flags and {len(ids)} captions do not match")
        self.embedding, self.is_text, self.ids = embedding, is_text, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"embedding": self.embedding[index], "is_text": self.is_text[index], "ids": self.ids[index]}


def train_captioner(
    captioner: Captioner,
    captions: Sequence[str],
    *,
    text: Tensor | None = None,
    audio: Tensor | None = None,
    config: TrainerConfig | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> float:
    """Train projector and LoRA in place; returns the mean loss.

    Args:
        captioner: what is trained; its bridge stays as it is.
        captions: the targets.
        text: the captions' own embeddings (n, dim): the text-only, zero-shot condition.
        audio: the clips' embeddings (n, dim): the supervised condition. With both, each caption is seen both ways.
        config: settings of the training.
        out: folder for checkpoints.
        progress: shows a bar when on a terminal.

    Raises:
        ValueError: neither condition, or lengths that do not match.
    """
    conditions = [(rows, is_text) for rows, is_text in ((text, True), (audio, False)) if rows is not None]
    if not conditions:
        raise ValueError("give text= (embeddings of the captions), audio= (of the clips), or both")
    ids = captioner.tokenize(captions)
    rows = CaptionRows(
        torch.cat([embedding for embedding, _ in conditions]),
        torch.cat([torch.full((len(embedding),), is_text) for embedding, is_text in conditions]),
        ids * len(conditions),
    )
    collate = _Collator(captioner.pad_token_id)
    return run_trainer(captioner, rows, collate, config or TrainerConfig(), out=out, progress=progress)


class _Collator:
    """Rows -> what `Captioner.forward` takes, right-padded."""

    def __init__(self, pad_token_id: int):
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = [torch.tensor(row["ids"]) for row in rows]
        return {
            "embedding": torch.stack([row["embedding"] for row in rows]),
            "is_text": torch.stack([row["is_text"] for row in rows]),
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(of_row) for of_row in ids], batch_first=True),
        }
