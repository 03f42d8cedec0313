"""A link inside each of the parts: what must hold of a bridge holds of it there."""

import copy
import pickle

import pytest
import torch
from torch import nn

from dlink_adapter.attachment.attach import attach, detach
from dlink_adapter.data.embeddings import PairedEmbeddings
from dlink_adapter.refine.moment_matched import MomentMatched


@pytest.fixture
def wrapped(make_link, pairs):
    train = PairedEmbeddings.from_tensors(*(rows[:100] for rows in pairs))
    bridge = MomentMatched.of(make_link(dim=32))
    bridge.find_moments(train, train)
    return bridge.eval()


@pytest.fixture
def x(pairs):
    return pairs[0][100:106]


def test_compiles_into_one_graph(wrapped, x):
    torch.compiler.reset()
    compiled = torch.compile(wrapped, fullgraph=True, backend="aot_eager")
    for given in (x, x[0], x.half()):
        torch.testing.assert_close(compiled(given), wrapped(given))


def test_exports_with_a_dynamic_batch(wrapped, x):
    program = torch.export.export(wrapped, (x,), dynamic_shapes={"x": {0: torch.export.Dim.DYNAMIC}}).module()
    for rows in (x, x[:2], x.repeat(5, 1)):
        torch.testing.assert_close(program(rows), wrapped(rows))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda bridge: pickle.loads(pickle.dumps(bridge))])
def test_copies_are_equal(wrapped, x, copied):
    twin = copied(wrapped)
    assert torch.equal(twin(x), wrapped(x)) and twin.settings() == wrapped.settings()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_weights_stay_close(wrapped, x, dtype):
    low = copy.deepcopy(wrapped).to(dtype)
    assert torch.cosine_similarity(low(x), wrapped(x), dim=-1).min() > 0.99


def test_in_a_host_it_is_attached_trained_and_taken_out(wrapped, x):
    host = nn.Sequential()
    host.add_module("projector", nn.Linear(32, 4))
    attach(host.eval(), wrapped, target="projector")
    torch.testing.assert_close(host(x), host.projector.host_layer(wrapped(x)))
    host(x).sum().backward()
    assert all(parameter.grad is not None for parameter in wrapped.parameters())
    assert detach(host) is wrapped
