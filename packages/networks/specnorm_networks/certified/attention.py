"""Prove the constant of softmax attention with respect to the tokens that its queries, keys and values are made of.

Queries, keys and values are affine maps of tokens: ``q_i = W_q x'_i + b_q``, ``k_j = W_k x_j + b_k`` and
``v_j = W_v x_j + b_v``, with ``|x'_i| <= R'`` and ``|x_j| <= R``. Let ``A = scale W_k^T W_q`` and
``a_i = scale W_k^T q_i``, so that ``|a_i| <= a = |A| R' + |scale W_k^T b_q|``. What is added to all keys does not
change the weights, and what is added to all values does not change covariances. So ``b_k`` and ``b_v`` are what
differs from token to token, of lengths of at most d_k and d_v. Row i changes by::

    dy_i = scale C_i W_q dx'_i + sum_j P_ij (W_v dx_j + (v_j - y_i) (a_i . dx_j)),

where C_i is the covariance of values and keys under P_i.

1. *Queries.* ``|scale C_i W_q| <= alpha``, with ``alpha = |W_v| |A| R^2`` if d_k = d_v = 0. Otherwise the covariances
   with what differs are added: ``|scale W_q| (|W_v| R d_k + d_v |W_k| R + d_v d_k)``.
2. *Keys and values.* For a unit vector w the changes of the x_j in ``w . dy_i`` are ``sum_j P_ij z_ij . dx_j`` with
   ``z_ij = W_v^T w + (w . (v_j - y_i)) a_i``. The mean of ``v_j - y_i`` is 0, so
   ``sum_j P_ij |z_ij|^2 <= |W_v|^2 Y(p)`` with ``Y(p) = 1 + b^2 spread(p)`` and ``b = a (R + d_v / |W_v|)``, where p is
   the largest weight of the row. By the Cauchy-Schwarz inequality, and since Y falls with p, the sum over all rows is
   at most ``|W_v| sigma |dx|``, where sigma^2 is the largest column sum of ``max(p Y(p) : p <= limit of P_ij)``.
   A single key has the weight 1 at every scale, which is taken for 0 then.
3. *Both*, if queries and keys are of the same tokens in the same order. Let N be the matrix of the ``P_ij |z_ij|``. The
   squared sum of both is at most ``alpha^2 + 2 alpha nu + |W_v|^2 sigma^2``, where nu is the largest
   ``sum_ij |w_i| N_ij |w_j|`` for sum |w_i|^2 = 1. Row i of it is at most ``|w_i| |W_v| root(Y(t) q . w^2)`` with a
   distribution q <= t, where t is the row's largest weight. The best t and q depend on w alone. With T = q . w^2 / t,
   splitting each |w_i| into the shares q_i / t and 1 - q_i / t shows that ``root(q . w^2) sum_i |w_i|`` is at most
   ``T + root((n t - 1) T (1 - T)) <= (1 + root(n t)) / 2``. So
   ``nu <= |W_v| (root(Y(0)) + root(n max(t Y(t)))) / 2``, and also ``nu <= |W_v| sigma``.
4. *Heads.* Heads with constants L_h that read the same tokens have the root of the sum of L_h^2. In general it is the
   root of the largest sum over the heads that read a token.

The scores of a row differ by at most ``2 (a R + |scale| |q_i| d_k)``, which bounds the weights
(`operators.attention.largest_weights`). A score that a mask replaces by -10^4 or less has no a_i. Its weight is at most
exp(-5000) if the half spread is at most 2000, which the roundings that are counted cover, so the mean of the others'
``v_j - y_i`` may be taken for 0.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import (
    ArrayOps,
    HypothesisError,
    Interval,
    Upper,
    backends,
    host,
    make_upper,
    matrix_norm_up,
    point,
)
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified import rules
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.lengths import LazyLengths
from specnorm_networks.certified.operators.attention import largest_column, largest_weights
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError, Shape
from specnorm_networks.certified.operators.layers import Products, products_of
from specnorm_networks.certified.rules import Scope

RULE = "attention, tokens of bounded length"
MOST_ENTRIES = 2**24
"""Largest number of entries of values and matrices that are followed."""
LARGEST_HALF_SPREAD = 2000.0
"""Largest half spread of scores for which masked keys have no weight."""


@dataclass(frozen=True, eq=False)
class Projection:
    """A value whose every entry is an entry of a matrix times one token of an earlier value, and a constant.

    Tokens are the vectors of the earlier value along one axis.
    """

    source: str
    """Name of the earlier value."""
    length: float
    """Bound on the lengths of the tokens."""
    tokens: NDArray[Any]
    """Number of the token, for each entry of the value."""
    rows: NDArray[Any]
    """Row of the matrix, for each entry of the value."""
    matrix: FloatArray
    error: float
    """Bound on the Frobenius norm of the error of the matrix."""
    offset: Interval
    """The constants."""


@dataclass(frozen=True)
class Factors:
    """Numbers by which changes of the tokens of queries, and of keys and values, change attention together."""

    queries_from: str
    keys_from: str
    queries: float
    keys: float
    together: float
    """Number for both together, if they are of the same tokens."""


def factors_of_attention(graph: Graph, node: Node, lengths: LazyLengths) -> Factors:
    """Return the factors of a node of attention; `NoBoundError` if there are none."""
    attention = node.operator
    assert isinstance(attention, ops.Attention)
    q, k, v = (projection(graph, name, lengths) for name in node.inputs)
    if k.source != v.source or not all(math.isfinite(each.length) for each in (q, k, v)):
        raise NoBoundError
    same_source = q.source == k.source
    squares_by_token: tuple[Any, ...] = tuple(defaultdict(float) for _ in range(3))
    found: dict[Any, tuple[float, float, float]] = {}
    biases = None if attention.bias is None else np.asarray(attention.bias(), np.float64)
    leading = q.tokens.shape[:-2]
    size = abs(attention.scale) if k.tokens.shape[-2] > 1 else 0.0
    for index in np.ndindex(leading):
        query, key, value = (_Head.of(each, index) for each in (q, k, v))
        if not np.array_equal(key.tokens, value.tokens):
            raise NoBoundError
        in_order = same_source and np.array_equal(query.tokens, key.tokens)
        bias = None
        if biases is not None:
            shape = np.broadcast_shapes(biases.shape, (*leading, 1, 1))
            bias = np.broadcast_to(biases, shape)[index]
        parts = [part.tobytes() for head in (query, key, value) for part in (head.rows, *head.offset)]
        mark = (in_order, None if bias is None else bias.tobytes(), *parts)
        if mark not in found:
            found[mark] = _of_head(size, bias, q, k, v, query, key, value, in_order)
        by_query, by_key, together = found[mark]
        for token in query.tokens:
            squares_by_token[0][token] += by_query**2
        for token in key.tokens:
            squares_by_token[1][token] += by_key**2
        for token in {*query.tokens, *key.tokens}:
            squares_by_token[2][token] += together**2
    count = math.prod(leading)
    largest = [max(squares.values(), default=0.0) for squares in squares_by_token]
    return Factors(q.source, k.source, *(host.sqrt_up(host.inflate(square, count + 2)) for square in largest))


def claim_of_attention(scope: Scope, node: Node, factors: Factors, claims: Sequence[Upper]) -> Upper:
    """Return the constant of attention from those of its sources: of the queries' tokens, and of the keys' tokens."""
    scope.check(node)
    start = rules.map_of_claim(claims[0]).start
    sources = (factors.queries_from, factors.keys_from)
    if [rules.map_of_claim(claim) for claim in claims] != [scope.map(start, name) for name in sources]:
        raise HypothesisError(f"{node.name} is computed from {sources}: {[str(claim.what) for claim in claims]}")
    if factors.queries_from == factors.keys_from:
        factor = make_upper(factors.together, scope.map(factors.keys_from, node.name), RULE)
        return rules.composed(factor, claims[0])
    terms = [host.mul_up(factors.queries, claims[0].value), host.mul_up(factors.keys, claims[1].value)]
    return make_upper(host.add_up(*terms), scope.map(start, node.name), RULE, *claims)


@dataclass(frozen=True, eq=False)
class _Head:
    """Queries, keys or values of one head."""

    tokens: NDArray[Any]
    """Numbers of the tokens, in order."""
    rows: NDArray[Any]
    """Rows of the projection's matrix."""
    offset: tuple[FloatArray, FloatArray]
    """Low and high ends of the constants (tokens, size)."""

    @classmethod
    def of(cls, projection: Projection, index: tuple[int, ...]) -> _Head:
        tokens, rows = projection.tokens[index], projection.rows[index]
        is_made_of_tokens = (tokens == tokens[:, :1]).all() and (rows == rows[:1]).all()
        if not is_made_of_tokens or len(np.unique(tokens[:, 0])) < len(tokens) or (tokens < 0).any():
            raise NoBoundError
        return cls(tokens[:, 0], rows[0], (projection.offset.low[index], projection.offset.high[index]))

    def middle(self) -> tuple[FloatArray, float]:
        """Return the middle of the constants of all tokens, and the largest distance from it, rounded up."""
        low, high = self.offset
        middle = (low.min(axis=0) + high.max(axis=0)) / 2
        distances = host.next_up(np.maximum(abs(low - middle), abs(high - middle)))
        return middle, float(np.max(host.norm_up(distances), initial=0.0))


