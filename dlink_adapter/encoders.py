"""Encoders: what the bridge needs of a frozen two-tower model, and the catalogue of those it knows."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Encoder(Protocol):
    """A frozen encoder that puts audio and text into one space.

    `fingerprint` identifies the weights and the preprocessing: a bridge fitted on one encoder refuses the embeddings
    of another. Both methods return unit-norm float32 on the CPU, one row per item, in order.
    """

    @property
    def dim(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    def encode_audio(self, clips: Sequence[Any], /) -> Tensor:  # (n, dim)
        ...

    def encode_text(self, captions: Sequence[str], /) -> Tensor:  # (n, dim)
        ...


# name -> "module:Class". The class has a `from_pretrained(path, **options)`; its module is imported when it is used.
ENCODERS: dict[str, str] = {
    "clap": "dlink_adapter.integrations.transformers_clap:ClapEncoder",
}


def load_encoder(name: str, path: str, **options: Any) -> Encoder:
    """Loads the encoder registered as `name` from a hub id or a local folder.

    Args:
        name: a key of `ENCODERS`.
        path: given to the class's `from_pretrained`, as are the `options`.

    Raises:
        ValueError: no encoder has that name.
        ImportError: the library behind it is not installed; the message names the extra.
    """
    if name not in ENCODERS:
        raise ValueError(f"unknown encoder {name!r}; known: {', '.join(sorted(ENCODERS))}")
    module, _, attribute = ENCODERS[name].partition(":")
    return getattr(import_module(module), attribute).from_pretrained(path, **options)
