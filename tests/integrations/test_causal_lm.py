"""Base models as they come: quantised, in bfloat16, with LoRA."""

import dataclasses
import json
import shutil
import warnings

import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence

from dlink_adapter.captioner.config import CaptionerConfig
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


@pytest.mark.quantised
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


@pytest.mark.parametrize("quantize", [pytest.param("nf4", marks=pytest.mark.quantised), None])
def test_gradients_reach_projector_and_lora(llama, link, x, quantize):
    captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=32, quantize=quantize))
    captioner(x, **row(captioner))["loss"].backward()
    assert captioner.projector[0].weight.grad.abs().sum() > 0
    lora = {name: value.grad for name, value in captioner.llm.named_parameters() if "lora_B" in name}
    assert lora and all(grad.abs().sum() > 0 for grad in lora.values())


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_a_bfloat16_base_model(llama, link, x, tmp_path, tuning):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(llama).bfloat16().save_pretrained(tmp_path / "llm")
    AutoTokenizer.from_pretrained(llama).save_pretrained(tmp_path / "llm")
    config = CaptionerConfig(str(tmp_path / "llm"), hidden=32, tuning=tuning, after="is", max_caption_tokens=5)
    keep = {"torch_dtype" if transformers.__version__.startswith("4.") else "dtype": "auto"}
    captioner = new_captioner(link, config, **keep)
    assert captioner.llm.get_input_embeddings().weight.dtype == torch.bfloat16
    loss = captioner(x, **row(captioner))["loss"]
    loss.backward()
    assert loss.isfinite() and captioner.projector[0].weight.grad.isfinite().all()
    captions = captioner.generate(x)
    captioner.save_pretrained(tmp_path / "out")
    assert load_captioner(tmp_path / "out", **keep).generate(x) == captions


def test_lora_settings(llama, link):
    config = CaptionerConfig(str(llama), lora_r=4, lora_alpha=9, lora_dropout=0.2)
    given = lora_config(config, "llama")
    assert (given.r, given.lora_alpha, given.lora_dropout) == (4, 9, 0.2)
    names = [name for name, _ in new_captioner(link, config).llm.named_parameters() if "lora_A" in name]
    assert {name.split(".lora_A")[0].split(".")[-1] for name in names} == {"q_proj", "v_proj"}


@pytest.mark.parametrize("quantize", [pytest.param("nf4", marks=pytest.mark.quantised), None])
@pytest.mark.parametrize("kind", ["use_dora", "use_rslora"])
def test_kinds_of_lora_learn_and_come_back(llama, link, captions, tmp_path, kind, quantize):
    torch.manual_seed(0)
    config = CaptionerConfig(str(llama), hidden=32, max_caption_tokens=8, quantize=quantize, **{kind: True})
    captioner = new_captioner(link, config)
    assert getattr(captioner.llm.active_peft_config, kind)
    x, first, last = trained(captioner, captions[::6])
    assert last < first - 0.1
    expected = captioner.generate(x)
    captioner.save_pretrained(tmp_path)
    assert load_captioner(tmp_path).generate(x) == expected


def test_a_lora_of_ones_own(llama, link, x, tmp_path):
    own = LoraConfig(r=3, lora_alpha=5, target_modules=["up_proj", "k_proj"], use_rslora=True, layers_to_transform=[0])
    captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=32, max_caption_tokens=8), lora=own)
    names = {
        name.split(".lora_A")[0].split("layers.")[1] for name, _ in captioner.named_parameters() if "lora_A" in name
    }
    assert names == {"0.mlp.up_proj", "0.self_attn.k_proj"}
    captioner.save_pretrained(tmp_path)
    settings = load_captioner(tmp_path).settings
    assert (settings.lora_r, settings.lora_alpha, settings.lora_dropout) == (3, 5, 0.0)
    assert settings.target_modules == "k_proj,up_proj" and settings.use_rslora and not settings.use_dora
    with pytest.raises(ValueError, match="lora is given, and tuning is 'frozen': set tuning to 'lora'"):
        new_captioner(link, CaptionerConfig(str(llama), tuning="frozen"), lora=own)


