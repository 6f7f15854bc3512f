"""Coarse grids of frequencies, and constant tables that are placed on a device once."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends.types import ArrayOps
from specnorm.errors import MethodError
from specnorm.proofs.frequencies import tap_points

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array

_TABLE_BYTES = ArrayOps.memory / 4
"""Memory of the phases of all points and taps; fewer points are taken for a larger kernel."""
LARGEST_GRID = 2**20
"""Most frequencies of a grid, of both halves."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Frequencies of a coarse grid, on the host: one of each pair theta and -theta, where a real kernel has one norm.

    Parameters
    ----------
    key : tuple
        Shape of the kernel, and points an axis.
    taps : float array, shape (taps, d)
        Positions k of the taps.
    angles : float array, shape (f, d)
        In radians.
    """

    key: tuple[tuple[int, ...], int]
    taps: np.ndarray
    angles: np.ndarray

    def __len__(self) -> int:
        return len(self.angles)

    @functools.cached_property
    def used(self) -> np.ndarray:
        """The angles along the axes with more than one tap, shape (f, d)."""
        return self.angles[:, [axis for axis, k in enumerate(self.key[0]) if k > 1]]

    @functools.cached_property
    def spacing(self) -> float:
        """Distance of a point from its nearest one, the largest, in radians."""
        if len(self) == 1:
            return 2 * np.pi
        points = np.arange(len(self))
        apart = np.minimum(*(self._distances(x) for x in (self.angles, -self.angles)))
        apart[points, points] = np.inf
        return float(apart.min(axis=1).max())

    def _distances(self, others: np.ndarray) -> np.ndarray:
        turn = (self.angles[:, None] - others[None] + np.pi) % (2 * np.pi) - np.pi
        return np.asarray(np.sqrt(np.sum(turn**2, axis=-1)))

    def phases(self, dtype: type[np.floating]) -> tuple[np.ndarray]:
        """``e^{i k.theta}`` at each point, shape (taps, f)."""
        phases = np.exp(1j * (self.taps @ self.angles.T))
        return (phases.astype(np.result_type(dtype, np.complex64)),)

    @functools.cached_property
    def places(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each axis, the angles that occur and the number of the angle of each point."""
        axes = self.angles.T
        return [np.unique(angles.round(12), return_inverse=True) for angles in axes]


@functools.lru_cache(maxsize=64)
def grid_of(kernel_shape: tuple[int, ...], points: int) -> Grid:
    """Return a grid that is as fine as one with so many points along each axis that has more than one tap.

    Every other layer of points along the last axis is shifted by half a step along the other axes: in the plane this is
    nearly a triangular lattice, in space a body-centred cubic one. The frequency that is farthest from all points is as
    far, but for 7 %, as in the grid of squares or cubes, and there are fewer points: 64 for 81, and 250 for 512. No
    point is 0 or pi along all axes: there vectors stay real, and do not follow a maximum that leaves that frequency.

    References
    ----------
    .. [1] Conway, Sloane, "Sphere Packings, Lattices and Groups", 3rd edition 1999, chapter 2 (lattice coverings).
    """
    axes = [axis for axis, k in enumerate(kernel_shape) if k > 1]
    sizes = np.ones(len(kernel_shape), dtype=int)
    sizes[axes] = _sizes(len(axes), points)
    if math.prod(map(int, sizes)) > LARGEST_GRID:
        raise MethodError(
            f"points={points} makes a grid of {' x '.join(map(str, sizes))} frequencies, and at most {LARGEST_GRID} "
            "are followed: give fewer."
        )
    quarters = 4 * tap_points(tuple(sizes.tolist()))
    if axes:
        *others, last = axes
        quarters[:, others] += 2 * (quarters[:, [last]] // 4 % 2) + 1
        quarters[:, last] += 2
    # Of each pair theta and -theta the first one in lexicographical order.
    is_first = [tuple(x) <= tuple(y) for x, y in zip(quarters, -quarters % (4 * sizes), strict=True)]
    spacing = 2 * np.pi / sizes
    return Grid((kernel_shape, points), tap_points(kernel_shape).astype(float), quarters[is_first] * spacing / 4)


def _sizes(axes: int, points: int) -> tuple[int, ...]:
    """Number of points along each of so many axes; of layers along the last one, an even number where they shift."""
    if axes < 2:
        return (points,) * axes
    if axes == 2:
        pairs = max(1, round(points / 2))
        # Triangles of rows pi / p apart, with points 2 pi / m apart, have the circumradius of the squares,
        # sqrt(2) pi / n.
        return round(pairs / math.sqrt(math.sqrt(8) * pairs / points - 1)), 2 * pairs
    # The covering radius is sqrt(5) / 4 of a cell with a point in its centre, and sqrt(3) / 2 of a cube.
    cells = max(1, round(math.sqrt(5 / 12) * points))
    return cells, cells, 2 * cells


_PLACED: dict[tuple[Hashable, ...], tuple[Array, ...]] = {}
"""Constant tables, by their key, library, dtype and device. There are as many as there are kinds of kernels. Entries
are never removed or replaced, since captured CUDA graphs hold their addresses."""


def placed(
    key: Hashable, tables: Callable[[type[np.floating]], tuple[np.ndarray, ...]], like: Array, *, ops: ArrayOps
) -> tuple[Array, ...]:
    """Return tables in the library, in the precision and on the device of ``like``.

    They are copied once and kept: each copy to a device would wait for the device.

    Parameters
    ----------
    key : hashable
        Names the tables.
    tables : callable
        Returns the tables as NumPy arrays for a real dtype: real or complex ones of its precision, or integers.
    """
    dtype = np.float64 if like.dtype == ops.xp.float64 else np.float32
    if ops.traced:
        return tuple(ops.from_numpy(x, like) for x in tables(dtype))
    place = (key, ops.backend.name, dtype, str(ops.device(like)))
    if place not in _PLACED:
        _PLACED[place] = tuple(ops.from_numpy(x, like) for x in tables(dtype))
    return _PLACED[place]


def phases_of(grid: Grid, like: Array, *, ops: ArrayOps) -> Array:
    """`Grid.phases` in the library, in the precision and on the device of ``like``."""
    (phases,) = placed(("grid", grid.key), grid.phases, like, ops=ops)
    return phases


@functools.lru_cache(maxsize=64)
def default_points(kernel_shape: tuple[int, ...], channels: int) -> int:
    """Return the number of points along each axis with which the constraint holds in training loops.

    The numbers were measured in the loops of docs/benchmarks/index.md.

    Parameters
    ----------
    channels : int
        Of the smaller side.
    """
    axes = sum(k > 1 for k in kernel_shape)
    if not axes:
        return 1
    points_a_tap = 8 if axes == 1 else 6 if channels <= 24 else 5
    points = math.ceil(points_a_tap * (max(kernel_shape) - 1))
    least, most = {1: (24, 256), 2: (9, 32), 3: (8, 10)}[axes]
    affordable = int((_TABLE_BYTES / (16 * math.prod(kernel_shape))) ** (1 / axes))
    return max(1, min(max(least, points), most, affordable))
