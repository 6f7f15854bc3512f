"""Functions that are written by exponentials which overflow: softplus, sigmoid, log-sum-exp, softmax, its logarithm."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def as_function(node: Node, structure: Structure) -> list[Node]:
    """Return ``log(1 + exp(u))`` as softplus of u; ``1 / (1 + exp(-u))``, ``exp(u) / (1 + exp(u))`` as its sigmoid.

    Also ``log(exp(u) + exp(v))``, and what JAX writes for it, as one operator.
    """
    if isinstance(node.operator, ops.Quotient):
        return [_sigmoid_by_quotient(node, structure)]
    if is_sum_of_two(node.operator):
        return [_log_of_sum_by_maximum(node, structure)]
    is_sigmoid = isinstance(node.operator, ops.Reciprocal) and node.operator.scale == 1
    if not (is_sigmoid or isinstance(node.operator, ops.Log)):
        raise NoPattern
    total = structure.input_of(node)
    number, summand = structure.sum_with_number(total)
    exponential = summand if number == 1 else node
    if not isinstance(exponential.operator, ops.Exp):
        if is_sigmoid or not is_sum_of_two(total.operator):
            raise NoPattern
        return [_log_add_exp(node, [_argument(structure.origin(name), structure) for name in total.inputs])]
    u = structure.input_of(exponential)
    if not is_sigmoid and u.shape == node.shape:
        return [replace(node, operator=ops.Softplus(), inputs=(u.name,))]
    scale = u.operator
    is_negation = isinstance(scale, ops.Negative)
    if isinstance(scale, ops.Scale):
        is_negation = scale.offset is None and scale.exact and bool(np.all(scale.values == -1))
    if not is_sigmoid or not is_negation or structure[u.inputs[0]].shape != node.shape:
        raise NoPattern
    return [replace(node, operator=ops.Sigmoid(), inputs=u.inputs)]


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


def as_shifted_softplus(node: Node, structure: Structure) -> list[Node]:
    """Return ``log(k + c exp(u))`` for numbers k, c > 0 as ``softplus(u - log(k / c)) + log(k)``."""
    if not isinstance(node.operator, ops.Log):
        raise NoPattern
    k, summand = structure.sum_with_number(structure.input_of(node))
    c, exponential = structure.multiple(summand)
    are_usual = 0 < k < math.inf and SMALLEST_FACTOR < c < 1 / SMALLEST_FACTOR
    if not are_usual or not isinstance(exponential.operator, ops.Exp) or exponential.shape != node.shape:
        raise NoPattern
    shift, unshift = math.log(c) - math.log(k), math.log(k)
    error = np.array(VALUE_ERROR * (1 + abs(math.log(c)) + abs(unshift)))
    down, up = (ops.Scale(np.array(1.0), partial(_pair, np.array(x), error), exact=True) for x in (shift, unshift))
    u = structure.added(node, "shifted", down, exponential.inputs, node.shape)
    softplus = structure.added(node, "softplus", ops.Softplus(), (u.name,), node.shape)
    return [u, softplus, replace(node, operator=up, inputs=(softplus.name,))]


def _pair(offset: FloatArray, error: FloatArray) -> tuple[FloatArray, FloatArray]:
    return offset, error


def as_sigmoid_of_product(node: Node, structure: Structure) -> list[Node]:
    """Return ``1 / (1 + exp(c u))`` as two nodes: -c u, and its sigmoid."""
    if not isinstance(node.operator, ops.Reciprocal):
        raise NoPattern
    number, exponential = structure.sum_with_number(structure.input_of(node))
    if number != 1 or not isinstance(exponential.operator, ops.Exp) or exponential.shape != node.shape:
        raise NoPattern
    negative = structure.added(node, "negative", ops.Negative(), exponential.inputs, node.shape)
    scale = node.operator.scale
    sigmoid = structure.added(node, "sigmoid", ops.Sigmoid(), (negative.name,), node.shape)
    if scale == 1:
        return [negative, replace(node, operator=ops.Sigmoid(), inputs=(negative.name,))]
    multiplied = ops.Scale(np.array(scale), exact=True)
    return [negative, sigmoid, replace(node, operator=multiplied, inputs=(sigmoid.name,))]


def _sigmoid_by_quotient(node: Node, structure: Structure) -> Node:
    exponential, total = map(structure.origin, node.inputs)
    number, summand = structure.sum_with_number(total)
    is_sigmoid = isinstance(exponential.operator, ops.Exp) and number == 1
    if not is_sigmoid or exponential.shape != node.shape or not are_alike(exponential, summand):
        raise NoPattern
    return replace(node, operator=ops.Sigmoid(), inputs=exponential.inputs)


def as_softmax(node: Node, structure: Structure) -> list[Node]:
    """Return ``exp(u) / sum(exp(u))`` as softmax, and ``u - log(sum(exp(u)))`` as its logarithm.

    If u is x less one number for each softmax, such as the maximum of x, it is that of x.
    """
    if isinstance(node.operator, ops.Quotient):
        exponential, (summed, axes) = structure.origin(node.inputs[0]), structure.reduction(node.inputs[1], ops.Sum)
        make: type[ops.Softmax | ops.LogSoftmax] = ops.Softmax
    elif is_difference(node.operator):
        logarithm = structure.before_broadcast(node.inputs[1])
        if not isinstance(logarithm.operator, ops.Log):
            raise NoPattern
        summed, axes = structure.reduction(logarithm.inputs[0], ops.Sum)
        exponential, make = summed, ops.LogSoftmax
    else:
        raise NoPattern
    if not isinstance(summed.operator, ops.Exp) or not are_alike(exponential, summed):
        raise NoPattern
    u = structure.input_of(summed)
    if make is ops.LogSoftmax and structure.origin(node.inputs[0]).name != u.name:
        raise NoPattern
    if is_difference(u.operator) and u.shape is not None:
        x, shift = structure.origin(u.inputs[0]), structure.before_broadcast(u.inputs[1])
        if x.shape == u.shape and shift.shape == kept_shape(u.shape, axes):
            u = x
    if u.shape is None or u.shape != node.shape:
        raise NoPattern
    return [replace(node, operator=make(axes), inputs=(u.name,))]


def as_negative_log_softmax(node: Node, structure: Structure) -> list[Node]:
    """Return ``u - log(sum(exp(u)))`` as the logarithm of softmax, and ``log(sum(exp(u))) - u`` as its negative."""
    if not is_difference(node.operator):
        raise NoPattern
    for sign, (first, second) in ((1, node.inputs), (-1, node.inputs[::-1])):
        u, total = structure.origin(first), structure.before_broadcast(second)
        reduced = structure.input_of(total) if isinstance(total.operator, ops.SameOrder) else total
        if isinstance(reduced.operator, ops.LogSumExp):
            source, axes = structure.input_of(reduced), reduced.operator.axes
        elif isinstance(reduced.operator, ops.Log):
            try:
                exponential, axes = structure.reduction(reduced.inputs[0], ops.Sum)
            except NoPattern:
                continue
            if not isinstance(exponential.operator, ops.Exp):
                continue
            source = structure.input_of(exponential)
        else:
            continue
        if source.name != u.name or u.shape is None or u.shape != node.shape:
            continue
        if total.shape != kept_shape(u.shape, axes):
            continue
        if sign == 1:
            return [replace(node, operator=ops.LogSoftmax(axes), inputs=(u.name,))]
        logarithm = structure.added(node, "log_softmax", ops.LogSoftmax(axes), (u.name,), node.shape)
        return [logarithm, replace(node, operator=ops.Negative(), inputs=(logarithm.name,))]
    raise NoPattern


def as_log_sum_exp(node: Node, structure: Structure) -> list[Node]:
    """Return ``log(c sum(w exp(u)))`` along axes as one operator of ``u + log(w)``, plus log(c); also of a mean.

    The factors c and w are positive. It is a later rule, since `as_softmax` reads ``u - log(sum(exp(u)))``. The
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
