"""What Diffusion-Link learns where text is no linear function of audio, and what noise makes of it.

Text is the absolute value of what is heard: curved, and many sounds have one text. No matrix does anything here.
"""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from dlink_adapter.diffusion_link.config import BridgeConfig
from dlink_adapter.diffusion_link.link import DiffusionLink
from dlink_adapter.registry import new_bridge
from dlink_adapter.training.config import FitConfig

DIM, HEARD, CLIPS = 16, 4, 100


def curved_pairs(clips, seed):
    draw, world = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(99)
    audio_basis, text_basis = (torch.linalg.qr(torch.randn(DIM, DIM, generator=world)).Q[:HEARD] for _ in range(2))
    heard = 2 * torch.rand(clips, HEARD, generator=draw) - 1
    noise = 0.02 * torch.randn(clips, DIM, generator=draw)
    return heard @ audio_basis + noise + 0.3 * audio_basis.sum(0), (3 * heard.abs() - 1.5) @ text_basis


@pytest.fixture(scope="module")
def new():
    """Pairs that nothing was fitted on."""
    audio, text = curved_pairs(CLIPS, 1)
    return audio, normalize(text, dim=-1)


@pytest.fixture(scope="module")
def fitted():
    link = DiffusionLink(BridgeConfig(DIM, time_dim=32, dropout=0.0, samples=8, mlp_ratio=4.0))
    link.fit(curved_pairs(2000, 0), config=FitConfig(steps=600, lr=3e-3), progress=False)
    return link


def scores(bridge, new):
    """Mean paired cosine and R@1 on new pairs."""
    audio, text = new
    cosines = bridge.map_rows(audio) @ text.T
    return cosines.diagonal().mean().item(), (cosines.argmax(-1) == torch.arange(CLIPS)).float().mean().item()


def at(link, timestep):
    link.config = replace(link.config, timestep=timestep, cosine=None)
    return link


def test_it_learns_what_no_matrix_can(fitted, new):
    ridge = new_bridge("ridge", DIM)
    ridge.fit(curved_pairs(2000, 0))
    (cosine, recall), (linear_cosine, linear_recall) = scores(at(fitted, 50), new), scores(ridge, new)
    assert cosine > 0.75 > 0.3 > linear_cosine and recall > 0.25 > 0.1 > linear_recall


def test_some_noise_does_little_and_full_depth_destroys(fitted, new):
    recalls = {timestep: scores(at(fitted, timestep), new)[1] for timestep in (0, 50, 100, 600, 1000)}
    assert recalls[0] > 0.25
    assert recalls[50] == pytest.approx(recalls[0], abs=0.1) and recalls[100] == pytest.approx(recalls[0], abs=0.1)
    assert recalls[600] < 0.6 * recalls[0]
    assert recalls[1000] <= 3 / CLIPS  # chance is one in CLIPS


def test_without_the_weights_of_the_denoiser_the_output_is_different_and_worse(fitted, new):
    link = DiffusionLink(fitted.config)
    link.load_state_dict(fitted.state_dict())
    with torch.no_grad():
        for parameter in link.denoiser.parameters():
            parameter.zero_()
    assert not torch.allclose(at(link.eval(), 50)(new[0]), at(fitted, 50)(new[0]), atol=0.1)
    assert scores(link, new)[0] < 0.3 < 0.7 < scores(fitted, new)[0]


def test_captions_stay_what_they_are(fitted, new):
    _audio, text = new
    bridged = at(fitted, 50).map_rows(text, "text")
    assert (bridged * text).sum(-1).mean() > 0.9
    assert ((bridged @ text.T).argmax(-1) == torch.arange(CLIPS)).float().mean() > 0.6


def test_the_loss_without_the_topology_term_leaves_the_geometry_further_off(new):
    """The weights reach the training: with a term left out, that term ends higher."""
    ends = {}
    for weight in (0.0, 10.0):
        link = DiffusionLink(BridgeConfig(DIM, time_dim=32, dropout=0.0, topology_weight=weight))
        found = link.fit(curved_pairs(1000, 0), config=FitConfig(steps=300, lr=3e-3), progress=False)
        ends[weight] = found["losses"]["topology"]
    assert ends[10.0] < 0.8 * ends[0.0]
