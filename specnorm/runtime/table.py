"""The programs in use, by key: what a compiler carries through its graph in place of a Python object."""

from __future__ import annotations

import threading
import weakref
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from specnorm.problem.spec import ConvSpec, check_dtype
from specnorm.runtime.program import Program

if TYPE_CHECKING:
    from specnorm.methods import Method

LIMIT = 1024
"""Programs that are kept for their next use, about 1 MB; one that is still referred to is found beyond that."""

# The programs used last are kept; an older one lives as long as somebody holds it (an autograd graph does); one in a
# compiled graph for ever.
_programs: dict[str, Program] = {}
_alive: weakref.WeakValueDictionary[str, Program] = weakref.WeakValueDictionary()
_compiled: set[str] = set()
_keys: dict[str, str] = {}  # of a problem as it was written: the checked key
_lock = threading.Lock()


def program_for(method: Method, shape: tuple[int, ...], dtype: str, geometry: tuple[tuple[str, Any], ...]) -> Program:
    """Validate a problem and return its program; the same object for the same problem, however it is written.

    Parameters
    ----------
    shape : tuple of int
        Of one kernel, as the caller stores it.
    dtype : str
        As the library prints it.

    Raises
    ------
    KernelError, GeometryError, MethodError
    """
    # Compilers run functions marked as constant while tracing, but hand over plain values faithfully, objects not
    # (torch 2.13 replaces a dataclass by its defaults). So the method travels as its class and its values.
    cls = type(method)
    values = tuple([getattr(method, name) for name in _field_names(cls)])
    return _programs[_program_key(cls, values, shape, dtype, geometry)]


def program(key: str) -> Program:
    """Return the program behind a `Program.key`: one of the last `LIMIT`, or one that is still referred to."""
    return _alive[key]


def keep(key: str) -> Program:
    """`program`, kept for ever: for graphs of a compiler, which hold nothing of it but the key."""
    with _lock:
        found = _programs[key] = _alive[key]
        _compiled.add(key)
    return found


def _field_names(cls: type[Method]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


def _program_key(
    cls: type[Method],
    values: tuple[Any, ...],
    shape: tuple[int, ...],
    dtype: str,
    geometry: tuple[tuple[str, Any], ...],
) -> str:
    # The class by identity too: a class that was defined anew under the same name is another method.
    method_key = (cls.__module__, cls.__qualname__, id(cls), values)
    written = repr((method_key, shape, dtype, geometry))
    with _lock:
        key = _keys.get(written)
        if key is not None and key in _programs:
            _programs[key] = _programs.pop(key)  # to the end: used last
            return key
    short = dtype.rpartition(".")[2]
    check_dtype(short, shape)
    spec = ConvSpec.of(shape, **dict(geometry))
    key = repr((method_key, spec, shape, short))
    method = cls(**dict(zip(_field_names(cls), values, strict=True)))
    method.check(spec)
    with _lock:
        found = _alive.setdefault(key, Program(key, method, spec, shape, short))
        _programs.pop(key, None)
        _keys[written], _programs[key] = key, found
        _forget()
    return key


def _forget() -> None:
    """Drop what was used longest ago, beyond `LIMIT`; what compiled graphs need does not count."""
    old = [key for key in _programs if key not in _compiled]
    for key in old[: max(0, len(old) - LIMIT)]:
        del _programs[key]
    for written in list(_keys)[: max(0, len(_keys) - LIMIT)]:
        del _keys[written]


def state_shapes(key: str) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """`Program.state_shapes` of the program behind a key, as plain values."""
    return tuple(program(key).state_shapes().items())


_field_names._dynamo_marked_constant = True  # type: ignore[attr-defined]
_program_key._dynamo_marked_constant = True  # type: ignore[attr-defined]
state_shapes._dynamo_marked_constant = True  # type: ignore[attr-defined]
