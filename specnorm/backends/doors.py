"""Modules whose names are imported when they are first asked for, as PEP 562 and SPEC 1 have it."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def door(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__``, ``__dir__`` and ``__all__`` of a module whose stub (`.pyi`) imports all of its names.

    Type checkers read the stub, too: it says ``from place import name as name``, or has an ``__all__``.
    """
    spec: Any = sys.modules[module].__spec__
    stub = ast.parse(spec.loader.get_data(spec.origin.rpartition(".")[0] + ".pyi"))
    places: dict[str, tuple[str | None, str]] = {}
    for statement in stub.body:
        if isinstance(statement, ast.ImportFrom):
            places |= {alias.asname or alias.name: (statement.module, alias.name) for alias in statement.names}

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        place, own_name = places[name]
        try:
            value = getattr(import_module(str(place)), own_name)
        except AttributeError:
            value = import_module(f"{place}.{own_name}")  # a module
        setattr(sys.modules[module], name, value)
        return value

    return load, lambda: sorted(places), sorted(places)
