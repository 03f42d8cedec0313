"""The wheel holds what the tree holds, works away from the checkout, and starts light."""

import shutil
import subprocess
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

from dlink_adapter import __version__

ROOT = Path(__file__).resolve().parent.parent
# Where each top-level folder of the repository goes in the wheel.
INSTALLED_AS = {
    "dlink_adapter": "dlink_adapter",
    "integrations": "dlink_adapter/integrations",
    "recipes": "dlink_adapter/recipes",
}
READ_IN_THE_REPOSITORY = {"dlink_adapter/recipes/README.md", "dlink_adapter/recipes/figures/clouds.png"}

IMPORT_ALL = """
import importlib, pkgutil, dlink_adapter
for module in pkgutil.walk_packages(dlink_adapter.__path__, "dlink_adapter."):
    if not module.name.endswith("__main__"):
        print(importlib.import_module(module.name).__file__)
"""


def python(code: str, folder: Path, **environment: str) -> list[str]:
    """The lines that `code` prints in a fresh interpreter started in `folder`."""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, because setuptools leaves build/ behind, and packs what an older build left there."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in INSTALLED_AS:
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(checkout)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (built,) = (checkout / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel]
    subprocess.run(command, check=True)
    return target


def test_wheel_holds_exactly_the_tree(wheel: Path) -> None:
    tree = {
        f"{package}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, package in INSTALLED_AS.items()
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == tree - READ_IN_THE_REPOSITORY
    assert wheel.stat().st_size < 10e6


def test_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    folder = f"dlink_adapter-{__version__}.dist-info"
    scripts = ConfigParser()
    scripts.read_string(archive.read(f"{folder}/entry_points.txt").decode())
    assert scripts["console_scripts"]["dlink"] == "dlink_adapter.cli:main"
    assert f"{folder}/licenses/LICENSE" in archive.namelist()


def test_the_citation_names_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_every_module_imports_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    files = python(IMPORT_ALL, tmp_path, PYTHONPATH=str(installed))
    assert all(Path(file).is_relative_to(installed) for file in files)
    modules = {file for file in installed.rglob("dlink_adapter/**/*.py") if file.name != "__main__.py"}
    assert {Path(file) for file in files} | {installed / "dlink_adapter/__init__.py"} == modules


def test_checkout_behaves_like_the_wheel(checkout: Path, tmp_path: Path) -> None:
    code = "from dlink_adapter import integrations, recipes\nprint(integrations.__file__, recipes.__file__)"
    files = python(code, tmp_path, PYTHONPATH=str(checkout))
    assert files == [str(checkout / folder / "__init__.py") for folder in ("integrations", "recipes")]


def test_import_is_light(tmp_path: Path) -> None:
    heavy = {"torch", "transformers", "peft", "accelerate", "scipy", "matplotlib"}
    code = f"import sys, dlink_adapter\nprint(*{heavy} & set(sys.modules))"
    assert python(code, tmp_path, PYTHONPATH=str(ROOT)) == []
