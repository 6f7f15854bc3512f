"""Norms of constant matrices, where no torus is searched: blocks with one tap, symbols at one frequency, unfoldings.

The symbol of a block with one tap is constant, but for a phase. Lanczos estimates a norm; if a proof is asked for, one
factorization gives it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.symbols.lanczos import Lanczos
from specnorm.unfoldings import reshaping as unfoldings
from specnorm.unfoldings.proof import UnfoldingProof

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper

FLOAT32_FROM = 2**17
"""Entries of a kernel from which the smallest norm is searched in float32, in half the time."""


def smallest_unfoldings(blocks: Array, *, ops: ArrayOps) -> tuple[list[Upper], tuple[Array, ...]]:
    """The smallest unfolding bound of each block: the unfolding is chosen by a search, and it alone is proven.

    Returns ``bounds``: one bound for each block. Returns ``saved``: arrays for the gradient: (u_1, v_1, u_2, v_2, ...,
    chosen). u and v of an unfolding that no block chose have the length 0; ``chosen`` has the number of each block's
    unfolding.
    """
    xp = ops.xp
    count = int(blocks.shape[0])
    tolerance = Lanczos.vector_tolerance(blocks.dtype, xp=xp)
    if math.prod(blocks.shape[1:]) < FLOAT32_FROM:
        blocks = arrays.in_wide_dtype(blocks, ops=ops)
    search = _SmallestUnfolding(blocks, tolerance, ops=ops)
    chosen = search.run()
    bounds: list[Upper | None] = [None] * count
    saved: list[Array] = []
    for split, rows in enumerate(unfoldings.unfolding_splits(blocks.ndim - 3)):
        members = np.flatnonzero(chosen == split)
        if not len(members):
            saved += [no_vectors(blocks, ops=ops)] * 2
            continue
        chosen_by_all = len(members) == count
        part = blocks if chosen_by_all else xp.take(blocks, ops.from_numpy(members, blocks), axis=0)
        proof = UnfoldingProof(part, rows, ops=ops)
        lanczos = _finished(search.runs.pop(split), members, part, rows, proof.gram, tolerance, ops=ops)
        for member, bound in zip(members.tolist(), proof.bounds(lanczos.short_side_vectors()), strict=True):
            bounds[member] = bound
        u, v = lanczos.vectors()
        v = _in_unfolding_order(v, rows, blocks.shape[1:], xp=xp)
        if not chosen_by_all:
            among_blocks = ops.from_numpy(np.eye(count)[:, members].astype(lanczos.host_dtype), blocks)
            u, v = xp.matmul(among_blocks, u), xp.matmul(among_blocks, v)
        saved += [u, v]
    return [bound for bound in bounds if bound is not None], (*saved, ops.from_numpy(chosen, blocks))


def no_vectors(blocks: Array, *, ops: ArrayOps) -> Array:
    """Empty vectors, in the place of those of an unfolding that no block chose."""
    xp = ops.xp
    return xp.zeros((blocks.shape[0], 0), dtype=blocks.dtype, device=ops.device(blocks))


class _Unfoldings:
    """Unfoldings of blocks with cin last among the columns, so that several are views of one copy."""

    def __init__(self, blocks: Array, *, xp: Namespace) -> None:
        self.xp = xp
        self.blocks = blocks
        self._copies: dict[tuple[int, ...], Array] = {}

    def unfold(self, rows: tuple[int, ...]) -> Array:
        """Return the unfolding of `unfoldings.unfold`, with its columns in another order."""
        xp = self.xp
        shape = self.blocks.shape
        columns = unfoldings.cin_last(rows, len(shape) - 1)
        order = tuple(axis + 1 for axis in (*rows, *columns))
        if order not in self._copies:
            self._copies[order] = xp.reshape(xp.permute_dims(self.blocks, (0, *order)), (shape[0], -1))
        row_count = math.prod(shape[axis + 1] for axis in rows)
        return xp.reshape(self._copies[order], (shape[0], row_count, -1))


def _in_unfolding_order(
    v: Array,
    rows: tuple[int, ...],
    shape: tuple[int, ...],
    *,
    xp: Namespace,
) -> Array:
    """Vectors of the columns of `_Unfoldings` of a block, in the order of `unfoldings.unfold`: ascending axes."""
    columns = unfoldings.cin_last(rows, len(shape))
    by_axis = xp.reshape(v, (v.shape[0], *(shape[axis] for axis in columns)))
    places = [sorted(columns).index(axis) for axis in columns]
    order = tuple(1 + j for j in arrays.inverse_permutation(places))
    return xp.reshape(xp.permute_dims(by_axis, (0, *order)), v.shape)


class _SmallestUnfolding:
    """Search for the unfolding of each block with the smallest norm, up to 1e-6.

    Every unfolding has a lower bound of its norm, which Lanczos raises. The lowest is raised until it has converged and
    is the lowest still: then no unfolding has a smaller norm.

    Attributes
    ----------
    runs : dict
        Lanczos on an unfolding of all blocks, by the number of the split; at the end only for unfoldings that a block
        chose.
    """

    def __init__(
        self,
        blocks: Array,
        tolerance: float,
        *,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        self.runs: dict[int, Lanczos] = {}
        self._ops = ops
        self._splits = unfoldings.unfolding_splits(blocks.ndim - 3)
        self._count = int(blocks.shape[0])
        if math.prod(blocks.shape[1:]) >= FLOAT32_FROM:
            self._searched = xp.astype(blocks, xp.float32, copy=False)
        else:
            self._searched = blocks
        self._unfoldings = _Unfoldings(self._searched, xp=xp)
        self._tolerance = max(tolerance, Lanczos.vector_tolerance(self._searched.dtype, xp=xp))
        frobenius = ops.to_numpy(xp.linalg.vector_norm(xp.reshape(blocks, (self._count, -1)), axis=1))
        squares = frobenius.astype(np.float64) ** 2
        # ||A||_F**2 is at most the number of singular values times ||A||**2.
        self._lower_sq = np.stack([squares / _rank(blocks.shape[1:], rows) for rows in self._splits])
        self._done = np.zeros(self._lower_sq.shape, dtype=bool)

    def run(self) -> np.ndarray:
        """Return the number of the split with the smallest norm, for each block."""
        every_block = np.arange(self._count)
        while True:
            lowest = np.asarray(np.argmin(self._lower_sq, axis=0))
            unfinished = lowest[~self._done[lowest, every_block]]
            if not len(unfinished):
                self.runs = {split: self.runs[split] for split in set(lowest.tolist())}
                return lowest
            most_frequent = int(np.bincount(unfinished).argmax())
            lanczos = self._lanczos(most_frequent)
            lanczos.advance()
            self._lower_sq[most_frequent] = np.maximum(self._lower_sq[most_frequent], lanczos.squares)
            self._done[most_frequent] = lanczos.done

    def _lanczos(self, split: int) -> Lanczos:
        """Lanczos on one unfolding of all blocks."""
        if split not in self.runs:
            matrix = self._unfoldings.unfold(self._splits[split])
            self.runs[split] = Lanczos(matrix, tolerance=self._tolerance, ops=self._ops)
        return self.runs[split]


def _finished(
    lanczos: Lanczos,
    members: np.ndarray,
    blocks: Array,
    rows: tuple[int, ...],
    gram: Array,
    tolerance: float,
    *,
    ops: ArrayOps,
) -> Lanczos:
    """A finished run on the unfolding of some blocks, in their own precision, from a run on all blocks.

    ``members``: numbers of these blocks among all. ``blocks``, ``gram``: these blocks alone, and the smaller Gram
    matrices of their unfoldings.
    """
    xp = ops.xp
    is_all = len(members) == lanczos.matrix.shape[0]
    if is_all and lanczos.matrix.dtype == blocks.dtype:
        return lanczos
    start = lanczos.short_side_vectors()
    if not is_all:
        start = xp.take(start, ops.from_numpy(members, blocks), axis=0)
    return Lanczos(
        _Unfoldings(blocks, xp=xp).unfold(rows),
        xp.astype(start, blocks.dtype),
        gram=xp.astype(gram, blocks.dtype, copy=False),
        tolerance=tolerance,
        ops=ops,
    ).finish()


def _rank(shape: tuple[int, ...], rows: tuple[int, ...]) -> int:
    """Largest rank of an unfolding: its shorter side."""
    row_count = math.prod(shape[axis] for axis in rows)
    return min(row_count, math.prod(shape) // row_count)
