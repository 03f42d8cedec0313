"""Any `AutoModelForCausalLM` behind a bridge: frozen, with LoRA, or with QLoRA on a bitsandbytes base."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

try:
    from peft import (
        LoraConfig,
        PeftModel,
        get_peft_model,
        get_peft_model_state_dict,
        prepare_model_for_kbit_training,
    )
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
except ImportError as error:
    raise ImportError('a captioner needs transformers and peft: pip install "dlink-adapter[llm]"') from error

from dlink_adapter.bridge.base import Bridge
from dlink_adapter.bridge.hub import resolve_folder
from dlink_adapter.captioner.confidence import CONFIDENCE_FILE
from dlink_adapter.captioner.config import BRIDGE_FOLDER, CaptionerConfig, read_captioner_config
from dlink_adapter.captioner.model import ADAPTER_FOLDER, CONDITION_FILE, PROJECTOR_FILE, Captioner
from dlink_adapter.files import read_json
from dlink_adapter.folders import CAPTIONER_FILE
from dlink_adapter.registry import load_bridge

LORA_TARGETS = {"phi3": ["qkv_proj"]}  # families that peft has no layers for: query and value, as for a LLaMA
AS_SAVED = "as saved"
HUB = ("token", "cache_dir", "local_files_only", "force_download")


def new_captioner(
    bridge: Bridge, config: CaptionerConfig, *, lora: LoraConfig | None = None, **options: Any
) -> Captioner:
    """An untrained captioner on the base model that the config names.

    Args:
        bridge: any of `BRIDGES`.
        config: the settings.
        lora: peft's config of the LoRA, in place of what `config` says of it.
        options: of the model's `from_pretrained`: dtype, device_map, revision, trust_remote_code, ...

    Raises:
        ValueError: as `lora_config`; `lora` where `config.tuning` is another.
    """
    if lora is not None and config.tuning != "lora":
        raise ValueError(f"lora is given, and tuning is {config.tuning!r}: set tuning to 'lora', or leave lora out")
    llm, tokenizer = load_base_model(config, **options)
    if config.tuning == "lora":
        llm = get_peft_model(llm, lora or lora_config(config, llm.config.model_type))
        if lora is not None:
            config = replace(config, **_settings_of(llm.active_peft_config))
    elif config.tuning == "frozen":
        llm.requires_grad_(False)
    return Captioner(bridge, llm, tokenizer, config)


def load_captioner(
    name_or_path: str | Path,
    *,
    quantize: str | None = AS_SAVED,
    revision: str | None = None,
    base_model_revision: str | None = None,
    subfolder: str = "",
    device: str | torch.device | None = None,
    **options: Any,
) -> Captioner:
    """A captioner that `Captioner.save_pretrained` saved, from a folder or from the hub.

    Args:
        quantize: another quantisation of the base model than it was trained with; None for none.
        revision: branch, tag or commit of its repository.
        base_model_revision: of the base model's.
        subfolder: where it lies in the folder or the repository.
        device: where it is put; a quantised one is where `device_map` puts it.
        options: token, cache_dir, local_files_only and force_download, for both repositories; and as for
            `new_captioner`.

    Raises:
        FileNotFoundError: no captioner there, or not its base model.
        ValueError: settings that are unknown, a bridge that it was not saved with, or weights that are damaged or have
            other keys; each names its file.
    """
    files = (
        f"{BRIDGE_FOLDER}/*",
        f"{ADAPTER_FOLDER}/*",
        CAPTIONER_FILE,
        PROJECTOR_FILE,
        CONDITION_FILE,
        CONFIDENCE_FILE,
    )
    hub = {name: options[name] for name in HUB if name in options}
    folder = resolve_folder(name_or_path, files, subfolder=subfolder, revision=revision, **hub)
    if base_model_revision is not None:
        options["revision"] = base_model_revision
    config = read_captioner_config(folder)
    if quantize != AS_SAVED:
        config = replace(config, quantize=quantize)
    adapter = folder / ADAPTER_FOLDER
    llm, tokenizer = load_base_model(config, weights=adapter if config.tuning == "full" else None, **options)
    if config.tuning == "lora":
        llm = load_lora(llm, adapter)
    captioner = Captioner(load_bridge(folder / BRIDGE_FOLDER), llm, tokenizer, config)
    captioner.load_trained(folder)
    return captioner.eval() if device is None else captioner.eval().to(device)


def load_base_model(config: CaptionerConfig, weights: Path | None = None, **options: Any) -> tuple[Any, Any]:
    """The language model, quantised if the config says so, and its tokenizer.

    `weights` is a folder with tuned weights of the whole model, to load in place of its own.

    Raises:
        FileNotFoundError: no such folder, or no such repository.
        ValueError: damaged weights, or tuned ones that lack keys.
    """
    shared = {name: options[name] for name in (*HUB, "revision") if name in options}
    resolve_folder(config.base_model, ("config.json",), **shared)  # soon says what transformers says after retries
    if config.quantize is not None:
        options = {"quantization_config": quantization(config.quantize), **options}
    source = str(weights or config.base_model)
    try:
        llm, loaded = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **options)
    except SafetensorError as error:
        raise ValueError(f"the weights in {source} are damaged: {error}") from error
    if weights is not None and loaded["missing_keys"]:
        raise ValueError(f"{weights} lacks the weights {', '.join(sorted(loaded['missing_keys']))}")
    if config.quantize is not None:
        llm = prepare_model_for_kbit_training(llm, use_gradient_checkpointing=False)
    if "trust_remote_code" in options:
        shared["trust_remote_code"] = options["trust_remote_code"]
    return llm, AutoTokenizer.from_pretrained(config.base_model, **shared)


def load_lora(llm: Any, folder: Path) -> PeftModel:
    """The model with the LoRA of a folder, to be trained on.

    Raises:
        FileNotFoundError: no LoRA there.
        ValueError: a damaged file, or one whose keys or shapes are not those of its config on this model.
    """
    file = folder / "adapter_model.safetensors"
    read_json(folder / "adapter_config.json")  # peft does not name a damaged one
    try:
        with safe_open(file, framework="pt") as tensors:
            saved = set(tensors.keys())
        model = PeftModel.from_pretrained(llm, str(folder), is_trainable=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{file} is damaged, or does not fit the base model: {error}") from error
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if saved != expected:  # peft leaves such layers untrained
        raise ValueError(f"{file}: missing keys {sorted(expected - saved)}, unexpected keys {sorted(saved - expected)}")
    return model


def lora_config(config: CaptionerConfig, model_type: str) -> LoraConfig:
    """LoRA on the layers that the config names, or that peft has for this family.

    Raises:
        ValueError: no layers named, and a family that peft has none for.
    """
    targets: Any = config.target_modules
    if targets is None:
        targets = LORA_TARGETS.get(model_type)
        if targets is None and model_type not in PEFT_TARGETS:
            raise ValueError(
                f'peft has no LoRA layers for {model_type!r}: give target_modules, for instance "q_proj,v_proj", or '
                '"all-linear"'
            )
    elif targets != "all-linear":
        targets = targets.replace(" ", "").split(",")
    return LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        target_modules=targets,
        fan_in_fan_out=model_type == "gpt2",  # its layers are Conv1D
        task_type="CAUSAL_LM",
    )


def _settings_of(lora: LoraConfig) -> dict[str, Any]:
    """What a captioner's settings say of a LoRA, once it is on the model."""
    targets = lora.target_modules
    named = targets if isinstance(targets, str) else ",".join(sorted(targets))
    same = {name: getattr(lora, name) for name in ("lora_alpha", "lora_dropout", "use_rslora", "use_dora")}
    return {"lora_r": lora.r, "target_modules": named, **same}


def quantization(kind: str) -> BitsAndBytesConfig:
    """The settings of a kind: QLoRA's NF4 with double quantisation (Dettmers et al., 2023), FP4 or int8."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ImportError('quantisation needs bitsandbytes: pip install "dlink-adapter[qlora]"') from error
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
