"""Ridge against scikit-learn, and its choice of strength against leaving every pair out by hand."""

import pytest
import torch
from sklearn.linear_model import Ridge as Reference
from torch.nn.functional import normalize

from dlink_adapter.baselines.ridge import Ridge
from dlink_adapter.bridge.press import STRENGTHS
from dlink_adapter.data.embeddings import PairedEmbeddings


def fitted(audio, text):
    ridge = Ridge(Ridge.config_class(dim=audio.shape[1]))
    ridge.learn(PairedEmbeddings.from_tensors(audio, text), None)
    a, t = ridge.space.encode(audio.double()), ridge.space.encode(text.double(), "text")
    return ridge, a, t


def penalty(a, strength):
    """What the strength means: relative to the mean eigenvalue of A^T A, which is its mean diagonal."""
    return strength * a.square().sum().item() / a.shape[1]


def noisy_pairs(n, dim, noise, seed=0):
    draw = torch.Generator().manual_seed(seed)
    text = torch.randn(n, dim, generator=draw)
    return text @ torch.randn(dim, dim, generator=draw) + noise * torch.randn(n, dim, generator=draw), text


@pytest.mark.parametrize(("n", "dim"), [(200, 8), (30, 8), (10, 16)])
def test_the_weight_is_that_of_scikit_learn(n, dim):
    ridge, a, t = fitted(*noisy_pairs(n, dim, 1.0))
    reference = Reference(alpha=penalty(a, ridge.metadata["strength"]), fit_intercept=False).fit(a.numpy(), t.numpy())
    torch.testing.assert_close(ridge.weight.double(), torch.from_numpy(reference.coef_.T), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n", "dim", "noise"), [(20, 4, 0.1), (20, 4, 2.0), (20, 4, 8.0), (6, 10, 1.0)])
def test_the_strength_is_the_best_when_each_pair_is_left_out(n, dim, noise):
    ridge, a, t = fitted(*noisy_pairs(n, dim, noise))

    def error(strength):
        total = 0.0
        for out in range(n):
            rest = [row for row in range(n) if row != out]
            fit = Reference(alpha=penalty(a, strength), fit_intercept=False).fit(a[rest].numpy(), t[rest].numpy())
            total += ((t[out].numpy() - fit.predict(a[[out]].numpy())[0]) ** 2).sum()
        return total

    errors = {strength: error(strength) for strength in STRENGTHS}
    assert ridge.metadata["strength"] == min(errors, key=errors.__getitem__)


def test_noisier_pairs_are_shrunk_more():
    strengths = [fitted(*noisy_pairs(100, 8, noise))[0].metadata["strength"] for noise in (0.01, 3.0, 30.0)]
    assert strengths == sorted(strengths) and strengths[0] < strengths[-1]


def test_it_undoes_what_is_linear(pairs):
    audio, text = pairs
    ridge, *_ = fitted(audio[:500], text[:500])
    cosine = (ridge(audio[500:]) * normalize(text[500:], dim=-1)).sum(-1).mean()
    assert cosine > 0.9
