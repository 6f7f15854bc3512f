"""Bound softmax attention on tokens of bounded length, by Lemma 8.

The steps A to D are those of the README of this folder, section Lemma 8. Queries, keys
and values are read as matrices times tokens; `factors` computes the lemma's numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from specnorm_check.arithmetic import (
    UNDERFLOW,
    Array,
    frobenius_up,
    inflation,
    require,
    root_up,
)
from specnorm_check.graphs import Graph, Node
from specnorm_check.moves import MOVES, moved
from specnorm_check.rules import ONE

SQUARINGS = 9  # of a Gram matrix
SMALL_STEP = 2**24  # of the exponential
MOST_NUMBERS = 2**26  # of the entries of one value, and of one matrix
NORMALISATIONS = {"LayerNormalization", "RMSNormalization"}


# -- matrices --------------------------------------------------------------------------
def norm_up(matrix: Array, error: Fraction = Fraction(0)) -> Fraction:
    """Return an upper bound of the norm of a matrix, whose error has a norm (Step D)."""
    largest = float(np.abs(matrix).max(initial=0.0))
    require(math.isfinite(largest), "a matrix with entries that are not finite")
    if largest == 0:
        return error
    _, shift = math.frexp(largest)
    a = np.ldexp(matrix.astype(np.float64), -shift)
    a = a.T if a.shape[0] > a.shape[1] else a
    square = symmetric_norm_up(symmetric(a @ a.T), SQUARINGS)
    return root_up(square + rounding_of_product(a, a)) * Fraction(2) ** shift + error


def symmetric_norm_up(g: Array, squarings: int) -> Fraction:
    """Return an upper bound of the norm of a symmetric matrix (Step D)."""
    if squarings == 0:
        return frobenius_up(g)
    _, shift = math.frexp(float(np.abs(g).max()))
    g = np.ldexp(g, -shift)
    square = symmetric_norm_up(symmetric(g @ g), squarings - 1)
    return root_up(square + rounding_of_product(g, g)) * Fraction(2) ** shift


def symmetric(a: Array) -> Array:
    """Return the symmetric matrix with the upper triangle of a matrix."""
    return np.asarray(np.triu(a) + np.triu(a, 1).T)


def rounding_of_product(left: Array, right: Array) -> Fraction:
    """Return a bound of the norm of the rounding error of a product of matrices."""
    length = left.shape[1] if left.ndim > 1 else 1
    size = frobenius_up(left) * frobenius_up(right)
    return size * Fraction(length + 4, 2**51) + UNDERFLOW


# -- tokens (Step A) -------------------------------------------------------------------
@dataclass(frozen=True)
class Tokens:
    """A value whose entries are rows of a matrix times tokens, and constants.

    The tokens have at most the ``length``. Their difference is at most ``factor`` times
    that of the value ``start``. ``tokens`` and ``rows`` have the number of the token and
    of the row for each entry of the value; entries of constants have the token -1.
    """

    start: str
    factor: Fraction
    length: Fraction
    tokens: Array
    rows: Array
    matrix: Array
    error: Fraction
    offset: Array
    offset_error: Fraction


def tokens_of(graph: Graph, name: str) -> Tokens:
    """Return a value as tokens times a matrix; refused if it is no such value."""
    chain: list[str] = []
    start = None
    while start is None:
        require(name in graph.nodes, "tokens of an unknown length")
        require(math.prod(graph.shape_of(name)) < MOST_NUMBERS, "too many tokens")
        start = ball(graph, name)
        if start is None:
            changing = graph.changing_inputs(name)
            op = graph.nodes[name].op
            require(len(changing) == 1, f"tokens of an unknown length, before {op}")
            chain.append(name)
            name = changing[0]
    for name in reversed(chain):
        start = next_tokens(graph, name, start)
    return start


def ball(graph: Graph, name: str) -> Tokens | None:
    """Return a value that a normalization computes, as its own tokens (Step A)."""
    node = graph.nodes[name]
    if node.op in NORMALISATIONS:
        return normalised(graph, name)
    if node.op == "Mul":
        for x, shrunk in (node.inputs, node.inputs[::-1]):
            radius = clip_of(graph, x, shrunk)
            if radius is not None:
                return of_value(graph, name, x, *radius)
    return None


def of_value(graph: Graph, name: str, x: str, factor: Fraction, r: Fraction) -> Tokens:
    """Return a value as tokens along its last axis, which have the length r."""
    shape = graph.shape_of(name)
    require(graph.shape_of(x) == shape, "a normalization that broadcasts")
    size = shape[-1]
    require(size**2 < MOST_NUMBERS, "tokens with too many entries")
    count = math.prod(shape) // size
    numbers = np.broadcast_to(np.arange(count).reshape(*shape[:-1], 1), shape)
    rows = np.broadcast_to(np.arange(size), shape)
    zero = Fraction(0)
    return Tokens(x, factor, r, numbers, rows, np.eye(size), zero, np.zeros(shape), zero)


def clip_of(graph: Graph, x: str, name: str) -> tuple[Fraction, Fraction] | None:
    """Return (h, c) if a value is min(h, c / (|x| + e)) along the last axis of x."""
    node = graph.nodes.get(name, Node("", [], {}))
    limits = scalars(graph, node)
    given = [*map(bool, node.inputs)]  # no further limits, and not a lower one
    is_limit = given in ([True, True], [True, False, True]) and len(limits) == 1
    if not is_limit or node.op != ("Min", "Clip")[len(given) - 2]:
        return None
    h, c = limits[0], ONE
    name = graph.changing_inputs(name)[0]
    while graph.nodes[name].op == "Mul" and len(scalars(graph, graph.nodes[name])) == 1:
        c *= scalars(graph, graph.nodes[name])[0]
        name = graph.changing_inputs(name)[0]
    if graph.nodes[name].op != "Reciprocal":
        return None
    total = graph.nodes[graph.nodes[name].inputs[0]]
    numbers = scalars(graph, total)
    if total.op != "Add" or len(numbers) != 1:
        return None
    length = next(each for each in total.inputs if each not in graph.arrays)
    norm = graph.nodes[length]
    is_length = norm.op == "ReduceL2" and norm.inputs[0] == x
    shape = graph.shape_of(x)
    is_along_last = graph.shape_of(length) == (*shape[:-1], 1) and shape[-1] > 1
    if not is_length or not is_along_last or min(h, c) < 0 or numbers[0] <= 0:
        return None
    return h, c


def scalars(graph: Graph, node: Node) -> list[Fraction]:
    """Return the numbers among the inputs; an empty list if others are arrays, too."""
    arrays = [graph.arrays[x] for x in node.inputs if x in graph.arrays]
    if any(x.size != 1 or not math.isfinite(float(x.item())) for x in arrays):
        return []
    return [Fraction(float(x.item())) for x in arrays]


def normalised(graph: Graph, name: str) -> Tokens:
    """Return a layer norm or an RMS norm as its gain times tokens (Step A)."""
    node = graph.nodes[name]
    gain, *others = (numbers_of(graph, each) for each in node.inputs[1:] if each)
    shape = graph.shape_of(name)
    axis = node.attributes.get("axis", -1) % len(shape)
    epsilon = Fraction(node.attributes.get("epsilon", float(np.float32(1e-5))))
    is_along_last = axis == len(shape) - 1 and gain.shape == shape[-1:]
    require(is_along_last and epsilon > 0, "a norm over other axes, or without epsilon")
    factor = 1 / root_down(epsilon)
    found = of_value(graph, name, node.inputs[0], factor, root_up(Fraction(shape[-1])))
    shift = others[0] if others else np.zeros(shape[-1:])
    require(shift.shape == shape[-1:], "a norm with a bias of another shape")
    offset = np.broadcast_to(shift, shape)
    return replace(found, matrix=np.diag(gain), offset=offset)


def root_down(x: Fraction) -> Fraction:
    """Return a number just below the square root."""
    scaled = math.isqrt(math.floor(x * 4**100))
    require(scaled > 0, "an epsilon too small")
    return Fraction(scaled, 2**100)


def next_tokens(graph: Graph, name: str, before: Tokens) -> Tokens:
    """Return what an operator makes of tokens times a matrix (Step A)."""
    node = graph.nodes[name]
    (source,) = graph.changing_inputs(name)
    shape = graph.shape_of(name)
    if node.op == "Add":
        require(graph.shape_of(source) == shape, "an Add that broadcasts tokens")
        other = next(each for each in node.inputs if each != source)
        offset = before.offset + numbers_of(graph, other)
        parts = before.matrix, before.error, offset, before.offset_error
        return affine(before, *parts)
    if node.op in ("Mul", "Div") and len(scalars(graph, node)) == 1:
        number = scalars(graph, node)[0]
        require(number != 0 and node.inputs[0] == source, "a product with 0")
        number = number if node.op == "Mul" else 1 / number
        size = abs(number)
        matrix = before.matrix * float(number)
        error = before.error * size + frobenius_up(matrix) / 2**50
        offset = before.offset * float(number)
        return affine(before, matrix, error, offset, before.offset_error * size)
    if node.op in ("MatMul", "Gemm"):
        return multiplied(graph, node, before)
    require(node.op in MOVES, f"tokens of an unknown length, before {node.op}")
    # Numbers are moved from 1 on, so that constants have the number 0.
    arrays = (before.tokens + 1, before.rows, before.offset)
    tokens, rows, offset = (moved(graph, name, {source: each}) for each in arrays)
    return replace(before, tokens=tokens - 1, rows=rows, offset=offset)


def numbers_of(graph: Graph, name: str) -> Array:
    """Return the numbers of an array of the file, all of them finite."""
    require(name in graph.arrays, "tokens of an unknown length, before an operator")
    numbers = graph.arrays[name].astype(np.float64)
    require(np.isfinite(numbers).all(), "an array with entries that are not finite")
    return numbers


def affine(
    before: Tokens,
    matrix: Array,
    error: Fraction,
    offset: Array,
    offset_error: Fraction,
    **places: Any,
) -> Tokens:
    """Return tokens times a matrix and constants, which were rounded once more."""
    largest = Fraction(float(np.abs(offset).max(initial=0.0)))
    rounded = offset_error + largest * Fraction(offset.shape[-1], 2**50)
    found = replace(before, matrix=matrix, error=error, offset=offset, **places)
    return replace(found, offset_error=rounded)


def multiplied(graph: Graph, node: Node, before: Tokens) -> Tokens:
    """Return tokens times a matrix that is multiplied by one more, from the left."""
    kernel = kernel_of(graph, node)
    tokens, rows = before.tokens, before.rows
    own_rows = rows.reshape(-1, rows.shape[-1])[0]
    is_of_tokens = (tokens == tokens[..., :1]).all() and (rows == own_rows).all()
    require(is_of_tokens and tokens.min() >= 0, "a matrix that mixes tokens")
    read = before.matrix[own_rows]
    norm = frobenius_up(kernel)
    shape = (*tokens.shape[:-1], len(kernel))
    offset = before.offset @ kernel.T
    if node.op == "Gemm" and len(node.inputs) > 2 and node.inputs[2]:
        offset = offset + numbers_of(graph, node.inputs[2])
    lengths = np.sqrt(np.square(before.offset).sum(axis=-1))
    size = norm * Fraction(float(lengths.max(initial=0.0))) * inflation(len(own_rows))
    offset_error = norm * before.offset_error + size * Fraction(len(own_rows) + 4, 2**50)
    return affine(
        before,
        kernel @ read,
        norm * before.error + rounding_of_product(kernel, read),
        offset,
        offset_error,
        tokens=np.broadcast_to(tokens[..., :1], shape),
        rows=np.broadcast_to(np.arange(len(kernel)), shape),
    )


def kernel_of(graph: Graph, node: Node) -> Array:
    """Return the matrix K of a product x K^T along the last axis."""
    is_plain = all(node.attributes.get(each, 1) == 1 for each in ("alpha", "beta"))
    second = node.inputs[1]
    has_matrix = second in graph.arrays and graph.arrays[second].ndim == 2
    require(has_matrix and is_plain, f"a {node.op} that is no product with a matrix")
    kernel = numbers_of(graph, second)
    return kernel if node.attributes.get("transB") else np.asarray(kernel.T)


# -- attention -------------------------------------------------------------------------
@dataclass(frozen=True)
class Read:
    """Attention of queries, keys and values, with a scale and kept scores (n, m)."""

    q: Tokens
    k: Tokens
    v: Tokens
    scale: Fraction
    kept: Array


def attention_of(graph: Graph, name: str) -> Read | None:
    """Return the attention that a value is, or None."""
    node = graph.nodes[name]
    if node.op == "Attention":
        return attention_of_operator(graph, node)
    if node.op != "MatMul" or len(graph.changing_inputs(name)) != 2:
        return None
    weights, values = node.inputs
    softmax = graph.nodes[weights]
    rank = len(graph.shape_of(name))
    if softmax.op != "Softmax" or softmax.attributes.get("axis", -1) % rank != rank - 1:
        return None
    return attention_written_out(graph, softmax.inputs[0], values)


def attention_of_operator(graph: Graph, node: Node) -> Read:
    """Return the attention of ONNX's operator, whose values have four axes."""
    q, k, v = (tokens_of(graph, each) for each in node.inputs[:3])
    masks = [graph.arrays[each] for each in node.inputs[3:4] if each in graph.arrays]
    others = [each for each in node.inputs[3:] if each]
    require(len(others) == len(masks), "attention with a computed mask, or a cache")
    is_split = q.tokens.ndim == k.tokens.ndim == v.tokens.ndim == 4
    require(is_split, "attention of values with other axes than four")
    size = q.tokens.shape[-1]
    scale = node.attributes.get("scale")
    number = 1 / root_down(Fraction(size)) if scale is None else Fraction(scale)
    n, m = q.tokens.shape[-2], k.tokens.shape[-2]
    kept = np.ones((n, m), bool)
    is_causal = bool(node.attributes.get("is_causal"))
    if is_causal:
        kept = np.tril(kept)
    for mask in masks:
        # ONNX fills rows of a shorter mask with -infinity; its own implementation
        # cuts a mask of one row as the first row of a causal mask.
        is_whole = mask.shape[-1:] == (m,)
        require(is_whole, "attention with a mask of another number of keys")
        has_rows = not is_causal or mask.shape[-2:] == (n, m)
        require(has_rows, "causal attention with a mask of another number of rows")
        kept = kept & kept_by(mask)
    return Read(q, k, v, number, kept)


