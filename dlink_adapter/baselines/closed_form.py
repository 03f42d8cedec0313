"""What the closed-form bridges share: a config of one number, buffers instead of weights, `fit(audio, text)`."""

from dataclasses import dataclass

from torch import Tensor

from dlink_adapter.pretrained import PretrainedBridge
from dlink_adapter.space import EmbeddingSpace


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

    def __init__(self, config: ClosedFormConfig):
        super().__init__(config)
        self.space = EmbeddingSpace(config.dim)

    @property
    def is_fitted(self) -> bool:
        return self.space.is_fitted

    def fit(self, audio: Tensor, text: Tensor) -> None:
        """Fit on pairs, both (n, dim). Raises ValueError on shapes that do not match."""
        if audio.shape != text.shape or audio.ndim != 2 or audio.shape[-1] != self.dim:
            raise ValueError(
                f"expected pairs (n, {self.dim}), got audio {tuple(audio.shape)}, text {tuple(text.shape)}"
            )
        self.space.fit(audio, text)
