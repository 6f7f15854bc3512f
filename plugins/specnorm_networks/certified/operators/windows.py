"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import host
from specnorm_networks.certified import axes
from specnorm_networks.certified.axes import Row, Window
from specnorm_networks.certified.operators.base import (
    Apply,
    FloatArray,
    Linear,
    LinearMap,
    NoBoundError,
    NotRunError,
    Operator,
    Place,
    Program,
    Sizes,
    refuse_narrow,
)
from specnorm_networks.certified.operators.broadcasting import in_parts, last_sizes
from specnorm_networks.certified.operators.executed import Executed, Format, means, smallest
from specnorm_networks.certified.operators.joins import Maximum, Minimum
from specnorm_networks.certified.operators.moves import Gather
from specnorm_networks.certified.shapes import Shape

UNKNOWN = "its sizes are not known: give the input shape"


@dataclass(frozen=True)
class Windows:
    """Windows over the last axes of a value."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...] | None
    """None: "same" at sizes that are not known."""
    ceil: bool = False
    """Whether the last window may leave the padded input; none starts behind the input."""

    def along(self, place: Place, *, count_padding: bool = True) -> list[Window]:
        """The windows along each axis, with the sizes that are known.

        Raises
        ------
        NoBoundError
            If the value's sizes are not those that the windows give.
        """
        ndim, found = len(self.kernel), []
        ends = [last_sizes(shape, ndim) for shape in (place.before[0], place.after)]
        for k, s, r, pads, n, m in zip(
            self.kernel, self.stride, self.dilation, self.padding or ((0, 0),) * ndim, *ends, strict=True
        ):
            window = Window(k, s, r, pads[0], pads[1], n, m, self.ceil, count_padding)
            if n is not None and self.padding is not None:
                window = replace(window, outputs=window.count(n))
                if m not in (None, window.outputs):
                    raise NoBoundError(f"its windows give {window.outputs} outputs along an axis, not {m}")
            found.append(window)
        return found

    def at(self, before: Sizes, *, count_padding: bool = True) -> list[Window] | None:
        """The windows along each axis at known sizes; None where the padding depends on them, or there is no axis."""
        if self.padding is None or len(before) < len(self.kernel):
            return None
        return self.along(Place((before,)), count_padding=count_padding)


def _pairs(before: Shape | None, outputs: tuple[int, ...]) -> list[tuple[int, int]]:
    """Sizes before and after of the last axes, all of them known."""
    sizes = last_sizes(before, len(outputs))
    known = [n for n in sizes if n is not None]
    if len(known) < len(sizes):
        raise NoBoundError(UNKNOWN)
    return list(zip(known, outputs, strict=True))


def sums_along(before: Sizes, rows: Sequence[Sequence[Row] | None] | None) -> LinearMap | None:
    """The map of weighted sums along each of the last axes; None for an axis: it stays as it is."""
    if rows is None or len(before) < len(rows):
        return None
    first = len(before) - len(rows)
    shape = before[:first] + tuple(n if r is None else len(r) for n, r in zip(before[first:], rows, strict=True))
    if any(row and not n for row, n in zip(rows, before[first:], strict=True)):
        return None

    def all_axes(x: FloatArray) -> FloatArray:
        for at, each in enumerate(rows):
            x = x if each is None else axes.weighted(x, first + at + 1, each)
        return x

    widths = [max([len(row) for row in each], default=0) for each in rows if each is not None]
    entries = math.prod(map(max, before, shape)) * max(widths, default=1)
    apply: Apply = lambda x: in_parts(all_axes, x[0], entries)  # noqa: E731
    columns = [None if r is None else axes.transposed_rows(r, n) for r, n in zip(rows, before[first:], strict=True)]
    deepest = [max([len(row) for row in each], default=0) for each in columns if each is not None]

    def back(y: FloatArray) -> FloatArray:
        for at, each in reversed(list(enumerate(columns))):
            y = y if each is None else axes.weighted(y, first + at + 1, each)
        return y

    # All weights have one sign.
    return LinearMap(
        apply, lambda x: abs(apply(x)), sum(width + 4 for width in widths), shape=shape,
        adjoint=lambda y: [in_parts(back, y, math.prod(map(max, before, shape)) * max(deepest, default=1))],
        backward=sum(width + 4 for width in deepest),
    )  # fmt: skip


class _Maximum(Operator):
    """The largest entry of each window: moves by at most the norm of its window's change.

    Each pixel is counted as often as it is in windows, a product over the axes. Attained by a pixel that is the maximum
    of all its windows.
    """

    rule = "max_pool"
    keeps_channels = True
    rises = True
    rounds_nothing = True

    def _reads(self, before: Sizes) -> list[list[list[int]]] | None:
        """Pixels of each window along each of the last axes; None where they are not known."""
        raise NotImplementedError

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        reads = self._reads(x.shape)
        if reads is None or not all(window for each in reads for window in each):
            raise NotRunError(f"no windows, or windows of padding alone, in a value of shape {x.shape}")
        for at, windows in enumerate(reads):
            x = axes.largest(x, x.ndim - len(reads) + at, windows)
        return x

    def written_out(self, before: Sequence[Sizes]) -> Program | None:
        """One axis after the other."""
        (shape,) = before
        reads = self._reads(shape)
        if reads is None or not all(window for each in reads for window in each):
            return None
        first = len(shape) - len(reads)
        return [(Along(first + at, axes.table(windows)), (at,)) for at, windows in enumerate(reads)]


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


class MaxPool(_Maximum):
    """The largest entry of each window; what pads is smaller than anything."""

    windows: Windows

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset(range(len(place.after or ()) - len(self.windows.kernel)))

    def lipschitz(self, place: Place) -> float:
        """The root of a product over the axes: ceil(k / s'), s' = s / gcd(s, dilation), or the number of windows."""
        return host.root_up(math.prod(map(axes.overlap, self.windows.along(place))))

    def _reads(self, before: Sizes) -> list[list[list[int]]] | None:
        found = self.windows.at(before)
        return None if found is None else [window.pixels() for window in found]


class AdaptiveMaxPool(_Maximum):
    """Torch's adaptive pooling to sizes of the last axes."""

    outputs: tuple[int, ...]

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset(range(len(place.after or ()) - len(self.outputs)))

    def lipschitz(self, place: Place) -> float:
        """The root of the largest number of windows that a pixel is in."""
        return host.root_up(math.prod(axes.adaptive_overlap(n, m) for n, m in _pairs(place.before[0], self.outputs)))

    def _reads(self, before: Sizes) -> list[list[list[int]]] | None:
        if len(before) < len(self.outputs):
            return None
        pairs = _pairs(before, self.outputs)
        return [[list(window) for window in axes.adaptive_windows(n, m)] for n, m in pairs]


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
    divisor: int | None = None
    """What is divided by, in place of the count."""

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset(range(len(place.after or ()) - len(self.windows.kernel)))

    def lipschitz(self, place: Place) -> float:
        if self.windows.padding is None:
            raise NoBoundError("its padding depends on the input's size: give the input shape")
        windows = self.windows.along(place, count_padding=self.count_padding or self.divisor is not None)
        norms = [axes.average_norm_up(window) for window in windows]
        known = [norm for norm in norms if norm is not None]
        if len(known) < len(norms):
            raise NoBoundError("its windows at the border depend on the input's size: give the input shape")
        if self.divisor is not None:
            # Sums instead of averages: windows without ceil all have the same weight.
            if self.windows.ceil or not self.divisor:
                raise NoBoundError("divisor_override with ceil_mode")
            known.append(host.div_up(math.prod(self.windows.kernel), abs(self.divisor)))
        return host.mul_up(*known)

    def executed(self, place: Place, format: Format) -> Executed:
        if self.divisor is not None:
            raise NoBoundError("what a divisor of its own rounds is not known")
        return means(math.prod(self.windows.kernel))

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        found = self.windows.at(before, count_padding=self.count_padding)
        if found is None or self.divisor == 0:
            return None
        if self.divisor is None:
            return sums_along(before, [axes.average_rows(window) for window in found])
        first, *rest = map(_ones, found)
        # The divisor along the first axis.
        divided = [tuple((p, weight / self.divisor) for p, weight in row) for row in first]
        return sums_along(before, [divided, *rest])


def _ones(window: Window) -> list[Row]:
    return [tuple((p, Fraction(1)) for p in pixels) for pixels in window.pixels()]


class AdaptiveAveragePool(Linear):
    """Torch's adaptive pooling to sizes of the last axes."""

    rule = "average_pool"
    keeps_channels = True
    outputs: tuple[int, ...]

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset(range(len(place.after or ()) - len(self.outputs)))

    def lipschitz(self, place: Place) -> float:
        pairs = _pairs(place.before[0], self.outputs)
        return host.mul_up(*(axes.weights_norm_up(axes.adaptive_rows(n, m)) for n, m in pairs))

    def executed(self, place: Place, format: Format) -> Executed:
        refuse_narrow("adaptive pooling", format)
        pairs = _pairs(place.before[0], self.outputs)
        return means(math.prod(max(map(len, axes.adaptive_windows(n, m)), default=0) for n, m in pairs))

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        if len(before) < len(self.outputs):
            return None
        return sums_along(before, [axes.adaptive_rows(n, m) for n, m in _pairs(before, self.outputs)])


class L2Pool(Operator):
    """The root of ``times`` a mean of squares over each window; padding counts as zeros.

    A window's value is sqrt(times / k) times the norm of its k entries, which moves by at most the norm of their
    change; each pixel is counted o times, as for max-pooling. 1 for windows that do not overlap, and times = k.
    Attained by constants.
    """

    rule = "l2_pool"
    keeps_channels = True
    windows: Windows
    times: float

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset(range(len(place.after or ()) - len(self.windows.kernel)))

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        found = self.windows.at(x.shape)
        sums = None if found is None else sums_along(x.shape, [_ones(window) for window in found])
        if sums is None:
            raise NotRunError(f"no windows in a value of shape {x.shape}")
        total = sums.apply([np.square(x)[None]])[0]
        return np.asarray(np.sqrt(total * (self.times / math.prod(self.windows.kernel))))

    def lipschitz(self, place: Place) -> float:
        counted = math.prod(map(axes.overlap, self.windows.along(place)))
        return host.root_up(Fraction(self.times) * counted / math.prod(self.windows.kernel))

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # Terms are not negative, so that errors are relative; what underflows when squared may be lost.
        lost = math.sqrt(self.times * smallest(unit) / unit)
        return 2 * (math.prod(self.windows.kernel) + 8) * unit * result + lost
