"""Proof by completion: the lags of K*K + H*H bound the norm of K, for any kernel H.

Lag t of K*K is the matrix ``sum_y K_y^T K_{y+t}``, the coefficient of e^{i t theta} in G(theta)*G(theta), with G the
symbol of K.

*Lemma.* Let K and H be kernels with the same number of input channels, and M_t the lags of K*K + H*H. Then at every
input size, circular or zero-padded, ``||K||**2 <= v + ||M_0 - v I|| + sum over t != 0 of ||M_t||`` for every number v.
*Proof.* Let F be the symbol of H. ``G*G <= G*G + F*F = sum_t M_t e^{i t theta} <= v I + ||M_0 - v I|| I + sum_{t != 0}
||M_t|| I``. The bound is valid for every H; a good H, found by search (`specnorm.completion.search`), makes it close.

`norms_up` takes Frobenius norms of the lags, and the v that minimises the bound. Rounding: each entry of a lag is a sum
of m products, taken in any order, with an error of at most gamma(m) times the same sum of absolute values. The symbol
of all these errors has a norm of at most gamma(m) ||A||**2, where A is the sum over the taps of the entrywise absolute
values of K (of H, for the lags of H), and ``||A||**2 <= ||A||_1 ||A||_inf``.

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

from specnorm.backends import arrays
from specnorm.proofs import rounding

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

_FLOAT32_ROWS = 32
"""Rows of one matrix product in float32; longer sums are taken in parts, since they would lose too many digits."""


class Lags(NamedTuple):
    """Computed lags ``M_t = sum_y X_y^T X_{y+t}`` of a stack of kernels X, with a bound of their rounding error.

    Parameters
    ----------
    values : array, shape (b, n, c, c)
        M_t for the n lags t of `frequencies.half_lags`: lag 0 first, then one of each pair t, -t. The matrix of
        lag -t is the transpose of that of lag t.
    error : array, shape (b,)
        At every frequency, the sum over all lags of ``(computed M_t - exact M_t) e^{i t theta}`` has at most this norm.
    """

    values: Array
    error: Array


def lags(x: Array, *, ops: ArrayOps, wide: bool = False) -> Lags:
    """Compute the lags of kernels.

    Parameters
    ----------
    x : array, shape (b, rows, c, *kernel_shape)
        The kernels X, with ``rows`` output and c input channels.
    wide : bool
        Whether to compute in the device's widest precision instead of that of x.
    """
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
    # The taps of the first axis are part of the rows, so a shift along it is a slice of the rows. The taps of the other
    # axes are part of the columns.
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
    # Along the first axis only lags of at least 0 were computed. Of those with 0 there, the first ones are negative
    # along another axis: `half_lags` leaves them out.
    negative_lags = math.prod(2 * k - 1 for k in other_taps) // 2
    values = xp.reshape(values, (b, -1, c, c))[:, negative_lags:, ...]
    return Lags(values, _error(x, values, xp=xp))


def _by_difference(values: Array, first: int, second: int, *, xp: Namespace) -> Array:
    """Replace two axes of n taps y and z by one axis of 2 n - 1 lags t, by sums over all pairs with ``z - y = t``.

    The axis of lags, from 1 - n to n - 1, takes the place of the first of the two.
    """
    size = values.shape[first]
    other_axes = (axis for axis in range(values.ndim) if axis not in (first, second))
    pairs = xp.permute_dims(values, (*other_axes, first, second))
    return xp.stack([xp.linalg.trace(pairs, offset=t) for t in range(1 - size, size)], axis=first)


def _rows_at_once(rows: int, values: Array, *, xp: Namespace) -> int:
    """Rows of one matrix product in the precision of ``values``, given the number of all rows."""
    return rows if values.dtype == xp.float64 else _FLOAT32_ROWS


def _product(x: Array, y: Array, at_once: int, *, xp: Namespace) -> Array:
    """``x^T y`` of matrices (b, rows, n), as a pairwise sum of products over at most ``at_once`` rows each."""
    rows = x.shape[1]
    if rows <= at_once:
        return xp.matmul(xp.matrix_transpose(x), y)
    half = _first_half(rows, at_once)
    above = _product(x[:, :half, :], y[:, :half, :], at_once, xp=xp)
    below = _product(x[:, half:, :], y[:, half:, :], at_once, xp=xp)
    return above + below


def _first_half(rows: int, at_once: int) -> int:
    """Number of rows in the first half of `_product`: about half of all, a multiple of ``at_once``."""
    return -(-rows // 2 // at_once) * at_once


def _additions(rows: int, at_once: int) -> int:
    """Number of roundings of an entry of `_product`."""
    if rows <= at_once:
        return rows
    half = _first_half(rows, at_once)
    return max(_additions(half, at_once), _additions(rows - half, at_once)) + 1


def _error(x: Array, values: Array, *, xp: Namespace) -> Array:
    """Bound (b,) of `Lags.error` for kernels x (b, rows, c, *taps), underflow included.

    Parameters
    ----------
    values : array
        The computed lags; only their dtype is used.
    """
    b, rows, c, *taps = x.shape
    count = math.prod(taps)
    summed_rows = rows * (taps or [1])[0]
    additions = _additions(summed_rows, _rows_at_once(summed_rows, values, xp=xp)) + sum(taps)
    magnitudes = xp.reshape(xp.abs(x), (b, rows, c * count))
    row_sums = xp.sum(magnitudes, axis=2)
    column_sums = xp.sum(xp.reshape(xp.sum(magnitudes, axis=1), (b, c, count)), axis=2)
    largest_row = xp.max(rounding.up(row_sums, rows + c * count, xp=xp), axis=1)
    largest_column = xp.max(rounding.up(column_sums, rows + c * count, xp=xp), axis=1)
    # ||A||**2 <= ||A||_inf ||A||_1 for the A of the module's docstring.
    norm_sq = xp.astype(largest_row, values.dtype) * xp.astype(largest_column, values.dtype)
    relative = rounding.SLACK * rounding.gamma(additions, rounding.unit(values, xp=xp))
    underflow = float(xp.finfo(values.dtype).smallest_normal) * rows * count * count * c
    return rounding.up(norm_sq * relative, 2, xp=xp) + xp.astype(largest_row > 0, values.dtype) * underflow


def norms_up(kernel_lags: Lags, completion_lags: Lags, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Bounds of the norms of kernels K from the lags of K and of any H: the smaller of those with H and with H = 0.

    Returns
    -------
    norms : array, shape (b,)
    helps : array of bool, shape (b,)
        Whether the bound with H is the smaller one.
    """
    xp = ops.xp
    bound_sq_without = _norm_sq_up(kernel_lags.values, kernel_lags.error, ops=ops)
    # Each entry of the sum of both lags is rounded once; the sum of the norms of all lags bounds every symbol's norm.
    norms = _sum_of_norms(completion_lags.values, xp=xp) + _sum_of_norms(kernel_lags.values, xp=xp)
    sum_error = 2 * rounding.unit(bound_sq_without, xp=xp) * norms
    error = rounding.up(kernel_lags.error + completion_lags.error + sum_error, 4, xp=xp)
    bound_sq_with = _norm_sq_up(kernel_lags.values + completion_lags.values, error, ops=ops)
    helps = bound_sq_with < bound_sq_without  # False if H contains NaN
    bound_sq = xp.where(helps, bound_sq_with, bound_sq_without)
    return rounding.up(xp.sqrt(bound_sq), 2, xp=xp), helps


