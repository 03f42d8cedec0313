"""Kernel ridge against scikit-learn, with every clip a landmark and with few."""

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge as Reference
from torch.nn.functional import normalize

from dlink_adapter.baselines import kernel_ridge
from dlink_adapter.baselines.kernel_ridge import KernelRidge, kernel
from dlink_adapter.baselines.ridge import Ridge
from dlink_adapter.data.embeddings import PairedEmbeddings


def fitted(audio, text, kind=KernelRidge):
    bridge = kind(kind.config_class(audio.shape[1]))
    bridge.learn(PairedEmbeddings.from_tensors(audio, text), None)
    return bridge


def curved_pairs(n=400, dim=8, seed=0):
    """Text that is no linear function of its audio."""
    draw = torch.Generator().manual_seed(seed)
    audio = normalize(torch.randn(n, dim, generator=draw), dim=-1)
    return audio, normalize(audio.square() @ torch.randn(dim, dim, generator=draw) + audio, dim=-1)


def test_it_is_the_kernel_ridge_of_scikit_learn(pairs):
    audio, text = (rows[:100] for rows in pairs)
    bridge = fitted(audio, text)
    chosen = bridge.metadata
    a, t = bridge.clip_coordinates(PairedEmbeddings.from_tensors(audio, text))
    unit = normalize(a, dim=-1).numpy()
    spread = torch.linalg.eigvalsh(kernel(a, normalize(a, dim=-1), chosen["sharpness"])).mean().item()
    sharp = chosen["sharpness"]
    reference = Reference(alpha=chosen["strength"] * spread, kernel="precomputed")
    anchor = bridge.anchor.double()
    reference.fit(np.expm1(sharp * unit @ unit.T) / np.expm1(sharp), (t - anchor * a).numpy())
    new = bridge.space.encode(pairs[0][100:].double())
    similar = np.expm1(sharp * normalize(new, dim=-1).numpy() @ unit.T) / np.expm1(sharp)
    predicted = torch.from_numpy(reference.predict(similar))
    expected = bridge.space.decode(predicted + anchor * new)
    torch.testing.assert_close(bridge(pairs[0][100:]).double(), expected, rtol=1e-4, atol=1e-4)


def test_it_learns_what_no_matrix_can():
    audio, text = curved_pairs()
    linear, curved = (
        1 - (fitted(audio[:300], text[:300], kind)(audio[300:]) * text[300:]).sum(-1).mean()
        for kind in (Ridge, KernelRidge)
    )
    assert curved < linear / 2


def test_few_landmarks_are_close_to_all(pairs, monkeypatch):
    audio, text = pairs
    exact = fitted(audio[:300], text[:300])
    monkeypatch.setattr(kernel_ridge, "SAMPLE", 150)
    monkeypatch.setattr(kernel_ridge, "BLOCK_ROWS", 64)
    monkeypatch.setattr(kernel_ridge, "LANDMARKS", 200)
    few = fitted(audio[:300], text[:300])
    assert few.training_rows == 200 and exact.training_rows == 300
    assert (exact(audio[500:]) * few(audio[500:])).sum(-1).min() > 0.99


@pytest.mark.parametrize(("rotate", "low", "high"), [(False, 0.5, 1.1), (True, -0.2, 0.2)])
def test_it_keeps_of_the_input_what_is_aligned_already(rotate, low, high):
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(60, 32, generator=draw)
    turned = text @ torch.linalg.qr(torch.randn(32, 32, generator=draw)).Q if rotate else text
    bridge = fitted(turned + 0.3 * torch.randn(60, 32, generator=draw), text)
    assert low < bridge.anchor < high
