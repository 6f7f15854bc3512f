"""Bound the norm of a convolution layer by a kernel H of whole numbers: Lemmas 1 to 3.

The lemmas and their proofs are on the README of this folder; a function names the
step that it computes. The file needs Python and NumPy.

K is the layer's kernel, with one matrix K_x for each tap x, and H any kernel with as many
columns and the same taps. K' and H' are 2^exponent K and 2^exponent H in whole numbers,
and E is the error of rounding K. The *lag* M_t is the matrix sum_x K_x^T K_{x+t} + sum_x
H_x^T H_{x+t}. Lemma 1: the norm of K is at most the root of

    v + |M_0 - v I| + sum over t != 0 of |M_t|    for any number v,

with Frobenius norms. The bound is close if K^T K + H^T H is close to a multiple of I.

A layer's kernel has the axes (outputs, inputs of a group, *taps), kernels of stride 1
(groups, rows, channels, *taps). A kernel without taps is a matrix.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from specnorm_check.arithmetic import (
    Array,
    exact_products,
    frobenius_norms,
    inflation,
    require,
    root_up,
    schur_bounds,
)

Lag = tuple[int, ...]

LARGEST_ENTRY = 2**19  # of K' and H', in absolute value
LARGEST_MATRIX = 2**26  # entries
PADDING = {
    "zeros": "constant",
    "circular": "wrap",
    "reflect": "reflect",
    "symmetric": "symmetric",
    "replicate": "edge",
}
"""NumPy's names of the padding modes."""


# -- the layer -------------------------------------------------------------------------
@dataclass(frozen=True)
class Axis:
    """The geometry of one axis of a layer."""

    taps: int
    stride: int
    dilation: int
    padding_before: int  # pixels before the first one
    padding_after: int  # pixels after the last one

    @property
    def reach(self) -> int:
        """The distance from the first tap to the last, in pixels."""
        return self.dilation * (self.taps - 1)

    def outputs(self, size: int) -> int:
        """Return the number of outputs of an input of this size."""
        padded = self.padding_before + size + self.padding_after
        last_start = padded - self.reach - 1  # of a window; the first starts at 0
        return last_start // self.stride + 1


@dataclass(frozen=True)
class Layer:
    """The geometry of a layer. A transposed layer is described by its adjoint.

    ``padding_mode`` is zeros, circular, reflect (the edge pixel is not
    repeated), symmetric (it is) or replicate. ``sizes`` is the one input
    size that a claim is about, in pixels on each axis. None: the claim is about every
    input size, or, with circular padding, about every one that the stride divides.
    """

    axes: tuple[Axis, ...]
    groups: int
    padding_mode: str
    sizes: tuple[int, ...] | None
    is_adjoint: bool = False  # of the layer that is meant


# -- the bound -------------------------------------------------------------------------
def proven_norm(
    kernel: Array,
    layer: Layer,
    completion: Array,
    exponent: int,
    errors: Array | float = 0.0,
) -> Fraction:
    """Return the number that H proves: the norm of the layer is not above it.

    The steps are those of the section Arithmetic: ``kernel`` is K, ``rounded`` is K',
    ``absolute_e`` is |E|, ``completion`` is H'. The norm of 2^exponent K is at most that
    of K', by Lemma 1, plus that of E. ``errors`` bounds the error of each entry of a
    kernel that was itself computed.
    """
    kernel = kernel.astype(np.float64)
    require(np.isfinite(kernel).all(), "the kernel contains NaN or infinity")

    # Step 1: round 2^exponent K to whole numbers.
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.ldexp(kernel, exponent)
    require_small_entries(scaled)
    rounded = np.rint(scaled)
    absolute_e = np.abs(scaled - rounded)
    absolute_e += np.ldexp(errors, exponent)

    # Step 2: k has the kernels of stride 1 made of K', and h is H'.
    k = stride_one_kernels(rounded, layer)
    h = whole_numbers_of(completion)
    message = f"H is {h.shape}; expected {k.shape} with any number of rows"
    require(h.shape[:1] + h.shape[2:] == k.shape[:1] + k.shape[2:], message)
    if not kernel.any():
        return Fraction(0)  # exact; step 4 would add 2^-60

    # Step 3: Lemma 1.
    k_above_h = np.concatenate([k, h], axis=1)
    squares = squared_norm_bounds(k_above_h)

    # Step 4: the norm of E. Each entry of e is a sum of at most kernel.size numbers.
    e = stride_one_kernels(absolute_e, layer)
    norms_of_e = schur_bounds(e, roundings=kernel.size)

    # Step 5: the largest group, times the norm of the padding. All are bounds.
    pairs = zip(squares, norms_of_e, strict=True)
    largest_norm = max(root_up(square) + error for square, error in pairs)
    return largest_norm * padding_factor(layer) / Fraction(2) ** exponent


