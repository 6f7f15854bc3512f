"""Blocks with one tap, matrices: Lanczos finds the norm, one factorisation each proves it. No torus is searched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import finite
from specnorm.certified.matrices import norms
from specnorm.numerics.lanczos import Lanczos, vector_tolerance
from specnorm.problem.frequencies import Frequencies
from specnorm.search.result import Bounds, SearchResult

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps

SMALLEST = 64
"""Smaller side below which a search takes no longer."""
_RESIDUAL = 0.25
"""Share of the tolerance at which Lanczos stops. The proof raises the squared norm by no more than its residual."""
_FLOAT32 = 2e-6
"""Residual down to which Lanczos in float32 gets."""
_FLOAT64 = 1e-9
"""Residual whose square is a rounding in float64, over the gaps that are usual."""


@dataclass(frozen=True, eq=False)
class MatrixBounds(Bounds):
    """Two proven bounds of the largest norm of some matrices.

    Parameters
    ----------
    index : int
        Of the matrix that the lower bound is of.
    u, v : arrays, shapes (1, m) and (1, n)
        Its singular vectors.
    steps : int
        Of Lanczos.
    """

    index: int
    u: Array
    v: Array
    steps: int


def enclose_matrices(matrix: Array, rtol: float, *, close: bool = True, ops: ArrayOps) -> MatrixBounds:
    """Enclose the largest norm of a stack of matrices, as closely as a factorisation can.

    Parameters
    ----------
    matrix : array, shape (g, m, n)
        In the wide dtype, scaled to about 1.
    rtol : float
        Relative width asked for.
    close : bool
        Whether the vectors are wanted in the kernel's own precision.
    """
    xp, (_, m, n) = ops.xp, matrix.shape
    within = max(_RESIDUAL * rtol, 1e-9)
    if close:
        within = min(within, vector_tolerance(getattr(xp, ops.own_dtype), xp=xp))
    proof, run = _gram_and_vectors(matrix, within, ops=ops)
    small = run.small_side()
    tall = xp.matrix_transpose(matrix) if m < n else matrix
    (lower, best), upper = norms.largest_quotient(tall, small, ops=ops), proof.largest_near(small)
    near = upper is not None and upper <= lower.value * (1 + rtol)
    if not near or (close and not run.converged.all()):
        # Many values next to the largest: Lanczos gets no hold of its vector, or none that the proof believes.
        small = arrays.top_eigenpair(proof.gram, xp=xp)[1]
        (lower, best), closer = norms.largest_quotient(tall, small, ops=ops), proof.largest_near(small)
        upper = min(upper or closer, closer or upper, key=finite)
    few = small[best : best + 1, :]
    large, _ = arrays.normalise(xp.matmul(tall[best : best + 1, ...], few[:, :, None])[:, :, 0], xp=xp)
    u, v = (few, large) if m < n else (large, few)
    return MatrixBounds(lower, upper, best, u, v, run.steps)


def enclose_each(matrix: Array, *, ops: ArrayOps) -> tuple[tuple[Array, Array], Array, Array] | None:
    """Norms of each matrix of a stack to a few roundings of its own precision, where Lanczos gets them.

    Parameters
    ----------
    matrix : array, shape (b, m, n)
        In the wide dtype, scaled to about 1.

    Returns
    -------
    vectors : pair of arrays, shapes (b, m) and (b, n)
        Singular vectors; zero for a zero matrix.
    lower, upper : arrays, shape (b,)
        Proven. None in place of all where the matrices are small, or the bounds or the vectors not close enough.
    """
    xp = ops.xp
    if not ops.concrete or not matrix.shape[0] or min(matrix.shape[1:]) <= SMALLEST:
        return None
    own = getattr(xp, ops.own_dtype)
    proof, run = _gram_and_vectors(matrix, _FLOAT32 if own == xp.float32 else _FLOAT64, ops=ops)
    if not np.all(run.converged & (run.off <= 4 * float(xp.finfo(own).eps))):
        return None
    upper = proof.norm_near(run.small_side())
    if not bool(xp.all(xp.isfinite(upper))):
        return None
    return (vectors := run.vectors()), norms.quotient_down(matrix, vectors[1], xp=xp), upper


def _gram_and_vectors(matrix: Array, within: float, *, ops: ArrayOps) -> tuple[norms.GramProof, Lanczos]:
    """The smaller Gram matrices of a stack, and Lanczos with them to its end; in float32 where that gets so far."""
    proof = norms.GramProof(matrix, ops=ops)
    narrow = within >= _FLOAT32 and ops.exact_float32
    gram = ops.xp.astype(proof.gram, ops.xp.float32) if narrow else proof.gram
    return proof, Lanczos(matrix, gram=gram, tolerance=within, ops=ops).finish()


def enclose_constant(blocks: Array, rtol: float, *, close: bool = True, ops: ArrayOps) -> SearchResult | None:
    """Enclose the largest norm of blocks with one tap.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1.
    close : bool
        As in `enclose_matrices`.

    Returns
    -------
    SearchResult or None
        None where there are more taps, where the blocks are small, or where the bounds are wider than rtol.
    """
    count, m, p, *taps = blocks.shape
    if math.prod(taps) > 1 or min(m, p) < SMALLEST:
        return None
    found = enclose_matrices(ops.xp.reshape(blocks, (count, m, p)), rtol, close=close, ops=ops)
    if found.upper is None or not found.within(rtol):
        return None
    upper = norms.norm_of_one_tap(blocks, found.upper)
    nowhere = Frequencies(np.zeros((1, len(taps)), dtype=np.int64), (1,) * len(taps))
    return SearchResult(found.lower, upper, nowhere, found.index, count, 1, (found.u, found.v))
