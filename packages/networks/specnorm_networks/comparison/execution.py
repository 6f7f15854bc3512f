"""Execute a graph in float64 with a bound of the error of each value, and bound distances of such values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import visible
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import Affine, FloatArray, Function, NotRunError, Operator, Place
from specnorm_networks.certified.patterns.curves.composite import OfOneValue
from specnorm_networks.certified.subjects import Inputs

ROUNDING = 2.0**-38
"""Error of a value computed in float64, as a share of the sizes of its terms: that of 2^14 roundings."""
ERROR_OF_SUBNORMALS = 2.0**-1060
"""Error of a value by roundings of subnormal numbers: that of 2^14 of them."""
ERROR_OF_LENGTH = 2.0**-29
"""Relative error of a computed length: that of 2^24 roundings. No length has more."""
MOST_ENTRIES = 2**24
"""Largest number of entries of values in memory at once; each has an error beside it."""


@dataclass(frozen=True, eq=False)
class Value:
    """A computed value, and a first-order bound of the difference of each entry from the value in exact arithmetic."""

    value: FloatArray
    error: FloatArray | float = 0.0
    """Infinite where nothing is known: of a quotient whose divisor is smaller than its error."""


def execute(node: Node, inputs: Sequence[Value], tolerance: float = ROUNDING) -> Value:
    """Return a node's value. Its error counts the node's own error and the errors of the inputs.

    ``tolerance``: the node's own error, as a share of the sizes of its terms.

    Raises
    ------
    NotRunError
        If the operator cannot be executed here.
    """
    with np.errstate(all="ignore"):
        try:
            return _execute(node.operator, inputs, tolerance)
        except (ValueError, IndexError, TypeError, MemoryError) as error:
            raise NotRunError(f"{type(error).__name__}: {error}") from error


def _execute(operator: Operator, inputs: Sequence[Value], tolerance: float) -> Value:
    if isinstance(operator, OfOneValue):
        steps = [*inputs]
        for step, reads in operator.program:
            steps.append(_execute(step, [steps[number] for number in reads], tolerance))
        return steps[-1]
    values = [operand.value for operand in inputs]
    value = operator.run(*values)
    error_of_value = tolerance * operator.size_of_terms(values, value) + ERROR_OF_SUBNORMALS
    if any(np.any(operand.error) for operand in inputs):
        error_of_value = error_of_value + _change_by_errors(operator, inputs, value)
    return Value(value, error_of_value)


def _change_by_errors(operator: Operator, inputs: Sequence[Value], value: FloatArray) -> FloatArray | float:
    """Return how far a value changes, at most and to first order, if its inputs change by their errors."""
    shapes = tuple(operand.value.shape for operand in inputs)
    errors = [np.broadcast_to(np.asarray(operand.error, dtype=np.float64), operand.value.shape) for operand in inputs]
    linear = operator.linear_map(Place(shapes, value.shape)) if isinstance(operator, Affine) else None
    if linear is not None:
        change: FloatArray = linear.absolute([error[None] for error in errors])[0]
        return _known(change, value)

    def largest_change(*moved: int) -> FloatArray:
        """Return the larger change of the value, if the inputs of these numbers change by their errors at once."""
        change: FloatArray = np.zeros(value.shape)
        for sign in (1, -1):
            shifted = []
            for number, (operand, error) in enumerate(zip(inputs, errors, strict=True)):
                shift = sign * error if number in moved else 0.0
                shifted.append(_defined(operator, operand.value, operand.value + shift))
            change = np.maximum(change, _known(abs(operator.run(*shifted) - value), value))
        return change

    numbers = range(len(inputs))
    at_once = largest_change(*numbers)
    if len(inputs) == 1:
        return 2 * at_once
    # Changes of two inputs may cancel if they are made at once.
    return 2 * np.maximum(at_once, sum(map(largest_change, numbers)))


def _defined(operator: Operator, value: FloatArray, shifted: FloatArray) -> FloatArray:
    """Return shifted arguments, none below 0 if the operator is defined for none: the exact argument is not."""
    if isinstance(operator, Function) and operator.positive:
        return np.where(value >= 0, np.maximum(shifted, 0.0), shifted)
    return shifted


def _known(change: FloatArray, value: FloatArray) -> FloatArray:
    """Return changes of numbers, infinite where they cannot be computed."""
    return np.where(np.isnan(change) & ~np.isnan(value), math.inf, change)


def run_with_errors(graph: Graph, inputs: Mapping[str, FloatArray]) -> Iterator[tuple[str, Value | None]]:
    """Yield the name of every node with its value; None if it cannot be computed here, or takes too much memory.

    Raises
    ------
    MethodError
        If a value has another shape than the graph states.
    """
    unread_after = graph.last_readers()
    values: dict[str, Value] = {}
    entries = 0
    for number, node in enumerate(graph.nodes):
        value = None
        if node.is_input:
            if node.name in inputs:
                value = Value(np.asarray(inputs[node.name], dtype=np.float64))
        elif all(name in values for name in node.inputs) and entries + math.prod(node.shape or ()) <= MOST_ENTRIES:
            with suppress(NotRunError):
                value = execute(node, [values[name] for name in node.inputs])
                if node.known is not None:
                    jump = node.known.error_of_jump(values[node.inputs[0]].value)
                    value = replace(value, error=value.error + jump)
        if value is not None:
            if node.shape not in (None, value.value.shape):
                raise MethodError(
                    f"Node {visible(node.name)} is said to have shape {node.shape}; it has {value.value.shape}. "
                    "Constants depend on it: no bound is given."
                )
            values[node.name] = value
            entries += value.value.size
        for name in unread_after.get(number, ()):
            if name in values:
                entries -= values.pop(name).value.size
        yield node.name, value


# -- distances ---------------------------------------------------------------------------------------------------------
def moved_up(one: Inputs, other: Inputs) -> float:
    """Return the distance of two inputs, and its error: the 2-norm of the differences of all their arrays."""
    distance_sq = sum(float(np.square(one[name] - other[name]).sum()) for name in one)
    return math.sqrt(distance_sq) * (1 + ERROR_OF_LENGTH)


def apart_down(one: Value, other: Value) -> float:
    """Return the distance of two values, less the errors; entries that are not finite count as equal."""
    with np.errstate(all="ignore"):
        difference: FloatArray = abs(one.value - other.value) - (one.error + other.error)
        difference = np.where(np.isfinite(difference), np.maximum(difference, 0.0), 0.0)
        length = float(np.linalg.norm(difference)) * (1 - ERROR_OF_LENGTH)
    return length if math.isfinite(length) else 0.0


def inside(radius: float) -> float:
    """Return a radius slightly smaller than a ball's: a point computed at that distance lies in the ball."""
    return radius * (1 - ERROR_OF_LENGTH)