def _of_head(
    size: float,
    bias: FloatArray | None,
    q: Projection,
    k: Projection,
    v: Projection,
    query: _Head,
    key: _Head,
    value: _Head,
    in_order: bool,
) -> tuple[float, float, float]:
    """Return the factors of one head: of queries, of keys and values, and of both together."""
    of_queries, of_keys, of_values = (_Rows.of(each, head) for each, head in ((q, query), (k, key), (v, value)))
    middle, query_distance = query.middle()
    _, key_distance = key.middle()
    _, value_distance = value.middle()
    # A computed constant may differ by roundings from token to token, where the exact ones are equal.
    shifted = of_keys.transposed_times(middle[:, None])
    scores = of_keys.transposed_times(of_queries.matrix, of_queries.error)
    differing = host.mul_up(of_keys.norm, query_distance)
    a = host.mul_up(size, host.add_up(host.mul_up(scores, q.length), shifted, differing))
    query_length = host.add_up(host.mul_up(of_queries.norm, q.length), float(host.norm_up(middle)), query_distance)
    half_spread = host.add_up(host.mul_up(a, k.length), host.mul_up(size, query_length, key_distance))
    if bias is not None and half_spread > LARGEST_HALF_SPREAD:
        raise NoBoundError
    n, m = len(query.tokens), len(key.tokens)
    weights = largest_weights(None if bias is None else lambda: bias, (n, 1), (m, 1), half_spread)
    value_norm = of_values.norm
    square = host.mul_up(value_norm, value_norm)
    radius = host.add_up(host.mul_up(value_norm, v.length), value_distance)
    spread = host.mul_up(a, a, radius, radius)  # |W_v|^2 b^2
    by_key = host.sqrt_up(largest_column(weights, square, spread))
    differing = host.add_up(
        host.mul_up(value_norm, v.length, key_distance),
        host.mul_up(value_distance, of_keys.norm, k.length),
        host.mul_up(value_distance, key_distance),
    )
    by_query = host.add_up(
        host.mul_up(size, value_norm, scores, k.length, k.length),
        host.mul_up(size, of_queries.norm, differing),
    )
    together = host.add_up(by_query, by_key)
    if in_order:
        most = np.full((n, 1), float(np.max(weights, initial=0.0)))
        of_all = host.sqrt_up(largest_column(most, square, spread))
        twice_nu = min(host.add_up(host.sqrt_up(host.add_up(square, spread)), of_all), host.mul_up(2.0, by_key))
        terms = ((by_query, by_query), (by_query, twice_nu), (by_key, by_key))
        together = min(together, host.sqrt_up(host.add_up(*(host.mul_up(*term) for term in terms))))
    return by_query, by_key, together


