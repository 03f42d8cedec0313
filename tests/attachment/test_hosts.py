"""Every host of HOSTS: a tiny model of its class in transformers, run with the inputs that it takes.

A tiny config is the default of the class with small numbers (`SMALL`) and some settings of the family (`TINY`).
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from dlink_adapter.attachment.attach import attach, bridge_state_dict, detach, disabled, mark_only_bridge_trainable
from dlink_adapter.attachment.hosts import HOSTS
from dlink_adapter.token_bridge import TokenBridge, TokenBridgeConfig

TOKEN = 9  # the placeholder that an encoder's vectors replace
TEXT, ENCODER = 64, 32  # the widths of a tiny language model and of a tiny encoder

SMALL = {
    "adapter_hidden_size": 32, "attention_heads": 4, "decoder_attention_heads": 4, "decoder_ffn_dim": 64,
    "decoder_layers": 1, "depth": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 64, "encoder_layers": 2,
    "ffn_dim": 64, "image_size": 32, "intermediate_size": 64, "layers": 1, "max_position_embeddings": 128,
    "max_source_positions": 50, "max_window_layers": 2, "moe_intermediate_size": 32, "moe_num_experts": 4,
    "n_routed_experts": 4, "num_attention_heads": 4, "num_experts": 4, "num_experts_per_tok": 2, "num_heads": 4,
    "num_hidden_layers": 2, "num_key_value_heads": 2, "num_layers": 2, "num_local_experts": 4, "num_mel_bins": 16,
    "out_hidden_size": TEXT, "patch_size": 8, "projection_dim": TEXT, "scale_factor": 2,
    "shared_expert_intermediate_size": 32, "tie_word_embeddings": False, "vision_feature_layer": -1, "vocab_size": 96,
}  # fmt: skip
WIDTHS = ("d_model", "embed_dim", "hidden_dim", "hidden_size", "vision_hidden_size", "word_embed_proj_dim")
SPECIAL = {
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "audio_token_id": TOKEN, "audio_token_index": TOKEN, "image_token_id": TOKEN, "image_token_index": TOKEN,
}  # fmt: skip


def shrink(values: Mapping[str, Any], width: int = ENCODER) -> dict[str, Any]:
    """The values of a config, with small numbers."""
    small: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            if key not in ("id2label", "label2id", "projector_patch_to_query_dict"):
                small[key] = shrink(value, TEXT if key == "text_config" else width)
        elif key in WIDTHS and isinstance(value, int):
            small[key] = width
        elif key == "head_dim":
            small[key] = width // 4
        elif key in ("layer_types", "mlp_layer_types") and value:
            small[key] = (list(dict.fromkeys(value)) * 2)[:2]
        elif key.endswith(("_token_id", "_token_index")) and value is not None:
            small[key] = SPECIAL.get(key, 10 + len(small) % 50)
        elif key in SMALL and value is not None and not isinstance(value, list | tuple):
            small[key] = SMALL[key]
        else:
            small[key] = value
    return small


@dataclass(frozen=True)
class Tiny:
    """How to build and call a tiny model of a host.

    Args:
        name: its class in transformers.
        tokens: the number of placeholder tokens that its input replaces.
        inputs: by argument a shape to fill with noise, or a value.
        settings: dotted path in the config -> value.
        types: whether it takes the type of each token.
    """

    name: str
    tokens: int
    inputs: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    types: bool = False

    def build(self) -> tuple[nn.Module, dict[str, Any]]:
        if not hasattr(transformers, self.name):
            pytest.skip(f"transformers {transformers.__version__} has no {self.name}")
        model_class = getattr(transformers, self.name)
        values = shrink(model_class.config_class().to_dict())
        if self.types and "text_config" not in values:
            pytest.skip(f"transformers {transformers.__version__} lays out the config of {self.name} otherwise")
        for path, value in self.settings.items():
            *parents, leaf = path.split(".")
            reduce(lambda inner, key: inner.setdefault(key, {}), parents, values)[leaf] = value
        torch.manual_seed(0)
        model = model_class(model_class.config_class.from_dict(values)).float().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():  # gates and projections that start at zero would hide the bridge
                    parameter.normal_(0, 0.1)
        ids = torch.tensor([[1, *[TOKEN] * self.tokens, 5, 6]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        for name, given in self.inputs.items():
            inputs[name] = torch.randn(given) if isinstance(given, tuple) else torch.as_tensor(given)
        if self.types:
            inputs["mm_token_type_ids"] = (ids == TOKEN).int()
        return model, inputs


IMAGE = {"pixel_values": (1, 3, 32, 32)}
SIZED = {**IMAGE, "image_sizes": [[32, 32]]}
TILES = {"pixel_values": (1, 1, 3, 32, 32)}
ANY_RESOLUTION = {"pixel_values": (1, 2, 3, 32, 32), "image_sizes": [[32, 32]]}
GRID = {"image_grid_thw": [[1, 4, 4]]}
PATCHES = {"pixel_values": (16, 192), **GRID}  # of 8 x 8 pixels and 3 colours
FRAME_PAIRS = {"pixel_values": (16, 384), **GRID}  # each image twice, as two frames of a video
SQUARE_PATCHES = {"pixel_values": (16, 3, 8, 8), **GRID}


def mel(frames: int, mask: str = "input_features_mask", bins: int = 16) -> dict[str, Any]:
    return {"input_features": (1, bins, frames), mask: torch.ones(1, frames, dtype=torch.long)}


PINPOINTS = {"image_grid_pinpoints": [[32, 32]]}
PAIRS_OF_SIDES = {"vision_config.image_size": [32, 32], "vision_config.patch_size": [8, 8]}
FOUR_FRAMES_A_TOKEN = {
    "audio_config.intermediate_size": 128,
    "audio_config.max_source_positions": 56,
    "audio_config.max_position_embeddings": 56,
}
CONFORMER = {
    "encoder_config.input_dim": 16,
    "encoder_config.output_dim": 8,
    "encoder_config.context_size": 10,
    "encoder_config.dim_head": 8,
    "projector_config.encoder_hidden_size": ENCODER,
}
POSITIONS = {"vision_config.num_position_embeddings": 16}


def rope(*sections: int, **settings: float) -> dict[str, Any]:
    values = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections), **settings}
    return {"text_config.rope_parameters": values}


GLM_ROPE = rope(2, 2, 0, partial_rotary_factor=0.5)
QWEN_ROPE = rope(2, 3, 3)
QUERIES = {"image_token_id": TOKEN, "image_token_index": TOKEN, "num_query_tokens": 4}
ONE_IMAGE_TOKEN = {"image_embeds_position_mask": [[0, 1, 0, 0]]}
GEMMA_VISION = {
    "text_config.vocab_size_per_layer_input": 96,
    "text_config.per_layer_config": {},
    "vision_config": {
        "model_type": "gemma4_vision",
        "hidden_size": ENCODER,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "patch_size": 8,
        "position_embedding_size": 64,
    },
}

TINY = {
    "aria": Tiny("AriaForConditionalGeneration", 4, IMAGE, {"projector_patch_to_query_dict": {"16": 4}}),
    "audioflamingo3": Tiny("AudioFlamingo3ForConditionalGeneration", 25, mel(100)),
    "aya_vision": Tiny("AyaVisionForConditionalGeneration", 4, IMAGE),
    "blip-2": Tiny("Blip2ForConditionalGeneration", 4, IMAGE, QUERIES),
    "cohere2_vision": Tiny("Cohere2VisionForConditionalGeneration", 4, IMAGE, {"alignment_intermediate_size": 64}),
    "deepseek_vl": Tiny("DeepseekVLForConditionalGeneration", 16, IMAGE),
    "exaone4_5": Tiny("Exaone4_5_ForConditionalGeneration", 4, FRAME_PAIRS),
    "fun_asr_nano": Tiny(
        "FunAsrNanoForConditionalGeneration",
        20,
        mel(112, bins=20) | {"input_features_mask": torch.ones(1, 20)},
        {"adaptor_config.hidden_size": TEXT, "adaptor_config.intermediate_size": 16},
    ),
    "gemma3": Tiny("Gemma3ForConditionalGeneration", 4, IMAGE, {"mm_tokens_per_image": 4}),
    "gemma4": Tiny(
        "Gemma4ForConditionalGeneration",
        4,
        {"pixel_values": (1, 36, 192), "image_position_ids": [[[i, j] for i in range(6) for j in range(6)]]},
        GEMMA_VISION,
    ),
    "glm46v": Tiny("Glm46VForConditionalGeneration", 4, FRAME_PAIRS, GLM_ROPE, types=True),
    "glm4v": Tiny("Glm4vForConditionalGeneration", 4, FRAME_PAIRS, GLM_ROPE, types=True),
    "glm4v_moe": Tiny("Glm4vMoeForConditionalGeneration", 4, FRAME_PAIRS, GLM_ROPE, types=True),
    "glm5_next": Tiny(
        "Glm5NextForConditionalGeneration",
        4,
        FRAME_PAIRS,
        GLM_ROPE | {"text_config.num_key_value_heads": 4},
        types=True,
    ),
    "glm_ocr": Tiny("GlmOcrForConditionalGeneration", 4, FRAME_PAIRS, GLM_ROPE, types=True),
    "glmasr": Tiny("GlmAsrForConditionalGeneration", 14, mel(112), FOUR_FRAMES_A_TOKEN),
    "got_ocr2": Tiny("GotOcr2ForConditionalGeneration", 1, IMAGE),
    "granite_docling": Tiny("GraniteDoclingForConditionalGeneration", 4, TILES | {"pixel_attention_mask": [[True]]}),
    "granite_speech": Tiny("GraniteSpeechForConditionalGeneration", 6, {"input_features": (1, 30, 16)}, CONFORMER),
    "granite_speech_plus": Tiny(
        "GraniteSpeechPlusForConditionalGeneration", 6, {"input_features": (1, 30, 16)}, CONFORMER
    ),
    "hyperclovax_vision_v2": Tiny("HyperCLOVAXVisionV2ForConditionalGeneration", 4, FRAME_PAIRS),
    "idefics2": Tiny("Idefics2ForConditionalGeneration", 64, TILES),
    "idefics3": Tiny("Idefics3ForConditionalGeneration", 4, TILES),
    "instructblip": Tiny("InstructBlipForConditionalGeneration", 4, IMAGE | {"qformer_input_ids": [[1, 2]]}, QUERIES),
    "instructblipvideo": Tiny(
        "InstructBlipVideoForConditionalGeneration",
        4,
        {"pixel_values": (1, 2, 3, 32, 32), "qformer_input_ids": [[1, 2]]},
        {"video_token_id": TOKEN, "video_token_index": TOKEN, "num_query_tokens": 2},
    ),
    "internvl": Tiny("InternVLForConditionalGeneration", 4, IMAGE, PAIRS_OF_SIDES),
    "janus": Tiny(
        "JanusForConditionalGeneration", 16, IMAGE, {"vq_config.base_channels": 32, "vq_config.channel_multiplier": [1]}
    ),
    "kimi_k25": Tiny(
        "Kimi_K25ForConditionalGeneration",
        4,
        SQUARE_PATCHES,
        {
            "projection_hidden_size": 32,
            "projector_hidden_size": 32,
            "text_config.qk_rope_head_dim": 8,
            "text_config.qk_nope_head_dim": 8,
            "text_config.v_head_dim": 16,
            "text_config.head_dim": 8,
        },
    ),
    "kosmos-2": Tiny("Kosmos2ForConditionalGeneration", 1, IMAGE | ONE_IMAGE_TOKEN, {"latent_query_num": 1}),
    "kosmos-2.5": Tiny(
        "Kosmos2_5ForConditionalGeneration",
        1,
        {"flattened_patches": torch.cat([torch.ones(1, 16, 2), torch.ones(1, 16, 768)], -1)} | ONE_IMAGE_TOKEN,
        {"latent_query_num": 1},
    ),
    "lfm2_vl": Tiny(
        "Lfm2VlForConditionalGeneration",
        4,
        {"pixel_values": (1, 16, 192), "spatial_shapes": [[4, 4]], "pixel_attention_mask": [[1] * 16]},
    ),
    "lfm3_vl": Tiny("Lfm3VlForConditionalGeneration", 4, FRAME_PAIRS),
    "lighton_ocr": Tiny("LightOnOcrForConditionalGeneration", 4, SIZED),
    "llama4": Tiny(
        "Llama4ForConditionalGeneration",
        4,
        IMAGE,
        {
            "vision_config.projector_input_dim": 48,
            "vision_config.projector_output_dim": 48,
            "vision_config.vision_output_dim": 48,
            "vision_config.intermediate_size": 128,
        },
    ),
    "llava": Tiny("LlavaForConditionalGeneration", 16, IMAGE),
    "llava_next": Tiny("LlavaNextForConditionalGeneration", 36, ANY_RESOLUTION, PINPOINTS),
    "llava_next_video": Tiny("LlavaNextVideoForConditionalGeneration", 36, ANY_RESOLUTION, PINPOINTS),
    "llava_onevision": Tiny("LlavaOnevisionForConditionalGeneration", 36, ANY_RESOLUTION, PINPOINTS),
    "minicpm_ocr": Tiny(
        "MiniCPMOcrForConditionalGeneration",
        4,
        IMAGE | {"target_sizes": [[4, 4]]},
        {"image_token_id": TOKEN},
        types=True,
    ),
    "minicpmv4_6": Tiny(
        "MiniCPMV4_6ForConditionalGeneration",
        1,
        IMAGE | {"target_sizes": [[4, 4]]},
        {"image_token_id": TOKEN},
        types=True,
    ),
    "minicpmv4_7": Tiny(
        "MiniCPMV4_7ForConditionalGeneration",
        1,
        IMAGE | {"target_sizes": [[4, 4]]},
        {"image_token_id": TOKEN},
        types=True,
    ),
    "minimax_m3_vl": Tiny("MiniMaxM3SparseForConditionalGeneration", 4, FRAME_PAIRS),
    "mistral3": Tiny("Mistral3ForConditionalGeneration", 4, SIZED),
    "mistral_large4": Tiny(
        "MistralLarge4ForConditionalGeneration",
        4,
        SIZED,
        {"text_config.kv_source_layers": [0, 1], "text_config.num_key_value_heads": 4},
    ),
    "mllama": Tiny(
        "MllamaForConditionalGeneration",
        1,
        {
            "pixel_values": (1, 1, 1, 3, 32, 32),
            "aspect_ratio_ids": [[1]],
            "aspect_ratio_mask": [[[1]]],
            "cross_attention_mask": [[[[1]]] * 4],
        },
        {
            "vision_config.max_num_tiles": 1,
            "vision_config.supported_aspect_ratios": [[1, 1]],
            "text_config.cross_attention_layers": [1],
            "text_config.rope_scaling": {"rope_type": "default"},
            "vision_config.intermediate_layers_indices": [0],
            "vision_config.vision_output_dim": 64,
        },
    ),
    "moss_transcribe_diarize": Tiny(
        "MossTranscribeDiarizeForConditionalGeneration",
        14,
        mel(112) | {"padding_mask": torch.ones(1, 16000)},
        FOUR_FRAMES_A_TOKEN,
    ),
    "muse_glimmer": Tiny(
        "MuseGlimmerForConditionalGeneration", 4, FRAME_PAIRS, {"out_hidden_size": 128, "projector_hidden_size": 64}
    ),
    "musicflamingo": Tiny("MusicFlamingoForConditionalGeneration", 25, mel(100)),
    "nemotron_h_omni": Tiny(
        "NemotronH_Omni_Reasoning_V3",
        4,
        {"pixel_values": (16, 192), "image_grid_hw": [[4, 4]]},
        {"image_token_id": TOKEN},
    ),
    "paddleocr_vl": Tiny("PaddleOCRVLForConditionalGeneration", 4, SQUARE_PATCHES, QWEN_ROPE, types=True),
    "paligemma": Tiny("PaliGemmaForConditionalGeneration", 16, IMAGE),
    "phi4_multimodal": Tiny(
        "Phi4MultimodalForCausalLM",
        5,
        {"audio_input_features": (1, 40, 80), "audio_embed_sizes": [5]},
        {
            "audio_config.nemo_conv_channels": 32,
            "audio_config.ext_pw_out_channel": 32,
            "audio_config.depthwise_separable_out_channel": 32,
            "audio_config.num_blocks": 2,
        },
    ),
    "qianfan_ocr": Tiny("QianfanOCRForConditionalGeneration", 4, IMAGE, PAIRS_OF_SIDES),
    "qwen2_5_omni_thinker": Tiny(
        "Qwen2_5OmniThinkerForConditionalGeneration",
        4,
        {"pixel_values": (16, 1176)} | GRID,
        QWEN_ROPE | {"vision_start_token_id": 20, "vision_config.patch_size": 14},
    ),
    "qwen2_5_vl": Tiny("Qwen2_5_VLForConditionalGeneration", 4, FRAME_PAIRS, QWEN_ROPE, types=True),
    "qwen2_audio": Tiny("Qwen2AudioForConditionalGeneration", 25, mel(100, "feature_attention_mask")),
    "qwen2_vl": Tiny(
        "Qwen2VLForConditionalGeneration", 4, FRAME_PAIRS, QWEN_ROPE | {"vision_config.hidden_size": TEXT}, types=True
    ),
    "qwen3_5": Tiny("Qwen3_5ForConditionalGeneration", 4, FRAME_PAIRS, POSITIONS, types=True),
    "qwen3_5_moe": Tiny("Qwen3_5MoeForConditionalGeneration", 4, FRAME_PAIRS, POSITIONS, types=True),
    "qwen3_asr": Tiny("Qwen3ASRForConditionalGeneration", 13, mel(100), {"audio_config.output_dim": TEXT}),
    "qwen3_vl": Tiny(
        "Qwen3VLForConditionalGeneration",
        4,
        FRAME_PAIRS,
        POSITIONS | {"vision_config.deepstack_visual_indexes": [0]},
        types=True,
    ),
    "qwen3_vl_moe": Tiny(
        "Qwen3VLMoeForConditionalGeneration",
        4,
        FRAME_PAIRS,
        POSITIONS | {"vision_config.deepstack_visual_indexes": [0]},
        types=True,
    ),
    "smolvlm": Tiny("SmolVLMForConditionalGeneration", 4, TILES),
    "step3p7": Tiny("Step3p7ForConditionalGeneration", 1, IMAGE, {"text_config.sliding_window": 16}),
    "t5gemma2": Tiny(
        "T5Gemma2ForConditionalGeneration",
        4,
        IMAGE | {"decoder_input_ids": [[1, 2]]},
        {"decoder.hidden_size": TEXT, "encoder.text_config.hidden_size": TEXT, "encoder.mm_tokens_per_image": 4},
    ),
    "video_llama_3": Tiny("VideoLlama3ForConditionalGeneration", 16, PATCHES | {"image_merge_sizes": [1]}),
    "video_llava": Tiny("VideoLlavaForConditionalGeneration", 16, {"pixel_values_images": (1, 3, 32, 32)}),
    "vipllava": Tiny("VipLlavaForConditionalGeneration", 16, IMAGE, {"vision_feature_layers": [-1, -2]}),
    "voxtral": Tiny(
        "VoxtralForConditionalGeneration",
        14,
        {"input_features": (1, 16, 112)},
        FOUR_FRAMES_A_TOKEN | {"audio_token_id": TOKEN},
    ),
    "voxtral_realtime": Tiny("VoxtralRealtimeForConditionalGeneration", 1, {"input_features": (1, 16, 32)}),
}


@dataclass
class Host:
    """A tiny host, its logits without a bridge, and the width of the input of its projector."""

    model: nn.Module
    inputs: dict[str, Any]
    plain: Tensor
    width: int


@pytest.fixture(scope="module", params=TINY)
def host(request: pytest.FixtureRequest) -> Host:
    model, inputs = TINY[request.param].build()
    assert model.config.model_type == request.param
    plain, seen = logits(model, inputs), []
    recorder = nn.Identity()
    recorder.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    attach(model, recorder)
    assert torch.equal(logits(model, inputs), plain), "an identity changes nothing"
    detach(model)
    (width,) = {shape[-1] for shape in seen}
    assert HOSTS[request.param].kind == "tokens"
    assert all(shape.numel() > width for shape in seen) or TINY[request.param].tokens == 1
    return Host(model, inputs, plain, width)


def turning(dim: int) -> TokenBridge:
    """A token bridge with weights that do something."""
    torch.manual_seed(0)
    bridge = TokenBridge(TokenBridgeConfig(dim)).eval()
    with torch.no_grad():
        bridge.mlp[-1].weight.normal_(0, 0.5)
    return bridge


@torch.no_grad()
def logits(model: nn.Module, inputs: dict[str, Any]) -> Tensor:
    return model(**inputs).logits


OUTSIDE = ("ClapCaptionModel", "ClipCaptionModel", "LLaMA_adapter", "OpenLLAMAPEFTModel", "slam_model")


def test_every_host_is_run() -> None:
    assert {*TINY, *OUTSIDE} == HOSTS.keys()
    assert {name for name, entry in HOSTS.items() if entry.kind == "pooled"} == {*OUTSIDE}


@pytest.mark.parametrize("name", OUTSIDE)
def test_hosts_outside_transformers_are_known_by_their_class(name: str, make_link) -> None:
    """Their packages cannot be installed here: the same names on a plain module, inside a wrapper and inherited."""
    parent = type(name, (nn.Module,), {})
    model = type("Finetuned", (parent,), {})()
    model.add_module(HOSTS[name].target, nn.Linear(16, 4))
    assert detach(attach(nn.Sequential(model), make_link())).dim == 16


def test_a_new_token_bridge_changes_no_bit(host: Host) -> None:
    attach(host.model, TokenBridge(TokenBridgeConfig(host.width)))
    bridged = logits(host.model, host.inputs)
    detach(host.model)
    assert torch.equal(bridged, host.plain)


@pytest.mark.parametrize("host", ["llava", "qwen2_audio", "blip-2"], indirect=True)
def test_a_token_bridge_alone_learns_what_the_host_is_asked(host: Host, tmp_path: Path) -> None:
    """Two inputs, each with an answer of its own, so that it has to be read from the tokens."""
    model, bridge = deepcopy(host.model), TokenBridge(TokenBridgeConfig(host.width))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(
                5 if parameter.ndim > 1 else 1
            )  # the weights of a new model hardly carry anything to the end
    noise = {name: torch.randn_like(x) for name, x in host.inputs.items() if x.is_floating_point()}
    questions, answers = (host.inputs, host.inputs | noise), torch.tensor([11, 17])

    def loss() -> Tensor:
        last = torch.cat([model(**inputs).logits[:, -1] for inputs in questions])
        return nn.functional.cross_entropy(last, answers)

    with torch.no_grad():
        frozen, plain = loss(), logits(model, host.inputs)
    mark_only_bridge_trainable(attach(model, bridge))
    optimiser = torch.optim.Adam(bridge.parameters(), lr=1e-2)
    for _ in range(50):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
    assert loss() < 0.5 * frozen
    with disabled(model):
        assert torch.equal(logits(model, host.inputs), plain)
    trained = logits(model, host.inputs)
    detach(model).save_pretrained(tmp_path)
    attach(model, TokenBridge.from_pretrained(tmp_path))
    assert torch.equal(logits(model, host.inputs), trained)


def test_before_disabled_and_after_are_the_same_bit_for_bit(host: Host) -> None:
    model, inputs, keys = host.model, host.inputs, list(host.model.state_dict())
    link = turning(host.width)
    attach(model, link)
    assert not torch.equal(logits(model, inputs), host.plain)
    assert {key for key in model.state_dict() if ".bridge." not in key} == set(keys)
    with disabled(model):
        assert torch.equal(logits(model, inputs), host.plain)
    assert detach(model) is link
    assert torch.equal(logits(model, inputs), host.plain)
    assert list(model.state_dict()) == keys


def test_a_bridge_of_another_width_is_an_error(host: Host) -> None:
    path = HOSTS[host.model.config.model_type].encoder_dim
    assert path is None or reduce(getattr, path.split("."), host.model.config) == host.width
    with pytest.raises(ValueError, match=rf"\b7\b.*\b{host.width}\b"):
        attach(host.model, turning(7))
        try:
            logits(host.model, host.inputs)  # where the config has no width, the bridge checks it
        finally:
            detach(host.model)


def test_it_comes_back_from_disk(host: Host, tmp_path: Path) -> None:
    attach(host.model, turning(host.width))
    bridged, weights = logits(host.model, host.inputs), bridge_state_dict(host.model)
    host.model.save_pretrained(tmp_path)
    detach(host.model)
    loaded = type(host.model).from_pretrained(tmp_path).eval()
    same = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)  # rounding depends on where weights lie
    same(logits(loaded, host.inputs), host.plain)
    attach(loaded, turning(host.width))
    loaded.load_state_dict(weights, strict=False)
    same(logits(loaded, host.inputs), bridged)


def test_a_step_moves_the_bridge_alone(host: Host) -> None:
    model = host.model
    needed_gradients = [parameter.requires_grad for parameter in model.parameters()]
    attach(model, turning(host.width))
    mark_only_bridge_trainable(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    model(**host.inputs).logits.logsumexp(-1).sum().backward()
    optimiser.step()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(".bridge.mlp." in name for name in moved)
    detach(model)
    for parameter, needed in zip(model.parameters(), needed_gradients, strict=True):
        parameter.requires_grad_(needed)
