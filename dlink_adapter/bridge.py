"""DiffusionLink: the diffusion bridge as a drop-in module between a frozen encoder and an LLM's projector.

Audio and text embeddings are both noised; the reverse process always reconstructs the text embedding (arXiv 2510.11330).
"""

import math

import torch
from torch import Generator, Tensor, nn

from dlink_adapter.config import BridgeConfig, check_depth
from dlink_adapter.losses import denoising_loss, topology_loss
from dlink_adapter.network import Denoiser
from dlink_adapter.pretrained import PretrainedBridge
from dlink_adapter.samplers import SAMPLERS, ladder
from dlink_adapter.schedules import alpha_bars, timestep_of_cosine
from dlink_adapter.space import EmbeddingSpace


class DiffusionLink(PretrainedBridge):
    """Embeddings (..., dim) of a frozen encoder -> text-like embeddings (..., dim) of unit norm.

    An embedding is noised to `config.depth` and denoised from there in `config.steps` network calls. Train it with
    `dlink_adapter.fit`, which also calibrates the depth.
    """

    name = "diffusion_link"
    config_class = BridgeConfig
    config: BridgeConfig

    def __init__(self, config: BridgeConfig):
        super().__init__(config)
        self.space = EmbeddingSpace(config.dim)
        self.denoiser = Denoiser(config)

    @property
    def is_fitted(self) -> bool:
        return self.space.is_fitted

    @property
    def alpha_bars(self) -> tuple[float, ...]:
        """alpha_bar(t) for t = 0 ... T."""
        return alpha_bars(self.config.schedule, self.config.timesteps)

    def timestep(self, depth: int | float | None) -> int:
        """The timestep of a depth given as one or as a cosine. Raises ValueError on None: calibrate, or choose one."""
        check_depth(depth, self.config.timesteps)
        if depth is None:
            raise ValueError("this bridge has no depth: fit calibrates it, or set BridgeConfig(depth=...)")
        return timestep_of_cosine(self.alpha_bars, depth) if isinstance(depth, float) else depth

    def bridge(self, x: Tensor, modality: str, generator: Generator | None, samples: int | None) -> Tensor:
        samples = self.config.samples if samples is None else samples
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        x0 = self.space.encode(x, modality)
        rungs = ladder(self.alpha_bars, self.timestep(self.config.depth), self.config.steps)
        if len(rungs) == 1:
            return self.space.decode(self.denoise(x0, 1.0))
        noised = add_noise(x0.expand(samples, *x0.shape), torch.tensor(rungs[0]), generator)
        return self.space.decode(SAMPLERS[self.config.sampler](self.denoise, noised, rungs, generator).mean(0))

    def denoise(self, x: Tensor, alpha_bar: float) -> Tensor:
        """One network call: coordinates (..., dim) noised to alpha_bar -> reconstructed text coordinates (..., dim)."""
        return self.denoiser(x, torch.full((*x.shape[:-1], 1), alpha_bar, device=x.device))

    def loss(self, audio: Tensor, text: Tensor, *, generator: Generator | None = None) -> dict[str, Tensor]:
        """Training losses of paired embeddings, both (n, dim): `loss` and its parts (see `dlink_adapter.losses`).

        Audio and text are noised to their own random depths with independent noise; both regress to the clean text.
        Raises ValueError as `forward` does.
        """
        if audio.shape != text.shape or audio.ndim != 2 or audio.shape[-1] != self.dim:
            raise ValueError(f"expected pairs (n, {self.dim}), got audio {tuple(audio.shape)}, text {tuple(text.shape)}")
        if not torch.compiler.is_compiling():
            self.check_values(audio)
            self.check_values(text)
        target = self.space.encode(text.float(), "text")
        clean = torch.stack([self.space.encode(audio.float()), target])  # (2, n, dim)
        level = self._random_levels(clean.shape[:-1], generator, clean.device)
        from_audio, from_text = self.denoiser(add_noise(clean, level, generator), level)
        parts = {
            "denoise_audio": denoising_loss(from_audio, target),
            "denoise_text": denoising_loss(from_text, target),
            "topology": topology_loss(from_audio, target),
        }
        weights = {"denoise_audio": 1.0, "denoise_text": self.config.text_weight, "topology": self.config.topology_weight}
        return {"loss": sum((weights[name] * parts[name] for name in parts), torch.zeros_like(target[:0].sum())), **parts}

    def _random_levels(self, shape: torch.Size, generator: Generator | None, device: torch.device) -> Tensor:
        """alpha_bar at uniformly drawn timesteps 1 ... T: (*shape, 1)."""
        timestep = torch.randint(1, self.config.timesteps + 1, shape, generator=generator, device=device)
        return torch.tensor(self.alpha_bars, device=device)[timestep].unsqueeze(-1)


def add_noise(x0: Tensor, alpha_bar: Tensor, generator: Generator | None) -> Tensor:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise."""
    alpha_bar = alpha_bar.to(x0)
    noise = torch.randn(x0.shape, dtype=x0.dtype, device=x0.device, generator=generator)
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise
