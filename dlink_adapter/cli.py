"""The `dlink` command: `dlink <recipe> [options]` runs the typed `main` of `dlink_adapter.recipes.<recipe>`.

A recipe is any module of the recipes package with a top-level `main`; its name is the module's, with dashes. Nothing is
registered: the listing is read from the folder, the first line of the docstring is the help, the first docstring line
that starts with `dlink` is the example, and `main`'s signature and docstring are the options:

- a parameter with a default, or a keyword-only one, is `--name`; a bare `--name` means true for a bool;
- a required parameter before the `*` is positional, and a list there takes one or more values;
- `*names` is positional too, and takes any number of values;
- a list with a default is `--name a,b`, or one name alone;
- a dataclass is a group, `--bridge.dim 512`;
- `--config file.yaml` sets any of them, and what is typed wins over it; a bare name is also looked up among the
  packaged `recipes/configs`.
"""

import argparse
import importlib
import inspect
import logging
import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import docstring_parser
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter

from dlink_adapter import recipes
from dlink_adapter.files import printable
from dlink_adapter.recipe_source import Recipe, read_recipe
from dlink_adapter.versions import versions

# What the library raises on purpose, with a message for the user; anything else is a defect and shows its traceback.
USER_ERRORS = (ValueError, OSError, ImportError)


class _Help(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults and types beside the options, docstrings with their own line breaks."""


def list_recipes() -> dict[str, Recipe]:
    """The recipes by command name, read from their source."""
    files = sorted(file for folder in recipes.__path__ for file in Path(folder).glob("*.py"))
    found = (read_recipe(file, recipes.__name__) for file in files)
    return {recipe.name: recipe for recipe in found if recipe is not None}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one recipe and return the exit code: its own, 1 after an explained error, 2 wrong usage, 130 Ctrl-C.

    With `DLINK_TRACEBACK=1` in the environment an explained error shows its traceback too.
    """
    known = list_recipes()
    parser = argparse.ArgumentParser(
        "dlink",
        description="A diffusion bridge between a frozen encoder and an LLM's projector.",
        epilog=_listing(known.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_versions())
    parser.add_argument("recipe", choices=known, metavar="recipe", help="one of the recipes below")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="`dlink <recipe> --help` explains them")
    _quiet_libraries()
    args = parser.parse_args((sys.argv[1:] if argv is None else argv) or ["--help"])
    try:
        code = run(known[args.recipe], args.options)
    except KeyboardInterrupt:
        print("dlink: interrupted", file=sys.stderr)
        return 130  # 128 + SIGINT, as shells have it
    except USER_ERRORS as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone(probe="\n"):  # and not that of a worker
            return 0
        if os.environ.get("DLINK_TRACEBACK") == "1":
            raise
        print("dlink: error: " + "\n".join(map(printable, str(error).split("\n"))), file=sys.stderr)
        return 1
    return 0 if _reader_has_gone() else code


def _reader_has_gone(probe: str = "") -> bool:
    """Whether the output is a pipe that was closed at its other end, as by `| head`: nobody misses the rest."""
    try:
        print(probe, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at its end
        return True
    return False


def _quiet_libraries() -> None:
    """Of the libraries below, show errors only, and bars only on a terminal; what the user has set stays."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns in every process that is forked later
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def run(recipe: Recipe, argv: Sequence[str]) -> int:
    """Parse `argv` by the signature of the recipe's `main`, and call it. A `main` that returns None has succeeded."""
    _parse(recipe, recipe.signature(), argv)  # help and wrong usage end here, before torch is imported
    function = importlib.import_module(recipe.module).main
    call = inspect.BoundArguments(inspect.signature(function), OrderedDict(_parse(recipe, function, argv)))
    return function(*call.args, **call.kwargs) or 0


def _parse(recipe: Recipe, function: Callable[..., Any], argv: Sequence[str]) -> dict[str, Any]:
    """The arguments of a recipe's `main`."""
    types = get_type_hints(function)
    lists = _positional_lists(function, types)
    parser = ArgumentParser(prog=f"dlink {recipe.name}", description=recipe.doc, formatter_class=_Help)
    parser.add_argument("--config", action=ActionConfigFile, help="YAML file, or the name of a packaged one")
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=set(lists))
    for name, settings in lists.items():
        parser.add_argument(name, **settings)
    options = parser.parse_args(_spelled_out(argv, types))
    arguments: dict[str, Any] = parser.instantiate(options).as_dict()
    arguments.pop("config")
    return arguments


def _positional_lists(function: Callable[..., Any], types: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Required lists before the `*`, and `*names`, as `add_argument` takes them; jsonargparse takes none of them so."""
    described = docstring_parser.parse(inspect.getdoc(function) or "").params
    helps = {parameter.arg_name: parameter.description for parameter in described}
    lists: dict[str, dict[str, Any]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        required = parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
        if parameter.kind is parameter.VAR_POSITIONAL:
            lists[name] = {"nargs": "*", "type": types[name], "help": helps.get(name)}
        elif required and get_origin(types[name]) is list:
            lists[name] = {"nargs": "+", "type": get_args(types[name])[0], "help": helps.get(name)}
    return lists


def _spelled_out(argv: Sequence[str], types: dict[str, Any]) -> list[str]:
    """`argv` with true after a bare flag, lists in brackets, and the configs in front: what is typed wins over them."""
    flags = {f"--{name}" for name, kind in types.items() if kind is bool}
    lists = {f"--{name}" for name, kind in types.items() if _is_list(kind)}
    configs: list[str] = []
    typed: list[str] = []
    split = tuple(f"{name}=" for name in ("--config", *lists))
    tokens = [part for token in argv for part in (token.split("=", 1) if token.startswith(split) else [token])]
    for before, token, following in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if before == "--config":
            configs += ["--config", config_path(token)]
        elif before in lists and not token.startswith("["):
            typed.append(f"[{token}]")
        elif token != "--config" or following == "":
            typed.append(token)
        if token in flags and following not in ("true", "false"):
            typed.append("true")
    return configs + typed


def _is_list(kind: Any) -> bool:
    """Whether a type is a list, or a list or None."""
    return any(get_origin(part) is list for part in (kind, *get_args(kind)))


def config_path(name: str) -> str:
    """Where a config is: a file, or one of the packaged ones by its bare name."""
    packaged = Path(recipes.__path__[0]) / "configs" / name
    return str(packaged) if not Path(name).exists() and packaged.is_file() else name


def _versions() -> str:
    """What a bug report needs; the first line is our own."""
    found = versions()
    return "\n".join([f"dlink {found.pop('dlink-adapter')}", *(f"{name} {found[name] or '-'}" for name in found)])


def _listing(known: Iterable[Recipe]) -> str:
    entries = (f"  {recipe.name:<20} {recipe.help}\n  {'':<20} $ {recipe.example}" for recipe in known)
    return "\n".join(["recipes:", *entries, "", "DLINK_TRACEBACK=1 shows where an error comes from."])
