"""The token bridge on plain tensors; inside hosts it is tested in `test_hosts.py`."""

import copy
import pickle
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dlink_adapter.baselines.ridge import Ridge
from dlink_adapter.token_bridge import TokenBridge, TokenBridgeConfig

DIM = 48
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture
def bridge() -> TokenBridge:
    """A bridge whose weights turn tokens a lot."""
    torch.manual_seed(0)
    bridge = TokenBridge(TokenBridgeConfig(DIM)).eval()
    with torch.no_grad():
        bridge.mlp[-1].weight.normal_(0, 0.5)
        bridge.mlp[-1].bias.normal_()
    return bridge


def tokens(dtype: torch.dtype = torch.float32) -> Tensor:
    """(2, 5, DIM) of norms from 0 to large, not contiguous."""
    x = torch.randn(2, DIM, 5, generator=torch.Generator().manual_seed(1)) * torch.tensor([0, 1e-3, 1, 30, 1e3])
    return x.to(dtype).mT


@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_a_new_bridge_gives_the_bits_that_it_is_given(
    dtype: torch.dtype, weights: torch.dtype, autocast: torch.dtype | None
) -> None:
    x = tokens(dtype)
    with nullcontext() if autocast is None else torch.autocast("cpu", autocast):
        out = TokenBridge(TokenBridgeConfig(DIM)).to(weights).train()(x)
    assert out.dtype == dtype and torch.equal(out, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_trained_one_turns_tokens_and_keeps_their_norms(bridge: TokenBridge, dtype: torch.dtype) -> None:
    x = tokens(dtype)
    out, x = bridge(x).double(), x.double()
    torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1), rtol=4 * torch.finfo(dtype).eps + 1e-6, atol=1e-15)
    cosine = torch.cosine_similarity(out[:, 1:], x[:, 1:], dim=-1)
    assert cosine.abs().max() < 0.9


def test_it_is_the_residual_block_at_the_norm_of_its_input(bridge: TokenBridge) -> None:
    x = tokens()[:, 1:]
    h = x / x.square().mean(-1, keepdim=True).sqrt()
    moved = h + bridge.mlp(h)
    torch.testing.assert_close(bridge(x), moved * x.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True))
    torch.testing.assert_close(bridge(4 * x), 4 * bridge(x), rtol=1e-5, atol=0)


def test_the_gradient_reaches_every_weight_and_is_finite() -> None:
    bridge, x = TokenBridge(TokenBridgeConfig(DIM)), tokens().requires_grad_()
    optimiser = torch.optim.SGD(bridge.parameters(), lr=0.1)
    for reached in ("mlp.3", "mlp"):  # the first layer learns once the last one is not zero any more, as in LoRA
        optimiser.zero_grad()
        bridge(x).sin().sum().backward()
        assert x.grad.isfinite().all()
        for name, parameter in bridge.named_parameters():
            assert parameter.grad.isfinite().all() and bool(parameter.grad.any()) == name.startswith(reached)
        optimiser.step()


def test_any_shape(bridge: TokenBridge) -> None:
    x = tokens()
    torch.testing.assert_close(bridge(x[0, 2]), bridge(x)[0, 2])
    assert bridge(x[:0]).shape == (0, 5, DIM)
    assert bridge.to("meta")(x.to("meta")).shape == x.shape


@pytest.mark.parametrize("x", [torch.ones(2, DIM + 1), torch.tensor(1.0), torch.ones(DIM, dtype=torch.long)])
def test_tokens_of_another_width_or_kind(bridge: TokenBridge, x: Tensor) -> None:
    with pytest.raises(ValueError, match=rf"expected floating-point tokens \(..., {DIM}\), got \("):
        bridge(x)


def test_copies_give_the_same_bits(bridge: TokenBridge, tmp_path: Path) -> None:
    bridge.metadata["host"] = "qwen2_audio"
    bridge.save_pretrained(tmp_path)
    loaded = TokenBridge.from_pretrained(tmp_path)
    for twin in (loaded, copy.deepcopy(bridge), pickle.loads(pickle.dumps(bridge))):
        assert torch.equal(twin(tokens()), bridge(tokens()))
        assert (twin.config, twin.metadata) == (bridge.config, bridge.metadata)
    assert TokenBridge.from_pretrained(tmp_path, dtype=torch.bfloat16).mlp[0].weight.dtype == torch.bfloat16
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "TokenBridge.from_pretrained" in card and "text-like" not in card
    with pytest.raises(ValueError, match="holds a 'token_bridge' bridge, not 'ridge'"):
        Ridge.from_pretrained(tmp_path)


def test_it_compiles_whole_and_exports_any_length(bridge: TokenBridge) -> None:
    torch.compiler.reset()
    x = tokens()
    torch.testing.assert_close(torch.compile(bridge, backend="eager", fullgraph=True)(x), bridge(x))
    length = torch.export.Dim("length", min=2)
    exported = torch.export.export(bridge, (x.contiguous(),), dynamic_shapes=({1: length},)).module()
    longer = torch.cat([x, x], dim=1)
    torch.testing.assert_close(exported(longer), bridge(longer))


def test_settings_that_make_no_bridge() -> None:
    with pytest.raises(ValueError, match=r"mlp_ratio is 0\.01: it must be large enough for one hidden unit"):
        TokenBridgeConfig(DIM, mlp_ratio=0.01)
    with pytest.raises(ValueError, match="dim is 0"):
        TokenBridgeConfig(0)
