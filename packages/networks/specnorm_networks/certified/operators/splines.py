"""Linear splines, and the operators of which they are written: whole numbers, and tables that are read there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from specnorm.proof import Interval, enclosing, host
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Function,
    Lengths,
    LowHigh,
    NoBoundError,
    NotRunError,
    Place,
    lengths_of,
)
from specnorm_networks.certified.operators.curved import Extent
from specnorm_networks.certified.operators.joins import Jump

CLAMP_LAST = "clamp to whole numbers after the division by the step, since -0.3 / 0.1 as stored is below -3"
"""What keeps a table from being read outside."""


class Floor(Jump):
    """The largest whole number that is at most each entry."""

    is_monotone_and_exact = True

    def lipschitz(self, place: Place) -> float:
        (x,) = place.ranges() or (None,)
        numbers = ""
        if x is not None and x.low.size:
            numbers = f", here from {np.floor(x.low.min()):g} to {np.floor(x.high.max()):g}"
        raise NoBoundError(
            f"it jumps at whole numbers{numbers}. Linear interpolation in a table has a bound if none of them is "
            f"outside: {CLAMP_LAST}"
        )

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        return np.floor(x)


class Truncated(Jump):
    """The whole part of each entry: a cast to integers."""

    is_monotone_and_exact = True

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        return np.trunc(x)


class Lookup(Jump):
    """Entries of a table at whole numbers, or its rows.

    It has no constant, but its entries, and its rows' lengths, are known whatever the whole numbers are.
    """

    table: FloatArray
    """Shape (entries, ...)."""

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        of_rows = lengths_of(self.table)[1:]
        return (math.inf,) * (len(place.after or of_rows) - len(of_rows)) + of_rows

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        positions = x.astype(np.intp)
        is_inside = (positions == x) & (x >= 0) & (x < len(self.table))
        if not is_inside.all():
            raise NotRunError(f"a table of {len(self.table)} entries is read at other positions")
        return np.asarray(self.table[positions])

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval:
        (x,) = ranges
        shape = x.shape + self.table.shape[1:]
        least, most = (np.broadcast_to(ends, shape) for ends in (self.table.min(axis=0), self.table.max(axis=0)))
        return enclosing((least, most))


class LinearSpline(Function):
    """A continuous function that is linear between whole numbers, and beyond the first and last knot."""

    first: int
    """The first knot."""
    values: FloatArray
    """Values at ``first``, ``first + 1``, ..., shape (knots, ...); the other axes broadcast against the input's."""

    def value(self, x: FloatArray) -> FloatArray:
        knots, *sizes = self.values.shape
        x = np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(sizes)))
        missing_axes = x.ndim - len(sizes)
        by_knot = self.values.reshape(knots, *(1,) * missing_axes, *sizes)
        values = np.broadcast_to(by_knot, (knots, *x.shape))
        # Between two knots, x less the one before is exact, or is rounded by less than a unit roundoff.
        knot_before = np.clip(np.floor(x), self.first, self.first + knots - 2)
        places = (knot_before - self.first).astype(np.intp)[None]
        before = np.take_along_axis(values, places, axis=0)[0]
        after = np.take_along_axis(values, places + 1, axis=0)[0]
        return np.asarray(before + (x - knot_before) * (after - before))

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        # Its extremes are at the ends, or at knots between them.
        ends = self.value(low), self.value(high)
        least, most = np.minimum(*ends), np.maximum(*ends)
        for knot, value in enumerate(self.values, self.first):
            is_inside = (low < knot) & (knot < high)
            least = np.where(is_inside, np.minimum(least, value), least)
            most = np.where(is_inside, np.maximum(most, value), most)
        # Beyond the knots, x less the last one is rounded in proportion to both.
        farthest = max(abs(self.first), abs(self.first + len(self.values) - 1))
        size = np.maximum(abs(low), abs(high)) + farthest
        error = 2.0**-49 * self.size_of_terms([size], least)
        down = least - error
        up = most + error
        is_known = np.isfinite(down) & np.isfinite(up)
        return np.where(is_known, down, -math.inf), np.where(is_known, up, math.inf)

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        steepest = float(abs(np.diff(self.values, axis=0)).max())
        return np.asarray(abs(self.values).max() + steepest * abs(values[0]))

    def extent(self) -> Extent | None:
        slopes = np.diff(self.values, axis=0)
        return float(host.next_down(slopes.min())), float(host.next_up(slopes.max()))
