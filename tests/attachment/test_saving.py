"""What `save_pretrained` of a bridged host writes, `attach(model, from_pretrained=folder)` gives back."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors.torch import load_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from dlink_adapter.attachment.attach import attach, detach
from dlink_adapter.attachment.saving import load_bridges
from dlink_adapter.registry import load_bridge

DIM = 32
MLP = "model.layers.0.mlp"
IDS = torch.tensor([[1, 5, 9, 3]])


@pytest.fixture
def host() -> nn.Module:
    return llama()


def llama() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": DIM, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, num_hidden_layers=1, **sizes)).eval()


class Shift(nn.Module):
    def __init__(self, by: float = 0.0) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor([by]))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_trained_host(host, make_link, tmp_path: Path, dtype: torch.dtype) -> None:
    link = make_link(dim=DIM, timestep=300)
    attach(host, link, MLP)
    optimiser = torch.optim.SGD(link.parameters(), lr=0.1)
    host(IDS).logits.logsumexp(-1).mean().backward()
    optimiser.step()
    expected = logits(host.to(dtype))
    host.save_pretrained(tmp_path)

    plain = LlamaForCausalLM.from_pretrained(tmp_path, torch_dtype=dtype).eval()
    assert not torch.equal(logits(plain), expected)
    assert torch.equal(logits(attach(plain, from_pretrained=tmp_path)), expected)
    assert detach(plain).timestep == 300
    with pytest.raises(ValueError, match=r"which attach\(model, from_pretrained=folder\) puts back"):
        load_bridge(tmp_path)
    alone = load_bridge(tmp_path / f"bridge-{MLP}", dtype=dtype)
    assert all(torch.equal(value, link.state_dict()[name]) for name, value in alone.state_dict().items())


def test_several_bridges_and_none(host, make_link, tmp_path: Path) -> None:
    attach(attach(host, make_link(dim=DIM), MLP), make_link(dim=DIM, blocks=2), f"{MLP}.up_proj")
    host.save_pretrained(tmp_path)
    loaded = attach(llama(), from_pretrained=str(tmp_path))
    assert torch.equal(logits(loaded), logits(host))

    detach(host, MLP)
    host.save_pretrained(tmp_path)  # over what was there
    assert torch.equal(logits(attach(llama(), from_pretrained=tmp_path)), logits(host))
    detach(host)
    host.save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="nothing was saved there with a bridge attached"):
        attach(llama(), from_pretrained=tmp_path)


def test_a_state_that_is_given(host, make_link, tmp_path: Path) -> None:
    """As Trainer does with a sharded host."""
    attach(host, make_link(dim=DIM, timestep=300), MLP)
    halved = {name: value / 2 for name, value in host.state_dict().items()}
    host.save_pretrained(tmp_path, state_dict=dict(halved))
    (bridge,) = load_bridges(tmp_path).values()
    weights = dict(bridge.state_dict(prefix=f"{MLP}.bridge."))
    assert weights.keys() <= halved.keys() and bridge.timestep == 300
    torch.testing.assert_close(weights, {name: halved[name] for name in weights}, rtol=0, atol=0, equal_nan=True)


def test_a_bridge_that_is_no_bridge_of_ours_is_saved_by_its_weights(host, tmp_path: Path) -> None:
    attach(host, Shift(0.5), MLP).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"bridge-{MLP} holds the weights of a module without"):
        attach(llama(), from_pretrained=tmp_path)
    shift = Shift()
    load_model(shift, tmp_path / f"bridge-{MLP}" / "model.safetensors")
    assert torch.equal(logits(attach(llama(), shift, MLP)), logits(host))


def test_what_is_not_saved(host, make_link, tmp_path: Path) -> None:
    attach(host, make_link(dim=DIM), MLP)
    with pytest.raises(ValueError, match=r"would leave the bridge behind: call model\.push_to_hub\(repo_id\)"):
        host.save_pretrained(tmp_path / "pushed", push_to_hub=True)
    assert not (tmp_path / "pushed").exists()
    host.save_pretrained(tmp_path / "other", is_main_process=False)
    assert not list((tmp_path / "other").glob("bridge*"))


def test_a_host_of_the_hub_mixin(make_link, tmp_path: Path) -> None:
    class Host(nn.Module, PyTorchModelHubMixin):
        def __init__(self) -> None:
            super().__init__()
            self.projector = nn.Linear(DIM, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.projector(x)

    host, x = attach(Host(), make_link(dim=DIM), "projector"), torch.ones(2, DIM)
    host.eval().save_pretrained(tmp_path)
    assert torch.equal(attach(Host.from_pretrained(tmp_path), from_pretrained=tmp_path)(x), host(x))


def test_errors(host, make_link, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give a bridge, or from_pretrained="):
        attach(host, make_link(dim=DIM), from_pretrained=tmp_path)
    make_link(dim=DIM).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"saved alone is attached by attach\(model, load_bridge\(folder\)\)"):
        attach(host, from_pretrained=tmp_path)
    for link in (None, str(tmp_path)):
        with pytest.raises(TypeError, match=r"not a module: load_bridge\(folder\) loads one, and from_pretrained="):
            attach(host, link, MLP)
