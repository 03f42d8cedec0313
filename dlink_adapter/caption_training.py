"""Trains a captioner with `transformers.Trainer`, on captions alone (zero-shot) or on audio with captions (supervised)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from dlink_adapter.captioner import Captioner


@dataclass(frozen=True)
class CaptionTrainingConfig:
    """Settings of `train_captioner`, ours.

    Args:
        steps: optimiser steps.
        batch_size: captions a step, on each process.
        lr: peak of the cosine schedule.
        warmup: share of the steps in which it rises.
        weight_decay: of AdamW.
        seed: of the order, the dropout and the bridge's noise.
        bf16: train in mixed precision.
        save_every: steps between checkpoints, where `out` is given; 0 for none.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    seed: int = 0
    bf16: bool = False
    save_every: int = 0


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
    config: CaptionTrainingConfig | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> float:
    """Train projector and LoRA in place; returns the mean loss of the last tenth of the steps.

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
    from transformers import Trainer, TrainingArguments

    config = config or CaptionTrainingConfig()
    conditions = [(rows, is_text) for rows, is_text in ((text, True), (audio, False)) if rows is not None]
    if not conditions:
        raise ValueError("give text= (embeddings of the captions), audio= (of the clips), or both")
    ids = captioner.tokenize(captions)
    rows = CaptionRows(
        torch.cat([embedding for embedding, _ in conditions]),
        torch.cat([torch.full((len(embedding),), is_text) for embedding, is_text in conditions]),
        ids * len(conditions),
    )
    arguments = TrainingArguments(
        output_dir=str(out or "unused"),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * config.steps),
        weight_decay=config.weight_decay,
        seed=config.seed,
        bf16=config.bf16,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="steps" if out and config.save_every else "no",
        save_steps=config.save_every or 500,
        logging_strategy="no",
        disable_tqdm=not progress,
        report_to="none",
        remove_unused_columns=False,
    )
    trainer = Trainer(captioner, arguments, train_dataset=rows, data_collator=_Collator(captioner.pad_token_id))
    return float(trainer.train().training_loss)


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
