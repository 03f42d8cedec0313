"""The functions of `attach.py` on plain modules and on tiny LLaVA and Qwen2-Audio models."""

import copy
import pickle
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dlink_adapter.attachment.attach import (
    BridgedModule,
    attach,
    bridge_state_dict,
    detach,
    disabled,
    input_dim,
    mark_only_bridge_trainable,
)
from dlink_adapter.attachment.hosts import HOSTS, Host, register_host

DIM = 32


class Shift(nn.Module):
    """A bridge that adds a constant."""

    def __init__(self, dim: int = DIM, by: float = 1.0) -> None:
        super().__init__()
        self.dim = dim
        self.by = nn.Parameter(torch.full((dim,), by))

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() + self.by).to(x.dtype)


class Projector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(DIM, 16)
        self.linear_2 = nn.Linear(16, 8)

    def forward(self, scale: float, features: Tensor, mask: Tensor | None = None) -> Tensor:
        out = scale * self.linear_2(self.linear_1(features).relu())
        return out if mask is None else out * mask.unsqueeze(-1)


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, DIM)
        self.projector = Projector()
        self.heads = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[:-1], dtype=torch.long)
        return self.heads(self.projector(2.0, mask=mask, features=self.encoder(x)))


def llava(width: int = DIM) -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    tiny = {"intermediate_size": 64, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=width, num_hidden_layers=2, image_size=16, patch_size=8, **tiny),
        text_config=LlamaConfig(vocab_size=40, hidden_size=64, num_hidden_layers=1, num_key_value_heads=2, **tiny),
        image_token_index=39,
    )
    ids = torch.tensor([[1, 39, 39, 39, 39, 5, 6]])
    return LlavaForConditionalGeneration(config).eval(), {"input_ids": ids, "pixel_values": torch.randn(1, 3, 16, 16)}


def qwen2_audio() -> tuple[nn.Module, dict[str, Tensor]]:
    from transformers import (
        Qwen2AudioConfig,
        Qwen2AudioEncoderConfig,
        Qwen2AudioForConditionalGeneration,
        Qwen2Config,
    )

    audio = Qwen2AudioEncoderConfig(
        d_model=DIM,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=8,
        max_source_positions=20,
    )
    text = Qwen2Config(
        vocab_size=40,
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    config = Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=39)
    ids = torch.tensor([[1] + [39] * 10 + [5, 6]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "input_features": torch.randn(1, 8, 40),
        "feature_attention_mask": torch.ones(1, 40, dtype=torch.long),
    }
    return Qwen2AudioForConditionalGeneration(config).eval(), inputs


@pytest.fixture(params=[llava, qwen2_audio], ids=lambda build: build.__name__)
def host(request: pytest.FixtureRequest) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    return request.param()


@pytest.fixture
def toy() -> Toy:
    torch.manual_seed(0)
    return Toy().eval()


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs).logits


def test_save_pretrained_of_a_bridged_host_loads_plain_and_bridged(
    host: tuple[nn.Module, dict[str, Tensor]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    model, inputs = host
    before = logits(model, inputs)
    model.save_pretrained(tmp_path / "plain")
    after = logits(attach(model, Shift()), inputs)
    model.save_pretrained(tmp_path / "bridged")
    plain, report = type(model).from_pretrained(tmp_path / "bridged", output_loading_info=True)

    plain_file, bridged_file = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "bridged"))
    added = bridged_file.keys() - plain_file.keys()
    assert plain_file.keys() <= bridged_file.keys() and len(added) == 1 and added.pop().endswith("projector.bridge.by")
    assert not report["missing_keys"]
    (unexpected,) = report["unexpected_keys"]
    assert unexpected.endswith("multi_modal_projector.bridge.by")
    assert torch.equal(logits(plain.eval(), inputs), before)

    attach(plain, Shift(by=0.0))
    plain.load_state_dict(bridge_state_dict(model), strict=False)
    assert torch.equal(logits(plain, inputs), after)


