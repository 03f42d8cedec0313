"""ReAlign: the moments it promises to match."""

import torch
from torch.nn.functional import normalize

from dlink_adapter.baselines.realign import ReAlign
from dlink_adapter.data.embeddings import PairedEmbeddings


def fitted(audio, text):
    bridge = ReAlign(ReAlign.config_class(audio.shape[1]))
    bridge.learn(PairedEmbeddings.from_tensors(audio, text), None)
    return bridge


def test_step_by_step(pairs):
    audio, text = (normalize(rows.double(), dim=-1) for rows in pairs)
    spread = [(rows - rows.mean(0)).square().sum(-1).mean() for rows in (audio, text)]
    moved = normalize((audio - audio.mean(0)) * (spread[1] / spread[0]).sqrt() + text.mean(0), dim=-1)
    expected = normalize(moved - moved.mean(0) + text.mean(0), dim=-1)
    torch.testing.assert_close(fitted(*pairs)(pairs[0]).double(), expected, rtol=1e-4, atol=1e-5)


def test_pairs_do_not_matter(pairs):
    audio, text = pairs
    torch.testing.assert_close(fitted(audio, text)(audio), fitted(audio, text.flip(0))(audio))
