"""Symbols of one entry, as those of depthwise layers: the groups and frequencies where their modulus is largest.

There are no vectors to iterate. The values of all groups at all points of a grid are one product of the kernel with a
table, and only the groups that are high there are refined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs.frequencies import tap_points
from specnorm.symbols import ascent
from specnorm.training import grids
from specnorm.training.grids import Grid, placed

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps

_LARGEST_TABLE = 2**23
"""Most entries of the table of phases of all points; a larger one is written as a product of tables of the axes."""
_GROUPS = 16
"""Groups of a layer that are refined: those with the largest values on the grid."""
_POINTS = 4
"""Points of each of these groups that are refined."""
_POINTS_A_TAP = 4
"""Least number of points of the grid for each tap of an axis. With one, the highest group of 1,024 with 31x31 taps was
not among those that are refined."""
_MOST_POINTS = {0: 1, 1: 2**18, 2: 1000, 3: 90}
"""Most points of an axis, by the number of axes: `grids.LARGEST_GRID` in all."""


def grid_of(kernel_shape: tuple[int, ...], points: int | None) -> Grid:
    """Return the grid with so many points an axis; None: as many as a training loop needs."""
    usual = grids.default_points(kernel_shape, 1)
    longest = max(kernel_shape, default=1)
    most = max(usual, _LARGEST_TABLE // longest)
    wanted = min(most, _POINTS_A_TAP * longest, _MOST_POINTS[sum(k > 1 for k in kernel_shape)])
    return grids.grid_of(kernel_shape, points or max(usual, wanted))


def highest(blocks: Array, groups: int, points: int | None, steps: int, *, ops: ArrayOps) -> tuple[Array, Array, Array]:
    """Find the largest modulus of the symbols of each layer.

    Parameters
    ----------
    blocks : array, shape (layers * groups, 1, 1, *kernel_shape)
    points : int or None
        As of `grid_of`.
    steps : int
        Newton steps of the frequencies, from the highest points of the grid.

    Returns
    -------
    group : integer array, shape (layers,)
        The group where it is.
    block : array, shape (layers, 1, 1, *kernel_shape)
        The block of that group.
    angles : array, shape (layers, d)
        The frequency, along the axes with more than one tap.
    """
    xp, grid = ops.xp, grid_of(tuple(blocks.shape[3:]), points)
    rows = xp.reshape(blocks, (blocks.shape[0], -1))
    if len(grid) * len(grid.taps) > _LARGEST_TABLE:
        images = _images_along_axes(blocks, grid, ops=ops)
    else:
        images = arrays.real_times(rows, grids.phases_of(grid, blocks, ops=ops), ops=ops)
    real, imag = xp.real(images), xp.imag(images)
    squares = real * real + imag * imag
    of_groups = xp.reshape(xp.max(squares, axis=1), (-1, groups))
    chosen = ops.places_of_largest(of_groups, min(_GROUPS, groups))
    chosen_rows, chosen_squares = (_of_groups(x, chosen, groups, ops=ops) for x in (rows, squares))
    order = ops.places_of_largest(chosen_squares, min(_POINTS, len(grid)))
    angles, values = _climbed(chosen_rows, order, grid, steps, ops=ops)
    angles = arrays.pick(angles, xp.argmax(values, axis=1), xp=xp)
    best = xp.argmax(xp.reshape(xp.max(values, axis=1), chosen.shape), axis=1)
    angles = arrays.pick(xp.reshape(angles, (*chosen.shape, angles.shape[1])), best, xp=xp)
    group = arrays.pick(chosen, best, xp=xp)
    block = arrays.pick(xp.reshape(blocks, (-1, groups, *blocks.shape[1:])), group, xp=xp)
    return group, block, angles


def _climbed(rows: Array, order: Array, grid: Grid, steps: int, *, ops: ArrayOps) -> tuple[Array, Array]:
    """Angles (b, g, d) and squared values (b, g) to which Newton steps lead from points (b, g) of the grid."""
    xp = ops.xp
    kernel_shape = grid.key[0]
    taps, *tables = _taps(kernel_shape, rows, ops=ops)
    (points,) = placed(("points", grid.key), lambda dtype: (grid.used.astype(dtype),), rows, ops=ops)
    axes = taps.shape[1]

    def terms_at(angles: Array) -> Array:
        return rows[:, None, :] * phases_at(angles, kernel_shape, ops=ops)

    def climb(state: tuple[Array, ...]) -> tuple[Array, ...]:
        terms = terms_at(state[0])[..., None, :]
        return (state[0] + ascent.uphill(terms, tables, axes, longest=1 / max(kernel_shape), xp=xp),)

    angles = xp.reshape(xp.take(points, xp.reshape(order, (-1,)), axis=0), (*order.shape, axes))
    if axes:
        (angles,) = arrays.repeated(climb, steps, (angles,), ops=ops)
    sums = xp.sum(terms_at(angles), axis=2)
    return angles, xp.real(sums) ** 2 + xp.imag(sums) ** 2


def phases_at(angles: Array, kernel_shape: tuple[int, ...], *, ops: ArrayOps) -> Array:
    """``e^{i k.theta}`` at angles (..., d) along the axes with more than one tap, shape (..., taps)."""
    xp = ops.xp
    turned = xp.matmul(angles, xp.matrix_transpose(_taps(kernel_shape, angles, ops=ops)[0]))
    return ops.complex(xp.cos(turned), xp.sin(turned))


def _taps(kernel_shape: tuple[int, ...], like: Array, *, ops: ArrayOps) -> tuple[Array, ...]:
    """Taps along the axes with more than one, and their tables for `ascent.uphill`."""

    def tables(dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
        taps = tap_points(tuple(k for k in kernel_shape if k > 1)).astype(dtype)
        powers, *others = ascent.newton_tables(taps)
        return taps, powers.astype(np.result_type(dtype, np.complex64)), *(x.astype(dtype) for x in others)

    return placed(("scalar taps", kernel_shape), tables, like, ops=ops)


def _images_along_axes(blocks: Array, grid: Grid, *, ops: ArrayOps) -> Array:
    """Values (b, f) at the points of a grid of the symbols of blocks (b, 1, 1, *kernel_shape), by one product an axis.

    For large kernels, whose table of phases takes gigabytes.
    """
    xp, kernel_shape = ops.xp, grid.key[0]

    def tables(dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
        axes = zip(kernel_shape, grid.places, strict=True)
        waves = [np.exp(1j * np.outer(angles, np.arange(k))) for k, (angles, _) in axes]
        return tuple(x.astype(np.result_type(dtype, np.complex64)) for x in waves)

    def places_of_points(_: type[np.floating]) -> tuple[np.ndarray, ...]:
        """Number (f,) of each point in the product of the angles that occur along the axes."""
        of_axes = [inverse.reshape(-1) for _, inverse in grid.places]
        sizes = [len(angles) for angles, _ in grid.places]
        return (np.ravel_multi_index(of_axes, sizes).astype(np.int64),)

    of_axes = placed(("axes", grid.key), tables, blocks, ops=ops)
    (flat,) = placed(("places", grid.key), places_of_points, blocks, ops=ops)
    values = xp.astype(xp.reshape(blocks, (blocks.shape[0], *kernel_shape)), of_axes[0].dtype)
    for waves in of_axes:
        # The first axis of taps goes, and its angles come last.
        last = xp.permute_dims(values, (0, *range(2, values.ndim), 1))
        values = xp.matmul(last, xp.matrix_transpose(waves))
    return xp.take(xp.reshape(values, (values.shape[0], -1)), flat, axis=1)


def _of_groups(x: Array, chosen: Array, groups: int, *, ops: ArrayOps) -> Array:
    """Entries of the chosen groups (layers, c): from x (layers * groups, ...) to (layers * c, ...)."""
    xp = ops.xp
    by_layer = xp.reshape(x, (-1, groups, *x.shape[1:]))
    index = xp.reshape(chosen, (*chosen.shape, *(1,) * (x.ndim - 1)))
    taken = xp.take_along_axis(by_layer, xp.broadcast_to(index, (*chosen.shape, *x.shape[1:])), axis=1)
    return xp.reshape(taken, (-1, *x.shape[1:]))
