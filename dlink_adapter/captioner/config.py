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

from dlink_adapter import __version__
from dlink_adapter.bridge.config import from_known
from dlink_adapter.bridge.hub import WEIGHTS_FILE, settings_in
from dlink_adapter.files import read_json, write_atomically
from dlink_adapter.folders import CAPTIONER_FILE, is_path, wrong_folder

BRIDGE_FOLDER = "bridge"
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
        use_rslora: scale LoRA by lora_alpha / sqrt(lora_r) in place of lora_alpha / lora_r (rsLoRA).
        use_dora: let LoRA turn the weights, and train their lengths besides (DoRA).
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
    use_rslora: bool = False
    use_dora: bool = False
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
    named = {name: getattr(config, name) for name in PATHS if getattr(config, name)}
    folders = {name: path for name, path in named.items() if is_path(path) or Path(path).is_dir()}
    relative: dict[str, Any] = {name: _relative(path, folder) for name, path in folders.items()}
    written = replace(config, **relative)
    values = {"version": __version__, **asdict(written), BRIDGE_KEY: bridge_digest(folder)}
    write_atomically(folder / CAPTIONER_FILE, json.dumps(values, indent=2))
    return written


def _relative(path: str, folder: Path) -> str:
    """The path from a folder on, with a dot in front, by which `is_path` knows it."""
    relative = Path(os.path.relpath(path, folder)).as_posix()
    return relative if is_path(relative) else f"./{relative}"


def read_captioner_config(folder: str | Path) -> CaptionerConfig:
    """The config of a saved captioner, its base model and its encoder found from that folder.

    Raises:
        FileNotFoundError: no captioner there, or not its base model.
        ValueError: unknown settings, or another bridge in the folder than the captioner was saved with.
    """
    path = Path(folder, CAPTIONER_FILE)
    if not path.is_file():
        raise wrong_folder(Path(folder), CAPTIONER_FILE, "a saved captioner")
    values = read_json(path)
    version, digest = values.pop("version", None), values.pop(BRIDGE_KEY, None)  # the first captioners have neither
    with settings_in(path, version):
        config: CaptionerConfig = from_known(CaptionerConfig, values)
    if digest is not None and digest != bridge_digest(Path(folder)):
        raise ValueError(
            f"{folder} was saved with another bridge than the one in {BRIDGE_FOLDER}/: put that one back, or train "
            "again"
        )
    found = {name: places(getattr(config, name), Path(folder)) for name in PATHS}
    if is_path(config.base_model) and not Path(found["base_model"][0]).is_dir():
        raise FileNotFoundError(
            f"{path}: the base model {config.base_model} is missing, looked for {', '.join(found['base_model'])}: put "
            "it there, or write its folder or hub id into base_model"
        )
    here: dict[str, Any] = {name: of_name[0] for name, of_name in found.items()}
    return replace(config, **here)


def places(name: str, folder: Path) -> list[str]:
    """Where a model may be that a captioner in this folder names, what is there first.

    A path leads on from the folder; a captioner that was moved has its model inside its folder or beside it. A hub id
    is one place, unless the folder holds a folder of that name.
    """
    inside = [name, Path(name).name, str(Path("..", Path(name).name))] if is_path(name) else [name]
    paths = [os.path.normpath(folder / place) for place in inside if name]
    there = [path for path in paths if Path(path).is_dir()]
    return list(dict.fromkeys(there + paths)) if is_path(name) or there else [name]


def bridge_digest(folder: Path) -> str:
    """SHA-256 of the weights of the bridge in a captioner's folder."""
    return hashlib.sha256((folder / BRIDGE_FOLDER / WEIGHTS_FILE).read_bytes()).hexdigest()
