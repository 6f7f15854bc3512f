"""Frequencies as exact rationals of a turn, and the phases e^{i k.theta} of a kernel's taps at them.

Everything here is host NumPy: which frequencies are visited depends on the geometry alone, never on values, and the
tables are rounded once on their way to the device.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PHASE_ERROR = 8.0
"""Absolute error of the cosines and sines of `phases`, in units of 2**-53: two roundings and a constant in an angle of
at most pi/4, on a slope of at most 1, make less than 2; vectorised libraries promise 4 units in the last place."""


_COS_SIGN, _SIN_SIGN = np.asarray([1.0, -1.0, -1.0, 1.0]), np.asarray([1.0, 1.0, -1.0, -1.0])
"""In each quarter of a turn."""


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

    def __len__(self) -> int:
        return len(self.numerators)

    def __getitem__(self, index: slice | np.ndarray) -> Frequencies:
        return Frequencies(self.numerators[index], self.denominators)

    def same_as(self, other: Frequencies) -> bool:
        """Whether the points are the same, in the same order and written alike."""
        return self.denominators == other.denominators and np.array_equal(self.numerators, other.numerators)

    @property
    def angles(self) -> np.ndarray:
        """Angles in radians, shape (f, d); rounded, for reporting."""
        return np.asarray(2 * np.pi * self.numerators / np.asarray(self.denominators, dtype=float))


def half_grid(sizes: Sequence[int]) -> Frequencies:
    """DFT grid of the given sizes without the mirror images that a real kernel makes redundant.

    G(-theta) = conj G(theta), so one axis (the longest) needs indices 0..n//2 only.
    """
    sizes = tuple(sizes)
    ranges = [np.arange(n) for n in sizes]
    if sizes:
        axis = int(np.argmax(sizes))
        ranges[axis] = np.arange(sizes[axis] // 2 + 1)
    return Frequencies(product(ranges), sizes)


def coarse_grid(kernel_shape: tuple[int, ...]) -> Frequencies:
    """Twice as many points an axis as taps, fewer where that makes more than 512."""
    sizes = [1 if k == 1 else 2 * k for k in kernel_shape]
    while math.prod(sizes) > 512:
        longest = max(range(len(sizes)), key=sizes.__getitem__)
        sizes[longest] = (sizes[longest] + 1) // 2
    return half_grid(sizes)


def full_grid(sizes: Sequence[int]) -> Frequencies:
    """DFT grid of the given sizes, all of it."""
    return Frequencies(product([np.arange(n) for n in sizes]), tuple(sizes))


def mirror_index(sizes: Sequence[int]) -> np.ndarray:
    """Index into `half_grid` of every frequency of `full_grid` or of its mirror image, shape (prod(sizes),)."""
    sizes = tuple(sizes)
    if not sizes:
        return np.zeros(1, dtype=np.int64)
    axis = int(np.argmax(sizes))
    full = full_grid(sizes).numerators
    mirrored = np.where(full[:, [axis]] > sizes[axis] // 2, (-full) % np.asarray(sizes), full)
    shape = list(sizes)
    shape[axis] = sizes[axis] // 2 + 1
    return np.asarray(np.ravel_multi_index(tuple(mirrored.T), shape))


def product(ranges: Sequence[np.ndarray]) -> np.ndarray:
    """All combinations of one entry per axis, shape (f, d), last axis fastest."""
    if not ranges:
        return np.zeros((1, 0), dtype=np.int64)
    index = np.indices([len(r) for r in ranges]).reshape(len(ranges), -1)
    return np.stack([r[i] for r, i in zip(ranges, index, strict=True)], axis=-1).astype(np.int64)


@functools.cache
def signs(axes: int) -> np.ndarray:
    """Signs of some axes, up to a common one, shape (2 ** (axes - 1), axes); read only."""
    # 1 along the first axis, 1 or -1 along the others.
    exponents = product([np.arange(1), *[np.arange(2)] * (axes - 1)][:axes])
    signs = np.asarray(1 - 2 * exponents)
    signs.flags.writeable = False
    return signs


def phases(frequencies: Frequencies, kernel_shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of ``k . theta`` for every tap k of the kernel.

    The angle is reduced in integers (to an eighth of a turn), so the error is `PHASE_ERROR` units whatever the tap
    and the frequency; taps beyond the input size wrap by themselves.

    Returns
    -------
    cos, sin : float64 arrays, shape (f, taps)
        Taps in the row-major order of the kernel's spatial axes.
    """
    return phases_at(frequencies, tap_points(tuple(kernel_shape)))


@functools.lru_cache(maxsize=32)
def tap_points(kernel_shape: tuple[int, ...]) -> np.ndarray:
    """Places of a kernel's taps, in row-major order, shape (taps, d); read only."""
    points = product([np.arange(k) for k in kernel_shape])
    points.flags.writeable = False
    return points


def phases_at(frequencies: Frequencies, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of ``k . theta`` for integer points k, shape (n, d), as `phases`: (f, n) each."""
    common: Any = math.lcm(*frequencies.denominators)
    # Cells of kernels with several long axes have large common denominators: beyond 64 bits, Python's own integers.
    fits = common * max(4, int(np.abs(points).max(initial=0)) + 1) < 2**63
    kind: Any = np.int64 if fits else object
    weights = np.asarray([common // n for n in frequencies.denominators], dtype=kind)
    numerators = (frequencies.numerators % np.asarray(frequencies.denominators, dtype=np.int64)) * weights
    turns = np.zeros((len(frequencies), len(points)), dtype=kind)
    for axis in range(points.shape[1]):
        turns = (turns + numerators[:, [axis]] * points[:, axis]) % common
    if common > turns.size:
        return cos_sin(turns, common)
    cos, sin = cos_sin(np.arange(common), common)
    return cos[turns], sin[turns]


def cos_sin(numerators: np.ndarray, denominator: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of ``2 pi numerators / denominator``, reduced to the first eighth of a turn in integers."""
    # quarter: 4 n = quarter * denominator + rest; reflect the rest to at most half a quarter.
    fourfold = 4 * (numerators % denominator)
    quarter = fourfold // denominator
    rest = fourfold - quarter * denominator
    reflected = 2 * rest > denominator
    rest = np.where(reflected, denominator - rest, rest)
    angle = (math.pi / 2) * (rest / denominator).astype(np.float64)
    quarter = quarter.astype(np.int64)
    c, s = np.cos(angle), np.sin(angle)
    swapped = reflected.astype(np.bool_) ^ (quarter % 2 == 1)
    return np.where(swapped, s, c) * _COS_SIGN[quarter], np.where(swapped, c, s) * _SIN_SIGN[quarter]


def tap_grid(kernel_shape: tuple[int, ...], n_iter: int) -> tuple[int, ...]:
    """Taps an axis of a kernel's Gram matrix after so many products."""
    return tuple(2**n_iter * (k - 1) + 1 for k in kernel_shape)


def half_lags(kernel_shape: tuple[int, ...]) -> np.ndarray:
    """Lags d with |d_j| < k_j, one of each pair (d, -d), zero first, shape (L, d)."""
    lags = product([np.arange(1 - k, k) for k in kernel_shape])
    zero = len(lags) // 2
    return lags[zero:]
