"""Attention: averages of values, weighted by a softmax of products of queries and keys.

With y_i = sum_j p_ij v_j, p = softmax(c q k^T), k'_i = sum_j p_ij k_j, the differential dy_i is

    sum_j p_ij dv_j + c (sum_j p_ij (v_j - y_i) (k_j - k'_i)^T) dq_i + c sum_j p_ij (v_j - y_i) (q_i . dk_j),

so that, where each p_ij is at most P_ij, |v_j - y_i| at most D_ij, and the norms of the brackets at most C,

    |dY| <= ||P|| |dV| + c C |dQ| + c ||[P_ij D_ij |q_i|]_ij|| |dK|.

Values and keys lie near middles, and weights near numbers; as weights add up to 1, y - u = sum_j p_j (v_j - u) for any
u, and the bracket is sum_j p_j (v_j - u) (k_j - t)^T - (y - u) (k' - t)^T for any u and t. Everywhere there is no such
bound, since products of queries and keys have none. A constant that is added to the products changes p alone; where it
is -inf, p_ij = P_ij = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from specnorm.certified import host
from specnorm.certified.interval import Interval, enclosing, point
from specnorm.certified.network.operators.base import FloatArray, NoBoundError, NotRunError, Operator, Place
from specnorm.certified.network.operators.executed import smallest

POWERS = 3
"""Gram matrices of Gram matrices, whose Frobenius norm bounds a norm: within r^(1/16) for a matrix of rank r."""
RANGE = 2**10
"""Above which differences of exponents count as this: exp of less is below 2^-1000."""
HINT = (
    "normalise what it is computed from, state a box (specnorm.networks.within(graph, low, high), --input-range) or a "
    "ball (radius=)"
)


class Attention(Operator):
    """``softmax(scale q k^T + mask) v`` for queries (..., n, d), keys (..., m, d) and values (..., m, e)."""

    rule = "attention"
    scale: float
    mask: Callable[[], FloatArray] | None = None
    """Gives numbers, or -inf, that broadcast against (..., n, m)."""

    def run(self, *values: FloatArray) -> FloatArray:
        q, k, v = values
        if min(q.ndim, k.ndim, v.ndim) < 2 or not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
            raise NotRunError(f"attention of shapes {q.shape}, {k.shape} and {v.shape}")
        return np.asarray(self._weights(q, k) @ v)

    def _weights(self, q: FloatArray, k: FloatArray) -> FloatArray:
        return _softmax(self.scale * (q @ k.swapaxes(-1, -2)) + self._added((*q.shape[:-1], k.shape[-2])))

    def _added(self, shape: tuple[int, ...]) -> FloatArray:
        """The mask, of a shape; `NotRunError` where it lets a query see no key, or has entries that are none."""
        if self.mask is None:
            return np.zeros(shape)
        found = np.asarray(self.mask(), dtype=np.float64)
        try:
            found = np.broadcast_to(found, shape)
        except ValueError as error:
            raise NotRunError(f"a mask of shape {found.shape} for products of shape {shape}") from error
        if not (found < math.inf).all() or not np.isfinite(found).any(axis=-1).all():
            raise NotRunError("its mask leaves a query no key, or has entries that are neither numbers nor -inf")
        return found

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        q, k, v = values
        scores = abs(self.scale) * (abs(q) @ abs(k).swapaxes(-1, -2)).max(axis=-1, keepdims=True)
        added, weights = self._added((*q.shape[:-1], k.shape[-2])), self._weights(q, k)
        scores = scores + np.where(weights > 0, abs(added), 0.0).max(axis=-1, keepdims=True)
        # Scores are off by so much, and so are their exponentials, as a share; then sums over all tokens.
        share = 4 * ((q.shape[-1] + 8) * scores + k.shape[-2] + 32) * unit
        return np.asarray(2 * share * (weights @ abs(v)) + smallest(unit))

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        """Averages of values lie between the smallest and the largest, and near those by the weights in the middle."""
        q, k, v = ranges
        shape = (*q.shape[:-1], v.shape[-1])
        if not place.fits(shape) or not v.shape[-2]:
            return None
        try:
            added = self._added((*q.shape[:-1], k.shape[-2]))
        except NotRunError:
            return None
        low, high = (
            np.broadcast_to(end, shape).copy()
            for end in (v.low.min(axis=-2, keepdims=True), v.high.max(axis=-2, keepdims=True))
        )
        if all(np.isfinite(end).all() for each in ranges for end in each.ends) and math.isfinite(self.scale):
            for head in np.ndindex(*shape[:-2]):
                one, keys, values = (enclosing((x.low[head], x.high[head])) for x in ranges)
                with np.errstate(all="ignore"):
                    found = _Averages(values, *_weights(one, keys, self.scale, added[head])[1:])
                low[head] = np.fmax(low[head], -host.next_up(found.moved[:, None] - found.u))
                high[head] = np.fmin(high[head], host.next_up(found.u + found.moved[:, None]))
        return enclosing((low, high))

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """Sum of the inputs' bounds, each times its factor."""
        known = [each for each in place.ranges() if each is not None]
        if len(known) != 3 or len(bounds) != 3:
            raise NoBoundError(f"its inputs have no known sizes: give the input shape; and {HINT}")
        q, k, v = known
        if not all(np.isfinite(end).all() for each in known for end in each.ends):
            raise NoBoundError(f"its queries, keys or values may be anything, where it has no constant; {HINT}")
        if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2] or not math.isfinite(self.scale):
            raise NoBoundError(f"attention of shapes {q.shape}, {k.shape} and {v.shape}, times {self.scale!r}")
        try:
            added = self._added((*q.shape[:-1], k.shape[-2]))
        except NotRunError as error:
            raise NoBoundError(str(error)) from error
        factors = [0.0, 0.0, 0.0]
        for head in np.ndindex(*q.shape[:-2]):
            one, keys, values = (enclosing((x.low[head], x.high[head])) for x in known)
            found = _factors(one, keys, values, self.scale, added[head])
            factors = [max(pair) for pair in zip(factors, found, strict=True)]
        if not all(math.isfinite(factor) for factor in factors):
            raise NoBoundError("its products of queries and keys overflow where they lie: state a narrower box or ball")
        return host.add_up(*(host.mul_up(bound, factor) for bound, factor in zip(bounds, factors, strict=True)))


