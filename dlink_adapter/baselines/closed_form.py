"""What the closed-form bridges share: a formula that maps audio, and text that passes through."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.bridge.base import Bridge, Descend
from dlink_adapter.bridge.config import DimConfig
from dlink_adapter.bridge.noise import Draws
from dlink_adapter.bridge.space import EmbeddingSpace, Modality
from dlink_adapter.data.embeddings import PairedEmbeddings


class ClosedForm(Bridge):
    """A deterministic bridge that is fitted by a formula. Text is text-like already and passes through unit-normed."""

    config_class = DimConfig
    data_sized: ClassVar[tuple[str, ...]] = ()  # buffers whose length is that of the training data

    def __init__(self, config: DimConfig):
        super().__init__(config)
        self.space = EmbeddingSpace(config.dim)

    @property
    def is_fitted(self) -> bool:
        return self.space.is_fitted

    def learn(self, pairs: PairedEmbeddings, descend: Descend) -> None:
        self.space.fit(pairs.blocks("audio"), pairs.blocks("text"))
        self.solve(pairs)

    def solve(self, pairs: PairedEmbeddings) -> None:
        """Find what the formula needs beside the space. What a method can set, it chooses by leaving clips out."""

    @abstractmethod
    def move(self, x: Tensor) -> Tensor:
        """float32 audio (..., dim) -> text-like (..., dim), unit norm."""

    def bridge(self, x: Tensor, modality: Modality, generator: Draws, samples: int | None) -> Tensor:
        return normalize(x, dim=-1) if modality == "text" else self.move(x)

    def clip_coordinates(self, pairs: PairedEmbeddings) -> tuple[Tensor, Tensor]:
        """A row a clip, float64: the coordinates of its audio, and the mean of those of its captions; (clips, dim)."""
        t = self.space.encode(pairs.text.double(), "text")
        captions = torch.bincount(pairs.clip, minlength=pairs.clips).unsqueeze(-1)
        mean = t.new_zeros(pairs.clips, self.dim).index_add(0, pairs.clip, t) / captions
        return self.space.encode(pairs.audio.double()), mean

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.data_sized:
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


class LinearBridge(ClosedForm):
    """a W, in the coordinates of `EmbeddingSpace`; a subclass says how W (dim, dim) is found."""

    weight: Tensor

    def __init__(self, config: DimConfig):
        super().__init__(config)
        self.register_buffer("weight", torch.zeros(config.dim, config.dim))

    def solve(self, pairs: PairedEmbeddings) -> None:
        self.weight.copy_(self.regress(*self.clip_coordinates(pairs)))

    @abstractmethod
    def regress(self, a: Tensor, t: Tensor) -> Tensor:
        """W of coordinates (clips, dim) in float64."""

    def move(self, x: Tensor) -> Tensor:
        return self.space.decode(self.space.encode(x) @ self.weight.to(x))
