"""Trains a bridge's network by gradient descent with accelerate, keeps an average of its weights, survives a kill.

Every random draw comes from (seed, step), so that a resumed run needs no random state and repeats the steps it lost.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from dlink_adapter.bridge.base import TrainedBridge
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.training.checkpoint import load_checkpoint, save_checkpoint
from dlink_adapter.training.config import FitConfig
from dlink_adapter.training.log import LossLog
from dlink_adapter.training.processes import precision_kept, rows_shared


class Descent:
    """`descent(bridge, pairs)` trains the bridge's network.

    `losses` has the last losses, `checkpoint` the file of a training, of no use once the bridge is saved.

    Args:
        config: settings of the training.
        out: folder for a checkpoint and the log; None keeps neither.
        progress: shows a bar when on a terminal.
    """

    def __init__(self, config: FitConfig, out: Path | None = None, progress: bool = True):
        self.config, self.out, self.progress = config, out, progress
        self.losses: dict[str, float] = {}
        self.checkpoint: Path | None = None

    def __call__(self, bridge: TrainedBridge, pairs: PairedEmbeddings) -> None:
        with precision_kept():
            run = _Run(bridge, pairs, self.config, self.out)
            self.losses = run.train(self.progress)
        bridge.metadata["training"] = {**asdict(self.config), "pairs": len(pairs), "clips": pairs.clips}
        self.checkpoint = run.checkpoint


class _Objective(nn.Module):
    """The loss as a forward pass, which is what DDP wraps."""

    def __init__(self, bridge: TrainedBridge):
        super().__init__()
        self.bridge = bridge

    def forward(self, audio: Tensor, text: Tensor, generator: Generator) -> dict[str, Tensor]:
        return self.bridge.loss(audio, text, generator=generator)


class _Run:
    """One training: the network, the average of its weights, the optimiser and the step they are at."""

    def __init__(self, bridge: TrainedBridge, pairs: PairedEmbeddings, config: FitConfig, out: Path | None):
        from accelerate import Accelerator

        self.bridge, self.pairs, self.config = bridge, pairs, config
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision)
        self.index, self.count = self.accelerator.process_index, self.accelerator.num_processes
        if config.batch_size % self.count or len(pairs) < self.count:
            raise ValueError(
                f"{self.count} processes cannot share batches of {config.batch_size} equally ({len(pairs)} pairs)"
            )
        self.batch_size = min(config.batch_size, len(pairs) // self.count * self.count)
        self.step, self.order = 0, torch.empty(0, dtype=torch.long)  # the order of the pairs in this epoch
        with seeded(config.seed):
            bridge.denoiser.load_state_dict(bridge.new_denoiser().state_dict())
        bridge.to(self.accelerator.device)
        optimizer = AdamW(
            bridge.denoiser.parameters(), lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.99)
        )
        total = config.steps + 1
        self.schedule = OneCycleLR(optimizer, config.lr, total_steps=total, pct_start=max(0.1, 1.5 / total))
        self.average = AveragedModel(bridge.denoiser, multi_avg_fn=_warmed_up(config.ema_decay))
        self.objective, self.optimizer = self.accelerator.prepare(_Objective(bridge), optimizer)
        self.checkpoint: Path | None = None
        self.log: LossLog | None = None
        if out is not None:
            self._resume(out)

    def _resume(self, out: Path) -> None:
        """Go on from the checkpoint of this run in the folder, if there is one."""
        out.mkdir(parents=True, exist_ok=True)
        self.checkpoint = out / "checkpoint.safetensors"
        settings = [self.bridge.name, self.bridge.settings(), asdict(self.config), self.batch_size]
        self.identity = json.dumps([*settings, self.pairs.digest()])
        if self.checkpoint.is_file():
            self.step = load_checkpoint(self.checkpoint, self.identity, *self._state())
            self.schedule.load_state_dict({"last_epoch": self.step - 1, "_step_count": self.step})
            self.schedule.step()
        steps = self.accelerator.gather(torch.tensor([self.step], device=self.accelerator.device))
        if len(steps.unique()) > 1:
            raise ValueError(
                f"the processes see different checkpoints, of steps {steps.tolist()}: share the folder {out}"
            )
        if self.accelerator.is_main_process:
            self.log = LossLog(out)
            self.log.rewind(self.step)

    def _save(self) -> None:
        if self.checkpoint is not None and self.accelerator.is_main_process:
            save_checkpoint(self.checkpoint, self.identity, self.step, *self._state())

    def _state(self) -> tuple[nn.Module, nn.Module, Any]:
        return self.bridge.denoiser, self.average, self.optimizer

    def train(self, progress: bool) -> dict[str, float]:
        """Take the steps that are left and put the averaged weights into the bridge; returns the last losses."""
        losses: dict[str, float] = {}
        self.objective.train()
        hide = None if progress and self.accelerator.is_main_process else True
        bar = tqdm(total=self.config.steps, initial=self.step, desc=self.bridge.name, unit="step", disable=hide)
        with bar, rows_shared(self.bridge.denoiser, self.index, self.count):
            while self.step < self.config.steps:
                parts = self._take_step()
                bar.update()
                if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                    losses = {name: value.item() for name, value in parts.items()}
                    bar.set_postfix(loss=f"{losses['loss']:.3f}")
                    if self.log is not None:
                        self.log.write(self.step, lr=float(self.schedule.get_last_lr()[0]), **losses)
                if self.step % self.config.save_every == 0 and self.step < self.config.steps:
                    self._save()
        self.optimizer.zero_grad()
        self.bridge.denoiser.load_state_dict(self.average.module.state_dict())
        return losses

    def _take_step(self) -> dict[str, Tensor]:
        device, seed = self.accelerator.device, self.config.seed * 1_000_003 + self.step
        pairs = self.pairs.__getitems__(self._batch().tolist())
        audio, text = (torch.stack(rows).to(device) for rows in zip(*pairs, strict=True))
        generator = Generator(device).manual_seed(seed * 64)  # another stream than that of the dropout
        with seeded(seed * self.count + self.index):  # of the dropout, whose rows differ from process to process
            parts: dict[str, Tensor] = self.objective(audio, text, generator)
            self.optimizer.zero_grad()
            # Each process has the gradients of its own rows of the one loss: their sum counts, not the average.
            self.accelerator.backward(parts["loss"] * self.count)
        self.accelerator.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.bridge.denoiser)
        self.step += 1
        return parts

    def _batch(self) -> Tensor:
        """The rows of this step: whole epochs, each in its own order."""
        epoch, place = divmod(self.step, len(self.pairs) // self.batch_size)
        if place == 0 or not len(self.order):
            draw = Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
            self.order = torch.randperm(len(self.pairs), generator=draw)
        return self.order[place * self.batch_size : (place + 1) * self.batch_size]


def _warmed_up(decay: float) -> Any:
    """An exponential moving average that forgets the first steps faster, for trainings of any length."""

    def update(average: Any, weights: Any, updates: Tensor) -> None:
        count = int(updates)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(average, weights, updates)

    return update


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Dropout and initialisation draw from the global generator: seed it, and give the caller's state back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
