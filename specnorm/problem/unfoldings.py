"""Unfoldings: a kernel reshaped into matrices, one for every split of its axes into rows and columns."""

from __future__ import annotations

import math
from itertools import chain, combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace


def unfolding_splits(ndim: int, *, every: bool = True) -> tuple[tuple[int, ...], ...]:
    """Axes that go to the rows of each unfolding, as positions in (cout, cin, *spatial); cout always among them.

    With ``every`` false only the 2**d that separate cout from cin (the family of Fantastic Four), else all
    2**(d+1) - 1 splits into two non-empty sides.
    """
    spatial = range(2, 2 + ndim)
    subsets = list(chain.from_iterable(combinations(spatial, r) for r in range(ndim + 1)))
    splits = [(0, *s) for s in subsets]
    if every:
        splits += [(0, 1, *s) for s in subsets if len(s) < ndim]
    return tuple(splits)


def unfold(blocks: Array, rows: tuple[int, ...], *, xp: Namespace) -> Array:
    """Reshape blocks into matrices whose rows are the given axes, shape (b, prod(rows), prod(columns))."""
    return unfolded(blocks, rows, tuple(a for a in range(blocks.ndim - 1) if a not in rows), xp=xp)


def cin_last(rows: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """The columns' axes in another order: several unfoldings are views of one copy then."""
    return tuple(sorted((axis for axis in range(ndim) if axis not in rows), key=lambda axis: (axis == 1, axis)))


def unfolded(blocks: Array, rows: tuple[int, ...], columns: tuple[int, ...], *, xp: Namespace) -> Array:
    """`unfold` with the columns' axes in an order of their own."""
    moved = xp.permute_dims(blocks, (0, *(a + 1 for a in rows), *(a + 1 for a in columns)))
    size = math.prod(blocks.shape[a + 1] for a in rows)
    return xp.reshape(moved, (blocks.shape[0], size, -1))


def outer_blocks(u: Array, v: Array, rows: tuple[int, ...], shape: tuple[int, ...], *, xp: Namespace) -> Array:
    """Products u v^T of unfoldings, as blocks of shape (m, p, *kernel_shape): one product, nothing moved."""
    left = tuple(n if axis in rows else 1 for axis, n in enumerate(shape))
    right = tuple(1 if axis in rows else n for axis, n in enumerate(shape))
    return xp.reshape(u, (u.shape[0], *left)) * xp.reshape(v, (v.shape[0], *right))