def _factors(q: Interval, k: Interval, v: Interval, scale: float, added: FloatArray) -> tuple[float, float, float]:
    """Of changes of queries, keys and values, for one head; ``added``: the mask, shape (n, m)."""
    k, near, off, least, most = _weights(q, k, scale, added)
    of_values, of_keys = (_Averages(x, near, off, least, most) for x in (v, k))
    queries = host.norm_up(q.magnitude())
    third = host.inflate(most * of_values.apart * queries[:, None], 4)
    covariance = max(_covariance_up(of_values, of_keys, row) for row in range(len(near)))
    return host.mul_up(abs(scale), covariance), host.mul_up(abs(scale), _norm_up(third)), _norm_up(most)


def _weights(
    q: Interval, k: Interval, scale: float, added: FloatArray
) -> tuple[Interval, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Keys less a middle, weights in the middle, how far others may be from them, and the smallest and the largest."""
    # Softmax knows differences of keys alone.
    middle = k.middle()[0].mean(axis=0, keepdims=True)
    k = k - point(np.broadcast_to(middle, k.shape))
    least, most = _weights_between(q, k, scale, added)
    near = np.clip(_softmax(scale * (q.middle()[0] @ k.middle()[0].T) + added), least, most)
    return k, near, host.next_up(np.maximum(most - near, near - least)), least, most


def _softmax(scores: FloatArray) -> FloatArray:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _weights_between(q: Interval, k: Interval, scale: float, added: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Smallest and largest weights of softmax where queries and keys lie in intervals; 0 where the mask is -inf."""
    (x, dx), (y, dy) = q.middle(), k.middle()
    terms = q.shape[-1]
    score = scale * (x @ y.T)
    off = abs(x) @ dy.T + dx @ abs(y).T + dx @ dy.T
    # Products of so many terms, a factor and a difference, each rounded.
    off = abs(scale) * (host.inflate(off, 2 * terms + 16) + (abs(x) @ abs(y).T) * ((2 * terms + 32) * 2.0**-52))
    off = host.inflate(off, 8) + abs(score) * 2.0**-50 + 2.0**-500
    seen = added > -math.inf
    score = score + np.where(seen, added, 0.0)
    off = host.inflate(off, 2) + abs(score) * 2.0**-50
    top = np.where(seen, score + off, -math.inf).max(axis=1, keepdims=True)
    high, low = (np.where(seen, np.exp(np.where(seen, end - top, 0.0)), 0.0) for end in (score + off, score - off))
    # Sums of all, one exchanged. What rounding makes of the difference is a share of the whole sum: where the largest
    # of it is taken away, that is not a share of what is left.
    others = low.sum(axis=1, keepdims=True) - low
    above = high / (high + others)
    whole = high.sum(axis=1, keepdims=True)
    below = low / (low + (whole - high) + whole * ((k.shape[0] + 16) * 2.0**-51))
    # Exponentials have the absolute errors of their exponents as relative ones; beyond `RANGE` they are nothing.
    span = min(float(np.where(seen, top - (score - off), 0.0).max()), RANGE)
    roundings = int(8 * span) + 8 * (k.shape[0] + 32)
    found = host.inflate(above, roundings) + 2.0**-500
    # Next to what is so small, what underflows counts.
    found = np.where((others >= 2.0**-400), found, 1.0)
    least = np.maximum(host.lowered(below, 2 * roundings) - 2.0**-500, 0.0)
    least = np.where(np.isnan(least), 0.0, least)
    most = np.maximum(np.minimum(np.where(np.isnan(found), 1.0, found), 1.0), least)
    return np.where(seen, least, 0.0), np.where(seen, most, 0.0)


class _Averages:
    """Vectors x_j in intervals, and averages of them with weights that are near some numbers."""

    def __init__(self, x: Interval, near: FloatArray, off: FloatArray, least: FloatArray, most: FloatArray) -> None:
        self.middle, half = x.middle()
        self.near, self.off, self.most = near, off, most
        self.half = host.norm_up(half)
        self.u = near @ self.middle
        count = sum(near.shape) + sum(self.middle.shape) + 32
        rows = range(len(near))
        self.far = np.stack([host.norm_up(host.next_up(abs(self.middle - self.u[i]))) for i in rows])
        """|x_j - u_i|, shape (n, m)."""
        left = np.stack([host.norm_up(near[i] @ (self.middle - self.u[i])) for i in rows])
        # What is computed of them is off by a share of the sum of the sizes.
        lost = (near * self.far).sum(axis=1) * (count * 2.0**-50)
        moved = (off * self.far + most * self.half).sum(axis=1)
        reach = host.inflate(self.far + self.half, 4)
        farthest = np.where(most > 0, reach, 0.0).max(axis=1)
        self.moved = np.minimum(host.inflate(left + lost + moved, count) + 2.0**-500, farthest)
        """|average - u_i|, shape (n,): an average is no further than the farthest."""
        # x_j less the average is 1 - p_j times an average of differences to the others.
        others = host.inflate(host.next_up(1 - least) * (reach + farthest[:, None]), 8)
        self.apart = np.minimum(host.inflate(reach + self.moved[:, None], 4), others)
        """|x_j - average_i|, shape (n, m)."""


def _covariance_up(v: _Averages, k: _Averages, row: int) -> float:
    """Norm of one query's bracket."""
    weights = v.near[row][:, None]
    centre = (weights * (v.middle - v.u[row])).T @ (k.middle - k.u[row])
    a, b = v.far[row], k.far[row]
    count = len(a) + 32
    lost = float((v.near[row] * a * b).sum()) * (count * 2.0**-50)
    rest = v.off[row] * a * b + v.most[row] * (v.half * b + a * k.half + v.half * k.half)
    moved = host.inflate(lost + float(rest.sum()) + float(v.moved[row] * k.moved[row]), count)
    averaged = host.inflate(float((v.most[row] * v.apart[row] * k.apart[row]).sum()), count)
    return min(host.add_up(_norm_up(centre), moved, 2.0**-500), averaged)


def _norm_up(a: FloatArray) -> float:
    """Norm of a matrix, from powers of its Gram matrix, or sums of its rows and columns (Schur's test).

    It bounds those of matrices with entries between 0 and its own, too.
    """
    largest = float(np.max(abs(a), initial=0.0))
    if not largest or not math.isfinite(largest):
        return largest
    exponent = math.frexp(largest)[1]
    found, powers, lost = np.ldexp(a, -exponent), [], 0.0
    found = found if len(found) <= len(found.T) else found.T
    sums = (host.inflate(float(abs(found).sum(axis=axis).max()), max(a.shape) + 4) for axis in (0, 1))
    schur = host.sqrt_up(host.mul_up(*sums))
    for _ in range(POWERS):
        size = float(host.norm_up(found.reshape(-1)))
        # A product of so many terms; the whole matrix is off by a share of its size, squared.
        lost = host.mul_up(size, size, (2 * found.shape[1] + 16) * 2.0**-52)
        powers.append(lost)
        found = found @ found.T
    bound = float(host.norm_up(found.reshape(-1)))
    for lost in reversed(powers):
        bound = host.sqrt_up(host.add_up(bound, lost))
    return host.next_up(math.ldexp(min(bound, schur), exponent))
