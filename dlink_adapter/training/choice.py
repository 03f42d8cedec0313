"""Fits several methods on the same pairs and keeps one."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from dlink_adapter.baselines.closed_form import ClosedForm
from dlink_adapter.bridge.base import Bridge
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.measure.gap import measure
from dlink_adapter.registry import new_bridge
from dlink_adapter.training.config import FitConfig
from dlink_adapter.training.fit import fit

CANDIDATES = ("raw", "mean_shift", "ridge", "kernel_ridge", "memory", "regression", "diffusion_link")
GAP = ("rmg", "paired_cosine", "r_at_1")
MAX_CLIPS = 4096  # that are looked at; of the training captions as many


@dataclass(frozen=True)
class Choice:
    """The bridge that was kept, what was measured of each method on held-out clips, and the reason."""

    bridge: Bridge
    measured: dict[str, dict[str, float]]
    reason: str

    def table(self) -> str:
        """A line a method, and the reason."""
        head = "".join(f"{name.replace('_', ' '):>16}" for name in (*GAP, "score"))
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

    The score of a clip is the cosine of bridged audio and its caption, centred on the mean of text, which predicts
    captions (arXiv 2604.00279), plus the reciprocal rank of that caption among the held-out and the training ones. The
    best mean is kept; a network only where it is ahead of the best method without one by more than one standard error.

    Args:
        pairs, val, config: as for `fit`; without `val` a share of the clips is held out from all.
        candidates: names of bridges.
        out: folder for the candidates, in which a run that was killed goes on.
    """
    config = config or FitConfig()
    shares = (1 - config.holdout, config.holdout)
    train, held_out = pairs.split(shares, seed=config.seed) if val is None else (pairs, val)
    held_out = held_out.sample(MAX_CLIPS)
    others = train.sample(MAX_CLIPS).first_captions()
    bridges, scores, measured = {}, {}, {}
    for name in candidates:
        bridge = bridges[name] = new_bridge(name, pairs.dim)
        fit(bridge, train, val=held_out, config=config, out=out and out / name, progress=progress)
        bridged = bridge.map_rows(held_out.audio)
        scores[name] = _scores(bridged, held_out.first_captions(), others)
        gap = measure(bridged, held_out.text, held_out.clip, names=GAP[:2])
        measured[name] = {of: gap[of] for of in GAP} | {"score": scores[name].mean().item()}
    name, reason = _decide(scores, bridges)
    return Choice(bridges[name], measured, reason)


def _scores(bridged: Tensor, text: Tensor, others: Tensor) -> Tensor:
    """(n,) centred cosine of each row with its own text, plus the reciprocal rank of that text among all of them."""
    text, others = (normalize(rows.float(), dim=-1) for rows in (text, others))
    own = (bridged * text).sum(-1, keepdim=True)
    closer = torch.cat([bridged @ text.T > own + 1e-6, bridged @ others.T > own + 1e-6], dim=1)
    mean = others.mean(0)
    return cosine_similarity(bridged - mean, text - mean) + 1 / (1 + closer.sum(-1))


def _decide(scores: dict[str, Tensor], bridges: dict[str, Bridge]) -> tuple[str, str]:
    """The name of the bridge to keep, and the reason in words."""
    ahead = max(scores, key=lambda name: scores[name].mean().item())
    simple = [name for name in scores if isinstance(bridges[name], ClosedForm)]
    if ahead in simple or not simple:
        return ahead, f"{ahead}: the highest score"
    best = max(simple, key=lambda name: scores[name].mean().item())
    apart = scores[ahead] - scores[best]
    mean, error = apart.mean().item(), (apart.std() / len(apart) ** 0.5).item()
    if mean > error:
        return ahead, f"{ahead}: {mean:.3f} ± {error:.3f} ahead of {best}, the best without a network"
    return best, f"{best}: {ahead} is ahead by {mean:.3f} ± {error:.3f}, no more than one standard error"
