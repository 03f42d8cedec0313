"""What the two-tower models of transformers have in common here: frozen weights, a device, captions in batches."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlink_adapter.extract.encoders import check_tokenizer, encode_distinct, pooled


class TwoTowers:
    """A frozen model of audio or images and text; the encoder that it is a part of adds the other tower."""

    padding: bool | str = True
    text_inputs: tuple[str, ...] = ("input_ids", "attention_mask")

    def __init__(
        self, model: Any, tokenizer: Any, *, dim: int, room: int, id: str, revision: str | None, batch_size: int
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        check_tokenizer(tokenizer, model.config.text_config.vocab_size)
        self.model = model.float().eval().requires_grad_(False)
        self.tokenizer, self.dim, self.room = tokenizer, dim, room  # in tokens
        self.id, self.revision, self.batch_size = id, revision, batch_size

    @torch.no_grad()
    def encode_text(self, captions: Sequence[str], *, progress: bool = False) -> Tensor:
        """Captions to unit-norm embeddings `(n, dim)`; equal captions are computed once, long ones are truncated.

        Raises:
            ValueError: a caption is blank or not a string, by its place in `captions`.
        """
        return encode_distinct(
            captions, self._embed_captions, batch_size=self.batch_size, dim=self.dim, progress=progress
        )

    def _embed_captions(self, batch: list[str]) -> Tensor:
        tokens = self.tokenizer(batch, padding=self.padding, truncation=True, max_length=self.room, return_tensors="pt")
        inputs = {name: tokens[name].to(self.model.device) for name in self.text_inputs}
        return pooled(self.model.get_text_features(**inputs), self.dim)


def on_device(model: Any, device: str | torch.device | None) -> Any:
    """The model where it was asked for, else on CUDA where there is one."""
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def settings_of(*sources: tuple[Any, tuple[str, ...]]) -> list[dict[str, Any]]:
    """The values of some attributes of each source, for a fingerprint."""
    return [{name: getattr(source, name) for name in names} for source, names in sources]
