"""Host models: where, in a model with its own encoder and language model, the encoder's output meets the projector.

A host is data, not code. Its entry is keyed by `model.config.model_type`, and `attach(model, link)` looks it up.
"""

from dataclasses import dataclass
from functools import reduce

from torch import nn


@dataclass(frozen=True)
class Host:
    """Where a bridge goes in one family of host models.

    Args:
        target: dotted path of the projector; the end of the path is enough where it is unique, so that one entry fits
            the bare model, the one with a head, and the older layouts.
        encoder_dim: dotted path, in the host's config, of the width of what enters the projector.
        note: what enters the projector, for people.
    """

    target: str
    encoder_dim: str | None = None
    note: str = ""


HOSTS: dict[str, Host] = {
    "llava": Host("multi_modal_projector", "vision_config.hidden_size", "one vector a patch, from one vision layer"),
    "qwen2_audio": Host("multi_modal_projector", "audio_config.d_model", "one vector every 40 ms, after pooling"),
}


def register_host(model_type: str, host: Host) -> None:
    """Make `attach(model, link)` know the models whose `config.model_type` is `model_type`.

    Raises:
        ValueError: another host is registered under that name.
    """
    if HOSTS.setdefault(model_type, host) != host:
        raise ValueError(f"host {model_type!r} is registered already, as {HOSTS[model_type]}")


def host_of(model: nn.Module, dim: int | None = None) -> Host:
    """The entry of HOSTS for `model`, by its `config.model_type`.

    Args:
        model: a transformers model, or any module with a `config` like theirs.
        dim: width of the bridge, held against the encoder's where both are known.

    Raises:
        ValueError: no entry, or an encoder of another width.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", None)
    if model_type not in HOSTS:
        raise ValueError(
            f"{type(model).__name__} is no known host (config.model_type is {model_type!r}; known: {', '.join(HOSTS)})"
            ': give target="dotted.path.of.the.projector", or register_host'
        )
    host = HOSTS[model_type]
    if host.encoder_dim is not None and dim is not None:
        width = reduce(getattr, host.encoder_dim.split("."), config)
        if width != dim:
            raise ValueError(f"the bridge has dim {dim}, this {model_type}'s config.{host.encoder_dim} is {width}")
    return host
