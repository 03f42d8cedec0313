"""A bridge beside and inside peft's adapters."""

import copy
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from dlink_adapter.attachment import saving
from dlink_adapter.attachment.attach import attach, detach, disabled, mark_only_bridge_trainable
from dlink_adapter.diffusion_link.link import DiffusionLink

DIM = 64  # of a layer that bitsandbytes quantises on a CPU


@pytest.fixture
def llava() -> nn.Module:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    tiny = {"intermediate_size": 64, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=DIM, num_hidden_layers=2, image_size=16, patch_size=8, **tiny),
        text_config=LlamaConfig(vocab_size=40, hidden_size=64, num_hidden_layers=1, num_key_value_heads=2, **tiny),
        image_token_index=39,
    )
    return LlavaForConditionalGeneration(config).eval()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randn(1, 3, 16, 16, generator=draw)
    return {"input_ids": torch.tensor([[1, 39, 39, 39, 39, 5, 6]]), "pixel_values": pixels}


@torch.no_grad()
def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs).logits


def train(model: nn.Module, inputs: dict[str, Tensor], steps: int = 2) -> None:
    """A few steps: the first one only moves what starts at zero."""
    optimiser = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    for _ in range(steps):
        optimiser.zero_grad()
        model(**inputs).logits.logsumexp(-1).mean().backward()
        optimiser.step()


def trained(model: nn.Module) -> set[str]:
    return {name for name, value in model.named_parameters() if value.requires_grad}


TARGET = "multi_modal_projector"
PROJECTOR = LoraConfig(r=2, target_modules=["q_proj", "linear_1"])
INSIDE = LoraConfig(r=2, target_modules=["q_proj", "linear_1"], modules_to_save=["bridge"])


def language_lora(**settings: list[str]) -> LoraConfig:
    return LoraConfig(r=2, target_modules=r".*language_model.*q_proj", **settings)


@pytest.mark.parametrize("bridge_first", [True, False])
def test_outside_the_adapter(llava, inputs, make_link, tmp_path: Path, bridge_first: bool) -> None:
    plain = copy.deepcopy(llava)
    bridged = logits(attach(copy.deepcopy(llava), make_link(dim=DIM), TARGET), inputs)
    link = make_link(dim=DIM)
    tuned = (
        get_peft_model(attach(llava, link, TARGET), PROJECTOR)
        if bridge_first
        else attach(get_peft_model(llava, PROJECTOR), link, TARGET)
    )
    assert torch.equal(logits(tuned, inputs), bridged)
    link.requires_grad_(False)
    assert all("lora_" in name for name in trained(tuned)) and any("linear_1" in name for name in trained(tuned))
    train(tuned, inputs)
    after = logits(tuned, inputs)
    assert not torch.equal(after, bridged)

    tuned.save_pretrained(tmp_path)  # LoRA of the bridged projector included
    loaded = PeftModel.from_pretrained(plain, tmp_path)
    assert torch.equal(logits(attach(loaded, make_link(dim=DIM), TARGET), inputs), after)
    later = PeftModel.from_pretrained(attach(detached(loaded), make_link(dim=DIM), TARGET), tmp_path)
    assert torch.equal(logits(later, inputs), after)

    merged = tuned.merge_and_unload()
    torch.testing.assert_close(logits(merged, inputs), after)
    assert isinstance(detach(merged), DiffusionLink)
    assert not any("lora" in name or "bridge" in name for name in merged.state_dict())


def detached(loaded: PeftModel) -> nn.Module:
    detach(loaded)
    return loaded.unload()


def test_inside_the_adapter(llava, inputs, make_link, tmp_path: Path) -> None:
    plain, fresh = logits(llava, inputs), copy.deepcopy(llava)
    bridged = logits(attach(llava, make_link(dim=DIM), TARGET), inputs)
    tuned = get_peft_model(llava, INSIDE)
    assert torch.equal(logits(tuned, inputs), bridged)
    assert any("bridge" in name for name in trained(tuned))
    train(tuned, inputs)
    after = logits(tuned, inputs)
    with tuned.disable_adapter():
        assert torch.equal(logits(tuned, inputs), bridged)  # peft switches back to the bridge as it was
        with disabled(tuned):
            assert torch.equal(logits(tuned, inputs), plain)

    tuned.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(attach(fresh, make_link(dim=DIM), TARGET), tmp_path)
    assert torch.equal(logits(loaded, inputs), after)

    merged = tuned.merge_and_unload()
    torch.testing.assert_close(logits(merged, inputs), after)
    assert isinstance(detach(merged), DiffusionLink)


