"""Host models: the projector of each known model that has its own encoder and language model.

A host is data, not code: a name in `FAMILIES`, which `attach(model, link)` looks up by `model.config.model_type`, or by
the name of the class for models outside transformers. Hosts with several projectors (Granite 4 Vision), or with two
inputs to one (DeepSeek-VL hybrid, VibeVoice), have no entry: `attach(model, link, target=...)` takes any module.

Most hosts feed their projector tokens: one vector a patch or frame, unnormalised, in the encoder's own space, where
nothing is paired with text. A bridge that was fitted on pairs has no meaning there, and `TokenBridge` is for them. The
others feed it one pooled embedding of a space shared with text, which is what a fitted bridge maps.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class Host:
    """Where a bridge goes in one family of host models.

    `target` is the dotted path of the projector, or the end of it where that is unique: one entry fits the bare model,
    the model with a head, and older versions. `encoder_dim` is the dotted path, in the config of the host, of the width
    of the projector's input, on which `note` is a comment. `kind` is what the projector reads: tokens, or one pooled
    embedding of a space shared with text.
    """

    target: str
    encoder_dim: str | None = None
    note: str = ""
    kind: Literal["tokens", "pooled"] = "tokens"


# The names of hosts that are alike, with spaces between them.
FAMILIES: dict[str, Host] = {
    # audio
    "audioflamingo3 fun_asr_nano musicflamingo": Host("multi_modal_projector", "audio_config.hidden_size"),
    "glmasr moss_transcribe_diarize voxtral": Host(
        "multi_modal_projector", "audio_config.intermediate_size", "four frames a vector"
    ),
    "granite_speech granite_speech_plus": Host("projector", "encoder_config.hidden_dim"),
    "phi4_multimodal": Host("up_proj_for_speech", "audio_config.hidden_size", "where no image stands beside it"),
    "qwen2_audio": Host("multi_modal_projector", "audio_config.d_model", "one vector every 40 ms, after pooling"),
    "qwen3_asr": Host("multi_modal_projector", "audio_config.d_model"),
    "voxtral_realtime": Host("multi_modal_projector", note="audio_config.hidden_size x downsample_factor"),
    # vision: one vector a patch
    "aria aya_vision cohere2_vision gemma3 lfm2_vl lfm3_vl": Host("multi_modal_projector", "vision_config.hidden_size"),
    "llava llava_next llava_next_video llava_onevision": Host("multi_modal_projector", "vision_config.hidden_size"),
    "minimax_m3_vl mistral3 mistral_large4 paligemma video_llava": Host(
        "multi_modal_projector", "vision_config.hidden_size"
    ),
    "deepseek_vl janus": Host("aligner", "vision_config.hidden_size"),
    "gemma4": Host("embed_vision", "vision_config.hidden_size"),
    "granite_docling idefics2 idefics3 smolvlm": Host("connector", "vision_config.hidden_size"),
    "kimi_k25": Host("mm_projector", "vision_config.hidden_size"),
    "kosmos-2 kosmos-2.5": Host("image_to_text_projection", "vision_config.hidden_size"),
    "lighton_ocr": Host("vision_projection", "vision_config.hidden_size"),
    "minicpm_ocr minicpmv4_6 minicpmv4_7": Host("merger", "vision_config.hidden_size"),
    "paddleocr_vl video_llama_3": Host("projector", "vision_config.hidden_size"),
    "t5gemma2": Host("multi_modal_projector", "encoder.vision_config.hidden_size"),
    # vision: the projector is the last layer of the vision tower, which merges 2 x 2 patches
    "exaone4_5 qwen2_5_vl qwen3_5 qwen3_5_moe": Host("visual.merger", "vision_config.hidden_size"),
    "glm46v glm4v glm4v_moe glm5_next glm_ocr": Host(
        "visual.merger", "vision_config.out_hidden_size", "2 x 2 patches, merged by a convolution"
    ),
    "qwen2_5_omni_thinker": Host("visual.merger", "vision_config.hidden_size", "images alone; sound has no projector"),
    "qwen2_vl": Host("visual.merger", "vision_config.embed_dim"),
    "qwen3_vl qwen3_vl_moe": Host(
        "visual.merger", "vision_config.hidden_size", "the last layer, not the deepstack ones"
    ),
    # vision: something else than patches
    "blip-2 instructblip instructblipvideo": Host(
        "language_projection", "qformer_config.hidden_size", "the queries of the Q-Former"
    ),
    "got_ocr2": Host("multimodal_projector", "text_config.hidden_size", "patches, after the projector's convolutions"),
    "hyperclovax_vision_v2": Host("projector", "vision_config.out_hidden_size", "2 x 2 patches, merged"),
    "internvl qianfan_ocr": Host(
        "multi_modal_projector", note="vision_config.hidden_size / downsample_ratio^2: 2 x 2 patches"
    ),
    "llama4": Host("multi_modal_projector", "vision_config.vision_output_dim", "2 x 2 patches, after an adapter"),
    "mllama": Host("multi_modal_projector", "vision_config.vision_output_dim", "a patch's vectors of several layers"),
    "muse_glimmer": Host("vision_adapter", "out_hidden_size", "2 x 2 patches"),
    "nemotron_h_omni": Host("multi_modal_projector", note="2 x 2 patches, side by side; sound enters at embed_audio"),
    "step3p7": Host("multi_modal_projector", note="vision_config.hidden_size x 4, after two convolutions"),
    "vipllava": Host("multi_modal_projector", note="vision_config.hidden_size x len(vision_feature_layers): a patch"),
    # outside transformers, by the name of the class
    "ClapCaptionModel": Host("clap_project", note="CLAP-Cap of msclap: one unit-norm CLAP embedding", kind="pooled"),
    "ClipCaptionModel": Host("clip_project", note="ClipCap: one CLIP embedding", kind="pooled"),
    "LLaMA_adapter": Host("image_bind_proj", note="ImageBind-LLM: one unit-norm ImageBind embedding", kind="pooled"),
    "OpenLLAMAPEFTModel": Host(
        "llama_proj", note="PandaGPT: one ImageBind embedding, of norm 1 from images and 20 from sound", kind="pooled"
    ),
    "slam_model": Host(
        "encoder_projector", note="SLAM-LLM: one CLAP embedding in DRCap, tokens with other encoders", kind="pooled"
    ),
}
HOSTS: dict[str, Host] = {name: host for names, host in FAMILIES.items() for name in names.split()}


def register_host(name: str, host: Host) -> None:
    """Add a host under its `config.model_type`, or the name of its class. Raises ValueError where another has it."""
    if HOSTS.setdefault(name, host) != host:
        raise ValueError(f"host {name!r} is registered already, as {HOSTS[name]}")


def host_of(model: nn.Module, dim: int | None = None) -> Host:
    """The entry of HOSTS for `model`, by its `config.model_type`, or else by its class or a parent class.

    `model` may also contain a known host, as DDP does. Raises ValueError where there is none, or where the widths of
    the bridge (`dim`) and of the encoder are known and differ.
    """
    for module in model.modules():
        config = getattr(module, "config", None)
        for name in (getattr(config, "model_type", None), *(kind.__name__ for kind in type(module).__mro__)):
            if name in HOSTS:
                path = HOSTS[name].encoder_dim
                if path and dim is not None and (width := reduce(getattr, path.split("."), config)) != dim:
                    raise ValueError(f"the bridge has dim {dim}, this {name}'s config.{path} is {width}")
                return HOSTS[name]
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    raise ValueError(
        f"{type(model).__name__} is no known host (config.model_type is {model_type!r}): give "
        f'target="dotted.path.of.the.projector", or register_host. Known: {", ".join(HOSTS)}'
    )
