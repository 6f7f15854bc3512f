"""Unfolding bounds: ``sigma* <= sqrt(taps) ||M||`` for a kernel reshaped into a matrix M in any way.

G(theta) is M between unit vectors that hold the phases of its row taps and of its column taps, ``sqrt(taps)`` in all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm import arrays
from specnorm.certified import rounding
from specnorm.certified.bound import EVERYWHERE, Upper, _upper
from specnorm.certified.matrices import norms, stacks
from specnorm.problem import unfoldings

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
    values = ops.to_numpy(with_taps(_norms_up(matrix, v, ops=ops), tuple(blocks.shape[3:]), xp=xp)).tolist()
    words = f"{matrix.shape[1]} x {matrix.shape[2]} unfolding"
    return [_upper(value, EVERYWHERE, words) for value in values]


def _norms_up(matrix: Array, near: Array, *, ops: ArrayOps) -> Array:
    found = norms.GramProof(matrix, ops=ops).norm_near(near)
    if bool(ops.xp.all(ops.xp.isfinite(found))):
        return found
    return ops.xp.minimum(found, stacks.matrix_norm_up(matrix, ops=ops))


def proven_factor(value: Array, vectors: Array, blocks: Array, *, ops: ArrayOps) -> Array:
    """By what TN of a layer with one tap is to be multiplied to bound its blocks' norms: 1 and rounding, as a rule.

    Parameters
    ----------
    value : array, shape (l,)
    vectors : array, shape (l * g, p)
        Right singular vectors of the blocks, as complex numbers.
    blocks : array, shape (l * g, m, p, *kernel_shape)

    Returns
    -------
    array, shape (l,)
    """
    xp, (count, m, p) = ops.xp, blocks.shape[:3]
    matrix, v = (arrays.in_wide_dtype(x, ops=ops) for x in (xp.reshape(blocks, (count, m, p)), xp.real(vectors)))
    small = v if p <= m else xp.matmul(matrix, v[:, :, None])[:, :, 0]
    norm = xp.max(xp.reshape(_norms_up(matrix, small, ops=ops), (value.shape[0], -1)), axis=1)
    wide = arrays.in_wide_dtype(value, ops=ops)
    ones = xp.ones_like(value)
    ratio = rounding.up(norm / xp.where(wide > 0, wide, xp.ones_like(wide)), 2, xp=xp)
    # The value is multiplied by it in its own precision.
    factor = xp.maximum(ones, rounding.up(rounding.to_dtype(ratio, value.dtype, "up", xp=xp), 2, xp=xp))
    # What is within the value already needs no factor.
    return xp.where(norm <= wide, ones, factor)
