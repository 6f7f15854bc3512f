"""Pooling: the largest entry or the mean of windows over the last axes of a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import host
from specnorm_networks.certified import axes
from specnorm_networks.certified.axes import AxisPooling, Row
from specnorm_networks.certified.operators.base import (
    Affine,
    FloatArray,
    Known,
    LinearMap,
    NoBoundError,
    NotRunError,
    Place,
    Program,
    Shape,
    keeps_samples_and_channels,
)
from specnorm_networks.certified.operators.broadcasting import apply_in_parts
from specnorm_networks.certified.operators.joins import Maximum, Minimum
from specnorm_networks.certified.operators.moves import Gather


@dataclass(frozen=True)
class Windows:
    """Windows over the last axes of a value; all fields have one number, or one pair, for each of these axes."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    ceil: bool = False
    """Whether the last window may leave the padded input; none starts after the end of the input."""

    def other_axes(self, place: Place) -> frozenset[int]:
        """Return the axes before those of the windows."""
        return frozenset(range(len(place.axes) - len(self.kernel)))

    def at(self, before: Shape, *, count_padding: bool = True) -> dict[int, AxisPooling]:
        """Return the windows along each axis for an input of a shape; `NoBoundError` if it has too few axes.

        ``count_padding``: whether padding counts in an average.
        """
        first_axis = len(before) - len(self.kernel)
        if first_axis < 0:
            raise NoBoundError(f"windows over {len(self.kernel)} axes of a value of shape {before}")
        windows = {}
        fields = zip(self.kernel, self.stride, self.dilation, self.padding, strict=True)
        for axis, (k, s, r, pair) in enumerate(fields, first_axis):
            windows[axis] = AxisPooling(k, s, r, *pair, before[axis], self.ceil, count_padding)
        return windows


def _require_outputs(windows: Mapping[int, AxisPooling], place: Place) -> None:
    """Refuse a value whose last sizes are not those that windows give."""
    outputs = tuple(window.outputs for window in windows.values())
    if place.after is not None and place.after[len(place.after) - len(outputs) :] != outputs:
        raise NoBoundError(f"its windows give {outputs} outputs, not {place.after}")


RowsOfAxis: TypeAlias = Mapping[int, Sequence[Row]]
"""For some axes of a value: pixels and weights of each output. The other axes stay as they are."""


def weighted_sums_along(before: Shape, rows_of_axis: RowsOfAxis) -> LinearMap | None:
    """Return the map of weighted sums along some axes; None if it does not fit the input's sizes.

    All weights have to have the same sign, since |A| x is computed as |A x| for x >= 0.
    """
    if any(rows and not before[axis] for axis, rows in rows_of_axis.items()):
        return None
    sizes = list(before)
    roundings = 0
    for axis, rows in rows_of_axis.items():
        sizes[axis] = len(rows)
        roundings += max(map(len, rows), default=0) + 4
    shape = tuple(sizes)
    columns_of_axis = {axis: axes.transposed_rows(rows, before[axis]) for axis, rows in rows_of_axis.items()}
    largest_size = math.prod(map(max, before, shape))
    apply = _sums_over_axes(rows_of_axis, largest_size)
    apply_adjoint = _sums_over_axes(columns_of_axis, largest_size)
    return LinearMap(
        lambda x: apply(x[0]),
        absolute=lambda x: abs(apply(x[0])),
        roundings=roundings,
        shape=shape,
        adjoint=lambda y: [apply_adjoint(y)],
    )


def _sums_over_axes(rows_of_axis: RowsOfAxis, largest_size: int) -> Callable[[FloatArray], FloatArray]:
    """Return the function that takes the weighted sums of a batch (batch, *shape), one axis after the other.

    ``largest_size``: upper limit of the entries of one value of the batch, before the first axis, between two axes and
    after the last.
    """
    all_rows = chain.from_iterable(rows_of_axis.values())
    entries = largest_size * max(map(len, all_rows), default=1)

    def sum_over_axes(x: FloatArray) -> FloatArray:
        for axis, rows in rows_of_axis.items():
            x = axes.weighted_sums(x, axis + 1, rows)  # axis 0 counts the values of a batch
        return x

    return lambda x: apply_in_parts(sum_over_axes, x, entries)


