"""The parts of `dlink demo` that come before any bridge: its size, a CLAP, the embeddings, the language model."""

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save_file

from dlink_adapter import PairedEmbeddings
from dlink_adapter.files import write_atomically
from dlink_adapter.integrations.transformers_clap import ClapEncoder
from dlink_adapter.recipes.captioner_settings import CaptionerSteps
from dlink_adapter.soundscapes.clap_training import train_small_clap
from dlink_adapter.soundscapes.small_clap import feature_extractor, render_mels
from dlink_adapter.soundscapes.small_llama import train_small_llama
from dlink_adapter.soundscapes.world import World
from dlink_adapter.training.config import TrainerConfig


@dataclass(frozen=True)
class Size:
    """How much of everything: scenes, then steps. The CLAP is trained only where it is asked for."""

    scenes: dict[str, int]
    clap_steps: int
    bridge_steps: int
    llama_steps: int
    captioner_steps: CaptionerSteps


FULL_SCENES = {"encoder": 6000, "pairs": 2000, "text": 12000, "val": 200, "test": 1000}
FAST_SCENES = {"encoder": 64, "pairs": 64, "text": 200, "val": 20, "test": 25}
FULL = Size(FULL_SCENES, 1000, 1000, 400, CaptionerSteps())
FAST = Size(FAST_SCENES, 2, 20, 5, CaptionerSteps(5, 5, 5))


def make_clap(world: World, steps: int, out: Path) -> None:
    """Train a small CLAP on the scenes and captions of "encoder": half as wide as the shipped one, in a few minutes."""
    extractor = feature_extractor(world.rate)
    mels = render_mels(world.scenes("encoder"), extractor)
    config = TrainerConfig(steps=steps, batch_size=64, lr=1.2e-3, warmup=0.1, weight_decay=0.05, seed=world.seed)
    # So short a training does not start to learn at the higher logit scale of a long one.
    train_small_clap(mels, world.captions("encoder"), extractor, out, config=config, width=32, logit_scale=55.0)


def embed_world(world: World, clap: str, out: Path) -> None:
    """Pairs, val and test as PairedEmbeddings; of "text" the first captions in text.txt, and text.safetensors."""
    encoder = ClapEncoder.from_pretrained(clap)
    metadata = {"encoder": "clap", "fingerprint": encoder.fingerprint, "rate": encoder.rate}
    for name in ("pairs", "val", "test"):
        captions = world.captions(name)
        audio = encoder.encode_audio(world.waveforms(name), sampling_rate=world.rate, progress=True)
        text = encoder.encode_text([caption for group in captions for caption in group])
        PairedEmbeddings.write(out / name, audio, text, captions, metadata=metadata)
    unheard = [captions[0] for captions in world.captions("text")]
    write_atomically(out / "text.txt", "\n".join(unheard) + "\n")
    save_file({"text": encoder.encode_text(unheard, progress=True)}, out / "text.safetensors")


def make_llama(world: World, steps: int, out: Path) -> None:
    """Pre-train a small LLaMA on the captions of "text"."""
    documents = ["\n".join(captions) for captions in world.captions("text")]
    config = TrainerConfig(steps=steps, batch_size=48, lr=3e-3, seed=world.seed)
    train_small_llama(documents, out, config=config, layers=2)
