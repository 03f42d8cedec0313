"""Text conditions: what stands in for audio while a captioner learns from captions alone.

Each maps text embeddings (n, dim) to the unit-norm condition of the captioner, given its bridge, whatever kind that is:

    clean         the caption itself
    gaussian      the caption with isotropic noise (CapDec, Nukrai et al., 2022; C3, Zhang et al., ICLR 2024)
    bridged       the caption through the bridge, with fresh noise, as in Diffusion-Link (arXiv 2510.11330); behind a
                  bridge that leaves text as it is, such as the closed forms, the same as clean
    pseudo_audio  where audio of the caption might lie, through the bridge as audio goes; ours
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from dlink_adapter.bridge.base import Bridge
from dlink_adapter.bridge.noise import Draws, normal
from dlink_adapter.bridge.press import press_ridge
from dlink_adapter.bridge.space import EmbeddingSpace
from dlink_adapter.data.embeddings import PairedEmbeddings

EXEMPLARS = 2048  # pairs whose errors are kept
FITTED_ON = 16384  # pairs, at most
NEIGHBOURS = 8  # pairs whose errors a caption draws from
SAME = 1 - 1e-4  # the cosine from which on a caption is the same


class TextCondition(nn.Module, ABC):
    """Text embeddings (n, dim) of any norm -> the captioner's condition (n, dim), unit norm, float32."""

    @property
    def training_rows(self) -> int:
        """How many embeddings of the training pairs it holds."""
        return 0

    @abstractmethod
    def forward(self, text: Tensor, bridge: Bridge, generator: Draws = None) -> Tensor:
        """Without a generator nothing is drawn."""


class Clean(TextCondition):
    """The caption's own embedding."""

    def forward(self, text: Tensor, bridge: Bridge, generator: Draws = None) -> Tensor:
        return normalize(text.float(), dim=-1)


class Gaussian(TextCondition):
    """The caption's embedding with normal noise.

    Args:
        sigma: standard deviation of the noise, per dimension of the unit-norm embedding. C3 takes sqrt(0.016).
    """

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def forward(self, text: Tensor, bridge: Bridge, generator: Draws = None) -> Tensor:
        text = normalize(text.float(), dim=-1)
        return text if generator is None else normalize(text + self.sigma * normal(text.shape, text, generator), dim=-1)


class Bridged(TextCondition):
    """One draw of the caption through the bridge, in its text-to-text role: a captioner has to meet the noise."""

    def forward(self, text: Tensor, bridge: Bridge, generator: Draws = None) -> Tensor:
        samples = None if generator is None else 1
        bridged: Tensor = bridge(text.float(), modality="text", generator=generator, samples=samples)
        return bridged


class PseudoAudio(TextCondition):
    """text W + e, in the coordinates of `EmbeddingSpace`, sent through the bridge as audio.

    W is a ridge regression from text to audio, and e the leave-one-out error of one of the `NEIGHBOURS` pairs with the
    most similar captions, drawn at random: audio scatters around what its caption says as the audio of such pairs did.
    Pairs with this very caption are left out, so that their audio is not heard.
    """

    weight: Tensor
    captions: Tensor  # (exemplars, dim), unit norm
    errors: Tensor  # (exemplars, dim)

    def __init__(self, dim: int):
        super().__init__()
        self.space = EmbeddingSpace(dim)
        self.register_buffer("weight", torch.zeros(dim, dim))
        for name in ("captions", "errors"):
            self.register_buffer(name, torch.zeros(EXEMPLARS, dim))

    @property
    def training_rows(self) -> int:
        return int(self.captions.any(-1).sum())

    @torch.no_grad()
    def fit(self, pairs: PairedEmbeddings) -> dict[str, float]:
        """Fit on pairs, of which at most `FITTED_ON` clips and their first captions are used.

        Returns:
            The strength of the ridge and the share of the variance of audio that it leaves unexplained.
        """
        device = self.weight.device
        self.cpu().space.fit(pairs.blocks("audio"), pairs.blocks("text"))  # in float64, which not every device has
        some = pairs.sample(FITTED_ON)
        audio = self.space.encode(some.audio.double())
        text = self.space.encode(some.first_captions().double(), "text")
        found = press_ridge(text, audio)
        kept = torch.randperm(len(text), generator=torch.Generator().manual_seed(0))[:EXEMPLARS]
        self.weight.copy_(found.weight)
        for buffer, rows in ((self.captions, normalize(text, dim=-1)), (self.errors, found.left_out)):
            buffer.zero_()[: len(kept)] = rows[kept]
        self.to(device)
        return {"strength": found.strength, "unexplained": round(found.error / audio.square().mean().item(), 4)}

    def forward(self, text: Tensor, bridge: Bridge, generator: Draws = None) -> Tensor:
        bridged: Tensor = bridge(self.draw(text, generator), generator=generator)
        return bridged

    def draw(self, text: Tensor, generator: Draws = None) -> Tensor:
        """Text embeddings (n, dim) -> unit-norm embeddings where their audio might lie; the mean without a generator.

        Raises ValueError before `fit`.
        """
        if not self.space.is_fitted:
            raise ValueError("pseudo-audio is not fitted: call captioner.text_condition.fit(pairs) first")
        coordinates = self.space.encode(text.float(), "text")
        audio = coordinates @ self.weight.to(coordinates)
        if generator is not None:
            audio = audio + self._errors_nearby(coordinates, generator)
        return self.space.decode(audio, "audio")

    def _errors_nearby(self, text: Tensor, generator: Draws) -> Tensor:
        captions = self.captions.to(text)
        similar = normalize(text, dim=-1) @ captions.T
        similar = similar.masked_fill((captions == 0).all(-1) | (similar > SAME), -torch.inf)
        similar, near = similar.topk(min(NEIGHBOURS, len(captions)), dim=-1)
        draws = normal(near.shape, text, generator).masked_fill(similar.isneginf(), -torch.inf)
        return self.errors.to(text)[near.gather(-1, draws.argmax(-1, keepdim=True)).squeeze(-1)]


# name -> the condition, given the width of an embedding and sigma
TEXT_CONDITIONS: dict[str, Callable[[int, float], TextCondition]] = {
    "clean": lambda dim, sigma: Clean(),
    "gaussian": lambda dim, sigma: Gaussian(sigma),
    "bridged": lambda dim, sigma: Bridged(),
    "pseudo_audio": lambda dim, sigma: PseudoAudio(dim),
}
