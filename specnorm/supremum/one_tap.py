"""Norms of matrices, and of blocks with one tap: Lanczos estimates, and one factorisation proves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import norms
from specnorm.proofs.found import Found, Witness
from specnorm.proofs.frequencies import Frequencies
from specnorm.symbols.lanczos import Lanczos, vector_tolerance

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper


LANCZOS_SIDE = 64
"""Smaller side of matrices around which Lanczos begins to take less time than a search or an eigenvalue routine."""


_RESIDUAL_SHARE = 0.25
"""Residual at which Lanczos stops, as a part of the tolerance. The proof raises the squared norm by no more than the
residual."""


_FLOAT32_RESIDUAL = 2e-6
"""Smallest residual that Lanczos in float32 reaches."""


_FLOAT64_RESIDUAL = 1e-9
"""Residual with which the error of the norm, about its square over the gap to the next value, is usually a rounding in
float64."""


_FEW_ROUNDINGS = 4
"""Likely error of a norm, in units of its precision's epsilon, up to which it is returned."""


def enclose_matrices(
    matrix: Array,
    rtol: float,
    *,
    precise_vectors: bool = True,
    ops: ArrayOps,
) -> Found:
    """Enclose the largest norm of a stack of matrices, as closely as a factorisation can.

    ``matrix`` (g, m, n): in the widest dtype of the library, scaled to about 1. ``rtol``: relative width asked for.
    ``precise_vectors``: whether the vectors have to be as precise as the kernel's own dtype, since they are returned.
    """
    xp = ops.xp
    m, n = matrix.shape[1:]
    residual = max(_RESIDUAL_SHARE * rtol, _FLOAT64_RESIDUAL)
    if precise_vectors:
        residual = min(residual, vector_tolerance(getattr(xp, ops.own_dtype), xp=xp))
    proof, lanczos = _gram_and_vectors(matrix, residual, ops=ops)
    tall = xp.matrix_transpose(matrix) if m < n else matrix
    vectors = lanczos.short_side_vectors()
    lower, best = norms.largest_quotient(tall, vectors, ops=ops)
    upper = proof.largest_up_near(vectors)
    is_close = upper is not None and upper <= lower.value * (1 + rtol)
    if not is_close or (precise_vectors and not lanczos.converged.all()):
        # If many values are next to the largest, Lanczos does not converge to its vector, or the proof near it fails.
        _, vectors = arrays.top_eigenpair(proof.gram, xp=xp)
        lower, best = norms.largest_quotient(tall, vectors, ops=ops)
        upper = _smaller(upper, proof.largest_up_near(vectors))
    small = vectors[best : best + 1, :]
    large, _ = arrays.normalise(xp.matmul(tall[best : best + 1, ...], small[:, :, None])[:, :, 0], xp=xp)
    if m < n:
        u, v = small, large
    else:
        u, v = large, small
    return Found(lower, upper, Witness(best, u=u, v=v))


def _smaller(first: Upper | None, second: Upper | None) -> Upper | None:
    """The smaller of two bounds, of which either may be missing."""
    if first is None or second is None:
        return second if first is None else first
    return min(first, second, key=float)


def enclose_each(matrix: Array, *, ops: ArrayOps) -> tuple[tuple[Array, Array], Array, Array] | None:
    """Norms of each matrix of a stack to a few roundings of its own precision, if Lanczos reaches that.

    ``matrix`` (b, m, n): in the widest dtype of the library, scaled to about 1. Returns ``vectors`` (b, m) and (b, n):
    singular vectors; zero for a zero matrix. Returns ``lower``, ``upper`` (b,): proven bounds. None in the place of all
    three if the matrices are small, or if the bounds or the vectors are not close enough.
    """
    xp = ops.xp
    if not ops.concrete or not matrix.shape[0] or min(matrix.shape[1:]) <= LANCZOS_SIDE:
        return None
    dtype = getattr(xp, ops.own_dtype)
    residual = _FLOAT32_RESIDUAL if dtype == xp.float32 else _FLOAT64_RESIDUAL
    proof, lanczos = _gram_and_vectors(matrix, residual, ops=ops)
    is_close = lanczos.converged & (lanczos.likely_error <= _FEW_ROUNDINGS * float(xp.finfo(dtype).eps))
    if not np.all(is_close):
        return None
    upper = proof.norm_up_near(lanczos.short_side_vectors())
    if not bool(xp.all(xp.isfinite(upper))):
        return None
    u, v = lanczos.vectors()
    return (u, v), norms.quotient_down(matrix, v, xp=xp), upper


def _gram_and_vectors(matrix: Array, residual: float, *, ops: ArrayOps) -> tuple[norms.GramProof, Lanczos]:
    """The smaller Gram matrices of a stack, and Lanczos with them to a residual; in float32 if that reaches it."""
    proof = norms.GramProof(matrix, ops=ops)
    gram = proof.gram
    if residual >= _FLOAT32_RESIDUAL and ops.exact_float32:
        gram = ops.xp.astype(gram, ops.xp.float32)
    return proof, Lanczos(matrix, gram=gram, tolerance=residual, ops=ops).finish()


def enclose_large_matrices(
    blocks: Array,
    rtol: float,
    *,
    precise_vectors: bool = True,
    ops: ArrayOps,
) -> Found | None:
    """Enclose the largest norm of large blocks with one tap, which are matrices.

    ``blocks`` (g, m, p, *kernel_shape): in the widest dtype of the library, scaled to about 1. ``precise_vectors``: as
    in `enclose_matrices`. Returns None if there are more taps, if the blocks are small, or if the bounds are wider
    than rtol.
    """
    count, m, p, *taps = blocks.shape
    if math.prod(taps) > 1 or min(m, p) < LANCZOS_SIDE:
        return None
    result = enclose_matrices(ops.xp.reshape(blocks, (count, m, p)), rtol, precise_vectors=precise_vectors, ops=ops)
    if result.upper is None or not result.within(rtol):
        return None
    zero = Frequencies(np.zeros((1, len(taps)), dtype=np.int64), (1,) * len(taps))
    upper = norms.norm_of_one_tap(blocks, result.upper)
    return Found(result.lower, upper, replace(result.witness, frequency=zero), cells=count, levels=1)
