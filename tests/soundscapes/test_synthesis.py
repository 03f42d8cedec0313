import numpy as np
import pytest
from scipy import signal

from dlink_adapter.soundscapes import synthesis

RATE = 16000


def test_noise_has_unit_rms_and_the_asked_spectrum():
    rng = np.random.default_rng(0)
    audio = synthesis.noise(rng, 8 * RATE, RATE, {100: 0, 1000: 0, 2000: -20, 8000: -20})
    hertz, power = signal.welch(audio, RATE, nperseg=1024)
    low, high = power[(hertz > 200) & (hertz < 800)].mean(), power[(hertz > 3000) & (hertz < 7000)].mean()
    assert np.sqrt(np.mean(audio**2)) == pytest.approx(1, abs=1e-3)
    assert 10 * np.log10(high / low) == pytest.approx(-20, abs=0.5)


def test_harmonics_has_the_asked_amplitudes_and_never_aliases():
    audio = synthesis.harmonics(np.full(RATE, 3000.0), RATE, [1.0, 0.5, 1.0, 1.0])
    spectrum = np.abs(np.fft.rfft(audio)) * 2 / RATE
    assert spectrum[3000] == pytest.approx(1, abs=0.01)
    assert spectrum[6000] == pytest.approx(0.5, abs=0.01)
    # 9 and 12 kHz would fold back to 7 and 4 kHz.
    assert spectrum[[4000, 7000]].max() < 0.01


def test_harmonics_follows_the_pitch():
    pitch = synthesis.contour(RATE, 400.0, 800.0)
    audio = synthesis.harmonics(pitch, RATE, [1.0])
    cycles = np.count_nonzero(np.diff(np.signbit(audio).astype(int)) == -1)
    assert cycles == pytest.approx(600, abs=2)


def test_resonate_of_an_impulse_is_a_decaying_sine():
    audio = synthesis.resonate(synthesis.impulses(4000, RATE, [0.05], 2.0), RATE, [(500.0, 0.01, 0.5)])
    t = np.arange(4000) / RATE - 0.05
    expected = np.where(t >= 0, np.sin(2 * np.pi * 500 * t) * np.exp(-np.maximum(t, 0) / 0.01), 0)
    np.testing.assert_allclose(audio, expected, atol=2e-3)


def test_a_flat_response_changes_nothing():
    audio = np.random.default_rng(0).standard_normal(999, dtype=np.float32)
    np.testing.assert_allclose(synthesis.equalize(audio, RATE, {100: 0.0, 1000: 0.0}), audio, atol=1e-5)


def test_impulses_outside_the_signal_are_dropped():
    assert synthesis.impulses(10, 10, [-0.2, 0.3, 0.3, 1.5], 2.0).tolist() == [0, 0, 0, 4, 0, 0, 0, 0, 0, 0]


def test_place_cuts_what_hangs_over():
    out = np.zeros(6, dtype=np.float32)
    synthesis.place(out, np.ones(4, dtype=np.float32), 0.4, 10, gain=0.5)
    synthesis.place(out, np.ones(4, dtype=np.float32), 0.9, 10)
    assert out.tolist() == [0, 0, 0, 0, 0.5, 0.5]


def test_decay_falls_by_e_each_decay_time():
    envelope = synthesis.decay(RATE, RATE, attack=0.01, time=0.1)
    assert envelope[0] == 0
    assert envelope[int(0.41 * RATE)] / envelope[int(0.31 * RATE)] == pytest.approx(np.exp(-1), rel=1e-3)


def test_drift_stays_between_its_bounds_and_moves():
    curve = synthesis.drift(np.random.default_rng(1), RATE, RATE, 5.0, 0.2, 0.7)
    assert curve.shape == (RATE,)
    assert 0.2 <= curve.min() < curve.max() - 0.1
    assert curve.max() <= 0.7


def test_beats_are_nearly_regular():
    gaps = np.diff(synthesis.beats(np.random.default_rng(0), 10.0, 0.5, 0.1))
    assert len(gaps) in (18, 19)
    assert np.abs(gaps - 0.5).max() <= 0.05 + 1e-9