def test_checkpoints_of_plain_and_bridged_host_load_strictly_into_the_bridged_one(toy: Toy) -> None:
    plain = copy.deepcopy(toy.state_dict())
    attach(toy, Shift(by=3.0), target="projector")
    with torch.no_grad():
        toy.projector.linear_1.weight.zero_()
    toy.load_state_dict(plain)
    assert torch.equal(toy.projector.linear_1.weight, plain["projector.linear_1.weight"])
    assert toy.projector.bridge.by[0] == 3.0

    bridged = copy.deepcopy(toy.state_dict())
    other = attach(Toy(), Shift(), target="projector")
    other.load_state_dict(bridged, assign=True)
    assert torch.equal(other(X), toy(X))

    with pytest.raises(RuntimeError, match=r"Unexpected key.*projector\.bridge\.by"):
        Toy().load_state_dict(bridged)
    assert Toy().load_state_dict(bridged, strict=False).unexpected_keys == ["projector.bridge.by"]
    del bridged["projector.linear_1.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*linear_1\.weight"):
        other.load_state_dict(bridged)


def test_nested_and_several_bridges(toy: Toy) -> None:
    before, keys = toy(X), set(toy.state_dict())
    inner, outer, head = Shift(), Shift(by=2.0), Shift(8)
    attach(toy, outer, target="projector")
    attach(toy, inner, target="projector.linear_1")
    attach(toy, head, target="heads.0")

    added = {"projector.bridge.by", "projector.linear_1.bridge.by", "heads.0.bridge.by"}
    assert set(toy.state_dict()) == keys | added and set(bridge_state_dict(toy)) == added
    with pytest.raises(ValueError, match=r"several bridges.*projector, projector\.linear_1, heads\.0"):
        detach(toy)
    state = toy.state_dict()
    twin = Toy().eval()
    for dim, target in ((DIM, "projector.linear_1"), (DIM, "projector"), (8, "heads.0")):
        attach(twin, Shift(dim), target)
    twin.load_state_dict(state)
    assert torch.equal(twin(X), toy(X))

    assert detach(toy, "projector") is outer
    assert detach(toy, "linear_1") is inner
    assert detach(toy) is head
    assert torch.equal(toy(X), before)


def test_first_floating_point_tensor_is_bridged_wherever_it_stands(toy: Toy) -> None:
    features, mask = torch.randn(2, DIM), torch.tensor([1, 0])
    wrapped = BridgedModule(toy.projector, Shift())
    expected = toy.projector(2.0, features + 1, mask)
    assert torch.equal(wrapped(2.0, features, mask), expected)
    assert torch.equal(wrapped(2.0, mask=mask, features=features), expected)
    with pytest.raises(TypeError, match="without a floating-point tensor"):
        wrapped(2.0, mask)


def test_attributes_fall_through_to_the_layer(toy: Toy) -> None:
    attach(toy, Shift(), target="projector")
    attach(toy, Shift(8), target="heads.1")
    assert toy.projector.linear_1.weight.dtype == torch.float32
    assert toy.heads[1].in_features == 8
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = toy.projector.nonsense


def test_bridge_follows_device_and_mode_of_the_target(toy: Toy) -> None:
    assert not attach(toy, Shift().train(), target="projector").projector.bridge.training
    assert attach(Toy().train(), Shift().eval(), target="projector").projector.bridge.training
    on_meta = Toy().to("meta")
    attach(on_meta, Shift(), target="projector")
    assert on_meta.projector.bridge.by.device.type == "cpu"


