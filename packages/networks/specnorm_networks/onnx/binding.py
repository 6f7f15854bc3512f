"""Call the builder of an ONNX operator with a node's inputs and attributes, by the names of the standard's schemas.

A builder's parameters state which inputs and attributes it supports. If it takes a ``call``, that is the `Call` of the
node. Positional parameters are inputs in the standard's order, all others are inputs or attributes by name. A node with
further inputs or attributes is refused by their names, unless these have their defaults. A parameter's annotation
states what it accepts:

- `Data`: a value that depends on the network's inputs; `Value`: such a value or a constant.
- `Constant`: a constant of any size.
- numbers (`int`, `Wholes`, ...): an attribute or a small constant.
- `Array`: a small constant as an array.

If a node's operator set lacks a parameter, the parameter's default is passed, or None if the annotation allows it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NoReturn, TypeAlias, get_args

import numpy as np
from onnx import TensorProto, defs, helper

from specnorm.proof import counted
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.onnx.evaluator import plain
from specnorm_networks.onnx.nodes import MAX_FOLDED, Builder, Call, Data, OperatorRule, Result, Value
from specnorm_networks.onnx.tensors import Array, Constant

NEWEST = min(28, defs.onnx_opset_version())
"""The newest operator set whose definitions were read, of those that the package onnx has."""
Wholes: TypeAlias = tuple[int, ...]
Numbers: TypeAlias = tuple[float, ...]
_LISTS = (Wholes, Numbers)
_SINGLE = (int, float)


@cache
def _schema(operator: str, opset: int, domain: str) -> Any:
    return defs.get_schema(operator, opset, domain)


@cache
def _signature(builder: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(builder, eval_str=True).parameters


def parameters(builder: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return a builder's parameters without its `Call`."""
    return {name: parameter for name, parameter in _signature(builder).items() if name != "call"}


def bind(call: Call, rule: OperatorRule, builder: Builder) -> Callable[[], Result]:
    """Return a builder with the arguments of a node, to be called without arguments.

    Raises
    ------
    NoBoundError
        If an argument is not supported, or of another kind; the message names it.
    """
    inputs, attributes = stated(call, rule)
    schema = _schema(call.operator, call.opset, call.domain)
    accepted = parameters(builder)
    positional_names = [name for name, p in accepted.items() if p.kind is p.POSITIONAL_ONLY]
    variadic = next((p for p in accepted.values() if p.kind is p.VAR_POSITIONAL), None)
    # Positional parameters have names of their own.
    names_of_inputs = dict(zip([schema_input.name for schema_input in schema.inputs], positional_names, strict=False))
    variadic_arguments: list[Any] = []
    arguments: dict[str, Any] = {}
    for input_name, value in inputs:
        name = names_of_inputs.get(input_name, input_name)
        if name in accepted:
            arguments[name] = _argument(call, input_name, value, accepted[name])
        elif variadic is not None:
            variadic_arguments.append(_argument(call, input_name, value, variadic))
        else:
            _leave_out(call, rule, input_name, value)
    for name, (value, default) in attributes.items():
        if name in accepted and name not in arguments:
            arguments[name] = _converted(call, value)
            continue
        is_ignored = name in rule.ignored or not _differ(value, default)
        if name in accepted or not is_ignored:
            raise NoBoundError(f"the attribute {name[:40]} of {call.operator} is not supported")
    for name, parameter in accepted.items():
        if name not in arguments and parameter is not variadic:
            arguments[name] = _default(call, parameter)
    positional = [call] if "call" in _signature(builder) else []
    positional += [arguments.pop(name) for name in positional_names]
    return partial(builder, *positional, *variadic_arguments, **arguments)


def _leave_out(call: Call, rule: OperatorRule, name: str, value: Value) -> None:
    """Refuse an input that the builder does not accept, unless the rule says that it may be ignored."""
    if isinstance(value, Data):
        refuse(call, name, value)
    elif name not in rule.ignored:
        raise NoBoundError(f"the input {name} of {call.operator} is not supported")


def _default(call: Call, parameter: inspect.Parameter) -> Any:
    """Return the value of a parameter for which the node has no argument; refuse a node that needs one."""
    if parameter.default is not parameter.empty:
        return parameter.default
    if type(None) not in _kinds(parameter):
        raise NoBoundError(f"the argument {parameter.name} of {call.operator} is missing")
    return None


