"""Boxes of frequencies that cover what a certificate must cover. Host integers only: no rounding, no library.

A box knows its centre as exact rationals of a turn, and its *reach*: how far, per axis, it extends from the centre,
in the unit of the cell lemma, half a kernel's degree times radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from specnorm.frequencies import Frequencies, product

_DEPTH = 40
"""Halvings that the lattice of a torus cell allows; far beyond float64."""
_WIDEST = 0.8
"""Sum of reaches of the first cells of a torus: cells where the norm is below 0.7 of its maximum pass at once."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Boxes of lattice points [low, high] per axis, on a torus with ``denominators`` points a turn.

    Parameters
    ----------
    low, high : integer arrays, shape (c, d)
    denominators : tuple of int
    half_degree : float array, shape (d,)
        ``(k_j - 1) / 2``.
    closed : bool
        True: a box is its lattice points, and halves do not share one (a DFT grid). False: a box is the continuum
        between its corners, and halves share a face (the whole torus).
    """

    low: np.ndarray
    high: np.ndarray
    denominators: tuple[int, ...]
    half_degree: np.ndarray
    closed: bool

    def __len__(self) -> int:
        return len(self.low)

    def __getitem__(self, index: np.ndarray | slice) -> Boxes:
        return Boxes(self.low[index], self.high[index], self.denominators, self.half_degree, self.closed)

    @property
    def centres(self) -> Frequencies:
        """Middle points; a lattice point each."""
        return Frequencies((self.low + self.high) // 2, self.denominators)

    @property
    def reach(self) -> np.ndarray:
        """Half-degree times the largest distance from the centre along each axis, rounded up, shape (c, d)."""
        middle = (self.low + self.high) // 2
        distance = np.maximum(self.high - middle, middle - self.low)
        turns = distance / np.asarray(self.denominators, dtype=float)
        return np.asarray(2 * math.pi * turns * self.half_degree * (1 + 1e-14))

    @property
    def distance(self) -> np.ndarray:
        """Largest distance from the centre along each axis in radians, rounded up, shape (c, d)."""
        middle = (self.low + self.high) // 2
        turns = np.maximum(self.high - middle, middle - self.low) / np.asarray(self.denominators, dtype=float)
        return np.asarray(2 * math.pi * turns * (1 + 1e-14))

    @property
    def divisible(self) -> np.ndarray:
        """Whether a box can be split, shape (c,)."""
        return np.asarray((self.high - self.low > (0 if self.closed else 2)).any(axis=1))

    def split(self) -> tuple[Boxes, np.ndarray]:
        """Halve every divisible box along the axis of its largest reach; the others stay.

        Returns
        -------
        children : Boxes
        parent : integer array
            Index of each child's parent.
        """
        whole, rows = np.flatnonzero(~self.divisible), np.flatnonzero(self.divisible)
        low, high = self.low[rows], self.high[rows]
        left_high, right_low = high.copy(), low.copy()
        if len(rows):
            here = np.arange(len(rows))
            axis = np.argmax(np.where(high > low, (high - low) * self._weight, -1.0), axis=1)
            cut = (low[here, axis] + high[here, axis]) // 2
            left_high[here, axis] = cut
            right_low[here, axis] = cut + (1 if self.closed else 0)
        children = Boxes(
            np.concatenate([self.low[whole], low, right_low]),
            np.concatenate([self.high[whole], left_high, high]),
            self.denominators,
            self.half_degree,
            self.closed,
        )
        return children, np.concatenate([whole, rows, rows])

    def joined(self, other: Boxes) -> Boxes:
        """These boxes and others of the same torus."""
        low, high = np.concatenate([self.low, other.low]), np.concatenate([self.high, other.high])
        return Boxes(low, high, self.denominators, self.half_degree, self.closed)

    @property
    def _weight(self) -> np.ndarray:
        return np.asarray(self.half_degree / np.asarray(self.denominators, dtype=float))


def torus(kernel_shape: tuple[int, ...]) -> Boxes:
    """Cover of all frequencies of a real kernel, up to mirror images: one axis over half a turn.

    An axis with one tap is one point.
    """
    half_degree = np.asarray([(k - 1) / 2 for k in kernel_shape])
    moving = max(1, sum(k > 1 for k in kernel_shape))
    # An even number of first cells, so that half a turn is a whole number of them.
    counts = [1 if k == 1 else 2 * math.ceil(math.pi * (k - 1) * moving / (4 * _WIDEST)) for k in kernel_shape]
    unit = 2**_DEPTH
    halved = next((j for j, k in enumerate(kernel_shape) if k > 1), None)
    corner = product([np.arange(c // 2 if j == halved else c) for j, c in enumerate(counts)])
    denominators = tuple(1 if k == 1 else c * unit for c, k in zip(counts, kernel_shape, strict=True))
    step = np.asarray([0 if k == 1 else unit for k in kernel_shape], dtype=np.int64)
    return Boxes(corner * step, corner * step + step, denominators, half_degree, closed=False)


def dft(sizes: tuple[int, ...], kernel_shape: tuple[int, ...]) -> Boxes:
    """Cover of the DFT frequencies of a real kernel, up to mirror images: the longest axis over half its points."""
    half_degree = np.asarray([(k - 1) / 2 for k in kernel_shape])
    moving = max(1, sum(n > 1 for n in sizes))
    last = [n - 1 for n in sizes]
    if sizes:
        axis = int(np.argmax(sizes))
        last[axis] = sizes[axis] // 2
    widths = [
        n if k == 1 else max(1, math.floor(n * 2 * _WIDEST / (math.pi * (k - 1) * moving)))
        for n, k in zip(sizes, kernel_shape, strict=True)
    ]
    corner = product([np.arange(0, end + 1, w) for end, w in zip(last, widths, strict=True)])
    high = np.minimum(corner + np.asarray(widths, dtype=np.int64) - 1, np.asarray(last, dtype=np.int64))
    return Boxes(corner, high, tuple(sizes), half_degree, closed=True)