def whole_numbers_of(completion: Array) -> Array:
    """Return H' in float64; refuse other numbers than integers up to 2^19."""
    dtype = completion.dtype
    require(dtype.str in ("<i2", "<i4"), f"H is {dtype}, not int16 or int32")
    h = completion.astype(np.float64)
    require_small_entries(h)
    return h


def require_small_entries(numbers: Array) -> None:
    """Refuse numbers whose absolute value is above 2^19, or nan."""
    is_small = np.abs(numbers) <= LARGEST_ENTRY
    require(is_small.all(), "K or H has an entry above 2^19")


def stride_one_kernels(kernel: Array, layer: Layer) -> Array:
    """Return kernels (groups, rows, channels, *taps) of stride 1.

    The largest of their norms, times `padding_factor`, bounds the layer's norm: at every
    size by Lemma 2, at one size by Lemma 3. Kernels with more channels than rows are
    transposed. The matrix of each frequency, the Fourier transform of the taps, is
    transposed then, too, and keeps its norm.
    """
    if layer.sizes is None:
        kernels = by_phases(kernel, layer)
    else:
        kernels = matrix_at_size(kernel, layer, layer.sizes)
    _, rows, channels, *_ = kernels.shape
    return kernels.swapaxes(1, 2) if channels > rows else kernels


# -- Lemma 1 ---------------------------------------------------------------------------
def squared_norm_bounds(a: Array) -> list[Fraction]:
    """Return for each group the bound of the squared norm of K by Lemma 1.

    ``a`` is A, the rows of K above those of H. So M_t is the sum of A_x^T A_{x+t} over x.
    """
    _, _, channels, *taps = a.shape
    identity = np.eye(channels, dtype=np.int64)
    m_0 = lag_matrices(a, (0,) * len(taps))
    # No overflow: 0 <= v <= the mean of M_0's diagonal, which `exact_products` keeps
    # below 2^62.
    shifts = [best_shift(each) for each in m_0]
    shifted = [each - v * identity for each, v in zip(m_0, shifts, strict=True)]
    sums = frobenius_norms(np.array(shifted))
    norms_added = 1
    for lag in lags_after_zero(taps):
        m_t = lag_matrices(a, lag)
        # M_{-t} is the transpose of M_t and has the same norm.
        sums += 2 * frobenius_norms(m_t)
        norms_added += 2
    # A norm is a sum of channels^2 squares, and `sums` is one of norms_added norms.
    factor = inflation(channels**2 + norms_added)
    pairs = zip(shifts, sums.tolist(), strict=True)
    return [v + factor * Fraction(sum_of_norms) for v, sum_of_norms in pairs]


def lags_after_zero(taps: list[int]) -> Iterator[Lag]:
    """Yield one of t and -t for every lag t but zero."""
    zero = (0,) * len(taps)
    for lag in itertools.product(*(range(1 - count, count) for count in taps)):
        if lag > zero:  # the first number that is not 0 is positive
            yield lag


def lag_matrices(a: Array, lag: Lag) -> Array:
    """Return M_t for each group, exactly: a sum over the x for which x + t is a tap."""
    taps = a.shape[3:]
    x: list[slice] = []
    x_plus_t: list[slice] = []
    for count, t in zip(taps, lag, strict=True):
        first = max(0, -t)
        stop = min(count, count - t)
        x.append(slice(first, stop))
        x_plus_t.append(slice(first + t, stop + t))
    return exact_products(
        rows_of_channels(a[:, :, :, *x]), rows_of_channels(a[:, :, :, *x_plus_t])
    )


def rows_of_channels(a: Array) -> Array:
    """Return matrices (groups, channels, rows times taps)."""
    channels_first = np.moveaxis(a, 2, 1)
    return channels_first.reshape(*channels_first.shape[:2], -1)


def best_shift(m_0: Array) -> int:
    """Return about m - D / root(c (c - 1)), the v for which Lemma 1's bound is least.

    c is the number of channels, m the mean of the diagonal of M_0, and D the Frobenius
    norm of M_0 - m I. The lemma holds for any v, so the roundings of this one do not
    matter.
    """
    values = m_0.astype(np.float64)
    c = len(values)
    m = float(values.trace()) / c
    deviation = values - m * np.eye(c)
    d = float(np.linalg.norm(deviation))
    pairs = max(c * (c - 1), 1)
    return round(m - d / math.sqrt(pairs))


