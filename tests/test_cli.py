"""`dlink`: recipes are found by their source, and their signature is the command line."""

import importlib
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from dlink_adapter import __version__, recipes
from dlink_adapter.cli import list_recipes, main

RECIPE = '''
"""Stretch clips.

    dlink stretch-clips --model OUT a.wav b.wav

It is longer than this.
"""
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Width:
    """How wide.

    Args:
        dim: width of the bridge.
    """

    dim: int = 4

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"dim must be at least 1, not {self.dim}")


def main(clips: list[str], *, model: Path, seed: int = 0, fast: bool = False, bridge: Width = Width(),
         names: list[str] | None = None, sizes: list[int] = [1]) -> int | None:
    """Stretch them.

    Args:
        clips: audio files of any length.
        model: folder of the model.
        seed: where the randomness starts.
    """
    if seed == 13:
        raise RuntimeError("a defect")
    if seed == 12:
        raise ImportError('pip install "dlink-adapter[clap]"')
    print(clips, model, seed, fast, bridge.dim, *([] if names is None else [names, sizes]))
    return 7 if seed == 11 else None
'''


@pytest.fixture(autouse=True)
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "recipes"
    (folder / "configs").mkdir(parents=True)
    (folder / "stretch_clips.py").write_text(RECIPE)
    (folder / "no_recipe.py").write_text('"""A helper without main."""')
    (folder / "configs" / "small.yaml").write_text("seed: 5\nbridge:\n  dim: 2\n")
    monkeypatch.setattr(recipes, "__path__", [str(folder)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "dlink_adapter.recipes.stretch_clips", raising=False)


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    assert main(["stretch-clips", "a.wav", "--model", "out", *argv]) == 0
    return capsys.readouterr().out.strip()


def usage_error(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    return capsys.readouterr().err


def test_listing_is_read_from_the_folder() -> None:
    (found,) = list_recipes().values()
    assert (found.name, found.module) == ("stretch-clips", "dlink_adapter.recipes.stretch_clips")
    assert found.help == "Stretch clips."
    assert found.example == "dlink stretch-clips --model OUT a.wav b.wav"


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_help_teaches(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "stretch-clips        Stretch clips." in out and "$ dlink stretch-clips --model OUT a.wav b.wav" in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"dlink {__version__}", f"python {platform.python_version()}"]
    assert f"torch {version('torch')}" in lines and f"safetensors {version('safetensors')}" in lines


def test_help_of_a_recipe_comes_from_its_docstrings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["stretch-clips", "--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0
    for text in ("It is longer than this.", "audio files of any length.", "folder of the model.", "where the random"):
        assert text in out
    assert "width of the bridge. (type: int, default: 4)" in out


def test_typed_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys) == "['a.wav'] out 0 False 4"
    assert printed(capsys, "--fast", "--bridge.dim", "6", "--seed=3") == "['a.wav'] out 3 True 6"
    assert printed(capsys, "--fast", "false") == "['a.wav'] out 0 False 4"
    assert main(["stretch-clips", "--fast", "b.wav", "c.wav", "--model", "out"]) == 0
    assert capsys.readouterr().out == "['b.wav', 'c.wav'] out 0 True 4\n"


def test_lists_with_a_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One value is a list too, and commas are enough."""
    assert printed(capsys, "--names", "x") == "['a.wav'] out 0 False 4 ['x'] [1]"
    assert printed(capsys, "--names=x,y", "--sizes", "2,3") == "['a.wav'] out 0 False 4 ['x', 'y'] [2, 3]"
    assert printed(capsys, "--names", '["x", "y"]', "--sizes=[]") == "['a.wav'] out 0 False 4 ['x', 'y'] []"
    (tmp_path / "lists.yaml").write_text("names: [x]\nsizes: [4, 5]\n")
    assert printed(capsys, "--config", "lists.yaml", "--sizes", "6") == "['a.wav'] out 0 False 4 ['x'] [6]"
    assert "--sizes" in usage_error(capsys, "stretch-clips", "a.wav", "--model", "out", "--sizes", "two")


REST = """
def main(action: str, *names: str, out: str = "here") -> None:
    print(action, names, out)
"""


def test_any_number_of_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipes" / "stretch_clips.py").write_text(REST)
    for argv, said in [(["a"], "a () here"), (["a", "b", "c"], "a ('b', 'c') here")]:
        assert main(["stretch-clips", *argv]) == 0
        assert main(["stretch-clips", "--out", "there", *argv]) == 0
        assert capsys.readouterr().out == f"{said}\n{said.replace('here', 'there')}\n"
    assert "action" in usage_error(capsys, "stretch-clips")


def test_configs_by_path_and_by_packaged_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--config", "small.yaml") == "['a.wav'] out 5 False 2"
    assert printed(capsys, "--config=small.yaml", "--bridge.dim", "9") == "['a.wav'] out 5 False 9"
    (tmp_path / "small.yaml").write_text("seed: 6\nfast: true\n")
    assert printed(capsys, "--config", "small.yaml") == "['a.wav'] out 6 True 4"


def test_print_config_round_trip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["stretch-clips", "x.wav", "--model", "out", "--bridge.dim", "5", "--print_config"])
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert printed(capsys, "--seed", "2", "--config", "mine.yaml") == "['a.wav'] out 2 False 5"


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "invalid choice: 'stretch'" in usage_error(capsys, "stretch")
    assert "required: clips" in usage_error(capsys, "stretch-clips", "--model", "out")
    assert "model" in usage_error(capsys, "stretch-clips", "a.wav")
    assert "--bridge.dimm" in usage_error(capsys, "stretch-clips", "a.wav", "--model", "out", "--bridge.dimm", "1")
    assert "--config" in usage_error(capsys, "stretch-clips", "a.wav", "--model", "o", "--config")
    assert "nowhere.yaml" in usage_error(capsys, "stretch-clips", "a.wav", "--model", "o", "--config", "nowhere.yaml")
    (tmp_path / "typo.yaml").write_text("sed: 3\n")
    assert "sed" in usage_error(capsys, "stretch-clips", "a.wav", "--model", "out", "--config", "typo.yaml")


def test_exit_codes_and_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    call = ["stretch-clips", "a.wav", "--model", "out"]
    assert main([*call, "--seed", "11"]) == 7
    assert main([*call, "--seed", "12"]) == 1
    assert capsys.readouterr().err == 'dlink: error: pip install "dlink-adapter[clap]"\n'
    assert main([*call, "--bridge.dim", "0"]) == 1
    assert capsys.readouterr().err == "dlink: error: dim must be at least 1, not 0\n"
    with pytest.raises(RuntimeError, match="a defect"):
        main([*call, "--seed", "13"])
    monkeypatch.setenv("DLINK_TRACEBACK", "1")
    with pytest.raises(ImportError):
        main([*call, "--seed", "12"])


def test_no_help_imports_torch() -> None:
    code = """
import contextlib, sys
from dlink_adapter.cli import list_recipes, main
calls = [["--help"], *([name, "--help"] for name in list_recipes())]
for call in calls:
    with contextlib.suppress(SystemExit):
        main(call)
    print(call, sorted({"torch", "transformers", "accelerate", "scipy"} & set(sys.modules)), file=sys.stderr)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = result.stderr.splitlines()
    assert len(lines) > 12 and all(line.endswith("[]") for line in lines), result.stderr


def test_the_signature_alone_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither help nor wrong usage imports what the work needs."""
    heavy = "from pathlib import Path\nfrom nowhere import Link\nCLIP = Link()\n"
    source = RECIPE.replace("from pathlib import Path\n", heavy).replace(
        "seed: int = 0, fast", "seed: int = START, fast"
    )
    source = source.replace("\n\n@dataclass", "\n\nSTART = 3\n\n@dataclass")
    (tmp_path / "recipes" / "stretch_clips.py").write_text(source)
    with pytest.raises(SystemExit):
        main(["stretch-clips", "--help"])
    assert "where the randomness starts. (type: int, default: 3)" in capsys.readouterr().out
    assert "--sed" in usage_error(capsys, "stretch-clips", "a.wav", "--model", "out", "--sed", "1")
    with pytest.raises(ImportError, match="nowhere"):
        importlib.import_module(list_recipes()["stretch-clips"].module)


def test_ctrl_c_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    interrupted = RECIPE.replace('raise RuntimeError("a defect")', "raise KeyboardInterrupt")
    (tmp_path / "recipes" / "stretch_clips.py").write_text(interrupted)
    assert main(["stretch-clips", "a.wav", "--model", "out", "--seed", "13"]) == 130
    assert capsys.readouterr().err == "dlink: interrupted\n"


def test_python_m() -> None:
    command = [sys.executable, "-m", "dlink_adapter", "--version"]
    assert subprocess.check_output(command, text=True).startswith(f"dlink {__version__}\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_is_no_error(unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the recipe notices it or its end does. Any other broken pipe is an error."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    code = (
        "import sys\nfrom dlink_adapter import cli\n"
        "def work(*_):\n    sys.stdin.read()\n    print('line')\n    raise BrokenPipeError('of a worker')\n"
        "cli.run = work if sys.argv[1] == 'worker' else lambda *_: print(sys.stdin.read())\n"
        "sys.exit(cli.main(['caption']))"
    )
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    closed, worker = (
        subprocess.Popen([sys.executable, "-c", code, name], text=True, **pipes) for name in ("closed", "worker")
    )
    assert worker.communicate() == ("line\n\n", "dlink: error: of a worker\n") and worker.returncode == 1
    closed.stdout.close()
    closed.stdin.close()
    assert (closed.stderr.read(), closed.wait()) == ("", 0)
