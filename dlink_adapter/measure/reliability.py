"""Whether confidences in captions can be relied on: do right captions have higher ones, and are they as high as often
as captions are right?"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dlink_adapter.extras import import_extra
from dlink_adapter.measure.plots import LINE, TEXT, save_figure

BINS = 10


class Bin(NamedTuple):
    """Captions of similar confidence: how many, their mean confidence, and the share of them that is right."""

    captions: int
    confidence: float
    right: float


class Reliability(NamedTuple):
    """`auroc`: how often a right caption has a higher confidence than a wrong one, None without one of either kind.

    `calibration_error` is the mean distance of confidence and share of right captions over the bins, weighted by
    captions (expected calibration error, Naeini et al., AAAI 2015).
    """

    auroc: float | None
    calibration_error: float
    bins: list[Bin]


def reliability(confidence: Sequence[float], right: Sequence[bool]) -> Reliability:
    """Confidences in [0, 1] and whether each caption is right. Raises ValueError on unequal lengths, or none."""
    sure, correct = np.asarray(confidence, dtype=float), np.asarray(right, dtype=bool)
    if len(sure) != len(correct) or not len(sure) or not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError(f"expected confidences in [0, 1] of the same captions, got {len(sure)} and {len(correct)}")
    which = np.minimum((sure * BINS).astype(int), BINS - 1)
    rows = [which == number for number in range(BINS) if (which == number).any()]
    bins = [Bin(int(of.sum()), float(sure[of].mean()), float(correct[of].mean())) for of in rows]
    error = sum(of.captions * abs(of.confidence - of.right) for of in bins) / len(sure)
    return Reliability(_auroc(sure, correct), error, bins)


def _auroc(sure: NDArray[np.float64], correct: NDArray[np.bool_]) -> float | None:
    if correct.all() or not correct.any():
        return None
    return float(import_extra("sklearn.metrics", "metrics").roc_auc_score(correct, sure))


def plot_reliability(path: str | Path, found: Reliability) -> Path:
    """The share of right captions against confidence: a point for each bin, larger where there are more captions."""
    figure = import_extra("matplotlib.figure", "plot").Figure(figsize=(4.4, 4.4), layout="constrained")
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share of right captions")
    axes.axline((0, 0), slope=1, color=LINE, linewidth=0.8)
    sure, right = [of.confidence for of in found.bins], [of.right for of in found.bins]
    largest = max(of.captions for of in found.bins)
    axes.plot(sure, right, color=TEXT, linewidth=1)
    axes.scatter(sure, right, s=[20 + 180 * of.captions / largest for of in found.bins], color=TEXT)
    if found.auroc is not None:
        axes.set_title(f"AUROC {found.auroc:.3f}, calibration error {found.calibration_error:.3f}", fontsize=10)
    return save_figure(figure, path)
