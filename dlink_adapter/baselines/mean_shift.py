"""Mean shift: the constant part of the modality gap taken out (C3, Zhang et al., ICLR 2024, as a bridge)."""

from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedForm


class MeanShift(ClosedForm):
    """x - mean(audio) + mean(text), unit-normed; the means are those of unit-normed training embeddings."""

    name = "mean_shift"

    def move(self, x: Tensor) -> Tensor:
        return normalize(normalize(x, dim=-1) - self.space.audio_mean.to(x) + self.space.text_mean.to(x), dim=-1)
