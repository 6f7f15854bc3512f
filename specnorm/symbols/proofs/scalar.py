"""Symbols of one column: a depthwise layer's, whose norm at a frequency is a sum of squares instead of an eigenvalue.

Such a symbol is evaluated axis by axis. At one frequency that takes the phases along each axis and one pass over the
taps; on all points of a grid, and for many blocks, one product of matrices an axis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs import rounding
from specnorm.proofs.frequencies import Frequencies, phase_error, tap_points

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

_HOST_BYTES = 4 * 2**20
"""Bytes of a grid's values that are computed at once, where the host computes: they stay in the cache."""


def column_error(kernel_shape: Sequence[int], u: float) -> float:
    """Bound on ``||computed G(theta) - G(theta)|| / q`` of a symbol with one column, with ``q >= || sum_k |K_k| ||``.

    An axis of k taps multiplies complex numbers by phases, which are off by ``sqrt(2) eps_c`` (``eps_c``:
    `phase_error`), and adds them: a real and an imaginary part are sums of 2 k products. The result is off by at most
    ``sqrt(2) (gamma(2 k + 2) + eps_c)`` of the sum of the moduli. The bound is the sum over the axes.

    ``u``: unit roundoff of the precision that is computed in.
    """
    axis_errors = [rounding.gamma(2 * k + 2, u) + phase_error(u) for k in kernel_shape]
    return rounding.SLACK * math.sqrt(2) * sum(axis_errors)


def scalar_error(m: int, kernel_shape: Sequence[int], u: float) -> float:
    """Bound on ``|computed H(theta) - H(theta)| / q**2`` of `polynomial.ScalarGram`, with ``q >= || sum_k |K_k| ||``.

    G is off by ``delta q``, with delta of `column_error`, and H, a sum of 2 m squares, by
    ``(gamma(2 m + 2) + 2 delta + delta**2) q**2``.

    ``m``: rows of the column. ``kernel_shape``, ``u``: as of `column_error`.
    """
    delta = column_error(kernel_shape, u)
    return rounding.SLACK * (rounding.gamma(2 * m + 2, u) + 2 * delta + delta**2)


def half_grid_tables(
    sizes: Sequence[int],
    kernel_shape: Sequence[int],
    like: Array,
    *,
    ops: ArrayOps,
) -> list[tuple[Array, Array]]:
    """Cosines and sines of a half grid, for each axis of its taps at its points, as `squares_on_grid` takes them."""
    tables = []
    for n, points, k in zip(sizes, Frequencies.half_grid_shape(sizes), kernel_shape, strict=True):
        along_axis = Frequencies.along_axis(points, n)
        tables.append(along_axis.device_cos_sin(tap_points((k,)), like, ops=ops))
    return tables


def blocks_at_once(m: int, point_count: int, kernel_shape: Sequence[int], *, ops: ArrayOps) -> int:
    """Number of blocks whose values on a grid are computed at once, by the cache or the memory.

    Eight arrays of a block's values are alive at a time.
    """
    bytes_of_a_block = 8 * 8 * m * max(point_count, math.prod(kernel_shape))
    # A compiler compiles each part by itself, so its parts are as large as the memory allows.
    most_bytes = min(_HOST_BYTES, ops.memory) if ops.concrete and ops.on_host else ops.memory
    return max(1, most_bytes // bytes_of_a_block)


def squares_on_grid(blocks: Array, tables: Sequence[tuple[Array, Array]], *, xp: Namespace) -> Array:
    """``||G(theta)||**2`` of blocks (g, m, 1, *kernel_shape) on a product of frequencies, shape (g, points).

    The error is that of `scalar_error`.

    ``tables``: for each axis, of its taps at its frequencies, shape (n, k).
    """
    g, m, _, *kernel_shape = blocks.shape
    parts = arrays.fourier_sums(xp.reshape(blocks, (g * m, 1, *kernel_shape)), tables, xp=xp)
    return xp.sum(xp.reshape(parts, (g, 2 * m, -1)) ** 2, axis=1)
