"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import host
from specnorm_networks.certified import axes
from specnorm_networks.certified.axes import Row, Window
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Linear,
    LinearMap,
    NoBoundError,
    NotRunError,
    Operator,
    Place,
    Program,
    Sizes,
)
from specnorm_networks.certified.operators.broadcasting import in_parts, last_sizes
from specnorm_networks.certified.operators.joins import Maximum, Minimum
from specnorm_networks.certified.operators.moves import Gather


@dataclass(frozen=True)
class Windows:
    """Windows over the last axes of a value."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    ceil: bool = False
    """Whether the last window may leave the padded input; none starts behind the input."""

    def along(self, place: Place, *, count_padding: bool = True) -> list[Window]:
        """The windows along each axis, with the sizes that are known.

        Raises
        ------
        NoBoundError
            If the value's sizes are not those that the windows give.
        """
        ndim = len(self.kernel)
        found = []
        ends = [last_sizes(shape, ndim) for shape in (place.before[0], place.after)]
        for k, s, r, pads, n, m in zip(self.kernel, self.stride, self.dilation, self.padding, *ends, strict=True):
            window = Window(k, s, r, pads[0], pads[1], n, m, self.ceil, count_padding)
            if n is not None:
                window = replace(window, outputs=window.count(n))
                if m not in (None, window.outputs):
                    raise NoBoundError(f"its windows give {window.outputs} outputs along an axis, not {m}")
            found.append(window)
        return found

    def at(self, before: Sizes, *, count_padding: bool = True) -> list[Window] | None:
        """The windows along each axis at known sizes; None where there is no axis."""
        fits = len(before) >= len(self.kernel)
        return self.along(Place((before,)), count_padding=count_padding) if fits else None


def sums_along(before: Sizes, rows: Sequence[Sequence[Row] | None] | None) -> LinearMap | None:
    """The map of weighted sums along each of the last axes; None for an axis: it stays as it is."""
    if rows is None or len(before) < len(rows):
        return None
    first = len(before) - len(rows)
    shape = before[:first] + tuple(n if r is None else len(r) for n, r in zip(before[first:], rows, strict=True))
    if any(row and not n for row, n in zip(rows, before[first:], strict=True)):
        return None

    largest = math.prod(map(max, before, shape))

    def sums(each: Sequence[Sequence[Row] | None]) -> tuple[Callable[[FloatArray], FloatArray], int]:
        """Along every axis; and their roundings."""
        widths = [max(map(len, some), default=0) for some in each if some is not None]

        def all_axes(x: FloatArray) -> FloatArray:
            for axis, some in enumerate(each, first + 1):
                x = x if some is None else axes.weighted(x, axis, some)
            return x

        return (lambda x: in_parts(all_axes, x, largest * max(widths, default=1))), sum(n + 4 for n in widths)

    apply, roundings = sums(rows)
    columns = [None if r is None else axes.transposed_rows(r, n) for r, n in zip(rows, before[first:], strict=True)]
    back, backward = sums(columns)
    # All weights have one sign.
    return LinearMap(
        lambda x: apply(x[0]), lambda x: abs(apply(x[0])), roundings, shape=shape,
        adjoint=lambda y: [back(y)], backward=backward,
    )  # fmt: skip


class Along(Operator):
    """The largest of some entries along an axis, window by window: as max pooling, or the smallest."""

    rule = "max_pool"
    rises = True
    axis: int
    windows: NDArray[np.intp]
    """Entries of each window, shape (windows, entries); an entry may be repeated."""
    smallest: bool = False

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        join = np.min if self.smallest else np.max
        return np.asarray(join(np.take(x, self.windows, axis=self.axis), axis=self.axis + 1))

    def lipschitz(self, place: Place) -> float:
        """The root of the largest number of windows that an entry is in."""
        each = [np.unique(window) for window in self.windows]
        return host.root_up(int(np.unique(np.concatenate(each), return_counts=True)[1].max(initial=1)))

    def written_out(self, before: Sequence[Sizes]) -> Program:
        taps = [(Gather(self.axis, tap), (0,)) for tap in self.windows.T]
        return [*taps, ((Minimum if self.smallest else Maximum)(), tuple(range(1, len(taps) + 1)))]


class MaxPool(Operator):
    """The largest entry of each window, padding left out: moves by at most the norm of its window's change.

    Each pixel is counted as often as it is in windows, a product over the axes. Attained by a pixel that is the maximum
    of all its windows.
    """

    rule = "max_pool"
    keeps_channels = True
    rises = True
    windows: Windows

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset(range(len(place.after or ()) - len(self.windows.kernel)))

    def lipschitz(self, place: Place) -> float:
        """The root of a product over the axes: ceil(k / s'), s' = s / gcd(s, dilation), or the number of windows."""
        return host.root_up(math.prod(map(axes.overlap, self.windows.along(place))))

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        steps = self.written_out([x.shape])
        if steps is None:
            raise NotRunError(f"no windows, or windows of padding alone, in a value of shape {x.shape}")
        for step, _ in steps:
            x = step.run(x)
        return x

    def written_out(self, before: Sequence[Sizes]) -> Program | None:
        """One axis after the other; None where windows are not known, or one holds no pixel."""
        (shape,) = before
        pixels = [window.pixels() for window in self.windows.at(shape) or ()]
        if not pixels or not all(window for each in pixels for window in each):
            return None
        first = len(shape) - len(pixels)
        return [(Along(first + at, axes.table(windows)), (at,)) for at, windows in enumerate(pixels)]


class AveragePool(Linear):
    """The mean of each window.

    A Kronecker product: the norm of one matrix of weights an axis, multiplied; 1/sqrt(k) an axis for windows that do
    not overlap. At unknown sizes sqrt(sum c_r^2) / k, c_r the number of taps in residue class r modulo the stride.
    """

    rule = "average_pool"
    keeps_channels = True
    windows: Windows
    count_padding: bool = True
    """Whether padding counts."""

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset(range(len(place.after or ()) - len(self.windows.kernel)))

    def lipschitz(self, place: Place) -> float:
        windows = self.windows.along(place, count_padding=self.count_padding)
        norms = [axes.average_norm_up(window) for window in windows]
        known = [norm for norm in norms if norm is not None]
        if len(known) < len(norms):
            raise NoBoundError("its windows at the border depend on the input's size: give the input shape")
        return host.mul_up(*known)

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        found = self.windows.at(before, count_padding=self.count_padding)
        return None if found is None else sums_along(before, [axes.average_rows(window) for window in found])
