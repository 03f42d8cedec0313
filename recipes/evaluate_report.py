"""The results of `dlink evaluate` as JSON, or as a table with intervals and differences."""

import json
from typing import Any

from dlink_adapter.measure.plots import METRIC_NAMES


def as_json(results: dict[str, Any]) -> str:
    """The content of scores.json."""
    return json.dumps(results, indent=2, ensure_ascii=False)


def table(results: dict[str, Any]) -> str:
    """A line for each metric: its score and interval and, with `against`, the other score, the difference and p."""
    against, settings = results.get("against"), results["settings"]
    lines = [*_facts(results), ""]
    level = f"{100 * settings['level']:g} % interval"
    heading = f"{'metric':<9}{'score':>8}  {level:<18}"
    lines.append(heading + (f"{'against':>8}{'difference':>12}  {'interval':<20}{'p':>7}" if against else ""))
    for name, score in results["scores"].items():
        if score is None:
            lines.append(f"{METRIC_NAMES[name]:<9}{'-':>8}  not run: {results['not_run'][name]}")
            continue
        line = f"{METRIC_NAMES[name]:<9}{score:>8.4f}  {_ends(results['intervals'][name]):<18}"
        if against:
            found = against["differences"][name]
            line += f"{against['scores'][name]:>8.4f}{found['difference']:>+12.4f}  "
            line += f"{_ends(found['interval'], '+'):<20}{found['p']:>7.4f}"
        lines.append(line)
    lines += _of_candidates(results)
    lines += ["", f"Scores are raw: papers print them times 100. {settings['resamples']} resamples of the clips."]
    return "\n".join(line.rstrip() for line in lines)


def _of_candidates(results: dict[str, Any]) -> list[str]:
    lines = []
    if best := results.get("best_of"):
        scored = (f"{METRIC_NAMES[name]} {best[name]:.4f}" for name in METRIC_NAMES if best.get(name) is not None)
        lines += ["", f"best of {best['k']} candidates: {', '.join(scored)}"]
    if sure := results.get("confidence"):
        auroc = "-" if sure["auroc"] is None else f"{sure['auroc']:.3f}"
        lines += ["", f"confidence: AUROC {auroc}, calibration error {sure['calibration_error']:.3f}"]
    return lines


def _facts(results: dict[str, Any]) -> list[str]:
    systems = {"clips": results} | ({"against": results["against"]} if "against" in results else {})
    words = [f"{system['vocabulary']} distinct, {system['mean_length']:.2f} a caption" for system in systems.values()]
    return [
        *(f"{label:<14} {_clips(system['clips'])}" for label, system in systems.items()),
        f"references     {results['captions_a_clip']:.2f} a clip",
        f"words          {' (against: '.join(words)}{')' * (len(words) - 1)}",
        f"tokenizer      {results['tokenizer']}",
    ]


def _clips(counts: dict[str, int]) -> str:
    parts = [f"{counts['scored']} scored of {counts['with_references']} with references"]
    left_out = {
        "without_prediction": "without a prediction",
        "only_in_one": "without one in the other file",
        "predictions_without_references": "predictions without references",
    }
    return "; ".join(parts + [f"{counts[name]} {text}" for name, text in left_out.items() if counts[name]])


def _ends(interval: tuple[float, float], sign: str = "") -> str:
    return " .. ".join(f"{end:{sign}.4f}" for end in interval)
