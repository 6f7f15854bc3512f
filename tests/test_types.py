"""The static types: the protocols of `specnorm.types` list what the core calls, and every library has it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import numpy as np
from libraries import Lib

import specnorm
from specnorm import types


def listed(protocol: type) -> set[str]:
    """Names that a protocol and its bases list, dunders included."""
    names: set[str] = set()
    for base in protocol.__mro__:
        if base.__module__ == types.__name__:
            names |= {name for name, x in vars(base).items() if callable(x) or isinstance(x, property)}
            names |= set(vars(base).get("__annotations__", {}))
    return names - {"__class__", "__init__", "__subclasshook__"} - {name for name in names if name.startswith("_abc")}


def called() -> set[str]:
    """What the core takes from a namespace, by the syntax: ``xp.name`` and ``xp.linalg.name``."""
    found = set()
    for path in Path(specnorm.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                *_, owner, last = f".{ast.unparse(node)}".split(".")
                if owner == "xp":
                    found.add(last)
                elif ast.unparse(node.value).endswith("xp.linalg"):
                    found.add(f"linalg.{last}")
    # Asked of libraries whose devices are objects, and not by an algorithm.
    return found - {"__array_namespace_info__"}


def test_the_namespace_lists_what_is_called_and_no_more() -> None:
    """A type checker refuses what is missing; what nothing calls would ask too much of a library."""
    every = {name for name in listed(types.Namespace) if not name.startswith("_")}
    assert every | {f"linalg.{name}" for name in listed(types.Linalg) if not name.startswith("_")} == called()


def test_every_library_has_what_is_listed(xp: Lib) -> None:
    array: Any = xp.asarray(np.ones(2, dtype=np.float32))
    namespace: Any = xp.backend.namespace(array)
    for thing, protocol in ((array, types.Array), (namespace, types.Namespace), (namespace.linalg, types.Linalg)):
        missing = {name for name in listed(protocol) if not hasattr(thing, name)}
        assert not missing, (protocol, missing)
