"""Tensor norms of kernels that are matrices: with one tap, or with one channel on each side."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.symbols.lanczos import Lanczos, vector_tolerance

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps


def norms_of_one_tap(blocks: Array, *, ops: ArrayOps) -> tuple[Array, list[Array], int]:
    """Norms of blocks with one tap, which are their tensor norms: the form is that of `alternation.maximise`.

    ``blocks`` is (b, m, p, *kernel_shape). Returns ``value`` (b,): norms, raised by an allowance for rounding;
    ``vectors``: u, v and a vector of ones for the spatial axes, each of shape (b, n); ``steps``: number of Lanczos
    steps.
    """
    xp = ops.xp
    matrix = xp.reshape(blocks, blocks.shape[:3])
    lanczos = Lanczos(matrix, tolerance=vector_tolerance(matrix.dtype, xp=xp), ops=ops).finish()
    u, v = lanczos.vectors()
    images = xp.matmul(matrix, v[:, :, None])[:, :, 0]
    value = xp.linalg.vector_norm(images, axis=1) * (1 + 8 * float(xp.finfo(matrix.dtype).eps))
    return value, [u + 0j, v + 0j, xp.ones_like(v[:, :1]) + 0j], lanczos.steps


def norms_of_one_channel(blocks: Array, *, ops: ArrayOps) -> tuple[Array, list[Array], int]:
    """Tensor norms (TN) of blocks with one input and one output channel and at most two axes with several taps.

    The form is that of a matrix then, and its maximum over complex vectors is the norm of the matrix.

    ``blocks`` is (b, 1, 1, *kernel_shape). As `norms_of_one_tap`; the spatial vectors are the singular
    vectors of the matrix of taps.
    """
    xp = ops.xp
    count, _, _, *sizes = blocks.shape
    rows, columns = [1, 1, *(size for size in sizes if size > 1)][-2:]
    matrices = xp.reshape(blocks, (count, rows, columns))
    value, (u, v, one), steps = norms_of_one_tap(matrices, ops=ops)
    weights = xp.reshape(u[:, :, None] * v[:, None, :], (count, -1))
    return value * math.sqrt(rows * columns), [one, one, weights], steps
