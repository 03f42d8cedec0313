"""Gap metrics against closed forms, scipy and scikit-learn."""

import math

import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.metrics.pairwise import rbf_kernel
from torch import Tensor

from dlink_adapter.measure import gap, retrieval


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


@pytest.fixture
def clouds() -> tuple[Tensor, Tensor]:
    """Correlated pairs, 60 clips of dim 12, an offset apart."""
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(60, 12, generator=generator, dtype=torch.float64)
    audio = text + 0.8 * torch.randn(60, 12, generator=generator, dtype=torch.float64) + torch.arange(12) / 8
    return unit(audio), unit(text)


@pytest.fixture
def captioned(clouds: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The same clips with one to five captions each, in shuffled order."""
    audio, text = clouds
    generator = torch.Generator().manual_seed(4)
    clip = torch.cat([torch.full((1 + i % 5,), i) for i in range(60)])
    clip = clip[torch.randperm(len(clip), generator=generator)]
    return audio, unit(text[clip] + 0.3 * torch.randn(len(clip), 12, generator=generator)), clip


def off_diagonal(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T)[~torch.eye(len(a), dtype=torch.bool)]


def test_names_and_finite_values(clouds):
    result = gap.measure(*clouds, bridged_text=clouds[1])
    directions = {f"{way}{name}" for way in ("", "text_") for name in ("r_at_1", "r_at_5", "r_at_10", "map_at_10")}
    assert set(result) == set(gap.METRICS) | directions | {"output_norm", "text_identity"}
    assert all(isinstance(value, float) and math.isfinite(value) for value in result.values())
    assert result["text_identity"] == pytest.approx(1.0)


def test_a_few_metrics_are_those_of_all(clouds):
    few, every = gap.measure(*clouds, names=gap.HEADLINE), gap.measure(*clouds)
    assert few == {name: every[name] for name in few} and "frechet" not in few
    assert gap.before_and_after(few, few) == gap.before_and_after(every, every)


def test_identical_clouds_have_no_gap(clouds):
    _, text = clouds
    result = gap.measure(text, text)
    for name in ("centroid_distance", "rmg", "frechet", "mmd", "gram_error"):
        assert result[name] == pytest.approx(0, abs=1e-7), name
    for name in ("paired_cosine", "gram_spearman", "cka", "knn_overlap", "dispersion", "r_at_1", "text_map_at_10"):
        assert result[name] == pytest.approx(1), name
    assert result["probe_accuracy"] == pytest.approx(0.5)
    assert result["knn_mixing"] == pytest.approx(0.5)


def test_orthogonal_clouds_are_fully_apart():
    x, y = torch.eye(8)[:4].repeat(5, 1), torch.eye(8)[4:].repeat(5, 1)
    result = gap.measure(x, y)
    assert result["paired_cosine"] == result["unpaired_cosine"] == 0
    assert result["probe_accuracy"] == 1
    assert result["centroid_distance"] == pytest.approx(math.sqrt(2 * 4 / 16))
    # D = 1/2; of 20 * 19 ordered pairs of one modality 20 * 4 are equal, the others orthogonal.
    intra = (1 - 80 / 380) / 2
    assert result["rmg"] == pytest.approx(0.5 / (0.5 + intra))


def test_far_clouds_do_not_mix(clouds):
    _, text = clouds
    offset = torch.full((12,), 5.0)
    assert gap.knn_mixing(unit(text + offset), unit(text - offset)) == 0


def test_one_distribution_mixes_half(clouds):
    generator = torch.Generator().manual_seed(0)
    x, y = (unit(torch.randn(1500, 6, generator=generator)) for _ in range(2))
    assert gap.knn_mixing(x, y) == pytest.approx(0.5, abs=0.02)
    assert gap.probe_accuracy(x, y) == pytest.approx(0.5, abs=0.04)
    assert gap.mmd(x, y) == pytest.approx(0, abs=2e-3)


def test_cosines_and_rmg_by_enumeration(clouds):
    x, y = clouds
    paired, unpaired = (x * y).sum(-1).mean(), off_diagonal(x, y).mean()
    within = ((1 - off_diagonal(x, x)) / 2).mean() / 2 + ((1 - off_diagonal(y, y)) / 2).mean() / 2
    between = (1 - paired) / 2
    assert gap.paired_cosine(x, y) == pytest.approx(paired.item())
    assert gap.unpaired_cosine(x, y) == pytest.approx(unpaired.item())
    assert gap.rmg(x, y) == pytest.approx((between / (between + within)).item())


def test_probe_agrees_with_logistic_regression():
    generator = torch.Generator().manual_seed(5)
    x, y = (torch.randn(2000, 8, generator=generator, dtype=torch.float64) + s * 0.35 for s in (0, 1))
    data, label = torch.cat([x[:1000], y[:1000]]), torch.arange(2000) // 1000
    held_out = torch.cat([x[1000:], y[1000:]])
    oracle = LogisticRegression().fit(data, label).score(held_out, label)
    assert gap.probe_accuracy(x, y) == pytest.approx(oracle, abs=0.02)


@pytest.mark.parametrize("clips", [8, 60])  # fewer and more clips than dimensions
def test_frechet_against_scipy(clouds, clips):
    x, y = (z[:clips] for z in clouds)
    cov = [torch.cov(z.T).numpy() for z in (x, y)]
    expected = cov[0].trace() + cov[1].trace() - 2 * sqrtm(cov[0] @ cov[1]).real.trace()
    assert gap.frechet_centred(x, y) == pytest.approx(expected, abs=1e-6)
    assert gap.frechet(x, y) == pytest.approx(expected + gap.centroid_distance(x, y) ** 2, abs=1e-6)
    assert gap.frechet(x - x.mean(0), y - y.mean(0)) == pytest.approx(gap.frechet_centred(x, y))


def test_mmd_against_scikit_learn(clouds):
    x, y = clouds
    gamma = 1 / (2 * torch.pdist(torch.cat([x, y])).median().item() ** 2)
    kernels = [torch.from_numpy(rbf_kernel(a, b, gamma)).fill_diagonal_(0) for a, b in ((x, x), (y, y), (x, y))]
    expected = (kernels[0] + kernels[1] - 2 * kernels[2]).sum() / (60 * 59)
    assert gap.mmd(x, y) == pytest.approx(expected.item(), abs=1e-12)
    centred = [z - z.mean(0) for z in (x, y)]
    assert gap.mmd_centred(x, y) == gap.mmd(*centred) < gap.mmd(x, y)
    assert gap.mmd(x, y) > 100 * abs(gap.mmd_centred(x, x + 1))


def test_recall_at_one_is_argmax(clouds):
    x, y = clouds
    result = gap.measure(x, y)
    diagonal = torch.arange(60)
    assert result["r_at_1"] == ((x @ y.T).argmax(1) == diagonal).double().mean().item()
    assert result["text_r_at_1"] == ((y @ x.T).argmax(1) == diagonal).double().mean().item()
    assert 0.1 < result["r_at_1"] < 0.95  # neither trivial nor hopeless, so that the comparison says something


def test_collapse_does_not_retrieve(clouds):
    _, y = clouds
    result = gap.measure(y.mean(0).expand(60, -1), y)
    assert result["r_at_1"] == result["text_r_at_1"] == pytest.approx(1 / 60)
    assert result["dispersion"] == pytest.approx(0, abs=1e-12)
    assert result["cka"] == pytest.approx(0, abs=1e-6)
    assert abs(result["gram_spearman"]) < 0.2


def test_retrieval_with_several_captions(captioned):
    x, y, clip = captioned
    result = gap.measure(x, y, clip)
    top = (x @ y.T).argsort(descending=True)[:, :10]
    hits = clip[top] == torch.arange(60)[:, None]
    precision = hits.cumsum(1) / torch.arange(1, 11)
    average = (precision * hits).sum(1) / torch.bincount(clip)
    for k in (1, 5, 10):
        assert result[f"r_at_{k}"] == pytest.approx(hits[:, :k].any(1).double().mean().item())
        right = (y @ x.T).topk(k).indices == clip[:, None]
        assert result[f"text_r_at_{k}"] == pytest.approx(right.any(1).double().mean().item())
    assert result["map_at_10"] == pytest.approx(average.mean().item())


def test_map_agrees_with_scikit_learn_on_a_short_list(clouds):
    x, y = (z[:10] for z in clouds)
    clip = torch.arange(10) // 2
    similarity = x[:5] @ y.T
    expected = [average_precision_score(clip == i, similarity[i]) for i in range(5)]
    assert gap.retrieval(x[:5], y, clip)["map_at_10"] == pytest.approx(sum(expected) / 5)


def test_one_to_one_metrics_use_the_first_caption(captioned):
    x, y, clip = captioned
    first = torch.tensor([(clip == i).nonzero()[0].item() for i in range(60)])
    several, single = gap.measure(x, y, clip), gap.measure(x, y[first])
    assert all(several[name] == pytest.approx(single[name]) for name in gap.METRICS)


def test_topology_by_enumeration(clouds):
    x, y = clouds
    upper = torch.triu_indices(60, 60, 1).unbind()
    gram_x, gram_y = (x @ x.T)[upper], (y @ y.T)[upper]
    assert gap.gram_error(x, y) == pytest.approx((gram_x - gram_y).square().mean().sqrt().item())
    assert gap.gram_spearman(x, y) == pytest.approx(spearmanr(gram_x, gram_y).statistic)
    centre = torch.eye(60, dtype=torch.float64) - 1 / 60
    kx, ky = (centre @ z @ z.T @ centre for z in (x, y))
    assert gap.cka(x, y) == pytest.approx(((kx * ky).sum() / (kx.norm() * ky.norm())).item())
    near = [(z @ z.T).fill_diagonal_(-2).topk(10).indices.tolist() for z in (x, y)]
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(*near, strict=True)]
    assert gap.knn_overlap(x, y) == pytest.approx(sum(shared) / 60)


def test_spread_and_text_identity_by_hand(clouds):
    x, y = clouds
    traces = [torch.cov(z.T).trace().item() for z in (x, y)]
    assert gap.dispersion(x, y) == pytest.approx(traces[0] / traces[1])
    assert gap.measure(x, y, bridged_text=3 * x)["text_identity"] == pytest.approx((x * y).sum(-1).mean().item())


def test_spearman_with_ties():
    x = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1], [0.6, 0.8]], dtype=torch.float64)
    y = x[[1, 0, 4, 2, 3]]
    upper = torch.triu_indices(5, 5, 1).unbind()
    assert gap.gram_spearman(x, y) == pytest.approx(spearmanr((x @ x.T)[upper], (y @ y.T)[upper]).statistic)


def test_a_rotation_leaves_the_topology(clouds):
    x, _ = clouds
    rotation = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    for name, expected in (("gram_error", 0), ("gram_spearman", 1), ("cka", 1), ("dispersion", 1), ("knn_overlap", 1)):
        assert gap.METRICS[name](x, x @ rotation) == pytest.approx(expected, abs=1e-6), name


def test_blocks_do_not_change_the_result(captioned, monkeypatch):
    whole = gap.measure(*captioned)
    monkeypatch.setattr(retrieval, "BLOCK_ELEMENTS", 500)
    assert gap.measure(*captioned) == pytest.approx(whole, abs=1e-12)


def test_subsampling_is_repeatable_and_close(monkeypatch):
    generator = torch.Generator().manual_seed(6)
    y = unit(torch.randn(1200, 8, generator=generator))
    x = unit(y + 0.5 * torch.randn(1200, 8, generator=generator) + 0.3)
    whole = gap.measure(x, y)
    monkeypatch.setattr(gap, "SAMPLE", 600)
    sampled = gap.measure(x, y)
    assert sampled == gap.measure(x, y)
    changed = {name for name in whole if sampled[name] != whole[name]}
    assert changed == {"mmd", "mmd_centred", "gram_spearman", "knn_mixing", "knn_overlap"}
    assert all(sampled[name] == pytest.approx(whole[name], abs=0.03) for name in changed)


def test_scale_and_dtype(clouds):
    x, y = clouds
    expected = gap.measure(x, y)
    scaled = gap.measure(7 * x.float(), 0.1 * y.float())
    assert scaled.pop("output_norm") == pytest.approx(7)
    assert expected.pop("output_norm") == pytest.approx(1)
    assert scaled == pytest.approx(expected, abs=1e-4)
    assert gap.measure(x.bfloat16().requires_grad_(), y.half())["rmg"] == pytest.approx(expected["rmg"], abs=0.01)


def test_bad_input_is_named(clouds):
    x, y = clouds
    nan, zero = x.clone(), y.clone()
    nan[7, 2], zero[5] = math.nan, 0
    for arguments, message in (
        ((nan, y), "bridged has 1 rows .* row 7"),
        ((x, zero), "text has 1 rows .* row 5"),
        ((x, y[:, :8]), "dim 12, text has dim 8"),
        ((x, y[:30]), "60 clips and 30 captions"),
        ((x[0], y), r"shape \(n, dim\), got \(12,\)"),
        ((x[:2], y[:2]), "at least three clips, got 2"),
        ((x, y, torch.arange(60) % 59), "clip 59 has no caption"),
        ((x, y, torch.arange(60) + 1), "runs from 1 to 60"),
        ((x, y, torch.arange(59)), "60 integers"),
        ((x, y, torch.arange(60.0)), "float32"),
    ):
        with pytest.raises(ValueError, match=message):
            gap.measure(*arguments)