def test_the_parameters_that_are_trained_are_printed(llama, link, capsys):
    captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=32, tuning="frozen"))
    captioner.print_trainable_parameters()
    of_projector = sum(value.numel() for value in captioner.projector.parameters())
    everything = sum(value.numel() for value in captioner.parameters())
    expected = f"trainable params: {of_projector:,} || all params: {everything:,} || trainable%: "
    assert capsys.readouterr().out.startswith(expected)


TINY = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 128}
GROUPED = {**TINY, "intermediate_size": 128, "num_key_value_heads": 1, "head_dim": 32}
FAMILIES = {  # in_features are multiples of 64, which is what bitsandbytes can quantise
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", GROUPED),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", GROUPED),
    "gemma2": ("Gemma2Config", {**GROUPED, "query_pre_attn_scalar": 32}),
    "gemma3_text": ("Gemma3TextConfig", {**GROUPED, "query_pre_attn_scalar": 32}),
    "phi3": ("Phi3Config", {**TINY, "intermediate_size": 128, "num_key_value_heads": 1}),
    "opt": ("OPTConfig", {**TINY, "ffn_dim": 128, "word_embed_proj_dim": 64}),
    "gpt2": ("GPT2Config", {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_positions": 128}),
    "gpt_neox": ("GPTNeoXConfig", {**TINY, "intermediate_size": 128}),
}
TUNINGS = {
    "frozen": {"tuning": "frozen"},
    "lora": {"tuning": "lora"},
    "qlora": {"tuning": "lora", "quantize": "nf4"},
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, llama, tmp_path_factory):
    """The folder of a tiny model of each family, with the tokenizer of the tiny LLaMA."""
    name, settings = FAMILIES[request.param]
    if not hasattr(transformers, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    config = getattr(transformers, name)(vocab_size=len(tokenizer), **settings, **ids)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trained(captioner, captions, steps=20):
    """Train on one batch of eight; returns it, and its loss before and after."""
    ids = [torch.tensor(of_caption) for of_caption in captioner.tokenize(captions)]
    rows = {
        "embedding": torch.randn(len(ids), 16, generator=torch.Generator().manual_seed(1)),
        "is_text": torch.ones(len(ids), dtype=torch.bool),
        "input_ids": pad_sequence(ids, batch_first=True, padding_value=captioner.pad_token_id),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }
    captioner.train()
    optimiser = torch.optim.AdamW([value for value in captioner.parameters() if value.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        loss = captioner(**rows)["loss"]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    captioner.eval()
    return rows["embedding"], losses[0], losses[-1]


@pytest.mark.parametrize("tuning", ["frozen", "lora", pytest.param("qlora", marks=pytest.mark.quantised)])
def test_every_family_learns_and_comes_back(family, link, captions, tmp_path, tuning):
    torch.manual_seed(0)
    config = CaptionerConfig(str(family), hidden=32, prefix_tokens=2, max_caption_tokens=8, **TUNINGS[tuning])
    captioner = new_captioner(link, config)
    x, first, last = trained(captioner, captions[::6])
    assert last < first - 0.1
    together = captioner.generate(x, modality="text", batch_size=8)
    assert captioner.generate(x, modality="text", batch_size=1) == together
    captioner.save_pretrained(tmp_path)
    assert load_captioner(tmp_path).generate(x, modality="text") == together


@pytest.mark.quantised
@pytest.mark.parametrize("quantize", ["fp4", "int8"])
def test_other_kinds_of_quantisation_learn_and_come_back(llama, link, captions, tmp_path, quantize):
    torch.manual_seed(0)
    captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=32, max_caption_tokens=8, quantize=quantize))
    x, first, last = trained(captioner, captions[::6])
    assert last < first - 0.3
    together = captioner.generate(x)
    captioner.save_pretrained(tmp_path)
    assert load_captioner(tmp_path).generate(x) == together


def test_lora_goes_where_it_is_told(llama, link):
    for targets, expected in (("q_proj, up_proj", {"q_proj", "up_proj"}), ("all-linear", None)):
        captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=32, target_modules=targets))
        names = [name.split(".lora_A")[0] for name, _ in captioner.named_parameters() if "lora_A" in name]
        assert all(name.startswith("llm.") for name in names)
        kinds = {name.split(".")[-1] for name in names}
        assert kinds == expected if expected else len(kinds) == 7
    with pytest.raises(ValueError, match=r"peft has no LoRA layers for 'xglm': give target_modules.*all-linear"):
        lora_config(CaptionerConfig(str(llama)), "xglm")