def attention_written_out(graph: Graph, scores: str, values: str) -> Read:
    """Return the attention whose softmax reads ``scores``, a product of queries and keys.

    Numbers may multiply the product, and masks be added to it.
    """
    scale = ONE
    kept = np.ones(graph.shape_of(scores)[-2:], bool)
    while graph.nodes[scores].op != "MatMul":
        step = graph.nodes[scores]
        numbers = scalars(graph, step)
        (before,) = graph.changing_inputs(scores)
        require(graph.shape_of(before) == graph.shape_of(scores), "scores that broadcast")
        is_product = step.op == "Mul" or (step.op == "Div" and step.inputs[0] == before)
        if is_product and len(numbers) == 1 and numbers[0] != 0:
            scale = scale * numbers[0] if step.op == "Mul" else scale / numbers[0]
        else:
            arrays = [graph.arrays[each] for each in step.inputs if each in graph.arrays]
            require(step.op == "Add" and len(arrays) == 1, f"scores with a {step.op}")
            kept = kept & kept_by(arrays[0])
        scores = before
    require(len(graph.changing_inputs(scores)) == 2, "scores of constants")
    q, k = (tokens_of(graph, each) for each in graph.nodes[scores].inputs)
    swapped = [np.swapaxes(each, -1, -2) for each in (k.tokens, k.rows, k.offset)]
    k = replace(k, tokens=swapped[0], rows=swapped[1], offset=swapped[2])
    return Read(q, k, tokens_of(graph, values), scale, kept)


