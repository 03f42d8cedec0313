"""Mean shift: the constant part of the modality gap taken out (C3, Zhang et al., ICLR 2024, as a bridge)."""

from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedFormBridge
from dlink_adapter.bridge.noise import Draws


class MeanShift(ClosedFormBridge):
    """x - mean(audio) + mean(text), unit-normed; the means are those of unit-normed training embeddings."""

    name = "mean_shift"

    def bridge(self, x: Tensor, modality: str, generator: Draws, samples: int | None) -> Tensor:
        x = normalize(x, dim=-1)
        return x if modality == "text" else normalize(x + (self.space.text_mean - self.space.audio_mean).to(x), dim=-1)
