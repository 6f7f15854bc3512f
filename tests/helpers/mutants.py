"""Functions with one thing changed in their syntax tree, in place while a check looks.

The code object of a function is exchanged, so that whoever has imported it runs the mutant, too.
"""

from __future__ import annotations

import ast
import copy
import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import specnorm_check
from test_house import core_files, makes_claims, module_of, other_files

Change = Callable[[ast.AST], None]
"""Of a function's own tree, in place."""


@dataclass(frozen=True)
class Function:
    """A function or method by its module's file and its name there."""

    path: Path
    name: str

    def __str__(self) -> str:
        return f"{self.module.partition('.')[2]}: {self.name}"

    @property
    def module(self) -> str:
        return module_of(self.path)

    def tree(self) -> ast.FunctionDef:
        """Not to be changed."""
        return _functions(self.path)[self.name]


@functools.cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@functools.cache
def _functions(path: Path) -> dict[str, ast.FunctionDef]:
    return dict(functions_of(_parsed(path)))


def functions_of(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Functions of a module and methods of its classes, by their names; not what is defined in functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield inside + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions_of(node, f"{inside}{node.name}.")


def certified() -> Iterator[Function]:
    """All functions of files that may make claims."""
    for path in filter(makes_claims, [*other_files(), *core_files()]):
        yield from (Function(path, name) for name in _functions(path))


def _object(function: Function) -> FunctionType:
    found: Any = importlib.import_module(function.module)
    for part in function.name.split("."):
        found = inspect.getattr_static(found, part)
        for inner in ("fget", "func", "__func__", "__wrapped__"):
            found = getattr(found, inner, found)
    assert isinstance(found, FunctionType), function
    return found


def _code(tree: ast.Module, path: Path, name: str) -> CodeType:
    waiting: list[Any] = [compile(tree, str(path), "exec")]
    for code in waiting:
        if code.co_qualname == name:
            found: CodeType = code
            return found
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    raise LookupError(name)


@contextmanager
def mutated(function: Function, change: Change) -> Iterator[None]:
    """The function with a change, which is given a copy of its tree."""
    tree = copy.deepcopy(_parsed(function.path))
    change(dict(functions_of(tree))[function.name])
    there = _object(function)
    before = there.__code__
    there.__code__ = _code(ast.fix_missing_locations(tree), function.path, function.name)
    try:
        yield
    finally:
        there.__code__ = before


def checker(right: str = "", wrong: str = "") -> Any:
    """A copy of the checker of certificates, with other text in the one place of some: its mutants."""
    folder = Path(specnorm_check.__file__).parent
    in_order = (
        "arithmetic",
        "layers",
        "statements",
        "graphs",
        "rules",
        "moves",
        "branches",
        "parts",
        "resizing",
        "matrices",
        "inequality",
        "networks",
        "claims",
        "files",
    )
    names = (*in_order, "__init__")
    texts = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in names}
    assert not right or sum(text.count(right) for text in texts.values()) == 1, right
    for name, text in texts.items():
        full = "changed_check" if name == "__init__" else f"changed_check.{name}"
        module = ModuleType(full)
        sys.modules[full] = module
        changed = (text.replace(right, wrong) if right else text).replace("specnorm_check", "changed_check")
        exec(compile(changed, full, "exec"), module.__dict__)
    return sys.modules["changed_check"]
