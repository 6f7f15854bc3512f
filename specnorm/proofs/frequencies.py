"""Frequencies theta as exact rational multiples of 2 pi, and the phases e^{i k.theta} of a kernel's taps k.

This module computes in NumPy on the host: which frequencies are needed depends on the geometry alone. Tables are
rounded to the device's dtype when they are copied there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from specnorm.backends import arrays
from specnorm.errors import MethodError

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps

PHASE_ERROR = 8.0
"""Absolute error of the cosines and sines of `Frequencies.cos_sin`, in units of 2**-53.

The angle is at most pi/4. Two roundings and a constant make its error less than 2 units, and the slope of cosine and
sine is at most 1. Vectorised libraries promise 4 units in the last place of their values. Together these are 6 units; 8
leave a margin.
"""


LARGEST_GRID = 2**24
"""Most points of a grid all of whose frequencies are visited; their list takes 400 MB in two dimensions."""
LARGEST_TABLE = 2**28
"""Most entries of a table of cosines."""
_SMALL_TABLE = 2**14
"""Largest number of entries of a table that is kept for the next call."""
_T = TypeVar("_T")
_LATTICE = 2**40
"""Points per turn of `Frequencies.nearest`."""
_COS_SIGN = np.asarray([1.0, -1.0, -1.0, 1.0])
"""Sign of the cosine in each quarter of a turn."""
_SIN_SIGN = np.asarray([1.0, 1.0, -1.0, -1.0])
"""Sign of the sine in each quarter of a turn."""


def phase_error(u: float) -> float:
    """Absolute error of the cosines and sines in the working precision."""
    # In float32 they are rounded from float64, whose own error is far below one hundredth of a rounding.
    return PHASE_ERROR * u if u == 2.0**-53 else 1.01 * u


@dataclass(frozen=True, eq=False)
class Frequencies:
    """Points ``theta_j = 2 pi numerators[:, j] / denominators[j]`` of the d-dimensional torus.

    Parameters
    ----------
    numerators : integer array, shape (f, d)
    denominators : tuple of int, length d
    """

    numerators: np.ndarray
    denominators: tuple[int, ...]
    _tables: dict[bytes, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False, repr=False)
    """Small tables of `cos_sin` that were made already, by the bytes of their points."""

    def __len__(self) -> int:
        return len(self.numerators)

    def __getitem__(self, index: slice | np.ndarray) -> Frequencies:
        if isinstance(index, slice) and index.indices(len(self)) == (0, len(self), 1):
            return self
        return Frequencies(self.numerators[index], self.denominators)

    @classmethod
    def half_grid(cls, sizes: Sequence[int]) -> Frequencies:
        """DFT grid of the given sizes, of which the longest axis has the indices 0 to n // 2 only.

        The symbol of a real kernel has G(-theta) = conj G(theta), so the mirror images of these points are redundant.
        """
        return _half_grid(tuple(sizes))

    @staticmethod
    def halved_axis(sizes: Sequence[int]) -> int:
        """The axis of a grid of which `half_grid` has one half: the first of the longest."""
        return max(range(len(sizes)), key=sizes.__getitem__)

    @staticmethod
    def half_grid_shape(sizes: Sequence[int]) -> tuple[int, ...]:
        """Number of points of `half_grid` along each axis."""
        if not sizes:
            return ()
        halved = Frequencies.halved_axis(sizes)
        return tuple(n // 2 + 1 if axis == halved else n for axis, n in enumerate(sizes))

    @classmethod
    def coarse_grid(cls, kernel_shape: tuple[int, ...]) -> Frequencies:
        """Half grid with about twice as many points as taps along each axis, and at most 512 points before halving."""
        sizes = [1 if k == 1 else 2 * k for k in kernel_shape]
        while math.prod(sizes) > 512:
            longest = max(range(len(sizes)), key=sizes.__getitem__)
            sizes[longest] = (sizes[longest] + 1) // 2
        return cls.half_grid(sizes)

    @classmethod
    def distinct_grid(cls, sizes: Sequence[int]) -> tuple[Frequencies, np.ndarray]:
        """Full DFT grid without mirror images, and the number of points of the grid for which each point stands.

        It has fewer points than `half_grid`, whose first and last points on the halved axis include their mirror
        images.

        Returns ``points``; ``multiplicities`` (f,): 2, or 1 if a point is its own mirror image.
        """
        _require_few(sizes)
        return _distinct_grid(tuple(sizes))

    @classmethod
    def nearest(cls, angles: np.ndarray) -> Frequencies:
        """Rationals of a turn nearest to angles in radians, shape (f, d)."""
        numerators = np.round(angles / (2 * math.pi) * _LATTICE).astype(np.int64) % _LATTICE
        return cls(numerators, (_LATTICE,) * angles.shape[1])

    @classmethod
    def along_axis(cls, count: int, n: int) -> Frequencies:
        """The first points of the DFT grid of one axis of n points."""
        return cls(np.arange(count)[:, None], (n,))

    def cos_sin(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cosine and sine of ``k . theta`` for every frequency theta and every integer point k, such as a tap.

        The angle is reduced modulo a turn, and to an eighth of a turn, in integers. So the error is at most
        `PHASE_ERROR` units for every point and every frequency.

        ``points`` is (n, d). Returns ``cos``, ``sin`` (f, n): read-only; small tables are kept for the next call.
        """
        if (key := points.tobytes()) in self._tables:
            return self._tables[key]
        check_table(len(points), len(self))
        cos, sin = self._cos_sin_of(points)
        cos.flags.writeable = sin.flags.writeable = False
        if cos.size <= _SMALL_TABLE:
            self._tables[key] = cos, sin
        return cos, sin

    def device_cos_sin(self, points: np.ndarray, like: Array, *, ops: ArrayOps) -> tuple[Array, Array]:
        """`cos_sin` in the precision and on the device of an array."""
        cos, sin = self.cos_sin(points)
        return arrays.device_table(cos, like, ops=ops), arrays.device_table(sin, like, ops=ops)

    def _cos_sin_of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        common: Any = math.lcm(*self.denominators)
        # For kernels with several long axes the common denominator can be large: beyond 64 bits, use Python's integers.
        fits_in_int64 = common * max(4, int(np.abs(points).max(initial=0)) + 1) < 2**63
        integer: Any = np.int64 if fits_in_int64 else object
        weights = np.asarray([common // n for n in self.denominators], dtype=integer)
        numerators = (self.numerators % np.asarray(self.denominators, dtype=np.int64)) * weights
        # k . theta in units of a turn divided by `common`.
        steps = np.zeros((len(self), len(points)), dtype=integer)
        for axis in range(points.shape[1]):
            steps = (steps + numerators[:, [axis]] * points[:, axis]) % common
        if common > steps.size:
            return _cos_sin(steps, common)
        cos, sin = _cos_sin(np.arange(common), common)
        return cos[steps], sin[steps]

    @property
    def angles(self) -> np.ndarray:
        """Angles in radians, shape (f, d); rounded, for reporting."""
        return np.asarray(2 * np.pi * self.numerators / np.asarray(self.denominators, dtype=float))


def _remembered_if_small(make: Callable[[tuple[int, ...]], _T]) -> Callable[[tuple[int, ...]], _T]:
    """Make a function of a grid's sizes remember its answers about small grids."""
    remembered = functools.lru_cache(maxsize=32)(make)

    def grid(sizes: tuple[int, ...]) -> _T:
        return remembered(sizes) if math.prod(sizes) <= _SMALL_TABLE else make(sizes)

    return grid


@_remembered_if_small
def _half_grid(sizes: tuple[int, ...]) -> Frequencies:
    _require_few(Frequencies.half_grid_shape(sizes))
    return Frequencies(tap_points(Frequencies.half_grid_shape(sizes)), sizes)


@_remembered_if_small
def _distinct_grid(sizes: tuple[int, ...]) -> tuple[Frequencies, np.ndarray]:
    """`Frequencies.distinct_grid`, kept for each tuple of sizes; both arrays are read-only."""
    points = tap_points(sizes)
    place_values = np.cumprod([1, *reversed(sizes)])[-2::-1]
    mirrored = (-points % np.asarray(sizes, dtype=np.int64)) @ place_values
    places = np.arange(len(points))
    index = np.flatnonzero(places <= mirrored)
    distinct, multiplicities = points[index], 1 + (mirrored[index] != index)
    distinct.flags.writeable = multiplicities.flags.writeable = False
    return Frequencies(distinct, sizes), multiplicities


def _require_few(sizes: Sequence[int]) -> None:
    """Refuse a grid that is visited whole and has too many points.

    Raises
    ------
    MethodError
    """
    if math.prod(sizes) > LARGEST_GRID:
        raise MethodError(
            f"a grid of {' x '.join(map(str, sizes))} frequencies: at most {LARGEST_GRID} are visited. enclose "
            "searches at every input_shape, and conv_norm with circular padding; bounds without input_shape hold "
            "at every size."
        )


def product(ranges: Sequence[np.ndarray]) -> np.ndarray:
    """All combinations of one entry from each of d arrays, shape (f, d); the last entry varies fastest."""
    if not ranges:
        return np.zeros((1, 0), dtype=np.int64)
    index = np.indices([len(r) for r in ranges]).reshape(len(ranges), -1)
    return np.stack([r[i] for r, i in zip(ranges, index, strict=True)], axis=-1).astype(np.int64)


@functools.cache
def signs(axes: int) -> np.ndarray:
    """All vectors of signs with first sign 1, shape (2 ** (axes - 1), axes); read-only."""
    first = [np.arange(1)] * min(axes, 1)
    others = [np.arange(2)] * (axes - 1)
    exponents = product([*first, *others])
    signs = np.asarray(1 - 2 * exponents)
    signs.flags.writeable = False
    return signs


@_remembered_if_small
def tap_points(sizes: tuple[int, ...]) -> np.ndarray:
    """Positions of a kernel's taps, or of a grid's points, in row-major order, shape (points, d); read-only."""
    points = product([np.arange(n) for n in sizes])
    points.flags.writeable = False
    return points


def check_table(taps: int, frequencies: int) -> None:
    """Refuse a table of cosines that takes gigabytes."""
    if taps * frequencies > LARGEST_TABLE:
        raise MethodError(
            f"a table of the cosines of {taps} taps at {frequencies} frequencies: at most {LARGEST_TABLE} "
            "entries are made at once. The kernel is too large for a grid so fine: enclose(kernel) searches; or give n."
        )


def _cos_sin(numerators: np.ndarray, denominator: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of ``2 pi numerators / denominator``, reduced to the first eighth of a turn in integers."""
    # The angle is (quarter + rest / denominator) quarters of a turn. If rest is more than half a quarter, reflect it at
    # the quarter's middle, which swaps cosine and sine. So do odd quarters.
    fourfold = 4 * (numerators % denominator)
    quarter = fourfold // denominator
    rest = fourfold - quarter * denominator
    is_reflected = 2 * rest > denominator
    rest = np.where(is_reflected, denominator - rest, rest)
    angle = (math.pi / 2) * (rest / denominator).astype(np.float64)
    quarter = quarter.astype(np.int64)
    c = np.cos(angle)
    s = np.sin(angle)
    is_swapped = is_reflected.astype(np.bool_) ^ (quarter % 2 == 1)
    return np.where(is_swapped, s, c) * _COS_SIGN[quarter], np.where(is_swapped, c, s) * _SIN_SIGN[quarter]
