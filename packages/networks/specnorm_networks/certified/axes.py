"""Pooling and resizing along one axis of a value: the input pixels that an output reads, and their weights.

Average pooling and linear resizing act on each axis separately, so their norm is the product of the norms of one matrix
an axis (a Kronecker product). Weights are exact fractions; for norms they are rounded up to floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import ArrayOps, arithmetic, backends, host, matrix_norm_up

Row: TypeAlias = tuple[tuple[int, Fraction], ...]
"""Pixels that one output reads, each with its weight."""
LARGEST_MATRIX = 512
"""Largest number of rows or columns of a matrix that is factorized."""
LONGEST = 2**14
"""Largest size of an axis, or of a window, whose weights are written out."""
WEIGHTS = 2**18
"""Largest number of weights that are written out for one axis."""
HALF = Fraction(1, 2)


@dataclass(frozen=True)
class AxisPooling:
    """All windows of a pooling along one axis.

    Parameters
    ----------
    kernel : int
        Number of entries of a window.
    stride, dilation : int
        Step from window to window, and from entry to entry of a window.
    before, after : int
        Padding before and after the input.
    size : int
        Size of the axis in the input.
    ceil : bool
        Whether the last window may leave the padded input.
    count_padding : bool
        Whether padding counts in an average.
    """

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int
    size: int
    ceil: bool = False
    count_padding: bool = True

    @property
    def outputs(self) -> int:
        """Number of windows; with ``ceil`` none starts after the input."""
        room = self.size + self.before + self.after - self.dilation * (self.kernel - 1) - 1
        if not self.ceil:
            return max(room // self.stride + 1, 0)
        count = -(-room // self.stride) + 1
        last_starts_too_late = (count - 1) * self.stride >= self.size + self.before
        return max(count - 1 if last_starts_too_late else count, 0)

    def taps(self, output: int) -> range:
        """Return the positions in the padded input that an output reads."""
        first = output * self.stride
        return range(first, first + self.dilation * (self.kernel - 1) + 1, self.dilation)

    def pixels(self) -> list[list[int]]:
        """Return the pixels that each output reads, without padding."""
        pixels = []
        for output in range(self.outputs):
            positions = [tap - self.before for tap in self.taps(output)]
            pixels.append([position for position in positions if 0 <= position < self.size])
        return pixels


def overlap(pooling: AxisPooling) -> int:
    """Return the largest number of windows that contain one pixel.

    Pixel p is in the window at m if ``p = s m + dilation j`` for some ``0 <= j < k``. Consecutive solutions j differ by
    ``s' = s / gcd(s, dilation)``, so that there are at most ``ceil(k / s')``, and no more than there are windows.
    """
    step = pooling.stride // math.gcd(pooling.stride, pooling.dilation)
    return min(-(-pooling.kernel // step), pooling.outputs)


@lru_cache(maxsize=64)
def average_rows(pooling: AxisPooling) -> tuple[Row, ...]:
    """Return pixels and weights of each output."""
    padded_size = pooling.size + pooling.before + pooling.after
    rows = []
    for output, pixels in enumerate(pooling.pixels()):
        count = len(pixels)
        if pooling.count_padding:
            # The divisor counts taps in the input and in the padding. With ``ceil`` a window may reach beyond both.
            count = sum(position < padded_size for position in pooling.taps(output))
        rows.append(tuple((pixel, Fraction(1, max(count, 1))) for pixel in pixels))
    return tuple(rows)


# -- resizing ----------------------------------------------------------------------------------------------------------
ROUNDINGS: dict[str, Callable[[Fraction], int]] = {
    "floor": math.floor,
    "ceil": math.ceil,
    "round_prefer_floor": lambda x: math.ceil(x - HALF),
    "round_prefer_ceil": lambda x: math.floor(x + HALF),
}
"""How a coordinate gives the pixel that is nearest."""
COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
"""How the index of an output gives its coordinate in the input."""


@dataclass(frozen=True)
class AxisResizing:
    """Resizing along one axis."""

    size: int
    """Size of the axis in the input."""
    outputs: int
    """Size of the axis in the value."""
    scale: Fraction
    """Outputs per input pixel."""
    coordinates: str
    """One of `COORDINATES`."""
    exclude_outside: bool = False
    """Whether positions beyond the borders are left out, and the other weights are divided by their sum. Otherwise, the
    pixels at the borders are repeated there."""

    def coordinate(self, output: int) -> Fraction:
        """Return the coordinate of an output in the input."""
        if self.coordinates == "asymmetric":
            return output / self.scale
        if self.coordinates == "align_corners":
            return Fraction(output * (self.size - 1), self.outputs - 1) if self.outputs > 1 else Fraction(0)
        if self.coordinates == "pytorch_half_pixel" and self.outputs == 1:
            return Fraction(0)
        return (output + HALF) / self.scale - HALF


@lru_cache(maxsize=64)
def resized_rows(resizing: AxisResizing, kind: str) -> tuple[Row, ...]:
    """Return pixels and weights of each output, by exact coordinates.

    ``kind``: "linear", "antialiased", or one of `ROUNDINGS`.
    """
    # Linear interpolation is a hat of width 2 around a coordinate. Against aliasing, it is as much wider as the pixels
    # are more than the outputs.
    hat = min(resizing.scale, Fraction(1)) if kind == "antialiased" else Fraction(1)
    rows: list[Row] = []
    for output in range(resizing.outputs):
        x = resizing.coordinate(output)
        if kind in ROUNDINGS:
            pixels = [(ROUNDINGS[kind](x), Fraction(1))]
        else:
            positions = range(math.ceil(x - 1 / hat), math.floor(x + 1 / hat) + 1)
            pixels = [(position, 1 - abs(position - x) * hat) for position in positions]
        weights: dict[int, Fraction] = {}
        for pixel, weight in pixels:
            nearest = min(max(pixel, 0), resizing.size - 1)
            if weight and (nearest == pixel or not resizing.exclude_outside):
                weights[nearest] = weights.get(nearest, Fraction(0)) + weight
        total = sum(weights.values())
        rows.append(tuple((pixel, weight / total) for pixel, weight in weights.items()))
    return tuple(rows)


# -- norms -------------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=256)
@arithmetic.on_host()
def weights_norm_up(rows: tuple[Row, ...]) -> float:
    """Return the norm of a matrix of non-negative weights, rounded up.

    Parameters
    ----------
    rows : tuple of tuple of (int, Fraction)
        Columns and weights of each output.

    Returns
    -------
    float
        The smaller of two bounds: Schur's ``sqrt(largest row sum * largest column sum)`` in fractions, which is the
        norm if every column has one entry, or every row; and the core's, by a factorization.
    """
    column_sums: dict[int, Fraction] = {}
    for row in rows:
        for pixel, weight in row:
            column_sums[pixel] = column_sums.get(pixel, Fraction(0)) + weight
    if not column_sums:
        return 0.0
    largest_row_sum = max(sum(weight for _, weight in row) for row in rows)
    by_sums = host.root_up(largest_row_sum * max(column_sums.values()))
    pixels = sorted(column_sums)
    if max(len(rows), len(pixels)) > LARGEST_MATRIX:
        return by_sums
    column_of_pixel = {pixel: column for column, pixel in enumerate(pixels)}
    matrix = np.zeros((len(rows), len(pixels)))
    for output, row in enumerate(rows):
        for pixel, weight in row:
            # Larger entries of a non-negative matrix make its norm no smaller.
            matrix[output, column_of_pixel[pixel]] += host.float_up(weight)
    numbers: Any = matrix
    return min(by_sums, float(matrix_norm_up(numbers, ops=ArrayOps.of(backends.backend_for(numbers), numbers))))


def transposed_rows(rows: Sequence[Row], size: int) -> list[Row]:
    """Return outputs and weights of each pixel of an axis."""
    columns: list[list[tuple[int, Fraction]]] = [[] for _ in range(size)]
    for output, row in enumerate(rows):
        for pixel, weight in row:
            columns[pixel].append((output, weight))
    return [tuple(column) for column in columns]


def weighted_sums(x: NDArray[Any], axis: int, rows: Sequence[Row]) -> NDArray[Any]:
    """Return weighted sums of pixels along an axis.

    Each has two roundings more than its row has weights.
    """
    pixels = table([[pixel for pixel, _ in row] for row in rows])
    weights = np.zeros(pixels.shape)
    for output, row in enumerate(rows):
        weights[output, : len(row)] = [float(weight) for _, weight in row]
    values = np.take(x, pixels, axis=axis)
    wide_weights = weights.reshape(*pixels.shape, *(1,) * (x.ndim - 1 - axis))
    return np.asarray((values * wide_weights).sum(axis=axis + 1))


def table(windows: Sequence[Sequence[int]]) -> NDArray[np.intp]:
    """Return the pixels of windows as rows of one length: the last pixel of shorter ones is repeated."""
    width = max([len(window) for window in windows], default=1)
    rows = []
    for window in windows:
        last = window[-1] if window else 0
        rows.append([*window, *[last] * (width - len(window))])
    return np.array(rows, dtype=np.intp).reshape(len(rows), width)
