"""`gram_powers` for blocks with one column: ``H_t`` is a number at each frequency, and its taps bound the norm.

The blocks are computed in parts that fit the cache. The transform from taps to values on the grid, and back from the
powers of these values to taps, takes one matrix product for each axis (`arrays.fourier_sums`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from specnorm.backends import arrays
from specnorm.gram.proofs import powers as gram_powers
from specnorm.proofs import rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, _uppers
from specnorm.proofs.frequencies import half_grid_shape, halved_axis, tap_grid
from specnorm.symbols.proofs import symbols
from specnorm.symbols.proofs.scalar import blocks_at_once, half_grid_tables, scalar_error, squares_on_grid

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper

Item = TypeVar("Item")


def scalar_norms(
    blocks: Array, n_iter: int, *, ops: ArrayOps
) -> tuple[Array, tuple[Array, ...], Callable[[], list[Upper]]]:
    """Bound the supremum of each block, and return the residuals of `gram.method.scalar_powers_vjp`.

    Parameters
    ----------
    blocks : array, shape (b, m, 1, *kernel_shape) or (b, 1, p, *kernel_shape)
        With at least one axis.
    n_iter : int
        t >= 1: the bound is the 2**t-th root of the sum of the magnitudes of all taps of ``H_t``.

    Returns
    -------
    norms : array, shape (b,)
        Rounded up; 0 for a zero block.
    residuals : tuple of arrays
        The blocks, scaled, in their own precision; and the sums (b,) of the magnitudes of the taps, in that scale.
    claims : callable
        Returns the norms as claims.
    """
    xp = ops.xp
    wide = arrays.in_wide_dtype(arrays.tall(blocks, xp=xp), ops=ops)
    count, m, _, *kernel_shape = wide.shape
    points = math.prod(half_grid_shape(tap_grid(tuple(kernel_shape), n_iter)))
    at_once = blocks_at_once(m, points, kernel_shape, ops=ops)
    tables = _Tables(wide, n_iter, ops=ops)
    parts = []
    for start in range(0, count, at_once):
        stop = min(start + at_once, count)
        parts.append(_norms_of_part(wide[start:stop, ...], tables, ops=ops))
    norms, sums, exponents = (xp.concat(list(column), axis=0) for column in zip(*parts, strict=True))
    factor = xp.reshape(arrays.power_of_two(-exponents, xp=xp), (-1,) + (1,) * (blocks.ndim - 1))
    claims = _uppers(norms, ALL_FREQUENCIES, gram_powers.gram_rule(n_iter), ops=ops)
    return norms, (blocks * xp.astype(factor, blocks.dtype), sums), claims


class _Tables:
    """Tables of cosines and sines of the grid of ``H_t``'s taps, which is halved along its longest axis."""

    def __init__(self, blocks: Array, n_iter: int, *, ops: ArrayOps) -> None:
        self.n_iter = n_iter
        self.grid = tap_grid(tuple(blocks.shape[3:]), n_iter)
        self.halved = halved_axis(self.grid)
        self.counts = half_grid_shape(self.grid)
        self.to_points = half_grid_tables(self.grid, blocks.shape[3:], blocks, ops=ops)
        multiplicity, to_all_taps = gram_powers.tables(self.grid)
        # H is even, so that half of the taps are computed.
        self.to_taps = [
            symbols.device_tables(cos[:count, :], sin[:count, :], blocks, ops=ops)
            for (cos, sin), count in zip(to_all_taps, self.counts, strict=True)
        ]
        self.weights = symbols.device_table(multiplicity, blocks, ops=ops)