@dataclass(frozen=True, eq=False)
class _Rows:
    """Some rows of a projection's matrix, with a bound on their norm."""

    matrix: FloatArray
    error: float
    norm: float

    @classmethod
    def of(cls, projection: Projection, head: _Head) -> _Rows:
        matrix = projection.matrix[head.rows]
        return cls(matrix, projection.error, norm_up(matrix, projection.error))

    def transposed_times(self, other: FloatArray, error: float = 0.0) -> float:
        """Return a bound on the norm of the transpose times another matrix, whose error has at most a norm."""
        sizes = [float(host.norm_up(each.reshape(-1))) for each in (self.matrix, other)]
        rounding = host.mul_up(sizes[0], sizes[1], (len(other) + 4) * 2.0**-52)
        errors = (host.mul_up(self.error, sizes[1]), host.mul_up(sizes[0], error), host.mul_up(self.error, error))
        return norm_up(self.matrix.T @ other, host.add_up(rounding, *errors, 2.0**-1000))


def norm_up(matrix: FloatArray, error: float = 0.0) -> float:
    """Return an upper bound on the norm of a matrix with an error of a norm; `NoBoundError` if it is infinite."""
    largest = float(np.max(abs(matrix), initial=0.0))
    if not math.isfinite(largest) or not matrix.size:
        raise NoBoundError
    _, exponent = math.frexp(largest)
    scaled: Any = np.ldexp(matrix, -exponent)[None]
    upper: Any = matrix_norm_up(scaled, matrix.size * 2.0**-1000, ops=ArrayOps.of(backends.backend_for(scaled), scaled))
    return host.add_up(host.next_up(math.ldexp(float(upper[0]), exponent)), error) if largest else error


