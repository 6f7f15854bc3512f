"""Symbols of one entry, as those of depthwise layers: the groups and frequencies where their modulus is largest.

There are no vectors to iterate. The values of all groups at all points of a grid are one product of the kernel with a
table, and only the groups that are high there are refined.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from specnorm.backends import arrays
from specnorm.training import grid_vectors
from specnorm.training.grid_vectors import Grid, PlaneWaves, Triples

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps

_GROUPS = 16
"""Groups of a layer that are refined: those with the largest values on the grid."""
_POINTS = 4
"""Points of each of these groups that are refined."""
_POINTS_A_TAP = 4
"""Least number of points of the grid for each tap of an axis. With one, the highest group of 1,024 with 31x31 taps was
not among those that are refined."""


def grid_of(kernel_shape: tuple[int, ...], points: int | None) -> Grid:
    """Return the grid with so many points an axis; None: as many as a training loop needs."""
    usual = grid_vectors.default_points(kernel_shape, 1)
    return grid_vectors.grid_of(kernel_shape, points or max(usual, _POINTS_A_TAP * max(kernel_shape, default=1)))


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
    rows = xp.reshape(blocks, (blocks.shape[0], -1))
    images = arrays.real_times(rows, grid_vectors.phases_of(grid, 1, blocks, ops=ops), ops=ops)
    real, imag = xp.real(images), xp.imag(images)
    squares = real * real + imag * imag
    of_groups = xp.reshape(xp.max(squares, axis=1), (-1, groups))
    chosen = ops.places_of_largest(of_groups, min(_GROUPS, groups))
    chosen_blocks, chosen_images, chosen_squares = (
        _of_groups(x, chosen, groups, ops=ops) for x in (blocks, images, squares)
    )
    order = ops.places_of_largest(chosen_squares, min(_POINTS, len(grid)))
    waves = PlaneWaves(chosen_blocks, grid, ops=ops)
    left, phases = (grid_vectors.at_points(x, order, xp=xp) for x in (chosen_images[:, None, :], waves.phases))
    triples = grid_vectors.refine(waves, left, phases, last_rounds=last_rounds)
    by_layer = [xp.reshape(x, (*chosen.shape, *x.shape[1:])) for x in (chosen_blocks, *triples)]
    best = xp.argmax(by_layer[1], axis=1)
    block, *triple = (arrays.pick(x, best, xp=xp) for x in by_layer)
    return arrays.pick(chosen, best, xp=xp), block, Triples(*triple)


def _of_groups(x: Array, chosen: Array, groups: int, *, ops: ArrayOps) -> Array:
    """Entries of the chosen groups (layers, c): from x (layers * groups, ...) to (layers * c, ...)."""
    xp = ops.xp
    by_layer = xp.reshape(x, (-1, groups, *x.shape[1:]))
    index = xp.reshape(chosen, (*chosen.shape, *(1,) * (x.ndim - 1)))
    taken = xp.take_along_axis(by_layer, xp.broadcast_to(index, (*chosen.shape, *x.shape[1:])), axis=1)
    return xp.reshape(taken, (-1, *x.shape[1:]))
