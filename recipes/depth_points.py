"""The measurements of `dlink ablate-depth`: a point is a method at a depth, with its metrics on the test pairs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dlink_adapter import BridgeConfig, DiffusionLink, FitConfig, PairedEmbeddings, load_bridge
from dlink_adapter.bridge.base import Bridge
from dlink_adapter.measure.gap import measure
from dlink_adapter.recipes.methods import fit_method, match_moments
from dlink_adapter.refine.residual import Residual, ResidualConfig

PURE = DiffusionLink.name
VARIANTS: dict[str, dict[str, Any]] = {
    PURE: {},
    "no_topology": {"topology_weight": 0.0},
    "no_text_branch": {"text_weight": 0.0},
}
SAMPLES = (1, 16)
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

    def baseline(self, name: str) -> list[Point]:
        """The points of a method without a depth: plain, and matched."""
        bridge = self._fitted(name)
        nowhere = {"timestep": None, "cosine": None, "samples": None, "steps": None}
        rows = {name: bridge, f"{name}, matched": self._matched(bridge)}
        return [{"method": row, **nowhere, **self._measured(rows[row])} for row in rows]

    def variant(self, name: str) -> list[Point]:
        """The points of a bridge with some settings changed; of the unchanged one also refined, and in more steps."""
        link = DiffusionLink(BridgeConfig(self.train.dim, samples=max(SAMPLES), **VARIANTS[name]))
        link.fit(self.train, val=self.val, config=self.config, out=self.out / "bridges" / name)
        fitted, points = link.config, list[Point]()
        more = [(1, steps) for steps in self.steps if steps > 1 and name == PURE]
        for samples, steps in [*((samples, 1) for samples in SAMPLES), *more]:
            for timestep in self.timesteps:
                link.config = replace(fitted, timestep=timestep, cosine=None, samples=samples, steps=steps)
                points.append({"method": name, **_place(link), **self._measured(link)})
                if name == PURE and (samples, steps) == (max(SAMPLES), 1):
                    points += [{"method": row, **_place(link), **found} for row, found in self._refined(link).items()]
        return points

    def _refined(self, link: DiffusionLink) -> dict[str, dict[str, float]]:
        """The link at its depth, matched, and as a residual on its default base."""
        base = self.out / "bridges" / ResidualConfig.base
        joined = Residual.of(load_bridge(base) if base.is_dir() else self._fitted(ResidualConfig.base), link)
        joined.choose_gain(self.val)
        rows: dict[str, Bridge] = {f"{PURE}, matched": self._matched(link), Residual.name: joined}
        rows[f"{Residual.name}, matched"] = self._matched(joined)
        return {row: self._measured(bridge) for row, bridge in rows.items()}

    def _fitted(self, name: str) -> Bridge:
        return fit_method(name, self.train, self.val, self.config, self.unet_steps, self.out / "bridges" / name)

    def _matched(self, bridge: Bridge) -> Bridge:
        return match_moments(bridge, self.train, self.val)

    def _measured(self, bridge: Bridge) -> dict[str, float]:
        bridged, text = bridge.map_rows(self.test.audio), bridge.map_rows(self.test.text, "text")
        found = measure(bridged, self.test.text, self.test.clip, bridged_text=text)
        return {name: found[name] for name in METRICS}


def caption_points(folder: Path, test: PairedEmbeddings, timesteps: list[int]) -> list[Point]:
    """Scores of the captions of `test` at each depth, by the captioner and the bridge that it was trained with."""
    from dlink_adapter.integrations.causal_lm import load_captioner
    from dlink_adapter.measure.caption_metrics import score

    captioner = load_captioner(folder)
    link = captioner.bridge
    if not isinstance(link, DiffusionLink):
        raise ValueError(f"{folder} has a {link.name!r} bridge, which has no depth: give one with diffusion_link")
    points = []
    for timestep in timesteps:
        link.config = replace(link.config, timestep=timestep, cosine=None)
        scores = score(captioner.generate(test.audio), test.captions, CAPTION_METRICS).scores
        points.append({"method": "captioner", **_place(link), **scores})
    return points


def _place(link: DiffusionLink) -> dict[str, Any]:
    """Where on the depth axis a link is."""
    timestep = link.timestep
    assert timestep is not None
    config = link.config
    cosine = link.alpha_bars[timestep] ** 0.5
    return {"timestep": timestep, "cosine": cosine, "samples": config.samples, "steps": config.steps}
