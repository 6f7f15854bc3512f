"""TN of kernels with one tap, matrices: their norm, by Lanczos, and its proof by one factorisation each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from specnorm.numerics.lanczos import Lanczos, vector_tolerance

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
