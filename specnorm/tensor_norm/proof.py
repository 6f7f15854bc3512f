"""The factor by which the tensor norm of a kernel with one tap is proven to bound its norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs import rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, _uppers
from specnorm.proofs.norms import GramProof

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper


def proven_factor(
    value: Array, vectors: Array, blocks: Array, *, ops: ArrayOps
) -> tuple[Array, Callable[[], list[Upper]]]:
    """Factor of at least 1 by which a computed tensor norm of a one-tap layer is multiplied to be an upper bound.

    The tensor norm of a kernel is the largest value of its multilinear form over unit vectors (`tensor_norm.form`). For
    a kernel with one tap it is the spectral norm. So the factor exceeds 1 by roundings only, if the alternating
    maximisation of the form has converged.

    ``value`` (l,): computed tensor norm of each of l layers. ``vectors`` (l * g, p): approximate top right singular
    vectors of the g blocks of each layer. ``blocks`` (l * g, m, p, *kernel_shape): with one tap. Returns ``factor``
    (l,); ``claims``: returns the bounds of the blocks' norms.
    """
    xp = ops.xp
    count, m, p = blocks.shape[:3]
    matrix = arrays.in_wide_dtype(xp.reshape(blocks, (count, m, p)), ops=ops)
    # The matrices are real, so the real part of a complex singular vector is one, too, if it is not 0. Any vectors are
    # valid (`GramProof.norm_up_near`); where they are poor, `matrix_norm_up` proves the bound.
    v = arrays.in_wide_dtype(xp.real(vectors), ops=ops)
    shorter_side_vectors = v if p <= m else xp.matmul(matrix, v[:, :, None])[:, :, 0]
    norms_up = GramProof(matrix, ops=ops).norms_up(shorter_side_vectors)
    norm = xp.max(xp.reshape(norms_up, (value.shape[0], -1)), axis=1)
    wide_value = arrays.in_wide_dtype(value, ops=ops)
    ratio = rounding.up(norm / xp.where(wide_value > 0, wide_value, xp.ones_like(wide_value)), 2, xp=xp)
    # The value is multiplied by the factor in its own precision.
    narrow_ratio = rounding.up(rounding.to_dtype(ratio, value.dtype, "up", xp=xp), 2, xp=xp)
    one = xp.ones_like(value)
    # A norm that is no larger than the value needs no factor.
    factor = xp.where(norm <= wide_value, one, xp.maximum(one, narrow_ratio))
    return factor, _uppers(norms_up, ALL_FREQUENCIES, "norm of the one tap", ops=ops)
