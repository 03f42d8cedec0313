"""Confidence where it is known which captions are right and which sounds are strange."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter import PairedEmbeddings
from dlink_adapter.captioner.candidates import Candidates
from dlink_adapter.captioner.confidence import Confidence

CLIPS, DIM = 200, 16


@pytest.fixture
def judged():
    """Clips with two references each, of which every other one is captioned wrongly, and strange sounds."""
    draw = torch.Generator().manual_seed(0)
    heard, other, noise = normalize(torch.randn(3, CLIPS, DIM, generator=draw), dim=-1)
    right = torch.arange(CLIPS) % 2 == 0
    said = normalize(torch.where(right[:, None], heard, other) + 0.2 * noise, dim=-1)
    references = normalize(heard.repeat_interleave(2, 0) + 0.1 * torch.randn(2 * CLIPS, DIM, generator=draw), dim=-1)
    pairs = PairedEmbeddings.from_tensors(heard + 1, references, clip=torch.arange(CLIPS).repeat_interleave(2))
    candidates = Candidates([["a caption"]] * CLIPS, heard, -torch.rand(CLIPS, 1, generator=draw), said[:, None])
    return pairs, candidates, right, torch.randn(60, DIM, generator=draw) - 1


def test_right_captions_have_a_higher_one_than_wrong_and_strange_ones(judged):
    pairs, candidates, right, strange = judged
    confidence = Confidence(DIM)
    share = confidence.fit(pairs, candidates, pairs.audio, strange)
    found = confidence(pairs.audio, candidates)[:, 0]
    assert 0.4 < share < 0.6
    assert found.min() >= 0 and found.max() <= 1
    assert found[right].mean() > 0.9 and found[~right].mean() < 0.1
    of_right = (part[right][:60] for part in (candidates.heard, candidates.log_likelihood, candidates.embedding))
    assert confidence(strange, Candidates([], *of_right)).max() < 0.1  # whatever is said of them


def test_it_is_calibrated(judged):
    """The mean confidence is the share that is right, as in any logistic regression."""
    pairs, candidates, _, strange = judged
    confidence = Confidence(DIM)
    share = confidence.fit(pairs, candidates, pairs.audio, strange)
    assert confidence(pairs.audio, candidates).mean() == pytest.approx(share, abs=0.05)


def test_it_comes_back_from_its_state_dict(judged):
    pairs, candidates, _, strange = judged
    confidence, loaded = Confidence(DIM), Confidence(DIM)
    confidence.fit(pairs, candidates, pairs.audio, strange)
    loaded.load_state_dict(confidence.state_dict())
    assert torch.equal(loaded(pairs.audio, candidates), confidence(pairs.audio, candidates))


def test_where_all_captions_are_right_or_none_it_is_high_or_low(judged):
    pairs, candidates, _, strange = judged
    for said, expected in ((candidates.heard, 1), (candidates.heard.roll(1, 0), 0)):
        judged_alike = Candidates(candidates.captions, candidates.heard, candidates.log_likelihood, said[:, None])
        confidence = Confidence(DIM)
        assert confidence.fit(pairs, judged_alike, pairs.audio, strange) == expected
        assert (confidence(pairs.audio, judged_alike) - expected).abs().mean() < 0.05
