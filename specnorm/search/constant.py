"""Blocks with one tap, matrices: Lanczos finds the norm, one factorisation each proves it. No torus is searched."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg.frequencies import Frequencies
from specnorm.linalg.lanczos import Lanczos
from specnorm.proof import matrices
from specnorm.search.branch_and_bound import SearchResult

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps

_SMALLEST = 64
"""Smaller side below which a search takes no longer."""
_RESIDUAL = 0.25
"""Share of the tolerance at which Lanczos stops. The proof raises the squared norm by no more than its residual."""


def enclose_constant(blocks: Array, rtol: float, *, ops: ArrayOps) -> SearchResult | None:
    """Enclose the largest norm of blocks with one tap.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1.
    rtol : float

    Returns
    -------
    SearchResult or None
        None where there are more taps, where the blocks are small, or where values next to the largest leave the proof
        wider than rtol.
    """
    xp, (count, m, p, *taps) = ops.xp, blocks.shape
    if math.prod(taps) > 1 or min(m, p) < _SMALLEST:
        return None
    matrix = xp.reshape(blocks, (count, m, p))
    vectors = Lanczos(matrix, tolerance=max(_RESIDUAL * rtol, 1e-9), ops=ops).finish().small_side()
    tall = xp.matrix_transpose(matrix) if m < p else matrix
    lower = ops.to_numpy(matrices.quotient_down(tall, vectors, xp=xp))
    upper = float(np.max(ops.to_numpy(matrices.norm_near(matrix, vectors, ops=ops))))
    best = int(np.argmax(lower))
    if not upper <= float(lower[best]) * (1 + rtol):
        return None
    nowhere = Frequencies(np.zeros((1, len(taps)), dtype=np.int64), (1,) * len(taps))
    return SearchResult(float(lower[best]), upper, nowhere, best, count, 1)
