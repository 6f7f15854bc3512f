"""Products of two values, and softmax attention ``softmax(scale q k^T + bias) v``, on tokens of bounded length.

Row i of attention is ``y_i = sum_j P_ij v_j``, where P_i is the softmax of row i of the scores. Its change is::

    dy_i = scale C_i dq_i + sum_j P_ij (dv_j + scale (v_j - y_i) (q_i . dk_j)),

where C_i is the covariance of values and keys under P_i. If tokens have lengths of at most r_q, r_k and r_v, then

1. ``|C_i| <= r_v r_k``, so the queries have the factor scale r_v r_k.
2. For a unit vector w, ``sum_j P_ij w . dv_j`` is at most the root of ``sum_j P_ij |dv_j|^2``. Over all rows, the sum
   of ``P_ij |dv_j|^2`` is at most the largest column sum of P times ``|dv|^2``.
3. ``sum_j P_ij (w . (v_j - y_i)) (scale q_i . dk_j)`` is at most ``scale r_q`` times the roots of the variance of
   ``w . v`` and of ``sum_j P_ij |dk_j|^2``. The variance is at most ``r_v^2 spread(p)`` in a row whose largest weight
   is p (`spread`): a distribution on [-r, r] with an atom p >= 1/2 has at most the variance of p and 1 - p at the ends.
4. Two scores of a row differ by at most ``2 scale r_q r_k`` and the difference of their biases. So P_ij is at most
   ``b_ij / (b_ij + exp(-2 scale r_q r_k) sum_{l != j} b_il)`` with ``b = exp(bias)`` (`largest_weights`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from specnorm.proof import Interval, host
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Known,
    Lengths,
    LowHigh,
    NoBoundError,
    Place,
    lengths_at,
)
from specnorm_networks.certified.operators.steep import hint

NO_LENGTHS = (
    "it is softmax attention, which has a constant only where no token is longer than a known number: normalize the "
    "tokens before it (a layer norm, an RMS norm, a clip to a ball)"
)
ERROR_OF_BIASES = 2.0**-38
"""Relative error of exp(bias - largest bias), which is 2^-53 times at most 745 and some roundings."""


def length_of(place: Place, which: int, axis: int) -> float:
    """Return a bound on the length of each vector along an axis of an input; infinity if none is known."""
    lengths = place.lengths()
    return lengths[which][axis] if lengths and lengths[which] else math.inf


class MatrixProduct(Known):
    """``a b`` of two stacks of matrices that both depend on the input: a constant where their sizes are bounded."""

    rule = "matrix product"

    def run(self, *values: FloatArray) -> FloatArray:
        a, b = values
        return np.asarray(np.matmul(a, b))

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """Return the sum of the inputs' constants, each times the largest Frobenius norm of the other input."""
        norms = []
        for which, shape in enumerate(place.known_shapes() or ()):
            by_axis = [host.mul_up(length_of(place, which, -axis), host.root_up(shape[axis - 3])) for axis in (1, 2)]
            norms.append(min(by_axis))
        if len(norms) != 2 or any(bound and norm == math.inf for bound, norm in zip(bounds, norms[::-1], strict=True)):
            raise NoBoundError(
                "it multiplies two matrices that both depend on the input, which has a constant only where their rows "
                f"are bounded: normalize them before it; {hint(place)}"
            )
        return host.add_up(host.mul_up(bounds[0], norms[1]), host.mul_up(bounds[1], norms[0]))