def stated(call: Call, rule: OperatorRule) -> tuple[list[tuple[str, Value]], dict[str, tuple[Any, Any]]]:
    """Return a node's inputs with their names, and its attributes with their values and defaults, by the standard.

    Raises
    ------
    NoBoundError
        If the operator set is not known, or does not have such an input or attribute.
    """
    if not rule.since <= call.opset <= NEWEST:
        raise NoBoundError(
            f"{call.operator} of operator set {call.opset} is not supported; sets {rule.since} to {NEWEST} are"
        )
    schema = _schema(call.operator, call.opset, call.domain)
    return _inputs(call, schema), _attributes(call, schema)


def _inputs(call: Call, schema: Any) -> list[tuple[str, Value]]:
    """Return the inputs that are not left out, with their names."""
    names = [schema_input.name for schema_input in schema.inputs]
    if schema.inputs and schema.inputs[-1].option == schema.inputs[-1].option.Variadic:
        names += names[-1:] * (len(call.inputs) - len(names))
    if len(call.inputs) > len(names):
        raise NoBoundError(
            f"{call.operator} has {counted(len(call.inputs), 'input')}; at most {len(names)} are supported"
        )
    return [(name, value) for name, value in zip(names, call.inputs, strict=False) if value is not None]


def _attributes(call: Call, schema: Any) -> dict[str, tuple[Any, Any]]:
    """Return the attributes that have a value, as messages, with their defaults (None: there is no default)."""
    defaults: dict[str, Any] = {}
    for name, schema_attribute in schema.attributes.items():
        if schema_attribute.default_value.type:
            defaults[name] = schema_attribute.default_value
    attributes = {name: (default, default) for name, default in defaults.items()}
    for name, attribute in call.attributes.items():
        if name not in schema.attributes:
            raise NoBoundError(f"the attribute {name[:40]} of {call.operator} is not supported")
        if attribute.type != schema.attributes[name].type.value or attribute.ref_attr_name:
            raise NoBoundError(
                f"the attribute {name[:40]} of {call.operator} has another type than in the ONNX standard"
            )
        attributes[name] = (attribute, defaults.get(name))
    return attributes


def _converted(call: Call, attribute: Any) -> Any:
    """Return an attribute's value as a number, text, a tuple of numbers, or a constant."""
    value = plain(attribute)
    if isinstance(value, TensorProto):
        return call.describe(value)
    are_numbers = isinstance(value, tuple) and all(isinstance(n, int | float) for n in value)
    if not are_numbers and not isinstance(value, int | float | str):
        raise NoBoundError(f"the attribute {attribute.name[:40]} of {call.operator} has a type that is not supported")
    return value


def _differ(value: Any, default: Any) -> bool:
    """Whether an attribute has another value than its default, or has no default."""
    return default is None or bool(helper.get_attribute_value(value) != helper.get_attribute_value(default))


def _kinds(parameter: inspect.Parameter) -> tuple[Any, ...]:
    """Return the types that a parameter's annotation joins by ``|``."""
    annotation = parameter.annotation
    if annotation in (*_LISTS, Array):
        return (annotation,)
    return get_args(annotation) or (annotation,)


def _argument(call: Call, name: str, value: Value, parameter: inspect.Parameter) -> Any:
    """Return the input ``name`` as the argument that a builder's parameter accepts, or refuse it."""
    kinds = _kinds(parameter)
    number_kinds = [kind for kind in kinds if kind in (*_LISTS, *_SINGLE, Array)]
    if isinstance(value, Data):
        if Data not in kinds:
            refuse(call, name, value)
        return value
    if Constant in kinds:
        return value
    if not number_kinds:
        raise NoBoundError(f"the input {name} of {call.operator} is a constant, which is not supported")
    kind = number_kinds[0]
    if value.is_rounded:
        raise NoBoundError(
            f"the input {name} of {call.operator} is computed with rounding, and would be rounded to whole"
        )
    if value.size > MAX_FOLDED or value.refusal is not None:
        raise NoBoundError(f"the input {name} of {call.operator} cannot be read")
    array = value.load()
    if kind is Array:
        return array
    numbers = tuple(np.ravel(array).tolist())
    if kind in (Wholes, int) and any(n != int(n) for n in numbers):
        raise NoBoundError(f"the input {name} of {call.operator} contains numbers that are not integers")
    if kind in _SINGLE and len(numbers) != 1:
        raise NoBoundError(f"the input {name} of {call.operator} is not a scalar")
    return numbers[0] if kind in _SINGLE else numbers


def refuse(call: Call, name: str, value: Data) -> NoReturn:
    """Raise the error that an input must be a constant."""
    if not value.origins:
        raise NoBoundError(
            f"the input {name} of {call.operator} is computed from unknown sizes or constants: give the input shape"
        )
    raise NoBoundError(f"the input {name} of {call.operator} depends on the network's input")
