"""ReAlign: mean and spread of audio brought to those of text, from unpaired statistics (ReVision, arXiv 2602.07026)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedFormBridge, ClosedFormConfig
from dlink_adapter.bridge.noise import Draws
from dlink_adapter.bridge.space import unit_mean


class ReAlign(ClosedFormBridge):
    """(x - mean_audio) * sqrt(trace_text / trace_audio) + mean_text, unit-normed, and its mean corrected once more.

    A trace is the mean squared distance of unit-normed embeddings to their mean. Unit norm moves the mean away from
    text's again, by `drift`, which is taken out before the last unit norm.
    """

    name = "realign"
    scale: Tensor
    drift: Tensor

    def __init__(self, config: ClosedFormConfig):
        super().__init__(config)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("drift", torch.zeros(config.dim))

    def fit(self, audio: Tensor, text: Tensor) -> None:
        super().fit(audio, text)
        self.scale.copy_((_trace(text) / _trace(audio)).sqrt())
        self.drift.copy_(unit_mean(self._affine(normalize(audio.double(), dim=-1))) - self.space.text_mean)

    def bridge(self, x: Tensor, modality: str, generator: Draws, samples: int | None) -> Tensor:
        x = normalize(x, dim=-1)
        return x if modality == "text" else normalize(normalize(self._affine(x), dim=-1) - self.drift.to(x), dim=-1)

    def _affine(self, x: Tensor) -> Tensor:
        return (x - self.space.audio_mean) * self.scale + self.space.text_mean


def _trace(x: Tensor) -> Tensor:
    return 1 - unit_mean(x).square().sum()  # of unit rows: E ||x||^2 - ||E x||^2
