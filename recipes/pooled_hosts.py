"""Put a bridge into small copies of CLAP-Cap, ClipCap, ImageBind-LLM, PandaGPT and DRCap, and ask them what they hear.

dlink pooled-hosts
dlink pooled-hosts --bridge ridge --hosts DRCap,ClipCap

The worked example for hosts that feed their projector one pooled embedding of a space shared with text: pairs from the
encoder, fit, attach, better answers. The small CLAP that comes with the package stands in for CLAP, CLIP and ImageBind,
procedural scenes for recordings, and a new GPT-2 or LLaMA of two layers for the language model. Each host is trained on
captions and their embeddings alone, and asked about sounds, which it never heard, without the bridge and with it. The
column "captions" is what it makes of the embeddings of the true captions: what there is to gain.
"""

import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from dlink_adapter import FitConfig, attach, detach, disabled, new_bridge
from dlink_adapter.integrations.transformers_clap import ClapEncoder
from dlink_adapter.measure.gap import measure
from dlink_adapter.recipes.pooled_host import PooledHost
from dlink_adapter.recipes.pooled_host_models import MODELS
from dlink_adapter.soundscapes.named import share_right
from dlink_adapter.soundscapes.world import World

BATCH, LR = 48, 2e-3
GAP = ("rmg", "paired_cosine")


class Data(NamedTuple):
    """Embeddings (n, dim) of the two towers: pairs to fit on, captions to train hosts on, and clips to ask about."""

    audio: Tensor
    text: Tensor
    unheard: Tensor
    captions: list[str]  # of `unheard`
    test_audio: Tensor
    test_text: Tensor
    test_captions: list[str]


def main(
    bridge: str = "diffusion_link",
    hosts: list[str] | None = None,
    scenes: int = 400,
    steps: int = 400,
    bridge_steps: int = 1000,
    seed: int = 0,
) -> None:
    """Run the example.

    Args:
        bridge: name of a bridge, fitted with its default settings.
        hosts: which of the five; all by default.
        scenes: that are rendered to fit the bridge on, and half as many to ask about; ten times as many give captions.
        steps: that each host is trained for.
        bridge_steps: that the bridge is trained for, where it has a network.
        seed: of the world and of all weights.
    """
    hosts = hosts or list(MODELS)
    if unknown := sorted(set(hosts) - set(MODELS)):
        raise ValueError(f"unknown host {', '.join(unknown)}; known: {', '.join(MODELS)}")
    world = World(seed, {"pairs": scenes, "text": 10 * scenes, "test": scenes // 2})
    encoder = ClapEncoder.from_pretrained("small")
    data = embed(world, encoder)
    link = new_bridge(bridge, encoder.dim)
    link.fit((data.audio, data.text), config=FitConfig(steps=bridge_steps, seed=seed))
    for label, x in (("without the bridge", data.test_audio), (f"with {bridge}", link.map_rows(data.test_audio))):
        gap = measure(x, data.test_text, names=GAP)
        print(f"{label:<24} RMG {gap['rmg']:.3f}   paired cosine {gap['paired_cosine']:.3f}")
    print(f"\n{'':<14}{'nats a token of true captions':>36}{'answers that name just the events':>36}")
    print(f"{'host':<14}" + 2 * f"{'without':>14}{'with':>10}{'captions':>12}")
    for name in hosts:
        host = attach(trained(name, encoder.tokenizer, data, steps, seed), link)
        bridged = ask(host, data.test_audio, data, world)
        with disabled(host):
            plain, best = (ask(host, x, data, world) for x in (data.test_audio, data.test_text))
        detach(host)
        scores = zip(plain, bridged, best, strict=True)
        print(f"{name:<14}" + "".join("{:>14.2f}{:>10.2f}{:>12.2f}".format(*of_kind) for of_kind in scores), flush=True)


def embed(world: World, encoder: ClapEncoder) -> Data:
    """What an encoder makes of the world. With a model of your own, this is the part to replace."""
    captions = {name: [first for first, *_ in world.captions(name)] for name in world.sizes}
    audio = {
        name: encoder.encode_audio(list(world.waveforms(name)), sampling_rate=world.rate, progress=True)
        for name in ("pairs", "test")
    }
    text = {name: encoder.encode_text(said, progress=True) for name, said in captions.items()}
    heard, asked = (audio["pairs"], text["pairs"]), (audio["test"], text["test"])
    return Data(*heard, text["text"], captions["text"], *asked, captions["test"])


def trained(name: str, tokenizer: Any, data: Data, steps: int, seed: int) -> PooledHost:
    """A new host that has learned to say the captions from their embeddings."""
    torch.manual_seed(seed)
    host: PooledHost = MODELS[name](
        new_language_model(MODELS[name].llm_name, tokenizer), tokenizer, data.unheard.shape[-1]
    )
    optimiser = torch.optim.AdamW(host.parameters(), LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LR, total_steps=steps)
    for _ in tqdm(range(steps), name, disable=not sys.stderr.isatty()):
        rows = torch.randint(len(data.captions), (BATCH,))
        optimiser.zero_grad()
        host(data.unheard[rows], [data.captions[row] for row in rows]).backward()
        nn.utils.clip_grad_norm_(host.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return host.eval()


def new_language_model(kind: str, tokenizer: Any) -> nn.Module:
    """A new GPT-2, where the host calls it gpt, or a new LLaMA, of two layers 128 wide."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    tokens["vocab_size"] = len(tokenizer)
    if kind == "gpt":
        return GPT2LMHeadModel(GPT2Config(n_embd=128, n_layer=2, n_head=4, n_positions=128, **tokens))
    size = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **size, **tokens))


@torch.no_grad()
def ask(host: PooledHost, x: Tensor, data: Data, world: World) -> tuple[float, float]:
    """Nats a token of the true captions, and the share of answers that name just the events there are."""
    return host(x, data.test_captions).item(), share_right(host.answer(x), world.scenes("test"))
