"""What `dlink measure-gap` shows at the end: means and spreads over the folds, the table, the figures."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from dlink_adapter.measure.plots import plot_clouds, plot_cosines, plot_tradeoff

HEADLINE = {
    **{"rmg": "RMG", "paired_cosine": "cosine", "centroid_distance": "centroid", "frechet_centred": "Frechet c."},
    **{"gram_error": "Gram", "knn_overlap": "kNN", "r_at_1": "R@1", "r_at_5": "R@5"},
}


def over_folds(parts: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """{metric: {"mean": ..., "std": ...}} of the measurements of each fold."""
    columns = {metric: torch.tensor([part[metric] for part in parts], dtype=torch.float64) for metric in parts[0]}
    return {metric: {"mean": x.mean().item(), "std": x.std().item()} for metric, x in columns.items()}


def table(results: dict[str, Any]) -> str:
    """The headline of gap.json: a line a method, mean ± standard deviation over the folds, and the notes."""
    lines = [f"{'':<27}" + "".join(f"{title:>14}" for title in HEADLINE.values())]
    for name, metrics in results["methods"].items():
        cells = (f"{metrics[key]['mean']:.3f} ± {metrics[key]['std']:.3f}" for key in HEADLINE)
        lines.append(f"{name + '*' * (name in results['notes']):<27}" + "".join(f"{cell:>14}" for cell in cells))
    lines += [f"* {name}: {note}" for name, note in results["notes"].items()]
    return "\n".join(lines + [f"{name} was not run: {reason}" for name, reason in results["not_run"].items()])


def draw(results: dict[str, Any], text: Tensor, out: Path) -> None:
    """The figures: clouds and cosines of the first fold, whose captions are `text` (clips, dim), and the trade-off."""
    bridged = {name: load_file(out / "bridged" / f"{name}.safetensors")["audio"] for name in results["methods"]}
    # The frame of the clouds is that of the first panel.
    first = sorted(bridged, key=lambda name: name != "raw")
    panels = {name: (bridged[name], text) for name in first}
    plot_clouds(out / "clouds.png", panels)
    plot_cosines(out / "cosines.png", panels)
    plot_tradeoff(out / "tradeoff.png", results["methods"])
