"""Base models as they come: quantised, in bfloat16, with LoRA."""

import pytest
import torch

from dlink_adapter.captioner import CaptionerConfig
from dlink_adapter.integrations.causal_lm import (
    load_base_model,
    load_captioner,
    lora_config,
    new_captioner,
    quantization,
)


@pytest.fixture
def x():
    return torch.randn(4, 16, generator=torch.Generator().manual_seed(0))


def row(captioner):
    ids = torch.tensor(captioner.tokenize(["a dog is heard nearby"])).expand(4, -1)
    return {"is_text": torch.zeros(4, dtype=torch.bool), "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_nf4_really_is_four_bits(llama):
    from bitsandbytes.nn import Linear4bit

    plain, _ = load_base_model(CaptionerConfig(str(llama)))
    model, tokenizer = load_base_model(CaptionerConfig(str(llama), quantize="nf4"))
    layer = model.model.layers[0].mlp.up_proj
    assert isinstance(layer, Linear4bit) and layer.weight.quant_state.nested
    assert layer.weight.quant_state.quant_type == "nf4"
    assert not any(parameter.requires_grad for parameter in model.parameters())
    ids = tokenizer("a dog is heard", return_tensors="pt")["input_ids"]
    assert torch.cosine_similarity(model(ids).logits, plain(ids).logits, dim=-1).min() > 0.9


@pytest.mark.parametrize("quantize", ["nf4", None])
def test_gradients_reach_projector_and_lora(llama, link, x, quantize):
    captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=32, quantize=quantize))
    captioner(x, **row(captioner))["loss"].backward()
    assert captioner.projector[0].weight.grad.abs().sum() > 0
    lora = {name: value.grad for name, value in captioner.llm.named_parameters() if "lora_B" in name}
    assert lora and all(grad.abs().sum() > 0 for grad in lora.values())


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_a_bfloat16_base_model(llama, link, x, tmp_path, tuning):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(llama, dtype=torch.bfloat16).save_pretrained(tmp_path / "llm")
    AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path / "llm")
    config = CaptionerConfig(str(tmp_path / "llm"), hidden=32, tuning=tuning, after="is", max_caption_tokens=5)
    captioner = new_captioner(link, config)
    assert captioner.llm.get_input_embeddings().weight.dtype == torch.bfloat16  # transformers keeps the checkpoint's
    loss = captioner(x, **row(captioner))["loss"]
    loss.backward()
    assert loss.isfinite() and captioner.projector[0].weight.grad.isfinite().all()
    captions = captioner.generate(x)
    captioner.save_pretrained(tmp_path / "out")
    assert load_captioner(tmp_path / "out").generate(x) == captions


def test_lora_settings(llama, link):
    config = CaptionerConfig(str(llama), lora_r=4, lora_alpha=9, lora_dropout=0.2)
    given = lora_config(config)
    assert (given.r, given.lora_alpha, given.lora_dropout) == (4, 9, 0.2)
    names = [name for name, _ in new_captioner(link, config).llm.named_parameters() if "lora_A" in name]
    assert {name.split(".lora_A")[0].split(".")[-1] for name in names} == {"q_proj", "v_proj"}


def test_kinds_of_quantisation():
    assert quantization("int8").load_in_8bit and not quantization("int8").load_in_4bit
    for kind in ("nf4", "fp4"):
        settings = quantization(kind)
        assert settings.load_in_4bit and settings.bnb_4bit_quant_type == kind and settings.bnb_4bit_use_double_quant
