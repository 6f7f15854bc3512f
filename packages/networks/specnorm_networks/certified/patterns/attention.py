"""Softmax attention that is written out: two products of matrices, with a softmax, numbers and masks between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import partial

import numpy as np

from specnorm.proof import host
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.patterns.structure import NoPattern, Structure, is_sum_of_two

MASKED = -1e4
"""A score that replaces another, as ``masked_fill`` does, is read as a bias if it is at most this number: the weight of
its key is below exp(-5000), unless all keys of the row are masked or scores differ by thousands."""


def as_inner_product(node: Node, structure: Structure) -> list[Node]:
    """Return the sum along an axis of products with rows of a table as one operator."""
    if not isinstance(node.operator, ops.Sum) or len(node.operator.axes) != 1:
        raise NoPattern
    product = structure.origin(node.inputs[0])
    if not isinstance(product.operator, ops.Product) or product.shape is None:
        raise NoPattern
    factors = [structure[name] for name in product.inputs]
    has_rows = any(isinstance(structure.origin(factor.name).operator, ops.Lookup) for factor in factors)
    if not has_rows or any(factor.shape != product.shape for factor in factors):
        raise NoPattern
    (axis,) = node.operator.axes
    operator = ops.InnerProduct(axis, node.operator.keep)
    return [replace(node, operator=operator, inputs=product.inputs)]


def as_attention(node: Node, structure: Structure) -> list[Node]:
    """Return ``softmax(scale q k^T + bias) v`` as one node, where k^T is the transpose of keys."""
    if not isinstance(node.operator, ops.MatrixProduct) or node.shape is None:
        raise NoPattern
    softmax = structure.origin(node.inputs[0])
    last = len(node.shape) - 1
    if not isinstance(softmax.operator, ops.Softmax) or softmax.operator.axes != (last,):
        raise NoPattern
    scale, bias, product = _scores(structure.input_of(softmax), structure)
    if product.shape is None or len(product.shape) != len(node.shape):
        raise NoPattern
    queries, keys = (structure[name] for name in product.inputs)
    if keys.shape is None:
        raise NoPattern
    order = (*range(last - 1), last, last - 1)
    shape = tuple(keys.shape[axis] for axis in order)
    transposed = structure.added(node, "keys", ops.Permute(order), (keys.name,), shape)
    attention = ops.Attention(_rounded_up(scale), bias)
    return [transposed, replace(node, operator=attention, inputs=(queries.name, transposed.name, node.inputs[1]))]


def _scores(node: Node, structure: Structure) -> tuple[Fraction, Callable[[], FloatArray] | None, Node]:
    """Return the number and the bias with which a softmax reads a product of matrices, and the product."""
    scale = Fraction(1)
    bias: FloatArray | None = None
    while not isinstance(node.operator, ops.MatrixProduct):
        if isinstance(node.operator, ops.Where):
            numbers, node = _masked(node, structure)
        elif is_sum_of_two(node.operator):
            numbers, node = _added(node, structure)
        else:
            factor, before = structure.multiple(node)
            if before is node:
                raise NoPattern
            scale, node = scale * factor, before
            continue
        if bias is not None or scale != 1:
            # The numbers would be rounded: a few roundings of small numbers are counted with exp (ERROR_OF_BIASES).
            numbers = _moderate(numbers) * float(scale)
            bias = numbers if bias is None else _moderate(bias) + numbers
        else:
            bias = numbers
    return scale, None if bias is None else partial(np.asarray, bias), node


def _moderate(numbers: FloatArray) -> FloatArray:
    if not np.all((abs(numbers) < 64) | (numbers == -math.inf)):
        raise NoPattern
    return numbers


def _added(node: Node, structure: Structure) -> tuple[FloatArray, Node]:
    """Return the constant that is added to a value of the same shape, and that value."""
    for name, constant in (node.inputs, node.inputs[::-1]):
        if structure[constant].is_constant and structure[name].shape == node.shape:
            return np.asarray(structure[constant].operator.run(), np.float64), structure.origin(name)
    raise NoPattern


def _masked(node: Node, structure: Structure) -> tuple[FloatArray, Node]:
    """Return 0 and the number that replaces masked entries, as a bias, and the value whose entries are replaced."""
    assert isinstance(node.operator, ops.Where)
    mask = np.asarray(node.operator.mask(), dtype=bool)
    first, second = (structure[name] for name in node.inputs)
    for value, filling, is_kept in ((first, second, mask), (second, first, ~mask)):
        if value.shape == node.shape and filling.is_constant:
            numbers = np.asarray(filling.operator.run(), np.float64)
            if not np.all(numbers <= MASKED):
                raise NoPattern
            return np.where(is_kept, 0.0, numbers), structure.origin(value.name)
    raise NoPattern


def _rounded_up(number: Fraction) -> float:
    """Return the float next to a number whose absolute value is not smaller."""
    size = host.float_up(abs(number))
    if not math.isfinite(size):
        raise NoPattern
    return math.copysign(size, number)
