"""Products and quotients: of values, with constants entry by entry, with matrices and with stacks of matrices."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import Operator, Unknown
from torch import Tensor

from specnorm_torch.calls import Call, Made, Moving, is_value, numbers, offset, shape_of

PRODUCT = "it is a product of two values that depend on the input, which has no constant"


def multiply(_: Call, *, self: Moving, other: Moving) -> Made:
    """Of values, or by constants."""
    if is_value(self) and is_value(other):
        return Made(ops.Product(), (self, other))
    value, constant = (self, other) if is_value(self) else (other, self)
    return Made(ops.Scale(numbers(constant), exact=True), (value,))


def divide(call: Call, *, self: Moving, other: Moving) -> Made:
    """By constants, of a number, or of values."""
    if not is_value(other):
        with np.errstate(divide="ignore"):
            return Made(ops.Scale(1 / numbers(other)), (self,))
    if not is_value(self) and numbers(self).size == 1 and call.shape == shape_of(other):
        return Made(ops.Reciprocal(float(numbers(self).reshape(()))), (other,))
    return Made(ops.Quotient(), (self, other))


def linear(call: Call, *, input: Moving, weight: Moving, bias: Tensor | None = None) -> Made | Operator:
    """A layer; or a constant times a matrix of weights that move."""
    if is_value(input) and is_value(weight):
        return Unknown(PRODUCT)
    constant: Tensor = input if is_value(weight) else weight
    if constant.ndim != 2 or len(shape_of(weight)) != 2:
        return Unknown(f"its constant matrix has shape {tuple(constant.shape)}")
    if is_value(input):
        return Made(ops.Matrix(call.layer(weight), offset(bias)), (input,))
    turned = ops.Permute((1, 0)), call.shape
    added = [] if bias is None else [(ops.Scale(np.ones(()), offset(bias), exact=True), call.shape)]
    return call.chain(weight, (ops.Matrix(call.layer(input)), call.shape[::-1]), turned, *added)


def matmul(call: Call, *, self: Moving, other: Moving = None, mat2: Moving = None) -> Made | Operator:
    """With one constant matrix from either side, or many."""
    second = mat2 if other is None else other
    if is_value(self) and is_value(second):
        return Unknown(PRODUCT)
    return _matrix(call, self, second) or stacked(call, self=self, other=other, mat2=mat2)


def addmm(
    call: Call, *, self: Tensor, mat1: Moving, mat2: Moving, beta: float = 1, alpha: float = 1
) -> Made | Operator:
    """A constant, times a number, and a product, times another."""
    return _matrix(call, mat1, mat2, float(alpha), offset(self, float(beta))) or Unknown(PRODUCT)


def _matrix(call: Call, first: Any, second: Any, alpha: float = 1.0, bias: Any = None) -> Made | Operator | None:
    """Of a value and a constant matrix; None where it is none."""
    if is_value(first) and is_value(second):
        return Unknown(PRODUCT)
    right = is_value(first)
    value, constant = (first, second) if right else (second, first)
    if constant.ndim > 2:
        return None
    if constant.ndim < 2:
        return Unknown(f"its constant matrix has shape {tuple(constant.shape)}")
    # A vector behind a matrix is as one before it.
    side: Literal["left", "right"] = "right" if right or len(shape_of(value)) == 1 else "left"
    return Made(ops.Matrix(call.layer(constant, transposed=right), bias, alpha, side), (value,))


def stacked(call: Call, *, self: Moving, other: Moving = None, mat2: Moving = None) -> Made | Operator:
    """With a stack of constant matrices, from either side."""
    second = mat2 if other is None else other
    if is_value(self) and is_value(second):
        return Unknown(PRODUCT)
    right = is_value(self)
    value, constant = (self, second) if right else (second, self)
    shape = shape_of(value)
    if min(len(shape), constant.ndim) < 2 or call.shape[:-2] != shape[:-2]:
        return Unknown(f"it multiplies a value of shape {shape} by constants of shape {tuple(constant.shape)}")
    stack = (constant.mT if right else constant).reshape(-1, *constant.shape[-2:][:: -1 if right else 1])
    return matrices(call, value, stack, "...ij,...jk->...ik" if right else "...jk,...ij->...ik", constant)


def einsum(call: Call, *, equation: str, tensors: Moving) -> Made | Operator:
    """A value and constants: one matrix for each choice of the indices that both have and keep."""
    values = [x for x in tensors if is_value(x)]
    if len(values) > 1:
        return Unknown(PRODUCT)
    equation = equation.replace(" ", "")
    terms, arrow, out = equation.partition("->")
    names, unknown = terms.split(","), Unknown(f"its equation {equation} has no rule")
    plain = all(x.isalpha() and len(set(x)) == len(x) for x in (*names, out) if x)
    if not arrow or len(tensors) != 2 or not plain:
        return unknown
    at = list(tensors).index(values[0])
    constant: Tensor = tensors[1 - at]
    ours, theirs = names[at], names[1 - at]
    summed, new = ([x for x in theirs if x in ours and x not in out], [x for x in theirs if x not in ours])
    sizes, known = (dict(zip(n, shape_of(x), strict=True)) for n, x in ((ours, values[0]), (theirs, constant)))
    # Nothing else is summed, and nothing repeated.
    if set(ours + theirs) - set(out) != set(summed) or any(sizes[x] != known[x] for x in ours if x in known):
        return unknown
    shared = [x for x in theirs if x in ours and x in out]
    rows, columns = (math.prod(known[x] for x in group) for group in (new, summed))
    stack = constant.permute([theirs.index(x) for x in (*shared, *new, *summed)]).reshape(-1, rows, columns)
    return matrices(call, values[0], stack, f"{ours},{theirs}->{out}", constant)


def matrices(call: Call, value: Any, stack: Tensor, equation: str, constant: Tensor) -> Made:
    """A block-diagonal map: at most the largest norm of its blocks, a stack of which each reads entries of its own."""
    return Made(ops.Matrices(call.layer(stack), equation, lambda: numbers(constant)), (value,))