def test_merging_changes_no_caption(llama, link, captions, tmp_path):
    torch.manual_seed(0)
    config = CaptionerConfig(str(llama), hidden=32, max_caption_tokens=8)
    captioner = new_captioner(link, config)
    x, *_ = trained(captioner, captions[::6], steps=5)
    expected = captioner.generate(x)
    captioner.save_pretrained(tmp_path / "lora")
    assert captioner.merge().generate(x) == expected and captioner.settings.tuning == "full"
    captioner.save_pretrained(tmp_path / "merged")
    loaded = load_captioner(tmp_path / "merged")
    assert loaded.generate(x) == expected and not any("lora" in name for name in loaded.state_dict())
    with pytest.raises(ValueError, match="tuning is 'full': there is no LoRA to merge"):
        captioner.merge()


@pytest.mark.quantised
def test_merging_what_was_quantised(llama, link, captions, tmp_path):
    torch.manual_seed(0)
    captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=32, max_caption_tokens=8))
    x, *_ = trained(captioner, captions[::6], steps=5)
    captioner.save_pretrained(tmp_path / "lora")
    quantised = load_captioner(tmp_path / "lora", quantize="nf4")
    with pytest.raises(ValueError, match=r"rounded to nf4 weights: load_captioner\(folder, quantize=None\)"):
        quantised.merge()
    quantised.save_pretrained(tmp_path / "qlora")
    assert load_captioner(tmp_path / "qlora", quantize=None).merge().generate(x) == captioner.generate(x)


