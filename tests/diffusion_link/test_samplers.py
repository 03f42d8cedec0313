"""Samplers against the schedulers of diffusers, and against a network that knows the answer."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from dlink_adapter.diffusion_link.samplers import SAMPLERS, ddim, ddpm, ladder
from dlink_adapter.diffusion_link.schedules import alpha_bars

SETTINGS = {
    "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2",
    "clip_sample": False,
    "prediction_type": "sample",
}
LEVELS = alpha_bars("cosine", 100)


def network(x, level):
    """A reconstruction that depends on what it is shown and on the level."""
    return torch.tanh(x.flip(-1)) + level


def noised(seed=0):
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 100])
def test_ddim_is_that_of_diffusers(steps):
    scheduler = DDIMScheduler(**SETTINGS, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    x = noised()
    for t in scheduler.timesteps:  # their step t is our t + 1: ours counts the clean embedding as 0
        x = scheduler.step(network(x, LEVELS[t + 1]), t, x).prev_sample
    torch.testing.assert_close(ddim(network, noised(), ladder(LEVELS, 100, steps)), x, rtol=1e-4, atol=1e-4)


def test_ddpm_is_that_of_diffusers():
    scheduler = DDPMScheduler(**SETTINGS)
    x, draw = noised(), torch.Generator().manual_seed(7)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, LEVELS[t + 1]), t, x, generator=draw).prev_sample
    ours = ddpm(network, noised(), ladder(LEVELS, 100, 100), torch.Generator().manual_seed(7))
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 3, 60])
def test_a_perfect_network_is_followed_to_its_answer(name, steps):
    truth = noised(1)
    found = SAMPLERS[name](lambda x, level: truth, noised(), ladder(LEVELS, 60, steps), None)
    torch.testing.assert_close(found, truth)


def test_ddpm_arrives_with_the_posterior_spread():
    start, middle = LEVELS[80], LEVELS[30]
    draw = torch.Generator().manual_seed(0)
    x = ddpm(lambda x, level: torch.zeros_like(x), torch.zeros(200_000), [start, middle], draw)
    expected = (1 - middle) / (1 - start) * (1 - start / middle)  # Ho et al., 2020, eq. 7
    assert x.var().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_input_is_left_alone_and_the_dtype_kept(name):
    for dtype in (torch.float32, torch.float64):
        x = noised().to(dtype)
        before = x.clone()
        assert SAMPLERS[name](network, x, ladder(LEVELS, 50, 4), None).dtype == dtype
        assert torch.equal(x, before)


def test_ladder():
    levels = [1.0, 0.8, 0.6, 0.4, 0.2]
    assert ladder(levels, 4, 2) == [0.2, 0.6, 1.0]
    assert ladder(levels, 3, 1) == [0.4, 1.0]
    assert ladder(levels, 2, 9) == [0.6, 0.8, 1.0]  # no more rungs than there are
    assert ladder(levels, 0, 3) == [1.0]
    assert len(set(ladder(LEVELS, 97, 13))) == 14
