"""The bridge's network without diffusion: no noise, no time, the same training."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.baselines.regression import Regression
from dlink_adapter.diffusion_link.config import NetworkConfig
from dlink_adapter.registry import new_bridge
from dlink_adapter.training.config import FitConfig


@pytest.fixture(scope="module")
def regression(pairs) -> Regression:
    bridge = Regression(NetworkConfig(32))
    few = tuple(rows[:500] for rows in pairs)
    bridge.fit(few, config=FitConfig(steps=100, batch_size=32, lr=3e-3), progress=False)
    return bridge


def test_it_learns_to_map_new_pairs(regression, pairs):
    audio, text = (normalize(rows[500:], dim=-1) for rows in pairs)
    assert (regression(audio) * text).sum(-1).mean() > (audio * text).sum(-1).mean() + 0.3
    assert regression.metadata["training"]["steps"] == 100


def test_nothing_is_drawn(regression, pairs):
    x = pairs[0][:20]
    once = regression(x)
    assert torch.equal(once, regression(x, generator=torch.Generator().manual_seed(1), samples=3))
    loss = [regression.eval().loss(*pairs, generator=torch.Generator().manual_seed(seed))["loss"] for seed in (0, 1)]
    assert loss[0] == loss[1]


def test_the_network_is_called_once_on_the_clean_embedding(regression, pairs):
    a = regression.space.encode(pairs[0][:5])
    predicted = regression.denoiser(a, torch.ones(5, 1))
    torch.testing.assert_close(regression(pairs[0][:5]), regression.space.decode(predicted))


@pytest.mark.parametrize(("name", "value"), [("timestep", 300), ("cosine", 0.9), ("depth", 300)])
def test_it_has_no_depth(name, value):
    with pytest.raises(ValueError, match=f"unknown NetworkConfig key {name}"):
        new_bridge("regression", 8, {name: value})
