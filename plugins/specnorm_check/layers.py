"""Bound the norm of a convolution layer by a kernel H of whole numbers: Lemmas 1 to 3.

The lemmas and their proofs are in docs/check-proofs.md; a function names the step that
it computes. The file needs Python and NumPy.

A layer's kernel has the axes (outputs, inputs of a group, *taps), kernels of stride 1
(groups, rows, channels, *taps). A kernel without taps is a matrix.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[Any]
Lag = tuple[int, ...]

LARGEST_ENTRY = 2**19  # of K and H: 20 bits, the sign included
EXACT = 2**53  # float64 holds every whole number up to this one
LARGEST_MATRIX = 2**26  # entries


class Refused(Exception):
    """A claim is not proven, or a file is not read; the message says why."""


def require(condition: object, reason: str) -> None:
    """Refuse unless the condition holds."""
    if not condition:
        raise Refused(reason)


# -- the layer -------------------------------------------------------------------------
@dataclass(frozen=True)
class Axis:
    """The geometry of one axis of a layer."""

    taps: int
    stride: int
    dilation: int
    before: int  # pixels of padding
    after: int

    @property
    def reach(self) -> int:
        """The distance from the first tap to the last, in pixels."""
        return self.dilation * (self.taps - 1)

    def outputs(self, size: int) -> int:
        """Return the number of outputs of an input of this size."""
        padded = self.before + size + self.after
        last = padded - self.reach - 1
        return last // self.stride + 1


@dataclass(frozen=True)
class Layer:
    """The geometry of a layer; of a transposed one that of its adjoint.

    ``padding_mode`` is zeros, circular, reflect or replicate. ``sizes`` are the input
    sizes that a claim is about; None: every input size, with circular padding every one
    that the stride divides.
    """

    axes: tuple[Axis, ...]
    groups: int
    padding_mode: str
    sizes: tuple[int, ...] | None


# -- the bound -------------------------------------------------------------------------
def proven_norm(
    kernel: Numbers,
    layer: Layer,
    completion: Numbers,
    exponent: int,
    entry_error: float = 0.0,
) -> Fraction:
    """Return the number that H proves: the norm of the layer is not above it.

    ``completion`` is H', of whole numbers; ``entry_error`` bounds the error of each
    entry of the kernel, relative to it. The steps are those of Arithmetic.
    """
    kernel = kernel.astype(np.float64)
    is_finite = np.isfinite(kernel).all()
    require(is_finite, "the kernel holds nan or infinity")

    # Step 1: round 2^exponent K to whole numbers.
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ldexp(kernel, exponent)
    rounded = np.rint(scaled)
    absolute_e = np.abs(scaled - rounded)
    absolute_e += entry_error * np.abs(scaled)
    require_few_bits(rounded, completion)

    # Step 2: kernels k of stride 1, made of K'.
    k = stride_one_kernels(rounded, layer)
    h = completion.astype(np.float64)
    require_same_columns(k, h)
    if not kernel.any():
        return Fraction(0)  # where step 4 would add 2^-60

    # Step 3: Lemma 1. Step 4: the norm of E.
    k_above_h = np.concatenate([k, h], axis=1)
    squares = lemma_1(k_above_h)
    errors = schur_bounds(
        stride_one_kernels(absolute_e, layer),
        roundings=kernel.size,
    )

    # Step 5: the largest group, times the norm of the padding.
    norms = []
    for square, error in zip(squares, errors, strict=True):
        norm = root_up(square) + error
        norms.append(norm)
    largest = max(norms) * padding_factor(layer)
    scale = Fraction(2) ** exponent
    return largest / scale


def require_few_bits(kernel: Numbers, completion: Numbers) -> None:
    """Refuse whole numbers of more than 20 bits."""
    kind = completion.dtype
    is_whole = kind.str in ("<i2", "<i4")
    require(is_whole, f"H is {kind}, not int16 or int32")
    h = completion.astype(np.float64)
    largest = max(
        largest_entry(kernel),
        largest_entry(h),
    )
    require(largest <= LARGEST_ENTRY, "K or H has more than 20 bits")


def require_same_columns(k: Numbers, h: Numbers) -> None:
    """Refuse an H that has not K's groups, channels and taps."""
    expected = list(k.shape)
    words = f"H is {h.shape}; expected {k.shape} with any number of rows"
    require(h.ndim == k.ndim, words)
    expected[1] = h.shape[1]
    require(list(h.shape) == expected, words)


def stride_one_kernels(kernel: Numbers, layer: Layer) -> Numbers:
    """Return kernels (groups, rows, channels, *taps) of stride 1.

    Their largest norm is the layer's, but for padding, at every size by Lemma 2, at one
    size by Lemma 3. If it has more channels than rows its transpose is taken, whose
    symbol is the transposed one, of the same norm.
    """
    if layer.sizes is None:
        kernels = by_phases(kernel, layer)
    else:
        kernels = matrix_at_size(kernel, layer, layer.sizes)
    _, rows, channels, *_ = kernels.shape
    if channels > rows:
        return kernels.swapaxes(1, 2)
    return kernels


