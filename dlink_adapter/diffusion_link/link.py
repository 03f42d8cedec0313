"""DiffusionLink: the diffusion bridge as a drop-in module between a frozen encoder and an LLM's projector.

Audio and text embeddings are both noised; the reverse process always reconstructs the text (arXiv 2510.11330).
"""

from dataclasses import replace

import torch
from torch import Generator, Tensor

from dlink_adapter.bridge.base import Descend, TrainedBridge
from dlink_adapter.bridge.noise import Draws, mirrored_noise, normal
from dlink_adapter.bridge.space import Modality
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.diffusion_link.calibrate import COSINES, best_config
from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.diffusion_link.losses import link_loss
from dlink_adapter.diffusion_link.network import Denoiser
from dlink_adapter.diffusion_link.samplers import SAMPLERS, ladder
from dlink_adapter.diffusion_link.schedules import add_noise, alpha_bars, timestep_of_cosine

REPLACEABLE = {"timestep", "cosine", "steps", "sampler", "samples", "text_weight", "topology_weight"}


class DiffusionLink(TrainedBridge):
    """Embeddings (..., dim) of a frozen encoder -> text-like embeddings (..., dim) of unit norm.

    An embedding, of audio or of text, is noised to the depth of the config and denoised from there in `config.steps`
    network calls, `config.samples` times, and the reconstructions are averaged. In eval mode the noise is fixed, so
    that the module is a function; in train mode, or with a generator, every embedding has noise of its own. `fit`
    trains it and calibrates the depth.
    """

    name = "diffusion_link"
    config_class = BridgeConfig
    fixed_noise: Tensor

    def __init__(self, config: BridgeConfig):
        super().__init__(config)
        self.register_buffer("fixed_noise", mirrored_noise(config.samples, config.dim))

    @property
    def config(self) -> BridgeConfig:
        """The settings. Those of `REPLACEABLE` may be replaced at any time."""
        return self._config

    @config.setter
    def config(self, config: BridgeConfig) -> None:
        if (before := self.__dict__.get("_config")) not in (None, config):
            fixed = {name for name, value in vars(before).items() if value != getattr(config, name)} - REPLACEABLE
            if fixed:
                raise ValueError(
                    f"{', '.join(sorted(fixed))} can't be changed in a bridge that is there: make a new one"
                )
            self.fixed_noise = mirrored_noise(config.samples, config.dim).to(self.fixed_noise)
        self._config = config
        # Kept, because `torch.compile` cannot trace the schedule: it sees a few floats.
        timestep = self.timestep
        self._rungs = [] if timestep is None else ladder(self.alpha_bars, timestep, config.steps)

    @property
    def alpha_bars(self) -> tuple[float, ...]:
        """alpha_bar(t) for t = 0 ... T."""
        return alpha_bars(self.config.schedule, self.config.timesteps)

    @property
    def timestep(self) -> int | None:
        """The depth as a timestep, however the config gives it; None before it is calibrated."""
        if self.config.cosine is None:
            return self.config.timestep
        return timestep_of_cosine(self.alpha_bars, self.config.cosine)

    def new_denoiser(self) -> Denoiser:
        return Denoiser(self.config)

    def loss(self, audio: Tensor, text: Tensor, *, generator: Generator | None = None) -> dict[str, Tensor]:
        """The paper's losses of pairs, both (n, dim): `loss`, `denoise_audio`, `denoise_text`, `topology`.

        Audio and text are noised with their own noise, each row to its own random timestep; both regress to the text.
        """
        self.check_pairs(audio, text)
        x0 = torch.cat([self.space.encode(audio.float()), self.space.encode(text.float(), "text")])  # (2n, dim)
        alpha_bar = self._random_levels(len(x0), generator, x0.device)
        x_t = add_noise(x0, alpha_bar, normal(x0.shape, x0, generator))
        from_audio, from_text = self.denoiser(x_t, alpha_bar).chunk(2)
        return link_loss(from_audio, from_text, x0[len(text) :], self.config)

    def _random_levels(self, rows: int, generator: Generator | None, device: torch.device) -> Tensor:
        """alpha_bar at uniformly drawn timesteps 1 ... T: (rows, 1)."""
        timestep = torch.randint(1, self.config.timesteps + 1, (rows, 1), generator=generator, device=device)
        return torch.tensor(self.alpha_bars, device=device)[timestep]

    def bridge(self, x: Tensor, modality: Modality, generator: Draws, samples: int | None) -> Tensor:
        rungs = self._rungs
        if not rungs:
            raise ValueError("this bridge has no depth: fit calibrates it, or set BridgeConfig(timestep= or cosine=)")
        if self.config.sampler == "ddpm" and len(rungs) > 2 and generator is None and not self.training:
            raise ValueError('sampler "ddpm" draws noise at every step: give a generator, or use "ddim"')
        x0 = self.space.encode(x, modality)
        if len(rungs) == 1:  # timestep 0: no noise
            return self.space.decode(self.denoise(x0, 1.0))
        x_t = add_noise(x0, rungs[0], self._noise(x0, generator, samples))  # (samples, ..., dim)
        return self.space.decode(SAMPLERS[self.config.sampler](self.denoise, x_t, rungs, generator).mean(0))

    def denoise(self, x_t: Tensor, alpha_bar: float) -> Tensor:
        """One network call: coordinates (..., dim) noised to alpha_bar -> text coordinates (..., dim)."""
        reconstruction: Tensor = self.denoiser(x_t, torch.full((*x_t.shape[:-1], 1), alpha_bar, device=x_t.device))
        return reconstruction

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

    def learn(self, pairs: PairedEmbeddings, descend: Descend) -> None:
        if self.config.sampler == "ddpm" and self.config.steps > 1:
            raise ValueError('calibration needs a deterministic sampler: fit with "ddim", and set "ddpm" afterwards')
        super().learn(pairs, descend)

    def calibrate(self, train: PairedEmbeddings, val: PairedEmbeddings) -> None:
        """Set the depth, where the config leaves it open, to the one that serves held-out pairs best."""
        options = [self.config] if self._rungs else [replace(self.config, cosine=cosine) for cosine in COSINES]
        self.config, measured = best_config(self, options, train, val)
        self.metadata["calibration"] = {"timestep": self.timestep, "cosine": self.config.cosine, **measured}
