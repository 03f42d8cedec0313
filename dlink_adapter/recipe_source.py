"""What the source of a recipe says of its command, read without importing what its work needs: torch takes seconds."""

import ast
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """One sub-command, as its source file describes it."""

    name: str
    module: str
    doc: str
    tree: ast.Module

    @property
    def help(self) -> str:
        return self.doc.partition("\n")[0]

    @property
    def example(self) -> str:
        lines = (line.strip() for line in self.doc.splitlines())
        return next((line for line in lines if line.startswith("dlink ")), f"dlink {self.name}")

    def signature(self) -> Callable[..., Any]:
        """Its `main`, to be looked at and not called: of the module only what the signature needs is executed."""
        module = ModuleType(self.name)  # jsonargparse would import the module of a dotted name
        exec(compile(_signature_alone(self.tree), self.name, "exec"), vars(module))
        return module.main


def read_recipe(file: Path, package: str) -> Recipe | None:
    """The recipe in a file of the recipes package; None where it has no `main`."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    if not any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
        return None
    return Recipe(file.stem.replace("_", "-"), f"{package}.{file.stem}", ast.get_docstring(tree) or "", tree)


def _signature_alone(tree: ast.Module) -> ast.Module:
    """`main` without its body, and before it the imports, classes and values that its signature needs, however far."""
    kept: list[ast.stmt] = []
    needed: set[str] = set()
    for node in map(copy, reversed(tree.body)):
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            docstring = [part for part in node.body[:1] if isinstance(part, ast.Expr)]
            node.body = [*docstring, ast.Pass()]
        elif isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [alias for alias in node.names if (alias.asname or alias.name).split(".")[0] in needed]
            if not node.names:
                continue
        elif not needed & _names(node, ast.Store):
            continue
        kept.insert(0, node)
        needed |= _names(node, ast.Load)
    return ast.fix_missing_locations(ast.Module(kept, type_ignores=[]))


def _names(node: ast.stmt, context: type[ast.expr_context]) -> set[str]:
    """The names that a statement sets (`ast.Store`) or reads (`ast.Load`)."""
    if context is ast.Store and isinstance(node, ast.ClassDef | ast.FunctionDef):
        return {node.name}
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, context)}
