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
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Linear,
    LinearMap,
    NoBoundError,
    NotRunError,
    Place,
    Sizes,
)
from specnorm_networks.certified.operators.windows import sums_along
from specnorm_networks.certified.shapes import Size

UNKNOWN = "its sizes are not known: give the input shape"
_MODES = ("nearest", "linear")
_COORDINATES = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")


def _known(size: Size) -> int | None:
    return size if isinstance(size, int) else None


class Resize(Linear):
    """Nearest interpolation by whole factors, or linear interpolation: the norm of one matrix an axis, multiplied.

    Nearest xf: sqrt(f), or sqrt(f + 1) where single precision may move a pixel; linear: at most that, but for
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

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        rows = self._rows(x.shape)
        linear = None if rows is None else sums_along(x.shape, [None if each is None else each[0] for each in rows])
        if linear is None:
            raise NotRunError(f"no resizing by {self.mode} of a value of shape {x.shape}")
        return np.asarray(linear.apply([x[None]])[0])

    def alike(self, place: Place) -> frozenset[int]:
        sizes = place.before[0] or ()
        return frozenset(a for a, n in enumerate(sizes) if len(sizes) == len(self.scales) and self._idle(a, _known(n)))

    def shortened(self, axes: frozenset[int]) -> Resize:
        if self.sizes is None:
            return self
        return replace(self, sizes=tuple(1 if axis in axes else n for axis, n in enumerate(self.sizes)))

    def lipschitz(self, place: Place) -> float:
        (before,) = place.before
        if before is None or len(before) != len(self.scales):
            raise NoBoundError(UNKNOWN)
        return host.mul_up(*(self._norm_up(axis, _known(n)) for axis, n in enumerate(before)))

    def _norm_up(self, axis: int, size: int | None) -> float:
        if self._idle(axis, size):
            return 1.0
        if size is None:
            raise NoBoundError(UNKNOWN)
        norm = axes.resize_norm_up(self.mode, *self._along(axis, size), self.nearest)
        if norm is None:
            raise NoBoundError(f"resizing by {self.mode} with {self.coordinates} coordinates has no rule")
        return norm

    def _idle(self, axis: int, size: int | None) -> bool:
        """Whether an axis stays as it is."""
        same = self.sizes is None or size is None or self.sizes[axis] == size
        return same and self.scales[axis] == 1 and self.mode in _MODES and self.coordinates in _COORDINATES

    def _along(self, axis: int, size: int) -> tuple[int, int, Fraction, str]:
        """Sizes before and after, the scale and the coordinates of an axis."""
        outputs = math.floor(size * self.scales[axis]) if self.sizes is None else self.sizes[axis]
        return size, outputs, self.scales[axis], self.coordinates

    def _rows(self, before: Sizes) -> list[list[Sequence[Row]] | None] | None:
        """The rows of each axis, with exact coordinates first (None: it stays as it is); None where one is not known.

        An axis has other rows besides where single precision may take other pixels.
        """
        if len(before) != len(self.scales):
            return None
        found: list[list[Sequence[Row]] | None] = []
        each: list[Sequence[Row]] | None
        for axis, n in enumerate(before):
            told = self._along(axis, n)
            if self._idle(axis, n):
                found.append(None)
                continue
            if max(told[:2]) > axes.LONGEST:
                return None
            if self.mode == "linear":
                rows = axes.linear_rows(*told)
                each = None if rows is None else [rows]
            else:
                pixels = axes.nearest_pixels(*told, self.nearest) if self.mode == "nearest" else None
                each = None if pixels is None else [[((int(p), Fraction(1)),) for p in some] for some in pixels]
            if each is None:
                return None
            found.append(each[:1] if each[0] == each[-1] else each)
        return found

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        # None where single precision may take other pixels.
        rows = self._rows(before)
        if rows is None or any(each is not None and len(each) > 1 for each in rows):
            return None
        return sums_along(before, [None if each is None else each[0] for each in rows])

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # Nearest: how far apart the pixels are that rounding coordinates can give. Linear: coordinates off by so much.
        (x,) = values
        rows = self._rows(x.shape)
        if rows is None:
            return 0.0
        moving = [(axis, each) for axis, each in enumerate(rows) if each is not None]
        if self.mode == "nearest":
            least, most = x, x
            for axis, each in moving:
                pixels = [[row[0][0] for row in some] for some in each]
                least = np.minimum.reduce([np.take(least, some, axis=axis) for some in pixels])
                most = np.maximum.reduce([np.take(most, some, axis=axis) for some in pixels])
            return most - least
        precision = max(unit, 2.0**-24)
        far = sum(axes.away(*self._along(axis, x.shape[axis]), precision) + precision for axis, _ in moving)
        # A hat that moves by d changes a row by 2 d in sum, and each weight is rounded.
        return super().rounding(values, result, unit) + 2 * far * float(np.max(abs(x), initial=0.0))
