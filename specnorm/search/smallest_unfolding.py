"""The smallest unfolding bound of each block: found by Lanczos, best first; then that one is proven."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.matrices.unfolding import UnfoldingProof
from specnorm.numerics.lanczos import Lanczos, vector_tolerance
from specnorm.problem import unfoldings

if TYPE_CHECKING:
    from specnorm.certified.bound import Upper
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array, ArrayOps, Namespace


@dataclass(frozen=True, eq=False)
class UnfoldingTuning:
    """Precision of the search. It decides on time, and on which of two nearly equal unfoldings is proven.

    Parameters
    ----------
    float32_from : int
        Entries of a kernel from which the smallest norm is looked for in float32, in half the time.
    steps : int
        After so many of one alone, the Gram matrix of its proof is formed: a step takes half as long with it.
    """

    float32_from: int = 2**17
    steps: int = 12


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
    """The shorter side of an unfolding."""
    count = math.prod(shape[axis] for axis in rows)
    return min(count, math.prod(shape) // count)