# -- Lemma 2 ---------------------------------------------------------------------------
def by_phases(kernel: Array, layer: Layer) -> Array:
    """Return the kernels of stride 1 whose channels are the phases of the input."""
    for index, axis in enumerate(layer.axes):
        common = math.gcd(axis.stride, axis.dilation)
        step = axis.stride // common  # s' of step 1
        phases = min(step, axis.taps)  # no tap reads a phase beyond the last tap
        kernel = split_axis(kernel, 2 + index, phases)
    return kernel.reshape(layer.groups, -1, *kernel.shape[1:])


def split_axis(kernel: Array, axis: int, phases: int) -> Array:
    """Return the kernel that reads the phases of an axis as channels (step 3).

    Tap phases * a + b of a channel becomes tap a of the channel (channel, b).
    """
    taps = kernel.shape[axis]
    fewer = -(-taps // phases)  # rounded up
    widths = [(0, 0)] * kernel.ndim
    widths[axis] = (0, fewer * phases - taps)
    padded = np.pad(kernel, widths)
    before = padded.shape[:axis]
    after = padded.shape[axis + 1 :]
    split = padded.reshape(*before, fewer, phases, *after)
    phases_third = np.moveaxis(split, axis + 1, 2)
    outputs, channels, _, *rest = phases_third.shape
    return phases_third.reshape(outputs, channels * phases, *rest)


# -- Lemma 3 ---------------------------------------------------------------------------
def padding_factor(layer: Layer) -> Fraction:
    """Return a bound of the norm of P, which pads the input (Lemma 3, steps 1 to 3).

    |P u|^2 counts each pixel as often as it is copied, so that the norm is the root of
    the largest number of copies of a pixel.
    """
    copies = 1
    if layer.sizes is None:
        copies = math.prod(copies_of_a_pixel(x, layer.padding_mode) for x in layer.axes)
    return root_up(Fraction(copies)) if copies > 1 else Fraction(1)


def copies_of_a_pixel(axis: Axis, mode: str) -> int:
    """Return the largest number of copies of a pixel on an axis.

    If padding is circular, outputs are counted in place of pixels: padding beyond the
    kernel's reach only repeats outputs (step 3).
    """
    if mode in ("reflect", "symmetric"):
        before = min(axis.padding_before, 1)
        after = min(axis.padding_after, 1)
        return 1 + before + after
    if mode == "replicate":
        return 1 + axis.padding_before + axis.padding_after
    if mode == "circular":
        more_pixels = axis.padding_before + axis.padding_after - axis.reach
        more_outputs = -(-more_pixels // axis.stride)  # rounded up
        return 1 + max(more_outputs, 0)
    return 1


def matrix_at_size(kernel: Array, layer: Layer, sizes: tuple[int, ...]) -> Array:
    """Return the layer's matrix for each group (step 4)."""
    outputs, inputs, *taps = kernel.shape
    pairs = [*zip(layer.axes, sizes, strict=True)]
    sizes_out = [axis.outputs(size) for axis, size in pairs]
    rows = outputs * math.prod(sizes_out)
    columns = inputs * math.prod(sizes)
    smallest = min([1, *sizes, *sizes_out])
    require(smallest > 0, "at its size it has no input or no output")
    require(rows * columns < LARGEST_MATRIX, "at its size it is too large a matrix")

    by_taps = kernel.reshape(outputs, inputs, -1)
    matrix = np.zeros((rows, columns))
    all_taps = itertools.product(*map(range, taps))
    for tap_number, tap in enumerate(all_taps):
        reads: Array = np.ones((1, 1))
        for (axis, size), t in zip(pairs, tap, strict=True):
            reads = np.kron(reads, pixels_read(axis, size, t, layer.padding_mode))
        matrix += np.kron(by_taps[:, :, tap_number], reads)
    return matrix.reshape(layer.groups, -1, columns)


def pixels_read(axis: Axis, size: int, tap: int, mode: str) -> Array:
    """Return R(t) of Lemma 3: a 1 where an output (row) reads a pixel (column)."""
    before, after = axis.padding_before, axis.padding_after
    most = {"reflect": size - 1, "symmetric": size}.get(mode, before + after)
    require(max(before, after) <= most, "its padding reflects too many pixels")
    numbers = np.arange(1, size + 1)
    padded = np.pad(numbers, (before, after), PADDING[mode])  # type: ignore[call-overload]
    read = padded[axis.dilation * tap :: axis.stride][: axis.outputs(size)]
    return np.asarray(read[:, np.newaxis] == numbers)
