"""`transformers.Trainer` with our habits: no reports, a bar on a terminal, the caller's random state kept."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of a training by `Trainer`, ours.

    Args:
        steps: optimiser steps.
        batch_size: rows a step, on each process.
        lr: peak of the cosine schedule.
        warmup: share of the steps in which it rises.
        weight_decay: of AdamW.
        seed: of the order, the dropout and the noise.
        bf16: train in mixed precision.
        save_every: steps between checkpoints, where there is a folder for them; 0 for none.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    seed: int = 0
    bf16: bool = False
    save_every: int = 0


def run_trainer(
    model: nn.Module,
    rows: Any,
    collate: Callable[[list[Any]], dict[str, Any]],
    config: TrainerConfig,
    *,
    out: str | Path | None = None,
    progress: bool = True,
) -> float:
    """Train a model whose forward returns a loss, in place; returns the mean loss.

    Args:
        model: takes what `collate` makes of a list of rows.
        rows: a map-style dataset.
        out: folder for checkpoints; a run that was killed goes on from the last one.
    """
    from transformers import PrinterCallback, TrainingArguments
    from transformers.trainer_utils import get_last_checkpoint

    show = progress and sys.stderr.isatty()
    arguments = TrainingArguments(
        output_dir=str(out or "."),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * config.steps),
        weight_decay=config.weight_decay,
        seed=config.seed,
        bf16=config.bf16,
        save_strategy="steps" if out and config.save_every else "no",
        save_steps=config.save_every or 500,
        logging_strategy="no",
        disable_tqdm=not show,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    with _random_state_kept():
        trainer = _trainer_class()(model, arguments, train_dataset=rows, data_collator=collate)
        trainer.remove_callback(PrinterCallback)
        last = get_last_checkpoint(str(out)) if out and Path(out).is_dir() else None
        return float(trainer.train(resume_from_checkpoint=last).training_loss)


def _trainer_class() -> Any:
    """`Trainer` with checkpoints of what is trained: the rest is on disk, and tied weights are refused."""
    from safetensors.torch import load_file
    from transformers import Trainer
    from transformers.utils import SAFE_WEIGHTS_NAME

    class CheckpointingTrainer(Trainer):
        def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
            trained = {name: value.detach() for name, value in self.model.named_parameters() if value.requires_grad}
            super()._save(output_dir, trained)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
            self.model.load_state_dict(load_file(Path(resume_from_checkpoint, SAFE_WEIGHTS_NAME)), strict=False)

    return CheckpointingTrainer


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Trainer seeds every global generator: give the caller's states back."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)
