"""The smallest unfolding bound of each block: found by Lanczos, best first; then that one is proven."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.matrices.unfolding import norms_by_unfolding
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
    """

    float32_from: int = 2**17


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
    active, runs = _search(blocks, spec, tolerance, ops=ops)
    best: list[Upper | None] = [None] * count
    residuals: list[Array] = []
    for j, rows in enumerate(splits):
        mine = np.flatnonzero(active == j)
        if not len(mine):
            residuals += [no_vectors(blocks, ops=ops)] * 2
            continue
        run = _finished(runs.pop(j), mine, blocks, rows, tolerance, ops=ops)
        at = ops.from_numpy(np.eye(count)[:, mine].astype(run.host), blocks)
        u, v = run.vectors()
        near, v = run.small_side(), _in_order(v, rows, spec, xp=xp)
        if run.matrix.shape[2] <= run.matrix.shape[1]:
            near = _in_order(near, rows, spec, xp=xp)
        residuals += [x if len(mine) == count else xp.matmul(at, x) for x in (u, v)]
        few = blocks if len(mine) == count else xp.take(blocks, ops.from_numpy(mine, blocks), axis=0)
        for place, bound in zip(mine.tolist(), norms_by_unfolding(few, rows, near, ops=ops), strict=True):
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
        order = tuple(axis + 1 for axis in (*rows, *_columns(rows, len(shape) - 1)))
        if order not in self._reordered:
            self._reordered[order] = xp.reshape(xp.permute_dims(self.blocks, (0, *order)), (shape[0], -1))
        return xp.reshape(self._reordered[order], (shape[0], math.prod(shape[axis + 1] for axis in rows), -1))


def _columns(rows: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The other axes, cin last."""
    return tuple(sorted((axis for axis in range(ndim) if axis not in rows), key=lambda axis: (axis == 1, axis)))


def _in_order(v: Array, rows: tuple[int, ...], spec: ConvSpec, *, xp: Namespace) -> Array:
    """Vectors of such columns, as `unfoldings.unfold` orders them."""
    columns = _columns(rows, spec.ndim + 2)
    split = xp.reshape(v, (v.shape[0], *(spec.block_shape[axis] for axis in columns)))
    back = tuple(1 + j for j in arrays.inverse_permutation([sorted(columns).index(axis) for axis in columns]))
    return xp.reshape(xp.permute_dims(split, (0, *back)), v.shape)


def _search(blocks: Array, spec: ConvSpec, tolerance: float, *, ops: ArrayOps) -> tuple[np.ndarray, dict[int, Lanczos]]:
    """Which unfolding of each block has the smallest norm, up to 1e-6, and the runs that found them.

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
    while True:
        active = np.argmin(least, axis=0)
        waiting = active[~done[active, np.arange(count)]]
        if not len(waiting):
            return active, {j: runs[j] for j in set(active.tolist())}
        j = int(np.bincount(waiting).argmax())
        if j not in runs:
            within = max(tolerance, vector_tolerance(searched.dtype, xp=xp))
            runs[j] = Lanczos(matrices.unfold(splits[j]), tolerance=within, ops=ops)
        runs[j].advance()
        least[j], done[j] = np.maximum(least[j], runs[j].squares), runs[j].done


def _finished(
    run: Lanczos,
    mine: np.ndarray,
    blocks: Array,
    rows: tuple[int, ...],
    tolerance: float,
    *,
    ops: ArrayOps,
) -> Lanczos:
    """The run for some of the blocks alone, in their own precision."""
    xp = ops.xp
    if len(mine) == blocks.shape[0] and run.matrix.dtype == blocks.dtype:
        return run
    start = run.small_side()
    if len(mine) < blocks.shape[0]:
        index = ops.from_numpy(mine, blocks)
        blocks, start = xp.take(blocks, index, axis=0), xp.take(start, index, axis=0)
    matrix = _Matrices(blocks, xp=xp).unfold(rows)
    return Lanczos(matrix, xp.astype(start, blocks.dtype), tolerance=tolerance, ops=ops).finish()


def _rank(shape: tuple[int, ...], rows: tuple[int, ...]) -> int:
    """The shorter side of an unfolding."""
    count = math.prod(shape[axis] for axis in rows)
    return min(count, math.prod(shape) // count)