def kept_by(mask: Array) -> Array:
    """Return which scores a mask of 0 and -infinity, or of truth values, keeps."""
    if mask.dtype != bool:
        is_mask = np.isin(mask, (0.0, -np.inf)).all()
        require(is_mask, "scores with biases other than 0 and -infinity")
        mask = mask == 0
    require(mask.ndim > 1, "a mask without rows")
    of_heads = mask.reshape(-1, *mask.shape[-2:])
    require((of_heads == of_heads[:1]).all(), "heads with other masks")
    return np.asarray(of_heads[0])


Factor = tuple[str, Fraction]


def factors_of_value(graph: Graph, name: str) -> list[Factor]:
    """Return values, each with the factor of its difference; their sum bounds a value.

    The list is empty for values that are no normalization, product with a matrix or
    attention. Refused are those whose tokens have no known length.
    """
    node = graph.nodes[name]
    start = ball(graph, name)
    if start is not None:
        return [(start.start, start.factor * norm_up(start.matrix))]
    if node.op == "MatMul" and graph.changing_inputs(name) == node.inputs[:1]:
        return [(node.inputs[0], norm_up(kernel_of(graph, node)))]
    read = attention_of(graph, name)
    if read is None:
        return []
    of_queries, of_keys, together = factors(read)
    if is_same(read.q, read.k):
        return [(read.q.start, together * read.q.factor)]
    keys = (read.k.start, of_keys * read.k.factor)
    return [(read.q.start, of_queries * read.q.factor), keys]


