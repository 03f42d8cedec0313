"""What `dlink audiocaps` shows at the end: gap and scores of every method, beside the published scores."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from dlink_adapter import PairedEmbeddings, load_bridge
from dlink_adapter.captioner.config import read_captioner_config
from dlink_adapter.files import write_atomically
from dlink_adapter.measure.gap import measure
from dlink_adapter.measure.plots import plot_caption_scores, plot_clouds, plot_comparison
from dlink_adapter.measure.published import Measured, Setup, comparison

SETUPS: dict[str, Setup] = {"zero_shot": "zero-shot", "supervised": "supervised"}
GAP_COLUMNS = {
    "rmg": "RMG",
    "paired_cosine": "paired cosine",
    "centroid_distance": "centroid distance",
    "r_at_1": "R@1",
}


@torch.no_grad()
def gap(methods: list[str], out: Path) -> dict[str, dict[str, float]]:
    """What each method leaves of the modality gap on the test clips; draws the clouds."""
    test = PairedEmbeddings.open(out / "embeddings" / "test")
    audio, text = test.audio.float(), test.text.float()
    first = text[torch.searchsorted(test.clip, torch.arange(test.clips))]
    found, clouds = {}, {}
    for method in methods:
        bridge = load_bridge(out / "bridges" / method)
        clouds[method] = (bridge(audio), first)
        found[method] = measure(clouds[method][0], text, test.clip, bridged_text=bridge(text, modality="text"))
    plot_clouds(out / "clouds.png", clouds)
    return found


def report(methods: list[str], gaps: dict[str, Any], seconds: dict[str, float], out: Path) -> str:
    """Write results.json, report.md and the figures; returns the report."""
    found = {
        setup: {method: _read(out / "scores" / setup / method / "scores.json") for method in methods}
        for setup in SETUPS
    }
    scores = {setup: {method: of["scores"] for method, of in by_method.items()} for setup, by_method in found.items()}
    intervals = {setup: {name: of["intervals"] for name, of in by_method.items()} for setup, by_method in found.items()}
    plot_caption_scores(out / "captions.png", scores, intervals)
    ours = [
        Measured(_system(out, setup, method), SETUPS[setup], of["scores"], of["clips"]["scored"])
        for setup, by_method in found.items()
        for method, of in by_method.items()
    ]
    plot_comparison(out / "comparison.png", ours)
    results = {
        "captions": scores,
        "gain_over": {"method": methods[0], "cider_d": _gains(scores, methods)},
        "evaluation": found,
        "gap": gaps,
        "clips": {split: _clips(out / "embeddings" / split) for split in ("train", "val", "test")},
        "seconds": seconds,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate", "dlink-adapter")},
    }
    write_atomically(out / "results.json", json.dumps(results, indent=2, ensure_ascii=False))
    text = "\n".join(["# AudioCaps", "", _facts(results), "", _gap_table(gaps), "", comparison(ours)])
    write_atomically(out / "report.md", text)
    return text


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _system(out: Path, setup: str, method: str) -> str:
    llm = Path(read_captioner_config(out / "captioners" / method / setup).base_model).name
    return f"{llm}, {'no bridge' if method == 'raw' else method}"


def _gains(scores: dict[str, Any], methods: list[str]) -> dict[str, dict[str, float | None]]:
    """Relative, per setup and method; None where the first method scores nothing."""
    return {
        setup: {
            method: of[method]["cider_d"] / of[methods[0]]["cider_d"] - 1 if of[methods[0]]["cider_d"] else None
            for method in methods[1:]
        }
        for setup, of in scores.items()
    }


def _clips(folder: Path) -> dict[str, int]:
    extracted = PairedEmbeddings.open(folder, check_values=False).metadata["report"]
    return {name: extracted[name] for name in ("clips", "missing", "unreadable")}


def _facts(results: dict[str, Any]) -> str:
    """How many clips there were, and what each method is worth in CIDEr-D, with its interval."""
    lines = [
        f"- {split}: {of['clips']} clips, {of['missing']} missing, {of['unreadable']} unreadable"
        for split, of in results["clips"].items()
    ]
    first = results["gain_over"]["method"]
    for setup, by_method in results["evaluation"].items():
        for method, of in by_method.items():
            low, high = of["intervals"]["cider_d"]
            line = f"- {SETUPS[setup]}, {method}: CIDEr-D {of['scores']['cider_d']:.4f} ({low:.4f} to {high:.4f})"
            if method != first:
                gain, tested = results["gain_over"]["cider_d"][setup][method], of["against"]["differences"]["cider_d"]
                line += "" if gain is None else f", {gain:+.1%} over {first}"
                line += f", p = {tested['p']:.4f}"
            lines.append(line)
    return "\n".join(lines)


def _gap_table(gaps: dict[str, dict[str, float]]) -> str:
    lines = [f"| method | {' | '.join(GAP_COLUMNS.values())} |", f"|{'---|' * (1 + len(GAP_COLUMNS))}"]
    lines += [f"| {method} | {' | '.join(f'{of[name]:.4f}' for name in GAP_COLUMNS)} |" for method, of in gaps.items()]
    return "\n".join(lines)
