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


class UnfoldingProof:
    """Bounds of the supremum of each block from one unfolding, whose smaller Gram matrix is formed once.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
    rows : tuple of int
        As of `unfoldings.unfold`. The columns are in the order of `unfoldings.cin_last`.
    """

    def __init__(self, blocks: Array, rows: tuple[int, ...], *, ops: ArrayOps) -> None:
        columns = unfoldings.cin_last(rows, blocks.ndim - 1)
        self._matrix = arrays.in_wide_dtype(unfoldings.unfolded(blocks, rows, columns, xp=ops.xp), ops=ops)
        self._ops, self._taps, self._proof = ops, tuple(blocks.shape[3:]), norms.GramProof(self._matrix, ops=ops)

    @property
    def gram(self) -> Array:
        """Gram matrix of the shorter side, to be read."""
        return self._proof.gram

    def bounds(self, near: Array) -> list[Upper]:
        """Bounds, close where vectors (b, shorter side) are near the top singular ones; trusted for nothing."""
        ops = self._ops
        found = _norms_up(self._proof, self._matrix, arrays.in_wide_dtype(near, ops=ops), ops=ops)
        words = f"{self._matrix.shape[1]} x {self._matrix.shape[2]} unfolding"
        values = ops.to_numpy(with_taps(found, self._taps, xp=ops.xp)).tolist()
        return [_upper(value, EVERYWHERE, words) for value in values]


def _norms_up(proof: norms.GramProof, matrix: Array, near: Array, *, ops: ArrayOps) -> Array:
    found = proof.norm_near(near)
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
    norms_up = _norms_up(norms.GramProof(matrix, ops=ops), matrix, small, ops=ops)
    norm = xp.max(xp.reshape(norms_up, (value.shape[0], -1)), axis=1)
    wide = arrays.in_wide_dtype(value, ops=ops)
    ones = xp.ones_like(value)
    ratio = rounding.up(norm / xp.where(wide > 0, wide, xp.ones_like(wide)), 2, xp=xp)
    # The value is multiplied by it in its own precision.
    factor = xp.maximum(ones, rounding.up(rounding.to_dtype(ratio, value.dtype, "up", xp=xp), 2, xp=xp))
    # What is within the value already needs no factor.
    return xp.where(norm <= wide, ones, factor)
