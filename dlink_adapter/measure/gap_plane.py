"""The plane in which a modality gap can be seen: the line between the centroids, and what varies most beside it."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

COINCIDE = 1e-3  # centroids of unit-norm rows that are closer count as one point


def gap_plane(clouds: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Callable[[Tensor], Tensor], str, str]:
    """The projection of (..., dim) on the axes of `plot_clouds`, 0 halfway between the centroids, and both labels."""
    title, (audio, text) = next((name.replace("_", " "), pair) for name, pair in clouds.items())
    middle, gap = (audio.mean(0) + text.mean(0)) / 2, text.mean(0) - audio.mean(0)
    content = torch.cat([audio - audio.mean(0), text - text.mean(0)])
    if gap.norm() > COINCIDE:
        across, label = gap / gap.norm(), f'along the line between the centroids of "{title}"'
    else:
        across, part = _first_component(content)
        label = f'first principal component ({part:.0%} of the variance):\nthe centroids of "{title}" coincide'
    up, part = _first_component(content - (content @ across)[:, None] * across)
    rest = f"first principal component of the rest ({part:.0%} of its variance)"
    return lambda x: (x - middle) @ torch.stack([across, up], dim=-1), label, rest


def _first_component(rows: Tensor) -> tuple[Tensor, float]:
    """The unit vector (dim,) along which centred (n, dim) have most variance, and the fraction that it explains."""
    variances, axes = torch.linalg.eigh(rows.T @ rows)  # the largest last
    return axes[:, -1], (variances[-1] / variances.sum()).item()


def unit_pairs(panels: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Pairs by title, in float64 and at unit norm. Raises ValueError on none, other shapes, or a row without a norm."""
    if not panels:
        raise ValueError("there must be at least one panel, such as {'raw': (audio, text)}")
    unit = {}
    for title, (audio, text) in panels.items():
        if audio.ndim != 2 or audio.shape != text.shape or len(audio) < 2 or audio.shape[1] < 2:
            raise ValueError(f"{title!r}: audio and text must both be (n, dim), got {[*audio.shape]}, {[*text.shape]}")
        pair = torch.stack([audio.detach().cpu().double(), text.detach().cpu().double()])
        pair /= pair.norm(dim=-1, keepdim=True)
        if not pair.isfinite().all():
            raise ValueError(f"{title!r}: an embedding is zero, NaN or Inf")
        unit[title] = pair[0], pair[1]
    return unit
