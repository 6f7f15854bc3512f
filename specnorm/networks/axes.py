"""Pooling and resizing along one axis: which input pixels an output reads, with which weight.

Average pooling and linear resizing act on each axis separately, so their norm is the product of the norms of one matrix
an axis (a Kronecker product). Weights are exact fractions, rounded up to floats where they are not dyadic.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from specnorm.proof import host
from specnorm.proving import enclose

DENSE = 512
"""Largest axis whose matrix is enclosed; longer ones are bounded by their row and column sums."""
LONGEST = 2**14
"""Largest axis or window whose weights are written out."""
WEIGHTS = 2**18
"""Most weights that are written out for one axis."""


@dataclass(frozen=True)
class Window:
    """Pooling along one axis.

    Parameters
    ----------
    kernel, stride, dilation : int
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


def overlap(window: Window) -> int:
    """Largest number of windows that one pixel is in.

    ``ceil(k / s')`` with ``s' = s / gcd(s, dilation)``: pixel p is in the window at m if ``p = s m + dilation j`` for
    some ``0 <= j < k``, and consecutive solutions j differ by s'. Never more than there are windows.
    """
    found = -(-window.kernel // (window.stride // math.gcd(window.stride, window.dilation)))
    return found if window.outputs is None else min(found, window.outputs)


def average_norm_up(window: Window) -> float | None:
    """Norm of averaging along one axis, rounded up; None where it depends on a size that is not known.

    At a known size: the norm of the matrix with a row of weights an output. At every size, padding counted:
    ``sqrt(sum_r c_r^2) / k`` with ``c_r`` the number of taps in residue class r modulo the stride (the rows of one
    output phase are translates; attained as the size grows).
    """
    if window.kernel > LONGEST:
        return None
    known = window.size is not None and window.outputs is not None and max(window.size, window.outputs) <= LONGEST
    if known and (window.outputs or 0) * window.kernel <= WEIGHTS:
        return weights_norm_up(tuple(average_rows(window)))
    if window.ceil or window.dilation != 1 or not (window.count_padding or window.before == window.after == 0):
        return None
    classes = [len(range(r, window.kernel, window.stride)) for r in range(min(window.stride, window.kernel))]
    return host.root_up(Fraction(sum(c * c for c in classes), window.kernel**2))


def average_rows(window: Window) -> Iterable[tuple[tuple[int, Fraction], ...]]:
    """Pixels and weights of each output, at a known size."""
    size, padded = window.size or 0, (window.size or 0) + window.before + window.after
    for m in range(window.outputs or 0):
        taps = [m * window.stride + j * window.dilation for j in range(window.kernel)]
        inside = [t - window.before for t in taps if 0 <= t - window.before < size]
        # A window beyond the padded input (ceil) counts its taps up to there.
        count = len([t for t in taps if t < padded]) if window.count_padding else len(inside)
        yield tuple((p, Fraction(1, max(count, 1))) for p in inside)


def adaptive_windows(size: int, outputs: int) -> list[range]:
    """Pixels of each output of torch's adaptive pooling: from floor(i n / m) to ceil((i + 1) n / m)."""
    return [range(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]


def adaptive_overlap(size: int, outputs: int) -> int:
    """Largest number of those windows that one pixel is in."""
    reads = [p for window in adaptive_windows(size, outputs) for p in window]
    return max(Counter(reads).values())


def adaptive_norm_up(size: int, outputs: int) -> float:
    """Norm of averaging over those windows, rounded up."""
    rows = (tuple((p, Fraction(1, len(w))) for p in w) for w in adaptive_windows(size, outputs))
    return weights_norm_up(tuple(rows))


def resize_norm_up(mode: str, size: int, outputs: int, scale: Fraction, coordinates: str, nearest: str) -> float | None:
    """Norm of resizing along one axis, rounded up; None for modes that are not known.

    Parameters
    ----------
    mode : {"nearest", "linear"}
    size, outputs : int
    scale : Fraction
        Outputs per input pixel, as the framework uses it for coordinates.
    coordinates : {"half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"}
        Where an output's centre lies in the input.
    nearest : {"floor", "ceil", "round_prefer_floor", "round_prefer_ceil"}
        For "nearest".
    """
    rows: list[tuple[tuple[int, Fraction], ...]] = []
    if max(size, outputs) > LONGEST:
        return None
    computed = computed_copies(size, outputs, scale, coordinates, nearest) if mode == "nearest" else 0
    if computed is None:
        return None
    for i in range(outputs):
        x = _coordinate(i, size, outputs, scale, coordinates)
        if x is None:
            return None
        if mode == "nearest":
            p = _nearest(x, nearest)
            if p is None:
                return None
            rows.append(((min(max(p, 0), size - 1), Fraction(1)),))
        elif mode == "linear":
            low = math.floor(x)
            ends = {min(max(low, 0), size - 1): 1 - (x - low)}
            high = min(max(low + 1, 0), size - 1)
            ends[high] = ends.get(high, Fraction(0)) + (x - low)
            rows.append(tuple(ends.items()))
        else:
            return None
    return max(weights_norm_up(tuple(rows)), host.root_up(computed))


def computed_copies(size: int, outputs: int, scale: Fraction, coordinates: str, nearest: str) -> int | None:
    """Largest number of outputs for which one pixel is the nearest, as runtimes compute it; None if not known.

    Runtimes divide by the scale or multiply by what is its inverse, in single or double precision. Where an exact
    coordinate is a border between two pixels, or next to one, that may give the one or the other pixel.

    Parameters
    ----------
    size, outputs, scale, coordinates, nearest
        As for `resize_norm_up`.
    """
    most = 0
    for dtype in (np.float32, np.float64):
        number: Any = dtype
        # Coordinates are a multiple of the outputs', by a number over another.
        ways = [(1, number(scale)), (1 / number(scale), 1)]
        if scale * size == outputs:
            ways.append((number(size) / number(outputs), 1))
        if coordinates == "align_corners":
            first, last = number(size - 1), number(max(outputs - 1, 1))
            ways = [(first, last), (first / last, 1)]
        half = number(0.5 * coordinates.endswith("half_pixel"))
        centres = np.arange(outputs, dtype=dtype) + half
        for numerator, denominator in ways:
            x = centres * number(numerator) / number(denominator) - half
            pixels = {
                "floor": np.floor(x),
                "ceil": np.ceil(x),
                "round_prefer_floor": np.ceil(x - number(0.5)),
                "round_prefer_ceil": np.floor(x + number(0.5)),
            }.get(nearest)
            if pixels is None:
                return None
            most = max(most, int(np.bincount(np.clip(pixels, 0, size - 1).astype(np.int64)).max(initial=0)))
    return most


def _coordinate(i: int, size: int, outputs: int, scale: Fraction, coordinates: str) -> Fraction | None:
    if coordinates == "asymmetric":
        return i / scale
    if coordinates == "align_corners":
        return Fraction(i * (size - 1), outputs - 1) if outputs > 1 else Fraction(0)
    if coordinates == "pytorch_half_pixel" and outputs == 1:
        return Fraction(0)
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return (i + Fraction(1, 2)) / scale - Fraction(1, 2)
    return None


def _nearest(x: Fraction, how: str) -> int | None:
    half = Fraction(1, 2)
    known = {
        "floor": math.floor(x),
        "ceil": math.ceil(x),
        "round_prefer_floor": math.ceil(x - half),
        "round_prefer_ceil": math.floor(x + half),
    }
    return known.get(how)


@lru_cache(maxsize=256)
def weights_norm_up(rows: tuple[tuple[tuple[int, Fraction], ...], ...]) -> float:
    """Norm of a matrix of non-negative weights, rounded up.

    Parameters
    ----------
    rows : tuple of tuple of (int, Fraction)
        Columns and weights of each output.

    Returns
    -------
    float
        The smaller of ``sqrt(largest row sum * largest column sum)`` (Schur test, in fractions) and a proven
        enclosure's upper bound; where every column has one entry a row, or every row one, it is exact.
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
    return min(schur, float(enclose(matrix, rtol=1e-9).upper))
