"""A diffusion bridge between a frozen encoder and an LLM's projector (Diffusion-Link, arXiv 2510.11330)."""

from pathlib import Path

import lazy_loader

__version__ = "0.1.0"

# In a source checkout `integrations` and `recipes` stand beside this package and not in it, as they do in the wheel:
# look for sub-packages in the repository root too, so that both behave the same.
_root = Path(__file__).resolve().parent.parent
if all((_root / name).exists() for name in ("integrations", "recipes", "pyproject.toml")):
    __path__.append(str(_root))

# The public names of `__init__.pyi`. Each is imported when it is first used, so that `dlink --help` need not wait for
# torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
