"""Partial least squares against scikit-learn's singular value decomposition, and the number of directions."""

import torch
from sklearn.cross_decomposition import PLSSVD
from sklearn.linear_model import LinearRegression

from dlink_adapter.baselines.pls import PLS, _weights
from dlink_adapter.data.embeddings import PairedEmbeddings


def test_the_map_is_a_regression_between_the_scores_of_scikit_learn(pairs):
    a, t = (rows.double() - rows.double().mean(0) for rows in pairs)
    reference = PLSSVD(n_components=8, scale=False).fit(a.numpy(), t.numpy())
    of_audio, of_text = reference.transform(a.numpy(), t.numpy())
    scores = LinearRegression(fit_intercept=False).fit(of_audio, of_text).predict(of_audio)
    expected = torch.from_numpy(scores @ reference.y_weights_.T)
    torch.testing.assert_close(a @ _weights(a, t, (8,))[8], expected, rtol=1e-5, atol=1e-6)


def test_with_every_direction_it_is_least_squares(pairs):
    a, t = (rows.double() for rows in pairs)
    torch.testing.assert_close(_weights(a, t, (32,))[32], torch.linalg.lstsq(a, t).solution, rtol=1e-6, atol=1e-6)


def test_the_number_of_directions_is_that_of_the_signal():
    draw = torch.Generator().manual_seed(0)
    shared = torch.randn(300, 16, generator=draw) @ torch.randn(16, 64, generator=draw)
    audio, text = (shared + 2 * torch.randn(300, 64, generator=draw) for _ in range(2))
    bridge = PLS(PLS.config_class(64))
    bridge.learn(PairedEmbeddings.from_tensors(audio, text), None)
    assert bridge.metadata["directions"] == 16


def test_fewer_clips_than_directions():
    bridge = PLS(PLS.config_class(64))
    bridge.learn(PairedEmbeddings.from_tensors(torch.randn(6, 64), torch.randn(6, 64)), None)
    assert bridge(torch.randn(3, 64)).isfinite().all()
