"""The measurements of `dlink ablate-depth`: a point is a method at a depth, with its metrics on the test pairs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlink_adapter import BridgeConfig, DiffusionLink, FitConfig, PairedEmbeddings
from dlink_adapter.bridge.base import Bridge
from dlink_adapter.measure.caption_metrics import score
from dlink_adapter.measure.gap import measure
from dlink_adapter.recipes.captioner_rows import CaptionerRows, Row
from dlink_adapter.recipes.methods import fit_method, match_moments
from dlink_adapter.stages import Stages

PURE = DiffusionLink.name
VARIANTS: dict[str, dict[str, Any]] = {
    PURE: {},
    "no_topology": {"topology_weight": 0.0},
    "no_text_branch": {"text_weight": 0.0},
}
SAMPLES = (1, 4)
METRICS = ("r_at_1", "paired_cosine", "rmg", "frechet_centred", "gram_error", "knn_overlap", "text_identity")
CAPTION_METRICS = ("bleu_4", "rouge_l", "meteor", "cider_d")
Point = dict[str, Any]


@dataclass
class DepthStudy:
    """What is fitted on, measured on, and at which timesteps and steps; bridges go to `out`/bridges."""

    train: PairedEmbeddings
    val: PairedEmbeddings
    test: PairedEmbeddings
    config: FitConfig
    timesteps: list[int]
    steps: list[int]
    unet_steps: int
    out: Path

    def settings(self) -> dict[str, Any]:
        """What tells one study from another."""
        digests = {name: getattr(self, name).digest() for name in ("train", "val", "test")}
        grid = {"timesteps": self.timesteps, "steps": self.steps, "unet_steps": self.unet_steps}
        return {**digests, **grid, "bridge_steps": self.config.steps, "seed": self.config.seed}

    def baseline(self, name: str) -> list[Point]:
        """The points of a method without a depth: plain, and matched."""
        bridge = self._fitted(name)
        nowhere = {"timestep": None, "cosine": None, "samples": None, "steps": None}
        rows = {name: bridge, f"{name}, matched": self._matched(bridge)}
        return [{"method": row, **nowhere, **self._measured(rows[row])} for row in rows]

    def variant(self, name: str) -> list[Point]:
        """The points of a bridge with some settings changed; of the unchanged one also in more steps."""
        link = DiffusionLink(BridgeConfig(self.train.dim, samples=max(SAMPLES), **VARIANTS[name]))
        link.fit(self.train, val=self.val, config=self.config, out=self.out / "bridges" / name)
        fitted, points = link.config, list[Point]()
        more = [(1, steps) for steps in self.steps if steps > 1 and name == PURE]
        for samples, steps in [*((samples, 1) for samples in SAMPLES), *more]:
            for timestep in self.timesteps:
                link.config = replace(fitted, timestep=timestep, cosine=None, samples=samples, steps=steps)
                points.append({"method": name, **_place(link), **self._measured(link)})
        return points

    def captions(self, captioners: CaptionerRows, rows: dict[str, Row], stages: Stages) -> list[Point]:
        """The points of zero-shot captioners, each trained on captions that were noised to the depth of its row."""
        link, places = DiffusionLink.from_pretrained(self.out / "bridges" / PURE), []
        for timestep, row in zip(self.timesteps, rows.values(), strict=True):
            link.config = replace(link.config, timestep=timestep, cosine=None)
            link.save_pretrained(self.out / "bridges" / row.bridge)
            places.append({"method": "captioner", **_place(link)})
        said = captioners.run(rows, stages).values()
        scored = [score(of_row["zero_shot"], self.test.captions, CAPTION_METRICS).scores for of_row in said]
        return [place | scores for place, scores in zip(places, scored, strict=True)]

    def _fitted(self, name: str) -> Bridge:
        return fit_method(name, self.train, self.val, self.config, self.unet_steps, self.out / "bridges" / name)

    def _matched(self, bridge: Bridge) -> Bridge:
        return match_moments(bridge, self.train, self.val)

    def _measured(self, bridge: Bridge) -> dict[str, float]:
        bridged, text = bridge.map_rows(self.test.audio), bridge.map_rows(self.test.text, "text")
        found = measure(bridged, self.test.text, self.test.clip, bridged_text=text)
        return {name: found[name] for name in METRICS}


def _place(link: DiffusionLink) -> dict[str, Any]:
    """Where on the depth axis a link is."""
    timestep = link.timestep
    assert timestep is not None
    config = link.config
    cosine = link.alpha_bars[timestep] ** 0.5
    return {"timestep": timestep, "cosine": cosine, "samples": config.samples, "steps": config.steps}
