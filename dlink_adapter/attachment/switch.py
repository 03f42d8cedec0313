"""Switching bridges off: each thread, and each asyncio task, for itself."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Lock

import torch
from torch import nn

_off: ContextVar[frozenset[nn.Module]] = ContextVar("bridges that are off", default=frozenset())
_counting = Lock()


class Switchable(nn.Module):
    """A module that `switched_off` switches off.

    A compiled graph cannot depend on a context variable, but on an attribute. So compiled code goes by a count, and
    there a bridge is off for all threads while it is for one of them.
    """

    times_off: int

    def __init__(self) -> None:
        super().__init__()
        self.times_off = 0

    @property
    def is_off(self) -> bool:
        """Whether it is switched off here."""
        return self.times_off > 0 if torch.compiler.is_compiling() else self in _off.get()

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"times_off": 0}  # a copy is in no context


@contextmanager
def switched_off(modules: Iterable[Switchable]) -> Iterator[None]:
    """Within this context the modules are off; contexts may be nested, and overlap in several threads."""
    modules = frozenset(modules)
    _count(modules, 1)
    token = _off.set(_off.get() | modules)
    try:
        yield
    finally:
        _off.reset(token)
        _count(modules, -1)


def _count(modules: Iterable[Switchable], step: int) -> None:
    with _counting:
        for module in modules:
            module.times_off += step
