"""Small copies of five hosts that read one pooled embedding: CLAP-Cap, ClipCap, ImageBind-LLM, PandaGPT and DRCap.

Each has the class name, the projector's name and the path from the embedding to the language model of its repository,
so that `attach` finds its projector; sizes, prompts and weights are ours. A docstring says where the embeddings of the
real one come from, to fit a bridge on. Here they come from outside, since encoders are frozen and these share one.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from dlink_adapter.recipes.pooled_host import PooledHost

LENGTH = 8  # of GPT-2's prefix


class ClapCaptionModel(PooledHost):
    """CLAP-Cap (microsoft/CLAP): the embedding and learned vectors, through a transformer, are GPT-2's prefix.

    Its embeddings: `host.clap(audio)[0]` and, of captions, `CLAP.get_text_embeddings`, both at unit norm.
    """

    llm_name = "gpt"

    def __init__(self, gpt: nn.Module, tokenizer: Any, dim: int) -> None:
        super().__init__(gpt, tokenizer)
        self.clap_project = TransformerMapper(dim, self.width)


class TransformerMapper(nn.Module):
    """(n, dim) -> (n, LENGTH, width)."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 8, 2 * width, dropout=0.0, norm_first=True, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.linear = nn.Linear(dim, LENGTH * width)
        self.prefix_const = nn.Parameter(torch.randn(LENGTH, width))

    def forward(self, x: Tensor) -> Tensor:
        given = self.linear(x).unflatten(-1, (LENGTH, -1))
        mapped: Tensor = self.transformer(torch.cat([given, self.prefix_const.expand(len(x), -1, -1)], dim=1))
        return mapped[:, LENGTH:]


class ClipCaptionModel(PooledHost):
    """ClipCap (rmokady/CLIP_prefix_caption): an MLP makes GPT-2's prefix of the embedding.

    Its embeddings: `encode_image` and, of captions, `encode_text` of CLIP.
    """

    llm_name = "gpt"

    def __init__(self, gpt: nn.Module, tokenizer: Any, dim: int) -> None:
        super().__init__(gpt, tokenizer)
        total = LENGTH * self.width
        self.clip_project = nn.Sequential(
            nn.Linear(dim, total // 2), nn.Tanh(), nn.Linear(total // 2, total), nn.Unflatten(-1, (LENGTH, self.width))
        )


class LLaMA_adapter(PooledHost):
    """ImageBind-LLM (OpenGVLab/LLaMA-Adapter): the embedding is no token, but added to the attention of every layer.

    Projected, it passes three SwiGLU blocks. Each layer adds a query of its own, and the value of the sum goes to all
    tokens, through a gate for each head. There the gates start at zero; here, where there is no pretrained language
    model to spare and time for a few hundred steps, at one.

    Its embeddings: `host.image_bind(inputs)` at unit norm, of sound, images and text.
    """

    llm_name = "llama"
    before = "<s>### Response:"

    def __init__(self, llama: Any, tokenizer: Any, dim: int) -> None:
        super().__init__(llama, tokenizer)
        layers = llama.model.layers
        self.image_bind_proj = nn.Linear(dim, self.width)
        self.image_bind_blocks = nn.Sequential(*(SwiGLU(self.width) for _ in range(3)))
        self.prefix_query = nn.Embedding(len(layers), self.width)
        self.gates = nn.Parameter(torch.ones(len(layers), llama.config.num_attention_heads))
        for i, layer in enumerate(layers):
            layer.self_attn.o_proj.register_forward_pre_hook(partial(self._attend, i, layer.self_attn.v_proj))

    def prefix(self, x: Tensor) -> Tensor:
        self.visual_query = self.image_bind_blocks(super().prefix(x)).unsqueeze(1)
        return self.visual_query[:, :0]  # no token

    def _attend(self, i: int, to_value: nn.Module, _layer: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        value = to_value(self.visual_query + self.prefix_query.weight[i])  # (n, 1, heads * head_dim)
        gate = self.gates[i].tanh().repeat_interleave(value.shape[-1] // self.gates.shape[1])
        return (args[0] + gate * value,)


class SwiGLU(nn.Module):
    """x + f2(silu(f1(norm(x))) * f3(norm(x)))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.f2 = nn.LayerNorm(width), nn.Linear(4 * width, width)
        self.f1, self.f3 = (nn.Linear(width, 4 * width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        changed: Tensor = x + self.f2(silu(self.f1(h)) * self.f3(h))
        return changed


class OpenLLAMAPEFTModel(PooledHost):
    """PandaGPT (yxuansu/PandaGPT): one linear layer makes one token of the embedding, within a prompt.

    Its embeddings: `host.visual_encoder(inputs)`, an ImageBind that gives sound norm 20 and images, which the projector
    was trained on, norm 1. A bridge gives norm 1 too.
    """

    llm_name = "llama_model"
    before, after = "<s>### Human: <Img>", "</Img> What is heard?\n### Assistant:"

    def __init__(self, llama_model: nn.Module, tokenizer: Any, dim: int) -> None:
        super().__init__(llama_model, tokenizer)
        self.llama_proj = nn.Sequential(nn.Linear(dim, self.width), nn.Unflatten(-1, (1, self.width)))


class slam_model(PooledHost):
    """DRCap (X-LANCE/SLAM-LLM): two layers make one token of the embedding, before the prompt.

    It is trained on captions alone and shown audio. Its own bridge is projection decoding, here `memory`. Its
    embeddings: those of `host.encoder`, a CLAP, for audio and captions.
    """

    llm_name = "llm"
    after = "USER: What is heard? \n ASSISTANT:"

    def __init__(self, llm: nn.Module, tokenizer: Any, dim: int) -> None:
        super().__init__(llm, tokenizer)
        self.encoder_projector = nn.Sequential(
            nn.Linear(dim, 512), nn.ReLU(), nn.Linear(512, self.width), nn.Unflatten(-1, (1, self.width))
        )


MODELS: dict[str, Any] = {
    "CLAP-Cap": ClapCaptionModel,
    "ClipCap": ClipCaptionModel,
    "ImageBind-LLM": LLaMA_adapter,
    "PandaGPT": OpenLLAMAPEFTModel,
    "DRCap": slam_model,
}
