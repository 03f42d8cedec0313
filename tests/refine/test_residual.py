"""Residual: its gain by brute force, and what a gain of 0 costs."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.refine.residual import Residual, ResidualConfig
from dlink_adapter.registry import load_bridge, new_bridge


@pytest.fixture
def parts(pairs):
    """Two bridges that err in different ways, and pairs that they were not fitted on."""
    noise = torch.randn(pairs[0].shape, generator=torch.Generator().manual_seed(0))
    train, val = (
        PairedEmbeddings.from_tensors((pairs[0] + noise)[part], pairs[1][part]) for part in (slice(80), slice(80, 600))
    )
    bridges = [new_bridge(name, 32) for name in ("memory", "ridge")]
    for bridge in bridges:
        bridge.learn(train, None)
    return *bridges, val


def test_the_gain_leaves_the_least_squared_error(parts):
    base, link, val = parts
    joined = Residual.of(base, link)
    joined.choose_gain(val)
    gain, text = joined.config.gain, normalize(val.text, dim=-1)
    one, other = base(val.audio), link(val.audio)

    def error(share):
        return (one + share * (other - one) - text).square().mean().item()

    assert 0 < gain < 1
    assert error(gain) < min(error(gain - 0.01), error(gain + 0.01), error(0), error(1))
    torch.testing.assert_close(joined(val.audio), normalize(one + gain * (other - one), dim=-1))


def test_with_a_gain_of_zero_the_network_is_not_called(make_link, parts):
    base, _, val = parts
    link, calls = make_link(dim=32), []
    link.denoiser.register_forward_hook(lambda *_: calls.append(1))
    joined = Residual.of(base, link)
    joined.config = replace(joined.config, gain=0.0)
    assert torch.equal(joined(val.audio), base(val.audio)) and not calls
    joined.config = replace(joined.config, gain=0.5)
    assert not torch.allclose(joined(val.audio), base(val.audio)) and len(calls) == 1


def test_a_gain_that_is_given_is_kept(parts):
    base, link, val = parts
    joined = Residual.of(base, link)
    joined.config = replace(joined.config, gain=0.25)
    joined.calibrate(val, val)
    assert joined.config.gain == 0.25


def test_the_depth_of_its_link_and_its_gain_come_back(make_link, parts, tmp_path):
    base, _, val = parts
    joined = Residual.of(base, make_link(dim=32, cosine=0.7))
    joined.choose_gain(val)
    joined.save_pretrained(tmp_path)
    loaded = load_bridge(tmp_path)
    assert loaded.config.gain == joined.config.gain and loaded.link.config.cosine == 0.7
    assert torch.equal(loaded(val.audio), joined(val.audio))


def test_what_can_not_be_joined(parts):
    base, link, _ = parts
    with pytest.raises(ValueError, match="the base has dim 32, the link 16"):
        Residual.of(base, new_bridge("raw", 16))
    base.metadata["fingerprint"], link.metadata["fingerprint"] = "clap-1", "clap-2"
    with pytest.raises(ValueError, match="fitted on the encoder clap-2"):
        Residual.of(base, link)


@pytest.mark.parametrize("gain", [-0.1, 1.5])
def test_a_gain_out_of_range(gain):
    with pytest.raises(ValueError, match=f"gain is {gain}: it must be in"):
        ResidualConfig(8, gain=gain)
