"""Proof by completion: the lags of K*K + H*H bound the norm of K, whatever kernel H is.

*Lemma.* Let M_t be the lags of K*K + H*H, for any kernels K and H with as many input channels. Then at every input
size, circular or zero-padded, ``||K||**2 <= v + ||M_0 - v I|| + sum over t != 0 of ||M_t||`` for every number v.
*Proof.* G*G <= G*G + F*F = sum_t M_t e^{i t theta} <= v I + ||M_0 - v I|| I + sum_{t != 0} ||M_t|| I, where G and F are
the symbols of K and H. The choice of H decides how close the bound is, never whether it is one: H = 0 is allowed.

`norms_up` takes Frobenius norms and the best v. Rounding: a lag is a sum of m products in some order, so it is off by
at most gamma_m times the same sum of absolute values; the symbol of all these errors is at most gamma_m ||A||**2, where
A is the sum over the taps of |K; H|, and ||A||**2 <= ||A||_1 ||A||_inf.

References
----------
.. [1] Dritschel, "On factorization of trigonometric polynomials", Integral Equations Operator Theory 49, 2004 (an H
   exists for every bound above the norm).
.. [2] Dumitrescu, "Positive Trigonometric Polynomials and Signal Processing Applications", Springer, 2007.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified import rounding

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.types import ArrayOps

_FLOAT32_ROWS = 32
"""Rows that are multiplied at once in float32: sums of more would lose too many digits."""


class Lags(NamedTuple):
    """Lags ``M_t = sum_y X_y^T X_{y+t}`` of a stack of kernels X as computed, with a bound of their error.

    Parameters
    ----------
    values : array, shape (b, n, c, c)
        Matrices at the lags of `half_lags`; those at the negative lags are their transposes.
    error : array, shape (b,)
        At every frequency, the symbol of the difference from the exact lags has at most this norm.
    """

    values: Array
    error: Array


def lags(x: Array, *, ops: ArrayOps, wide: bool = False) -> Lags:
    """Compute the lags of kernels x, (b, rows, c, *taps), in the precision of x or in the widest."""
    xp = ops.xp
    b, rows, c, *taps = x.shape
    first_taps, *other_taps = taps or [1]
    columns = c * math.prod(other_taps)
    kernels_at_once = max(1, ops.memory // (4 * 8 * first_taps * columns**2))
    if b > kernels_at_once:
        parts = [lags(x[j : j + kernels_at_once, ...], ops=ops, wide=wide) for j in range(0, b, kernels_at_once)]
        return Lags(
            xp.concat([part.values for part in parts], axis=0),
            xp.concat([part.error for part in parts], axis=0),
        )
    # The taps of the first axis stand among the rows: to move by one lag along it is to leave out some rows.
    by_first_tap = xp.permute_dims(xp.reshape(x, (b, rows, c, first_taps, -1)), (0, 3, 1, 4, 2))
    matrix = xp.reshape(by_first_tap, (b, first_taps * rows, columns))
    if wide:
        matrix = arrays.in_wide_dtype(matrix, ops=ops)
    at_once = _rows_at_once(first_taps * rows, matrix, xp=xp)
    products = []
    for lag in range(first_taps):
        earlier = matrix[:, : (first_taps - lag) * rows, :]
        later = matrix[:, lag * rows :, :]
        products.append(_product(earlier, later, at_once, xp=xp))
    values = xp.reshape(xp.stack(products, axis=1), (b, first_taps, *other_taps, c, *other_taps, c))
    for j in range(len(other_taps)):
        values = _by_difference(values, 2 + j, len(other_taps) + 3, xp=xp)
    # Of the first axis only lags of at least 0 are there; among those with 0, the negative ones come first.
    negative = math.prod(2 * k - 1 for k in other_taps) // 2
    values = xp.reshape(values, (b, -1, c, c))[:, negative:, ...]
    return Lags(values, _error(x, values, xp=xp))


def _by_difference(values: Array, first: int, second: int, *, xp: Namespace) -> Array:
    """Sums over the indices y, z of two axes with ``z - y = t``; t goes along an axis in the place of the first."""
    size = values.shape[first]
    other_axes = (axis for axis in range(values.ndim) if axis not in (first, second))
    pairs = xp.permute_dims(values, (*other_axes, first, second))
    return xp.stack([xp.linalg.trace(pairs, offset=t) for t in range(1 - size, size)], axis=first)


def _rows_at_once(rows: int, values: Array, *, xp: Namespace) -> int:
    """Rows that are multiplied at once in the precision of some values."""
    return rows if values.dtype == xp.float64 else _FLOAT32_ROWS


def _product(x: Array, y: Array, at_once: int, *, xp: Namespace) -> Array:
    """``x^T y`` of matrices (b, rows, n): products of so many rows at once, summed pairwise."""
    rows = x.shape[1]
    if rows <= at_once:
        return xp.matmul(xp.matrix_transpose(x), y)
    half = _first_half(rows, at_once)
    above = _product(x[:, :half, :], y[:, :half, :], at_once, xp=xp)
    below = _product(x[:, half:, :], y[:, half:, :], at_once, xp=xp)
    return above + below


def _first_half(rows: int, at_once: int) -> int:
    """About half of some rows, as a multiple of those that are multiplied at once."""
    return -(-rows // 2 // at_once) * at_once


def _additions(rows: int, at_once: int) -> int:
    """Roundings of an entry of `_product`."""
    if rows <= at_once:
        return rows
    half = _first_half(rows, at_once)
    return max(_additions(half, at_once), _additions(rows - half, at_once)) + 1


def _error(x: Array, values: Array, *, xp: Namespace) -> Array:
    """Bound of the error of `lags` of kernels x in the precision of ``values``, underflow included, shape (b,)."""
    b, rows, c, *taps = x.shape
    count = math.prod(taps)
    summed_rows = rows * (taps or [1])[0]
    additions = _additions(summed_rows, _rows_at_once(summed_rows, values, xp=xp)) + sum(taps)
    magnitudes = xp.reshape(xp.abs(x), (b, rows, c * count))
    row_sums = xp.sum(magnitudes, axis=2)
    column_sums = xp.sum(xp.reshape(xp.sum(magnitudes, axis=1), (b, c, count)), axis=2)
    largest_row = xp.max(rounding.up(row_sums, rows + c * count, xp=xp), axis=1)
    largest_column = xp.max(rounding.up(column_sums, rows + c * count, xp=xp), axis=1)
    # ||A||**2 <= ||A||_inf ||A||_1 of the lemma's A.
    norm_sq = xp.astype(largest_row, values.dtype) * xp.astype(largest_column, values.dtype)
    relative = rounding.SLACK * rounding.gamma(additions, rounding.unit(values, xp=xp))
    underflow = float(xp.finfo(values.dtype).smallest_normal) * rows * count * count * c
    return rounding.up(norm_sq * relative, 2, xp=xp) + xp.astype(largest_row > 0, values.dtype) * underflow


def stored_lags(kernels: Array, values: Array, *, ops: ArrayOps) -> Lags:
    """Lags that `lags` computed of some kernels before, and that were rounded to the precision of ``values`` since.

    They were rounded once, and, where a product with a power of two was below the smallest normal number, once more.
    """
    xp = ops.xp
    wide = arrays.in_wide_dtype(values, ops=ops)
    error = _error(kernels, wide, xp=xp)
    norms = _sum_of_norms(wide, xp=xp)
    underflow = 4 * float(xp.finfo(values.dtype).smallest_normal) * math.prod(values.shape[1:])
    storing_error = norms * rounding.unit(values, xp=xp) + underflow * xp.astype(norms > 0, norms.dtype)
    return Lags(wide, rounding.up(error + storing_error, 4, xp=xp))


def lost_digits(values: Array, *, xp: Namespace) -> Array:
    """Whether every number of a stack (b, ...) has at most half of its digits: it was stored in a shorter precision."""
    # Veltkamp's splitting: the upper half of the digits is what two subtractions leave.
    digits = 29 if values.dtype == xp.float64 else 13
    multiple = values * (2.0**digits + 1)
    upper_half = multiple - (multiple - values)
    return xp.all(upper_half == values, axis=tuple(range(1, values.ndim)))


def norms_up(kernel_lags: Lags, completion_lags: Lags, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Bounds of the norms of kernels K from the lags of K and of any H, never above those of H = 0.

    Returns
    -------
    norms : array, shape (b,)
    helps : array of bool, shape (b,)
        Whether H is needed for the bound: it is below that of H = 0.
    """
    xp = ops.xp
    bound_sq_alone = _norm_sq_up(kernel_lags.values, kernel_lags.error, ops=ops)
    # Each entry of the sum is rounded once more; the norms of all lags add up to at least that of any symbol.
    norms = _sum_of_norms(completion_lags.values, xp=xp) + _sum_of_norms(kernel_lags.values, xp=xp)
    sum_error = 2 * rounding.unit(bound_sq_alone, xp=xp) * norms
    error = rounding.up(kernel_lags.error + completion_lags.error + sum_error, 4, xp=xp)
    bound_sq_together = _norm_sq_up(kernel_lags.values + completion_lags.values, error, ops=ops)
    helps = bound_sq_together < bound_sq_alone  # False if H is no number
    bound_sq = xp.where(helps, bound_sq_together, bound_sq_alone)
    return rounding.up(xp.sqrt(bound_sq), 2, xp=xp), helps