WAYS: dict[str, Callable[[nn.Module, DiffusionLink], nn.Module]] = {
    "attach first": lambda host, link: get_peft_model(attach(host, link, TARGET), language_lora()),
    "peft first": lambda host, link: attach(get_peft_model(host, language_lora()), link, TARGET),
    "inside": lambda host, link: get_peft_model(attach(host, link, TARGET), language_lora(modules_to_save=["bridge"])),
}


def train_all(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """Train whatever is a bridge or an adapter, however peft left it."""
    for name, value in model.named_parameters():
        value.requires_grad_(("bridge" in name and "original" not in name) or "lora_" in name)
    train(model.train(), inputs)
    model.eval()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["plain", pytest.param("nf4", marks=pytest.mark.quantised)])
def test_nothing_trained_is_lost(llava, inputs, make_link, tmp_path: Path, way: str, kind: str) -> None:
    """Bit for bit, from the folder of the adapter, from that of the merged host, and of the bridge in either."""
    from dlink_adapter.integrations.causal_lm import quantization

    def host() -> nn.Module:
        four_bits = {"quantization_config": quantization("nf4")} if kind == "nf4" else {}
        return type(llava).from_pretrained(tmp_path / "host", **four_bits).eval()

    llava.save_pretrained(tmp_path / "host")
    tuned = WAYS[way](host(), make_link(dim=DIM, timestep=300))
    before = copy.deepcopy(tuned.state_dict())
    train_all(tuned, inputs)
    bridge_key = next(name for name in before if name.endswith("denoiser.out.weight") and "original" not in name)
    assert not torch.equal(tuned.state_dict()[bridge_key], before[bridge_key])

    tuned.save_pretrained(tmp_path / "adapter")
    expected = logits(tuned, inputs)
    loaded = PeftModel.from_pretrained(attach(host(), from_pretrained=tmp_path / "adapter"), tmp_path / "adapter")
    assert torch.equal(logits(loaded.eval(), inputs), expected)
    if way != "inside":
        loaded = attach(PeftModel.from_pretrained(host(), tmp_path / "adapter"), from_pretrained=tmp_path / "adapter")
        assert torch.equal(logits(loaded.eval(), inputs), expected)

    merged = tuned.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    expected = logits(merged, inputs)
    again = attach(type(llava).from_pretrained(tmp_path / "merged").eval(), from_pretrained=tmp_path / "merged")
    assert torch.equal(logits(again, inputs), expected)
    assert detach(again).timestep == detach(merged).timestep == 300
    in_folders = [saving.load_bridges(tmp_path / name) for name in ("adapter", "merged")]
    assert_same_weights(*(bridges.popitem()[1] for bridges in in_folders))


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_each_adapter_is_saved_with_its_own_bridge(llava, inputs, make_link, tmp_path: Path) -> None:
    fresh = copy.deepcopy(llava)
    tuned = get_peft_model(attach(llava, make_link(dim=DIM), TARGET), INSIDE)
    train(tuned, inputs)
    tuned.add_adapter("second", INSIDE)
    tuned.set_adapter("second")
    train(tuned, inputs, steps=3)
    tuned.add_adapter("without", PROJECTOR)
    tuned.save_pretrained(tmp_path)
    for name, folder in (("default", tmp_path), ("second", tmp_path / "second"), ("without", tmp_path / "without")):
        tuned.set_adapter(name)
        loaded = PeftModel.from_pretrained(attach(copy.deepcopy(fresh), from_pretrained=folder), folder)
        assert torch.equal(logits(loaded, inputs), logits(tuned, inputs)), name

    state = {name: 2 * value for name, value in tuned.state_dict().items()}
    tuned.save_pretrained(tmp_path / "state", state_dict=state)
    for folder, name in (("state", "default"), ("state/second", "second")):
        (bridge,) = saving.load_bridges(tmp_path / folder).values()
        (twice,) = (
            value for key, value in state.items() if key.endswith(f"modules_to_save.{name}.denoiser.out.weight")
        )
        assert torch.equal(bridge.denoiser.out.weight, twice)

    tuned.save_pretrained(tmp_path / "one", selected_adapters=["second"])
    assert not list((tmp_path / "one").glob("bridge*")) and list((tmp_path / "one" / "second").glob("bridge-*"))
    tuned.set_adapter("second")
    second = logits(tuned, inputs)
    with pytest.raises(ValueError, match=r"is part of the adapters: model = model\.unload\(\), or merge_and_unload"):
        detach(tuned)
    merged = tuned.merge_and_unload()
    torch.testing.assert_close(logits(merged, inputs), second)
    assert isinstance(detach(merged), DiffusionLink)


