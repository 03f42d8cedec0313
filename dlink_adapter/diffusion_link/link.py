"""DiffusionLink: the diffusion bridge as a drop-in module between a frozen encoder and an LLM's projector.

Audio and text embeddings are both noised; the reverse process always reconstructs the text (arXiv 2510.11330).
"""

import torch
from torch import Generator, Tensor

from dlink_adapter.baselines.kernel_regression import KernelRegression
from dlink_adapter.bridge.base import PretrainedBridge
from dlink_adapter.bridge.config import BridgeConfig, check_depth
from dlink_adapter.bridge.noise import ALONE, Draws, Share, normal
from dlink_adapter.bridge.space import EmbeddingSpace
from dlink_adapter.captioner.pseudo_audio import PseudoAudio
from dlink_adapter.diffusion_link.losses import contrastive_loss, denoising_loss, topology_loss
from dlink_adapter.diffusion_link.network import Denoiser
from dlink_adapter.diffusion_link.samplers import SAMPLERS, ladder
from dlink_adapter.diffusion_link.schedules import alpha_bars, timestep_of_cosine


class DiffusionLink(PretrainedBridge):
    """Embeddings (..., dim) of a frozen encoder -> text-like embeddings (..., dim) of unit norm.

    An embedding is noised to `config.depth` and denoised from there in `config.steps` network calls, `config.samples`
    times, and the reconstructions are averaged. What the network adds to is a kernel ridge estimate from the clean
    embedding, and it adds as much (`gain`) as held-out pairs say is worth it. Captions go the same way once they are
    pseudo-audio. In eval mode the noise is fixed, so that the module is a function; in train mode, or with a generator,
    every embedding has noise of its own. `dlink_adapter.fit` trains and calibrates it.
    """

    name = "diffusion_link"
    config_class = BridgeConfig
    fixed_noise: Tensor
    gain: Tensor  # the share of what the network adds that is kept, chosen on held-out pairs

    def __init__(self, config: BridgeConfig):
        super().__init__(config)
        self.space = EmbeddingSpace(config.dim)
        self.denoiser = Denoiser(config)
        self.kernel = KernelRegression(config.dim, config.landmarks)
        self.pseudo_audio = PseudoAudio(config.dim, config.exemplars)
        self.register_buffer("gain", torch.ones(()))
        self.register_buffer("fixed_noise", mirrored_noise(config.samples, config.dim))

    @property
    def config(self) -> BridgeConfig:
        """The settings. Depth, steps and sampler may be replaced at any time."""
        return self._config

    @config.setter
    def config(self, config: BridgeConfig) -> None:
        self._config = config
        # Kept, because `torch.compile` cannot trace the schedule: it sees a few floats.
        depth = config.depth
        self._rungs = [] if depth is None else ladder(self.alpha_bars, self.timestep(depth), config.steps)

    @property
    def is_fitted(self) -> bool:
        return self.space.is_fitted and (self.kernel.is_fitted or not self.config.kernel)

    @property
    def alpha_bars(self) -> tuple[float, ...]:
        """alpha_bar(t) for t = 0 ... T."""
        return alpha_bars(self.config.schedule, self.config.timesteps)

    def timestep(self, depth: int | float) -> int:
        """The timestep of a depth given as one or as a cosine."""
        check_depth(depth, self.config.timesteps)
        return timestep_of_cosine(self.alpha_bars, depth) if isinstance(depth, float) else depth

    def bridge(self, x: Tensor, modality: str, generator: Draws, samples: int | None) -> Tensor:
        x0 = self.space.encode(x, modality)
        if modality == "text" and self.config.pseudo_audio:
            x0 = self.pseudo_audio(x0, generator, noise=self.training or generator is not None)
        return self.space.decode(self.reconstruct(x0, self.estimate(x0), generator, samples))

    def reconstruct(self, x0: Tensor, estimate: Tensor, generator: Draws = None, samples: int | None = None) -> Tensor:
        """Clean coordinates and the `estimate` of them -> text coordinates, noised and denoised; all (..., dim)."""
        rungs = self._rungs
        if not rungs:
            raise ValueError("this bridge has no depth: fit calibrates it, or set BridgeConfig(depth=...)")
        if self.config.sampler == "ddpm" and len(rungs) > 2 and generator is None and not self.training:
            raise ValueError('sampler "ddpm" draws noise at every step: give a generator, or use "ddim"')

        def denoise(x_t: Tensor, alpha_bar: float) -> Tensor:
            return estimate + self.denoise(x_t, alpha_bar)

        if len(rungs) == 1:
            found = denoise(x0, 1.0)
        else:
            noised = add_noise(x0, rungs[0], self._noise(x0, generator, samples))
            found = SAMPLERS[self.config.sampler](denoise, noised, rungs, generator).mean(0)
        return estimate + self.gain.to(x0) * (found - estimate)

    def estimate(self, x0: Tensor) -> Tensor:
        """What the network adds to: kernel ridge's text coordinates (..., dim) of clean ones, or zero without it."""
        return self.kernel(x0) if self.config.kernel else torch.zeros_like(x0)

    def _noise(self, x0: Tensor, generator: Draws, samples: int | None) -> Tensor:
        """(samples, ..., dim). In eval mode without a generator it is the same for every embedding, call and batch."""
        samples = self.config.samples if samples is None else samples
        if samples < 1:
            raise ValueError(f"samples must be at least 1, got {samples}")
        if self.training or generator is not None:
            return normal((samples, *x0.shape), x0, generator)
        if samples > self.config.samples:
            raise ValueError(f"samples = {samples} is more than the {self.config.samples} fixed ones: give a generator")
        return self.fixed_noise[:samples].to(x0).reshape(samples, *[1] * (x0.ndim - 1), self.dim)

    def denoise(self, x: Tensor, alpha_bar: float) -> Tensor:
        """One network call: coordinates (..., dim) noised to alpha_bar -> text coordinates minus `estimate`."""
        return self.denoiser(x, torch.full((*x.shape[:-1], 1), alpha_bar, device=x.device))

    def loss(
        self,
        audio: Tensor,
        text: Tensor,
        *,
        estimate: Tensor | None = None,
        generator: Generator | None = None,
        share: Share = ALONE,
    ) -> dict[str, Tensor]:
        """Training losses of paired embeddings, both (n, dim): `loss` and its parts (see `losses.py`).

        `estimate` (n, dim) replaces that of `audio`, where the kernel regression was fitted on these very pairs: the
        network has to correct the errors that it will meet, those on pairs that were left out.
        Audio and pseudo-audio of text (or text itself, as `config.pseudo_audio` says) are noised to their own random
        depths with independent noise; both regress to the clean text. With a `share` these are the losses of the batch
        that several processes hold in equal shares, with gradients through the own rows.
        Raises ValueError as `forward` does.
        """
        if audio.shape != text.shape or audio.ndim != 2 or audio.shape[-1] != self.dim:
            raise ValueError(
                f"expected pairs (n, {self.dim}), got audio {tuple(audio.shape)}, text {tuple(text.shape)}"
            )
        if not torch.compiler.is_compiling():
            self.check_values(audio)
            self.check_values(text)
        target = self.space.encode(text.float(), "text")
        sent = self.pseudo_audio(target, generator, share=share) if self.config.pseudo_audio else target
        clean = torch.stack([self.space.encode(audio.float()), sent])  # (2, n, dim)
        estimates = self.estimate(clean)
        if estimate is not None:
            estimates = torch.stack([estimate, estimates[1]])
        level = share.of(self._random_levels((2, len(audio) * share.count), generator, clean.device), dim=1)
        noise = normal(clean.shape, clean, generator, share)
        denoised = estimates + self.denoiser(add_noise(clean, level, noise), level)
        from_audio, from_text, target = share.whole(torch.cat([denoised, target.unsqueeze(0)]), dim=1)
        parts = {
            "denoise_audio": denoising_loss(from_audio, target),
            "denoise_text": denoising_loss(from_text, target),
            "topology": topology_loss(from_audio, target),
            "contrastive": contrastive_loss(from_audio, target),
        }
        weights = 1.0, self.config.text_weight, self.config.topology_weight, self.config.contrastive_weight
        return {"loss": torch.stack([w * part for w, part in zip(weights, parts.values(), strict=True)]).sum(), **parts}

    @torch.no_grad()
    def fit_regressions(self, audio: Tensor, text: Tensor, clip: Tensor) -> Tensor:
        """Fit what has a closed form, the pseudo-audio and the kernel regression; the space has to be fitted before.

        Args:
            audio: (n, dim), a row a clip.
            text: (m, dim), a row a caption.
            clip: (m,) the row of audio that each caption describes, never decreasing.

        Returns:
            The `estimate` of each clip when that clip is left out, (n, dim).
        """
        a, t = self.space.encode(audio.double()), self.space.encode(text.double(), "text")
        captions = torch.bincount(clip, minlength=len(a))
        self.metadata["pseudo_audio"] = self.pseudo_audio.fit(a, t[captions.cumsum(0) - captions])
        if not self.config.kernel:
            return torch.zeros_like(audio)
        mean = torch.zeros_like(a).index_add(0, clip, t) / captions.unsqueeze(-1)
        self.metadata["kernel"], left_out = self.kernel.fit(a, mean)
        return left_out.float()

    def _random_levels(self, shape: tuple[int, int], generator: Generator | None, device: torch.device) -> Tensor:
        """alpha_bar at uniformly drawn timesteps 1 ... T: (*shape, 1)."""
        timestep = torch.randint(1, self.config.timesteps + 1, shape, generator=generator, device=device)
        return torch.tensor(self.alpha_bars, device=device)[timestep].unsqueeze(-1)


def add_noise(x0: Tensor, alpha_bar: Tensor | float, noise: Tensor) -> Tensor:
    """x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise (Ho et al., 2020, eq. 4)."""
    return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * noise


def mirrored_noise(samples: int, dim: int) -> Tensor:
    """(samples, dim) normal draws z, -z, z', -z', ... that are always the same: their mean adds nothing of its own."""
    half = torch.randn((samples + 1) // 2, dim, generator=Generator().manual_seed(0))
    return torch.stack([half, -half], dim=1).flatten(0, 1)[:samples].clone()