@pytest.mark.parametrize(
    ("link", "target", "message"),
    [
        (Shift(), "projecter", r"no module 'projecter' in Toy; nearest.*: projector.*take dim 32: projector.linear_1"),
        (Shift(), "linear_2", r"bridge has dim 32, but 'projector.linear_2' takes 16"),
        (Shift(), "", "the target is the model itself"),
        (Shift(), None, r"Toy is no known host \(config.model_type is None\): give target=.*Known: audioflamingo3, "),
        (Shift(9), "nowhere", r"modules that take dim 9: none"),
    ],
)
def test_attach_errors(toy: Toy, link: nn.Module, target: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        attach(toy, link, target)
    assert torch.equal(toy(X), toy.heads(toy.projector(2.0, toy.encoder(X))))


def test_a_bridge_fitted_on_pairs_for_a_host_of_tokens(host: tuple[nn.Module, dict[str, Tensor]], make_link) -> None:
    model, inputs = host
    plain = logits(model, inputs)
    message = r"'multi_modal_projector' of \w+ reads tokens.*but diffusion_link maps pooled.*attach a TokenBridge, or "
    with pytest.raises(ValueError, match=message + r"give target='multi_modal_projector'"):
        attach(model, make_link(dim=DIM))
    assert torch.equal(logits(model, inputs), plain)
    attach(model, make_link(dim=DIM), "multi_modal_projector")
    assert not torch.equal(logits(model, inputs), plain)


def test_state_errors(toy: Toy) -> None:
    for call in (detach, bridge_state_dict, mark_only_bridge_trainable):
        with pytest.raises(ValueError, match="no bridge is attached to this Toy"):
            call(toy)
    with pytest.raises(ValueError, match="no bridge is attached"), disabled(toy):
        pass
    attach(toy, Shift(), "projector")
    with pytest.raises(ValueError, match="attached at 'projector' already"):
        attach(toy, Shift(), "projector")
    with pytest.raises(ValueError, match="no bridge is attached at 'encoder', only at projector"):
        detach(toy, "encoder")
    twins = nn.ModuleList([Toy(), Toy()])
    with pytest.raises(ValueError, match=r"ambiguous: 0\.projector, 1\.projector"):
        attach(twins, Shift(), "projector")
    twins[0].projector.bridge = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="submodule `bridge` of its own"):
        attach(twins, Shift(), "0.projector")


def test_disabled_ends_with_an_error(toy: Toy) -> None:
    bridged = attach(toy, Shift(), "projector")(X)
    with pytest.raises(KeyError), disabled(toy):
        raise KeyError
    assert torch.equal(toy(X), bridged)


def test_a_module_with_two_names_is_bridged_under_both() -> None:
    shared = nn.Linear(DIM, 8)
    model = nn.ModuleDict({name: nn.ModuleDict({"projector": shared}) for name in ("image", "video")})
    x = torch.ones(2, DIM)
    expected = shared(x + 1)
    attach(model, Shift(), "projector")
    assert torch.equal(model["image"]["projector"](x), expected)
    assert torch.equal(model["video"]["projector"](x), expected)
    assert list(bridge_state_dict(model)) == ["image.projector.bridge.by"]
    detach(model)
    assert model["image"]["projector"] is model["video"]["projector"] is shared


def test_a_bridged_sequential(toy: Toy) -> None:
    attach(toy, Shift(8), "heads")
    assert len(toy.heads) == 2 and toy.heads[1].out_features == 2 and toy.heads
    with pytest.raises(
        TypeError, match=r"layers of a Sequential behind a bridge cannot be iterated over.*: attach to the first"
    ):
        list(toy.heads)
    assert attach(toy, Shift(), "projector").projector
    with pytest.raises(TypeError, match="'Projector' has no len"):
        len(toy.projector)


def test_a_parameter_is_replaced_in_the_layer(toy: Toy) -> None:
    attach(toy, Shift(8), "heads.1")
    toy.heads[1].weight = nn.Parameter(torch.zeros(2, 8))
    assert toy.heads[1].host_layer.weight.abs().sum() == 0
    assert list(toy.heads.state_dict()) == ["0.weight", "0.bias", "1.bridge.by", "1.weight", "1.bias"]


def test_offloading_after_attach_is_an_error(toy: Toy, make_link) -> None:
    from accelerate import cpu_offload

    attach(toy, make_link(dim=DIM), "projector")
    cpu_offload(toy, execution_device=torch.device("cpu"))
    with pytest.raises(ValueError, match="offloaded together with the host: offload the host first, and attach after"):
        toy(X)


