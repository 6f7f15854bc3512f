"""Evaluate the trace of a JAX function: in double precision, or with what depends on no input computed beforehand."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

_INLINED = ("call_jaxpr", "fun_jaxpr", "jaxpr")
"""Parameters in which calls have what they call."""
_STRUCT: Any = jax.ShapeDtypeStruct
_LOOPS = ("scan", "while", "cond", "reduce")
"""Primitives that call what their parameters have other than once."""


def in_double(function: Callable[..., Any], inputs: Sequence[Any]) -> list[Any]:
    """Return the outputs of a function for some inputs, computed in double precision.

    Raises
    ------
    Exception
        Any error of JAX, if a primitive takes no other types.
    """
    structs = [_STRUCT(x.shape, x.dtype) for x in inputs]
    # JAX keeps the trace of a function; a new one is traced anew, as a call of the function would compute anew.
    trace: Any = jax.make_jaxpr(lambda *arrays: function(*arrays))(*structs)
    with jax.enable_x64(True):
        return _evaluated(trace, inputs, _wide)


def with_known_values(function: Callable[..., Any], inputs: Sequence[Any]) -> Callable[..., list[Any]]:
    """Return a function that does the same for inputs of these shapes and types, in the primitives of JAX.

    What depends on no input is computed at once, in the function's own precision: weights that a call normalizes.

    Raises
    ------
    Exception
        Whatever the function raises while it is traced.
    """
    trace: Any = jax.make_jaxpr(lambda *arrays: function(*arrays))(*inputs)
    return lambda *arrays: _evaluated(trace, arrays, lambda x: x)


def _evaluated(trace: Any, inputs: Sequence[Any], change: Callable[[Any], Any]) -> list[Any]:
    """Return the outputs of a trace, each value and parameter changed."""
    jaxpr = trace.jaxpr
    values = dict(zip(jaxpr.constvars, map(change, trace.consts), strict=True))
    values.update(zip(jaxpr.invars, map(change, inputs), strict=True))

    def read(atom: Any) -> Any:
        is_literal = isinstance(atom, Literal)
        return change(np.asarray(atom.val, atom.aval.dtype)) if is_literal else values[atom]

    for call in jaxpr.eqns:
        operands = [read(atom) for atom in call.invars]
        called = next((call.params[name] for name in _INLINED if name in call.params), None)
        if called is not None and call.primitive.name not in _LOOPS:
            closed = called if isinstance(called, ClosedJaxpr) else ClosedJaxpr(called, ())
            outputs = _evaluated(closed, operands, change)
        else:
            parameters = {name: change(parameter) for name, parameter in call.params.items()}
            is_known = not any(isinstance(x, jax.core.Tracer) for x in operands)
            with jax.ensure_compile_time_eval() if is_known else contextlib.nullcontext():
                outputs = call.primitive.bind(*operands, **parameters)
            outputs = outputs if call.primitive.multiple_results else [outputs]
        values.update(zip(call.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _wide(x: Any) -> Any:
    """Return an array, a data type or a trace in double precision; other objects as they are."""
    if isinstance(x, tuple) and x and isinstance(x[0], ClosedJaxpr):  # branches
        return tuple(map(_wide, x))
    if isinstance(x, ClosedJaxpr):
        structs = [_STRUCT(each.shape, _wide(each.dtype)) for each in x.in_avals]
        return jax.make_jaxpr(lambda *inputs: _evaluated(x, inputs, _wide))(*structs)
    if hasattr(x, "astype") and jax.numpy.issubdtype(x.dtype, jax.numpy.floating):
        return x.astype("float64")
    is_type = isinstance(x, jax.numpy.dtype) and jax.numpy.issubdtype(x, jax.numpy.floating)
    return jax.numpy.dtype("float64") if is_type else x