def test_peft_may_be_imported_after_attach(llava, make_link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PeftModel, "save_pretrained", inspect.unwrap(PeftModel.save_pretrained))
    monkeypatch.setattr(saving, "_extended", saving._extended - {PeftModel})
    with monkeypatch.context() as before:
        before.delitem(sys.modules, "peft.peft_model")
        attach(llava, make_link(dim=DIM), TARGET)
    get_peft_model(llava, PROJECTOR).save_pretrained(tmp_path)
    assert len(saving.load_bridges(tmp_path)) == 1


def test_an_adapter_that_holds_a_bridge_needs_it_first(llava, make_link, tmp_path: Path) -> None:
    plain = copy.deepcopy(llava)
    get_peft_model(attach(llava, make_link(dim=DIM), TARGET), INSIDE).save_pretrained(tmp_path)
    for tuned in (PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path), get_peft_model(plain, INSIDE)):
        with pytest.raises(ValueError, match="'default' has the bridge in modules_to_save, and found none: attach"):
            attach(tuned, make_link(dim=DIM), TARGET)


def test_an_adapter_inside_the_bridge_is_an_error(llava, inputs, make_link) -> None:
    plain = copy.deepcopy(llava)
    tuned = get_peft_model(attach(llava, make_link(dim=DIM), TARGET), LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(ValueError, match=r"denoiser.*base_layer.*: exclude_modules=r\".*\" leaves it out, modules_to"):
        logits(tuned, inputs)
    for advice in ({"exclude_modules": r".*\bbridge\b.*"}, {"modules_to_save": ["bridge"]}):
        bridged = attach(copy.deepcopy(plain), make_link(dim=DIM), TARGET)
        tuned = get_peft_model(bridged, LoraConfig(r=2, target_modules="all-linear", **advice))
        assert not any("bridge" in name and "lora_" in name for name in tuned.state_dict())
        assert any("linear_1.lora_A" in name for name in tuned.state_dict())
        logits(tuned, inputs)


def test_an_adapter_that_was_saved_with_another_bridge(llava, inputs, make_link, tmp_path: Path) -> None:
    other = copy.deepcopy(llava)
    get_peft_model(attach(llava, make_link(dim=DIM), TARGET), INSIDE).save_pretrained(tmp_path)
    with pytest.raises((KeyError, RuntimeError), match="bridge"):
        PeftModel.from_pretrained(attach(other, make_link(dim=DIM, blocks=2), TARGET), tmp_path)


def test_several_adapters_each_with_a_bridge(llava, inputs, make_link) -> None:
    tuned = get_peft_model(attach(llava, make_link(dim=DIM), TARGET), INSIDE)
    bridged = logits(tuned, inputs)
    train(tuned, inputs)
    first = logits(tuned, inputs)
    tuned.add_adapter("second", INSIDE)
    tuned.set_adapter("second")
    assert torch.equal(logits(tuned, inputs), bridged)
    train(tuned, inputs, steps=3)
    second = logits(tuned, inputs)
    assert not torch.equal(second, first)
    tuned.set_adapter("default")
    assert torch.equal(logits(tuned, inputs), first)
    tuned.set_adapter("second")
    assert torch.equal(logits(tuned, inputs), second)


def test_several_adapters_behind_one_bridge(llava, inputs, make_link) -> None:
    tuned = attach(get_peft_model(llava, PROJECTOR), make_link(dim=DIM), TARGET)
    tuned.add_adapter("second", PROJECTOR)
    mark_only_bridge_trainable(tuned)
    train(tuned, inputs)
    both = [logits(tuned, inputs)]
    tuned.set_adapter("second")
    both.append(logits(tuned, inputs))
    assert torch.equal(*both)  # LoRA starts at nothing, and one bridge serves both


def test_lora_on_a_projector_that_is_one_layer(inputs, make_link) -> None:
    """peft wraps the layer and the bridge comes before both, or peft says that it cannot."""
    model = nn.ModuleDict({"projector": nn.Linear(DIM, 8)}).eval()
    lora = LoraConfig(r=2, target_modules=["projector"], init_lora_weights=False)
    x = torch.randn(3, DIM, generator=torch.Generator().manual_seed(2))
    torch.manual_seed(0)
    tuned = get_peft_model(model, lora).eval()
    link = make_link(dim=DIM)
    expected = model["projector"](link(x))
    attach(tuned, link, "projector")
    assert torch.equal(model["projector"](x), expected)
    with pytest.raises(
        AttributeError, match=r"'merge' is a method of the Linear behind a bridge: detach the bridge, and attach"
    ):
        tuned.merge_and_unload()
    detach(tuned)
    merged = attach(tuned.merge_and_unload(), link, "projector")
    torch.testing.assert_close(merged["projector"](x), expected)

    bridge_first = nn.ModuleDict({"projector": nn.Linear(DIM, 8)})
    with pytest.raises(ValueError, match="BridgedModule"):
        get_peft_model(attach(bridge_first, link, "projector"), lora)
