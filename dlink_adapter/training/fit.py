"""fit(): trains a bridge on pairs with accelerate, keeps an average of its weights, calibrates it, survives a kill.

Every random draw comes from (seed, step), so that a resumed run needs no random state and repeats the steps it lost.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Generator, Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from dlink_adapter.bridge.base import PretrainedBridge
from dlink_adapter.bridge.noise import Share, SharedDropout, process_state
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.gap import HEADLINE, before_and_after, measure
from dlink_adapter.training.calibrate import MAX_CLIPS, ROWS_AT_ONCE, bridge_rows, calibrate
from dlink_adapter.training.log import LossLog

CHECKPOINT = "checkpoint.safetensors"
REGRESSION_CLIPS = 16384  # that closed forms are fitted on: more hardly help, and have to be held in memory
Pairs = PairedEmbeddings | tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FitConfig:
    """Settings of `fit`, ours.

    Args:
        steps: optimiser steps.
        batch_size: pairs a step, over all processes, whose number must divide it.
        lr: peak of the one-cycle schedule.
        weight_decay: of AdamW.
        ema_decay: of the average of the weights, which is what the fitted bridge keeps.
        holdout: share of the clips that is kept from training, to calibrate on, where no `val` pairs are given.
        seed: of the order, the noise, the dropout and the holdout.
        mixed_precision: "no", "bf16" or "fp16", as accelerate takes it; it touches the network's products alone.
        save_every: steps between checkpoints.
        log_every: steps between lines of the log.
    """

    steps: int = 400
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


def fit(
    link: DiffusionLink,
    pairs: Pairs,
    *,
    val: Pairs | None = None,
    config: FitConfig | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Train `link` in place on pairs, then choose its gain on validation pairs, and its depth if its config has none.

    Under `accelerate launch` or torchrun the processes share each batch, and the losses are those of one process.

    Args:
        link: a bridge; its space is fitted here too. It is trained on accelerate's device and comes back to its own.
        pairs: `PairedEmbeddings`, or (audio, text) tensors, both (n, dim).
        val: pairs to calibrate on; None holds out a share of the clips.
        config: settings of the training.
        out: folder for the bridge, a checkpoint while training and a log in JSONL. Called again with the same arguments
            after a kill, `fit` goes on from the checkpoint and ends, on a CPU, with the same bits.
        progress: shows a bar when on a terminal.

    Returns:
        What was measured: the last losses, the calibration, the seconds.

    Raises:
        ValueError: pairs of another width, too few pairs, a batch that the processes cannot share equally, a checkpoint
            of a run with other settings.
    """
    from accelerate import Accelerator

    config = config or FitConfig()
    given, held_out = _as_pairs(pairs), None if val is None else _as_pairs(val)
    if given.dim != link.dim:
        raise ValueError(f"the bridge has dim {link.dim}, the pairs have dim {given.dim}")
    train = given
    if held_out is None:
        train, held_out = given.split((1 - config.holdout, config.holdout), seed=config.seed)
    if held_out.clips < 3:
        raise ValueError(
            f"{held_out.clips} held-out clips are too few to calibrate on: give val=, more pairs or holdout"
        )
    started, own_device = time.monotonic(), link.space.text_mean.device
    process_state()
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    link.space.to(accelerator.device).fit(train.blocks("audio"), train.blocks("text"))
    link.to(accelerator.device)
    estimates = _Estimates(link, train, config.seed)
    run = _Run(link, train, estimates, config, accelerator, Path(out) if out is not None else None)
    losses = run.train(progress)
    link.metadata["fingerprint"] = train.metadata.get("fingerprint")
    link.metadata["training"] = {**asdict(config), "pairs": len(train), "clips": train.clips}
    link.eval()
    calibration = calibrate(link, held_out, next(iter(train.blocks("text"))))
    estimates.match()
    link.metadata["gap_before_and_after"] = gap_left(link, held_out)
    if train is not given and train.clips < REGRESSION_CLIPS:  # where they are few, closed forms want all pairs
        link.space.fit(given.blocks("audio"), given.blocks("text"))
        _Estimates(link, given, config.seed).match()
    link.metadata["space"] = link.space.describe()
    link.to(own_device)
    if out is not None and accelerator.is_main_process:
        link.save_pretrained(out)
        Path(out, CHECKPOINT).unlink(missing_ok=True)
    return {"losses": losses, "calibration": calibration, "seconds": time.monotonic() - started}


