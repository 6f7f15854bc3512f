"""What the taps of a layer read, along each axis and on all of them: by tables of positions, or by slices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps


class Slices:
    """The taps of a layer as slices of its padded input, and the adjoint of reading them. Writes in place.

    Parameters
    ----------
    tables : sequence of integer array, shape (padded size,)
        Of each axis: which position of the input lies there, or the size for a zero.
    sizes : sequence of int
        Of the input.
    along : sequence of list of slice
        Of each axis: what each of its taps reads of the padded input.
    """

    def __init__(
        self,
        tables: Sequence[np.ndarray],
        sizes: Sequence[int],
        along: Sequence[list[slice]],
        *,
        like: Array,
        ops: ArrayOps,
    ) -> None:
        self.xp, self.ops = ops.xp, ops
        self.pads = [Gather(table, n, like=like, ops=ops) for table, n in zip(tables, sizes, strict=True)]
        self.taps = list(itertools.product(*along))
        self.most_readers = sum(pad.most_readers for pad in self.pads)

    def read(self, x: Array) -> Array:
        """(b, c, *sizes, r) -> (b, c, taps, *outputs, r)."""
        for axis, pad in enumerate(self.pads):
            x = pad.read(x, axis + 2)
        return self.xp.stack([x[(slice(None), slice(None), *tap, ...)] for tap in self.taps], axis=2)

    def add(self, w: Array) -> Array:
        """(b, c, taps, *outputs, r) -> (b, c, *sizes, r)."""
        shape = (*w.shape[:2], *(pad.length for pad in self.pads), w.shape[-1])
        total = self.xp.zeros(shape, dtype=w.dtype, device=self.ops.device(w))
        for j, tap in enumerate(self.taps):
            total[(slice(None), slice(None), *tap, ...)] += w[:, :, j, ...]
        for axis, pad in enumerate(self.pads):
            total = pad.add(total, axis + 2)
        return total


class Gather:
    """A table of positions to read along one axis, and its inverse: who read each position.

    Parameters
    ----------
    table : integer array, shape (l,)
        Positions 0..n-1, or n for a zero.
    size : int
        n.
    """

    def __init__(self, table: np.ndarray, size: int, *, like: Array, ops: ArrayOps) -> None:
        xp = ops.xp
        self.xp, self.size, self.length = xp, size, len(table)
        self.plain = np.array_equal(table, np.arange(size))
        readers = readers_of(table, size)
        self.most_readers = len(readers)
        self.zero_read = bool((table == size).any())
        self.zero_added = bool((readers == len(table)).any())
        self.table = ops.from_numpy(table.astype(np.int32), like)
        self.readers = ops.from_numpy(readers.reshape(-1).astype(np.int32), like)

    def read(self, x: Array, axis: int) -> Array:
        """Length n of an axis -> length l."""
        if self.plain:
            return x
        return self.xp.take(self._with_zero(x, axis) if self.zero_read else x, self.table, axis=axis)

    def add(self, y: Array, axis: int) -> Array:
        """Length l of an axis -> length n: what was read from a position is added up there."""
        if self.plain:
            return y
        y = self.xp.take(self._with_zero(y, axis) if self.zero_added else y, self.readers, axis=axis)
        shape = (*y.shape[:axis], self.most_readers, self.size, *y.shape[axis + 1 :])
        return self.xp.sum(self.xp.reshape(y, shape), axis=axis)

    def _with_zero(self, x: Array, axis: int) -> Array:
        first = x[(slice(None),) * axis + (slice(0, 1),) + (slice(None),) * (x.ndim - axis - 1)]
        return self.xp.concat([x, self.xp.zeros_like(first)], axis=axis)


def readers_of(table: np.ndarray, size: int) -> np.ndarray:
    """Entries of a table that hold each position 0..size-1, shape (copies, size); len(table) where there are fewer."""
    order = np.argsort(table, kind="stable")
    held = table[order]
    order, held = order[held < size], held[held < size]
    counts = np.bincount(held, minlength=size)
    ranks = np.arange(len(held)) - (np.cumsum(counts) - counts)[held]
    readers = np.full((max(1, int(counts.max())), size), len(table))
    readers[ranks, held] = order
    return readers


def axis_tables(n: int, m: int, k: int, stride: int, dilation: int, before: int, mode: str) -> np.ndarray:
    """Position of an axis of length n that every tap reads for every output, shape (k, m); n for a zero."""
    position = dilation * np.arange(k)[:, None] + stride * np.arange(m)[None, :] - before
    inside = (position >= 0) & (position < n)
    if mode == "circular":
        return np.asarray(position % n)
    if mode == "zeros":
        return np.where(inside, position, n)
    if mode == "replicate":
        return np.asarray(np.clip(position, 0, n - 1))
    return np.where(position < 0, -position, np.where(inside, position, 2 * (n - 1) - position))
