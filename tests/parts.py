"""Which array libraries a test has a part in, read from its file: `conftest` marks each item with them.

The session of one library runs the items that bear its mark (``pytest -m torch``); NumPy's session runs all. A test
has a part in the libraries that it names, and in those named by what it uses of its own file: fixtures, helpers,
tables. That may be more than it needs. It cannot be less unnoticed: an item that is skipped for want of a library
whose mark it lacks fails (see `conftest`).
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from pathlib import Path

WORDS = {
    "strict": re.compile("array_api_strict|specnorm_strict"),
    "torch": re.compile("torch"),
    "jax": re.compile("jax|jnp"),
    "cupy": re.compile("cupy"),
}
"""Mark of a library -> what names it in a text. NumPy has no mark: its session runs everything."""

LIBRARY_OF = {"array_api_strict": "strict", "jax32": "jax", "jaxlib": "jax"} | {name: name for name in WORDS}
"""What stands for a library as a parameter of a test, or in the reason of a skip -> its mark."""

_SKIPS_MODULE = re.compile(rf"importorskip\(|^(import|from) ({'|'.join(LIBRARY_OF)})\b")
"""A statement at the top of a module that fails or skips all of it where a library is missing."""


class Source:
    """The statements of a test module, by the names that they bind."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines()
        self._bound: dict[str, list[ast.stmt]] = {}
        self._needed_by_all: list[ast.stmt] = []
        for statement in ast.parse(text).body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names = [statement.name]
                needed_by_all = "autouse=True" in self._text(statement)
            else:
                names = [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
                needed_by_all = bool(_SKIPS_MODULE.search(self._text(statement)))
            for name in names:
                self._bound.setdefault(name, []).append(statement)
            if needed_by_all:
                self._needed_by_all.append(statement)

    def _text(self, statement: ast.stmt) -> str:
        """Return what stands there, decorators included."""
        first = min([statement.lineno, *(it.lineno for it in getattr(statement, "decorator_list", ()))])
        return "\n".join(self._lines[first - 1 : statement.end_lineno])

    def reached_from(self, names: Iterable[str]) -> str:
        """Return the text of everything that these names stand for, and of what that uses."""
        found: dict[ast.stmt, None] = dict.fromkeys(self._needed_by_all)
        waiting = [*self._needed_by_all, *(it for name in names for it in self._bound.get(name, ()))]
        while waiting:
            statement = waiting.pop()
            found[statement] = None
            for node in ast.walk(statement):
                # A fixture is used by naming a parameter after it, or in a string.
                name = getattr(node, "id", None) or getattr(node, "arg", None) or getattr(node, "value", None)
                if isinstance(name, str):
                    waiting += [it for it in self._bound.get(name, ()) if it not in found]
        return "\n".join(map(self._text, found))


@functools.cache
def source(path: Path) -> Source:
    """Return the statements of a file."""
    return Source(path.read_text(encoding="utf-8"))


@functools.cache
def named(path: Path, name: str) -> frozenset[str]:
    """Return the libraries named by a test, given by its file and the name of its function or class."""
    text = source(path).reached_from([name])
    return frozenset(library for library, word in WORDS.items() if word.search(text))


def libraries(path: Path, name: str, parameters: Iterable[object]) -> frozenset[str]:
    """Return the libraries that one item has a part in: where a parameter is a library, that one alone."""
    known = LIBRARY_OF | {"numpy": "numpy"}
    chosen = {known[it] for it in parameters if isinstance(it, str) and it in known}
    return frozenset(chosen - {"numpy"}) if chosen else named(path, name)


def missing(reason: str) -> frozenset[str]:
    """Return the libraries for want of which an item was skipped."""
    if not re.search(r"could not import|No module named|not installed|no plugin for", reason):
        return frozenset()
    return frozenset(library for name, library in LIBRARY_OF.items() if re.search(rf"\b{name}\b", reason))
