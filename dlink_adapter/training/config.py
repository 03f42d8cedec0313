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
    """Settings of a training by `Trainer`, ours; from `optim` on they are `TrainingArguments`' own, under its names.

    Args:
        steps: optimiser steps; 1000, unless `epochs` is given.
        epochs: or passes over the rows, in whole steps; the order is another one in each.
        batch_size: rows a step, over all processes; it must be a multiple of their number times gradient_accumulation.
        gradient_accumulation: parts that a process takes its rows of a step in, where they do not fit at once.
        lr: peak of the cosine schedule.
        projector_lr: that of a captioner's projector, where it is to be another one; the schedule is the same.
        warmup: share of the steps in which they rise.
        weight_decay: of the optimiser.
        seed: of the order, the dropout and the noise.
        save_every: steps between checkpoints, where there is a folder for them, and between validations; 0 for none.
        log_every: steps between lines of the log, each the mean loss since the one before; a checkpoint has one too.
        optim: the optimiser, such as adamw_torch_fused, adafactor, or paged_adamw_8bit, which needs bitsandbytes.
        bf16: train in mixed precision.
        fp16: or in this one, on a GPU that has no bfloat16.
        gradient_checkpointing: compute activations again in the backward pass instead of keeping them: slower, smaller.
        dataloader_num_workers: processes that read rows ahead; 0 reads them in the training process.
        report_to: where the log goes beside log.jsonl: tensorboard, wandb, mlflow, ..., all, or none.
        deepspeed: JSON file of a DeepSpeed config.
        fsdp: FSDP's options, such as "full_shard auto_wrap".
        fsdp_config: JSON file of FSDP's settings.
    """

    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32
    gradient_accumulation: int = 1
    lr: float = 1e-3
    projector_lr: float | None = None
    warmup: float = 0.05
    weight_decay: float = 0.01
    seed: int = 0
    save_every: int = 0
    log_every: int = 10
    optim: str = "adamw_torch_fused"
    bf16: bool = False
    fp16: bool = False
    gradient_checkpointing: bool = False
    dataloader_num_workers: int = 0
    report_to: str = "none"
    deepspeed: str | None = None
    fsdp: str | None = None
    fsdp_config: str | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps is {self.steps} and epochs {self.epochs}: give one of them, the other as null")
        counts = (1 if self.steps is None else self.steps, self.batch_size, self.log_every, self.gradient_accumulation)
        if min(counts) < 1 or self.save_every < 0:
            raise ValueError(f"steps, batch_size, log_every and gradient_accumulation must be at least 1: {self}")
        if self.epochs is not None and self.epochs <= 0:
            raise ValueError(f"epochs is {self.epochs}: it must be above 0")
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 are both set: give one of them")
        if self.projector_lr is not None and self.deepspeed is not None:
            raise ValueError("DeepSpeed may make an optimiser that knows no projector_lr: leave one of them out")

    def steps_over(self, rows: int) -> int:
        """The optimiser steps of a training on this many rows."""
        if self.epochs is None:
            return 1000 if self.steps is None else self.steps
        return max(1, int(self.epochs * rows / self.batch_size))
