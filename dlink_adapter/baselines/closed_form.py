"""What the closed-form bridges share: a config of one number, buffers instead of weights, `fit(audio, text)`."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlink_adapter.bridge.base import PretrainedBridge
from dlink_adapter.bridge.space import EmbeddingSpace


@dataclass(frozen=True)
class ClosedFormConfig:
    """dim: width of the encoder's embeddings."""

    dim: int

    def __post_init__(self) -> None:
        if not isinstance(self.dim, int) or self.dim < 1:
            raise ValueError(f"dim is {self.dim!r}: it must be an int of at least 1")


class ClosedFormBridge(PretrainedBridge):
    """A deterministic bridge that is fitted by a formula. Text is text-like already and passes through unit-normed."""

    config_class = ClosedFormConfig
    data_sized: ClassVar[tuple[str, ...]] = ()  # buffers whose length is that of the training data

    def __init__(self, config: ClosedFormConfig):
        super().__init__(config)
        self.space = EmbeddingSpace(config.dim)

    @property
    def is_fitted(self) -> bool:
        return self.space.is_fitted

    def fit(self, audio: Tensor, text: Tensor) -> None:
        """Fit on pairs, both (n, dim). What a method can set, it chooses on these pairs by leaving some out.

        A clip with several captions comes as a run of equal audio rows. Raises ValueError on shapes that do not match.
        """
        if audio.shape != text.shape or audio.ndim != 2 or audio.shape[-1] != self.dim:
            raise ValueError(
                f"expected pairs (n, {self.dim}), got audio {tuple(audio.shape)}, text {tuple(text.shape)}"
            )
        self.space.fit(audio, text)

    def clip_coordinates(self, audio: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (n, dim) in the space's coordinates, float64, a row a clip: its audio, and the mean of its captions.

        So that leaving one out leaves a clip out: its other captions would give the answer away.
        """
        first, count = clip_runs(audio)
        owner = torch.arange(len(first), device=audio.device).repeat_interleave(count)
        t = self.space.encode(text.double(), "text")
        summed = t.new_zeros(len(first), self.dim).index_add(0, owner, t)
        return self.space.encode(audio[first].double()), summed / count.unsqueeze(-1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in self.data_sized:
            if prefix + name in state_dict:
                setattr(self, name, getattr(self, name).new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *args)


def clip_runs(audio: Tensor) -> tuple[Tensor, Tensor]:
    """Where each run of equal rows of audio (n, dim) starts, and how long it is: the captions of a clip."""
    starts = torch.ones(len(audio), dtype=torch.bool, device=audio.device)
    starts[1:] = (audio[1:] != audio[:-1]).any(-1)
    first = starts.nonzero().flatten()
    return first, torch.diff(first, append=first.new_tensor([len(audio)]))