def is_same(one: Tokens, other: Tokens) -> bool:
    """Return whether two values are of the same tokens."""
    parts = ("start", "factor", "length")
    return all(getattr(one, part) == getattr(other, part) for part in parts)


def factors(read: Read) -> tuple[Fraction, Fraction, Fraction]:
    """Return the factors of queries, of keys and values, and of both (Steps B and C)."""
    q, k, v = read.q, read.k, read.v
    require(is_same(k, v), "keys and values of other tokens")
    shapes = [each.tokens.shape[:-1] for each in (q, k, v)]
    require(shapes[0][:-1] == shapes[1][:-1] and shapes[1] == shapes[2], "heads differ")
    require(q.tokens.shape[-1] == k.tokens.shape[-1], "queries and keys of other sizes")
    sums: list[dict[int, Fraction]] = [{}, {}, {}]  # of squares, for each token
    for index in np.ndindex(shapes[0][:-1]):
        heads = [head_of(each, index) for each in (q, k, v)]
        numbers = [each.tokens[index][:, 0].tolist() for each in (q, k, v)]
        require(numbers[1] == numbers[2], "keys and values of other tokens")
        in_order = is_same(q, k) and numbers[0] == numbers[1]
        of_head = factors_of_head(read, heads, in_order)
        tokens = ({*numbers[0]}, {*numbers[1]}, {*numbers[0], *numbers[1]})
        for total, factor, of_factor in zip(sums, of_head, tokens, strict=True):
            for token in of_factor:
                total[token] = total.get(token, Fraction(0)) + factor**2
    first, second, third = (root_up(max(total.values())) for total in sums)
    return first, second, third


