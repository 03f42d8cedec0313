"""BridgeConfig: its defaults are valid, everything else that is wrong is named."""

import dataclasses
import json

import pytest

from dlink_adapter.bridge.config import BridgeConfig


def test_round_trip_through_json():
    config = BridgeConfig(dim=512, depth=0.9, kernel=False, sampler="ddpm", steps=4)
    assert BridgeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_depth_stays_what_it_was():
    for depth in (0, 1, 1000, 1.0, 0.5):
        read = BridgeConfig.from_dict(json.loads(json.dumps(BridgeConfig(dim=4, depth=depth).to_dict()))).depth
        assert read == depth and type(read) is type(depth)


def test_it_is_frozen_and_hashable():
    config = BridgeConfig(dim=4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 8
    assert hash(config) == hash(BridgeConfig(dim=4))


def test_unknown_keys_are_named():
    with pytest.raises(ValueError, match=r"unknown BridgeConfig key blokcs; known: dim, blocks"):
        BridgeConfig.from_dict({"dim": 4, "blokcs": 3})


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
        ("contrastive_weight", -1),
        ("schedule", "quadratic"),
        ("sampler", "euler"),
        ("steps", 1001),
        ("depth", -1),
        ("depth", 1001),
        ("depth", 0.0),
        ("depth", 1.1),
        ("depth", True),
        ("depth", "deep"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        BridgeConfig(**{"dim": 4, name: value})
