"""Tensor norms of kernels that are matrices: with one tap, or with one channel on each side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.symbols.lanczos import Lanczos
from specnorm.tensor_norm.proof import matrix_of

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps


def norms_of_matrices(blocks: Array, *, ops: ArrayOps) -> tuple[Array, list[Array], Array, int]:
    """Tensor norms (TN) of blocks that are matrices (`matrix_of`).

    The form is that of a matrix then, and its maximum over complex vectors is the norm of the matrix, times the root of
    the number of taps.

    ``blocks`` is (b, m, p, *kernel_shape). Returns ``value`` (b,): norms, raised by an allowance for rounding;
    ``vectors``: as `alternation.maximise`, u, v and one for all taps, each of shape (b, n); ``right`` (b, columns):
    right singular vectors of the matrices; ``steps``: number of Lanczos steps.
    """
    xp = ops.xp
    matrix = matrix_of(blocks, xp=xp)
    lanczos = Lanczos(matrix, tolerance=Lanczos.vector_tolerance(matrix.dtype, xp=xp), ops=ops).finish()
    u, v = lanczos.vectors()
    images = xp.matmul(matrix, v[:, :, None])[:, :, 0]
    value = xp.linalg.vector_norm(images, axis=1) * (1 + 8 * float(xp.finfo(matrix.dtype).eps))
    one = xp.ones_like(v[:, :1]) + 0j
    taps = math.prod(blocks.shape[3:])
    if taps == 1:
        return value, [u + 0j, v + 0j, one], v, lanczos.steps
    weights = xp.reshape(u[:, :, None] * v[:, None, :], (v.shape[0], -1)) + 0j
    return value * math.sqrt(taps), [one, one, weights], v, lanczos.steps