@dataclass(frozen=True)
class Head:
    """The matrix of one head, its norm, and the constants: a middle and distances."""

    matrix: Array
    error: Fraction
    norm: Fraction
    middle: Array
    distance: Fraction


def head_of(value: Tokens, index: tuple[int, ...]) -> Head:
    """Return the matrix and the constants of one head (Step B)."""
    tokens, rows = value.tokens[index], value.rows[index]
    is_of_tokens = (tokens == tokens[:, :1]).all() and (rows == rows[:1]).all()
    is_distinct = len(np.unique(tokens[:, 0])) == len(tokens) and tokens.min() >= 0
    require(is_of_tokens and is_distinct, "heads that do not read whole tokens")
    matrix = value.matrix[rows[0]]
    offset = value.offset[index]
    middle = (offset.min(axis=0) + offset.max(axis=0)) / 2
    distances = np.sqrt(np.square(offset - middle).sum(axis=1))
    largest = Fraction(float(distances.max())) * inflation(len(middle)) + UNDERFLOW
    norm = norm_up(matrix, value.error)
    return Head(matrix, value.error, norm, middle, largest + value.offset_error)


def factors_of_head(
    read: Read, heads: list[Head], in_order: bool
) -> tuple[Fraction, Fraction, Fraction]:
    """Return alpha, sigma and the factor of both together for one head (Step C).

    The letters are those of the lemma; r_q is r'.
    """
    query, key, value = heads
    beta, gamma, eta = query.distance, key.distance, value.distance
    s = abs(read.scale) if read.kept.shape[1] > 1 else Fraction(0)
    r_q, r = read.q.length, read.k.length
    k_q = norm_of_product(key, query.matrix, query.error)
    k_b = norm_of_product(key, query.middle[:, None], Fraction(0))
    b = frobenius_up(query.middle)
    a = s * (k_q * r_q + k_b + key.norm * beta)
    u = a * r + s * (query.norm * r_q + b + beta) * gamma
    g = (a * (value.norm * r + eta)) ** 2
    v_square = value.norm**2
    of_tokens = value.norm * r * gamma + eta * key.norm * r + eta * gamma
    alpha = s * (value.norm * k_q * r**2 + query.norm * of_tokens)

    counts = read.kept.sum(axis=1).tolist()
    by_count = {n: gain(limit_of_weights(n, u), v_square, g) for n in set(counts)}
    gains = np.array([by_count[n] for n in counts])  # G(t_i) of each row
    columns = [sum(gains[column].tolist(), Fraction(0)) for column in read.kept.T]
    sigma = root_up(max(columns))
    together = alpha + sigma
    if in_order:
        twice_nu = root_up(v_square + g) + root_up(len(gains) * max(gains))
        cross = min(twice_nu, 2 * sigma) * alpha
        together = min(together, root_up(alpha**2 + cross + sigma**2))
    return alpha, sigma, together


