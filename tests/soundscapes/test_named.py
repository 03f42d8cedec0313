"""That captions say which events they name, by the captions that the grammar makes."""

import numpy as np
import pytest

from dlink_adapter.soundscapes import EVENTS, Placed, Scene, describe, sample_scenes
from dlink_adapter.soundscapes.named import named_events, share_right


@pytest.mark.parametrize("name", EVENTS)
def test_every_wording_of_every_event_is_known(name):
    scene, rng = Scene((Placed(name, 0.0, 5.0, 1, -6.0, 0.9, 0),), "alone", 0), np.random.default_rng(0)
    assert all(named_events(describe(scene, rng)) == [name] for _ in range(60))


def test_the_order_is_that_of_the_words_and_repetitions_count():
    assert named_events("A dog is barking, then rain falls") == ["dog_bark", "rain"]
    assert named_events("A dog barks while a dog yaps loudly") == ["dog_bark", "dog_bark"]
    assert named_events("Nothing that I know") == []


def test_captions_of_whole_scenes_name_their_events_but_for_quiet_backgrounds():
    scenes, rng = sample_scenes(500, "train", 0), np.random.default_rng(0)
    captions = [describe(scene, rng) for scene in scenes]
    assert share_right(captions, scenes) > 0.93
    assert share_right(captions[1:] + captions[:1], scenes) < 0.1
    assert share_right([f"{caption} and {caption}" for caption in captions], scenes) == 0
