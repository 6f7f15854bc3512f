"""Resizing by interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from specnorm.proof import host
from specnorm_networks.certified import axes
from specnorm_networks.certified.axes import AxisResizing, Row
from specnorm_networks.certified.operators.base import (
    Affine,
    FloatArray,
    LinearMap,
    NoBoundError,
    Place,
    Shape,
    keeps_samples_and_channels,
)
from specnorm_networks.certified.operators.windows import weighted_sums_along


class Resize(Affine):
    """Nearest or linear interpolation.

    Its constant is the product of the norms of one matrix an axis. Each is sqrt(f) for nearest interpolation by a
    factor f, and at most sqrt(f) for linear interpolation, unless align_corners=True. A library whose coordinates are
    rounded may take another pixel; the comparison with the model refuses such a network.
    """

    rule = "resize"
    mode: str
    """"nearest" or "linear"; others have no rule."""
    sizes: tuple[int, ...] | None
    """Sizes of the value along all axes; None: floor(size of the input * scale)."""
    scales: tuple[Fraction, ...]
    """Outputs per input pixel along all axes, as the framework uses them for coordinates."""
    coordinates: str
    """How an output's index gives its coordinate in the input: one of `axes.COORDINATES`."""
    nearest: str = "floor"
    """How a coordinate gives a pixel: one of `axes.ROUNDINGS`."""
    antialias: bool = False
    """Whether linear interpolation averages over more pixels where there are fewer outputs than pixels."""
    exclude_outside: bool = False
    """As for `AxisResizing`."""

    def keeps_channels(self, before: Shape, after: Shape) -> bool:
        return all(scale == 1 for scale in self.scales[:2]) and keeps_samples_and_channels(before, after)

    def alike(self, place: Place) -> frozenset[int]:
        sizes = place.before[0] or ()
        if len(sizes) != len(self.scales):
            return frozenset()
        return frozenset(range(len(sizes))) - self._resizings(sizes).keys()

    def shortened(self, axes: frozenset[int]) -> Resize:
        if self.sizes is None:
            return self
        sizes = tuple(1 if axis in axes else n for axis, n in enumerate(self.sizes))
        return replace(self, sizes=sizes)

    def lipschitz(self, place: Place) -> float:
        return host.mul_up(1.0, *map(axes.weights_norm_up, self._rows_of_axis(place.shape).values()))

    def repeats(self, before: Shape, after: Shape) -> tuple[int, ...] | None:
        """Return how often each pixel is repeated along each axis, if that is all that the operator does; else None."""
        if self.mode != "nearest" or len(before) < 3 or not self.keeps_channels(before, after):
            return None
        repeats = tuple(max(m // n, 1) for n, m in zip(before, after, strict=True))
        for axis, rows in self._rows_of_axis(before).items():
            if any(row != ((output // repeats[axis], Fraction(1)),) for output, row in enumerate(rows)):
                return None
        return repeats[2:]

    def _resizings(self, before: Shape) -> dict[int, AxisResizing]:
        """Return the resizing along each axis that does not stay as it is."""
        resizings = {}
        for axis, (size, scale) in enumerate(zip(before, self.scales, strict=True)):
            outputs = math.floor(size * scale) if self.sizes is None else self.sizes[axis]
            if scale != 1 or outputs != size:
                resizings[axis] = AxisResizing(size, outputs, scale, self.coordinates, self.exclude_outside)
        return resizings

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        return weighted_sums_along(before, self._rows_of_axis(before))

    def _rows_of_axis(self, before: Shape) -> dict[int, tuple[Row, ...]]:
        """Return pixels and weights of each output along each axis that does not stay as it is."""
        kind = self.nearest if self.mode == "nearest" else self.mode
        if kind == "linear" and self.antialias:
            kind = "antialiased"
        if kind not in ("linear", "antialiased", *axes.ROUNDINGS) or self.coordinates not in axes.COORDINATES:
            raise NoBoundError(
                f"resizing by {self.mode} ({self.nearest}, {self.coordinates} coordinates) is not supported"
            )
        if len(before) != len(self.scales):
            raise NoBoundError(f"resizing of {len(self.scales)} axes of a value of shape {before}")
        rows_of_axis = {}
        for axis, resizing in self._resizings(before).items():
            if max(resizing.size, resizing.outputs) > axes.LONGEST:
                raise NoBoundError(
                    f"resizing of {resizing.size} pixels to {resizing.outputs}: at most {axes.LONGEST} are supported"
                )
            rows_of_axis[axis] = axes.resized_rows(resizing, kind)
        return rows_of_axis

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        # A library that rounds the scale moves coordinates by a rounding of the number of pixels.
        (x,) = values
        pixels = sum(resizing.size for resizing in self._resizings(x.shape).values())
        size: FloatArray = super().size_of_terms(values, result) + pixels * abs(x).max(initial=0.0)
        return size
