"""Published AudioCaps scores, and a table of them with scores that were measured here.

Scores are x 100, as papers print them. Published scores are of other encoders, LLMs, training data and test clips than
ours. Each row therefore says who measured it, by its class and not by a field that a caller could set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Setup = Literal["zero-shot", "supervised"]
COLUMNS = {"cider_d": "CIDEr-D", "spider": "SPIDEr"}


@dataclass(frozen=True)
class Published:
    """Published scores of one system, under its name in the paper `source`.

    A "zero-shot" system is trained on text alone, a "supervised" one on audio and captions. `scores` are those of the
    AudioCaps test split, x 100, by name in `METRICS`; how many of its clips were still on YouTube is unknown.
    """

    system: str
    setup: Setup
    scores: Mapping[str, float | None]
    source: str


@dataclass(frozen=True)
class Measured:
    """Scores that were measured here, on `clips` test clips.

    `raw_scores` are those of `caption_metrics.score`, None or absent where a metric did not run.
    """

    system: str
    setup: Setup
    raw_scores: Mapping[str, float | None]
    clips: int

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise ValueError(f"{self.system}: a measured row says on how many clips, got {self.clips}")

    @property
    def scores(self) -> dict[str, float | None]:
        """x 100, as those of `Published`."""
        return {name: None if value is None else 100 * value for name, value in self.raw_scores.items()}


COMET = "COMET / PLSHead, arXiv 2605.29628"
PUBLISHED = (
    Published("PLSHead", "zero-shot", {"cider_d": 64.1, "spider": 40.6}, COMET),
    Published("projection decoding", "zero-shot", {"cider_d": 65.1, "spider": 41.5}, COMET),
    Published("the decoder of PLSHead, trained on audio", "supervised", {"cider_d": 63.0, "spider": 40.3}, COMET),
    Published("WavCaps HTSAT-BART", "supervised", {"cider_d": 78.7, "spider": 48.5}, "WavCaps, arXiv 2303.17395"),
    Published("EnCLAP-large", "supervised", {"cider_d": 80.3, "spider": 49.5}, "EnCLAP, arXiv 2401.17690"),
    Published("SLAM-AAC", "supervised", {"cider_d": 84.1, "spider": 51.8}, "SLAM-AAC, arXiv 2410.09503"),
    Published("LAMB", "supervised", {"cider_d": 91.1, "spider": 55.4}, "LAMB, arXiv 2601.04658"),
)
# Relative gains of Diffusion-Link over the same captioner without it, "up to", in per cent. Its scores are not public.
PUBLISHED_GAINS: dict[Setup, float] = {"zero-shot": 52.5, "supervised": 7.5}
GAINS_SOURCE = "Diffusion-Link, arXiv 2510.11330, abstract"


def comparison(ours: Sequence[Measured]) -> str:
    """Our rows and the published ones as a Markdown table, in the order of `in_order`, with notes on what differs."""
    head = ["system", "setup", *(f"{title} x 100" for title in COLUMNS.values()), "who measured it", "test clips"]
    table = [head, ["---"] * len(head)]
    for row in in_order(ours):
        scores = [row.scores.get(name) for name in COLUMNS]
        cells = ["not run" if score is None else f"{score:.1f}" for score in scores]
        if isinstance(row, Measured):
            origin = ["**measured** here", str(row.clips)]
        else:
            origin = [f"published: {row.source}", "unknown"]
        table.append([row.system, row.setup, *cells, *origin])
    gains = " and ".join(f"up to {gain} % {setup}" for setup, gain in PUBLISHED_GAINS.items())
    lines = [
        *("| " + " | ".join(cells) + " |" for cells in table),
        "",
        "Published rows are their authors' figures: other encoders, LLMs, training data and test clips than the rows",
        f"that were measured here. Relative gains that were published ({GAINS_SOURCE}): {gains},",
        "over the same captioner without the module; the scores behind them are not public.",
    ]
    return "\n".join(lines) + "\n"


def in_order(ours: Sequence[Measured]) -> list[Published | Measured]:
    """Zero-shot rows, then supervised ones, each by increasing CIDEr-D; rows without one come first."""
    rows: list[Published | Measured] = [*PUBLISHED, *ours]
    return sorted(rows, key=lambda row: (row.setup != "zero-shot", row.scores.get("cider_d") or 0.0))
