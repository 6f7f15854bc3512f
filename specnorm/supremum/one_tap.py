"""Norms of matrices, and of blocks with one tap: Lanczos estimates, and one factorization proves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import norms
from specnorm.proofs.found import Found, Witness
from specnorm.proofs.frequencies import Frequencies
from specnorm.supremum.proof import largest_quotient, norm_of_one_tap
from specnorm.symbols.lanczos import DIRECT_SIZE, Lanczos

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps


_FEW_ROUNDINGS = 4
"""Likely error of a norm, in units of its precision's epsilon, up to which it is returned."""


def enclose_matrices(
    matrix: Array,
    rtol: float,
    *,
    precise_vectors: bool = True,
    ops: ArrayOps,
) -> Found:
    """Enclose the largest norm of a stack of matrices, as closely as a factorization can.

    ``matrix`` (g, m, n): in the widest dtype of the library, scaled to about 1. ``rtol``: relative width asked for.
    ``precise_vectors``: whether the vectors have to be as precise as the kernel's own dtype, since they are returned.
    """
    proof = norms.GramProof(matrix, ops=ops)
    if min(matrix.shape[1:]) <= DIRECT_SIZE:
        return _near_vectors(matrix, proof, _eigenvectors(proof, ops=ops), ops=ops)
    # The proof raises the squared norm by no more than the residual.
    residual = max(rtol, Lanczos.vector_tolerance(matrix.dtype, xp=ops.xp))
    if precise_vectors:
        residual = min(residual, Lanczos.vector_tolerance(getattr(ops.xp, ops.own_dtype), xp=ops.xp))
    lanczos = _lanczos(matrix, proof, residual, ops=ops)
    result = _near_vectors(matrix, proof, lanczos.short_side_vectors(), ops=ops)
    if result.within(rtol) and (lanczos.converged.all() or not precise_vectors):
        return result
    # If many values are next to the largest, Lanczos does not converge to its vector, or the proof near it fails.
    closer = _near_vectors(matrix, proof, _eigenvectors(proof, ops=ops), ops=ops)
    return closer.with_upper(result.upper, result.source)


def _eigenvectors(proof: norms.GramProof, *, ops: ArrayOps) -> Array:
    """Top eigenvectors of Gram matrices, by an eigenvalue routine."""
    _, vectors = arrays.top_eigenpair(proof.gram, xp=ops.xp)
    return vectors


def _near_vectors(matrix: Array, proof: norms.GramProof, vectors: Array, *, ops: ArrayOps) -> Found:
    """Bounds of the largest norm of matrices, from approximate top singular vectors on their shorter sides."""
    xp = ops.xp
    m, n = matrix.shape[1:]
    tall = xp.matrix_transpose(matrix) if m < n else matrix
    lower, best = largest_quotient(tall, vectors, ops=ops)
    small = vectors[best : best + 1, :]
    large, _ = arrays.normalise(xp.matmul(tall[best : best + 1, ...], small[:, :, None])[:, :, 0], xp=xp)
    u, v = (small, large) if m < n else (large, small)
    return Found(lower, proof.largest_up_near(vectors), Witness(best, u=u, v=v))


def enclose_each(matrix: Array, *, ops: ArrayOps) -> tuple[tuple[Array, Array], Array, Array] | None:
    """Norms of each matrix of a stack to a few roundings of its own precision, if Lanczos reaches that.

    ``matrix`` (b, m, n): in the widest dtype of the library, scaled to about 1. Returns ``vectors`` (b, m) and (b, n):
    singular vectors; zero for a zero matrix. Returns ``lower``, ``upper`` (b,): proven bounds. None in the place of all
    three if the matrices are small, or if the bounds or the vectors are not close enough.
    """
    xp = ops.xp
    if not ops.concrete or not matrix.shape[0] or min(matrix.shape[1:]) <= DIRECT_SIZE:
        return None
    dtype = getattr(xp, ops.own_dtype)
    proof = norms.GramProof(matrix, ops=ops)
    tolerance = Lanczos.vector_tolerance(dtype, xp=xp)
    lanczos = _lanczos(matrix, proof, tolerance, ops=ops)
    few_roundings = _FEW_ROUNDINGS * float(xp.finfo(dtype).eps)
    is_close = lanczos.converged & (lanczos.likely_error <= few_roundings)
    if not np.all(is_close):
        return None
    u, v = lanczos.vectors()
    lower = norms.quotient_down(matrix, v, xp=xp)
    upper = proof.norm_up_near(lanczos.short_side_vectors(), most_error=2 * few_roundings)
    # Estimates of Lanczos may be wrong; proven bounds that are close are not.
    if not bool(xp.all(upper <= (1 + tolerance) * lower)):
        return None
    return (u, v), lower, upper


def _lanczos(matrix: Array, proof: norms.GramProof, residual: float, *, ops: ArrayOps) -> Lanczos:
    """Lanczos with the Gram matrices of a stack, to a residual; in float32 if that reaches it."""
    gram = proof.gram
    if residual >= Lanczos.vector_tolerance(ops.xp.float32, xp=ops.xp) and ops.exact_float32:
        gram = ops.xp.astype(gram, ops.xp.float32)
    return Lanczos(matrix, gram=gram, tolerance=residual, ops=ops).finish()


def enclose_one_tap(
    blocks: Array,
    rtol: float,
    *,
    precise_vectors: bool = True,
    ops: ArrayOps,
) -> Found | None:
    """Enclose the largest norm of blocks with one tap, which are matrices.

    ``blocks`` (g, m, p, *kernel_shape): in the widest dtype of the library, scaled to about 1. ``precise_vectors``: as
    in `enclose_matrices`. Returns None if there are more taps, or if the bounds are wider than rtol.
    """
    count, m, p, *taps = blocks.shape
    if math.prod(taps) > 1:
        return None
    result = enclose_matrices(ops.xp.reshape(blocks, (count, m, p)), rtol, precise_vectors=precise_vectors, ops=ops)
    if result.upper is None or not result.within(rtol):
        return None
    zero = Frequencies(np.zeros((1, len(taps)), dtype=np.int64), (1,) * len(taps))
    upper = norm_of_one_tap(blocks, result.upper)
    return Found(result.lower, upper, replace(result.witness, frequency=zero), cells=count, levels=1)