def _norms_of_part(blocks: Array, tables: _Tables, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """Bound some blocks. Return the bounds, the sums of which they are roots, and the exponents of the blocks' scaling.

    Let h be the computed ``|G|**2`` and e a bound of its error, `scalar_error`. The square of h is off by at most
    ``2 h e + e**2``, and one rounding. The errors at all points, and those of the transform, add up as in
    `gram_powers.GramTaps.values`. H is even, so half of the taps have the magnitudes of the others.
    """
    xp = ops.xp
    g, m, _, *kernel_shape = blocks.shape
    u = rounding.unit(blocks, xp=xp)
    taps = math.prod(kernel_shape)
    q = symbols.absolute_norm_up(blocks, xp=xp)
    exponent = gram_powers.exponent_above(q, xp=xp)
    first_factor = arrays.power_of_two(-exponent, xp=xp)
    scaled = blocks * xp.reshape(first_factor, (-1,) + (1,) * (blocks.ndim - 1))
    squares = squares_on_grid(scaled, tables.to_points, xp=xp)
    error = rounding.up((q * first_factor) ** 2, 2, xp=xp) * (rounding.SLACK * scalar_error(m, kernel_shape, u))
    # Powers of numbers of at most 1 stay so. The mean square on the grid is at least ``1 / (4 m taps)``, as q is at
    # most ``sqrt(m taps)`` times the Frobenius norm: so the second factor is at most ``4 m taps``.
    second_exponent = gram_powers.exponent_above(xp.sqrt(xp.max(squares, axis=1)), xp=xp)
    second_factor = arrays.power_of_two(-2 * second_exponent, xp=xp)
    squares = squares * second_factor[:, None]
    error = (error * second_factor)[:, None]
    exponent = exponent + second_exponent
    for _ in range(tables.n_iter - 1):
        next_squares = squares * squares
        error = rounding.up((2 * squares + error) * error + 2 * u * next_squares, 8, xp=xp)
        squares = next_squares
    points = int(tables.weights.shape[0])
    error_sum_sq = xp.sum(error**2 * tables.weights, axis=1)
    norm_sum_sq = xp.sum(squares**2 * tables.weights, axis=1)
    value_error = rounding.up(xp.sqrt(rounding.up(error_sum_sq, points + 4, xp=xp)), 2, xp=xp)
    norm_of_values = rounding.up(xp.sqrt(norm_sum_sq), points + 4, xp=xp)
    tap_count = math.prod(tables.grid)
    axis_errors = [math.sqrt(2) * (rounding.gamma(2 * n + 8, u) + symbols.phase_error(u)) for n in tables.grid]
    transform_error = norm_of_values * (rounding.SLACK * (sum(axis_errors) + 4 * u) * math.sqrt(tap_count))
    # Products below the smallest normal number may be flushed to 0.
    products = 8 * m * taps * (4 * m * taps) * tap_count
    underflow = 4.0**tables.n_iter * products * float(xp.finfo(blocks.dtype).smallest_normal)
    error_of_sum = rounding.up(value_error + transform_error, 4, xp=xp) + underflow
    # The halved axis is transformed last, so that only the real part is computed.
    axes = [tables.halved, *(axis for axis in range(len(tables.grid)) if axis != tables.halved)]
    by_axis = xp.reshape(squares, (g, *tables.counts))
    rows = xp.reshape(xp.permute_dims(by_axis, (0, *(1 + axis for axis in axes))), (g, 1, *_along(tables.counts, axes)))
    halves = arrays.fourier_sums(rows, _along(tables.to_taps, axes), is_real=True, xp=xp)
    by_line = xp.sum(xp.reshape(xp.abs(halves), (g, tables.counts[tables.halved], -1)), axis=2)
    sums = (by_line[:, 0] + 2 * xp.sum(by_line[:, 1:], axis=1)) / tap_count
    sums = rounding.up(sums, tap_count + 5, xp=xp)
    norms = sums + error_of_sum
    for _ in range(tables.n_iter):
        norms = rounding.up(xp.sqrt(rounding.up(norms, 1, xp=xp)), 1, xp=xp)
    is_zero = ~xp.any(blocks != 0, axis=tuple(range(1, blocks.ndim)))
    norms = xp.where(is_zero, 0.0, norms)
    # Sums of rounding errors alone have no gradient.
    sums = xp.where(sums > error_of_sum, sums, 0.0)
    return arrays.unscale(norms, exponent, xp=xp), sums, exponent


def _along(items: Sequence[Item], axes: Sequence[int]) -> list[Item]:
    """Return the items of some axes, in the order of these axes."""
    return [items[axis] for axis in axes]
