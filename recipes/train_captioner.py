"""Train a captioner behind a bridge: on captions alone (zero-shot), on audio (supervised), or on both.

dlink train-captioner --pairs pairs --bridge bridge --out zero-shot --condition text --captioner.base_model LLM
dlink train-captioner --pairs pairs --bridge bridge --out supervised --condition audio --init zero-shot
dlink train-captioner --text_embeddings text.npy --captions text.txt --bridge bridge --out zero-shot --condition text

Trained on text, the captioner sees captions that went through the bridge in its text-to-text role, and no audio. The
output folder holds the captioner and log.jsonl, the losses. A run that was stopped goes on when it is started again,
and `accelerate launch -m dlink_adapter train-captioner ...` shares each batch among processes.
"""

from dataclasses import asdict, replace
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import torch

from dlink_adapter import PairedEmbeddings, load_bridge
from dlink_adapter.bridge.config import changed
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.captioner.model import Captioner
from dlink_adapter.captioner.training import CaptionRows, train_captioner
from dlink_adapter.integrations.causal_lm import load_captioner, new_captioner
from dlink_adapter.integrations.precomputed import read_array
from dlink_adapter.stages import Stages
from dlink_adapter.training.log import LossLog
from dlink_adapter.training.processes import process_state
from dlink_adapter.training.trainer import TrainerConfig

OF_TRAINING = ("fresh_noise", "noise", "max_caption_tokens")  # settings that a saved captioner can be given anew


def main(
    *,
    out: Path,
    condition: Literal["text", "audio", "text+audio"],
    pairs: Path | None = None,
    text_embeddings: Path | None = None,
    captions: Path | None = None,
    bridge: Path | None = None,
    init: Path | None = None,
    val: Path | None = None,
    captioner: CaptionerConfig = CaptionerConfig(),
    training: TrainerConfig = TrainerConfig(save_every=500),
) -> None:
    """Train and save a captioner.

    Args:
        out: folder for the captioner.
        condition: what it is trained on: text is captions' own embeddings and never audio, audio the clips'.
        pairs: folder of PairedEmbeddings to train on.
        text_embeddings: or, where there is text alone, a .npy or .safetensors file of a row (dim,) for each caption.
        captions: of `text_embeddings`, a text file with one a line.
        bridge: folder of the bridge; the one in `init` by default.
        init: folder of a captioner to go on from, such as one that was trained on text.
        val: folder of PairedEmbeddings to validate on, in the same condition (text: on text alone), every
            training.save_every steps; what is best there is saved in the end.
        captioner: settings of a new captioner; of `init` only fresh_noise, noise and max_caption_tokens can be changed.
        training: settings of the training; batch_size is over all processes.
    """
    rows, fingerprint = _rows(condition, pairs, text_embeddings, captions)
    val_rows, _ = (None, None) if val is None else _rows(condition, val, None, None)
    given = {"pairs": pairs, "text": text_embeddings, "captions": captions, "bridge": bridge, "init": init, "val": val}
    sources = {name: str(path) for name, path in given.items() if path is not None}
    settings = {"condition": condition, **sources, "captioner": asdict(captioner), "training": asdict(training)}

    def train() -> dict[str, Any]:
        model = _captioner(bridge, init, captioner, training.seed)
        if fingerprint is not None:
            model.bridge.check_encoder(fingerprint)
        loss = train_captioner(model, rows, val=val_rows, config=training, out=out)
        validated = [line["val_loss"] for line in LossLog(out).read() if "val_loss" in line]
        if process_state().is_main_process:
            model.save_pretrained(out)
        process_state().wait_for_everyone()  # before any of them notes that this is done
        return {"loss": loss, "val_loss": min(validated, default=None), "rows": len(rows)}

    process_state()
    found = Stages(out, 1, settings, show=process_state().is_main_process)("captioner", f"train on {condition}", train)
    if process_state().is_main_process:
        for checkpoint in out.glob("checkpoint-*"):
            rmtree(checkpoint)
        print(f"{out}: {found['rows']} rows, mean loss {found['loss']:.4f}", end="")
        print("" if found["val_loss"] is None else f", best validation loss {found['val_loss']:.4f}")


def _rows(
    condition: str, pairs: Path | None, text: Path | None, captions: Path | None
) -> tuple[CaptionRows, str | None]:
    """The rows to train on, and the fingerprint of the encoder where it is known."""
    if (pairs is None) == (text is None and captions is None) or (text is None) != (captions is None):
        raise ValueError("give either --pairs DIR, or both --text_embeddings FILE and --captions FILE")
    if text is not None and captions is not None:
        if condition != "text":
            raise ValueError(f"--text_embeddings has no audio: condition {condition} needs --pairs")
        lines = captions.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        return CaptionRows(lines, text=torch.from_numpy(read_array(text))), None
    assert pairs is not None
    data = PairedEmbeddings.open(pairs)
    return CaptionRows.of_pairs(data, condition), data.metadata.get("fingerprint")


def _captioner(bridge: Path | None, init: Path | None, config: CaptionerConfig, seed: int) -> Captioner:
    if init is not None:
        loaded = load_captioner(init)
        new = changed(config, CaptionerConfig())
        if fixed := sorted(set(new) - set(OF_TRAINING)):
            raise ValueError(f"the captioner in {init} has its own {', '.join(fixed)}: leave that out, or --init")
        loaded.settings = replace(loaded.settings, **new)
        if bridge is not None:
            loaded.set_bridge(load_bridge(bridge))
        return loaded
    if bridge is None or not config.base_model:
        raise ValueError("give --bridge DIR and --captioner.base_model NAME, or --init DIR")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return new_captioner(load_bridge(bridge), config)
