"""Blocks with one tap, matrices: Lanczos finds the norm, one factorisation each proves it. No torus is searched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg import arrays
from specnorm.linalg.frequencies import Frequencies
from specnorm.linalg.lanczos import Lanczos, vector_tolerance
from specnorm.proof import matrices
from specnorm.search.branch_and_bound import SearchResult

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps

SMALLEST = 64
"""Smaller side below which a search takes no longer."""
_RESIDUAL = 0.25
"""Share of the tolerance at which Lanczos stops. The proof raises the squared norm by no more than its residual."""
_FLOAT32 = 2e-6
"""Residual down to which Lanczos in float32 gets."""


@dataclass(frozen=True, eq=False)
class MatrixBounds:
    """Two proven bounds of the largest norm of some matrices.

    Parameters
    ----------
    lower, upper : float
    index : int
        Of the matrix that the lower bound is of.
    u, v : arrays, shapes (1, m) and (1, n)
        Its singular vectors.
    steps : int
        Of Lanczos.
    """

    lower: float
    upper: float
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
    proof = matrices.GramProof(matrix, ops=ops)
    within = max(_RESIDUAL * rtol, 1e-9)
    if close:
        within = min(within, vector_tolerance(getattr(xp, ops.own_dtype), xp=xp))
    narrow = within >= _FLOAT32 and ops.exact_float32
    gram = xp.astype(proof.gram, xp.float32) if narrow else proof.gram
    run = Lanczos(matrix, gram=gram, tolerance=within, ops=ops).finish()
    del gram
    small = run.small_side()
    tall = xp.matrix_transpose(matrix) if m < n else matrix
    lower, upper = _bounds(proof, tall, small, ops=ops)
    if not upper <= np.max(lower) * (1 + rtol) or (close and not run.converged.all()):
        # Many values next to the largest: Lanczos gets no hold of its vector, or none that the proof believes.
        small = arrays.top_eigenpair(proof.gram, xp=xp)[1]
        lower, closer = _bounds(proof, tall, small, ops=ops)
        upper = min(upper, closer)
    best = int(np.argmax(lower))
    few = small[best : best + 1, :]
    large, _ = arrays.normalise(xp.matmul(tall[best : best + 1, ...], few[:, :, None])[:, :, 0], xp=xp)
    u, v = (few, large) if m < n else (large, few)
    return MatrixBounds(float(lower[best]), upper, best, u, v, run.steps)


def _bounds(proof: matrices.GramProof, tall: Array, small: Array, *, ops: ArrayOps) -> tuple[np.ndarray, float]:
    """Norms from below at vectors of the smaller side, and the largest from above."""
    lower = ops.to_numpy(matrices.quotient_down(tall, small, xp=ops.xp))
    return lower, float(np.max(ops.to_numpy(proof.norm_near(small))))


def enclose_constant(blocks: Array, rtol: float, *, close: bool = True, ops: ArrayOps) -> SearchResult | None:
    """Enclose the largest norm of blocks with one tap.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1.
    rtol : float
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
    if not found.upper <= found.lower * (1 + rtol):
        return None
    nowhere = Frequencies(np.zeros((1, len(taps)), dtype=np.int64), (1,) * len(taps))
    return SearchResult(found.lower, found.upper, nowhere, found.index, count, 1, (found.u, found.v))
