"""What `dlink study` does before any captioner is trained: its rows, their bridges, and the fast screen."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dlink_adapter import BRIDGES, FitConfig, PairedEmbeddings, load_bridge
from dlink_adapter.captioner.conditions import TEXT_CONDITIONS, PseudoAudio
from dlink_adapter.captioner.screen import gains_behind
from dlink_adapter.measure.gap import HEADLINE, measure
from dlink_adapter.recipes.captioner_rows import Row
from dlink_adapter.registry import new_bridge

LINK = "diffusion_link"
SIGMAS = (0.02, 0.05, 0.1, 0.15, 0.2)  # of the condition gaussian


def rows_of(bridges: Sequence[str], conditions: Sequence[str], variants: Iterable[str]) -> list[Row]:
    """Every bridge in every condition, and raw with clean captions, which the others are compared with.

    Raises ValueError on an unknown name, and on a variant with the name of a bridge or one that is no identifier.
    """
    for given, known in ((bridges, BRIDGES), (conditions, TEXT_CONDITIONS)):
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"unknown {', '.join(unknown)}; known: {', '.join(known)}")
    if bad := sorted(name for name in variants if name in BRIDGES or not name.isidentifier()):
        raise ValueError(f"a variant needs a name of its own, of letters, digits and _: {', '.join(bad)}")
    rows = [Row(bridge, condition) for condition in conditions for bridge in (*bridges, *variants)]
    return list(dict.fromkeys([Row("raw", "clean"), *rows]))


@dataclass(frozen=True)
class Material:
    """What the bridges of one seed are fitted on, calibrated on and measured on, with the captions that nobody hears.

    `variants` are settings of diffusion_link bridges by name; bridges are saved in `folder`.
    """

    pairs: PairedEmbeddings
    val: PairedEmbeddings
    test: PairedEmbeddings
    text: Tensor
    variants: dict[str, dict[str, Any]]
    steps: int
    seed: int
    folder: Path

    def settings(self) -> dict[str, Any]:
        """What tells one study from another."""
        digests = {name: getattr(self, name).digest() for name in ("pairs", "val", "test")}
        return {**digests, "bridge_steps": self.steps}

    def fit(self, name: str) -> dict[str, float]:
        """Fit a bridge; returns the gap that it leaves on the test clips."""
        kind = LINK if name in self.variants else name
        bridge = new_bridge(kind, self.pairs.dim, self.variants.get(name))
        bridge.fit(self.pairs, val=self.val, config=FitConfig(steps=self.steps, seed=self.seed), out=self.folder / name)
        return measure(bridge.map_rows(self.test.audio), self.test.text, self.test.clip, names=HEADLINE)

    def screen(self, row: Row) -> dict[str, float]:
        """What a closed-form reader makes of a row on the test clips; sigma is the best on the held-out ones."""
        sigmas = SIGMAS if row.condition == "gaussian" else (0.0,)
        gains = {sigma: self._reading_gain(row, sigma, self.val) for sigma in sigmas}
        sigma = max(gains, key=lambda sigma: gains[sigma])
        return {"reading_gain": self._reading_gain(row, sigma, self.test), "sigma": sigma}

    def _reading_gain(self, row: Row, sigma: float, clips: PairedEmbeddings) -> float:
        bridge = load_bridge(self.folder / row.bridge)
        condition = TEXT_CONDITIONS[row.condition](bridge.dim, sigma)
        if isinstance(condition, PseudoAudio):
            condition.fit(self.pairs)
        return gains_behind(bridge, condition, self.text, clips, self.seed).mean().item()
