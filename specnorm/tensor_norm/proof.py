"""The factor by which the tensor norm of a kernel that is a matrix is proven to bound its norm."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs import norms, rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, Uppers
from specnorm.unfoldings.proof import supremum_up_from_unfolding

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps


def matrix_of(blocks: Array, *, xp: Namespace) -> Array:
    """Blocks (b, m, p, *kernel_shape) that are matrices: with one tap; or one channel on each side and two axes.

    The second kind is an unfolding of the kernel.
    """
    count, m, p, *sizes = blocks.shape
    if math.prod(sizes) == 1:
        return xp.reshape(blocks, (count, m, p))
    rows, columns = [1, 1, *(size for size in sizes if size > 1)][-2:]
    return xp.reshape(blocks, (count, rows, columns))


def proven_factor(value: Array, vectors: Array, blocks: Array, *, ops: ArrayOps) -> tuple[Array, Uppers]:
    """Factor of at least 1 by which a computed tensor norm is multiplied to be an upper bound, if blocks are matrices.

    The tensor norm of a kernel is the largest value of its multilinear form over unit vectors (`tensor_norm.form`). For
    a kernel with one tap it is the spectral norm; for one with a channel on each side and two axes, the bound by its
    unfolding. So the factor exceeds 1 by roundings only, if the iteration for the norm has converged.

    ``value`` (l,): computed tensor norm of each of l layers. ``vectors`` (l * g, columns): approximate top right
    singular vectors of the matrices of the g blocks of each layer (`matrix_of`). ``blocks`` (l * g, m, p,
    *kernel_shape). Returns ``factor`` (l,); ``uppers``: bounds of the blocks' norms.
    """
    xp = ops.xp
    kernel_shape = tuple(blocks.shape[3:])
    matrix = arrays.in_wide_dtype(matrix_of(blocks, xp=xp), ops=ops)
    m, p = matrix.shape[1:]
    # The matrices are real, so the real part of a complex singular vector is one, too, if it is not 0. Any vectors are
    # valid (`GramProof.norm_up_near`); where they are poor, `matrix_norm_up` proves the bound.
    v = arrays.in_wide_dtype(xp.real(vectors), ops=ops)
    shorter_side_vectors = v if p <= m else xp.matmul(matrix, v[:, :, None])[:, :, 0]
    norms_up = norms.GramProof(matrix, ops=ops).norms_up(shorter_side_vectors)
    rule = "norm of the one tap"
    if math.prod(kernel_shape) > 1:
        norms_up = supremum_up_from_unfolding(norms_up, kernel_shape, xp=xp)
        rule = f"{m} x {p} unfolding"
    norm = xp.max(xp.reshape(norms_up, (value.shape[0], -1)), axis=1)
    wide_value = arrays.in_wide_dtype(value, ops=ops)
    ratio = rounding.up(norm / xp.where(wide_value > 0, wide_value, xp.ones_like(wide_value)), 2, xp=xp)
    # The value is multiplied by the factor in its own precision.
    narrow_ratio = rounding.up(rounding.to_dtype(ratio, value.dtype, "up", xp=xp), 2, xp=xp)
    one = xp.ones_like(value)
    # A norm that is no larger than the value needs no factor.
    factor = xp.where(norm <= wide_value, one, xp.maximum(one, narrow_ratio))
    return factor, Uppers._by_rule(norms_up, ALL_FREQUENCIES, rule)
