"""One matrix, or a few: Lanczos finds the norm, and one factorisation each proves it where that is asked for.

Blocks with one tap are matrices, for which no torus is searched; so is the symbol at one frequency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import finite
from specnorm.certified.matrices import norms
from specnorm.certified.matrices.norms import UnfoldingProof
from specnorm.certified.symbol import symbols
from specnorm.numerics import gradients
from specnorm.numerics.lanczos import Lanczos, vector_tolerance
from specnorm.problem import unfoldings
from specnorm.problem.frequencies import Frequencies
from specnorm.search.result import Bounds, SearchResult

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.bound import Upper
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


_LARGE = 256
"""Rows or columns from which on Lanczos finds a symbol's top vectors in a fraction of an eigenvalue routine's time."""
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
    triple = _top_triple_of_large(matrix, ops=ops) if ops.concrete and min(matrix.shape[1:]) > _LARGE else None
    return *(triple or symbols.top_triple(matrix, xp=xp)), phase


def _top_triple_of_large(matrix: Array, *, ops: ArrayOps) -> tuple[Array, Array, Array] | None:
    """Top singular triple by Lanczos, of the real matrix [[Re, -Im], [Im, Re]]; None where it does not converge."""
    xp, (rows, columns) = ops.xp, matrix.shape[1:]
    real, imag = xp.real(matrix), xp.imag(matrix)
    doubled = xp.concat([xp.concat([real, -imag], axis=2), xp.concat([imag, real], axis=2)], axis=1)
    run = Lanczos(doubled, tolerance=vector_tolerance(doubled.dtype, xp=xp), ops=ops).finish()
    if not run.converged.all():
        return None
    u, v = run.vectors()
    u = u[:, :rows] + 1j * u[:, rows:]
    v = v[:, :columns] + 1j * v[:, columns:]
    return u, v, xp.linalg.vector_norm(xp.matmul(matrix, v[:, :, None])[:, :, 0], axis=-1)


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


class UnfoldingTuning(NamedTuple):
    """Precision of the search. It decides on time, and on which of two nearly equal unfoldings is proven."""

    float32_from: int = 2**17
    """Entries of a kernel from which the smallest norm is looked for in float32, in half the time."""
    steps: int = 12
    """After so many of one alone, the Gram matrix of its proof is formed: a step takes half as long with it."""


TUNING = UnfoldingTuning()


def smallest(blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> tuple[list[Upper], tuple[Array, ...]]:
    """The smallest unfolding bound of each block: the smallest norm is looked for, and that unfolding alone proven.

    Returns
    -------
    bounds : list of Upper
        Of each block.
    residuals : tuple of arrays
        u and v of each unfolding, of length 0 where it is no block's smallest; and which is each block's.
    """
    xp = ops.xp
    splits, count = unfoldings.unfolding_splits(spec.ndim), int(blocks.shape[0])
    tolerance = vector_tolerance(blocks.dtype, xp=xp)
    if math.prod(spec.block_shape) < TUNING.float32_from:
        blocks = arrays.in_wide_dtype(blocks, ops=ops)
    active, runs, proofs = _search(blocks, spec, tolerance, ops=ops)
    best: list[Upper | None] = [None] * count
    residuals: list[Array] = []
    for j, rows in enumerate(splits):
        mine = np.flatnonzero(active == j)
        if not len(mine):
            residuals += [no_vectors(blocks, ops=ops)] * 2
            continue
        few = blocks if len(mine) == count else xp.take(blocks, ops.from_numpy(mine, blocks), axis=0)
        proof = proofs.pop(j, None) or UnfoldingProof(few, rows, ops=ops)
        run = _finished(runs.pop(j), mine, few, rows, proof.gram, tolerance, ops=ops)
        at = ops.from_numpy(np.eye(count)[:, mine].astype(run.host), blocks)
        u, v = run.vectors()
        v = _in_order(v, rows, spec, xp=xp)
        residuals += [x if len(mine) == count else xp.matmul(at, x) for x in (u, v)]
        for place, bound in zip(mine.tolist(), proof.bounds(run.small_side()), strict=True):
            best[place] = bound
    return [x for x in best if x is not None], (*residuals, ops.from_numpy(active, blocks))


def no_vectors(blocks: Array, *, ops: ArrayOps) -> Array:
    """In the place of the vectors of an unfolding that is no block's smallest."""
    xp = ops.xp
    return xp.zeros((blocks.shape[0], 0), dtype=blocks.dtype, device=ops.device(blocks))


