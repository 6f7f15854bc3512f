"""Resizing by interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from specnorm.proof import host
from specnorm_networks.certified import axes
from specnorm_networks.certified.axes import Row
from specnorm_networks.certified.operators.base import FloatArray, Linear, LinearMap, NoBoundError, Place, Sizes
from specnorm_networks.certified.operators.windows import sums_along

UNKNOWN = "its sizes are not known: give the input shape"
_MODES = ("nearest", "linear")
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


class Resize(Linear):
    """Nearest interpolation by whole factors, or linear interpolation: the norm of one matrix an axis, multiplied.

    Nearest xf: sqrt(f); linear: at most that, but for align_corners=True. A library whose coordinates are rounded may
    take another pixel; the comparison with the model finds that.
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

    def alike(self, place: Place) -> frozenset[int]:
        sizes = place.before[0] or ()
        return frozenset(a for a, n in enumerate(sizes) if len(sizes) == len(self.scales) and self._idle(a, n))

    def shortened(self, axes: frozenset[int]) -> Resize:
        if self.sizes is None:
            return self
        return replace(self, sizes=tuple(1 if axis in axes else n for axis, n in enumerate(self.sizes)))

    def lipschitz(self, place: Place) -> float:
        (before,) = place.before
        if before is None or len(before) != len(self.scales):
            raise NoBoundError(UNKNOWN)
        return host.mul_up(*(self._norm_up(axis, n) for axis, n in enumerate(before)))

    def _norm_up(self, axis: int, size: int) -> float:
        if self._idle(axis, size):
            return 1.0
        rows = self._rows(*self._along(axis, size))
        if rows is None:
            raise NoBoundError(f"resizing by {self.mode} with {self.coordinates} coordinates has no rule")
        return axes.weights_norm_up(tuple(rows))

    def _idle(self, axis: int, size: int) -> bool:
        same = self.sizes is None or self.sizes[axis] == size
        return same and self.scales[axis] == 1 and self.mode in _MODES and self.coordinates in _COORDINATES

    def _along(self, axis: int, size: int) -> tuple[int, int, Fraction, str]:
        """Sizes before and after, the scale and the coordinates of an axis."""
        outputs = math.floor(size * self.scales[axis]) if self.sizes is None else self.sizes[axis]
        return size, outputs, self.scales[axis], self.coordinates

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        if len(before) != len(self.scales):
            return None
        found = [None if self._idle(axis, n) else self._rows(*self._along(axis, n)) for axis, n in enumerate(before)]
        unknown = any(rows is None and not self._idle(axis, before[axis]) for axis, rows in enumerate(found))
        return None if unknown else sums_along(before, found)

    def _rows(
        self,
        size: int,
        outputs: int,
        scale: Fraction,
        coordinates: str,
    ) -> Sequence[Row] | None:
        if max(size, outputs) > axes.LONGEST:
            return None
        if self.mode == "linear":
            return axes.linear_rows(size, outputs, scale, coordinates)
        pixels = None
        if self.mode == "nearest":
            pixels = axes.nearest_pixels(size, outputs, scale, coordinates, self.nearest)
        return None if pixels is None else [((int(p), Fraction(1)),) for p in pixels]

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # Coordinates off by so much: a hat that moves by d changes a row by 2 d in sum, and weights are rounded.
        (x,) = values
        if self.mode == "nearest":
            return 0.0
        precision = max(unit, 2.0**-24)
        moving = [axis for axis, n in enumerate(x.shape) if not self._idle(axis, n)]
        far = sum(axes.away(*self._along(axis, x.shape[axis]), precision) + precision for axis in moving)
        return super().rounding(values, result, unit) + 2 * far * float(np.max(abs(x), initial=0.0))