class InnerProduct(Known):
    """Inner products along an axis of two values of one shape: a constant where the vectors are no longer than known.

    ``u.v - u'.v'`` is ``(u - u').v + u'.(v - v')``, for each pair of vectors.
    """

    rule = "inner product"
    axis: int
    keep: bool = False
    """Whether the axis stays, with size 1."""

    def run(self, *values: FloatArray) -> FloatArray:
        u, v = values
        return np.asarray((u * v).sum(axis=self.axis, keepdims=self.keep))

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        u, v = values
        return np.asarray(abs(u * v).sum(axis=self.axis, keepdims=self.keep))

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """Return the sum of the inputs' constants, each times the length of the other input's longest vector."""
        lengths = [length_of(place, which, self.axis) for which in range(2)]
        if len(set(place.before)) > 1 or any(
            bound and length == math.inf for bound, length in zip(bounds, lengths[::-1], strict=True)
        ):
            raise NoBoundError(f"it is an inner product of vectors whose lengths are not bounded; {hint(place)}")
        terms = [host.mul_up(bound, length) for bound, length in zip(bounds, lengths[::-1], strict=True) if bound]
        return host.add_up(*terms) if terms else 0.0


class Attention(Known):
    """Rows of softmax attention of queries (..., n, e), keys (..., m, e) and values (..., m, f)."""

    rule = "attention"
    scale: float
    bias: Callable[[], FloatArray] | None = None
    """Returns what is added to the scores (..., n, m), -infinity where a key is masked; None: nothing."""

    def run(self, *values: FloatArray) -> FloatArray:
        q, k, v = values
        scores = self.scale * np.matmul(q, np.swapaxes(k, -1, -2))
        if self.bias is not None:
            scores = scores + np.asarray(self.bias())
        largest = scores.max(axis=-1, keepdims=True, initial=-math.inf)
        with np.errstate(all="ignore"):
            powers = np.exp(scores - np.where(np.isfinite(largest), largest, 0.0))
            total = powers.sum(axis=-1, keepdims=True)
            return np.asarray(np.matmul(powers / np.where(total > 0, total, 1.0), v))

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        """Return the largest value of a column, times the sizes of the scores: softmax amplifies their roundings."""
        q, k, v = values
        sizes = abs(self.scale) * np.matmul(abs(q), np.swapaxes(abs(k), -1, -2)).max(axis=-1, keepdims=True, initial=0)
        return np.asarray(abs(result) + (1 + sizes) * abs(v).max(axis=-2, keepdims=True, initial=0))

    def image(self, ranges: Sequence[Interval], place: Place) -> LowHigh:
        """Return the smallest and largest values of each column, between which all weighted means lie, and 0."""
        _, _, v = ranges
        low, high = v.low.min(axis=-2, keepdims=True), v.high.max(axis=-2, keepdims=True)
        if self.bias is not None:  # a row of which all keys are masked is 0
            low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        shape = place.after or ()
        return np.broadcast_to(low, shape), np.broadcast_to(high, shape)

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        """Return the length of a row: it is a weighted mean of the values, or 0."""
        last = len(place.after or ()) - 1
        return lengths_at(last + 1, (last,), before[2][-1])

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """Return the sum of the inputs' constants, each times the factor of steps 1 to 3 above."""
        shapes = place.known_shapes()
        if shapes is None or not math.isfinite(self.scale):
            raise NoBoundError("the shapes of its inputs are not known: give the input shape")
        r_q, r_k, r_v = (length_of(place, which, -1) for which in range(3))
        needed = [r_k * r_v if bounds[0] else 0.0, r_q * r_v if bounds[1] else 0.0]
        if not all(map(math.isfinite, needed)):
            raise NoBoundError(f"{NO_LENGTHS}; {hint(place)}")
        scale = abs(self.scale)
        half_spread = host.mul_up(scale, r_q, r_k) if math.isfinite(r_q) and math.isfinite(r_k) else math.inf
        weights = largest_weights(self.bias, shapes[0], shapes[1], half_spread)
        of_values = host.sqrt_up(largest_column(weights, 1.0, 0.0))
        of_keys = host.mul_up(scale, r_q, r_v, host.sqrt_up(largest_column(weights, 0.0, 1.0))) if bounds[1] else 0.0
        of_queries = host.mul_up(scale, r_v, r_k) if bounds[0] else 0.0
        factors = (of_queries, of_keys, of_values)
        return host.add_up(*(host.mul_up(factor, bound) for factor, bound in zip(factors, bounds, strict=True)))


