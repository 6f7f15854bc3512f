"""One matrix, or a few: Lanczos finds the norm, and one factorisation each proves it where that is asked for.

Blocks with one tap are matrices, for which no torus is searched; so is the symbol at one frequency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import finite
from specnorm.certified.matrices import norms
from specnorm.certified.symbol import gradients, symbols
from specnorm.numerics.lanczos import Lanczos, vector_tolerance
from specnorm.problem.frequencies import Frequencies
from specnorm.search.result import Bounds, SearchResult

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps, Namespace


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


def top_triple_at(
    block: Array, frequency: Frequencies, vectors: tuple[Array, Array] | None = None, *, ops: ArrayOps
) -> tuple[Array, Array, Array, Array]:
    """Top singular triple of one block at one frequency, and the taps' phases there; real vectors may be known."""
    xp = ops.xp
    symbol = symbols.Symbol(block, frequency, ops=ops)
    phase = symbol.phase
    if vectors is not None:
        u, v = (x + 0j for x in vectors)
        return u, v, xp.linalg.vector_norm(symbol.apply(v[:, None, :])[:, 0, :], axis=-1), phase
    matrix = symbols.matrix_at(block, phase, xp=xp)
    return *symbols.top_triple(matrix, xp=xp), phase


def top_triples(
    layers: list[Array], at: list[tuple[int, Frequencies, tuple[Array, Array] | None]], *, ops: ArrayOps
) -> tuple[Array, Array, Array, Array, Array]:
    """Top singular triple of one block of each layer at one frequency: u, v, sigma, phases and the block's index.

    Parameters
    ----------
    layers : list of arrays, shape (g, m, p, *kernel_shape)
    """
    xp = ops.xp
    found = [
        top_triple_at(blocks[index : index + 1, ...], frequency, vectors, ops=ops)
        for blocks, (index, frequency, vectors) in zip(layers, at, strict=True)
    ]
    u, v, value, phase = (xp.concat(list(x), axis=0) for x in zip(*found, strict=True))
    index = ops.from_numpy(np.asarray([index for index, _, _ in at], dtype=np.int64), layers[0])
    return u, v, value, phase, index


def top_gradient(residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """Gradient of a singular value with respect to all blocks of its layer, from u, v, phases and group."""
    u, v, phase, group = residuals
    gradient = gradients.triple_gradient(u, v, phase, cotangent, spec.block_kernel_shape, xp=xp)
    gradient = arrays.one_hot(gradient, group, spec.groups, xp=xp)
    return xp.reshape(gradient, (-1, *gradient.shape[2:]))


def norms_of_one_tap(blocks: Array, *, ops: ArrayOps) -> tuple[Array, list[Array], int]:
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