def test_a_chat_template(llama, link, captions, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "chat")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for turn in messages %}{{ turn['role'] + ':' + turn['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'answer:' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    config = CaptionerConfig(str(folder), hidden=32, chat=True, before="hear ", after=" in words", max_caption_tokens=8)
    captioner = new_captioner(link, config)
    seen = []
    captioner.llm.get_input_embeddings().register_forward_hook(lambda _, given, __: seen.append(given[0][0].tolist()))
    x, *_ = trained(captioner, captions[:2], steps=1)
    texts = [tokenizer.decode(ids) for ids in seen]
    assert texts[0] == "<s>user:hear " and texts[1] == " in words</s>answer:"
    assert texts[2].startswith(captions[0]) and texts[2].count("</s>") == 1
    expected = captioner.generate(x)
    captioner.save_pretrained(tmp_path / "out")
    assert load_captioner(tmp_path / "out").generate(x) == expected
    with pytest.raises(ValueError, match=r"tokenizer of .* has no chat template: use chat=False"):
        new_captioner(link, dataclasses.replace(config, base_model=str(llama)))


def test_beams_and_samples(llama, link, captions):
    torch.manual_seed(0)
    captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=32, max_caption_tokens=8))
    x, *_ = trained(captioner, captions[::6], steps=5)
    greedy = captioner.generate(x)
    assert (
        captioner.generate(x, num_beams=4, batch_size=1) == captioner.generate(x, num_beams=4, batch_size=8) != greedy
    )
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(captioner.generate(x, do_sample=True, temperature=1.5))
    assert drawn[0] == drawn[1] != drawn[2]


def test_another_bridge_in_the_folder(llama, link, make_link, tmp_path):
    new_captioner(link, CaptionerConfig(str(llama), hidden=32)).save_pretrained(tmp_path)
    make_link(blocks=2).save_pretrained(tmp_path / "bridge")
    with pytest.raises(ValueError, match=r"was saved with another bridge than the one in bridge/: put that one back"):
        load_captioner(tmp_path)
    values = json.loads((tmp_path / "captioner.json").read_text())
    del values["bridge_sha256"]
    (tmp_path / "captioner.json").write_text(json.dumps(values))
    assert load_captioner(tmp_path).bridge.config.blocks == 2


def test_what_the_hub_would_get(llama, link, tmp_path):
    captioner = new_captioner(link, CaptionerConfig(str(llama), hidden=32))
    with pytest.raises(ValueError, match=r"base_model is the folder .*llama, which nobody else has: push that"):
        captioner.push_to_hub("someone/captioner")
    captioner.save_pretrained(tmp_path)
    assert f"base_model: {captioner.settings.base_model}" not in (tmp_path / "README.md").read_text()
    assert "behind a diffusion_link bridge" in (tmp_path / "README.md").read_text()
    with pytest.raises(FileNotFoundError, match="neither a folder nor a repository"):
        load_captioner("nobody/nothing-at-all")


def rewrite(path, change):
    """Change the tensors of a safetensors file."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


WRONG = {
    "gone": lambda tensors, key: tensors.pop(key),
    "renamed": lambda tensors, key: tensors.update({f"{key}.x": tensors.pop(key)}),
    "another shape": lambda tensors, key: tensors.update({key: torch.ones(3, 5)}),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("projector.safetensors", "2.bias"),
        ("adapter/adapter_model.safetensors", "base_model.model.model.layers.1.self_attn.v_proj.lora_A.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_not_loaded_in_part(llama, link, tmp_path, file, key, wrong):
    new_captioner(link, CaptionerConfig(str(llama), hidden=32)).save_pretrained(tmp_path)
    rewrite(tmp_path / file, lambda tensors: WRONG[wrong](tensors, key))
    with warnings.catch_warnings(), pytest.raises(ValueError, match=rf"{file}(.|\n)*{key.removesuffix('.weight')}"):
        warnings.simplefilter("ignore")  # peft warns of missing keys, and goes on
        load_captioner(tmp_path)


@pytest.mark.parametrize("file", ["projector.safetensors", "adapter/adapter_model.safetensors"])
def test_weights_that_were_cut_are_named(llama, link, tmp_path, file):
    new_captioner(link, CaptionerConfig(str(llama), hidden=32)).save_pretrained(tmp_path)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:500])
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        load_captioner(tmp_path)
    (tmp_path / "adapter" / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config\.json is damaged"):
        load_captioner(tmp_path)


def test_tuned_weights_that_lack_keys(llama, link, tmp_path):
    new_captioner(link, CaptionerConfig(str(llama), hidden=32, tuning="full")).save_pretrained(tmp_path)
    rewrite(tmp_path / "adapter" / "model.safetensors", lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(ValueError, match=r"adapter lacks the weights model\.norm\.weight"):
        load_captioner(tmp_path)
    (tmp_path / "adapter" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"the weights in .*adapter are damaged"):
        load_captioner(tmp_path)


def test_a_subfolder_and_a_device(llama, link, tmp_path):
    new_captioner(link, CaptionerConfig(str(llama), hidden=32)).save_pretrained(tmp_path / "runs" / "3")
    loaded = load_captioner(tmp_path, subfolder="runs/3", device="meta")
    assert {parameter.device.type for parameter in loaded.parameters()} == {"meta"}


def test_kinds_of_quantisation():
    assert quantization("int8").load_in_8bit and not quantization("int8").load_in_4bit
    for kind in ("nf4", "fp4"):
        settings = quantization(kind)
        assert settings.load_in_4bit and settings.bnb_4bit_quant_type == kind and settings.bnb_4bit_use_double_quant
