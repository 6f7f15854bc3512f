"""Pooling and resizing along one axis: the input pixels that an output reads, and their weights.

Average pooling and linear resizing act on each axis separately, so their norm is the product of the norms of one matrix
an axis (a Kronecker product). Weights are exact fractions, rounded up to floats where they are not dyadic.
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

from specnorm.proof import host

Row: TypeAlias = tuple[tuple[int, Fraction], ...]
"""Pixels and weights of one output."""
DENSE = 512
"""Largest axis whose matrix is tested with weights; longer ones are bounded by their row and column sums."""
LONGEST = 2**14
"""Largest axis or window whose weights are written out."""
WEIGHTS = 2**18
"""Largest number of weights that are written out for one axis."""
CLOSE = 1e-9
"""Relative distance of the t of a Schur test from the computed square of the norm."""
HALF = Fraction(1, 2)


@dataclass(frozen=True)
class Window:
    """Pooling along one axis.

    Parameters
    ----------
    before, after : int
        Padding.
    size, outputs : int or None
        Of the axis before and after; None: not known.
    ceil : bool
        Whether the last window may leave the padded input.
    count_padding : bool
        Whether padding counts in an average.
    """

    kernel: int
    stride: int
    dilation: int = 1
    before: int = 0
    after: int = 0
    size: int | None = None
    outputs: int | None = None
    ceil: bool = False
    count_padding: bool = True

    def count(self, size: int) -> int:
        """Return the number of outputs for an axis of a size; with ``ceil`` no window starts behind the input."""
        room = size + self.before + self.after - self.dilation * (self.kernel - 1) - 1
        if not self.ceil:
            return max(room // self.stride + 1, 0)
        count = -(-room // self.stride) + 1
        last_starts_behind = (count - 1) * self.stride >= size + self.before
        return max(count - 1 if last_starts_behind else count, 0)

    def taps(self, output: int) -> range:
        """Return the places in the padded input that an output reads."""
        first = output * self.stride
        return range(first, first + self.dilation * (self.kernel - 1) + 1, self.dilation)

    def pixels(self) -> list[list[int]]:
        """Return the pixels that each output reads, without padding, at a known size."""
        size = self.size or 0
        pixels = []
        for output in range(self.outputs or 0):
            places = [tap - self.before for tap in self.taps(output)]
            pixels.append([place for place in places if 0 <= place < size])
        return pixels


def overlap(window: Window) -> int:
    """Return the largest number of windows that contain one pixel.

    ``ceil(k / s')`` with ``s' = s / gcd(s, dilation)``: pixel p is in the window at m if ``p = s m + dilation j`` for
    some ``0 <= j < k``, and consecutive solutions j differ by s'. Never more than there are windows.
    """
    count = -(-window.kernel // (window.stride // math.gcd(window.stride, window.dilation)))
    return count if window.outputs is None else min(count, window.outputs)


def average_norm_up(window: Window) -> float | None:
    """Return the norm of averaging along one axis, rounded up; None if it depends on an unknown size.

    At a known size: the norm of the matrix with a row of weights an output. At every size, padding counted:
    ``sqrt(sum_r c_r^2) / k`` with ``c_r`` the number of taps in residue class r modulo the stride (the rows of one
    output phase are translates; attained as the size grows).
    """
    if window.kernel > LONGEST:
        return None
    if window.size is not None and window.outputs is not None:
        is_short = max(window.size, window.outputs) <= LONGEST
        if is_short and window.outputs * window.kernel <= WEIGHTS:
            return weights_norm_up(average_rows(window))
    if window.ceil or window.dilation != 1 or not (window.count_padding or window.before == window.after == 0):
        return None
    classes = [len(range(r, window.kernel, window.stride)) for r in range(min(window.stride, window.kernel))]
    return host.root_up(Fraction(sum(c * c for c in classes), window.kernel**2))


@lru_cache(maxsize=64)
def average_rows(window: Window) -> tuple[Row, ...]:
    """Return pixels and weights of each output, at a known size."""
    padded = (window.size or 0) + window.before + window.after
    rows = []
    for m, inside in enumerate(window.pixels()):
        # A window beyond the padded input (ceil) counts its taps up to there.
        count = sum(t < padded for t in window.taps(m)) if window.count_padding else len(inside)
        rows.append(tuple((p, Fraction(1, max(count, 1))) for p in inside))
    return tuple(rows)


# -- resizing ----------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=64)
def linear_rows(
    size: int,
    outputs: int,
    scale: Fraction,
    coordinates: str,
) -> tuple[Row, ...] | None:
    """Return pixels and weights of each output of linear interpolation; None for unknown kinds of coordinates."""
    rows: list[Row] = []
    for i in range(outputs):
        x = _coordinate(i, size, outputs, scale, coordinates)
        if x is None:
            return None
        weights: dict[int, Fraction] = {}
        for p, weight in ((math.floor(x), 1 - x % 1), (math.floor(x) + 1, x % 1)):
            if weight:
                inside = min(max(p, 0), size - 1)
                weights[inside] = weights.get(inside, Fraction(0)) + weight
        rows.append(tuple(weights.items()))
    return tuple(rows)


def away(
    size: int,
    outputs: int,
    scale: Fraction,
    coordinates: str,
    unit: float,
) -> float:
    """Bound how far rounding to a precision can move a coordinate.

    ``i s``, ``(i + 1/2) s - 1/2``, the same divided by a scale, and ``i (n - 1) / (m - 1)`` have at most a rounding of
    the factor, one of the product or quotient, and one of the difference: 4 u (|x| + 1), their products included.
    """
    ends = [_coordinate(i, size, outputs, scale, coordinates) or Fraction(0) for i in (0, max(outputs - 1, 0))]
    return host.inflate(4 * unit * float(max(map(abs, ends)) + 1), 4)


@lru_cache(maxsize=64)
def nearest_pixels(
    size: int,
    outputs: int,
    scale: Fraction,
    coordinates: str,
    nearest: str,
) -> NDArray[np.intp] | None:
    """Return the pixel that each output is, for whole scales, by exact coordinates; None for other arguments."""
    whole = scale.denominator == 1 and outputs == size * scale and coordinates != "align_corners"
    places = [_coordinate(i, size, outputs, scale, coordinates) for i in range(outputs)]
    known: dict[str, Callable[[Fraction], int]] = {
        "floor": math.floor, "ceil": math.ceil, "round_prefer_floor": lambda x: math.ceil(x - HALF),
        "round_prefer_ceil": lambda x: math.floor(x + HALF),
    }  # fmt: skip
    if nearest not in known or not whole or any(x is None for x in places):
        return None
    pixels = [known[nearest](x) for x in places if x is not None]
    return np.clip(np.array(pixels, dtype=np.intp), 0, size - 1)


def _coordinate(
    i: int,
    size: int,
    outputs: int,
    scale: Fraction,
    coordinates: str,
) -> Fraction | None:
    if coordinates == "asymmetric":
        return i / scale
    if coordinates == "align_corners":
        return Fraction(i * (size - 1), outputs - 1) if outputs > 1 else Fraction(0)
    if coordinates == "pytorch_half_pixel" and outputs == 1:
        return Fraction(0)
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return (i + HALF) / scale - HALF
    return None


# -- norms -------------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=256)
def weights_norm_up(rows: tuple[Row, ...]) -> float:
    """Return the norm of a matrix of non-negative weights, rounded up.

    Parameters
    ----------
    rows : tuple of tuple of (int, Fraction)
        Columns and weights of each output.

    Returns
    -------
    float
        The smaller of two Schur tests: ``sqrt(largest row sum * largest column sum)`` in fractions, exact where every
        column has one entry or every row one, and the one with weights, `_schur_up`.
    """
    columns: dict[int, Fraction] = {}
    for row in rows:
        for p, weight in row:
            columns[p] = columns.get(p, Fraction(0)) + weight
    if not columns:
        return 0.0
    schur = host.root_up(max(sum(w for _, w in row) for row in rows) * max(columns.values()))
    used = sorted(columns)
    if max(len(rows), len(used)) > DENSE:
        return schur
    position = {p: at for at, p in enumerate(used)}
    matrix = np.zeros((len(rows), len(used)))
    for at, row in enumerate(rows):
        for p, weight in row:
            # Larger entries of a non-negative matrix make its norm no smaller.
            matrix[at, position[p]] += host.float_up(weight)
    return min(schur, _schur_up(matrix))


def _schur_up(matrix: NDArray[np.float64]) -> float:
    """Schur test of a non-negative matrix A with weights: if ``A^T A v <= s v`` for any v > 0, then ``|A|^2 <= s``.

    ``v = (t I - A^T A)^-1 1`` is positive for t above ``|A|^2``, and ``A^T A v = t v - 1``: it gives s <= t. Whatever v
    comes out, s is computed from it, in sums of non-negative numbers.
    """
    gram = matrix.T @ matrix
    near = (1 + CLOSE) * float(np.linalg.eigvalsh(gram)[-1])
    v = np.linalg.solve(near * np.eye(len(gram)) - gram, np.ones(len(gram)))
    if not (np.isfinite(v).all() and v.min() > 0):
        return math.inf
    image = host.inflate(matrix.T @ host.inflate(matrix @ v, matrix.shape[1]), matrix.shape[0])
    return host.sqrt_up(float(host.next_up(image / v).max()))


def transposed_rows(rows: Sequence[Row], size: int) -> list[Row]:
    """Return outputs and weights of each pixel of an axis."""
    columns: list[list[tuple[int, Fraction]]] = [[] for _ in range(size)]
    for output, row in enumerate(rows):
        for pixel, weight in row:
            columns[pixel].append((output, weight))
    return [tuple(column) for column in columns]


def weighted(x: NDArray[Any], axis: int, rows: Sequence[Row]) -> NDArray[Any]:
    """Return weighted sums of pixels along an axis, with two roundings more than there are weights in a row."""
    pixels = table([[pixel for pixel, _ in row] for row in rows])
    weights = np.zeros(pixels.shape)
    for output, row in enumerate(rows):
        weights[output, : len(row)] = [float(weight) for _, weight in row]
    values = np.take(x, pixels, axis=axis)
    wide_weights = weights.reshape(*pixels.shape, *(1,) * (x.ndim - 1 - axis))
    return np.asarray((values * wide_weights).sum(axis=axis + 1))


def table(windows: Sequence[Sequence[int]]) -> NDArray[np.intp]:
    """Return pixels of windows as rows of one length: last pixels are repeated."""
    width = max([len(window) for window in windows], default=1)
    wide = [[*window, *[window[-1] if window else 0] * (width - len(window))] for window in windows]
    return np.array(wide, dtype=np.intp).reshape(len(wide), width)
