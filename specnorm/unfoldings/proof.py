"""Upper bounds of the supremum by the norm of one unfolding of the kernel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.proofs import rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, Upper
from specnorm.unfoldings import reshaping as unfoldings

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
from specnorm.proofs import norms


def supremum_up_from_unfolding(unfolding_norms: Array, kernel_shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """Bounds of the supremum from bounds of the norm of each block's unfolding M: ``sqrt(taps)`` times these.

    Some axes of the taps are in the rows of M, the others in its columns. Let the rows have S of the taps. P has the
    entry ``e^{i theta.s} / sqrt(S)`` in row (c, s) and column c, for each channel c and each tap s of the rows, and
    zeros elsewhere; so it is an isometry. Q is the same for the columns, with conjugate phases. Then
    ``G(theta) = sqrt(taps) P^T M Q``, up to the sign of theta, and ``||G(theta)|| <= sqrt(taps) ||M||`` at every theta.
    """
    # The roundings: the root, its conversion to the dtype, and the product.
    return rounding.up(unfolding_norms * math.sqrt(math.prod(kernel_shape)), 3, xp=xp)


class UnfoldingProof:
    """Bounds of the supremum of each block from the norm of one unfolding, whose smaller Gram matrix is formed once.

    Parameters
    ----------
    blocks : array, shape (b, m, p, *kernel_shape)
    rows : tuple of int
        The axes of a block that make the rows, as in `unfoldings.unfold`. The columns are in the order of
        `unfoldings.cin_last`.
    """

    def __init__(self, blocks: Array, rows: tuple[int, ...], *, ops: ArrayOps) -> None:
        columns = unfoldings.cin_last(rows, blocks.ndim - 1)
        unfolding = unfoldings.unfold_in_order(blocks, rows, columns, xp=ops.xp)
        self._ops = ops
        self._kernel_shape = tuple(blocks.shape[3:])
        self._matrix = arrays.in_wide_dtype(unfolding, ops=ops)
        self._proof = norms.GramProof(self._matrix, ops=ops)

    @property
    def gram(self) -> Array:
        """The smaller Gram matrix of the unfolding of each block; read-only."""
        return self._proof.gram

    def bounds(self, near_vectors: Array) -> list[Upper]:
        """One bound for each block.

        ``near_vectors`` (b, shorter side of the unfolding): approximate top singular vectors. Any vectors are valid;
        the bounds are close if these are accurate.
        """
        ops = self._ops
        wide_vectors = arrays.in_wide_dtype(near_vectors, ops=ops)
        unfolding_norms = self._proof.norms_up(wide_vectors)
        values = ops.to_numpy(supremum_up_from_unfolding(unfolding_norms, self._kernel_shape, xp=ops.xp)).tolist()
        rule = f"{self._matrix.shape[1]} x {self._matrix.shape[2]} unfolding"
        return [Upper._by_rule(value, ALL_FREQUENCIES, rule) for value in values]
