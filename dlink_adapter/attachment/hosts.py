"""Host models: the projector of each known model that has its own encoder and language model.

A host is data, not code: an entry of `HOSTS`, which `attach(model, link)` looks up by `model.config.model_type`, or by
the name of the class for models outside transformers. Hosts with several projectors (Granite 4 Vision), or with two
inputs to one (DeepSeek-VL hybrid, VibeVoice), have no entry: `attach(model, link, target=...)` takes any module.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Host:
    """Where a bridge goes in one family of host models.

    Args:
        target: dotted path of the projector. The end of the path is enough where it is unique, so that one entry fits
            the bare model, the model with a head, and older versions.
        encoder_dim: dotted path, in the config of the host, of the width of the projector's input.
        note: a comment on the projector's input.
    """

    target: str
    encoder_dim: str | None = None
    note: str = ""


HOSTS: dict[str, Host] = {
    # audio
    "audioflamingo3": Host("multi_modal_projector", "audio_config.hidden_size"),
    "fun_asr_nano": Host("multi_modal_projector", "audio_config.hidden_size"),
    "glmasr": Host("multi_modal_projector", "audio_config.intermediate_size", "four frames a vector"),
    "granite_speech": Host("projector", "encoder_config.hidden_dim"),
    "granite_speech_plus": Host("projector", "encoder_config.hidden_dim"),
    "moss_transcribe_diarize": Host("multi_modal_projector", "audio_config.intermediate_size", "four frames a vector"),
    "musicflamingo": Host("multi_modal_projector", "audio_config.hidden_size"),
    "phi4_multimodal": Host("up_proj_for_speech", "audio_config.hidden_size", "where no image stands beside it"),
    "qwen2_audio": Host("multi_modal_projector", "audio_config.d_model", "one vector every 40 ms, after pooling"),
    "qwen3_asr": Host("multi_modal_projector", "audio_config.d_model"),
    "voxtral": Host("multi_modal_projector", "audio_config.intermediate_size", "four frames a vector"),
    "voxtral_realtime": Host("multi_modal_projector", note="audio_config.hidden_size x downsample_factor"),
    # vision: one vector a patch
    "aria": Host("multi_modal_projector", "vision_config.hidden_size"),
    "aya_vision": Host("multi_modal_projector", "vision_config.hidden_size"),
    "cohere2_vision": Host("multi_modal_projector", "vision_config.hidden_size"),
    "deepseek_vl": Host("aligner", "vision_config.hidden_size"),
    "gemma3": Host("multi_modal_projector", "vision_config.hidden_size"),
    "gemma4": Host("embed_vision", "vision_config.hidden_size"),
    "granite_docling": Host("connector", "vision_config.hidden_size"),
    "idefics2": Host("connector", "vision_config.hidden_size"),
    "idefics3": Host("connector", "vision_config.hidden_size"),
    "janus": Host("aligner", "vision_config.hidden_size"),
    "kimi_k25": Host("mm_projector", "vision_config.hidden_size"),
    "kosmos-2": Host("image_to_text_projection", "vision_config.hidden_size"),
    "kosmos-2.5": Host("image_to_text_projection", "vision_config.hidden_size"),
    "lfm2_vl": Host("multi_modal_projector", "vision_config.hidden_size"),
    "lfm3_vl": Host("multi_modal_projector", "vision_config.hidden_size"),
    "lighton_ocr": Host("vision_projection", "vision_config.hidden_size"),
    "llava": Host("multi_modal_projector", "vision_config.hidden_size"),
    "llava_next": Host("multi_modal_projector", "vision_config.hidden_size"),
    "llava_next_video": Host("multi_modal_projector", "vision_config.hidden_size"),
    "llava_onevision": Host("multi_modal_projector", "vision_config.hidden_size"),
    "minicpm_ocr": Host("merger", "vision_config.hidden_size"),
    "minicpmv4_6": Host("merger", "vision_config.hidden_size"),
    "minicpmv4_7": Host("merger", "vision_config.hidden_size"),
    "minimax_m3_vl": Host("multi_modal_projector", "vision_config.hidden_size"),
    "mistral3": Host("multi_modal_projector", "vision_config.hidden_size"),
    "mistral_large4": Host("multi_modal_projector", "vision_config.hidden_size"),
    "paddleocr_vl": Host("projector", "vision_config.hidden_size"),
    "paligemma": Host("multi_modal_projector", "vision_config.hidden_size"),
    "smolvlm": Host("connector", "vision_config.hidden_size"),
    "t5gemma2": Host("multi_modal_projector", "encoder.vision_config.hidden_size"),
    "video_llama_3": Host("projector", "vision_config.hidden_size"),
    "video_llava": Host("multi_modal_projector", "vision_config.hidden_size"),
    # vision: the projector is the last layer of the vision tower, which merges 2 x 2 patches
    "exaone4_5": Host("visual.merger", "vision_config.hidden_size"),
    "glm46v": Host("visual.merger", "vision_config.out_hidden_size", "2 x 2 patches, merged by a convolution"),
    "glm4v": Host("visual.merger", "vision_config.out_hidden_size", "2 x 2 patches, merged by a convolution"),
    "glm4v_moe": Host("visual.merger", "vision_config.out_hidden_size", "2 x 2 patches, merged by a convolution"),
    "glm5_next": Host("visual.merger", "vision_config.out_hidden_size", "2 x 2 patches, merged by a convolution"),
    "glm_ocr": Host("visual.merger", "vision_config.out_hidden_size", "2 x 2 patches, merged by a convolution"),
    "qwen2_5_omni_thinker": Host("visual.merger", "vision_config.hidden_size", "images alone; sound has no projector"),
    "qwen2_5_vl": Host("visual.merger", "vision_config.hidden_size"),
    "qwen2_vl": Host("visual.merger", "vision_config.embed_dim"),
    "qwen3_5": Host("visual.merger", "vision_config.hidden_size"),
    "qwen3_5_moe": Host("visual.merger", "vision_config.hidden_size"),
    "qwen3_vl": Host("visual.merger", "vision_config.hidden_size", "the last layer, not the deepstack ones"),
    "qwen3_vl_moe": Host("visual.merger", "vision_config.hidden_size", "the last layer, not the deepstack ones"),
    # vision: something else than patches
    "blip-2": Host("language_projection", "qformer_config.hidden_size", "the queries of the Q-Former"),
    "got_ocr2": Host("multimodal_projector", "text_config.hidden_size", "patches, after the projector's convolutions"),
    "hyperclovax_vision_v2": Host("projector", "vision_config.out_hidden_size", "2 x 2 patches, merged"),
    "instructblip": Host("language_projection", "qformer_config.hidden_size", "the queries of the Q-Former"),
    "instructblipvideo": Host("language_projection", "qformer_config.hidden_size", "the queries of the Q-Former"),
    "internvl": Host("multi_modal_projector", note="vision_config.hidden_size / downsample_ratio^2: 2 x 2 patches"),
    "llama4": Host("multi_modal_projector", "vision_config.vision_output_dim", "2 x 2 patches, after an adapter"),
    "mllama": Host("multi_modal_projector", "vision_config.vision_output_dim", "a patch's vectors of several layers"),
    "muse_glimmer": Host("vision_adapter", "out_hidden_size", "2 x 2 patches"),
    "nemotron_h_omni": Host("multi_modal_projector", note="2 x 2 patches, side by side; sound enters at embed_audio"),
    "qianfan_ocr": Host("multi_modal_projector", note="vision_config.hidden_size / downsample_ratio^2: 2 x 2 patches"),
    "step3p7": Host("multi_modal_projector", note="vision_config.hidden_size x 4, after two convolutions"),
    "vipllava": Host("multi_modal_projector", note="vision_config.hidden_size x len(vision_feature_layers): a patch"),
    # outside transformers, by the name of the class
    "ClapCaptionModel": Host("clap_project", note="CLAP-Cap of msclap: one unit-norm CLAP embedding a clip"),
    "ClipCaptionModel": Host("clip_project", note="ClipCap: one CLIP embedding an image"),
    "LLaMA_adapter": Host("image_bind_proj", note="ImageBind-LLM: one ImageBind embedding"),
    "OpenLLAMAPEFTModel": Host("llama_proj", note="PandaGPT: one ImageBind embedding"),
    "slam_model": Host("encoder_projector", note="SLAM-LLM, and DRCap in it: what its encoder gives"),
}


def register_host(name: str, host: Host) -> None:
    """Add a host under its `config.model_type`, or the name of its class, for `attach(model, link)`.

    Raises:
        ValueError: another host is registered under that name.
    """
    if HOSTS.setdefault(name, host) != host:
        raise ValueError(f"host {name!r} is registered already, as {HOSTS[name]}")


def host_of(model: nn.Module, dim: int | None = None) -> Host:
    """The entry of HOSTS for `model`, by its `config.model_type`, or else by its class or a parent class.

    Args:
        model: a transformers model or any module, also one that contains a known host, as DDP does.
        dim: width of the bridge, compared with the width of the encoder where both are known.

    Raises:
        ValueError: no entry, or an encoder of another width.
    """
    for module in model.modules():
        config = getattr(module, "config", None)
        for name in (getattr(config, "model_type", None), *(kind.__name__ for kind in type(module).__mro__)):
            if name in HOSTS:
                _check_width(name, config, dim)
                return HOSTS[name]
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    raise ValueError(
        f"{type(model).__name__} is no known host (config.model_type is {model_type!r}): give "
        f'target="dotted.path.of.the.projector", or register_host. Known: {", ".join(HOSTS)}'
    )


def _check_width(name: str, config: Any, dim: int | None) -> None:
    path = HOSTS[name].encoder_dim
    if path is not None and dim is not None and (width := reduce(getattr, path.split("."), config)) != dim:
        raise ValueError(f"the bridge has dim {dim}, this {name}'s config.{path} is {width}")
