"""Unfoldings: a kernel reshaped into matrices, one for every split of its axes into rows and columns."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.geometry.spec import ConvSpec


def unfolding_splits(ndim: int) -> tuple[tuple[int, ...], ...]:
    """For each unfolding of a kernel (cout, cin, *spatial), the axes that become its rows; axis 0 is always among them.

    There are d = ``ndim`` spatial axes. First come the 2**d splits with cin in the columns, which Fantastic Four takes,
    then those with cin in the rows: 2**(d+1) - 1 together.
    """
    spatial = range(2, 2 + ndim)
    spatial_subsets: list[tuple[int, ...]] = []
    for size in range(ndim + 1):
        spatial_subsets += combinations(spatial, size)
    splits = [(0, *subset) for subset in spatial_subsets]
    return (*splits, *((0, 1, *subset) for subset in spatial_subsets if len(subset) < ndim))


def unfold(blocks: Array, rows: tuple[int, ...], *, xp: Namespace) -> Array:
    """Reshape blocks (b, m, p, *kernel_shape) into matrices whose rows are the given axes, the rest being the columns.

    ``rows``: axes of one block (m, p, *kernel_shape), as in `unfolding_splits`. Returns (b, product of the sizes of the
    row axes, product of the others).
    """
    columns = tuple(axis for axis in range(blocks.ndim - 1) if axis not in rows)
    return unfold_in_order(blocks, rows, columns, xp=xp)


def unfoldings_by_shape(blocks: Array, *, xp: Namespace) -> list[list[tuple[int, Array, bool]]]:
    """All unfoldings of blocks, those of equal sides together.

    Each has its number in `unfolding_splits`; itself as a matrix (b, long side, short side); and whether it is
    transposed there.
    """
    by_shape: dict[tuple[int, ...], list[tuple[int, Array, bool]]] = {}
    for number, rows in enumerate(unfolding_splits(blocks.ndim - 3)):
        columns = tuple(axis for axis in range(blocks.ndim - 1) if axis not in rows)
        row_count = math.prod(blocks.shape[axis + 1] for axis in rows)
        is_wide = row_count**2 < math.prod(blocks.shape[1:])
        order = (columns, rows) if is_wide else (rows, columns)
        matrix = unfold_in_order(blocks, *order, xp=xp)
        by_shape.setdefault(matrix.shape, []).append((number, matrix, is_wide))
    return list(by_shape.values())


def cin_last(rows: tuple[int, ...], axes: int) -> tuple[int, ...]:
    """The axes of the columns, given those of the rows, with cin last.

    In this order several unfoldings of a kernel are views of one array.

    ``axes``: number of all axes of a block: two of channels and the spatial ones.
    """
    columns = [axis for axis in range(axes) if axis not in rows]
    if 1 in columns:
        columns.remove(1)
        columns.append(1)
    return tuple(columns)


def unfold_in_order(
    blocks: Array,
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    *,
    xp: Namespace,
) -> Array:
    """`unfold`, with the axes of the columns in the given order."""
    order = [axis + 1 for axis in (*rows, *columns)]
    row_count = math.prod(blocks.shape[axis + 1] for axis in rows)
    return xp.reshape(xp.permute_dims(blocks, (0, *order)), (blocks.shape[0], row_count, -1))


def outer_blocks(
    u: Array,
    v: Array,
    rows: tuple[int, ...],
    shape: tuple[int, ...],
    *,
    xp: Namespace,
) -> Array:
    """The matrices u v^T, which are unfoldings with the given row axes, reshaped back into blocks.

    ``u``, ``v`` are (b, rows) and (b, columns). ``rows``: axes of the rows, as in `unfold`. ``shape``: (m, p,
    *kernel_shape) of one block. Returns (b, *shape).
    """
    row_shape = [size if axis in rows else 1 for axis, size in enumerate(shape)]
    column_shape = [1 if axis in rows else size for axis, size in enumerate(shape)]
    return xp.reshape(u, (u.shape[0], *row_shape)) * xp.reshape(v, (v.shape[0], *column_shape))


def reshaped_gradient(residuals: tuple[Array, ...], cotangent: Array, spec: ConvSpec, *, xp: Namespace) -> Array:
    """The gradient u v^T of the norm of the reshaped kernel, or of a matrix, from its singular vectors u and v."""
    u, v = residuals
    return outer_blocks(u * cotangent[:, None], v, (0,), spec.block_shape, xp=xp)
