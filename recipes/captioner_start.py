"""The captioner that `dlink train-captioner` starts from: a new one, or one that was trained before."""

import hashlib
from dataclasses import replace
from pathlib import Path

import torch

from dlink_adapter import PairedEmbeddings, load_bridge
from dlink_adapter.bridge.config import changed
from dlink_adapter.captioner.conditions import PseudoAudio
from dlink_adapter.captioner.config import CaptionerConfig
from dlink_adapter.captioner.model import Captioner
from dlink_adapter.integrations.causal_lm import load_captioner, new_captioner
from dlink_adapter.recipes.captioner_settings import CaptionerSettings

OF_TRAINING = ("text_condition", "sigma", "max_caption_tokens")  # settings that a saved captioner can be given anew


def captioner_to_train(
    bridge: Path | None, init: Path | None, config: CaptionerSettings, seed: int, given: Path | None, pairs: Path | None
) -> Captioner:
    """The captioner to train: that of `init`, or a new one; its pseudo-audio fitted, on `given` or on `pairs`."""
    if init is not None:
        model = _continued(init, config)
        if bridge is not None:
            model.set_bridge(load_bridge(bridge))
    elif bridge is None or not config.base_model:
        raise ValueError("give --bridge DIR and --captioner.base_model NAME, or --init DIR")
    else:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            name = config.text_condition or CaptionerConfig.text_condition
            model = new_captioner(load_bridge(bridge), CaptionerConfig(**{**vars(config), "text_condition": name}))
    condition = model.text_condition
    if isinstance(condition, PseudoAudio) and not condition.space.is_fitted:
        if (source := given or pairs) is None:
            raise ValueError("text_condition pseudo_audio is fitted on pairs: give --pseudo_audio DIR")
        heard = PairedEmbeddings.open(source)
        if fingerprint := heard.metadata.get("fingerprint"):
            model.bridge.check_encoder(fingerprint)
        condition.fit(heard)
    elif given is not None:
        raise ValueError(f"text_condition {model.settings.text_condition} has no use for --pseudo_audio: leave it out")
    return model


def _continued(init: Path, config: CaptionerSettings) -> Captioner:
    """The captioner in `init`, with what the config sets anew of `OF_TRAINING`."""
    model, new = load_captioner(init), changed(config, CaptionerSettings())
    if fixed := sorted(set(new) - set(OF_TRAINING)):
        raise ValueError(f"the captioner in {init} has its own {', '.join(fixed)}: leave that out, or --init")
    if "text_condition" in new:
        model.set_text_condition(config.text_condition, config.sigma)
    model.settings = replace(model.settings, **new)
    return model


def digest_of(path: Path) -> str:
    """A digest of pairs, of a file, or of the weights and configs in the folder of a model."""
    if (path / "header.json").is_file():
        return PairedEmbeddings.open(path, check_values=False).digest()
    parts = sorted(part for pattern in ("*.safetensors", "config.json") for part in path.rglob(pattern))
    digests = []
    for part in [path] if path.is_file() else parts:
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return " ".join(digests)
