"""The data sets of the demo: disjoint, deterministic, and new combinations in the test split."""

import numpy as np

from dlink_adapter.soundscapes import EVENTS
from dlink_adapter.soundscapes import world as worlds
from dlink_adapter.soundscapes.world import World

SIZES = {"encoder": 30, "pairs": 30, "text": 40, "val": 20, "test": 20}


def combinations_of(world: World, name: str) -> set[frozenset[str]]:
    events = (frozenset(placed.event for placed in scene.events) for scene in world.scenes(name))
    return {of_scene for of_scene in events if len(of_scene) > 1}


def test_combinations_of_the_test_split_are_new():
    world = World(0, SIZES)
    known = combinations_of(world, "encoder") | combinations_of(world, "pairs") | combinations_of(world, "text")
    assert combinations_of(world, "test") and not combinations_of(world, "test") & known


def test_the_bridges_train_on_other_clips_than_the_encoder():
    world = World(0, SIZES)
    assert not set(world.scenes("encoder")) & set(world.scenes("pairs"))


def test_seed_and_sizes_decide_everything():
    first, again, other = World(0, SIZES), World(0, SIZES), World(1, SIZES)
    assert first.captions("test") == again.captions("test") != other.captions("test")
    assert [len(group) for group in first.captions("test")] == [5] * 20
    assert [len(group) for group in first.captions("pairs")] == [1] * 30


def test_waveforms_are_whole_scenes():
    waveforms = World(0, {**SIZES, "val": 3}).waveforms("val")
    assert waveforms.shape == (3, 5 * 16000) and waveforms.dtype == np.float32


def test_the_events_are_in_the_catalogue():
    assert len(set(worlds.EVENTS)) == len(worlds.EVENTS) >= 24 and set(worlds.EVENTS) <= set(EVENTS)
