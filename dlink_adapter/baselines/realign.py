"""ReAlign: mean and spread of audio brought to those of text, from unpaired statistics (ReVision, arXiv 2602.07026)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedForm
from dlink_adapter.bridge.config import DimConfig
from dlink_adapter.bridge.space import unit_mean
from dlink_adapter.data.embeddings import PairedEmbeddings


class ReAlign(ClosedForm):
    """(x - mean_audio) * radius_text / radius_audio + mean_text, unit-normed, and its mean corrected once more.

    Unit norm moves the mean away from that of text by `drift`, which is taken out before the last unit norm.
    """

    name = "realign"
    drift: Tensor

    def __init__(self, config: DimConfig):
        super().__init__(config)
        self.register_buffer("drift", torch.zeros(config.dim))

    def solve(self, pairs: PairedEmbeddings) -> None:
        moved = (self.space.decode(self.space.encode(rows.double())) for rows in pairs.blocks("audio"))
        self.drift.copy_(unit_mean(moved) - self.space.text_mean.cpu())

    def move(self, x: Tensor) -> Tensor:
        return normalize(self.space.decode(self.space.encode(x)) - self.drift.to(x), dim=-1)
