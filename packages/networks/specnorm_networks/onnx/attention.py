"""Products of two matrices that depend on the input, and ONNX's operator for attention."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators import NoBoundError
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.onnx.nodes import Call, Output, Value, numbers_of, shape_of
from specnorm_networks.onnx.tensors import Constant

PRODUCT = (
    "it multiplies two matrices that both depend on the input, as attention does, which has no Lipschitz constant: "
    "bound the parts of the network before and after it"
)


def product(a: Value | Output, b: Value | Output) -> Output:
    """Return the product of two stacks of matrices with the same leading axes."""
    before, other = shape_of(a), shape_of(b)
    is_product = len(before) == len(other) >= 2 and before[:-2] == other[:-2] and before[-1] == other[-2]
    if not is_product:
        raise NoBoundError(PRODUCT)
    return Output(ops.MatrixProduct(), (a, b), (*before[:-1], other[-1]))


def product_by_equation(equation: str, values: Sequence[Value]) -> Output:
    """Return a sum of products of two values, whose indices are letters, as one product of stacks of matrices.

    Each value has one index that the other one and the output lack or share: of rows, of columns, and the summed one.
    """
    terms, arrow, output = equation.partition("->")
    indices = terms.split(",")
    are_letters = all(x.isalpha() and len(set(x)) == len(x) for x in (*indices, output))
    if not arrow or len(values) != 2 or len(indices) != 2 or not are_letters:
        raise NoBoundError(PRODUCT)
    shared = [x for x in output if x in indices[0] and x in indices[1]]
    own = [[x for x in term if x not in shared and x in output] for term in indices]
    summed = [x for x in indices[0] if x in indices[1] and x not in output]
    has_matrices = len(own[0]) == len(own[1]) == len(summed) == 1
    expected = [sorted([*shared, *mine, *summed]) for mine in own]
    if not has_matrices or [sorted(term) for term in indices] != expected:
        raise NoBoundError(PRODUCT)
    # The value whose index comes first in the output is on the left.
    left = 0 if output.index(own[0][0]) < output.index(own[1][0]) else 1
    right = 1 - left
    rows = _permuted(values[left], indices[left], [*shared, *own[left], *summed])
    columns = _permuted(values[right], indices[right], [*shared, *summed, *own[right]])
    return _permuted(product(rows, columns), "".join([*shared, *own[left], *own[right]]), list(output))


def _permuted(value: Value | Output, indices: str, order: Sequence[str]) -> Output:
    """Return a value with its axes, which have the names ``indices``, in another order."""
    axes = tuple(indices.index(x) for x in order)
    shape = shape_of(value)
    if len(shape) != len(indices):
        raise NoBoundError(PRODUCT)
    return Output(ops.Permute(axes), (value,), tuple(shape[axis] for axis in axes))


def attention(
    call: Call,
    q: Value,
    k: Value,
    v: Value,
    attn_mask: Constant | None = None,
    /,
    *,
    is_causal: int = 0,
    kv_num_heads: int | None = None,
    q_num_heads: int | None = None,
    scale: float | None = None,
    softcap: float = 0.0,
) -> Output:
    """Return softmax attention; of values with three axes (samples, tokens, heads * size), heads are split and joined.

    A group of query heads that share keys and values reads copies of these.
    """
    if softcap:
        raise NoBoundError(f"softcap={softcap} of Attention is not supported")
    call.missed()  # rows for constants among queries, keys and values, and for those of which these are made
    has_heads_apart = len(shape_of(q)) == 4
    heads = (q_num_heads, kv_num_heads, kv_num_heads)
    queries, keys, values = (
        value if has_heads_apart else _split(value, count) for value, count in zip((q, k, v), heads, strict=True)
    )
    samples, count, n, size = shape_of(queries)
    key_shape, value_shape = shape_of(keys), shape_of(values)
    groups, rest = divmod(count, key_shape[1])
    m = key_shape[2]
    expected = (samples, key_shape[1], m)
    if rest or key_shape != (*expected, size) or value_shape[:3] != expected:
        raise NoBoundError(f"queries {shape_of(queries)}, keys {key_shape} and values {value_shape} do not fit")
    if groups > 1:
        keys, values = (_repeated(value, groups) for value in (keys, values))
    stated = attn_mask is not None or is_causal
    bias = None if not stated else _bias(attn_mask, bool(is_causal), (samples, count, n, m))
    factor = math.nextafter(1 / math.sqrt(size), math.inf) if scale is None else scale
    shape = (samples, count, n, value_shape[3])
    attended = Output(ops.Attention(factor, bias), (queries, keys, values), shape)
    return attended if has_heads_apart else _joined(attended)


def _split(value: Value, heads: int | None) -> Output:
    """Return a value (samples, tokens, heads * size) as (samples, heads, tokens, size)."""
    shape = shape_of(value)
    if len(shape) != 3 or not heads or shape[2] % heads:
        raise NoBoundError(f"a value of shape {shape} has no {heads} heads")
    samples, tokens, width = shape
    split = (samples, tokens, heads, width // heads)
    apart = Output(ops.Reshape((0, *split[1:]), copies=True), (value,), split)
    return Output(ops.Permute((0, 2, 1, 3)), (apart,), (samples, heads, tokens, width // heads))


def _joined(value: Output) -> Output:
    """Return a value (samples, heads, tokens, size) as (samples, tokens, heads * size)."""
    samples, heads, tokens, size = shape_of(value)
    together = Output(ops.Permute((0, 2, 1, 3)), (value,), (samples, tokens, heads, size))
    return Output(ops.Reshape((0, tokens, heads * size), copies=True), (together,), (samples, tokens, heads * size))


def _repeated(value: Value | Output, groups: int) -> Output:
    samples, heads, tokens, size = shape_of(value)
    index = np.repeat(np.arange(heads), groups)
    return Output(ops.Gather(1, index), (value,), (samples, heads * groups, tokens, size))


def _bias(mask: Constant | None, is_causal: bool, shape: tuple[int, ...]) -> Callable[[], FloatArray]:
    numbers = np.zeros(())
    if mask is not None:
        if not (0 < len(mask.shape) <= 4 and mask.shape[-1] == shape[-1]):
            raise NoBoundError(f"a mask of shape {mask.shape} for scores of shape {shape} is not supported")
        if mask.dtype == "bool":
            numbers_of(mask)
            numbers = np.where(mask.load(), 0.0, -math.inf)
        else:
            numbers = numbers_of(mask)
        np.broadcast_shapes(numbers.shape, shape)
    if is_causal:
        n, m = shape[-2:]
        if mask is not None and mask.shape[-2:] != (n, m):  # implementations read rows of one mask in other ways
            raise NoBoundError(f"a mask of shape {mask.shape} for causal scores of shape {shape} is not supported")
        numbers = np.where(np.arange(m) <= np.arange(n)[:, None], numbers, -math.inf)
    return partial(np.asarray, numbers)