def norm_of_product(head: Head, other: Array, error: Fraction) -> Fraction:
    """Return a bound of the norm of the transpose of a head's matrix times another."""
    sizes = frobenius_up(head.matrix), frobenius_up(other)
    errors = head.error * sizes[1] + sizes[0] * error + head.error * error
    rounding = rounding_of_product(head.matrix.T, other)
    return norm_up(head.matrix.T @ other, errors + rounding)


def limit_of_weights(count: int, u: Fraction) -> Fraction:
    """Return t, a limit of a weight among so many, whose scores differ by 2 u."""
    if count < 1:
        return Fraction(0)
    return 1 / (1 + (count - 1) * exp_down(2 * u))


def exp_down(x: Fraction) -> Fraction:
    """Return a lower bound of exp(-x): (1 - x / s)^s, rounded down."""
    if x >= SMALL_STEP:
        return Fraction(0)
    power = 1 - x / SMALL_STEP
    for _ in range(SMALL_STEP.bit_length() - 1):
        power = power * power
        bits = 200 + power.denominator.bit_length() - power.numerator.bit_length()
        power = Fraction(math.floor(power * 2**bits), 2**bits)
    return power


def gain(limit: Fraction, v_square: Fraction, g: Fraction) -> Fraction:
    """Return G: the largest p (v_square + g w(p)) for p up to the limit (Step C)."""
    if limit <= Fraction(1, 2) or g == 0:
        return rounded_up(limit * (v_square + g))
    # Beyond 1/2 it rises up to the zero of its derivative, and then falls. Its second
    # derivative is at most 16 g.
    root = root_up(1 + Fraction(3, 4) * v_square / g)
    p = min((1 + root) / 3, limit)
    return rounded_up(p * (v_square + 4 * g * p * (1 - p)) + 8 * g / 2**100)


def rounded_up(x: Fraction) -> Fraction:
    """Return a multiple of 2^-200 just above a number."""
    return Fraction(math.ceil(x * 2**200), 2**200)