# -- projections -------------------------------------------------------------------------------------------------------
def projection(graph: Graph, name: str, lengths: LazyLengths) -> Projection:
    """Return a value as a projection of the earliest value of which it is one."""
    chain = [graph.by_name[name]]
    while (before := _affine_source(graph, chain[-1])) is not None:
        chain.append(before)
    start = chain.pop()
    found = _tokens(start, lengths)
    while chain:
        node = chain.pop()
        try:
            found = _next(graph, node, found)
        except NoBoundError:
            found = _tokens(node, lengths)
    return found


def _affine_source(graph: Graph, node: Node) -> Node | None:
    """Return the only value that an affine node reads and that is not a constant; None for other nodes."""
    changing = [name for name in node.inputs if not graph.by_name[name].is_constant]
    is_affine = node.affine is not None or isinstance(node.operator, ops.Matrices)
    return graph.by_name[changing[0]] if is_affine and len(changing) == 1 else None


def _tokens(node: Node, lengths: LazyLengths) -> Projection:
    """Return a value as itself. Its tokens are along the axis on which lengths are known, of several the last one."""
    shape = _moderate_shape(node)
    known = [axis for axis, length in enumerate(lengths[node.name]) if math.isfinite(length)]
    axis = known[-1] if known else len(shape) - 1
    count = math.prod(shape) // shape[axis]
    tokens = np.arange(count).reshape(*shape[:axis], 1, *shape[axis + 1 :])
    rows = np.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - axis - 1))
    return Projection(
        node.name,
        lengths[node.name][axis],
        np.broadcast_to(tokens, shape),
        np.broadcast_to(rows, shape),
        np.eye(shape[axis]),
        0.0,
        point(np.zeros(shape)),
    )


def _moderate_shape(node: Node) -> Shape:
    shape = node.shape
    if not shape or not math.prod(shape) or max(math.prod(shape), max(shape) ** 2) > MOST_ENTRIES:
        raise NoBoundError
    return shape


