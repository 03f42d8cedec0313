"""The losses in closed form, and what they must not care about."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from dlink_adapter.diffusion_link.losses import CONTRASTIVE_SCALE, contrastive_loss, denoising_loss, topology_loss

LOSSES = [denoising_loss, topology_loss, contrastive_loss]


@pytest.fixture
def sets():
    draw = torch.Generator().manual_seed(0)
    return torch.randn(12, 8, generator=draw), torch.randn(12, 8, generator=draw)


def test_denoising_is_the_mean_squared_error(sets):
    predicted, text = sets
    assert denoising_loss(text, text) == 0
    assert denoising_loss(predicted, text).item() == pytest.approx(((predicted - text) ** 2).sum().item() / (12 * 8))


def test_topology_by_hand(sets):
    predicted, text = sets
    rows = range(12)
    squares = [
        (cosine_similarity(predicted[i], predicted[j], dim=0) - cosine_similarity(text[i], text[j], dim=0)) ** 2
        for i in rows
        for j in rows
    ]
    assert topology_loss(predicted, text).item() == pytest.approx(torch.stack(squares).mean().item(), rel=1e-5)


def test_topology_sees_neither_rotation_nor_length(sets):
    predicted, text = sets
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
    assert topology_loss(text, text) == 0
    assert topology_loss(text @ rotation, text).item() < 1e-10
    torch.testing.assert_close(topology_loss(predicted @ rotation * 3, text), topology_loss(predicted, text))


def test_contrastive_by_hand(sets):
    predicted, text = sets
    logits = CONTRASTIVE_SCALE * cosine_similarity(predicted.unsqueeze(1), text.unsqueeze(0), dim=-1)
    torch.testing.assert_close(contrastive_loss(predicted, text), cross_entropy(logits, torch.arange(12)))
    assert contrastive_loss(text, text) < contrastive_loss(text.roll(1, 0), text)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite(loss, sets):
    for predicted in (sets[0].clone(), sets[1].clone(), torch.zeros(12, 8)):
        loss(predicted.requires_grad_(), sets[1]).backward()
        assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing(loss, sets):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(found := loss(*sets), loss(*sets)) and found.dtype == torch.float32
    assert torch.equal(found, loss(*sets))
