"""The modality gap: how far apart two embedding clouds are, how well they retrieve each other, how alike their shapes.

Everywhere `x` is bridged audio and `y` text, (n, dim) in float64 with unit rows, and row i of one is the pair of row i
of the other. A mean shift is enough to improve cosine and centroid distance, so `measure` always gives retrieval and
topology too. What grows with the square of n (MMD, the Spearman correlation of the Gram matrices, the queries of the
nearest-neighbour metrics) uses a sample of `SAMPLE` clips, drawn with a fixed seed, where there are more.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from dlink_adapter.measure.retrieval import retrieval, similarities

SAMPLE = 4096
NEIGHBOURS = 10
TINY = torch.finfo(torch.float64).tiny  # against division by zero
HEADLINE = ("rmg", "paired_cosine", "centroid_distance")  # of a model card, with recall


def measure(
    bridged: Tensor,
    text: Tensor,
    clip: Tensor | None = None,
    *,
    bridged_text: Tensor | None = None,
    names: Iterable[str] | None = None,
) -> dict[str, float]:
    """Every metric of the modality gap, by name: `METRICS`, both retrieval directions and the mean `output_norm`.

    Args:
        bridged: (n, dim) audio embeddings after the bridge, any floating dtype, any norm.
        text: (m, dim) caption embeddings.
        clip: (m,) the row of `bridged` that each caption describes; None means that row i belongs to row i.
        bridged_text: (m, dim) the same captions sent through the bridge; adds `text_identity`, their mean cosine.
        names: which of `METRICS`, some of which are slow; all of them by default.

    Retrieval uses every caption (the five-caption protocol): an audio query is a hit when any of its captions is among
    the first k. All other metrics compare a clip with its first caption, so that data sets with one and with five
    captions a clip are comparable: the mean of several captions would have a smaller variance than one of them.

    Raises ValueError on shapes that do not match, NaN, Inf, zero rows, fewer than three clips, or one without captions.
    """
    x, every_y = _unit(bridged, "bridged"), _unit(text, "text")
    clip, first = _captions_of(x, every_y, clip)
    y = every_y[first]
    result = {name: METRICS[name](x, y) for name in names or METRICS} | retrieval(x, every_y, clip)
    result["output_norm"] = bridged.detach().double().norm(dim=-1).mean().item()
    if bridged_text is not None:
        result["text_identity"] = paired_cosine(_unit(bridged_text, "bridged_text"), every_y)
    return result


def before_and_after(before: dict[str, float], after: dict[str, float]) -> dict[str, list[float]]:
    """[before, after] of `HEADLINE` and recall, from two results of `measure`, for a model card."""
    return {name: [round(before[name], 4), round(after[name], 4)] for name in (*HEADLINE, "r_at_1", "r_at_5")}


def centroid_distance(x: Tensor, y: Tensor) -> float:
    """||mean x - mean y||, the modality gap of Liang et al., NeurIPS 2022."""
    return (x.mean(0) - y.mean(0)).norm().item()


def paired_cosine(x: Tensor, y: Tensor) -> float:
    """Mean <x_i, y_i>."""
    return (x * y).sum(-1).mean().item()


def unpaired_cosine(x: Tensor, y: Tensor) -> float:
    """Mean <x_i, y_j> over i != j, computed from the sums of x and of y."""
    return ((x.sum(0) @ y.sum(0) - (x * y).sum()) / (len(x) * (len(x) - 1))).item()


def rmg(x: Tensor, y: Tensor) -> float:
    """Relative modality gap D / (D + (intra_x + intra_y) / 2) with d = (1 - cos) / 2 (Schrodi et al., ICLR 2025).

    D is the mean over pairs, intra the mean over distinct items of one modality. 0 is no gap; 1 is the upper bound.
    """
    between = (1 - paired_cosine(x, y)) / 2
    within = (1 - unpaired_cosine(x, x)) / 4 + (1 - unpaired_cosine(y, y)) / 4
    return between / max(between + within, TINY)


def probe_accuracy(x: Tensor, y: Tensor, *, ridge: float = 1e-3) -> float:
    """Held-out accuracy of a linear modality classifier: 0.5 is chance, 1 is linearly separable.

    Regularised least squares on labels -1 / +1 (Fisher's discriminant) in two folds by clip, so that both items of a
    pair are in the same fold. `ridge` is relative to the mean variance of a dimension.
    """
    order = _permutation(len(x), x.device)
    folds = order[: len(x) // 2], order[len(x) // 2 :]
    correct = torch.zeros((), dtype=x.dtype, device=x.device)
    for train, test in (folds, folds[::-1]):
        seen = torch.cat([x[train], y[train]])
        mean = seen.mean(0)
        scatter = (seen - mean).T @ (seen - mean)
        scatter.diagonal().add_(ridge * scatter.trace() / len(mean) + TINY)
        weight = torch.linalg.solve(scatter, (y[train] - x[train]).sum(0))
        correct += ((x[test] - mean) @ weight < 0).sum() + ((y[test] - mean) @ weight >= 0).sum()
    return correct.item() / (2 * len(x))


def knn_mixing(x: Tensor, y: Tensor, *, k: int = NEIGHBOURS) -> float:
    """Fraction of other-modality items among the k nearest neighbours in the union: 0.5 is mixed, 0 is apart.

    Neither an item itself nor its own pair counts as a neighbour, so two samples of one distribution give 0.5.
    """
    n, union = len(x), torch.cat([x, y])
    chosen = _subsample(n, x.device)
    fractions = []
    for queries in (chosen, chosen + n):
        for rows, similarity in similarities(union[queries], union):
            _mask(similarity, queries[rows] % n)
            _mask(similarity, queries[rows] % n + n)
            nearest = similarity.topk(min(k, 2 * n - 2)).indices
            fractions.append(((nearest < n) != (queries[rows, None] < n)).double().mean(-1))
    return torch.cat(fractions).mean().item()


def frechet(x: Tensor, y: Tensor) -> float:
    """Frechet distance of Gaussians, ||mean x - mean y||^2 + tr(Cx + Cy - 2 (Cx Cy)^(1/2)) (Heusel et al., 2017)."""
    return centroid_distance(x, y) ** 2 + frechet_centred(x, y)


def frechet_centred(x: Tensor, y: Tensor) -> float:
    """The covariance term of the Frechet distance, which is the distance of the centred modalities.

    The trace of the root is the nuclear norm of the product of the data's triangular factors, which needs no matrix
    root and is exact also for fewer items than dimensions.
    """
    xc, yc = x - x.mean(0), y - y.mean(0)
    factor_x, factor_y = (torch.linalg.qr(c, mode="r").R for c in (xc, yc))
    root = torch.linalg.svdvals(factor_x @ factor_y.T).sum()
    return ((xc.square().sum() + yc.square().sum() - 2 * root) / (len(x) - 1)).clamp_min(0).item()


def mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD with an RBF kernel (Gretton et al., JMLR 2012, equation 4), at most `SAMPLE` clips.

    The bandwidth is the median distance of the pooled items. All three sums leave out i = j, since pairs are not
    independent. Identical clouds give 0; the estimate can be slightly negative.
    """
    chosen = _subsample(len(x), x.device)
    x, y = x[chosen], y[chosen]
    scale = 2 * torch.pdist(torch.cat([x, y])).median().square().clamp_min(TINY)
    total = 0.0
    for a, b, sign in ((x, x, 1), (y, y, 1), (x, y, -2)):
        kernel = (torch.cdist(a, b).square() / -scale).exp()
        total += sign * (kernel.sum() - kernel.trace()).item()
    return total / (len(x) * (len(x) - 1))


def mmd_centred(x: Tensor, y: Tensor) -> float:
    """`mmd` after each modality is centred on its own mean."""
    return mmd(x - x.mean(0), y - y.mean(0))


def gram_error(x: Tensor, y: Tensor) -> float:
    """Root mean square difference of the off-diagonal cosines of x and of y, computed from (dim, dim) products."""
    n = len(x)
    squared = (x.T @ x).square().sum() + (y.T @ y).square().sum() - 2 * (y.T @ x).square().sum()
    diagonal = (x.square().sum(-1) - y.square().sum(-1)).square().sum()
    return ((squared - diagonal).clamp_min(0) / (n * (n - 1))).sqrt().item()


def gram_spearman(x: Tensor, y: Tensor) -> float:
    """Spearman correlation of the Gram matrices' upper triangles, at most `SAMPLE` clips; 0 for a collapsed cloud."""
    chosen = _subsample(len(x), x.device)
    upper = torch.triu_indices(len(chosen), len(chosen), offset=1, device=x.device).unbind()
    a, b = (_average_ranks((z[chosen] @ z[chosen].T)[upper]) for z in (x, y))
    return torch.cosine_similarity(a - a.mean(), b - b.mean(), dim=0).item()


def cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA ||Yc^T Xc||^2 / (||Xc^T Xc|| ||Yc^T Yc||) (Kornblith et al., ICML 2019); 0 for a collapsed cloud."""
    xc, yc = x - x.mean(0), y - y.mean(0)
    scale = (xc.T @ xc).norm() * (yc.T @ yc).norm()
    return ((yc.T @ xc).square().sum() / scale.clamp_min(TINY)).item()


def knn_overlap(x: Tensor, y: Tensor, *, k: int = NEIGHBOURS) -> float:
    """Fraction of an item's k nearest neighbours in x that are its neighbours in y too (Huh et al., ICML 2024)."""
    chosen, k = _subsample(len(x), x.device), min(k, len(x) - 1)
    common = 0
    for (rows, in_x), (_, in_y) in zip(similarities(x[chosen], x), similarities(y[chosen], y), strict=True):
        near_x, near_y = (_mask(block, chosen[rows]).topk(k).indices for block in (in_x, in_y))
        common += int((near_x[:, :, None] == near_y[:, None, :]).sum())
    return common / (len(chosen) * k)


def dispersion(x: Tensor, y: Tensor) -> float:
    """Total variance of x over that of y: 1 is that of text, 0 is a collapsed cloud."""
    return (x.var(0).sum() / y.var(0).sum().clamp_min(TINY)).item()


METRICS: dict[str, Callable[[Tensor, Tensor], float]] = {
    metric.__name__: metric
    for metric in (
        *(centroid_distance, paired_cosine, unpaired_cosine, rmg, probe_accuracy, knn_mixing, frechet),
        *(frechet_centred, mmd, mmd_centred, gram_error, gram_spearman, cka, knn_overlap, dispersion),
    )
}


def _mask(similarity: Tensor, column: Tensor) -> Tensor:
    return similarity.scatter_(1, column[:, None], float("-inf"))


def _average_ranks(values: Tensor) -> Tensor:
    _, position, count = torch.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum(0) - (count - 1) / 2)[position].to(values.dtype)


