from itertools import combinations

import numpy as np
import pytest
from scipy.io import wavfile

from dlink_adapter.soundscapes import EVENTS, Placed, Scene, render, sample_scenes, write_wav
from dlink_adapter.soundscapes.scenes import BACKGROUND, SPLITS, combination_split, pair_split


def _pairs(scenes: list[Scene]) -> set[tuple[str, str]]:
    return {pair for scene in scenes for pair in combinations(sorted(p.event for p in scene.events), 2)}


def test_sampling_is_deterministic_and_differs_by_seed_and_split():
    assert sample_scenes(20, "train", 0) == sample_scenes(20, "train", 0)
    assert sample_scenes(20, "train", 0)[:5] == sample_scenes(5, "train", 0)
    assert sample_scenes(20, "train", 0) != sample_scenes(20, "train", 1)
    assert sample_scenes(20, "train", 0) != sample_scenes(20, "test", 0)


def test_combinations_of_test_and_val_are_never_heard_in_train():
    scenes = {split: sample_scenes(2000, split, 0) for split in SPLITS}
    combined = {
        split: {frozenset(p.event for p in scene.events) for scene in drawn if len(scene.events) > 1}
        for split, drawn in scenes.items()
    }
    assert not combined["train"] & (combined["val"] | combined["test"])
    assert not combined["val"] & combined["test"]
    assert {pair_split(*pair) for pair in _pairs(scenes["train"])} == {"train"}
    assert all(combination_split(names) == split for split in SPLITS for names in combined[split])


def test_single_events_are_heard_in_every_split():
    for split in SPLITS:
        alone = {scene.events[0].event for scene in sample_scenes(2000, split, 0) if scene.relation == "alone"}
        assert alone == set(EVENTS)


def test_a_tenth_of_the_pairs_belongs_to_test():
    owners = [pair_split(*pair) for pair in combinations(EVENTS, 2)]
    assert owners.count("test") / len(owners) == pytest.approx(0.1, abs=0.03)
    assert pair_split("rain", "wind") == pair_split("wind", "rain")


@pytest.mark.parametrize("count, split, message", [(1, "dev", "'dev'"), (-1, "train", "-1")])
def test_bad_arguments_are_named(count, split, message):
    with pytest.raises(ValueError, match=message):
        sample_scenes(count, split, 0)


def test_spans_agree_with_the_relation():
    seen = set()
    for scene in sample_scenes(600, "train", 3):
        seen.add(scene.relation)
        spans = [(placed.onset, placed.end) for placed in scene.events]
        assert all(0 <= onset < end <= scene.seconds + 1e-6 for onset, end in spans)
        during = {"while": [(0, 1)], "over": [(0, 2), (1, 2)], "while_then": [(0, 1)]}.get(scene.relation, [])
        after = {"then": [(0, 1)], "then_then": [(0, 1), (1, 2)], "over": [(0, 1)], "while_then": [(0, 2), (1, 2)]}
        for inner, outer in during:
            assert spans[outer][0] <= spans[inner][0] and spans[inner][1] <= spans[outer][1]
            assert EVENTS[scene.events[outer].event].continuous
        for first, second in after.get(scene.relation, []):
            assert spans[first][1] <= spans[second][0]
    assert seen == {"alone", "while", "then", "then_then", "over", "while_then"}


def test_rendering_is_deterministic_bounded_and_audible():
    for scene in sample_scenes(20, "val", 0):
        audio = render(scene)
        assert audio.shape == (80000,) and audio.dtype == np.float32
        assert 1e-3 < np.abs(audio).max() <= 1
        np.testing.assert_array_equal(audio, render(scene))


def test_rendering_at_another_rate_sounds_at_the_same_time():
    scene = Scene((Placed("gunshot", 2.0, 0.8, 1, 0.0, 0.0, 1),), "alone", 4)
    peaks = [np.abs(render(scene, rate)).argmax() / rate for rate in (16000, 32000)]
    assert peaks == pytest.approx([2.0, 2.0], abs=0.1)
    assert render(scene, 32000).shape == (160000,)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_as_many_occurrences_are_heard_as_counted(count):
    scene = Scene((Placed("gunshot", 0.2, 0.9 * count, count, 0.0, 0.0, 7),), "alone", 1)
    level = np.sqrt(np.square(render(scene)).reshape(-1, 800).mean(1))
    loud = level > 0.3 * level.max()
    assert np.count_nonzero(loud & ~np.roll(loud, 1)) == count


def test_far_sounds_are_weaker_and_duller():
    near, far = (render(Scene((Placed("rain", 0, 5, 1, 0.0, d, 3),), "alone", 1)) for d in (0.0, 1.0))
    spectra = [np.square(np.abs(np.fft.rfft(audio))) for audio in (near, far)]
    bright = [power[20000:].sum() / power[:20000].sum() for power in spectra]
    assert np.square(far).mean() < 0.5 * np.square(near).mean()
    assert bright[1] < 0.5 * bright[0]


def test_wav_round_trip(tmp_path):
    audio = render(sample_scenes(1, "test", 0)[0])
    write_wav(tmp_path / "scene.wav", audio, 16000)
    rate, read = wavfile.read(tmp_path / "scene.wav")
    assert rate == 16000
    np.testing.assert_allclose(read / 32767, audio, atol=1 / 32767)


def test_every_event_can_be_heard():
    for scene in sample_scenes(400, "train", 3):
        levels, behind = [placed.level for placed in scene.events], BACKGROUND.get(scene.relation)
        assert min(levels) > max(levels) - 12.01
        if behind is not None:
            assert min(levels) > levels[behind] - 6.01