# -- Lemma 1 ---------------------------------------------------------------------------
def lemma_1(a: Numbers) -> list[Fraction]:
    """Return for each group the bound of Lemma 1, rounded up.

    ``a`` is A, the rows of K above those of H: M_t sums A_x^T A_{x+t} over x.
    """
    _, _, channels, *taps = a.shape
    zero = (0,) * len(taps)
    m_0 = lag_matrices(a, zero)
    identity = np.eye(channels, dtype=np.int64)
    shifts = []
    for matrix in m_0:
        v = best_shift(matrix)
        shifts.append(v)
        matrix -= v * identity  # m_0 becomes M_0 - v I; 0 <= v < 2^62: nothing wraps
    totals = frobenius_norms(m_0)
    lags = 1
    for lag in lags_after_zero(taps):
        m_t = lag_matrices(a, lag)
        # M_{-t} is the transpose of M_t and has the same norm.
        totals += 2 * frobenius_norms(m_t)
        lags += 2
    # A norm rounds its sum of so many squares, and the total its sum of the lags.
    factor = inflation(channels**2 + lags)
    bounds = []
    for v, total in zip(shifts, totals.tolist(), strict=True):
        norms = factor * Fraction(total)
        bounds.append(v + norms)
    return bounds


def lags_after_zero(taps: list[int]) -> Iterator[Lag]:
    """Yield one of t and -t for every lag t but zero."""
    zero = (0,) * len(taps)
    ranges = []
    for count in taps:
        ranges.append(range(1 - count, count))
    for lag in itertools.product(*ranges):
        if lag > zero:
            yield lag


def lag_matrices(a: Numbers, lag: Lag) -> Numbers:
    """Return M_t for each group, exactly: a sum over the x for which x + t is a tap."""
    taps = a.shape[3:]
    x: list[slice] = []
    x_plus_t: list[slice] = []
    for count, t in zip(taps, lag, strict=True):
        first = max(0, -t)
        stop = min(count, count - t)
        x.append(slice(first, stop))
        first += t
        stop += t
        x_plus_t.append(slice(first, stop))
    a_x = a[:, :, :, *x]
    a_x_plus_t = a[:, :, :, *x_plus_t]
    return exact_products(
        rows_of_channels(a_x),
        rows_of_channels(a_x_plus_t),
    )


def rows_of_channels(a: Numbers) -> Numbers:
    """Return matrices (groups, channels, rows times taps)."""
    groups, _, channels, *_ = a.shape
    channels_first = np.moveaxis(a, 2, 1)
    return channels_first.reshape(groups, channels, -1)


def exact_products(left: Numbers, right: Numbers) -> Numbers:
    """Return left right^T for whole numbers, exactly (Arithmetic, step 3)."""
    groups, channels, length = left.shape
    largest = max(
        largest_entry(left),
        largest_entry(right),
        1,
    )
    square = largest**2
    require(square < EXACT, "so many taps of so many bits")
    require(length * square < 2**62, "so many rows of so many bits")
    at_once = (EXACT - 1) // square
    shape = (groups, channels, channels)
    total = np.zeros(shape, np.int64)
    for first in range(0, length, at_once):
        part = slice(first, first + at_once)
        columns = left[:, :, part]
        others = right[:, :, part]
        transposed = others.swapaxes(1, 2)
        sums = np.matmul(columns, transposed)
        total += sums.astype(np.int64)
    return total


def largest_entry(a: Numbers) -> int:
    """Return the largest absolute value of whole numbers."""
    largest = np.abs(a).max(initial=0)
    return int(largest)


def best_shift(m_0: Numbers) -> int:
    """Return about the v for which Lemma 1 says least, though it holds for any v."""
    values = m_0.astype(np.float64)
    channels = len(values)
    trace = float(values.trace())
    mean = trace / channels
    deviation = values - mean * np.eye(channels)
    norm = float(np.linalg.norm(deviation))
    pairs = max(channels * (channels - 1), 1)
    spread = norm / math.sqrt(pairs)
    return round(mean - spread)


def frobenius_norms(matrices: Numbers) -> Numbers:
    """Return the Frobenius norm of each matrix."""
    squares = matrices.astype(np.float64) ** 2
    sums = squares.sum(axis=(1, 2))
    return np.asarray(np.sqrt(sums))


# -- Lemma 2 ---------------------------------------------------------------------------
def by_phases(kernel: Numbers, layer: Layer) -> Numbers:
    """Return the kernels of stride 1 whose channels are the phases of the input."""
    for at, axis in enumerate(layer.axes):
        common = math.gcd(axis.stride, axis.dilation)
        step = axis.stride // common
        phases = min(step, axis.taps)
        kernel = split_axis(kernel, 2 + at, phases)
    rows = len(kernel) // layer.groups
    return kernel.reshape(
        layer.groups,
        rows,
        *kernel.shape[1:],
    )