def test_registered_host_is_found(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaConfig

    monkeypatch.setattr("dlink_adapter.attachment.hosts.HOSTS", dict(HOSTS))
    register_host("llama", Host("projector"))
    register_host("llama", Host("projector"))
    with pytest.raises(ValueError, match="registered already"):
        register_host("llama", Host("elsewhere"))
    toy.config = LlamaConfig()
    assert isinstance(attach(toy, Shift()).projector, BridgedModule)


def test_gradient_checkpointing_gives_the_same_gradient(host: tuple[nn.Module, dict[str, Tensor]]) -> None:
    model, inputs = host
    link = Shift()
    attach(model.train(), link)
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(**inputs, use_cache=False).logits.logsumexp(-1).sum().backward()
        gradients.append(link.by.grad.clone())
        model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing
    torch.testing.assert_close(*gradients)


def test_copies_and_pickles_are_whole_and_independent(toy: Toy) -> None:
    attach(toy, Shift(), "projector")
    before = toy(X)
    for twin in (copy.deepcopy(toy), pickle.loads(pickle.dumps(toy))):
        assert torch.equal(twin(X), before) and list(twin.state_dict()) == list(toy.state_dict())
        twin.load_state_dict(Toy().state_dict() | {"projector.bridge.by": torch.zeros(DIM)})
        assert torch.equal(toy(X), before)
        detach(twin)
        assert isinstance(toy.projector, BridgedModule)


def test_compile_before_and_after_attach(toy: Toy) -> None:
    torch.compiler.reset()
    before = toy(X)
    compiled = torch.compile(toy, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), before)

    attach(compiled, Shift(), "projector")
    after = toy(X)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(compiled(X), after)
    with disabled(compiled):
        torch.testing.assert_close(compiled(X), before)
    torch.testing.assert_close(compiled(X), after)
    detach(compiled)
    torch.testing.assert_close(compiled(X), before)


