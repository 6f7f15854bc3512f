"""Unfolding bounds: ``sigma* <= sqrt(taps) ||M||`` for a kernel reshaped into a matrix M in any way.

G(theta) is M between unit vectors that hold the phases of its row taps and of its column taps, ``sqrt(taps)`` in all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.certified.bound import EVERYWHERE, Upper, _upper
from specnorm.linalg import arrays, unfoldings
from specnorm.proof import matrices, rounding

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps, Namespace


def with_taps(norms: Array, kernel_shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """Bounds of the symbols' norms from bounds of their unfoldings', rounded up."""
    return rounding.up(norms * math.sqrt(math.prod(kernel_shape)), 3, xp=xp)


def norms_by_unfolding(blocks: Array, rows: tuple[int, ...], near: Array, *, ops: ArrayOps) -> list[Upper]:
    """Bounds of the supremum of each block, from one unfolding.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
    rows : tuple of int
        As of `unfoldings.unfold`.
    near : array, shape (b, shorter side)
        Near its top singular vectors; trusted for nothing.
    """
    xp, unfolded = ops.xp, unfoldings.unfold(blocks, rows, xp=ops.xp)
    matrix, v = (arrays.in_wide_dtype(x, ops=ops) for x in (unfolded, near))
    found = matrices.GramProof(matrix, ops=ops).norm_near(v)
    if not bool(xp.all(xp.isfinite(found))):
        found = xp.minimum(found, matrices.matrix_norm_up(matrix, ops=ops))
    values = ops.to_numpy(with_taps(found, tuple(blocks.shape[3:]), xp=xp)).tolist()
    words = f"{matrix.shape[1]} x {matrix.shape[2]} unfolding"
    return [_upper(value, EVERYWHERE, words) for value in values]
