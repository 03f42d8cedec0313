"""`choose_bridge` in worlds where it is known which method should be kept."""

import pytest
import torch

from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.registry import new_bridge
from dlink_adapter.training.choice import _decide, _scores, choose_bridge
from dlink_adapter.training.config import FitConfig

FEW = FitConfig(steps=20, holdout=0.25)


@pytest.fixture(scope="module")
def rotated(pairs):
    """Audio is text in other axes: a linear map reads it, and a shift of the mean does not."""
    return PairedEmbeddings.from_tensors(*pairs)


def test_where_a_rotation_is_needed_ridge_is_kept(rotated):
    choice = choose_bridge(rotated, candidates=("mean_shift", "ridge"), config=FEW, progress=False)
    assert choice.bridge.name == "ridge" and choice.bridge.is_fitted
    of_ridge, of_shift = (choice.measured[name] for name in ("ridge", "mean_shift"))
    assert of_ridge["r_at_1"] > 0.9 > 0.2 > of_shift["r_at_1"] and of_ridge["score"] > 1.7 > 1 > of_shift["score"]
    assert choice.reason in choice.table() and "ridge" in choice.reason


def test_a_network_that_hardly_learned_is_not_kept(rotated):
    choice = choose_bridge(rotated, candidates=("ridge", "diffusion_link"), config=FEW, progress=False)
    assert choice.bridge.name == "ridge"


def test_the_score_is_centred_cosine_and_reciprocal_rank():
    """Another caption is nearer to the first row, and none to the second; the training captions' mean is zero."""
    text, bridged = torch.eye(4)[:2], torch.tensor([[0.6, 0.8, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])
    others = torch.tensor([[0.0, 0.0, 2.0, 0.0], [0.0, 0.0, -3.0, 0.0]])
    torch.testing.assert_close(_scores(bridged, text, others), torch.tensor([0.6 + 1 / 2, 1 + 1]))
    away = others + torch.tensor([0.0, 0.0, 0.0, 100.0])  # a mean that all texts have in common is taken out
    centred = torch.cosine_similarity(bridged[0] - torch.eye(4)[3], text[0] - torch.eye(4)[3], dim=0)
    torch.testing.assert_close(_scores(bridged, text, away)[0], centred + 1 / 2, atol=1e-3, rtol=0)


def test_held_out_pairs_may_be_given(rotated, tmp_path):
    train, val = rotated.split((0.8, 0.2))
    choice = choose_bridge(train, val=val, candidates=("raw", "ridge"), config=FEW, out=tmp_path, progress=False)
    torch.testing.assert_close(choice.bridge.map_rows(val.audio), choice.bridge(val.audio))
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "ridge"}


@pytest.mark.parametrize(
    ("ahead", "kept", "reason"),
    [
        (0.5, "diffusion_link", "0.500 ± 0.100 ahead of ridge"),
        (0.05, "ridge", "diffusion_link is ahead by 0.050 ± 0.100, no more than one standard error"),
        (-0.5, "ridge", "ridge: the highest score"),
    ],
)
def test_a_network_has_to_be_ahead_by_more_than_a_standard_error(ahead, kept, reason):
    bridges = {name: new_bridge(name, 4) for name in ("raw", "ridge", "diffusion_link")}
    apart = torch.tensor([-1.0, 1.0]).repeat(50)
    apart = apart / apart.std()  # of a standard error of 0.1
    base = torch.zeros(100)
    name, why = _decide({"raw": base - 5, "ridge": base, "diffusion_link": base + ahead + apart}, bridges)
    assert name == kept and reason in why


def test_without_a_method_that_has_no_network_the_best_is_kept():
    bridges = {name: new_bridge(name, 4) for name in ("regression", "diffusion_link")}
    assert _decide({"regression": torch.ones(3), "diffusion_link": torch.zeros(3)}, bridges)[0] == "regression"
