"""Any `AutoModelForCausalLM` behind a bridge: frozen, with LoRA, or with QLoRA on a bitsandbytes base."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from dlink_adapter.baselines import load_bridge
from dlink_adapter.captioner import (
    ADAPTER_FOLDER,
    BRIDGE_FOLDER,
    Captioner,
    CaptionerConfig,
    read_captioner_config,
)
from dlink_adapter.pretrained import PretrainedBridge


def new_captioner(bridge: PretrainedBridge, config: CaptionerConfig, **options: Any) -> Captioner:
    """An untrained captioner on the base model that the config names.

    `options` go to the model's `from_pretrained`: dtype, device_map, revision, trust_remote_code, ...
    """
    llm, tokenizer = load_base_model(config, **options)
    if config.tuning == "lora":
        llm = get_peft_model(llm, lora_config(config))
    elif config.tuning == "frozen":
        llm.requires_grad_(False)
    return Captioner(bridge, llm, tokenizer, config)


def load_captioner(folder: str | Path, **options: Any) -> Captioner:
    """A captioner that `Captioner.save_pretrained` saved. `options` as for `new_captioner`."""
    config = read_captioner_config(folder)
    adapter = Path(folder, ADAPTER_FOLDER)
    llm, tokenizer = load_base_model(config, weights=adapter if config.tuning == "full" else None, **options)
    if config.tuning == "lora":
        llm = PeftModel.from_pretrained(llm, str(adapter), is_trainable=True)
    captioner = Captioner(load_bridge(Path(folder, BRIDGE_FOLDER)), llm, tokenizer, config)
    captioner.load_projector(folder)
    return captioner.eval()


def load_base_model(config: CaptionerConfig, weights: Path | None = None, **options: Any) -> tuple[Any, Any]:
    """The language model, quantised if the config says so, and its tokenizer; `weights` replaces the model's own."""
    if config.quantize is not None:
        options = {"quantization_config": quantization(config.quantize), **options}
    llm = AutoModelForCausalLM.from_pretrained(str(weights or config.base_model), **options)
    if config.quantize is not None:
        llm = prepare_model_for_kbit_training(llm, use_gradient_checkpointing=False)
    return llm, AutoTokenizer.from_pretrained(config.base_model)


def lora_config(config: CaptionerConfig) -> LoraConfig:
    """LoRA on the layers that peft knows for the model's family (query and value projections of a LLaMA)."""
    return LoraConfig(
        r=config.lora_r, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout, task_type="CAUSAL_LM"
    )


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
