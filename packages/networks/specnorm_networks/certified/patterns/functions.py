"""Functions that are written by exponentials which overflow: softplus, sigmoid, log-sum-exp, softmax, its logarithm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.operators.curved import VALUE_ERROR
from specnorm_networks.certified.patterns.structure import (
    NoPattern,
    Structure,
    are_alike,
    is_difference,
    is_sum_of_two,
    kept_shape,
)

SMALLEST_FACTOR = 1e-300
"""Factors of exponentials below it, or above its inverse, are not read."""


def as_softplus(node: Node, structure: Structure) -> list[Node]:
    """Return ``log(k + c exp(u))`` for numbers k, c > 0 as ``softplus(u - log(k / c)) + log(k)``.

    Also ``log(exp(u) + exp(v))``, and what JAX writes for it, as one operator.
    """
    if is_sum_of_two(node.operator):
        return [_log_of_sum_by_maximum(node, structure)]
    if not isinstance(node.operator, ops.Log):
        raise NoPattern
    total = structure.input_of(node)
    k, summand = structure.sum_with_number(total)
    c, exponential = structure.multiple(summand)
    if not k and is_sum_of_two(total.operator):
        return [_log_add_exp(node, [_argument(structure.origin(name), structure) for name in total.inputs])]
    are_usual = 0 < k < math.inf and SMALLEST_FACTOR < c < 1 / SMALLEST_FACTOR
    x = _argument(exponential, structure)
    if not are_usual or x.shape != node.shape:
        raise NoPattern
    if k == c == 1:
        return [replace(node, operator=ops.Softplus(), inputs=(x.name,))]
    shift, unshift = math.log(c) - math.log(k), math.log(k)
    error = np.array(VALUE_ERROR * (1 + abs(math.log(c)) + abs(unshift)))
    down, up = (ops.Scale(np.array(1.0), partial(_pair, np.array(x), error), exact=True) for x in (shift, unshift))
    u = structure.added(node, "shifted", down, exponential.inputs, node.shape)
    softplus = structure.added(node, "softplus", ops.Softplus(), (u.name,), node.shape)
    return [u, softplus, replace(node, operator=up, inputs=(softplus.name,))]


def _pair(offset: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    return offset, error


def _log_add_exp(node: Node, values: Sequence[Node]) -> Node:
    if node.shape is None or any(value.shape != node.shape for value in values):
        raise NoPattern
    return replace(node, operator=ops.LogAddExp(), inputs=tuple(value.name for value in values))


def _argument(node: Node, structure: Structure) -> Node:
    """Return the value whose exponential a node is."""
    if not isinstance(node.operator, ops.Exp):
        raise NoPattern
    return structure.input_of(node)


def _log_of_sum_by_maximum(node: Node, structure: Structure) -> Node:
    """Return ``max(u, v) + softplus(-|u - v|)`` as ``log(exp(u) + exp(v))``."""
    for first, second in (node.inputs, node.inputs[::-1]):
        largest, softplus = structure.origin(first), structure.origin(second)
        if not isinstance(largest.operator, ops.Maximum) or not isinstance(softplus.operator, ops.Softplus):
            continue
        negative = structure.input_of(softplus)
        distance = structure.input_of(negative)
        if not isinstance(negative.operator, ops.Negative) or not isinstance(distance.operator, ops.Abs):
            continue
        difference = structure.input_of(distance)
        if is_difference(difference.operator) and structure.are_same_pair(largest.inputs, difference.inputs):
            return _log_add_exp(node, [structure[name] for name in largest.inputs])
    raise NoPattern


def as_sigmoid(node: Node, structure: Structure) -> list[Node]:
    """Return ``exp(u) / (1 + exp(u))`` as the sigmoid of u, and ``c / (1 + exp(u))`` as c times the sigmoid of -u."""
    if not isinstance(node.operator, ops.Quotient | ops.Reciprocal):
        raise NoPattern
    number, exponential = structure.sum_with_number(structure.origin(node.inputs[-1]))
    if number != 1 or not isinstance(exponential.operator, ops.Exp) or exponential.shape != node.shape:
        raise NoPattern
    if isinstance(node.operator, ops.Quotient):
        if not are_alike(structure.origin(node.inputs[0]), exponential):
            raise NoPattern
        return [replace(node, operator=ops.Sigmoid(), inputs=exponential.inputs)]
    negative = structure.added(node, "negative", ops.Negative(), exponential.inputs, node.shape)
    if node.operator.scale == 1:
        return [negative, replace(node, operator=ops.Sigmoid(), inputs=(negative.name,))]
    sigmoid = structure.added(node, "sigmoid", ops.Sigmoid(), (negative.name,), node.shape)
    multiplied = ops.Scale(np.array(node.operator.scale), exact=True)
    return [negative, sigmoid, replace(node, operator=multiplied, inputs=(sigmoid.name,))]


def as_softmax(node: Node, structure: Structure) -> list[Node]:
    """Return ``exp(u) / sum(exp(u))`` as softmax."""
    if not isinstance(node.operator, ops.Quotient):
        raise NoPattern
    exponential, (summed, axes) = structure.origin(node.inputs[0]), structure.reduction(node.inputs[1], ops.Sum)
    u = _unshifted(_argument(summed, structure), axes, structure)
    if not are_alike(exponential, summed) or u.shape is None or u.shape != node.shape:
        raise NoPattern
    return [replace(node, operator=ops.Softmax(axes), inputs=(u.name,))]


def _unshifted(u: Node, axes: tuple[int, ...], structure: Structure) -> Node:
    """Return x for x less one number for each softmax, such as the maximum of x; for any other value itself."""
    if is_difference(u.operator) and u.shape is not None:
        x, shift = structure.origin(u.inputs[0]), structure.before_broadcast(u.inputs[1])
        if x.shape == u.shape and shift.shape == kept_shape(u.shape, axes):
            return x
    return u


def as_log_softmax(node: Node, structure: Structure) -> list[Node]:
    """Return ``u - log(sum(exp(u)))`` as the logarithm of softmax, and ``log(sum(exp(u))) - u`` as its negative."""
    if not is_difference(node.operator):
        raise NoPattern
    for is_negative, (first, second) in enumerate((node.inputs, node.inputs[::-1])):
        with suppress(NoPattern):
            u = structure.origin(first)
            operator = ops.LogSoftmax(_axes_of_log_sum_exp(second, u, structure))
            u = _unshifted(u, operator.axes, structure)
            if u.shape != node.shape:
                raise NoPattern
            if not is_negative:
                return [replace(node, operator=operator, inputs=(u.name,))]
            logarithm = structure.added(node, "log_softmax", operator, (u.name,), node.shape)
            return [logarithm, replace(node, operator=ops.Negative(), inputs=(logarithm.name,))]
    raise NoPattern


def _axes_of_log_sum_exp(name: str, u: Node, structure: Structure) -> tuple[int, ...]:
    """Return the axes along which a value is the log-sum-exp of u; it has size 1 there, or is broadcast along them."""
    total = structure.before_broadcast(name)
    reduced = structure.input_of(total) if isinstance(total.operator, ops.SameOrder) else total
    if isinstance(reduced.operator, ops.LogSumExp):
        source, axes = structure.input_of(reduced), reduced.operator.axes
    elif isinstance(reduced.operator, ops.Log):
        exponential, axes = structure.reduction(reduced.inputs[0], ops.Sum)
        source = _argument(exponential, structure)
    else:
        raise NoPattern
    if source.name != u.name or u.shape is None or total.shape != kept_shape(u.shape, axes):
        raise NoPattern
    return axes


def as_log_sum_exp(node: Node, structure: Structure) -> list[Node]:
    """Return ``log(c sum(w exp(u)))`` along axes as one operator of ``u + log(w)``, plus log(c); also of a mean.

    The factors c and w are positive. It is a later rule, since `as_log_softmax` reads ``u - log(sum(exp(u)))``. The
    logarithm of an empty sum is left.
    """
    if not isinstance(node.operator, ops.Log):
        raise NoPattern
    multiple = structure.input_of(node)
    c, of_multiple = structure.multiple(multiple)
    reader = node if of_multiple is multiple else multiple
    try:
        summand, axes, keep = structure.summed(reader)
    except NoPattern:
        summand, axes, keep = structure.summed(reader, ops.Mean)
        if summand.shape is not None:
            c /= max(math.prod(summand.shape[axis] for axis in axes), 1)
    w, exponential = _factors(summand, structure)
    if not isinstance(exponential.operator, ops.Exp) or exponential.shape is None or 0 in exponential.shape:
        raise NoPattern
    if reader.shape != node.shape or not SMALLEST_FACTOR < c < 1 / SMALLEST_FACTOR:
        raise NoPattern
    nodes, name = [], exponential.inputs[0]
    if np.any(w != 1):
        shifted = structure.added(node, "shifted", _plus(np.log(w)), (name,), exponential.shape)
        nodes, name = [shifted], shifted.name
    operator = ops.LogSumExp(axes, keep)
    if c == 1:
        return [*nodes, replace(node, operator=operator, inputs=(name,))]
    total = structure.added(node, "log_sum_exp", operator, (name,), node.shape)
    return [*nodes, total, replace(node, operator=_plus(np.array(math.log(c))), inputs=(total.name,))]


def _factors(node: Node, structure: Structure) -> tuple[FloatArray, Node]:
    """Return positive factors by which a value is multiplied, and the value's origin; 1 and the node if there are none.

    `NoPattern` if a factor is not positive, or the value is broadcast.
    """
    scale = node.operator
    if not isinstance(scale, ops.Scale):
        return np.ones(()), node
    factors = np.asarray(scale.values, dtype=np.float64)
    is_known = scale.offset is None and (scale.exact or scale.divisors is not None)
    are_usual = np.all((factors > SMALLEST_FACTOR) & (factors < 1 / SMALLEST_FACTOR))
    if not is_known or not are_usual or structure[node.inputs[0]].shape != node.shape:
        raise NoPattern
    return factors, structure.input_of(node)


def _plus(numbers: FloatArray) -> ops.Scale:
    """Return the operator that adds logarithms to a value."""
    error = VALUE_ERROR * (1 + abs(numbers))
    return ops.Scale(np.array(1.0), partial(_pair, numbers, error), exact=True)
