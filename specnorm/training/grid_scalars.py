"""Symbols of one entry, as those of depthwise layers: the groups and frequencies where their modulus is largest.

There are no vectors to iterate. The values of all groups at all points of a grid are one product of the kernel with a
table, and only the groups that are high there are refined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.training import grid_vectors
from specnorm.training.grid_vectors import Grid, PlaneWaves, Triples

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
"""Most points of an axis, by the number of axes: `grid_vectors.LARGEST_GRID` in all."""


def grid_of(kernel_shape: tuple[int, ...], points: int | None) -> Grid:
    """Return the grid with so many points an axis; None: as many as a training loop needs."""
    usual = grid_vectors.default_points(kernel_shape, 1)
    longest = max(kernel_shape, default=1)
    most = max(usual, _LARGEST_TABLE // longest)
    wanted = min(most, _POINTS_A_TAP * longest, _MOST_POINTS[sum(k > 1 for k in kernel_shape)])
    return grid_vectors.grid_of(kernel_shape, points or max(usual, wanted))


def highest(
    blocks: Array, groups: int, grid: Grid, last_rounds: int = 0, *, ops: ArrayOps
) -> tuple[Array, Array, Triples]:
    """Find the largest modulus of the symbols of each layer.

    Parameters
    ----------
    blocks : array, shape (layers * groups, 1, 1, *kernel_shape)
    last_rounds : int
        As of `grid_vectors.refine`.

    Returns
    -------
    group : integer array, shape (layers,)
        The group where it is.
    block : array, shape (layers, 1, 1, *kernel_shape)
        The block of that group.
    triple : Triples
        Its arrays have leading axis layers.
    """
    xp = ops.xp
    along_axes = AlongAxes(grid, blocks, ops=ops) if len(grid) * len(grid.taps) > _LARGEST_TABLE else None
    if along_axes is None:
        rows = xp.reshape(blocks, (blocks.shape[0], -1))
        images = arrays.real_times(rows, grid_vectors.phases_of(grid, 1, blocks, ops=ops), ops=ops)
    else:
        images = along_axes.images(blocks)
    real, imag = xp.real(images), xp.imag(images)
    squares = real * real + imag * imag
    of_groups = xp.reshape(xp.max(squares, axis=1), (-1, groups))
    chosen = ops.places_of_largest(of_groups, min(_GROUPS, groups))
    chosen_blocks, chosen_images, chosen_squares = (
        _of_groups(x, chosen, groups, ops=ops) for x in (blocks, images, squares)
    )
    order = ops.places_of_largest(chosen_squares, min(_POINTS, len(grid)))
    waves = PlaneWaves(chosen_blocks, grid, ops=ops)
    left = grid_vectors.at_points(chosen_images[:, None, :], order, xp=xp)
    if along_axes is None:
        phases = grid_vectors.at_points(waves.phases, order, xp=xp)
    else:
        phases = along_axes.phases(order)
    triples = grid_vectors.refine(waves, left, phases, last_rounds=last_rounds)
    by_layer = [xp.reshape(x, (*chosen.shape, *x.shape[1:])) for x in (chosen_blocks, *triples)]
    best = xp.argmax(by_layer[1], axis=1)
    block, *triple = (arrays.pick(x, best, xp=xp) for x in by_layer)
    return arrays.pick(chosen, best, xp=xp), block, Triples(*triple)


class AlongAxes:
    """The values at the points of a grid by one product an axis: large kernels, whose table of phases takes gigabytes.

    Parameters
    ----------
    like : array
        In whose library, precision and device the tables are.
    """

    def __init__(self, grid: Grid, like: Array, *, ops: ArrayOps) -> None:
        self.xp, self.ops = ops.xp, ops
        kernel_shape = grid.key[0]
        sizes = [len(angles) for angles, _ in grid.places]

        def tables(dtype: type[np.floating]) -> tuple[np.ndarray, ...]:
            axes = zip(kernel_shape, grid.places, strict=True)
            waves = [np.exp(1j * np.outer(angles, np.arange(k))) for k, (angles, _) in axes]
            return tuple(x.astype(np.result_type(dtype, np.complex64)) for x in waves)

        def numbers(_: type[np.floating]) -> tuple[np.ndarray, ...]:
            of_axes = [inverse.reshape(-1) for _, inverse in grid.places]
            return (np.ravel_multi_index(of_axes, sizes).astype(np.int64), *(x.astype(np.int64) for x in of_axes))

        self._waves = grid_vectors.placed(("axes", grid.key), tables, like, ops=ops)
        self._flat, *self._numbers = grid_vectors.placed(("places", grid.key), numbers, like, ops=ops)

    def images(self, blocks: Array) -> Array:
        """Values (b, f) of the symbols of blocks (b, 1, 1, *kernel_shape)."""
        xp = self.xp
        values = xp.reshape(blocks, (blocks.shape[0], *blocks.shape[3:]))
        values = xp.astype(values, self._waves[0].dtype)
        for waves in self._waves:
            # The first axis of taps goes, and its angles come last.
            last = xp.permute_dims(values, (0, *range(2, values.ndim), 1))
            values = xp.matmul(last, xp.matrix_transpose(waves))
        return xp.take(xp.reshape(values, (values.shape[0], -1)), self._flat, axis=1)

    def phases(self, points: Array) -> Array:
        """``e^{i k.theta}`` at points (b, g) of the grid, shape (b, taps, g)."""
        xp = self.xp
        count = points.shape[0] * points.shape[1]
        flat = xp.reshape(points, (-1,))
        found = xp.ones((count, 1), dtype=self._waves[0].dtype, device=self.ops.device(self._waves[0]))
        for waves, numbers in zip(self._waves, self._numbers, strict=True):
            of_axis = xp.take(waves, xp.take(numbers, flat, axis=0), axis=0)
            found = xp.reshape(found[:, :, None] * of_axis[:, None, :], (count, -1))
        return xp.permute_dims(xp.reshape(found, (*points.shape, -1)), (0, 2, 1))


def _of_groups(x: Array, chosen: Array, groups: int, *, ops: ArrayOps) -> Array:
    """Entries of the chosen groups (layers, c): from x (layers * groups, ...) to (layers * c, ...)."""
    xp = ops.xp
    by_layer = xp.reshape(x, (-1, groups, *x.shape[1:]))
    index = xp.reshape(chosen, (*chosen.shape, *(1,) * (x.ndim - 1)))
    taken = xp.take_along_axis(by_layer, xp.broadcast_to(index, (*chosen.shape, *x.shape[1:])), axis=1)
    return xp.reshape(taken, (-1, *x.shape[1:]))
