"""Settings of a captioner, and the JSON file that keeps them in its folder.

The file names the base model by hub id, or by a path relative to the folder, so that a folder that holds both can be
moved. A digest of the bridge's weights tells whether the bridge is the one that the captioner was trained with.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dlink_adapter.bridge.config import from_known
from dlink_adapter.bridge.hub import WEIGHTS_FILE
from dlink_adapter.files import write_atomically

CONFIG_FILE, BRIDGE_FOLDER = "captioner.json", "bridge"
PATHS = ("base_model", "encoder_path")  # hub ids, or folders that are saved relative to the captioner's
BRIDGE_KEY = "bridge_sha256"


@dataclass(frozen=True)
class CaptionerConfig:
    """Settings of a captioner, ours.

    Args:
        base_model: hub id or folder of the causal language model.
        prefix_tokens: vectors that an embedding becomes.
        hidden: width of the projector's hidden layer.
        before: prompt before the prefix, after BOS.
        after: prompt between the prefix and the caption.
        chat: `before`, prefix and `after` are a user's turn in the tokenizer's chat template, the caption the answer.
        tuning: "frozen", "lora" or "full".
        quantize: "nf4", "fp4", "int8" or None, by bitsandbytes.
        lora_r, lora_alpha, lora_dropout: of the LoRA adapter.
        target_modules: layers with LoRA, commas between their names, or "all-linear"; None for those that peft has for
            the model's family (query and value projections of a LLaMA).
        max_caption_tokens: longer captions are cut in training, and generation stops there.
        encoder: name in `ENCODERS` of the frozen encoder, for captioning files.
        encoder_path: its hub id, folder or shipped name.
        text_condition: what captions become while training on text: a name in `TEXT_CONDITIONS`.
        sigma: of the condition "gaussian", per dimension of the unit-norm embedding.
    """

    base_model: str = ""
    prefix_tokens: int = 8
    hidden: int = 512
    before: str = ""
    after: str = ""
    chat: bool = False
    tuning: str = "lora"
    quantize: str | None = None
    lora_r: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.05
    target_modules: str | None = None
    max_caption_tokens: int = 64
    encoder: str = ""
    encoder_path: str = ""
    text_condition: str = "bridged"
    sigma: float = 0.0

    def __post_init__(self) -> None:
        from dlink_adapter.captioner.conditions import TEXT_CONDITIONS  # this imports torch, and help does not need it

        if self.tuning not in ("frozen", "lora", "full"):
            raise ValueError(f"tuning is {self.tuning!r}: expected frozen, lora or full")
        if self.quantize not in (None, "nf4", "fp4", "int8"):
            raise ValueError(f"quantize is {self.quantize!r}: expected nf4, fp4, int8 or nothing")
        if self.quantize and self.tuning == "full":
            raise ValueError("a quantised model cannot be tuned in full: use tuning lora or frozen")
        if min(self.prefix_tokens, self.hidden, self.max_caption_tokens) < 1:
            raise ValueError(f"prefix_tokens, hidden and max_caption_tokens must be at least 1: {self}")
        if self.text_condition not in TEXT_CONDITIONS:
            raise ValueError(f"text_condition is {self.text_condition!r}: expected {', '.join(TEXT_CONDITIONS)}")
        if self.sigma < 0 or (self.sigma > 0) != (self.text_condition == "gaussian"):
            raise ValueError(
                f"sigma is {self.sigma} and text_condition {self.text_condition}: gaussian alone takes one"
            )


def write_captioner_config(folder: Path, config: CaptionerConfig) -> CaptionerConfig:
    """Write a captioner's config into its folder, which has the bridge already, and return it as written."""
    folders = {name: path for name in PATHS if (path := getattr(config, name)) and Path(path).is_dir()}
    relative: dict[str, Any] = {name: os.path.relpath(path, folder) for name, path in folders.items()}
    written = replace(config, **relative)
    values = {**asdict(written), BRIDGE_KEY: bridge_digest(folder)}
    write_atomically(folder / CONFIG_FILE, json.dumps(values, indent=2))
    return written


def read_captioner_config(folder: str | Path) -> CaptionerConfig:
    """The config of a saved captioner, its base model found from that folder.

    Raises:
        FileNotFoundError: no captioner there.
        ValueError: unknown settings, or another bridge in the folder than the captioner was saved with.
    """
    path = Path(folder, CONFIG_FILE)
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no {CONFIG_FILE}: it is not a saved captioner")
    values = json.loads(path.read_text(encoding="utf-8"))
    digest = values.pop(BRIDGE_KEY, None)  # captioners of version 0.1.0 have none
    if digest is not None and digest != bridge_digest(Path(folder)):
        raise ValueError(
            f"{folder} was saved with another bridge than the one in {BRIDGE_FOLDER}/: put that one back, or train "
            "again"
        )
    for name in PATHS:
        beside = Path(os.path.normpath(Path(folder, values.get(name, ""))))
        if values.get(name) and beside.is_dir():
            values[name] = str(beside)
    config: CaptionerConfig = from_known(CaptionerConfig, values)
    return config


def bridge_digest(folder: Path) -> str:
    """SHA-256 of the weights of the bridge in a captioner's folder."""
    return hashlib.sha256((folder / BRIDGE_FOLDER / WEIGHTS_FILE).read_bytes()).hexdigest()