class _Objective(nn.Module):
    """The loss as a forward pass, which is what DDP wraps."""

    def __init__(self, link: DiffusionLink, share: Share):
        super().__init__()
        self.link, self.share = link, share

    def forward(self, audio: Tensor, text: Tensor, estimate: Tensor, generator: Generator) -> dict[str, Tensor]:
        return self.link.loss(audio, text, estimate=estimate, generator=generator, share=self.share)


class _Estimates:
    """What the network learns to correct: the bridge's closed forms, fitted here, without the pair in question."""

    def __init__(self, link: DiffusionLink, pairs: PairedEmbeddings, seed: int):
        self.link, self.pairs = link, pairs
        fitted_on = torch.arange(pairs.clips)
        if pairs.clips > REGRESSION_CLIPS:
            fitted_on = torch.randperm(pairs.clips, generator=Generator().manual_seed(seed))[:REGRESSION_CLIPS]
        chosen, device = pairs.select(fitted_on), link.space.text_mean.device
        self.left_out = link.fit_regressions(chosen.audio.to(device), chosen.text.to(device), chosen.clip.to(device))
        self.row = torch.full((pairs.clips,), -1).index_copy(0, fitted_on, torch.arange(len(fitted_on)))

    @torch.no_grad()
    def __call__(self, clips: Tensor, audio: Tensor) -> Tensor:
        """The estimates of some clips (n,), given their audio (n, dim)."""
        estimate = self.link.estimate(self.link.space.encode(audio.float()))
        row = self.row[clips].to(audio.device)
        return torch.where((row >= 0).unsqueeze(-1), self.left_out[row], estimate)

    @torch.no_grad()
    def match(self) -> None:
        """Bring bridged audio nearer to text, over the pairs, or over some of them where they are many."""
        clips = torch.randperm(self.pairs.clips, generator=Generator().manual_seed(0))[:MAX_CLIPS].sort().values
        some, space = self.pairs.select(clips), self.link.space
        audio = some.audio.to(space.offset.device)
        x0, estimate = space.encode(audio), self(clips, audio)
        found = torch.cat(list(map(self.link.reconstruct, x0.split(ROWS_AT_ONCE), estimate.split(ROWS_AT_ONCE))))
        space.match(found[some.clip.to(found.device)], some.text.to(found.device))