def split_axis(
    kernel: Numbers,
    axis: int,
    phases: int,
) -> Numbers:
    """Return the kernel whose channel is so many phases, side by side (step 3)."""
    taps = kernel.shape[axis]
    fewer = -(-taps // phases)  # rounded up
    widths = [(0, 0)] * kernel.ndim
    missing = fewer * phases - taps
    widths[axis] = (0, missing)
    wide = np.pad(kernel, widths)
    before = wide.shape[:axis]
    after = wide.shape[axis + 1 :]
    apart = wide.reshape(*before, fewer, phases, *after)
    beside = np.moveaxis(apart, axis + 1, 2)
    first, second, _, *rest = beside.shape
    return beside.reshape(first, second * phases, *rest)


# -- Lemma 3 ---------------------------------------------------------------------------
def padding_factor(layer: Layer) -> Fraction:
    """Return the norm of the padding: the root of the copies of a pixel (step 1)."""
    if layer.sizes is not None:
        return Fraction(1)
    copies = 1
    mode = layer.padding_mode
    for axis in layer.axes:
        copies *= copies_of_a_pixel(axis, mode)
    if copies == 1:
        return Fraction(1)
    return root_up(Fraction(copies))


def copies_of_a_pixel(axis: Axis, mode: str) -> int:
    """Return how often a pixel, or an output, is repeated on an axis at most."""
    if mode == "reflect":
        before = min(axis.before, 1)
        after = min(axis.after, 1)
        return 1 + before + after
    if mode == "replicate":
        return 1 + axis.before + axis.after
    if mode == "circular":
        more_pixels = axis.before + axis.after - axis.reach
        more_outputs = -(-more_pixels // axis.stride)  # rounded up
        return 1 + max(more_outputs, 0)
    return 1


def matrix_at_size(
    kernel: Numbers,
    layer: Layer,
    sizes: tuple[int, ...],
) -> Numbers:
    """Return the layer's matrix for each group (step 3)."""
    first, second, *taps = kernel.shape
    outputs = []
    for axis, size in zip(layer.axes, sizes, strict=True):
        outputs.append(axis.outputs(size))
    rows = first * math.prod(outputs)
    columns = second * math.prod(sizes)
    smallest = min([1, *sizes, *outputs])
    require(smallest > 0, "at its size it has no input or no output")
    is_small = rows * columns < LARGEST_MATRIX
    require(is_small, "at its size it is too large a matrix")

    mode = layer.padding_mode
    by_taps = kernel.reshape(first, second, -1)
    matrix = np.zeros((rows, columns))
    all_taps = itertools.product(*map(range, taps))
    for number, tap in enumerate(all_taps):
        reads: Numbers = np.ones((1, 1))
        for axis, size, t in zip(layer.axes, sizes, tap, strict=True):
            on_axis = pixels_read(axis, size, t, mode)
            reads = np.kron(reads, on_axis)
        at_tap = by_taps[:, :, number]
        matrix += np.kron(at_tap, reads)
    return matrix.reshape(layer.groups, -1, columns)


def pixels_read(
    axis: Axis,
    size: int,
    tap: int,
    mode: str,
) -> Numbers:
    """Return the matrix (outputs, pixels) with a 1 where an output reads a pixel."""
    outputs = axis.outputs(size)
    position = axis.stride * np.arange(outputs)
    position += axis.dilation * tap - axis.before
    if mode == "circular":
        position = position % size
    if mode == "reflect":
        most = max(axis.before, axis.after)
        require(most < size, "its padding reflects too many pixels")
        from_last = size - 1 - np.abs(position)
        position = size - 1 - np.abs(from_last)
    if mode == "replicate":
        position = np.clip(position, 0, size - 1)
    inside = (position >= 0) & (position < size)
    output = np.flatnonzero(inside)
    pixel = position[inside]
    reads = np.zeros((outputs, size))
    reads[output, pixel] = 1
    return reads


# -- rounding --------------------------------------------------------------------------
def schur_bounds(
    kernels: Numbers,
    roundings: int,
) -> list[Fraction]:
    """Return a bound of the norm of each kernel with entries that are not negative.

    An entry is a sum with so many roundings at most (Arithmetic, step 4).
    """
    taps = tuple(range(3, kernels.ndim))
    sums = kernels.sum(axis=taps)
    rows = sums.sum(axis=2)
    columns = sums.sum(axis=1)
    largest_rows = rows.max(axis=1).tolist()
    largest_columns = columns.max(axis=1).tolist()
    factor = inflation(kernels.size + roundings)
    underflow = Fraction(1, 2**60)
    bounds = []
    for row, column in zip(largest_rows, largest_columns, strict=True):
        product = Fraction(row) * Fraction(column)
        norm = factor * root_up(product)
        bounds.append(norm + underflow)
    return bounds


def inflation(roundings: int) -> Fraction:
    """Return more than so many roundings take from a sum (Arithmetic, step 3)."""
    require(roundings < 2**48, "the kernel is too large")
    return 1 + Fraction(roundings + 8, 2**52)


def root_up(x: Fraction) -> Fraction:
    """Return a multiple of 2^-60 that is just above the root."""
    whole = math.ceil(x * 4**60)
    above = math.isqrt(whole) + 1
    return Fraction(above, 2**60)
