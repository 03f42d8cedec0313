"""The raw swap and the mean shift, by hand, and what every closed-form bridge refuses."""

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.baselines.closed_form import ClosedFormConfig
from dlink_adapter.baselines.identity import Identity
from dlink_adapter.baselines.mean_shift import MeanShift
from dlink_adapter.baselines.ridge import Ridge


def test_identity_is_the_unit_normed_input_and_needs_no_fit():
    x = torch.randn(5, 8)
    bridge = Identity(ClosedFormConfig(8))
    assert bridge.is_fitted and torch.equal(bridge(x), normalize(x, dim=-1))


def test_mean_shift_by_hand(pairs):
    audio, text = (normalize(rows, dim=-1) for rows in pairs)
    bridge = MeanShift(ClosedFormConfig(32))
    bridge.fit(*pairs)
    torch.testing.assert_close(bridge(pairs[0]), normalize(audio - audio.mean(0) + text.mean(0), dim=-1))
    torch.testing.assert_close(bridge(pairs[1], modality="text"), text)


@pytest.mark.parametrize("kind", [MeanShift, Ridge])
def test_unfitted(kind):
    bridge = kind(ClosedFormConfig(8))
    with pytest.raises(ValueError, match=f"this {kind.__name__} is not fitted"):
        bridge(torch.ones(2, 8))


@pytest.mark.parametrize("kind", [Identity, MeanShift, Ridge])
def test_what_is_not_a_set_of_pairs(kind):
    bridge = kind(ClosedFormConfig(8))
    for audio, text in (((4, 8), (3, 8)), ((4, 7), (4, 7)), ((8,), (8,))):
        with pytest.raises(ValueError, match=r"expected pairs \(n, 8\)"):
            bridge.fit(torch.ones(audio), torch.ones(text))


@pytest.mark.parametrize("dim", [0, -1, 2.0, None])
def test_dim_must_be_a_positive_int(dim):
    with pytest.raises(ValueError, match=f"dim is {dim!r}"):
        ClosedFormConfig(dim)
