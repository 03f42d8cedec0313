"""The versions that a bug report needs, found without importing anything."""

import platform
from importlib.metadata import PackageNotFoundError, version

from dlink_adapter import __version__

PACKAGES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "safetensors", "huggingface_hub")


def versions() -> dict[str, str | None]:
    """Of dlink-adapter, Python and `PACKAGES`; None for what is not installed."""
    return {"dlink-adapter": __version__, "python": platform.python_version()} | {
        name: installed(name) for name in PACKAGES
    }


def installed(package: str) -> str | None:
    """The version of an installed package, if it is."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