def best_shift(matrices: Array, *, ops: ArrayOps) -> Array:
    """The numbers v (b,) that minimise ``v + ||M - v I||_F`` for matrices M (b, c, c).

    With m the mean of the diagonal of M and ``s = ||M - m I||_F``, v is ``m - s / sqrt(c (c - 1))``. The lemma holds
    for every v, so roundings here do not matter.
    """
    xp = ops.xp
    c = matrices.shape[-1]
    mean = xp.linalg.trace(matrices) / c
    if c == 1:
        return mean
    deviation = _frobenius(minus_identity(matrices, mean, ops=ops), xp=xp)
    return mean - deviation / math.sqrt(c * (c - 1))


def minus_identity(matrices: Array, shift: Array, *, ops: ArrayOps) -> Array:
    """``M - v I`` for matrices M (b, c, c) and shifts v (b,)."""
    dtype = np.float64 if matrices.dtype == ops.xp.float64 else np.float32
    eye = ops.from_numpy(np.eye(matrices.shape[-1], dtype=dtype), matrices)
    return matrices - shift[:, None, None] * eye


def _norm_sq_up(values: Array, error: Array, *, ops: ArrayOps) -> Array:
    """The lemma's bound (b,) of ``||K||**2``, from the lags (b, n, c, c) of K*K + H*H and a bound of their error."""
    xp = ops.xp
    shift = best_shift(values[:, 0, ...], ops=ops)
    shifted_lag_0 = minus_identity(values[:, 0, ...], shift, ops=ops)[:, None, ...]
    norms = _sum_of_norms(xp.concat([shifted_lag_0, values[:, 1:, ...]], axis=1), xp=xp)
    return rounding.up(shift + norms + error, 4, xp=xp)


def _sum_of_norms(values: Array, *, xp: Namespace) -> Array:
    """Sum (b,) of the Frobenius norms of all lags t and -t, rounded up, from the half of them in (b, n, c, c)."""
    norms = _frobenius(values, xp=xp)
    total = norms[:, 0] + 2 * xp.sum(norms[:, 1:], axis=1)
    return rounding.up(total, values.shape[-1] ** 2 + norms.shape[1] + 4, xp=xp)


def _frobenius(a: Array, *, xp: Namespace) -> Array:
    flat = xp.reshape(a, (*a.shape[:-2], -1))
    return xp.sqrt(xp.vecdot(flat, flat))
