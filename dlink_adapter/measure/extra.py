"""Imports of the libraries that only caption metrics need."""

from importlib import import_module
from typing import Any


def import_metrics_extra(module: str) -> Any:
    """Imports a library of the extra `metrics`, or raises an ImportError that names it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'{module} is needed here: pip install "dlink-adapter[metrics]"') from error