def largest_weights(
    bias: Callable[[], FloatArray] | None,
    queries: tuple[int, ...],
    keys: tuple[int, ...],
    half_spread: float,
) -> FloatArray:
    """Return upper bounds of the weights P_ij, of a shape that broadcasts to (..., n, m).

    Parameters
    ----------
    queries, keys : tuple of int
        Shapes (..., n, e) and (..., m, e).
    half_spread : float
        Half of the largest difference of two scores of a row, without their biases.
    """
    n, m = queries[-2], keys[-2]
    least = math.exp(-2 * half_spread)
    # Below 2^-1000 the exponential may have lost digits, and 0 gives larger weights.
    least = host.lowered(least, 8) if least > 2.0**-1000 else 0.0
    if bias is None:
        weight = host.inflate(1 / (1 + (m - 1) * least), 8)
        return np.broadcast_to(np.minimum(weight, 1.0), (n, m))
    stated = np.asarray(bias(), dtype=np.float64)
    stated = np.broadcast_to(stated, np.broadcast_shapes(stated.shape, (n, m)))
    if np.isnan(stated).any() or (stated == math.inf).any():
        raise NoBoundError("the bias of its scores has entries that are infinite or no numbers")
    largest = stated.max(axis=-1, keepdims=True)
    with np.errstate(all="ignore"):
        powers = np.exp(np.where(stated == -math.inf, -math.inf, stated - np.where(largest > -math.inf, largest, 0.0)))
    error = 0.0 if np.isin(powers, (0.0, 1.0)).all() else ERROR_OF_BIASES
    others = np.maximum(powers.sum(axis=-1, keepdims=True) - powers, 0.0)
    if error:  # the difference cancels where one power is most of the sum
        others = np.maximum(others - powers.sum(axis=-1, keepdims=True) * (2 * m * 2.0**-53), 0.0)
    with np.errstate(all="ignore"):
        weights = powers / (powers + least * others)
    weights = np.where(powers > 0, host.inflate(weights, m + 8) * (1 + 4 * error), 0.0)
    # Where a power underflows, the weight is at most exp(bias - largest bias + 2 half_spread).
    with np.errstate(all="ignore"):
        exponents = stated - largest
        exponents = exponents + 2 * half_spread + (1 + abs(exponents) * 2.0**-50)
        tiny = np.maximum(np.exp(np.minimum(exponents, 0.0)), 2.0**-1000)
    weights = np.where((powers == 0) & (stated > -math.inf), tiny, weights)
    return np.minimum(np.where(np.isnan(weights), 1.0, weights), 1.0)


def spread(p: FloatArray) -> FloatArray:
    """Return the largest variance of a distribution on [-1, 1] whose largest weight is at least p."""
    return np.where(p <= 0.5, 1.0, 4 * p * (1 - p))


def largest_gain(weights: FloatArray, a: float, b: float) -> FloatArray:
    """Return the largest ``p (a + b spread(p))`` for p up to each weight, rounded up.

    Beyond 1/2 it rises up to the zero of its derivative ``a + 4 b (2 p - 3 p^2)``.
    """
    turn = 1.0 if b == 0 or a / b > 4 else min((1 + math.sqrt(1 + 0.75 * (a / b))) / 3, 1.0)
    p = np.minimum(weights, turn)
    return np.asarray(host.inflate(p * (a + b * spread(p)), 16))


def largest_column(weights: FloatArray, a: float, b: float) -> float:
    """Return the largest sum of `largest_gain` over a column, rounded up, in any matrix of a stack (..., n, m)."""
    n = weights.shape[-2]
    sums = largest_gain(weights, a, b).sum(axis=-2)
    return float(np.max(host.inflate(sums, n), initial=0.0))
