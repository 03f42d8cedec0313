"""Train a captioner behind a bridge: on captions alone (zero-shot), on audio (supervised), or on both.

dlink train-captioner --pairs pairs --bridge bridge --out zero-shot --condition text --captioner.base_model LLM
dlink train-captioner --pairs pairs --bridge bridge --out supervised --condition audio --init zero-shot
dlink train-captioner --text_embeddings text.npy --captions text.txt --bridge bridge --out zero-shot --condition text

Trained on text, the captioner sees no audio, but captions as `--captioner.text_condition` says: clean, gaussian,
bridged (as in the paper) or pseudo_audio, which is fitted on pairs. The output folder holds the captioner and
log.jsonl, the losses. A run that was stopped goes on when it is started again, and `accelerate launch -m dlink_adapter
train-captioner ...` shares each batch among processes.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

from dlink_adapter import PairedEmbeddings
from dlink_adapter.captioner.model import Captioner
from dlink_adapter.captioner.training import CaptionRows, train_captioner
from dlink_adapter.recipes.captioner_settings import CaptionerSettings
from dlink_adapter.recipes.captioner_start import captioner_to_train, digest_of
from dlink_adapter.recipes.text_rows import read_text_rows
from dlink_adapter.stages import Stages
from dlink_adapter.training.config import TrainerConfig
from dlink_adapter.training.log import LossLog
from dlink_adapter.training.processes import process_state


def main(
    *,
    out: Path,
    condition: Literal["text", "audio", "text+audio"],
    pairs: Path | None = None,
    text_embeddings: Path | None = None,
    captions: Path | None = None,
    pseudo_audio: Path | None = None,
    bridge: Path | None = None,
    init: Path | None = None,
    val: Path | None = None,
    captioner: CaptionerSettings = CaptionerSettings(),
    training: TrainerConfig = TrainerConfig(save_every=500),
) -> None:
    """Train and save a captioner.

    Args:
        out: folder for the captioner.
        condition: what it is trained on: text is captions' own embeddings and never audio, audio the clips'.
        pairs: folder of PairedEmbeddings to train on.
        text_embeddings: or, where there is text alone, a .npy or .safetensors file of a row (dim,) for each caption.
        captions: of `text_embeddings`, a text file with one a line.
        pseudo_audio: folder of PairedEmbeddings that the text condition pseudo_audio is fitted on; `pairs` by default.
        bridge: folder of the bridge; the one in `init` by default.
        init: folder of a captioner to go on from, such as one that was trained on text.
        val: folder of PairedEmbeddings to validate on, in the same condition (text: on text alone), every
            training.save_every steps; what is best there is saved in the end.
        captioner: settings of a new captioner; in `init` text_condition, sigma and max_caption_tokens can be changed.
        training: settings of the training; batch_size is over all processes.
    """
    rows, fingerprint = _rows(condition, pairs, text_embeddings, captions)
    val_rows, of_val = (None, None) if val is None else _rows(condition, val, None, None)
    if fingerprint and of_val and fingerprint != of_val:
        raise ValueError(f"pairs and val come from different encoders: {fingerprint} and {of_val}")
    given = {"pairs": pairs, "text": text_embeddings, "captions": captions, "pseudo_audio": pseudo_audio}
    given |= {"bridge": bridge, "init": init, "val": val}
    sources = {name: [str(path), digest_of(path)] for name, path in given.items() if path is not None}
    if "pairs" in sources and "val" in sources and sources["pairs"][1] == sources["val"][1]:
        raise ValueError(f"val has the very rows of pairs, {pairs}: give others, or leave it out")
    settings = {"condition": condition, **sources, "captioner": asdict(captioner), "training": asdict(training)}
    main_process = process_state().is_main_process
    new = partial(captioner_to_train, bridge, init, captioner, training.seed, pseudo_audio, pairs)
    work = partial(_train, new, fingerprint, rows, val_rows, training, out)
    found = Stages(out, 1, settings, leads=main_process)("captioner", f"train on {condition}", work)
    if main_process:
        for checkpoint in out.glob("checkpoint-*"):
            rmtree(checkpoint)
        print(f"{out}: {found['rows']} rows, mean loss {found['loss']:.4f}", end="")
        print("" if found["val_loss"] is None else f", best validation loss {found['val_loss']:.4f}")


def _train(
    new: Callable[[], Captioner], fingerprint: str | None, rows: CaptionRows, val: CaptionRows | None,
    training: TrainerConfig, out: Path,
) -> dict[str, Any]:  # fmt: skip
    model = new()
    if fingerprint is not None:
        model.bridge.check_encoder(fingerprint)
    loss = train_captioner(model, rows, val=val, config=training, out=out)
    validated = [line["val_loss"] for line in LossLog(out).read() if "val_loss" in line]
    if process_state().is_main_process:
        model.save_pretrained(out)
    process_state().wait_for_everyone()  # before any of them notes that this is done
    return {"loss": loss, "val_loss": min(validated, default=None), "rows": len(rows)}


def _rows(
    condition: str, pairs: Path | None, text: Path | None, captions: Path | None
) -> tuple[CaptionRows, str | None]:
    """The rows to train on, and the fingerprint of the encoder where it is known."""
    if (pairs is None) == (text is None and captions is None) or (text is None) != (captions is None):
        raise ValueError("give either --pairs DIR, or both --text_embeddings FILE and --captions FILE")
    if text is not None and captions is not None:
        if condition != "text":
            raise ValueError(f"--text_embeddings has no audio: condition {condition} needs --pairs")
        rows, lines = read_text_rows(text, captions)
        return CaptionRows(lines, text=rows), None
    assert pairs is not None
    data = PairedEmbeddings.open(pairs)
    return CaptionRows.of_pairs(data, condition), data.metadata.get("fingerprint")
