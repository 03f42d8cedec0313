"""Settings of trainings. This file imports no torch, so that help need not wait for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FitConfig:
    """Settings of `fit`, ours. A bridge that has a closed form uses `holdout` and `seed` alone.

    Args:
        steps: optimiser steps.
        batch_size: pairs a step, over all processes, whose number must divide it.
        lr: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        ema_decay: of the average of the weights, which is what the fitted bridge keeps; lower in the first steps.
        holdout: share of the clips that is kept from training, to calibrate and measure on, where no `val` is given.
        seed: of the order, the noise, the dropout and the holdout.
        mixed_precision: "no", "bf16" or "fp16", as accelerate takes it; it touches the network's products alone.
        save_every: steps between checkpoints.
        log_every: steps between lines of the log.
    """

    steps: int = 1000
    batch_size: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.01
    ema_decay: float = 0.995
    holdout: float = 0.1
    seed: int = 0
    mixed_precision: str = "no"
    save_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.save_every, self.log_every) < 1:
            raise ValueError(f"steps, batch_size, save_every and log_every must be at least 1: {self}")
        if not 0 < self.holdout < 1 or not 0 <= self.ema_decay < 1:
            raise ValueError(f"holdout must be in (0, 1) and ema_decay in [0, 1): {self}")


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of a training by `Trainer`, ours.

    Args:
        steps: optimiser steps.
        batch_size: rows a step, over all processes; it must be a multiple of their number times gradient_accumulation.
        lr: peak of the cosine schedule.
        warmup: share of the steps in which it rises.
        weight_decay: of AdamW.
        seed: of the order, the dropout and the noise.
        bf16: train in mixed precision.
        save_every: steps between checkpoints, where there is a folder for them, and between validations; 0 for none.
        log_every: steps between lines of the log, each the mean loss since the one before; a checkpoint has one too.
        gradient_accumulation: parts that a process takes its rows of a step in, where they do not fit at once.
        deepspeed: JSON file of a DeepSpeed config, as `TrainingArguments` takes it.
        fsdp: FSDP's options, such as "full_shard auto_wrap", as `TrainingArguments` takes them.
        fsdp_config: JSON file of FSDP's settings, as `TrainingArguments` takes it.
    """

    steps: int = 1000
    batch_size: int = 32
    lr: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.01
    seed: int = 0
    bf16: bool = False
    save_every: int = 0
    log_every: int = 10
    gradient_accumulation: int = 1
    deepspeed: str | None = None
    fsdp: str | None = None
    fsdp_config: str | None = None

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size, self.log_every, self.gradient_accumulation) < 1 or self.save_every < 0:
            raise ValueError(f"steps, batch_size, log_every and gradient_accumulation must be at least 1: {self}")
