"""Products and quotients: of values, with constants entry by entry, with matrices and with stacks of matrices."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from specnorm.certified.network import operators as ops
from specnorm.certified.network.operators import Operator, Unknown
from specnorm_torch.calls import Call, Made, Moving, first_of, is_value, numbers, offset, shape_of

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
    """With one constant matrix from either side, or many; attention that is written out."""
    second = mat2 if other is None else other
    if is_value(self) and is_value(second):
        return attention_written_out(call, self, second) or Unknown(PRODUCT)
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
    """With a stack of constant matrices, from either side; attention that is written out."""
    second = mat2 if other is None else other
    if is_value(self) and is_value(second):
        return attention_written_out(call, self, second) or Unknown(PRODUCT)
    right = is_value(self)
    value, constant = (self, second) if right else (second, self)
    shape = shape_of(value)
    if min(len(shape), constant.ndim) < 2 or call.shape[:-2] != shape[:-2]:
        return Unknown(f"it multiplies a value of shape {shape} by constants of shape {tuple(constant.shape)}")
    stack = (constant.mT if right else constant).reshape(-1, *constant.shape[-2:][:: -1 if right else 1])
    return matrices(call, value, stack, "...ij,...jk->...ik" if right else "...jk,...ij->...ik", constant)


def attention(
    call: Call, *, query: Moving, key: Moving, value: Moving, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None,
) -> Made | Operator:  # fmt: skip
    """With a constant mask, of numbers or of keys that are seen; where nothing is dropped."""
    del call, dropout_p
    shape, mask = shape_of(query), attn_mask
    if is_causal and mask is not None:
        return Unknown("it has a mask beside is_causal=True")
    if is_causal:
        mask = torch.ones(shape[-2], shape_of(key)[-2], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask.cpu(), -math.inf)
    added = None if mask is None else lambda: numbers(mask)
    factor = 1 / math.sqrt(shape[-1]) if scale is None else float(scale)
    return Made(ops.Attention(factor, added), (query, key, value))


_SAME = ("clone", "contiguous", "detach", "alias", "to", "_to_copy", "type_as")


def attention_written_out(call: Call, weights: Any, value: Any) -> Made | None:
    """``softmax(q k^T / c + mask) v``, with constants in between in any order; None of anything else."""
    label, given = _past_copies(call, weights)
    scores = given.get("self")
    if label not in ("softmax", "_softmax") or given["dim"] % len(shape_of(scores)) != len(shape_of(scores)) - 1:
        return None
    shape, factors, mask = shape_of(scores), [], np.zeros(())
    while True:
        label, given = _past_copies(call, scores)
        found = _factor(label, given)
        added = None if found is not None else _added(label, given)
        if found is not None:
            factors.append(found[1])
        elif added is not None:
            # What is multiplied after it was added stays as it is, where it is 0 or -inf and the factor positive.
            if not (np.isneginf(added[1]) | (added[1] == 0)).all() and factors:
                return None
            if any(not (factor.values > 0).all() for factor in factors):
                return None
            mask = mask + added[1]
        else:
            break
        scores = (found or added or (None,))[0]
        if shape_of(scores) != shape:
            return None
    if label not in ("matmul", "bmm"):
        return None
    query, key = given["self"], given.get("other", given.get("mat2"))
    if not (is_value(query) and is_value(key) and is_value(value)):
        return None
    ahead, ndim = shape[:-2], len(shape)
    if ndim < 2 or any(len(shape_of(x)) != ndim or shape_of(x)[:-2] != ahead for x in (query, key, value)):
        return None
    size = shape_of(query)
    for factor in factors:
        query = call.add(factor, (query,), size)
    turned = call.add(ops.Permute((*range(ndim - 2), ndim - 1, ndim - 2)), (key,), (*ahead, shape[-1], size[-1]))
    return Made(ops.Attention(1.0, (lambda: mask) if mask.any() else None), (query, turned, value))


def _past_copies(call: Call, value: Any) -> tuple[str, dict[Any, Any]]:
    """The operator that a value comes from, and its arguments; those that only copy are passed by.

    None of values in a lower precision than the result's: their rounding is not that of attention.
    """
    least = torch.finfo(first_of(call.node).dtype).eps
    while is_value(value) and first_of(value).is_floating_point() and torch.finfo(first_of(value).dtype).eps <= least:
        label, given = call.program.read(value)
        if label not in _SAME and not (label == "dropout" and given["train"] is False):
            return label, given
        value = given["input" if label == "dropout" else "self"]
    return "", {}


def _factor(label: str, given: dict[Any, Any]) -> tuple[Any, ops.Scale] | None:
    """A value times, or over, one number."""
    if label not in ("mul", "div") or given.get("rounding_mode") is not None:
        return None
    pair = given["self"], given["other"]
    value, constant = pair if is_value(pair[0]) else pair[::-1]
    if is_value(constant) or (label == "div" and value is not pair[0]) or numbers(constant).size != 1:
        return None
    number = numbers(constant).reshape(())
    if not np.isfinite(number) or not number:
        return None
    return value, ops.Scale(number, exact=True) if label == "mul" else ops.Scale(1 / number)


def _added(label: str, given: dict[Any, Any]) -> tuple[Any, Any] | None:
    """A value plus constants, or -inf in some places."""
    if label == "add" and given.get("alpha", 1) == 1:
        pair = given["self"], given["other"]
        value, constant = pair if is_value(pair[0]) else pair[::-1]
        return None if is_value(constant) else (value, numbers(constant))
    if label == "masked_fill":
        value, gone, filled, out = given["self"], given["mask"], given["value"], True
    elif label == "where":
        first = is_value(given["self"])
        value, filled = (given["self"], given["other"]) if first else (given["other"], given["self"])
        gone, out = given["condition"], not first
    else:
        return None
    if is_value(gone) or is_value(filled) or not is_value(value) or not np.isneginf(numbers(filled)).all():
        return None
    return value, np.where((numbers(gone) != 0) == out, -math.inf, 0.0)


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
