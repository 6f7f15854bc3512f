"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import ClassVar

import numpy as np

from specnorm.networks import axes
from specnorm.networks.axes import Row, Window
from specnorm.networks.operators.base import (
    Apply,
    FloatArray,
    Linear,
    LinearMap,
    NoBoundError,
    NotRunError,
    Operator,
    Place,
    in_parts,
    smallest,
)
from specnorm.networks.regions import Range
from specnorm.networks.shapes import Shape
from specnorm.proof import host

UNKNOWN = "its sizes are not known: give the input shape"


@dataclass(frozen=True)
class Windows:
    """Windows over the last axes of a value.

    Parameters
    ----------
    kernel, stride, dilation : tuple of int
    padding : tuple of (int, int) or None
        None: "same" at sizes that are not known.
    ceil : bool
        Whether the last window may leave the padded input; none starts behind the input.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[tuple[int, int], ...] | None
    ceil: bool = False

    def along(self, place: Place, *, count_padding: bool = True) -> list[Window]:
        """The windows along each axis, with the sizes that are known.

        Raises
        ------
        NoBoundError
            If the value's sizes are not those that the windows give.
        """
        ndim, found = len(self.kernel), []
        ends = [_tail(shape, ndim) for shape in (place.before[0], place.after)]
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

    def at(self, place: Place, *, count_padding: bool = True) -> tuple[list[Window], tuple[int, ...]] | None:
        """The windows along each axis at known sizes, and the value's shape; None where they are not known."""
        befores = place.sizes()
        if befores is None or self.padding is None or len(befores[0]) < len(self.kernel):
            return None
        found = self.along(Place(place.before), count_padding=count_padding)
        shape = (*befores[0][: -len(found)], *(window.outputs or 0 for window in found))
        return (found, shape) if place.fits(shape) else None


def _tail(shape: Shape | None, ndim: int) -> list[int | None]:
    """Sizes of the last axes; None where they are not known."""
    if shape is None or len(shape) < ndim:
        return [None] * ndim
    return [n if isinstance(n, int) else None for n in shape[len(shape) - ndim :]]


def _pairs(place: Place, outputs: tuple[int, ...]) -> list[tuple[int, int]]:
    """Sizes before and after of the last axes.

    Raises
    ------
    NoBoundError
        If one is not known.
    """
    sizes = _tail(place.before[0], len(outputs))
    known = [n for n in sizes if n is not None]
    if len(known) < len(sizes):
        raise NoBoundError(UNKNOWN)
    return list(zip(known, outputs, strict=True))


def sums_along(place: Place, rows: Sequence[Sequence[Row] | None]) -> LinearMap | None:
    """The map of weighted sums along each of the last axes; None: an axis that stays as it is."""
    befores = place.sizes()
    if befores is None or len(befores[0]) < len(rows):
        return None
    (before,), first = befores, len(befores[0]) - len(rows)
    shape = before[:first] + tuple(n if r is None else len(r) for n, r in zip(before[first:], rows, strict=True))
    if not place.fits(shape) or any(row and not n for row, n in zip(rows, before[first:], strict=True)):
        return None

    def all_axes(x: FloatArray) -> FloatArray:
        for at, each in enumerate(rows):
            x = x if each is None else axes.weighted(x, first + at + 1, each)
        return x

    widths = [max([len(row) for row in each], default=0) for each in rows if each is not None]
    entries = math.prod(map(max, before, shape)) * max(widths, default=1)
    apply: Apply = lambda x: in_parts(all_axes, x[0], entries)  # noqa: E731
    # All weights have one sign.
    return LinearMap(apply, lambda x: abs(apply(x)), sum(width + 4 for width in widths))


@dataclass(frozen=True, eq=False)
class _Maximum(Operator):
    """The largest entry of each window: moves by at most the norm of its window's change.

    Each pixel is counted as often as it is in windows, a product over the axes. Attained by a pixel that is the maximum
    of all its windows.
    """

    rule: ClassVar[str] = "max_pool"
    keeps_channels: ClassVar[bool] = True

    def _reads(self, place: Place) -> list[list[list[int]]] | None:
        """Pixels of each window along each of the last axes; None where they are not known."""
        raise NotImplementedError

    def run(self, *values: FloatArray) -> FloatArray:
        """Axis by axis."""
        return self._largest(values[0], Place.of(*values))

    def _largest(self, x: FloatArray, place: Place) -> FloatArray:
        reads = self._reads(place)
        if reads is None or not all(window for each in reads for window in each):
            raise NotRunError(f"no windows, or windows of padding alone, in a value of shape {x.shape}")
        for at, windows in enumerate(reads):
            x = axes.largest(x, x.ndim - len(reads) + at, windows)
        return x

    def image(self, ranges: Sequence[Range], place: Place) -> Range | None:
        """The same of both ends."""
        (x,) = ranges
        try:
            return Range(self._largest(x.low, place), self._largest(x.high, place))
        except NotRunError:
            return None


