"""What every bridge that is fitted on pairs has in common: how it is fitted and called."""

from abc import abstractmethod
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dlink_adapter.bridge.card import model_card
from dlink_adapter.bridge.noise import Draws
from dlink_adapter.bridge.pretrained import Pretrained
from dlink_adapter.bridge.space import EmbeddingSpace, Modality, check_modality, within_range
from dlink_adapter.data.embeddings import PairedEmbeddings

ROWS_AT_ONCE = 512  # each may be sent through the bridge with every sample of its noise


class Bridge(Pretrained):
    """A map (..., dim) -> (..., dim) from an encoder's embeddings to text-like ones, fitted on pairs.

    A subclass has a `name`, a frozen dataclass `config_class` with at least `dim`, and the abstract methods below.
    Its `metadata` have the encoder's fingerprint and what calibration measured.
    """

    @property
    def training_rows(self) -> int:
        """How many embeddings of the training pairs the weights hold."""
        return 0

    @property
    @abstractmethod
    def is_fitted(self) -> bool:
        """Whether the bridge can be called."""

    @abstractmethod
    def learn(self, pairs: PairedEmbeddings, descend: "Descend") -> None:
        """Fit on pairs. A network is trained by `descend(bridge, pairs)`; a formula does without it."""

    def calibrate(self, train: PairedEmbeddings, val: PairedEmbeddings) -> None:
        """Choose on held-out pairs what the training pairs cannot tell. Most bridges have nothing to choose."""

    @abstractmethod
    def bridge(self, x: Tensor, modality: Modality, generator: Draws, samples: int | None) -> Tensor:
        """float32 (..., dim) -> float32 (..., dim), unit norm."""

    def fit(
        self, pairs: Any, *, val: Any = None, config: Any = None, out: str | Path | None = None, progress: bool = True
    ) -> dict[str, Any]:
        """Fit on pairs (n, dim), calibrate on held-out ones, measure and save; see `dlink_adapter.fit`."""
        from dlink_adapter.training.fit import fit  # imported here: training knows bridges, and no bridge training

        return fit(self, pairs, val=val, config=config, out=out, progress=progress)

    def forward(
        self, x: Tensor, *, modality: Modality = "audio", generator: Draws = None, samples: int | None = None
    ) -> Tensor:
        """Embeddings (..., dim) of any norm -> unit-norm text-like embeddings (..., dim) of the same dtype and device.

        Args:
            x: the encoder's output. Any leading axes, none included; an empty batch is fine.
            modality: "audio" for the tower that is bridged (also where it sees images), "text" for captions.
            generator: makes a stochastic bridge repeatable, bit for bit; or one for each row of x (n, dim), so that
                what becomes of a row does not depend on the rows beside it.
            samples: reconstructions to average; None takes the config's. Deterministic bridges ignore both.

        Raises:
            ValueError: a wrong width, NaN, Inf, a zero vector, a bridge that was not fitted, an unknown modality.
            TypeError: not a tensor.
        """
        check_modality(modality)
        if not isinstance(x, Tensor):
            raise TypeError(f"expected a tensor (..., {self.dim}), got {type(x).__name__}: torch.as_tensor makes one")
        if not x.is_floating_point() or x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"expected floating-point embeddings (..., {self.dim}), got {tuple(x.shape)} {x.dtype}")
        if not torch.compiler.is_compiling():  # looking at values would break the graph
            self.check_values(x)
        device = "cpu" if x.device.type == "meta" else x.device.type  # autocast does not know the meta device
        with torch.autocast(device, enabled=False):
            return self.bridge(within_range(x.float()), modality, generator, samples).to(x.dtype)

    @torch.no_grad()
    def map_rows(self, x: Tensor, modality: Modality = "audio", *, seed: int | None = None) -> Tensor:
        """`forward` in eval mode of any number of rows x (n, dim), some at a time: float32 on the CPU.

        With a seed each row is one draw with noise of its own, where the bridge is stochastic.
        """
        device, mode = next(chain(self.parameters(), self.buffers())).device, self.training
        draw = {} if seed is None else {"generator": Generator(device).manual_seed(seed), "samples": 1}
        self.eval()
        mapped = [self(rows.to(device).float(), modality=modality, **draw).cpu() for rows in x.split(ROWS_AT_ONCE)]
        self.train(mode)
        return torch.cat(mapped)

    def check_values(self, x: Tensor) -> None:
        """Raise ValueError if the bridge is not fitted, or a row of x (..., dim) is zero or not finite."""
        if x.device.type == "meta":
            return
        if not self.is_fitted:
            raise ValueError(
                f"this {type(self).__name__} is not fitted: call fit on pairs, or load one with from_pretrained"
            )
        largest = x.detach().float().abs().amax(dim=-1)
        bad = (~largest.isfinite() | (largest == 0)).nonzero()
        if len(bad):
            where = tuple(bad[0].tolist())
            raise ValueError(
                f"embedding {where} of {tuple(x.shape)} is zero, or has NaN or Inf: {x[where].flatten()[:4]}"
            )

    def check_encoder(self, fingerprint: str) -> None:
        """Raise ValueError if the bridge was fitted on embeddings of another encoder than this fingerprint's."""
        fitted_on = self.metadata.get("fingerprint")
        if fitted_on is not None and fitted_on != fingerprint:
            raise ValueError(
                f"this bridge was fitted on the encoder {fitted_on}, these embeddings come from {fingerprint}: "
                "fit a bridge for this encoder, or encode with the other one"
            )

    def card(self) -> str:
        return model_card(self.name, self.settings(), self.metadata, self.training_rows)


class TrainedBridge(Bridge):
    """A bridge with a network, `denoiser`, that is trained by gradient descent on `loss`, in an `EmbeddingSpace`."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.space = EmbeddingSpace(config.dim)
        self.denoiser = self.new_denoiser()

    @property
    def is_fitted(self) -> bool:
        return self.space.is_fitted

    @abstractmethod
    def new_denoiser(self) -> nn.Module:
        """An untrained network, its weights drawn from the global generator."""

    @abstractmethod
    def loss(self, audio: Tensor, text: Tensor, *, generator: Generator | None = None) -> dict[str, Tensor]:
        """Training losses of pairs, both (n, dim): `loss`, and its parts by name.

        The network is called once, on tensors whose first axis is that of the rows, so that rows can be shared among
        processes. Raises ValueError as `forward` does.
        """

    def learn(self, pairs: PairedEmbeddings, descend: "Descend") -> None:
        self.space.fit(pairs.blocks("audio"), pairs.blocks("text"))
        descend(self, pairs)

    def check_pairs(self, audio: Tensor, text: Tensor) -> None:
        """Raise ValueError unless both are (n, dim), finite and not zero."""
        if audio.shape != text.shape or audio.ndim != 2 or audio.shape[-1] != self.dim:
            raise ValueError(
                f"expected pairs (n, {self.dim}), got audio {tuple(audio.shape)}, text {tuple(text.shape)}"
            )
        if not torch.compiler.is_compiling():
            self.check_values(audio)
            self.check_values(text)


Descend = Callable[[TrainedBridge, PairedEmbeddings], None]
