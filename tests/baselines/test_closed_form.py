"""The raw swap and the mean shift, by hand, and what every closed-form bridge refuses."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from dlink_adapter.attachment.attach import attach
from dlink_adapter.baselines.kernel_ridge import KernelRidge
from dlink_adapter.baselines.mean_shift import MeanShift
from dlink_adapter.baselines.memory import Memory
from dlink_adapter.baselines.pls import PLS
from dlink_adapter.baselines.procrustes import Procrustes
from dlink_adapter.baselines.raw import Raw
from dlink_adapter.baselines.realign import ReAlign
from dlink_adapter.baselines.ridge import Ridge
from dlink_adapter.bridge.config import DimConfig
from dlink_adapter.data.embeddings import PairedEmbeddings

KINDS = [MeanShift, ReAlign, Procrustes, PLS, Ridge, KernelRidge, Memory]


def learn(bridge, audio, text, clip=None):
    bridge.learn(PairedEmbeddings.from_tensors(audio, text, clip=clip), None)


def test_identity_is_the_unit_normed_input_and_needs_no_fit():
    x = torch.randn(5, 8)
    bridge = Raw(DimConfig(8))
    assert bridge.is_fitted and torch.equal(bridge(x), normalize(x, dim=-1))


def test_mean_shift_by_hand(pairs):
    audio, text = (normalize(rows, dim=-1) for rows in pairs)
    bridge = MeanShift(DimConfig(32))
    learn(bridge, *pairs)
    torch.testing.assert_close(bridge(pairs[0]), normalize(audio - audio.mean(0) + text.mean(0), dim=-1))


@pytest.mark.parametrize("kind", [Raw, *KINDS])
def test_text_is_text_like_already(kind, pairs):
    bridge = kind(DimConfig(32))
    learn(bridge, *(rows[:100] for rows in pairs))
    torch.testing.assert_close(bridge(pairs[1], modality="text"), normalize(pairs[1], dim=-1))


@pytest.mark.parametrize("kind", KINDS)
def test_it_brings_new_pairs_closer(kind, pairs):
    audio, text = pairs
    bridge = kind(DimConfig(32))
    learn(bridge, audio[:500], text[:500])
    before, after = (
        1 - (x * normalize(text[500:], dim=-1)).sum(-1).mean() for x in (normalize(audio[500:]), bridge(audio[500:]))
    )
    assert after < 0.8 * before


@pytest.mark.parametrize("kind", KINDS)
def test_captions_of_a_clip_count_as_one_clip(kind, pairs):
    """With the same caption said twice there is nothing new to learn, and nothing to give the answer away."""
    audio, text = (rows[:60] for rows in pairs)
    once, twice = kind(DimConfig(32)), kind(DimConfig(32))
    learn(once, audio, text)
    learn(twice, audio, text.repeat_interleave(2, 0), clip=torch.arange(60).repeat_interleave(2))
    assert once.metadata == twice.metadata
    torch.testing.assert_close(once(pairs[0]), twice(pairs[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [Memory, KernelRidge])
def test_in_a_host_it_takes_the_size_of_what_is_loaded(kind, pairs):
    hosts = []
    for clips in (40, 60):
        bridge = kind(DimConfig(32))
        learn(bridge, *(rows[:clips] for rows in pairs))
        hosts.append(nn.Sequential(OrderedDict(projector=nn.Linear(32, 4))))
        attach(hosts[-1], bridge, target="projector")
    hosts[0].load_state_dict(hosts[1].state_dict())
    assert torch.equal(hosts[0](pairs[0]), hosts[1](pairs[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_unfitted(kind):
    bridge = kind(DimConfig(8))
    with pytest.raises(ValueError, match=f"this {kind.__name__} is not fitted"):
        bridge(torch.ones(2, 8))


@pytest.mark.parametrize("kind", [Raw, *KINDS])
def test_what_is_not_a_set_of_pairs(kind):
    for audio, text, message in (
        ((4, 7), (4, 7), "the bridge has dim 8, the pairs have dim 7"),
        ((4, 8), (4, 7), "of one dim and dtype"),
        ((8,), (8,), "of one dim and dtype"),
    ):
        with pytest.raises(ValueError, match=message):
            kind(DimConfig(8)).fit((torch.ones(audio), torch.ones(text)))


@pytest.mark.parametrize("dim", [0, -1, 2.0, None])
def test_dim_must_be_a_positive_int(dim):
    with pytest.raises(ValueError, match=f"dim is {dim!r}"):
        DimConfig(dim)
