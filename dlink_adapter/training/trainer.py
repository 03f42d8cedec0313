"""Training by `transformers.Trainer`: resumable, logged in JSONL, with the same losses for any number of processes."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler, SequentialSampler, Subset

from dlink_adapter.training.config import TrainerConfig
from dlink_adapter.training.log import LossLog
from dlink_adapter.training.processes import precision_kept, process_state

AS_THEY_ARE = (  # settings that TrainingArguments knows by the same names
    "weight_decay", "seed", "optim", "bf16", "fp16", "gradient_checkpointing", "dataloader_num_workers", "report_to",
    "deepspeed", "fsdp", "fsdp_config",
)  # fmt: skip


def run_trainer(
    model: nn.Module,
    rows: Any,
    collate: Callable[[list[Any]], dict[str, Any]],
    config: TrainerConfig,
    *,
    val: Any = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> float:
    """Train a model whose forward returns a loss, in place; returns the mean loss.

    Args:
        model: takes what `collate` makes of a list of rows, `labels` among it.
        rows: a map-style dataset of dicts; each is given a `seed` for what is drawn for it.
        val: rows of the same kind to validate on; what is best there is kept in the end.
        out: folder for checkpoints and the log; a run that was killed goes on from the last one.

    Raises:
        ValueError: a batch that the processes cannot share equally, `val` without checkpoints.
    """
    from transformers import PrinterCallback

    if val is not None and (out is None or not config.save_every):
        raise ValueError(f"validation keeps the best checkpoint: give out= and save_every (it is {config.save_every})")
    steps = config.steps_over(len(rows))
    arguments = _arguments(config, steps, out, val is not None, progress and sys.stderr.isatty())
    with _state_kept():
        stream = _Stream(rows, steps * config.batch_size, config.seed)
        trainer = _trainer_class()(model, arguments, train_dataset=stream, eval_dataset=val, data_collator=collate)
        trainer.projector_lr = config.projector_lr
        trainer.remove_callback(PrinterCallback)
        if out:
            Path(out).mkdir(parents=True, exist_ok=True)
            trainer.add_callback(_log_callback(LossLog(out)))
        found = trainer.train(resume_from_checkpoint=_last_checkpoint(out) if out else None)
        return _mean_loss(trainer.state.log_history) if out else float(found.training_loss)


def _mean_loss(history: list[dict[str, float]]) -> float:
    """The mean over all steps, and not only over those since a kill; a line has the mean since the one before."""
    lines = [line for line in history if "loss" in line]
    steps = [line["step"] for line in lines]
    lengths = [step - before for before, step in zip([0, *steps], steps, strict=False)]
    return sum(line["loss"] * length for line, length in zip(lines, lengths, strict=True)) / steps[-1]


def _last_checkpoint(out: str | Path) -> str | None:
    """The last whole one: a kill while saving leaves a folder without its state, which is written last."""
    states = Path(out).glob("checkpoint-*/trainer_state.json")
    by_step = {int(state.parent.name.removeprefix("checkpoint-")): str(state.parent) for state in states}
    return by_step[max(by_step)] if by_step else None


def _arguments(config: TrainerConfig, steps: int, out: str | Path | None, validates: bool, show: bool) -> Any:
    from transformers import TrainingArguments

    passed = {name: getattr(config, name) for name in AS_THEY_ARE}
    given = {name: value for name, value in passed.items() if value is not None and value is not False}
    arguments = TrainingArguments(
        output_dir=str(out or "."),
        max_steps=steps,
        gradient_accumulation_steps=config.gradient_accumulation,
        average_tokens_across_devices=True,
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.warmup * steps),
        save_strategy="steps" if out and config.save_every else "no",
        save_steps=config.save_every or 500,
        save_total_limit=2,
        eval_strategy="steps" if validates else "no",
        eval_steps=config.save_every or 500,
        load_best_model_at_end=validates,
        logging_strategy="steps" if out or config.report_to != "none" else "no",
        logging_steps=config.log_every,
        disable_tqdm=not show,
        use_cpu=process_state().device.type == "cpu",
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        **given,
    )
    parts = arguments.world_size * max(1, arguments.n_gpu) * config.gradient_accumulation
    if config.batch_size % parts:
        raise ValueError(f"batch_size is {config.batch_size}: it must be a multiple of its {parts} parts")
    arguments.per_device_train_batch_size = arguments.per_device_eval_batch_size = config.batch_size // parts
    return arguments


class _Stream(Dataset[dict[str, Any]]):
    """`length` samples, epoch after epoch, each shuffled by its own seed. A sample depends on its index alone."""

    def __init__(self, rows: Any, length: int, seed: int):
        self.rows, self.length, self.seed = rows, length, seed
        self.epoch, self.order = -1, torch.empty(0, dtype=torch.long)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> dict[str, Any]:
        epoch, of_epoch = divmod(place, len(self.rows))
        if epoch != self.epoch:
            draw = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self.epoch, self.order = epoch, torch.randperm(len(self.rows), generator=draw)
        return {**self.rows[int(self.order[of_epoch])], "seed": self.seed * 1_000_003 + place}


def _trainer_class() -> Any:
    """A `Trainer` that reads rows in order, validates by the mean loss of a token, and saves what training changes."""
    from safetensors.torch import load_file
    from transformers import Trainer
    from transformers.utils import SAFE_WEIGHTS_NAME

    class OurTrainer(Trainer):
        control: Any

        def create_optimizer(self, *model: Any) -> Any:
            return _with_projector_lr(super().create_optimizer(*model), self.model, self.projector_lr)

        def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
            return SequentialSampler(train_dataset or self.train_dataset)

        @torch.no_grad()
        def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
            """The mean loss of a token, which is the same however the rows are shared and batched."""
            self.model.eval()
            total = torch.zeros(2, dtype=torch.float64)  # on the CPU: not every device has float64
            for batch, counts in _evenly_shared(self.eval_dataset, self.data_collator, self.args):
                batch = self._prepare_inputs(batch)
                with self.compute_loss_context_manager():
                    loss = self.model_wrapped(**batch)["loss"].item()
                tokens = (batch["labels"] != -100).sum().item() * counts
                total += torch.tensor([loss * tokens, tokens], dtype=total.dtype)
            loss, tokens = self.accelerator.reduce(total.float().to(self.args.device), "sum").tolist()
            metrics = {f"{metric_key_prefix}_loss": loss / tokens}
            self.log(metrics)
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
            return metrics

        def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
            # Frozen weights are in the base model's folder, and saving tied weights raises an error.
            values = self.model.state_dict() if state_dict is None else state_dict
            trained = [name for name, value in self.model.named_parameters() if value.requires_grad]
            for prefix, module in self.model.named_modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    trained += [f"{prefix}.{name}" for name, _ in module.named_buffers()]
            super()._save(output_dir, {name: values[name] for name in trained})

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
            self.model.load_state_dict(load_file(Path(resume_from_checkpoint, SAFE_WEIGHTS_NAME)), strict=False)

        def _load_best_model(self) -> None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    return OurTrainer


def _with_projector_lr(optimizer: Any, model: Any, lr: float | None) -> Any:
    """The optimiser, with groups of their own for the parameters of the projector, if they have a learning rate."""
    if lr is None:
        return optimizer
    projector = set(model.projector.parameters())
    for group in list(optimizer.param_groups):
        moved = [parameter for parameter in group["params"] if parameter in projector]
        group["params"] = [parameter for parameter in group["params"] if parameter not in projector]
        optimizer.add_param_group({**group, "params": moved, "lr": lr})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    return optimizer


def _evenly_shared(rows: Any, collate: Any, arguments: Any) -> Iterator[tuple[dict[str, Tensor], int]]:
    """This process's batches, each with 1, or 0 for a filler: sharded models need equally many in all processes."""
    own = range(arguments.process_index, len(rows), arguments.world_size)
    size = arguments.per_device_eval_batch_size
    seeded = Subset(_Stream(rows, len(rows), 0), own)
    workers = arguments.dataloader_num_workers
    yield from ((batch, 1) for batch in DataLoader(seeded, size, collate_fn=collate, num_workers=workers))
    most = range(0, len(rows), arguments.world_size)
    for _ in range(-(-len(own) // size), -(-len(most) // size)):
        yield collate([_Stream(rows, len(rows), 0)[0]]), 0


def _log_callback(log: LossLog) -> Any:
    from transformers import TrainerCallback

    class Log(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                log.rewind(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if control.should_save or state.global_step == state.max_steps:
                control.should_log = True  # else a run that goes on from here would not know these losses

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            names = {"loss": "loss", "learning_rate": "lr", "eval_loss": "val_loss"}
            values = {ours: logs[theirs] for theirs, ours in names.items() if theirs in logs}
            if state.is_world_process_zero and values:
                log.write(state.global_step, **values)

    return Log()


@contextmanager
def _state_kept() -> Iterator[None]:
    """Trainer seeds every global generator and sets accelerate's precision: give the caller's states back."""
    import numpy as np

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(), precision_kept():
        yield
    random.setstate(python)
    np.random.set_state(numpy)
