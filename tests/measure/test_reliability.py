"""Reliability where it is known: by counting pairs, and of confidences that are true."""

import numpy as np
import pytest

from dlink_adapter.measure.reliability import plot_reliability, reliability


def test_auroc_is_the_share_of_pairs_in_order():
    found = reliability([0.9, 0.4, 0.6, 0.1], [True, True, False, False])
    assert found.auroc == pytest.approx(3 / 4)
    assert reliability([0.2, 0.3], [True, True]).auroc is None


def test_confidences_that_are_true_have_no_calibration_error():
    rng = np.random.default_rng(0)
    sure = rng.random(20_000)
    true, swapped = (reliability(sure, rng.random(20_000) < chance) for chance in (sure, 1 - sure))
    assert true.calibration_error < 0.02 < 0.4 < swapped.calibration_error
    assert sum(of.captions for of in true.bins) == 20_000 and len(true.bins) == 10
    assert all(abs(of.confidence - of.right) < 0.05 for of in true.bins)


def test_a_confidence_of_one_has_a_bin():
    assert reliability([1.0, 0.0], [True, False]).bins == [(1, 0.0, 0.0), (1, 1.0, 1.0)]


@pytest.mark.parametrize(("sure", "right"), [([0.5], [True, False]), ([], []), ([1.5], [True])])
def test_what_is_no_confidence_is_refused(sure, right):
    with pytest.raises(ValueError, match="confidences"):
        reliability(sure, right)


def test_the_curve_is_drawn(tmp_path):
    picture = plot_reliability(tmp_path / "reliability.png", reliability([0.9, 0.4, 0.6], [True, True, False]))
    assert picture.read_bytes().startswith(b"\x89PNG")
