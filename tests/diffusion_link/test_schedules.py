"""Noise schedules against those of diffusers and against what any schedule is."""

import math
from itertools import pairwise

import pytest
import torch
from diffusers import DDPMScheduler

from dlink_adapter.diffusion_link.schedules import SCHEDULES, alpha_bars, timestep_of_cosine


@pytest.mark.parametrize(("ours", "theirs"), [("cosine", "squaredcos_cap_v2"), ("linear", "linear")])
def test_diffusers_has_the_same_levels(ours, theirs):
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule=theirs, beta_start=1e-4, beta_end=0.02)
    levels = torch.tensor(alpha_bars(ours, 1000)[1:], dtype=torch.float64)
    torch.testing.assert_close(levels, scheduler.alphas_cumprod.double(), rtol=2e-4, atol=1e-7)


def test_sigmoid_is_that_of_its_paper():
    def level(t):
        return torch.sigmoid(torch.tensor(-(6 * t - 3), dtype=torch.float64)).item()

    expected = [(level(t / 100) - level(1)) / (level(0) - level(1)) for t in range(100)]
    assert alpha_bars("sigmoid", 100)[:-1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("timesteps", [1, 2, 10, 1000, 4000])
def test_levels_fall_from_one_and_stay_above_zero(name, timesteps):
    levels = alpha_bars(name, timesteps)
    assert len(levels) == timesteps + 1 and levels[0] == 1.0
    assert all(type(level) is float for level in levels)
    assert all(after < before for before, after in pairwise(levels)) and levels[-1] > 0


@pytest.mark.parametrize("name", ["cosine", "sigmoid"])
def test_levels_do_not_depend_on_the_number_of_steps(name):
    coarse, fine = alpha_bars(name, 50), alpha_bars(name, 1000)
    assert coarse[:-1] == pytest.approx(fine[::20][:-1], abs=1e-9)


def test_linear_ends_equally_noisy_whatever_the_number_of_steps():
    assert math.log(alpha_bars("linear", 250)[-1]) == pytest.approx(math.log(alpha_bars("linear", 1000)[-1]), rel=0.05)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_cosine_is_the_first_timestep_that_reaches_it(name):
    levels = alpha_bars(name, 1000)
    for cosine in (0.999, 0.9, 0.5, 0.1):
        t = timestep_of_cosine(levels, cosine)
        assert math.sqrt(levels[t]) <= cosine < math.sqrt(levels[t - 1])
    assert timestep_of_cosine(levels, math.sqrt(levels[300])) == 300
    assert timestep_of_cosine(levels, 1.0) == 0
    assert timestep_of_cosine(levels, 1e-9) == 1000
