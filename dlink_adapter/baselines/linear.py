"""What the linear bridges share: one matrix between the centred clouds."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedFormBridge, ClosedFormConfig
from dlink_adapter.bridge.noise import Draws


class LinearBridge(ClosedFormBridge):
    """a W, in the coordinates of `EmbeddingSpace`; a subclass says how W (dim, dim) is found. Text passes through."""

    weight: Tensor

    def __init__(self, config: ClosedFormConfig):
        super().__init__(config)
        self.register_buffer("weight", torch.zeros(config.dim, config.dim))

    def fit(self, audio: Tensor, text: Tensor) -> None:
        super().fit(audio, text)
        self.weight.copy_(self.solve(*self.clip_coordinates(audio, text)))

    def solve(self, a: Tensor, t: Tensor) -> Tensor:
        """W of coordinates (clips, dim) in float64."""
        raise NotImplementedError

    def bridge(self, x: Tensor, modality: str, generator: Draws, samples: int | None) -> Tensor:
        if modality == "text":
            return normalize(x, dim=-1)
        return self.space.decode(self.space.encode(x) @ self.weight.to(x))
