"""Arguments of ONNX operators by name, as the standard's own schemas have them, for the functions that build operators.

A builder's parameters are what it knows: after its `Call`, if it takes one as ``call``, positional ones are inputs in
the standard's order, others are inputs or attributes by name. What a node gives beyond them is refused by name, unless
it is the default. A parameter's annotation says what it takes:

- `Data`: a value that may move; `Value`: or a constant.
- `Constant`: a constant, of any size.
- numbers (`int`, `Wholes`, ...): from an attribute or a small constant.
- `Array`: a small constant, as it is.

A parameter that an operator set does not have takes its own default, or None where it may be None.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NoReturn, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper

from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.onnx.evaluator import plain
from specnorm_networks.onnx.nodes import MAX_FOLDED, Builder, Call, Data, Known, Result, Value
from specnorm_networks.onnx.tensors import Constant

NEWEST = 28
"""The newest operator set that is known here."""
Wholes: TypeAlias = tuple[int, ...]
Numbers: TypeAlias = tuple[float, ...]
Array: TypeAlias = NDArray[Any]
_LISTS = (Wholes, Numbers)
_SINGLE = (int, float)


@cache
def _schema(operator: str, opset: int) -> Any:
    return defs.get_schema(operator, opset)


@cache
def _newest() -> int:
    known: int = defs.onnx_opset_version()
    return min(NEWEST, known)


@cache
def _signature(builder: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(builder, eval_str=True).parameters


def parameters(builder: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a builder takes besides its `Call`."""
    return {name: each for name, each in _signature(builder).items() if name != "call"}


def bind(call: Call, known: Known, builder: Builder) -> Callable[[], Result]:
    """A builder with its arguments.

    Raises
    ------
    NoBoundError
        If an argument is not known, or of another kind; the message names it.
    """
    schema = _schema(call.operator, call.opset)
    inputs, attributes = stated(call, known)
    taken = parameters(builder)
    ordered = [name for name, each in taken.items() if each.kind is each.POSITIONAL_ONLY]
    renamed = dict(zip([each.name for each in schema.inputs], ordered, strict=False))
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for name, value in inputs:
        name_here = renamed.get(name, name)
        rest = next((each for each in taken.values() if each.kind is each.VAR_POSITIONAL), None)
        if name_here in taken:
            named[name_here] = _taken(call, name, value, taken[name_here])
        elif rest is not None:
            positional.append(_taken(call, name, value, rest))
        elif isinstance(value, Data):
            refuse(call, name, value)
        elif name not in known.ignored:
            raise NoBoundError(f"the input {name} of {call.operator} is not known here")
    for name, (value, default) in attributes.items():
        if name in taken and name not in named:
            named[name] = _converted(call, value)
        elif name in taken or (name not in known.ignored and _differ(value, default)):
            raise NoBoundError(f"the attribute {name[:40]} of {call.operator} is not known here")
    for name, each in taken.items():
        if name not in named and each.kind is not each.VAR_POSITIONAL:
            if each.default is each.empty and type(None) not in _kinds(each):
                raise NoBoundError(f"the argument {name} of {call.operator} is missing")
            named[name] = None if each.default is each.empty else each.default
    first = [call] if "call" in _signature(builder) else []
    return partial(builder, *first, *(named.pop(name) for name in ordered), *positional, **named)


def stated(call: Call, known: Known) -> tuple[list[tuple[str, Value]], dict[str, tuple[Any, Any]]]:
    """Inputs that are given and attributes that have a value, with their names; of both what the standard has.

    Raises
    ------
    NoBoundError
        If the operator set is not known, or does not have them.
    """
    if not known.since <= call.opset <= _newest():
        raise NoBoundError(
            f"{call.operator} of operator set {call.opset} is not known here, only of {known.since} to {_newest()}"
        )
    schema = _schema(call.operator, call.opset)
    return _inputs(call, schema), _attributes(call, schema)


def _inputs(call: Call, schema: Any) -> list[tuple[str, Value]]:
    places = [each.name for each in schema.inputs]
    if schema.inputs and schema.inputs[-1].option == schema.inputs[-1].option.Variadic:
        places += places[-1:] * (len(call.inputs) - len(places))
    if len(call.inputs) > len(places):
        raise NoBoundError(f"{call.operator} has {len(call.inputs)} inputs; {len(places)} are known here")
    return [(name, value) for name, value in zip(places, call.inputs, strict=False) if value is not None]


def _attributes(call: Call, schema: Any) -> dict[str, tuple[Any, Any]]:
    """Attributes that have a value, as messages, with their defaults."""
    found: dict[str, tuple[Any, Any]] = {}
    for name, each in schema.attributes.items():
        if each.default_value.type:
            found[name] = (each.default_value, each.default_value)
    for name, given in call.attributes.items():
        if name not in schema.attributes:
            raise NoBoundError(f"the attribute {name[:40]} of {call.operator} is not known here")
        if given.type != schema.attributes[name].type.value or given.ref_attr_name:
            raise NoBoundError(f"the attribute {name[:40]} of {call.operator} is of another type than the standard's")
        found[name] = (given, found[name][1] if name in found else None)
    return found


def _converted(call: Call, attribute: Any) -> Any:
    """Number, text, tuple of numbers, or constant."""
    value = plain(attribute)
    if isinstance(value, TensorProto):
        return call.describe(value)
    many = isinstance(value, tuple) and all(isinstance(each, int | float) for each in value)
    if not many and not isinstance(value, int | float | str):
        raise NoBoundError(f"the attribute {attribute.name[:40]} of {call.operator} is of a kind that is not read")
    return value


def _differ(value: Any, default: Any) -> bool:
    return default is None or bool(helper.get_attribute_value(value) != helper.get_attribute_value(default))


def _kinds(parameter: inspect.Parameter) -> tuple[Any, ...]:
    annotation = parameter.annotation
    if annotation in (*_LISTS, Array):
        return (annotation,)
    return get_args(annotation) or (annotation,)


def _taken(call: Call, name: str, value: Value, parameter: inspect.Parameter) -> Any:
    kinds = _kinds(parameter)
    small = [kind for kind in kinds if kind in (*_LISTS, *_SINGLE, Array)]
    if isinstance(value, Data):
        if Data not in kinds:
            refuse(call, name, value)
        return value
    if Constant in kinds:
        return value
    if not small:
        raise NoBoundError(f"{call.operator} of constants is not evaluated")
    if value.steps:
        raise NoBoundError(
            f"the input {name} of {call.operator} is computed with rounding, and would be rounded to whole"
        )
    if value.size > MAX_FOLDED or value.refusal is not None:
        raise NoBoundError(f"the input {name} of {call.operator} cannot be read")
    array = value.load()
    if small[0] is Array:
        return array
    numbers = tuple(np.ravel(array).tolist())
    if small[0] in (Wholes, int) and any(n != int(n) for n in numbers):
        raise NoBoundError(f"the input {name} of {call.operator} holds no whole numbers")
    if small[0] in _SINGLE and len(numbers) != 1:
        raise NoBoundError(f"the input {name} of {call.operator} is not one number")
    return numbers[0] if small[0] in _SINGLE else numbers


def refuse(call: Call, name: str, value: Data) -> NoReturn:
    """Say that an input must be a constant."""
    if not value.origins:
        raise NoBoundError(
            f"the input {name} of {call.operator} is computed from sizes or constants that are not known: give the "
            "input shape"
        )
    raise NoBoundError(f"the input {name} of {call.operator} depends on the network's input")
