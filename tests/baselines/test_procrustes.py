"""Procrustes against scipy, and on pairs that are a rotation apart."""

import torch
from scipy.linalg import orthogonal_procrustes
from torch.nn.functional import normalize

from dlink_adapter.baselines.procrustes import Procrustes
from dlink_adapter.data.embeddings import PairedEmbeddings


def test_the_rotation_is_that_of_scipy(pairs):
    bridge = Procrustes(Procrustes.config_class(32))
    bridge.learn(PairedEmbeddings.from_tensors(*pairs), None)
    a, t = bridge.clip_coordinates(PairedEmbeddings.from_tensors(*pairs))
    rotation, _ = orthogonal_procrustes(a.numpy(), t.numpy())
    torch.testing.assert_close(bridge.weight.double(), torch.from_numpy(rotation), rtol=1e-4, atol=1e-5)


def test_it_undoes_a_rotation_exactly():
    draw = torch.Generator().manual_seed(0)
    text = torch.randn(200, 8, generator=draw)
    text = torch.cat([text, -text])  # of mean zero, so that centring commutes with the rotation
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=draw)).Q
    bridge = Procrustes(Procrustes.config_class(8))
    bridge.learn(PairedEmbeddings.from_tensors(text @ rotation, text), None)
    torch.testing.assert_close(bridge(text @ rotation), normalize(text, dim=-1), rtol=1e-4, atol=1e-5)
