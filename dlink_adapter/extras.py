"""Imports of the libraries that only some users need, which the extras of the package install."""

from importlib import import_module
from typing import Any


def import_extra(module: str, extra: str) -> Any:
    """Imports a module of a library, or raises an ImportError that names the extra it is in."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is needed here: pip install "dlink-adapter[{extra}]"') from error
