"""The denoiser: what it starts as, what it is told, and what it can learn."""

import pytest
import torch

from dlink_adapter.diffusion_link.config import NetworkConfig
from dlink_adapter.diffusion_link.network import Denoiser, NoiseLevelEmbedding, ResidualMLP
from dlink_adapter.diffusion_link.schedules import alpha_bars


def denoiser(**settings) -> Denoiser:
    torch.manual_seed(0)
    return Denoiser(NetworkConfig(8, **{"time_dim": 16, "dropout": 0.0, **settings}))


def test_it_has_three_blocks_of_the_size_asked_for():
    network = denoiser(mlp_ratio=1.5)
    assert len(network.blocks) == 3
    assert network.blocks[0].mlp[0].weight.shape == (12, 8)
    assert len(denoiser(blocks=5).blocks) == 5


def test_a_block_starts_as_the_identity_but_learns():
    block = ResidualMLP(8, 16, 4, 0.0)
    x, level = torch.randn(5, 8), torch.randn(5, 4)
    assert torch.equal(block(x, level), x)
    block(x, level).sum().backward()
    assert block.mlp[-1].weight.grad.abs().sum() > 0


def test_every_noise_level_looks_different():
    levels = torch.tensor(alpha_bars("cosine", 1000))
    embedding, seen = NoiseLevelEmbedding(128), []
    embedding.mlp[0].register_forward_hook(lambda module, given, _: seen.append(given[0]))
    assert embedding(levels).shape == (1001, 128)
    distances = torch.cdist(seen[0], seen[0]) + torch.eye(1001) * 1e3
    assert distances.min() > 1e-3


def test_the_level_of_each_row_counts():
    network = denoiser()
    for block in network.blocks:
        torch.nn.init.normal_(block.modulation.weight)
        torch.nn.init.normal_(block.mlp[-1].weight)
    torch.nn.init.normal_(network.out.weight)
    x, level = torch.randn(4, 8), torch.tensor([0.9, 0.5, 0.5, 0.1]).unsqueeze(-1)
    together = network(x, level)
    for row in range(4):
        torch.testing.assert_close(network(x[row], level[row]), together[row])
    assert not torch.allclose(network(x, level.flip(0))[0], together[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_weights_give_float32(dtype):
    network = denoiser()
    x, level = torch.randn(4, 8), torch.rand(4, 1)
    expected = network(x, level)
    found = network.to(dtype)(x, level)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)


def test_a_new_one_draws_from_the_global_generator_and_gives_zero():
    one, other = denoiser(), denoiser()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    third = Denoiser(NetworkConfig(8, time_dim=16))
    assert not torch.equal(one.blocks[0].mlp[0].weight, third.blocks[0].mlp[0].weight)
    assert not third(torch.randn(4, 8), torch.rand(4, 1)).any()
