"""The losses in closed form, and what they must not care about."""

import pytest
import torch
from torch.nn.functional import cosine_similarity

from dlink_adapter.diffusion_link.config import NetworkConfig
from dlink_adapter.diffusion_link.losses import denoising_loss, link_loss, topology_loss

LOSSES = [denoising_loss, topology_loss]


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


def test_the_loss_is_the_weighted_sum_of_its_three_terms(sets):
    audio, text = sets
    from_text = audio.roll(1, 0)
    parts = link_loss(audio, from_text, text, NetworkConfig(8, text_weight=0.5, topology_weight=3.0))
    terms = [denoising_loss(audio, text), denoising_loss(from_text, text), topology_loss(audio, text)]
    assert list(parts) == ["loss", "denoise_audio", "denoise_text", "topology"]
    torch.testing.assert_close(list(parts.values())[1:], terms)
    torch.testing.assert_close(parts["loss"], terms[0] + 0.5 * terms[1] + 3 * terms[2])


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
