"""What the encoders of transformers' two-tower models share: frozen weights, a device, captions in batches."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from dlink_adapter.bridge.hub import resolve_folder
from dlink_adapter.extract.encoders import check_tokenizer, encode_distinct, pooled


class TwoTowers:
    """Base class of encoders with a frozen two-tower model. It encodes text; a subclass adds audio or images.

    A subclass names the `config.model_type` of its models and the Auto class of their preprocessor.
    """

    model_types: tuple[str, ...]
    processor_class: Any
    shipped: ClassVar[dict[str, Path]] = {}  # models that come with the package, by name
    padding: bool | str = True
    text_inputs: tuple[str, ...] = ("input_ids", "attention_mask")

    def __init__(
        self, model: Any, tokenizer: Any, *, dim: int, max_tokens: int, id: str, revision: str | None, batch_size: int
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        check_tokenizer(tokenizer, model.config.text_config.vocab_size)
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer, self.dim, self.max_tokens = tokenizer, dim, max_tokens
        self.id, self.revision, self.batch_size = id, revision, batch_size

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
    ) -> Self:
        """Loads a model from the hub or a folder.

        Args:
            name_or_path: hub id, a folder with the model, tokenizer and preprocessor, or the name of a model that comes
                with the package: "small" is a small CLAP (`./small` is a folder of that name).
            revision: branch, tag or commit on the hub.
            device: where the model runs; by default CUDA where there is one.
            batch_size: windows, images or captions in a forward pass.

        Raises:
            FileNotFoundError: there is no such model, or the hub cannot be reached.
            ValueError: it is of another type, its tokenizer came back without a vocabulary, or a revision of a model
                that comes with the package.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        id = name = str(name_or_path)
        if isinstance(name_or_path, str) and name_or_path in cls.shipped:
            if revision is not None:
                raise ValueError(f"revision is {revision!r}: {id!r} comes with the package and has none")
            name = str(cls.shipped[name_or_path])
        resolve_folder(name, ("config.json",), revision=revision)  # soon says what transformers says after retries
        model_type = AutoConfig.from_pretrained(name, revision=revision).model_type
        if model_type not in cls.model_types:
            raise ValueError(f"{name} is a {model_type} model: {cls.__name__} takes {' and '.join(cls.model_types)}")
        model = on_device(AutoModel.from_pretrained(name, revision=revision), device)
        processor = cls.processor_class.from_pretrained(name, revision=revision)
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        revision = revision or getattr(model.config, "_commit_hash", None)  # which a model from a folder lacks
        encoder_class: Any = cls  # a subclass, which takes a processor too
        return encoder_class(model, processor, tokenizer, id=id, revision=revision, batch_size=batch_size)

    @torch.no_grad()
    def encode_text(self, captions: Iterable[str], *, progress: bool = False) -> Tensor:
        """Captions to unit-norm embeddings `(n, dim)`; equal captions are computed once, long ones are truncated.

        Raises:
            ValueError: a caption is blank or not a string, by its place in `captions`.
        """
        return encode_distinct(
            captions, self._embed_captions, batch_size=self.batch_size, dim=self.dim, progress=progress
        )

    def _embed_captions(self, batch: list[str]) -> Tensor:
        tokens = self.tokenizer(
            batch, padding=self.padding, truncation=True, max_length=self.max_tokens, return_tensors="pt"
        )
        inputs = {name: tokens[name].to(self.model.device) for name in self.text_inputs}
        return pooled(self.model.get_text_features(**inputs), self.dim)


def on_device(model: Any, device: str | torch.device | None) -> Any:
    """The model on the given device; by default on CUDA where there is one."""
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def settings_of(*sources: tuple[Any, tuple[str, ...]]) -> list[dict[str, Any]]:
    """The values of the named attributes of each source, for a fingerprint."""
    return [{name: getattr(source, name) for name in names} for source, names in sources]