@dataclass(frozen=True, eq=False)
class MaxPool(_Maximum):
    """The largest entry of each window; what pads is smaller than anything."""

    windows: Windows

    def lipschitz(self, place: Place) -> float:
        """The root of a product over the axes: ceil(k / s'), s' = s / gcd(s, dilation), or the number of windows."""
        return host.root_up(math.prod(map(axes.overlap, self.windows.along(place))))

    def _reads(self, place: Place) -> list[list[list[int]]] | None:
        found = self.windows.at(place)
        return None if found is None else [window.pixels() for window in found[0]]


@dataclass(frozen=True, eq=False)
class AdaptiveMaxPool(_Maximum):
    """Torch's adaptive pooling to sizes of the last axes."""

    outputs: tuple[int, ...]

    def lipschitz(self, place: Place) -> float:
        """The root of the largest number of windows that a pixel is in."""
        return host.root_up(math.prod(axes.adaptive_overlap(n, m) for n, m in _pairs(place, self.outputs)))

    def _reads(self, place: Place) -> list[list[list[int]]] | None:
        try:
            pairs = _pairs(place, self.outputs)
        except NoBoundError:
            return None
        return [[list(window) for window in axes.adaptive_windows(n, m)] for n, m in pairs]


@dataclass(frozen=True, eq=False)
class AveragePool(Linear):
    """The mean of each window.

    A Kronecker product: the norm of one matrix of weights an axis, multiplied; 1/sqrt(k) an axis for windows that do
    not overlap. At unknown sizes sqrt(sum c_r^2) / k, c_r the number of taps in residue class r modulo the stride.

    Parameters
    ----------
    count_padding : bool
        Whether padding counts.
    divisor : int or None
        Divide by this in place of the count.
    """

    rule: ClassVar[str] = "average_pool"
    keeps_channels: ClassVar[bool] = True
    windows: Windows
    count_padding: bool = True
    divisor: int | None = None

    def lipschitz(self, place: Place) -> float:
        """The norms of the axes' matrices, multiplied."""
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

    def linear_map(self, place: Place) -> LinearMap | None:
        """Weighted sums axis by axis."""
        found = self.windows.at(place, count_padding=self.count_padding)
        if found is None or self.divisor == 0:
            return None
        if self.divisor is None:
            return sums_along(place, [axes.average_rows(window) for window in found[0]])
        rows = [_ones(window) for window in found[0]]
        # The divisor along the first axis.
        rows[0] = [tuple((p, weight / self.divisor) for p, weight in row) for row in rows[0]]
        return sums_along(place, rows)


def _ones(window: Window) -> list[Row]:
    return [tuple((p, Fraction(1)) for p in pixels) for pixels in window.pixels()]


@dataclass(frozen=True, eq=False)
class AdaptiveAveragePool(Linear):
    """Torch's adaptive pooling to sizes of the last axes."""

    rule: ClassVar[str] = "average_pool"
    keeps_channels: ClassVar[bool] = True
    outputs: tuple[int, ...]

    def lipschitz(self, place: Place) -> float:
        """The norms of the axes' matrices, multiplied."""
        pairs = _pairs(place, self.outputs)
        return host.mul_up(*(axes.weights_norm_up(axes.adaptive_rows(n, m)) for n, m in pairs))

    def linear_map(self, place: Place) -> LinearMap | None:
        """Weighted sums axis by axis."""
        try:
            return sums_along(place, [axes.adaptive_rows(n, m) for n, m in _pairs(place, self.outputs)])
        except NoBoundError:
            return None


@dataclass(frozen=True, eq=False)
class L2Pool(Operator):
    """The root of ``times`` a mean of squares over each window; padding counts as zeros.

    A window's value is sqrt(times / k) times the norm of its k entries, which moves by at most the norm of their
    change; each pixel is counted o times, as for max-pooling. 1 for windows that do not overlap, and times = k.
    Attained by constants.
    """

    rule: ClassVar[str] = "l2_pool"
    keeps_channels: ClassVar[bool] = True
    windows: Windows
    times: float

    def run(self, *values: FloatArray) -> FloatArray:
        """Sums of squares, axis by axis."""
        place = Place.of(*values)
        found = self.windows.at(place)
        sums = None if found is None else sums_along(place, [_ones(window) for window in found[0]])
        if sums is None:
            raise NotRunError(f"no windows in a value of shape {values[0].shape}")
        total = sums.apply([np.square(values[0])[None]])[0]
        return np.asarray(np.sqrt(total * (self.times / math.prod(self.windows.kernel))))

    def lipschitz(self, place: Place) -> float:
        """sqrt(times o / k)."""
        counted = math.prod(map(axes.overlap, self.windows.along(place)))
        return host.root_up(Fraction(self.times) * counted / math.prod(self.windows.kernel))

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """Terms are not negative, so that errors are relative; what underflows when squared may be lost."""
        del values
        lost = math.sqrt(self.times * smallest(unit) / unit)
        return 2 * (math.prod(self.windows.kernel) + 8) * unit * result + lost