def _permutation(n: int, device: torch.device) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(device)


def _subsample(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device) if n <= SAMPLE else _permutation(n, device)[:SAMPLE]


def _unit(x: Tensor, name: str) -> Tensor:
    if x.ndim != 2:
        raise ValueError(f"{name} must have shape (n, dim), got {tuple(x.shape)}")
    x = x.detach().double()
    norm = x.norm(dim=-1, keepdim=True)
    bad = (~norm.isfinite() | (norm == 0)).flatten().nonzero().flatten()
    if len(bad):
        raise ValueError(f"{name} has {len(bad)} rows that are zero, NaN or Inf; the first is row {bad[0].item()}")
    return x / norm


def _captions_of(x: Tensor, y: Tensor, clip: Tensor | None) -> tuple[Tensor, Tensor]:
    """The clip of each caption, checked, and the first caption of each clip, as rows of y."""
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"bridged has dim {x.shape[1]}, text has dim {y.shape[1]}: they must share a space")
    if len(x) < 3:
        raise ValueError(f"the gap needs at least three clips, got {len(x)}")
    row = torch.arange(len(y), device=y.device)
    if clip is None and len(x) != len(y):
        raise ValueError(f"{len(x)} clips and {len(y)} captions: pass clip, the row of bridged of each caption")
    clip = row if clip is None else clip
    if clip.shape != row.shape or clip.is_floating_point():
        raise ValueError(f"clip must hold {len(y)} integers, one a caption, got {clip.dtype} {tuple(clip.shape)}")
    if clip.min() < 0 or clip.max() >= len(x):
        raise ValueError(f"clip runs from {clip.min().item()} to {clip.max().item()}, but there are {len(x)} clips")
    clip = clip.to(y.device, torch.long)
    first = torch.full((len(x),), len(y), device=y.device).scatter_reduce(0, clip, row, "amin")
    if (first == len(y)).any():
        raise ValueError(f"clip {(first == len(y)).nonzero()[0].item()} has no caption; leave it out of bridged")
    return clip, first
