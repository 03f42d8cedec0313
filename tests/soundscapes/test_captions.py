import re
from dataclasses import replace

import numpy as np
import pytest

from dlink_adapter.soundscapes import EVENTS, Placed, Scene, describe, references, sample_scenes
from dlink_adapter.soundscapes.captions import TEMPLATES
from dlink_adapter.soundscapes.scenes import BACKGROUND

DOG = Placed("dog_bark", 0.2, 2.0, 1, -6.0, 0.3, 0)
RAIN = Placed("rain", 0.0, 5.0, 1, -6.0, 0.3, 1)


def _captions(scene: Scene, count: int = 200) -> list[str]:
    rng = np.random.default_rng(0)
    return [describe(scene, rng) for _ in range(count)]


def _alone(placed: Placed) -> str:
    return " ".join(_captions(Scene((placed,), "alone", 0)))


def test_counts_are_true():
    for count, words in ((2, {"twice", "two times"}), (3, {"three times", "several times", "repeatedly"})):
        text = _alone(replace(DOG, count=count))
        found = set(re.findall(r"once|twice|\w+ times|repeatedly", text))
        assert found == words
    assert set(re.findall(r"once|twice|\w+ times|repeatedly", _alone(DOG))) == {"once"}
    assert not re.search("once|twice|times|repeatedly", _alone(RAIN))


def test_distance_and_loudness_are_true():
    assert not re.search("distan|far|near|loud|soft|quiet", _alone(DOG))
    assert re.search("distan|far", _alone(replace(DOG, distance=0.9)))
    assert not re.search("distan|far", _alone(replace(DOG, distance=0.05)))
    assert "nearby" in _alone(replace(DOG, distance=0.05))
    assert "loudly" in _alone(replace(DOG, loudness=-1.0))
    assert "heavily" in _alone(replace(RAIN, loudness=-1.0))
    assert re.search("lightly|gently", _alone(replace(RAIN, loudness=-14.0)))


def test_the_quieter_goes_to_the_background():
    text = _captions(Scene((DOG, replace(RAIN, loudness=-14.5, distance=0.65)), "while", 0))
    assert any(re.search(r"(rain|Rain)[^,]* in the background", caption) for caption in text)
    assert not any("background" in caption for caption in _captions(Scene((DOG, RAIN), "while", 0)))


def test_order_is_true():
    rooster = Placed("rooster", 2.6, 2.0, 1, -6.0, 0.3, 2)
    for caption in _captions(Scene((DOG, rooster), "then", 0)):
        dog, bird = caption.lower().index("dog"), re.search("rooster|cockerel", caption.lower()).start()
        assert (bird < dog) == (" after " in caption)


def _named(placed: Placed, caption: str) -> bool:
    phrases = EVENTS[placed.event].phrases
    words = [form.split()[0] for phrase in phrases for form in (phrase.participle, phrase.verb)]
    return any(re.search(rf"\b{word}\b", caption.lower()) for word in words)


def test_every_event_but_a_quiet_background_is_named_and_no_template_field_is_left():
    for scene in sample_scenes(300, "test", 0):
        caption = describe(scene, np.random.default_rng(scene.seed))
        assert "{" not in caption and "  " not in caption
        loudest, behind = max(placed.level for placed in scene.events), BACKGROUND.get(scene.relation)
        for index, placed in enumerate(scene.events):
            assert _named(placed, caption) or (index == behind and placed.level < loudest - 6)


def test_a_quarter_of_the_captions_leave_a_quiet_background_out():
    rooster, quiet = Placed("rooster", 2.6, 2.0, 1, -6.0, 0.3, 2), replace(RAIN, loudness=-14.5)
    scenes = {"while": (DOG, quiet), "over": (DOG, rooster, quiet), "while_then": (DOG, quiet, rooster)}
    for relation, events in scenes.items():
        captions = _captions(Scene(events, relation, 0), 400)
        assert 0.15 < sum(not _named(quiet, caption) for caption in captions) / 400 < 0.35
        others = [placed for placed in events if placed is not quiet]
        assert all(_named(placed, caption) for placed in others for caption in captions)
    assert all(_named(RAIN, caption) for caption in _captions(Scene((DOG, RAIN), "while", 0)))


def test_every_template_is_for_a_relation_that_is_sampled():
    assert set(TEMPLATES) == {scene.relation for scene in sample_scenes(500, "train", 0)}


def test_references_are_distinct_deterministic_and_enough_for_every_event():
    for name in EVENTS:
        scene = Scene((replace(RAIN, event=name),), "alone", 5)
        five = references(scene, 5, seed=0)
        assert len(set(five)) == 5
        assert five == references(scene, 5, seed=0)
        assert five != references(scene, 5, seed=1)


def test_asking_for_more_than_the_grammar_has_is_an_error():
    with pytest.raises(ValueError, match="distinct captions"):
        references(Scene((RAIN,), "alone", 0), 500, seed=0)


def test_the_vocabulary_is_a_few_hundred_words():
    captions = [caption for scene in sample_scenes(600, "train", 0) for caption in references(scene, 5, 0)]
    words = {word for caption in captions for word in re.findall(r"[a-z]+", caption.lower())}
    assert 200 <= len(words) <= 320
    assert all(caption[0].isupper() for caption in captions)
