"""The lags of kernels, ``R_d = sum_k K_k^T K_{k+d}``.

R_d is the coefficient of e^{i d theta} in G(theta)*G(theta), with G the symbol of K, and ``R_{-d} = R_d^T``. One of d
and -d is computed, in the order of `Lags.points`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs.frequencies import product, tap_points

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

_FLOAT32_ROWS = 32
"""Rows of one matrix product in float32; longer sums are taken in parts, since they would lose too many digits."""


class Lags(NamedTuple):
    """Computed lags of a stack of kernels, with a bound of their rounding error: see `Polynomial.lags`.

    Parameters
    ----------
    values : array, shape (b, n, c, c)
        R_d for the n lags d of `points`: lag 0 first, then one of each pair d, -d.
    error : array, shape (b,)
        At every frequency, the sum over all lags of ``(computed R_d - exact R_d) e^{i d theta}`` has at most this norm.
    """

    values: Array
    error: Array

    @staticmethod
    def points(kernel_shape: tuple[int, ...]) -> np.ndarray:
        """Lags t with |t_j| < k_j along each axis j: zero first, then one of each pair (t, -t), shape (n, d)."""
        lags = product([np.arange(1 - k, k) for k in kernel_shape])
        index_of_zero = len(lags) // 2
        return lags[index_of_zero:]

    @staticmethod
    def products(
        left: Array,
        right: Array,
        *,
        tick: Callable[[], None] | None = None,
        ops: ArrayOps,
    ) -> Array:
        """``sum_k L_k^T R_{k+d}`` for each d of `points`, shape (b, n, left channels, right channels).

        ``left``, ``right`` are (b, rows, channels, *kernel_shape). ``tick``: called before each matrix product. It ends
        the work by raising an exception.
        """
        xp = ops.xp
        b, rows, c, *taps = left.shape
        first_taps, *other_taps = taps or [1]
        # The taps of the first axis are part of the rows, so a shift along it is a slice of the rows. The taps of the
        # other axes are part of the columns.
        left_matrix = _taps_in_rows(left, xp=xp)
        right_matrix = left_matrix if right is left else _taps_in_rows(right, xp=xp)
        rows_at_once = _rows_at_once(first_taps * rows, left, xp=xp)
        products_at_once = max(1, ops.memory // (4 * 8 * left_matrix.shape[2] * right_matrix.shape[2]))
        kernels_at_once = max(1, products_at_once // first_taps)
        values_of_parts = []
        for start in range(0, b, kernels_at_once):
            part = slice(start, min(start + kernels_at_once, b))
            values_of_lags = []
            for lag in range(first_taps):
                if tick is not None:
                    tick()
                earlier = left_matrix[part, : (first_taps - lag) * rows, :]
                later = right_matrix[part, lag * rows :, :]
                products = _product(earlier, later, rows_at_once, xp=xp)
                values_of_lags.append(_sums_by_lag(products, other_taps, (c, right.shape[2]), xp=xp))
            values_of_parts.append(arrays.joined(values_of_lags, axis=1, xp=xp))
        values = arrays.joined(values_of_parts, axis=0, xp=xp)
        # Along the first axis only lags of at least 0 were computed. Of those with 0 there, the first ones are negative
        # along another axis: `points` leaves them out.
        negative_lags = math.prod(2 * k - 1 for k in other_taps) // 2
        return values[:, negative_lags:, ...]

    @staticmethod
    def even_and_odd(forward: Array, backward: Array, *, xp: Namespace) -> tuple[Array, Array]:
        """Coefficients of cosines and sines in ``G* G``: ``R_d + R_{-d}`` and ``R_d - R_{-d}``; of lag 0, R_0 and 0.

        ``forward``, ``backward`` (b, n, ...): R_d and R_{-d} for the n lags d of `points`, or the same columns of
        both.
        """
        zero_lag = forward[:, :1, ...]
        even = xp.concat([zero_lag, forward[:, 1:, ...] + backward[:, 1:, ...]], axis=1)
        odd = xp.concat([xp.zeros_like(zero_lag), forward[:, 1:, ...] - backward[:, 1:, ...]], axis=1)
        return even, odd

    @staticmethod
    def roundings(x: Array, *, xp: Namespace) -> int:
        """Most roundings of an entry of the lags of kernels (b, rows, c, *kernel_shape)."""
        _, rows, _, *taps = x.shape
        summed_rows = rows * (taps or [1])[0]
        return _additions(summed_rows, _rows_at_once(summed_rows, x, xp=xp)) + sum(taps)

    @staticmethod
    def vjp(blocks: Array, slopes: Array, *, xp: Namespace) -> Array:
        """Gradient of a function of the lags ``R_t = sum_y K_y^T K_{y+t}`` of blocks: ``2 sum_y K_y D_{z-y}`` at tap z.

        ``blocks`` (b, m, p, *kernel_shape): K. ``slopes`` (b, L, p, p): D, the derivatives by half of the lags
        (`points`), such that ``D_{-t} = D_t^T`` are those by the others.
        """
        b, m, p, *kernel_shape = blocks.shape
        first, *others = kernel_shape or [1]
        count = math.prod(others)
        slopes = xp.astype(slopes, blocks.dtype, copy=False)
        positive = slopes[:, 1:, ...]
        # D_{-t} for all lags t in row-major order, from the most negative one.
        table = xp.concat([xp.flip(positive, axis=1), slopes[:, :1, ...], xp.matrix_transpose(positive)], axis=1)
        table = xp.reshape(table, (b, *(2 * k - 1 for k in (first, *others)), p, p))
        # The lags between a tap and all others are a box of the table. The taps of the first axis are taken one after
        # the other, those of the other axes at once, as columns.
        columns = []
        for position in tap_points(tuple(others)).tolist():
            lags = tuple(slice(k - 1 - tap, 2 * k - 1 - tap) for tap, k in zip(position, others, strict=True))
            columns.append(xp.reshape(table[(slice(None), slice(None), *lags, ...)], (b, 2 * first - 1, count * p, p)))
        by_first_lag = xp.concat(columns, axis=3)
        flat = xp.reshape(xp.permute_dims(xp.reshape(blocks, (b, m, p, -1)), (0, 1, 3, 2)), (b, m, -1))
        gradients = []
        for tap in range(first):
            lags_of_tap = by_first_lag[:, first - 1 - tap : 2 * first - 1 - tap, ...]
            gradients.append(xp.matmul(flat, xp.reshape(lags_of_tap, (b, -1, count * p))))
        by_tap = xp.reshape(xp.stack(gradients, axis=2), (b, m, first * count, p))
        return 2 * xp.reshape(xp.permute_dims(by_tap, (0, 1, 3, 2)), blocks.shape)


def _taps_in_rows(x: Array, *, xp: Namespace) -> Array:
    """From (b, rows, c, first taps, *other taps) to (b, first taps * rows, other taps * c)."""
    b, rows, c, *taps = x.shape
    first_taps, *other_taps = taps or [1]
    by_first_tap = xp.permute_dims(xp.reshape(x, (b, rows, c, first_taps, -1)), (0, 3, 1, 4, 2))
    return xp.reshape(by_first_tap, (b, first_taps * rows, math.prod(other_taps) * c))


def _sums_by_lag(products: Array, taps: list[int], channels: tuple[int, int], *, xp: Namespace) -> Array:
    """Sum products (b, taps * left, taps * right) over the pairs of taps with each lag: (b, lags, left, right)."""
    left, right = channels
    values = xp.reshape(products, (-1, *taps, left, *taps, right))
    # The lags of an axis, from 1 - n to n - 1, take the place of the first of its two axes of n taps, y and z; of those
    # behind the channels, the one that is due comes first.
    second = len(taps) + 2
    for first, size in enumerate(taps, start=1):
        other_axes = (axis for axis in range(values.ndim) if axis not in (first, second))
        pairs = xp.permute_dims(values, (*other_axes, first, second))
        sums = [xp.linalg.trace(pairs, offset=z_less_y) for z_less_y in range(1 - size, size)]
        values = xp.stack(sums, axis=first)
    return xp.reshape(values, (values.shape[0], -1, left, right))


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
    return arrays.ceil_div(rows, 2 * at_once) * at_once


def _additions(rows: int, at_once: int) -> int:
    """Number of roundings of an entry of `_product`."""
    if rows <= at_once:
        return rows
    half = _first_half(rows, at_once)
    return max(_additions(half, at_once), _additions(rows - half, at_once)) + 1
