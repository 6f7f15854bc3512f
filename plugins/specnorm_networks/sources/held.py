"""What models hold besides arrays of their framework: numbers that a later call may find changed."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

MOST = 10_000
"""Objects that are looked at."""
_FRAMEWORKS = ("torch", "torchvision", "torchaudio", "numpy", "jax", "jaxlib", "flax", "equinox", "keras")
"""Packages whose own state is none of a model's, and that ask whether they trace for kernels that compute the same."""


def held(kind: type, values: Mapping[str, Any], seen: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    """Arrays and numbers that a model holds: itself, or in containers, objects, functions and its class.

    Parameters
    ----------
    kind : type
        The model's class.
    values : mapping of str to object
        Its attributes.
    seen : dict
        Objects by their ids that are not looked into (again).
    """
    kinds = [each for each in kind.__mro__[:-1] if not is_own(each.__module__)]
    waiting = [each for inside in (*map(vars, kinds), values) for each in inside.items()]
    for name, value in waiting:
        if isinstance(getattr(value, "shape", None), tuple) or isinstance(value, bool | int | float | str):
            yield name, value
        elif id(value) not in seen and len(seen) < MOST:
            seen[id(value)] = value
            waiting += [(f"{name}.{key}", x) for key, x in _inside(value)]


def _inside(value: Any) -> list[tuple[Any, Any]]:
    """What an object holds, by name."""
    if isinstance(value, MethodType):
        return [("", value.__func__), ("", value.__self__)]
    if isinstance(value, FunctionType) and not is_own(value.__module__):
        with suppress(ValueError):  # names that have no value yet
            read = inspect.getclosurevars(value)
            return [*read.nonlocals.items(), *read.globals.items()]
    if isinstance(value, Mapping):
        return [*value.items()]
    if isinstance(value, Sequence | set):
        return [*enumerate(value)]
    own = isinstance(value, type | ModuleType | FunctionType) or is_own(type(value).__module__)
    return [] if own else [*getattr(value, "__dict__", {}).items()]


def is_own(module: Any) -> bool:
    """Whether a module's name is one of a framework's."""
    return str(module).partition(".")[0] in _FRAMEWORKS


def drawn() -> tuple[Any, ...]:
    """Where the generators are that torch knows nothing of."""
    shared: Any = np.random.get_state()  # noqa: NPY002 - the one that everybody shares
    return random.getstate(), shared[2], shared[1].tobytes()
