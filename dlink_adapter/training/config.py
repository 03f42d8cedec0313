"""The settings of `fit`."""

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
