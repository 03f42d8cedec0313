"""The settings of `DiffusionLink`. The method is published (arXiv 2510.11330); these values are ours."""

from dataclasses import dataclass

from dlink_adapter.bridge.config import require, require_counts

MOST_BLOCKS = 1024


@dataclass(frozen=True)
class NetworkConfig:
    """Settings of the network and of the losses.

    Args:
        dim: width of the encoder's embeddings.
        blocks: residual MLP blocks; the paper has three.
        mlp_ratio: hidden width of a block, as a multiple of `dim`.
        time_dim: width of the noise-level embedding, even.
        dropout: in the blocks, while training.
        text_weight: weight of the text-to-text loss beside the audio-to-text one.
        topology_weight: weight of the topology loss.
    """

    dim: int
    blocks: int = 3
    mlp_ratio: float = 2.0
    time_dim: int = 128
    dropout: float = 0.4
    text_weight: float = 1.0
    topology_weight: float = 1.0

    def __post_init__(self) -> None:
        require_counts(self, "dim", "blocks")
        require(self.blocks <= MOST_BLOCKS, self, "blocks", f"at most {MOST_BLOCKS}")
        require(self.mlp_ratio > 0, self, "mlp_ratio", "positive")
        require(self.time_dim >= 2 and self.time_dim % 2 == 0, self, "time_dim", "even and at least 2")
        require(0 <= self.dropout < 1, self, "dropout", "in [0, 1)")
        for name in ("text_weight", "topology_weight"):
            require(getattr(self, name) >= 0, self, name, "at least 0")


@dataclass(frozen=True)
class BridgeConfig(NetworkConfig):
    """Settings of `DiffusionLink`: those of `NetworkConfig`, and of the diffusion.

    Args:
        schedule: a name in `SCHEDULES`.
        timesteps: length T of the forward process.
        timestep: depth to which an embedding is noised before it is denoised, in [0, T]. With neither this nor
            `cosine`, `fit` calibrates the depth and sets `cosine`.
        cosine: the same depth as the expected cosine between the noised embedding and the clean one, in (0, 1].
        steps: network calls from that depth down to 0.
        sampler: a name in `SAMPLERS`.
        samples: reconstructions that are averaged, each from its own noise.
    """

    schedule: str = "cosine"
    timesteps: int = 1000
    timestep: int | None = None
    cosine: float | None = None
    steps: int = 1
    sampler: str = "ddim"
    samples: int = 4

    def __post_init__(self) -> None:
        from dlink_adapter.diffusion_link.samplers import SAMPLERS  # these import torch, and help needs neither
        from dlink_adapter.diffusion_link.schedules import SCHEDULES

        super().__post_init__()
        require_counts(self, "timesteps", "steps", "samples")
        require(self.schedule in SCHEDULES, self, "schedule", f"one of {', '.join(SCHEDULES)}")
        require(self.sampler in SAMPLERS, self, "sampler", f"one of {', '.join(SAMPLERS)}")
        require(self.steps <= self.timesteps, self, "steps", f"at most timesteps = {self.timesteps}")
        if self.timestep is not None:
            valid = type(self.timestep) is int and 0 <= self.timestep <= self.timesteps
            require(valid, self, "timestep", f"an int in [0, {self.timesteps}]")
            require(self.cosine is None, self, "cosine", f"left out beside timestep = {self.timestep}")
        if self.cosine is not None:
            require(type(self.cosine) in (int, float) and 0 < self.cosine <= 1, self, "cosine", "a number in (0, 1]")