class WindowMaximum(Known):
    """The largest entry of each window along one axis; ``takes_minimum``: the smallest one."""

    rule = "max_pool"
    is_monotone_and_exact = True
    axis: int
    windows: NDArray[np.intp]
    """Entries of each window, shape (windows, entries); an entry may be repeated."""
    takes_minimum: bool = False

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        join = np.min if self.takes_minimum else np.max
        entries = np.take(x, self.windows, axis=self.axis)
        return np.asarray(join(entries, axis=self.axis + 1))

    def lipschitz(self, place: Place) -> float:
        """Return the root of the largest number of windows that an entry is in."""
        entries_of_windows = np.concatenate([np.unique(window) for window in self.windows])
        _, counts = np.unique(entries_of_windows, return_counts=True)
        return host.root_up(int(counts.max(initial=1)))

    def written_out(self, before: Sequence[Shape]) -> Program:
        # Gather the first entries of all windows, the second ones, and so on. Their maximum is that of each window.
        program: Program = [(Gather(self.axis, entries), (0,)) for entries in self.windows.T]
        extreme = Minimum() if self.takes_minimum else Maximum()
        return [*program, (extreme, tuple(range(1, len(program) + 1)))]


class MaxPool(Known):
    """The largest entry of each window, without padding.

    The largest entry changes by at most the norm of its window's change. In the sum of squares each pixel counts as
    often as it is in windows, a product over the axes; a pixel that is the maximum of all its windows attains that.
    """

    rule = "max_pool"
    is_monotone_and_exact = True
    windows: Windows

    def keeps_channels(self, before: Shape, after: Shape) -> bool:
        return len(self.windows.kernel) <= len(before) - 2 and keeps_samples_and_channels(before, after)

    def lipschitz(self, place: Place) -> float:
        """Return the root of the largest number of windows that contain one pixel."""
        windows = self.windows.at(place.shape)
        _require_outputs(windows, place)
        return host.root_up(math.prod(map(axes.overlap, windows.values())))

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        try:
            steps = self.written_out([x.shape])
        except NoBoundError as error:
            raise NotRunError(str(error)) from error
        for step, _ in steps:
            x = step.run(x)
        return x

    def written_out(self, before: Sequence[Shape]) -> Program:
        """Return the maxima along one axis after the other; `NoBoundError` if a window contains no pixel."""
        (shape,) = before
        program: Program = []
        for axis, window in self.windows.at(shape).items():
            pixels = window.pixels()
            if not all(pixels):
                raise NoBoundError(f"windows of padding alone in a value of shape {shape}")
            program.append((WindowMaximum(axis, axes.table(pixels)), (len(program),)))
        return program


def average_norm_up(pooling: AxisPooling) -> float:
    """Return the norm of averaging along one axis, rounded up: that of the matrix with a row of weights an output.

    Where these are too many, and padding counts, it is at most ``sqrt(sum_r c_r^2) / k`` with ``c_r`` the number of
    taps in residue class r modulo the stride: all rows are translates of one another. The norm tends to that as the
    size grows.
    """
    has_few_pixels = max(pooling.size, pooling.outputs) <= axes.LONGEST
    has_few_weights = pooling.outputs * pooling.kernel <= axes.WEIGHTS
    if has_few_pixels and has_few_weights:
        return axes.weights_norm_up(axes.average_rows(pooling))
    # The formula supposes that all rows are translates of one another: no dilation, no windows cut off by ``ceil``, and
    # the same divisor at the border.
    has_equal_divisors = pooling.count_padding or pooling.before == pooling.after == 0
    are_translates = has_equal_divisors and pooling.dilation == 1 and not pooling.ceil
    if not are_translates or pooling.kernel > axes.LONGEST:
        raise NoBoundError(f"averages over {pooling.outputs} windows of {pooling.kernel} pixels: too many")
    first_taps = range(min(pooling.stride, pooling.kernel))
    taps_of_class = [len(range(first, pooling.kernel, pooling.stride)) for first in first_taps]
    return host.root_up(Fraction(sum(count * count for count in taps_of_class), pooling.kernel**2))


class AveragePool(Affine):
    """The mean of each window.

    The matrix is a Kronecker product of one matrix an axis, so that its norm is the product of their norms
    (`average_norm_up`); these are 1/sqrt(k) for windows of k entries that do not overlap.
    """

    rule = "average_pool"
    windows: Windows
    count_padding: bool = True
    """Whether padding counts in the mean."""

    def keeps_channels(self, before: Shape, after: Shape) -> bool:
        return len(self.windows.kernel) <= len(before) - 2 and keeps_samples_and_channels(before, after)

    def alike(self, place: Place) -> frozenset[int]:
        return self.windows.other_axes(place)

    def lipschitz(self, place: Place) -> float:
        windows = self.windows.at(place.shape, count_padding=self.count_padding)
        _require_outputs(windows, place)
        return host.mul_up(*map(average_norm_up, windows.values()))

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        windows = self.windows.at(before, count_padding=self.count_padding)
        return weighted_sums_along(before, {axis: axes.average_rows(window) for axis, window in windows.items()})