class _Run:
    """One training run: the model, its average, the optimiser and the step they are at."""

    def __init__(
        self, link: DiffusionLink, pairs: PairedEmbeddings, estimates: _Estimates, config: FitConfig, accelerator: Any,
        out: Path | None,
    ):  # fmt: skip
        self.link, self.pairs, self.estimates = link, pairs, estimates
        self.config, self.accelerator, self.out = config, accelerator, out
        self.step, self.order = 0, torch.empty(0, dtype=torch.long)  # the order of the pairs in this epoch
        self.share = Share(accelerator.process_index, accelerator.num_processes)
        if config.batch_size % self.share.count or len(pairs) < self.share.count:
            raise ValueError(
                f"{self.share.count} processes cannot share batches of {config.batch_size} equally ({len(pairs)} pairs)"
            )
        self.batch_size = min(config.batch_size, len(pairs) // self.share.count * self.share.count)
        self.log = LossLog(out) if out is not None and accelerator.is_main_process else None
        with _seeded(config.seed):
            link.denoiser.reset_parameters()
        parameters = list(link.denoiser.parameters())
        optimizer = AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, betas=(0.9, 0.99))
        self.schedule = OneCycleLR(optimizer, config.lr, total_steps=config.steps + 1, pct_start=0.1)
        self.average = AveragedModel(link.denoiser, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        for module in link.denoiser.modules():
            if isinstance(module, SharedDropout):
                module.share = self.share
        self.objective, self.optimizer = accelerator.prepare(_Objective(link, self.share), optimizer)
        self.average.to(accelerator.device)
        self._resume()

    def train(self, progress: bool) -> dict[str, float]:
        """Take the steps that are left and put the averaged weights into the bridge; returns the last losses."""
        losses: dict[str, float] = {}
        self.objective.train()
        hide = None if progress and self.accelerator.is_main_process else True
        with tqdm(total=self.config.steps, initial=self.step, desc="bridge", unit="step", disable=hide) as bar:
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
        self.link.denoiser.load_state_dict(self.average.module.state_dict())
        return losses

    def _take_step(self) -> dict[str, Tensor]:
        device, seed = self.accelerator.device, self.config.seed * 1_000_003 + self.step
        batch = self._batch()
        pairs = self.pairs.__getitems__(batch.tolist())
        audio, text = (torch.stack(rows).to(device) for rows in zip(*pairs, strict=True))
        generator = Generator(device).manual_seed(seed * 64)
        with _seeded(seed):
            estimate = self.estimates(self.pairs.clip[batch], audio)
            parts: dict[str, Tensor] = self.objective(audio, text, estimate, generator)
            self.optimizer.zero_grad()
            # Each process has the gradients of its own rows of the one loss: their sum counts, not the average.
            self.accelerator.backward(parts["loss"] * self.share.count)
        self.accelerator.clip_grad_norm_(self.objective.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.average.update_parameters(self.link.denoiser)
        self.step += 1
        return parts

    def _batch(self) -> Tensor:
        """This process's share of the rows of this step: whole epochs, each in its own order."""
        a_epoch = len(self.pairs) // self.batch_size
        epoch, place = divmod(self.step, a_epoch)
        if place == 0 or not len(self.order):
            draw = Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
            self.order = torch.randperm(len(self.pairs), generator=draw)
        batch = self.order[place * self.batch_size : (place + 1) * self.batch_size]
        return self.share.of(batch, dim=0)

    def _save(self) -> None:
        if self.out is None or not self.accelerator.is_main_process:
            return
        optimizer = self.optimizer.state_dict()["state"]
        tensors = {f"model.{name}": value for name, value in self.link.denoiser.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        tensors |= {f"optimizer.{i}.{name}": value for i, state in optimizer.items() for name, value in state.items()}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_atomically(
            self.out / CHECKPOINT, save(tensors, metadata={"step": str(self.step), "run": self._identity()})
        )

    def _identity(self) -> str:
        """What must be equal for a checkpoint to be this run's."""
        return json.dumps([self.link.config.to_dict(), asdict(self.config), len(self.pairs), self.batch_size])

    def _resume(self) -> None:
        if self.out is None:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        path = self.out / CHECKPOINT
        if path.is_file():
            self._load(path)
        if self.log is not None:
            self.log.rewind(self.step)

    def _load(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            if file.metadata()["run"] != self._identity():
                raise ValueError(
                    f"{path} is of a run with other settings or pairs: remove it, or choose another folder"
                )
            self.step = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        self.link.denoiser.load_state_dict(_under("model.", tensors))
        self.average.load_state_dict(_under("average.", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in _under("optimizer.", tensors).items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.schedule.load_state_dict({"last_epoch": self.step - 1, "_step_count": self.step})
        self.schedule.step()


@torch.no_grad()
def gap_left(bridge: PretrainedBridge, pairs: PairedEmbeddings) -> dict[str, list[float]]:
    """The modality gap on held-out pairs, as many as are calibrated on, before and after a bridge."""
    pairs = pairs.select(range(min(pairs.clips, MAX_CLIPS)))
    audio, text = pairs.audio.cpu(), pairs.text.cpu()
    bridged = bridge_rows(bridge, audio.to(next(bridge.buffers()).device)).cpu()
    return before_and_after(*(measure(rows, text, pairs.clip, names=HEADLINE) for rows in (audio, bridged)))


def _as_pairs(pairs: Pairs) -> PairedEmbeddings:
    return pairs if isinstance(pairs, PairedEmbeddings) else PairedEmbeddings.from_tensors(*pairs)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Dropout and initialisation draw from the global generator: seed it, and give the caller's state back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