class _Matrices:
    """Unfoldings of blocks with cin last among the columns, so that several are views of one copy."""

    def __init__(self, blocks: Array, *, xp: Namespace) -> None:
        self.xp, self.blocks = xp, blocks
        self._reordered: dict[tuple[int, ...], Array] = {}

    def unfold(self, rows: tuple[int, ...]) -> Array:
        """As `unfoldings.unfold`, but for the order of the columns."""
        xp, shape = self.xp, self.blocks.shape
        order = tuple(axis + 1 for axis in (*rows, *unfoldings.cin_last(rows, len(shape) - 1)))
        if order not in self._reordered:
            self._reordered[order] = xp.reshape(xp.permute_dims(self.blocks, (0, *order)), (shape[0], -1))
        return xp.reshape(self._reordered[order], (shape[0], math.prod(shape[axis + 1] for axis in rows), -1))


def _in_order(v: Array, rows: tuple[int, ...], spec: ConvSpec, *, xp: Namespace) -> Array:
    """Vectors of such columns, as `unfoldings.unfold` orders them."""
    columns = unfoldings.cin_last(rows, spec.ndim + 2)
    split = xp.reshape(v, (v.shape[0], *(spec.block_shape[axis] for axis in columns)))
    back = tuple(1 + j for j in arrays.inverse_permutation([sorted(columns).index(axis) for axis in columns]))
    return xp.reshape(xp.permute_dims(split, (0, *back)), v.shape)


def _search(
    blocks: Array, spec: ConvSpec, tolerance: float, *, ops: ArrayOps
) -> tuple[np.ndarray, dict[int, Lanczos], dict[int, UnfoldingProof]]:
    """Which unfolding of each block has the smallest norm, up to 1e-6, the runs that found them, and a proof begun.

    Every unfolding has a lower bound of its norm, which Lanczos raises. The lowest is raised until it has converged and
    is the lowest still: then no unfolding has a smaller norm.
    """
    xp = ops.xp
    splits, count = unfoldings.unfolding_splits(spec.ndim), int(blocks.shape[0])
    total = ops.to_numpy(xp.linalg.vector_norm(xp.reshape(blocks, (count, -1)), axis=1)).astype(np.float64) ** 2
    # ||A||_F**2 is at most the number of singular values times ||A||**2.
    least = np.stack([total / _rank(spec.block_shape, rows) for rows in splits])
    done = np.zeros(least.shape, dtype=bool)
    searched = (
        xp.astype(blocks, xp.float32, copy=False) if math.prod(spec.block_shape) >= TUNING.float32_from else blocks
    )
    matrices = _Matrices(searched, xp=xp)
    runs: dict[int, Lanczos] = {}
    proofs: dict[int, UnfoldingProof] = {}
    while True:
        active = np.argmin(least, axis=0)
        waiting = active[~done[active, np.arange(count)]]
        if not len(waiting):
            return active, {j: runs[j] for j in set(active.tolist())}, proofs
        j = int(np.bincount(waiting).argmax())
        if j not in runs:
            within = max(tolerance, vector_tolerance(searched.dtype, xp=xp))
            runs[j] = Lanczos(matrices.unfold(splits[j]), tolerance=within, ops=ops)
        if count == 1 and not proofs and runs[j].steps >= TUNING.steps and searched.dtype == xp.float32:
            proofs[j] = UnfoldingProof(blocks, splits[j], ops=ops)
            runs[j].use(proofs[j].gram)
        runs[j].advance()
        least[j], done[j] = np.maximum(least[j], runs[j].squares), runs[j].done


def _finished(
    run: Lanczos,
    mine: np.ndarray,
    blocks: Array,
    rows: tuple[int, ...],
    gram: Array,
    tolerance: float,
    *,
    ops: ArrayOps,
) -> Lanczos:
    """The run for some of the blocks alone, given with their Gram matrices, in their own precision."""
    xp, all_ = ops.xp, len(mine) == run.matrix.shape[0]
    if all_ and run.matrix.dtype == blocks.dtype:
        return run
    start = run.small_side() if all_ else xp.take(run.small_side(), ops.from_numpy(mine, blocks), axis=0)
    matrix, gram = _Matrices(blocks, xp=xp).unfold(rows), xp.astype(gram, blocks.dtype, copy=False)
    return Lanczos(matrix, xp.astype(start, blocks.dtype), gram=gram, tolerance=tolerance, ops=ops).finish()


def _rank(shape: tuple[int, ...], rows: tuple[int, ...]) -> int:
    count = math.prod(shape[axis] for axis in rows)
    return min(count, math.prod(shape) // count)
