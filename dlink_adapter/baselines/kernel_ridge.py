"""Kernel ridge regression from centred audio to centred text, everything chosen by leave-one-out error."""

from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedFormBridge, ClosedFormConfig
from dlink_adapter.baselines.kernel_regression import KernelRegression
from dlink_adapter.bridge.noise import Draws


class KernelRidge(ClosedFormBridge):
    """`KernelRegression` in the coordinates of `EmbeddingSpace`. Text passes through."""

    name = "kernel_ridge"

    def __init__(self, config: ClosedFormConfig):
        super().__init__(config)
        self.regression = KernelRegression(config.dim)

    def fit(self, audio: Tensor, text: Tensor) -> None:
        super().fit(audio, text)
        settings, _ = self.regression.fit(*self.clip_coordinates(audio, text))
        self.metadata |= settings

    def bridge(self, x: Tensor, modality: str, generator: Draws, samples: int | None) -> Tensor:
        if modality == "text":
            return normalize(x, dim=-1)
        return self.space.decode(self.regression(self.space.encode(x)))
