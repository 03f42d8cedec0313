"""Rows that processes share: outputs, loss and summed gradients are those of one process."""

import subprocess
import sys

import torch
from torch import nn

from dlink_adapter.diffusion_link.losses import topology_loss
from dlink_adapter.training.processes import rows_shared

SHARED = """
import sys, torch
from torch import nn
from dlink_adapter.diffusion_link.losses import topology_loss
from dlink_adapter.training.processes import rows_shared

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
given = torch.load(f"{folder}/given.pt", weights_only=True)
network = nn.Bilinear(4, 1, 4)
network.load_state_dict(given["weights"])
with rows_shared(network, rank, 2):
    output = network(given["x"], given["level"])
loss = topology_loss(output, given["x"])
loss.backward()
grads = [parameter.grad for parameter in network.parameters()]
for grad in grads:
    torch.distributed.all_reduce(grad)
torch.save({"output": output.detach(), "loss": loss.detach(), "grads": grads}, f"{folder}/found-{rank}.pt")
torch.distributed.destroy_process_group()
"""


def test_two_processes_compute_what_one_does(tmp_path):
    torch.manual_seed(0)
    network, x, level = nn.Bilinear(4, 1, 4), torch.randn(6, 4), torch.rand(6, 1)
    torch.save({"weights": network.state_dict(), "x": x, "level": level}, tmp_path / "given.pt")
    output = network(x, level)
    loss = topology_loss(output, x)
    loss.backward()
    expected = {
        "output": output.detach(),
        "loss": loss.detach(),
        "grads": [parameter.grad for parameter in network.parameters()],
    }
    runs = [subprocess.Popen([sys.executable, "-c", SHARED, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [run.wait(120) for run in runs] == [0, 0]
    for rank in range(2):
        found = torch.load(tmp_path / f"found-{rank}.pt", weights_only=True)
        torch.testing.assert_close(found, expected)


def test_alone_nothing_is_hooked_and_afterwards_nothing_is_left():
    network = nn.Linear(4, 4)
    with rows_shared(network, 0, 1):
        assert network(torch.ones(3, 4)).shape == (3, 4)
    with rows_shared(network, 1, 3):
        assert network._forward_pre_hooks and network._forward_hooks
    assert not network._forward_pre_hooks and not network._forward_hooks
