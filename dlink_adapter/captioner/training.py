"""Trains a captioner on captions alone (zero-shot) or on audio with captions (supervised)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from dlink_adapter.captioner.model import Captioner
from dlink_adapter.captioner.prefix_model import IGNORED
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.training.config import TrainerConfig
from dlink_adapter.training.trainer import run_trainer

CONDITIONS = ("text", "audio", "text+audio")


class Rows(Protocol):
    """Embeddings (n, dim) that are read row by row; a tensor is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, row: int, /) -> Tensor: ...


class PairedRows:
    """The embedding of one modality for each caption of pairs that may lie on disk."""

    def __init__(self, pairs: PairedEmbeddings, modality: str):
        self.pairs, self.place = pairs, ("audio", "text").index(modality)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, row: int) -> Tensor:
        return self.pairs[row][self.place]


class CaptionRows(Dataset[dict[str, Any]]):
    """Samples: an embedding (dim,), whether it is a caption's, and the caption. Embeddings are read when they are used.

    Args:
        captions: the targets.
        text: the captions' own embeddings: the text-only, zero-shot condition.
        audio: those of each caption's clip: the supervised condition. With both, each caption is seen both ways.

    Raises:
        ValueError: neither condition, or lengths that do not match.
    """

    def __init__(self, captions: Sequence[str], *, text: Rows | None = None, audio: Rows | None = None):
        self.captions = captions
        self.conditions = [(rows, is_text) for rows, is_text in ((text, True), (audio, False)) if rows is not None]
        if not self.conditions:
            raise ValueError("give text= (embeddings of the captions), audio= (of the clips), or both")
        for rows, _ in self.conditions:
            if len(rows) != len(captions):
                raise ValueError(f"{len(rows)} embeddings and {len(captions)} captions do not match")

    @classmethod
    def of_pairs(cls, pairs: PairedEmbeddings, condition: str) -> "CaptionRows":
        """The rows of pairs in a condition: "text", "audio" or "text+audio"."""
        if condition not in CONDITIONS:
            raise ValueError(f"condition is {condition!r}: expected {', '.join(CONDITIONS)}")
        captions = [caption for of_clip in pairs.captions for caption in of_clip]
        return cls(captions, **{name: PairedRows(pairs, name) for name in condition.split("+")})

    def __len__(self) -> int:
        return len(self.captions) * len(self.conditions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        condition, row = divmod(index, len(self.captions))
        rows, is_text = self.conditions[condition]
        return {"embedding": rows[row], "is_text": is_text, "caption": self.captions[row]}


def train_captioner(
    captioner: Captioner,
    captions: Sequence[str] | CaptionRows,
    *,
    text: Rows | None = None,
    audio: Rows | None = None,
    val: CaptionRows | None = None,
    config: TrainerConfig | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> float:
    """Train projector and LoRA in place; returns the mean loss. A calibrated confidence is dropped.

    Under `accelerate launch` or torchrun the processes share each batch, and the losses are those of one process, but
    for dropout.

    Args:
        captioner: what is trained; its bridge stays as it is.
        captions: the targets, or rows that have everything.
        text, audio: as for `CaptionRows`, where only captions were given.
        val: rows to validate on, every `config.save_every` steps; what is best there is kept in the end.
        config: settings of the training.
        out: folder for checkpoints and the log; a run that was killed goes on from the last checkpoint.
        progress: shows a bar when on a terminal.
    """
    rows = captions if isinstance(captions, CaptionRows) else CaptionRows(captions, text=text, audio=audio)
    collate = _Collator(captioner)
    captioner.confidence = None  # what was calibrated was that of another captioner
    return run_trainer(captioner, rows, collate, config or TrainerConfig(), val=val, out=out, progress=progress)


class _Collator:
    """Rows -> what `Captioner.forward` takes, tokenised, right-padded."""

    def __init__(self, captioner: Captioner):
        self.tokenize, self.pad_token_id = captioner.tokenize, captioner.pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = [torch.tensor(of_row) for of_row in self.tokenize([row["caption"] for row in rows])]
        return {
            "embedding": torch.stack([row["embedding"] for row in rows]),
            "is_text": torch.tensor([row["is_text"] for row in rows]),
            "seed": torch.tensor([row["seed"] for row in rows]),
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(of_row) for of_row in ids], batch_first=True),
            "labels": pad_sequence(ids, batch_first=True, padding_value=IGNORED),
        }
