"""Resizing by interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from specnorm.proof import Interval, enclosing, host
from specnorm_networks.certified import axes
from specnorm_networks.certified.axes import Row
from specnorm_networks.certified.operators.base import FloatArray, Linear, LinearMap, NoBoundError, Place, Sizes
from specnorm_networks.certified.operators.windows import UNKNOWN, sums_along
from specnorm_networks.certified.shapes import Size

_MODES = ("nearest", "linear")
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


def _known(size: Size) -> int | None:
    return size if isinstance(size, int) else None


class Resize(Linear):
    """Nearest interpolation by whole factors, or linear interpolation: the norm of one matrix an axis, multiplied.

    Nearest xf: sqrt(f), or sqrt(f + 1) where rounding may move a pixel; linear: at most that, but for
    align_corners=True.
    """

    rule = "resize"
    keeps_channels = True
    mode: str
    sizes: tuple[int, ...] | None
    """Of the value, all axes; None: floor(size * scale)."""
    scales: tuple[Fraction, ...]
    """Outputs per input pixel, all axes, as the framework uses them for coordinates."""
    coordinates: str
    nearest: str = "floor"
    """Or "ceil", "round_prefer_floor", "round_prefer_ceil"."""
    single: bool = True
    """Whether coordinates may be computed in single precision: what rounding can move counts where it can go."""

    def run(self, *values: FloatArray) -> FloatArray:
        return Linear.run(replace(self, single=False), *values)

    def alike(self, place: Place) -> frozenset[int]:
        sizes = place.before[0] or ()
        return frozenset(a for a, n in enumerate(sizes) if len(sizes) == len(self.scales) and self._idle(a, _known(n)))

    @property
    def uncertain(self) -> bool:
        """Whether rounded coordinates may give other weights than `linear_map` has."""
        return self.single and self.mode != "nearest"

    def shortened(self, axes: frozenset[int]) -> Resize:
        if self.sizes is None:
            return self
        return replace(self, sizes=tuple(1 if axis in axes else n for axis, n in enumerate(self.sizes)))

    def lipschitz(self, place: Place) -> float:
        # The largest norm of those that rounded coordinates can make.
        (before,) = place.before
        if before is None or len(before) != len(self.scales):
            raise NoBoundError(UNKNOWN)
        return host.mul_up(*(self._norm_up(axis, _known(n)) for axis, n in enumerate(before)))

    def _norm_up(self, axis: int, size: int | None) -> float:
        scale = self.scales[axis]
        if self._idle(axis, size):
            return 1.0
        if size is None:
            raise NoBoundError(UNKNOWN)
        each = (scale, self.coordinates, self.nearest)
        norm = axes.resize_norm_up(self.mode, size, self._outputs(axis, size), *each, single=self.single)
        if norm is None:
            raise NoBoundError(f"resizing by {self.mode} with {self.coordinates} coordinates has no rule")
        return norm

    def _idle(self, axis: int, size: int | None) -> bool:
        """Whether an axis stays as it is."""
        same = self.sizes is None or size is None or self.sizes[axis] == size
        return same and self.scales[axis] == 1 and self.mode in _MODES and self.coordinates in _COORDINATES

    def _outputs(self, axis: int, size: int) -> int:
        return math.floor(size * self.scales[axis]) if self.sizes is None else self.sizes[axis]

    def _choices(self, axis: int, size: int) -> list[Sequence[Row]] | None:
        """The rows of an axis, first as they are with exact coordinates; None: it is not known, or too long."""
        told = size, self._outputs(axis, size), self.scales[axis], self.coordinates
        if max(told[:2]) > axes.LONGEST:
            return None
        if self.mode == "linear":
            rows = axes.linear_rows(*told)
            return None if rows is None else [rows]
        found = axes.nearest_pixels(*told, self.nearest, single=self.single) if self.mode == "nearest" else None
        if found is None:
            return None
        exact, other = ([((int(p), Fraction(1)),) for p in pixels] for pixels in found)
        return [exact] if exact == other else [exact, other]

    def _axes(self, before: Sizes) -> list[list[Sequence[Row]] | None] | None:
        """The choices of each axis (None: stays as it is); None where one is not known."""
        if len(before) != len(self.scales):
            return None
        idle = [self._idle(axis, n) for axis, n in enumerate(before)]
        found = [None if idle[axis] else self._choices(axis, n) for axis, n in enumerate(before)]
        return None if any(each is None and not same for each, same in zip(found, idle, strict=True)) else found

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        # With exact coordinates; none where rounding them gives other pixels.
        found = self._axes(before)
        if found is None or any(each is not None and len(each) > 1 for each in found):
            return None
        return sums_along(before, [None if each is None else each[0] for each in found])

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        # Between the smallest and the largest pixel that rounding coordinates can give.
        (x,) = ranges
        found = self._axes(x.low.shape)
        if found is None or all(each is None or len(each) == 1 for each in found):
            return None
        return enclosing((self._extreme(x.low, found, np.minimum), self._extreme(x.high, found, np.maximum)))

    def _extreme(self, x: FloatArray, found: Sequence[list[Sequence[Row]] | None], join: np.ufunc) -> FloatArray:
        for axis, each in enumerate(found):
            if each is not None:
                x = join.reduce([np.take(x, [row[0][0] for row in rows], axis=axis) for rows in each])
        return x

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # Nearest: the pixels that rounding coordinates can give, apart. Linear: coordinates off by so much.
        (x,) = values
        found = self._axes(x.shape)
        if found is None:
            return 0.0
        if self.mode == "nearest":
            return abs(self._extreme(x, found, np.maximum) - self._extreme(x, found, np.minimum))
        precision = max(unit, 2.0**-24) if self.single else unit
        moving = [axis for axis, each in enumerate(found) if each is not None]
        told = ((x.shape[axis], self._outputs(axis, x.shape[axis]), self.scales[axis]) for axis in moving)
        far = sum(axes.away(*each, self.coordinates, precision) + precision for each in told)
        # A hat that moves by d changes a row by 2 d in sum, and each weight is rounded.
        return super().rounding(values, result, unit) + 2 * far * float(np.max(abs(x), initial=0.0))