def test_distributed_data_parallel(toy: Toy, tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        keys = list(toy.state_dict())
        attach(toy, Shift(), "projector")
        mark_only_bridge_trainable(toy)
        parallel = nn.parallel.DistributedDataParallel(toy)
        parallel(X).sum().backward()
        time.sleep(0.05)  # or gloo's thread may wait for the lock of Python, and the end of the group for that thread
        assert toy.projector.bridge.by.grad.abs().sum() > 0
        assert set(parallel.state_dict()) == {f"module.{key}" for key in [*keys, "projector.bridge.by"]}
        assert isinstance(detach(parallel), Shift)
    finally:
        torch.distributed.destroy_process_group()


def test_disk_offloaded_host(toy: Toy, tmp_path: Path) -> None:
    from accelerate import disk_offload

    shifted = attach(copy.deepcopy(toy), Shift(), "projector")(X)
    disk_offload(toy, tmp_path, execution_device=torch.device("cpu"))
    assert toy.projector.linear_1.weight.is_meta
    torch.testing.assert_close(attach(toy, Shift(), "projector")(X), shifted)


def test_four_bit_projector() -> None:
    import bitsandbytes as bnb

    torch.manual_seed(0)
    model = nn.ModuleDict({"projector": bnb.nn.Linear4bit(64, 128, quant_type="nf4", compute_dtype=torch.float32)})
    model.to("cpu")
    x = torch.randn(2, 64)
    shifted, keys = model["projector"](x + 1), set(model.state_dict())
    attach(model, Shift(64), "projector")
    torch.testing.assert_close(model["projector"](x), shifted)
    assert set(model.state_dict()) == keys | {"projector.bridge.by"}
    assert model["projector"].bridge.by.dtype == torch.float32
    with pytest.raises(ValueError, match="dim 32, but 'projector' takes 64"):
        detach(model)
        attach(model, Shift(32), "projector")


def test_a_bridge_that_is_quantised_is_an_error(toy: Toy, make_link) -> None:
    import bitsandbytes as bnb

    attach(toy, make_link(dim=DIM), "projector")
    toy.projector.bridge.denoiser.out = bnb.nn.Linear4bit(64, 64).to("cpu")
    message = r"out.weight of the bridge is quantised, to torch.uint8.*Quantise the host first, and attach afterwards"
    with pytest.raises(ValueError, match=message.replace("out", "denoiser.out", 1)):
        toy(X)
    with pytest.raises(ValueError, match=message):
        attach(Toy(), detach(toy), "projector")


@pytest.mark.parametrize("strict", [True, False])
def test_a_checkpoint_with_another_bridge_is_an_error(toy: Toy, make_link, strict: bool) -> None:
    attach(toy, make_link(dim=DIM), "projector")
    other = attach(Toy(), Shift(), "projector")
    message = r"saved with another bridge than this DiffusionLink, which has no projector\.bridge\.by: attach that one"
    with pytest.raises(RuntimeError, match=message):
        toy.load_state_dict(other.state_dict(), strict=strict)


def test_names_are_those_of_the_host(toy: Toy) -> None:
    plain = {name: module for name, module in toy.named_modules() if name != "projector"}
    parameters = dict(toy.named_parameters())
    wrapped = attach(toy, Shift(), "projector").projector
    assert {name: module for name, module in toy.named_modules() if "projector.bridge" not in name} == {
        **plain, "projector": wrapped.host_layer
    }  # fmt: skip
    named = dict(toy.named_parameters())
    assert named.pop("projector.bridge.by") is wrapped.bridge.by and named.keys() == parameters.keys()
    assert set(toy.modules()) == {*plain.values(), wrapped, wrapped.host_layer, wrapped.bridge}

    replacement = nn.Linear(DIM, 16)
    toy.set_submodule("projector.linear_1", replacement)
    assert wrapped.host_layer.linear_1 is replacement
    wrapped.host_layer.merge = wrapped.host_layer.forward
    with pytest.raises(AttributeError, match=r"'merge' is a method of the Projector behind a bridge: detach"):
        _ = wrapped.merge


def test_fully_sharded(toy: Toy, make_link, tmp_path: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    attach(toy, make_link(dim=DIM), "projector")
    expected = toy(X)
    mesh_file = f"file://{tmp_path}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=mesh_file, rank=0, world_size=1)
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        fully_shard(toy.projector, mesh=mesh)
        fully_shard(toy, mesh=mesh)
        torch.testing.assert_close(toy(X), expected)
        toy(X).sum().backward()
        assert toy.projector.bridge.denoiser.out.weight.grad.full_tensor().abs().sum() > 0
        assert "projector.linear_1.weight" in toy.state_dict()
        assert isinstance(detach(toy), nn.Module)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("projector", ["cpu", "disk"])
def test_device_map(projector: str, make_link, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = llava()
    bridged = logits(attach(model, make_link(dim=DIM), "multi_modal_projector"), inputs)
    detach(model)
    model.save_pretrained(tmp_path / "llava")
    prefix = next(name for name, _ in model.named_modules() if name.endswith("multi_modal_projector"))
    parent = prefix.rpartition("multi_modal_projector")[0]
    places = {f"{parent}vision_tower": "cpu", prefix: projector, f"{parent}language_model": "disk", "lm_head": "cpu"}
    loaded = type(model).from_pretrained(tmp_path / "llava", device_map=places, offload_folder=tmp_path / "offload")
    attach(loaded.eval(), make_link(dim=DIM), prefix)
    torch.testing.assert_close(logits(loaded, inputs), bridged)
    assert next(loaded.get_submodule(prefix).bridge.parameters()).device.type == "cpu"


@pytest.mark.quantised
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_quantised_host(kind: str, make_link, tmp_path: Path) -> None:
    from dlink_adapter.integrations.causal_lm import quantization

    torch.manual_seed(0)
    model, inputs = llava(64)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, quantization_config=quantization(kind)).eval()
    # On some CPUs the forward pass packs 4-bit weights; `state_dict` unpacks them, with another rounding.
    with torch.no_grad():
        logits(loaded, inputs)
        keys, plain = list(loaded.state_dict()), logits(loaded, inputs)
        attach(loaded, make_link(dim=64), "multi_modal_projector")
        assert not torch.equal(logits(loaded, inputs), plain)
        with disabled(loaded):
            assert torch.equal(logits(loaded, inputs), plain)
        detach(loaded)
        assert torch.equal(logits(loaded, inputs), plain) and list(loaded.state_dict()) == keys
    mark_only_bridge_trainable(attach(loaded, make_link(dim=64), "multi_modal_projector"))
    loaded.train()
    loaded(**inputs).logits.sum().backward()
    assert all((value.grad is None) != (".bridge." in name) for name, value in loaded.named_parameters())


def test_input_dim_of_the_kinds_that_say() -> None:
    assert input_dim(nn.Linear(3, 4)) == 3
    assert input_dim(nn.LayerNorm((2, 5))) == input_dim(nn.RMSNorm(5)) == 5
    assert input_dim(nn.Sequential(nn.Sequential(nn.Linear(6, 1)))) == 6
    assert input_dim(BridgedModule(nn.Linear(3, 4), nn.Identity())) == 3
    assert input_dim(nn.Conv1d(3, 4, 1)) is None and input_dim(nn.Sequential()) is None
