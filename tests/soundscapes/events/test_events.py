import numpy as np
import pytest

from dlink_adapter.soundscapes.events import EVENTS

ESC10 = {
    "dog_bark", "rain", "clock_tick", "baby_cry", "rooster", "sea_waves", "helicopter", "chainsaw", "sneeze",
    "fire_crackling",
}  # fmt: skip


def _render(name: str, seed: int, rate: int = 16000) -> np.ndarray:
    event = EVENTS[name]
    return event.render(np.random.default_rng(seed), 2.0 if event.once is None else event.once, rate)


def test_the_catalogue_is_wide_and_has_the_esc10_classes():
    assert len(EVENTS) >= 28
    assert set(EVENTS) >= ESC10
    assert all(name == event.name for name, event in EVENTS.items())


@pytest.mark.parametrize("name", EVENTS)
def test_an_event_is_audible_finite_and_as_long_as_asked(name):
    for seed in range(5):
        audio = _render(name, seed)
        assert audio.dtype == np.float32
        assert np.isfinite(audio).all()
        assert np.abs(audio).max() > 1e-3
        if EVENTS[name].continuous:
            assert len(audio) == 32000
        else:
            assert 0 < len(audio) <= round(EVENTS[name].once * 16000)


@pytest.mark.parametrize("name", EVENTS)
def test_the_seed_decides_the_sound(name):
    first, again, other = _render(name, 0), _render(name, 0), _render(name, 1)
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or not np.allclose(first, other)


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("name", sorted(ESC10))
def test_other_sampling_rates(name, rate):
    audio = _render(name, 0, rate)
    assert np.isfinite(audio).all()
    assert np.abs(audio).max() > 1e-3


@pytest.mark.parametrize("name", EVENTS)
def test_verb_and_participle_agree(name):
    assert len(EVENTS[name].phrases) >= 2
    for phrase in EVENTS[name].phrases:
        verb, participle = phrase.verb.split(), phrase.participle.split()
        assert participle[0].startswith(verb[0][:2]) and participle[0].endswith("ing")
        assert participle[1:] == verb[1:]