def best_shift(centre: Array, *, ops: ArrayOps) -> Array:
    """The v (b,) that minimises ``v + ||M_0 - v I||_F``; the lemma holds for any other.

    With m the mean of the diagonal of M_0 and s = ``||M_0 - m I||_F`` it is ``m - s / sqrt(c (c - 1))``.
    """
    xp = ops.xp
    c = centre.shape[-1]
    mean = xp.linalg.trace(centre) / c
    if c == 1:
        return mean
    deviation = _frobenius(minus_identity(centre, mean, ops=ops), xp=xp)
    return mean - deviation / math.sqrt(c * (c - 1))


def minus_identity(centre: Array, shift: Array, *, ops: ArrayOps) -> Array:
    """``M_0 - v I`` of matrices (b, c, c) and numbers (b,)."""
    dtype = np.float64 if centre.dtype == ops.xp.float64 else np.float32
    eye = ops.from_numpy(np.eye(centre.shape[-1], dtype=dtype), centre)
    return centre - shift[:, None, None] * eye


def _norm_sq_up(values: Array, error: Array, *, ops: ArrayOps) -> Array:
    """The lemma's bound (b,) of ``||K||**2`` from lags with a bound of their error."""
    xp = ops.xp
    shift = best_shift(values[:, 0, ...], ops=ops)
    centre = minus_identity(values[:, 0, ...], shift, ops=ops)[:, None, ...]
    norms = _sum_of_norms(xp.concat([centre, values[:, 1:, ...]], axis=1), xp=xp)
    return rounding.up(shift + norms + error, 4, xp=xp)


def _sum_of_norms(values: Array, *, xp: Namespace) -> Array:
    """Sum (b,) of the Frobenius norms of all lags, from those of a half, rounded up."""
    norms = _frobenius(values, xp=xp)
    total = norms[:, 0] + 2 * xp.sum(norms[:, 1:], axis=1)
    return rounding.up(total, values.shape[-1] ** 2 + norms.shape[1] + 4, xp=xp)


def _frobenius(a: Array, *, xp: Namespace) -> Array:
    flat = xp.reshape(a, (*a.shape[:-2], -1))
    return xp.sqrt(xp.vecdot(flat, flat))
