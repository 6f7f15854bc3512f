"""TN of kernels with one tap, matrices: their norm, by Lanczos, and its proof by one factorisation each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg import arrays
from specnorm.linalg.lanczos import Lanczos, vector_tolerance
from specnorm.proof import matrices, rounding

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps


def norms(blocks: Array, *, ops: ArrayOps) -> tuple[Array, list[Array], int]:
    """Norms of blocks with one tap, as `alternation.maximise` gives TN.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)

    Returns
    -------
    value : array, shape (b,)
        Lifted by its rounding.
    vectors : list of arrays
        u, v and the ones that are the spatial vectors, (b, n) each.
    steps : int
    """
    xp = ops.xp
    matrix = xp.reshape(blocks, blocks.shape[:3])
    run = Lanczos(matrix, tolerance=vector_tolerance(matrix.dtype, xp=xp), ops=ops).finish()
    u, v = run.vectors()
    image = xp.matmul(matrix, v[:, :, None])[:, :, 0]
    value = xp.linalg.vector_norm(image, axis=1) * (1 + 8 * float(xp.finfo(matrix.dtype).eps))
    return value, [u + 0j, v + 0j, xp.ones_like(v[:, :1]) + 0j], run.steps


def proven_factor(value: Array, vectors: Array, blocks: Array, *, ops: ArrayOps) -> Array:
    """By what a layer's value is to be multiplied to be a bound of all its blocks' norms: 1 and rounding, as a rule.

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
    upper = ops.to_numpy(matrices.GramProof(matrix, ops=ops).norm_near(small))
    if not np.isfinite(upper).all():
        upper = np.minimum(upper, ops.to_numpy(matrices.matrix_norm_up(matrix, ops=ops)))
    norm = xp.max(xp.reshape(ops.from_numpy(upper, matrix), (value.shape[0], -1)), axis=1)
    wide = arrays.in_wide_dtype(value, ops=ops)
    ones = xp.ones_like(value)
    ratio = rounding.up(norm / xp.where(wide > 0, wide, xp.ones_like(wide)), 2, xp=xp)
    # The value is multiplied by it in its own precision.
    factor = xp.maximum(ones, rounding.up(rounding.to_dtype(ratio, value.dtype, "up", xp=xp), 2, xp=xp))
    # What is within the value already needs no factor.
    return xp.where(norm <= wide, ones, factor)
