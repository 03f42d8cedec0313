"""What `dlink study` says of its rows: scores with intervals over clips and seeds, and differences that are paired."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dlink_adapter import BRIDGES
from dlink_adapter.measure.caption_metrics import score
from dlink_adapter.measure.plots import plot_caption_scores
from dlink_adapter.measure.significance import Floats, over_clips_and_seeds
from dlink_adapter.recipes.captioner_rows import SETUPS, Row
from dlink_adapter.recipes.study_parts import LINK

RAW = Row("raw", "clean")
Said = dict[str, dict[str, list[str]]]  # captions by label and set-up


def study_results(rows: Sequence[Row], runs: dict[int, Any], references: list[list[str]]) -> dict[str, Any]:
    """The content of study.json, given what was found by seed: gaps by bridge; reading gains and scores by row."""
    first, *_ = runs.values()
    gap = {
        bridge: {name: _mean([run["gap"][bridge][name] for run in runs.values()]) for name in metrics}
        for bridge, metrics in first["gap"].items()
    }
    gains = {row.label: _mean([run["reading_gain"][row.label] for run in runs.values()]) for row in rows}
    captions = _captions(rows, [run["said"] for run in runs.values()], references) if "said" in first else {}
    return {"gap": gap, "reading_gain": gains, "captions": captions, "seeds": list(runs)}


def _captions(rows: Sequence[Row], said: list[Said], references: list[list[str]]) -> dict[str, Any]:
    """CIDEr-D by set-up and row, its interval, the headroom that it closes, and its differences from other rows."""
    clips = {
        setup: {row: _per_clip([of_seed[row.label][setup] for of_seed in said], references) for row in rows}
        for setup in SETUPS
    }
    raw, heard = (clips[setup][RAW].mean() for setup in SETUPS)
    return {
        setup: {
            row.label: {
                "cider_d": float(of_row.mean()),
                "interval": over_clips_and_seeds(of_row),
                "headroom_closed": float((of_row.mean() - raw) / (heard - raw)) if heard != raw else None,
                "minus": {
                    other.label: _difference(of_row, clips[setup][other]) for other in _beside(row, clips[setup])
                },
            }
            for row, of_row in clips[setup].items()
        }
        for setup in SETUPS
    }


def _per_clip(captions: list[list[str]], references: list[list[str]]) -> Floats:
    """CIDEr-D (seeds, clips)."""
    return np.array([score(of_seed, references, ["cider_d"]).per_clip["cider_d"] for of_seed in captions])


def _beside(row: Row, clips: dict[Row, Floats]) -> list[Row]:
    """Raw with clean captions; with the row's own condition the link, and the best bridge that is no diffusion."""
    same = [other for other in clips if other.condition == row.condition]
    known = [other for other in same if other.bridge in BRIDGES and other.bridge != LINK]
    best = max(known, key=lambda other: clips[other].mean(), default=RAW)
    link = [other for other in same if other.bridge == LINK]
    return [other for other in dict.fromkeys([RAW, *link, best]) if other != row]


def _difference(ours: Floats, theirs: Floats) -> dict[str, Any]:
    apart = ours - theirs
    return {"difference": float(apart.mean()), "interval": over_clips_and_seeds(apart)}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def study_table(results: dict[str, Any]) -> str:
    """A line a row: what the reader makes of it and, where captions were trained, the scores."""
    captions = results["captions"]
    head = f"{'':<36}{'reading gain':>13}"
    for setup in captions:
        head += f"{setup.replace('_', '-') + ' CIDEr-D':>22}{'[95 %]':>16}{'headroom':>10}"
    lines = [head]
    for label, gain in results["reading_gain"].items():
        line = f"{label:<36}{gain:>13.3f}"
        for of_setup in captions.values():
            low, high = of_setup[label]["interval"]
            line += f"{of_setup[label]['cider_d']:>22.3f}{f'[{low:.3f}, {high:.3f}]':>16}"
            closed = of_setup[label]["headroom_closed"]
            line += f"{'-' if closed is None else f'{closed:.0%}':>10}"
        lines.append(line)
    return "\n".join(lines)


def plot_study(path: Path, results: dict[str, Any]) -> None:
    """CIDEr-D of every row with its interval."""
    scores, ends = (
        {
            setup: {label: {"cider_d": found[name]} for label, found in rows.items()}
            for setup, rows in results["captions"].items()
        }
        for name in ("cider_d", "interval")
    )
    plot_caption_scores(path, scores, ends)
