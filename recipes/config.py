"""List, show or copy the packaged configs, which `--config` takes by their names.

dlink config ls
dlink config show audiocaps_bridge.yaml
dlink config cp audiocaps_bridge.yaml

The first line of each is the command that it is for. A copy is for changing: `--config` takes its path as well.
"""

import shutil
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).with_name("configs")


def main(action: Literal["ls", "show", "cp"], *names: str, out: Path = Path()) -> None:
    """List, show or copy packaged configs.

    Args:
        action: ls lists all, show prints the named ones, cp copies them.
        names: of configs.
        out: folder that cp copies to.
    """
    known = {path.name: path for path in sorted(FOLDER.glob("*.yaml"))}
    unknown = [name for name in names if name not in known]
    if unknown or bool(names) == (action == "ls"):
        said = f"unknown: {', '.join(unknown)}" if unknown else f"{len(names)} names given"
        raise ValueError(f"ls takes no name, show and cp take one or more ({said}); known: {', '.join(known)}")
    if action == "ls":
        print("\n".join(f"{name:<36} {_command(path)}" for name, path in known.items()))
    for path in (known[name] for name in names):
        if action == "show":
            print(path.read_text(encoding="utf-8"), end="")
        else:
            _copy(path, out / path.name)


def _command(config: Path) -> str:
    return config.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _copy(config: Path, to: Path) -> None:
    if to.exists():
        raise FileExistsError(f"{to} is there already: remove it, or name another folder with --out")
    shutil.copyfile(config, to)
    print(to)
