"""BridgeConfig: its defaults are valid, everything else that is wrong is named."""

import dataclasses
import json

import pytest

from dlink_adapter.bridge.config import from_known
from dlink_adapter.diffusion_link.config import BridgeConfig


def test_round_trip_through_json():
    config = BridgeConfig(dim=512, cosine=0.9, sampler="ddpm", steps=4)
    assert from_known(BridgeConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize("depth", [{"timestep": 1}, {"cosine": 1.0}, {"cosine": 1}, {"timestep": 0}, {"cosine": 0.5}])
def test_timestep_and_cosine_stay_what_they_were(depth):
    config = BridgeConfig(dim=4, **depth)
    assert from_known(BridgeConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert {"timestep": config.timestep, "cosine": config.cosine} == {"timestep": None, "cosine": None, **depth}


def test_timestep_and_cosine_are_two_ways_to_say_one_thing():
    with pytest.raises(ValueError, match=r"cosine is 0\.9: it must be left out beside timestep = 300"):
        BridgeConfig(dim=4, timestep=300, cosine=0.9)


def test_it_is_frozen_and_hashable():
    config = BridgeConfig(dim=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 8
    assert hash(config) == hash(BridgeConfig(dim=4))


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match=r"unknown BridgeConfig key blokcs; known: dim, blocks"):
        from_known(BridgeConfig, {"dim": 4, "blokcs": 3})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dim", 0),
        ("dim", 4.0),
        ("blocks", 0),
        ("timesteps", 0),
        ("steps", 0),
        ("samples", 0),
        ("time_dim", 7),
        ("time_dim", 0),
        ("mlp_ratio", 0),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("text_weight", -1),
        ("topology_weight", -1),
        ("schedule", "quadratic"),
        ("sampler", "euler"),
        ("steps", 1001),
        ("timestep", -1),
        ("timestep", 1001),
        ("timestep", 0.5),
        ("timestep", True),
        ("cosine", 0.0),
        ("cosine", 1.1),
        ("cosine", True),
        ("cosine", "deep"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        BridgeConfig(**{"dim": 4, name: value})
