"""Operators that users add: a class with its names, found by the front ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from specnorm.errors import MethodError
from specnorm_networks.certified.operators.base import Affine, Function, Known, Move, Operator

Class = TypeVar("Class", bound=type[Operator])
OUR_NAMESPACES = ("", "aten", "ai.onnx", "prim", "specnorm")
"""Namespaces whose operators specnorm itself defines."""
_EXECUTED_BY: dict[type[Operator], tuple[str, ...]] = {
    Move: ("moved", "map_at", "linear_map", "run"),
    Affine: ("map_at", "linear_map", "run"),
    Function: ("value", "run"),
    Known: ("run",),
}
"""Members by which operators of a base class are executed; one of them is to be defined, as a rule the first."""
_KNOWN: dict[str, type[Operator]] = {}
"""Classes that were registered, by the names of their operators."""


def register_operator(cls: Class) -> Class:
    """Register your own operator; usable as a decorator.

    The class's Lipschitz constant is trusted. Its values are compared with the model's, if the model can be executed
    (`specnorm_networks.comparison.checking`).

    Parameters
    ----------
    cls : type
        Derived from `Known`, `Function` or `Affine`, which makes it a dataclass, with ``names``, a tuple of
        "namespace::name": a custom operator of torch, or domain and type of an ONNX node. If it has fields, a class
        method ``of(arguments)`` makes it from the node's constant arguments by name (numbers, tuples, float64 arrays).

    Raises
    ------
    MethodError
        If the class has no names or cannot be executed, or a name is already taken.
    """
    names = getattr(cls, "names", ())
    bases = getattr(cls, "__mro__", ())
    base = next((base for base in _EXECUTED_BY if base in bases), None)
    if base is None or not names or not isinstance(names, tuple | list):
        raise MethodError(
            f"{cls!r} is no operator with names; expected a class derived from Known, Function or Affine with `names`, "
            "a tuple of 'namespace::operator'."
        )
    members = _EXECUTED_BY[base]
    if all(getattr(cls, member) is getattr(base, member) for member in members):
        raise MethodError(
            f"{cls.__name__} has no `{members[0]}`: an operator that cannot be executed cannot be compared."
        )
    for name in names:
        namespace, colons, operator = str(name).partition("::")
        if not colons or not operator or namespace in OUR_NAMESPACES:
            raise MethodError(f"{name!r} is not a name for an operator of yours; expected 'namespace::operator'.")
        if _KNOWN.get(name, cls).__qualname__ != cls.__qualname__:
            raise MethodError(f"{name!r} is registered already, by {_KNOWN[name].__qualname__}.")
    _KNOWN.update(dict.fromkeys(names, cls))
    return cls


def registered_operators() -> tuple[str, ...]:
    """Return the full names of all registered operators."""
    return tuple(_KNOWN)


def registered(name: str, arguments: Mapping[str, Any]) -> Operator | None:
    """Return an operator by its full name, made from its constant arguments; None if nobody registered it."""
    cls = _KNOWN.get(name)
    if cls is None:
        return None
    make = getattr(cls, "of", None)
    if make is not None:
        operator: Operator = make(arguments)
        return operator
    present = sorted(key for key, value in arguments.items() if value is not None)
    if present:
        raise MethodError(f"the argument {present[0]} of {name} is not known: {cls.__name__} has no method `of`")
    return cls()
