"""Fits every method on the same pairs and keeps the one that a zero-shot captioner would do best behind."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from dlink_adapter.baselines.closed_form import ClosedForm
from dlink_adapter.bridge.base import Bridge
from dlink_adapter.bridge.reader import reading_gains
from dlink_adapter.captioner.conditions import Bridged, PseudoAudio, TextCondition
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.measure.gap import measure
from dlink_adapter.registry import new_bridge
from dlink_adapter.training.descent import FitConfig
from dlink_adapter.training.fit import fit

CANDIDATES = ("raw", "mean_shift", "ridge", "kernel_ridge", "memory", "regression", "diffusion_link")
GAP = ("rmg", "paired_cosine", "r_at_1")
MAX_CLIPS = 4096  # that are looked at; of the training captions as many


@dataclass(frozen=True)
class Choice:
    """The bridge that was kept, the text condition that a captioner should be trained with behind it, and why."""

    bridge: Bridge
    condition: str
    measured: dict[str, dict[str, float]]  # by method: the gap, and the reading gain in each condition
    reason: str

    def table(self) -> str:
        """A line a method, and the reason."""
        columns = next(iter(self.measured.values()))
        head = "".join(f"{name.replace('_', ' '):>16}" for name in columns)
        lines = [
            f"{name:<16}" + "".join(f"{value:>16.3f}" for value in of.values()) for name, of in self.measured.items()
        ]
        return "\n".join([f"{'':<16}{head}", *lines, self.reason])


def choose_bridge(
    pairs: PairedEmbeddings,
    *,
    val: PairedEmbeddings | None = None,
    candidates: tuple[str, ...] = CANDIDATES,
    config: FitConfig | None = None,
    out: Path | None = None,
    progress: bool = True,
) -> Choice:
    """Fit the candidates, compare them on held-out clips, and keep one.

    It is the one with the highest reading gain (`bridge.reader`) in its better condition. A network is kept only where
    it is ahead of the best method without one by more than one standard error over the clips.

    Args:
        pairs, val, config: as for `fit`; without `val` a share of the clips is held out from all.
        candidates: names of bridges.
        out: folder for the candidates, in which a run that was killed goes on.
    """
    config = config or FitConfig()
    train, held_out = (
        pairs.split((1 - config.holdout, config.holdout), seed=config.seed) if val is None else (pairs, val)
    )
    pseudo_audio = PseudoAudio(pairs.dim)
    pseudo_audio.fit(train)
    conditions: dict[str, TextCondition] = {"bridged": Bridged(), "pseudo_audio": pseudo_audio}  # they need no setting
    text = train.sample(MAX_CLIPS).first_captions()
    bridges, gains, measured = {}, {}, {}
    for name in candidates:
        bridge = bridges[name] = new_bridge(name, pairs.dim)
        fit(bridge, train, val=held_out, config=config, out=out and out / name, progress=progress)
        gains[name] = {of: gains_behind(bridge, condition, text, held_out) for of, condition in conditions.items()}
        gap = measure(bridge.map_rows(held_out.audio), held_out.text, held_out.clip, names=GAP[:2])
        measured[name] = {of: gap[of] for of in GAP} | {of: rows.mean().item() for of, rows in gains[name].items()}
    best = {name: max(conditions, key=lambda condition: measured[name][condition]) for name in candidates}
    name, reason = _decide({name: gains[name][best[name]] for name in candidates}, bridges)
    return Choice(bridges[name], best[name], measured, reason)


@torch.no_grad()
def gains_behind(
    bridge: Bridge, condition: TextCondition, text: Tensor, clips: PairedEmbeddings, seed: int = 0
) -> Tensor:
    """What a reader makes of bridged clips, that was taught on captions in a text condition: `reading_gains` of each.

    Args:
        bridge: a fitted bridge, in eval mode on the CPU.
        condition: what the captions become, one draw each.
        text: (n, dim) embeddings of captions to teach it on.
        clips: those to read, of which at most `MAX_CLIPS` are.
        seed: of the draws.
    """
    clips, draw = clips.sample(MAX_CLIPS), Generator().manual_seed(seed)
    true_text = clips.first_captions()
    drawn, true_drawn = (condition(rows.float(), bridge, draw) for rows in (text, true_text))
    return reading_gains(drawn, text, bridge.map_rows(clips.audio), true_drawn, true_text)


def _decide(gains: dict[str, Tensor], bridges: dict[str, Bridge]) -> tuple[str, str]:
    """The name of the bridge to keep, and the reason in words."""
    ahead = max(gains, key=lambda name: gains[name].mean().item())
    simple = [name for name in gains if isinstance(bridges[name], ClosedForm)]
    if ahead in simple or not simple:
        return ahead, f"{ahead}: the highest reading gain"
    best = max(simple, key=lambda name: gains[name].mean().item())
    apart = gains[ahead] - gains[best]
    mean, error = apart.mean().item(), (apart.std() / len(apart) ** 0.5).item()
    if mean > error:
        return ahead, f"{ahead}: {mean:.3f} ± {error:.3f} ahead of {best}, the best without a network"
    return best, f"{best}: {ahead} is ahead by {mean:.3f} ± {error:.3f}, no more than one standard error"
