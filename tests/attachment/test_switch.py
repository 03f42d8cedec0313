"""`disabled` is each thread's own."""

import copy
from threading import Barrier, Thread

import torch
from torch import Tensor, nn

from dlink_adapter.attachment.attach import attach, disabled


class Double(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def host() -> nn.Module:
    return attach(nn.Sequential(nn.Identity(), nn.Identity()), Double(), "1")


ONE = torch.ones(1)


def test_overlapping_threads() -> None:
    model, seen, step = host(), [], Barrier(2, timeout=10)

    def first() -> None:
        with disabled(model):
            step.wait()
            seen.append(("first inside", model(ONE).item()))
            step.wait()
            step.wait()  # the second one has entered
        step.wait()
        seen.append(("first left", model(ONE).item()))

    def second() -> None:
        step.wait()
        step.wait()
        seen.append(("second outside", model(ONE).item()))
        with disabled(model):
            step.wait()
            step.wait()  # the first one has left
            seen.append(("second inside", model(ONE).item()))

    threads = [Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(seen) == {"first inside": 1, "second outside": 2, "first left": 2, "second inside": 1}
    assert model(ONE) == 2


def test_nesting_and_another_model() -> None:
    model, other = host(), host()
    with disabled(model):
        with disabled(model), disabled(other):
            assert model(ONE) == other(ONE) == 1
        assert model(ONE) == 1 and other(ONE) == 2
    assert model(ONE) == 2


def test_compiled_and_exported_code() -> None:
    torch.compiler.reset()
    model = host()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with disabled(model):
        with disabled(model):
            assert compiled(ONE) == 1
        assert compiled(ONE) == 1
        exported, twin = torch.export.export(model, (ONE,)), copy.deepcopy(model)
    assert compiled(ONE) == 2
    assert exported.module()(ONE) == 1
    assert torch.export.export(model, (ONE,)).module()(ONE) == 2
    assert twin(ONE) == torch.compile(twin, backend="eager", fullgraph=True)(ONE) == 2
