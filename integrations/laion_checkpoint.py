"""LAION's `.pt` checkpoints of CLAP as the `ClapModel` of transformers, with all sizes taken from the weights.

The names are those of HTSAT (Chen et al., ICASSP 2022) and CLAP (Wu et al., ICASSP 2023) as LAION trained them.
"""

import pickle
import re
from collections.abc import Iterable, Iterator
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

try:
    from transformers import ClapConfig, ClapModel
except ImportError as error:
    raise ImportError('CLAP needs transformers: pip install "dlink-adapter[clap]"') from error

HEAD_WIDTH = 64  # of RoBERTa's attention
# Weights that embeddings do not need: the spectrogram, the classifier, heads of other losses.
UNUSED = re.compile(
    r"audio_branch\.(spectrogram_extractor|logmel_extractor|tscam_conv|head)\."
    r"|(audio|text)_transform\.|.*\.(attn_mask|relative_position_index|position_ids|token_type_ids)$"
)
RENAMED = (
    (r"^text_branch\.", "text_model."),
    (r"^audio_branch\.bn0\.", "audio_model.audio_encoder.batch_norm."),
    (r"^audio_branch\.", "audio_model.audio_encoder."),
    (r"_projection\.0\.", "_projection.linear1."),
    (r"_projection\.2\.", "_projection.linear2."),
    (r"(\.blocks\.\d+)\.norm1\.", r"\1.layernorm_before."),
    (r"(\.blocks\.\d+)\.norm2\.", r"\1.layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.", ".attention.self."),
)


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The weights in a `.pt` checkpoint, under LAION's names. Only tensors and numbers are unpickled.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint of a CLAP.
    """
    scalar = np.dtype(np.float64).type(0).__reduce__()[0]
    # Beside the weights there are numpy scalars, under the name that they had before numpy 2.
    plain: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), scalar, np.dtype, type(np.dtype(np.float64))]
    try:
        with torch.serialization.safe_globals(plain):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))  # the function that unpickling would call
        raise ValueError(
            f"{path} holds more than weights, or is damaged ({found[1] if found else str(error).splitlines()[0]}): "
            "save its state_dict alone"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    weights = {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, Tensor)}
    if "audio_branch.patch_embed.proj.weight" not in weights or "text_branch.pooler.dense.weight" not in weights:
        raise ValueError(f"{path} is not a CLAP with HTSAT and RoBERTa: it has {', '.join(list(weights)[:3])}, ...")
    return weights


def clap_model(weights: dict[str, Tensor]) -> ClapModel:
    """A `ClapModel` with the weights of a checkpoint.

    Raises:
        ValueError: a weight is missing, or `ClapModel` has no weight of that name.
    """
    model = ClapModel(_config(weights))
    missing, unknown = model.load_state_dict(dict(_renamed(weights)), strict=False)
    missing = [name for name in missing if not UNUSED.match(name)]
    if missing or unknown:
        raise ValueError(f"not the CLAP that transformers has: it lacks {missing[:3]}, and has {unknown[:3]} besides")
    return model


def _config(weights: dict[str, Tensor]) -> ClapConfig:
    shape = {name: value.shape for name, value in weights.items()}
    stages = _count(r"audio_branch\.layers\.(\d+)\.", weights)
    block = "audio_branch.layers.{}.blocks.0."
    bias_tables = [shape[block.format(stage) + "attn.relative_position_bias_table"] for stage in range(stages)]
    width, _, patch, _ = shape["audio_branch.patch_embed.proj.weight"]
    fused = "audio_branch.patch_embed.mel_conv2d.weight" in weights
    audio: dict[str, Any] = dict(
        num_mel_bins=shape["audio_branch.bn0.weight"][0],
        patch_size=patch,
        patch_stride=[patch, patch],
        patch_embeds_hidden_size=width,
        hidden_size=width * 2 ** (stages - 1),
        depths=[_count(rf"audio_branch\.layers\.{stage}\.blocks\.(\d+)\.", weights) for stage in range(stages)],
        num_attention_heads=[heads for _, heads in bias_tables],
        window_size=(isqrt(bias_tables[0][0]) + 1) // 2,
        mlp_ratio=shape[block.format(0) + "mlp.fc1.weight"][0] / width,
        enable_fusion=fused,
        fusion_type="aff_2d" if fused else None,
    )
    if fused:
        audio["aff_block_r"] = width // shape["audio_branch.patch_embed.fusion_model.local_att.0.weight"][0]
    vocabulary, hidden = shape["text_branch.embeddings.word_embeddings.weight"]
    text = dict(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=_count(r"text_branch\.encoder\.layer\.(\d+)\.", weights),
        num_attention_heads=max(1, hidden // HEAD_WIDTH),
        intermediate_size=shape["text_branch.encoder.layer.0.intermediate.dense.weight"][0],
        max_position_embeddings=shape["text_branch.embeddings.position_embeddings.weight"][0],
        layer_norm_eps=1e-5,
    )
    return ClapConfig(audio_config=audio, text_config=text, projection_dim=shape["text_projection.0.weight"][0])


def _count(pattern: str, names: Iterable[str]) -> int:
    return 1 + max(int(found[1]) for name in names if (found := re.match(pattern, name)))


def _renamed(weights: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in weights.items():
        if UNUSED.match(name):
            continue
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if ".qkv." in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3), strict=True):
                yield name.replace("qkv", part), rows
        else:
            yield name, value
