"""The settings of a bridge: a frozen dataclass, validated when it is made, written as JSON beside the weights."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True)
class BridgeConfig:
    """Settings of `DiffusionLink`. The method is published (arXiv 2510.11330); these values are ours.

    Args:
        dim: width of the encoder's embeddings.
        blocks: residual MLP blocks of the denoiser; the paper has three.
        mlp_ratio: hidden width of a block, as a multiple of `dim`.
        time_dim: width of the noise-level embedding, even.
        dropout: in the blocks, while training.
        schedule: a name in `SCHEDULES`.
        timesteps: length T of the forward process.
        depth: how far an embedding is noised before it is denoised: an int is a timestep in [0, T], a float in (0, 1]
            the expected cosine between the noised embedding and the clean one. `fit` replaces None by a calibrated one.
        steps: network calls from `depth` down to 0.
        sampler: a name in `SAMPLERS`.
        samples: reconstructions that are averaged, each from its own noise.
        kernel: the denoiser corrects a kernel ridge estimate of the text embedding; False lets it predict the text
            embedding alone, as in the paper.
        landmarks: embeddings that the kernel ridge estimate is made from, at most.
        pseudo_audio: captions are first sent to where audio of them might lie (`PseudoAudio`), so that a captioner that
            is trained on captions meets the uncertainty of audio. False noises captions isotropically, as audio.
        exemplars: pairs that pseudo-audio takes its scatter from, at most.
        text_weight: weight of the text-to-text denoising loss beside the audio-to-text one.
        topology_weight: weight of the topology loss.
        contrastive_weight: weight of the contrastive loss, which keeps reconstructions of different clips apart.
    """

    dim: int
    blocks: int = 3
    mlp_ratio: float = 2.0
    time_dim: int = 128
    dropout: float = 0.4
    schedule: str = "cosine"
    timesteps: int = 1000
    depth: int | float | None = None
    steps: int = 1
    sampler: str = "ddim"
    samples: int = 16
    kernel: bool = True
    landmarks: int = 1024
    pseudo_audio: bool = True
    exemplars: int = 2048
    text_weight: float = 1.0
    topology_weight: float = 1.0
    contrastive_weight: float = 0.1

    def __post_init__(self) -> None:
        from dlink_adapter.diffusion_link.samplers import SAMPLERS
        from dlink_adapter.diffusion_link.schedules import SCHEDULES

        for name in ("dim", "blocks", "timesteps", "steps", "samples", "landmarks", "exemplars"):
            _require(
                isinstance(getattr(self, name), int) and getattr(self, name) >= 1, self, name, "an int of at least 1"
            )
        _require(self.time_dim >= 2 and self.time_dim % 2 == 0, self, "time_dim", "even and at least 2")
        _require(self.mlp_ratio > 0, self, "mlp_ratio", "positive")
        _require(0 <= self.dropout < 1, self, "dropout", "in [0, 1)")
        for name in ("text_weight", "topology_weight", "contrastive_weight"):
            _require(getattr(self, name) >= 0, self, name, "at least 0")
        _require(self.schedule in SCHEDULES, self, "schedule", f"one of {', '.join(SCHEDULES)}")
        _require(self.sampler in SAMPLERS, self, "sampler", f"one of {', '.join(SAMPLERS)}")
        _require(self.steps <= self.timesteps, self, "steps", f"at most timesteps = {self.timesteps}")
        check_depth(self.depth, self.timesteps)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The config with these values. Raises ValueError on a key that it does not know."""
        return from_known(cls, values)

    def to_dict(self) -> dict[str, Any]:
        """The values by name, as JSON takes them."""
        return asdict(self)


def check_depth(depth: int | float | None, timesteps: int) -> None:
    """Raise ValueError unless depth is None, a timestep in [0, timesteps] or a cosine in (0, 1]."""
    is_timestep = isinstance(depth, int) and not isinstance(depth, bool) and 0 <= depth <= timesteps
    is_cosine = isinstance(depth, float) and 0 < depth <= 1
    if not (depth is None or is_timestep or is_cosine):
        raise ValueError(f"depth is {depth!r}: expected an int in [0, {timesteps}], or a cosine as a float in (0, 1]")


def from_known(cls: Any, values: dict[str, Any]) -> Any:
    """The dataclass `cls` with these values. Raises ValueError on a key that it does not know."""
    known = [field.name for field in fields(cls)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown {cls.__name__} key {', '.join(unknown)}; known: {', '.join(known)}")
    return cls(**values)


def changed(config: Any, default: Any) -> dict[str, Any]:
    """What a dataclass has other than its default: what a user has set."""
    return {name: value for name, value in asdict(config).items() if value != getattr(default, name)}


def _require(valid: bool, config: BridgeConfig, name: str, rule: str) -> None:
    if not valid:
        raise ValueError(f"{name} is {getattr(config, name)!r}: it must be {rule}")