def _next(graph: Graph, node: Node, before: Projection) -> Projection:
    """Return the projection of a node that reads a projection, and constants."""
    shape = _moderate_shape(node)
    linear = node.operator.linear_map() if isinstance(node.operator, ops.Matrices) else graph.linear_map(node)
    if linear is None:
        raise NoBoundError
    source = _affine_source(graph, node)
    assert source is not None
    read = [name == source.name for name in node.inputs]
    constants = [before.offset if name == source.name else point(_constant(graph, name)) for name in node.inputs]
    after = replace(before, offset=linear.image(constants))
    match node.operator:
        case ops.Add() as add:
            weight = add.weights[read.index(True)]
            if source.shape != shape:
                raise NoBoundError
            return _multiplied(after, np.array([weight]), exact=abs(weight) == 1)
        case ops.Scale() as scale if source.shape == shape and scale.is_accurate:
            factors = np.broadcast_to(np.asarray(scale.values, np.float64), shape)
            by_row = np.zeros(len(before.matrix))
            by_row[before.rows.ravel()] = factors.ravel()
            if not np.array_equal(by_row[before.rows], factors):
                raise NoBoundError
            return _multiplied(after, by_row[:, None], exact=False)
        case ops.Matrix() as matrix if math.isfinite(matrix.alpha):
            axis = matrix.axis_of_outputs + len(shape)
            letters = ascii_lowercase[: len(shape)]
            products = Products(matrix.layer.kernel(), letters, letters.replace(letters[axis], "z"), letters[axis], "z")
            return _times(after, products, shape, matrix.alpha)
        case ops.Matrices() as matrices:
            of_one_matrix = products_of(matrices)
            if of_one_matrix is not None:
                return _times(after, of_one_matrix, shape)
    if not node.only_moves_entries:
        raise NoBoundError
    sizes = [graph.by_name[name].shape or () for name in node.inputs]
    first = sum(math.prod(size) for size in sizes[: read.index(True)])
    entries = linear.sources(sizes).reshape(shape) - first
    size = math.prod(source.shape or ())
    is_read = (entries >= 0) & (entries < size)
    tokens = np.where(is_read, before.tokens.ravel()[np.where(is_read, entries, 0)], -1)
    rows = np.where(is_read, before.rows.ravel()[np.where(is_read, entries, 0)], 0)
    return replace(after, tokens=tokens, rows=rows)


def _constant(graph: Graph, name: str) -> FloatArray:
    return np.asarray(graph.by_name[name].operator.run(), np.float64)


def _multiplied(projection: Projection, factors: FloatArray, *, exact: bool) -> Projection:
    """Return a projection whose rows are multiplied by factors."""
    largest = float(np.max(abs(factors), initial=0.0))
    matrix = projection.matrix * factors
    rounding = 0.0 if exact else host.mul_up(float(host.norm_up(matrix.reshape(-1))), 2.0**-46)
    error = host.add_up(host.mul_up(projection.error, largest, 1 + 2.0**-46), rounding)
    return replace(projection, matrix=matrix, error=error)


def _times(projection: Projection, products: Products, shape: Shape, alpha: float = 1.0) -> Projection:
    """Return the projection times a constant matrix, each of whose products is of one token."""
    tokens, rows = (products.columns_last(each) for each in (projection.tokens, projection.rows))
    own_rows = rows.reshape(-1, rows.shape[-1])[0]
    if (tokens != tokens[..., :1]).any() or (rows != own_rows).any():
        raise NoBoundError
    kernel = products.kernel * alpha
    read = projection.matrix[own_rows]
    sizes = [float(host.norm_up(each.reshape(-1))) for each in (kernel, read)]
    rounding = 0.0
    if not (np.array_equal(read, np.eye(len(read))) and alpha == 1):
        rounding = host.add_up(host.mul_up(sizes[0], sizes[1], (len(read) + 8) * 2.0**-52), 2.0**-1000)
    return replace(
        projection,
        tokens=products.spread(tokens[..., 0], np.zeros(len(kernel), np.intp), shape),
        rows=products.spread(np.zeros(tokens.shape[:-1], np.intp), np.arange(len(kernel)), shape),
        matrix=kernel @ read,
        error=host.add_up(host.mul_up(projection.error, sizes[0], 1 + 2.0**-46), rounding),
    )
