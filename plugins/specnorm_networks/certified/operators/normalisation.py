"""Normalisation by the length of a value's own entries: layer, group, instance and RMS norm, and x / |x|.

With s the length of some entries z, z / g(s) has the Jacobian 1/g off z and (g - s g') / g^2 along it, so that its norm
is 1/g wherever 0 <= s g' <= g. Everywhere g is at least its value at 0; where the inputs stay in a ball or a box, s has
a smallest value there: a segment between two inputs stays in it, and z goes along a path that is no longer than z's own
constant times the segment. The lengths are a value of the network, whose range is known as any other's: of a ball they
move no further than the entries together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from specnorm.proof import Interval, enclosing, host, point, within
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Linear,
    LinearMap,
    NoBoundError,
    Operator,
    Place,
    Sizes,
)
from specnorm_networks.certified.operators.executed import smallest
from specnorm_networks.certified.operators.pointwise import hint
from specnorm_networks.certified.shapes import Shape

Form = Literal["mean square", "largest"]


class Centre(Linear):
    """``x - mean(x)`` over axes: an orthogonal projection."""

    rule = "centre"
    lipschitz_constant = 1.0
    axes: tuple[int, ...]

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        count = _count(before, self.axes)
        if not count:
            return None
        over = tuple(axis + 1 for axis in self.axes)
        return LinearMap(
            lambda x: x[0] - x[0].mean(axis=over, keepdims=True),
            lambda x: x[0] + x[0].mean(axis=over, keepdims=True),
            count + 3,
            np.ones(()),
        )


class Normalise(Operator):
    """Entries divided by a function of their length, which is the second input: `Norm` of the first, axes kept.

    "mean square": ``z / sqrt(s^2 / n + eps)`` for n entries; "largest": ``z / max(s, eps)``.
    """

    rule = "normalise"
    axes: tuple[int, ...]
    eps: float
    form: Form = "mean square"

    def run(self, *values: FloatArray) -> FloatArray:
        z, length = values
        if self.form == "mean square":
            return np.asarray(z / np.sqrt(length * length / (_count(z.shape, self.axes) or 1) + self.eps))
        over = np.maximum(length, self.eps)
        # ONNX has 0 for 0 / 0.
        return np.asarray(z / np.where(over == 0, 1.0, over))

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """The first input's bound, over the smallest number that is divided by."""
        known = place.ranges()
        lengths = known[1] if len(known) == 2 else None
        least = 0.0 if lengths is None else max(float(np.min(lengths.low, initial=math.inf)), 0.0)
        if not self.eps >= 0 or math.isnan(least):
            raise NoBoundError(f"eps={self.eps!r} is negative, or no number")
        divisor = self._divisor_down(least, _count(place.before[0], self.axes))
        if not divisor > 0:
            raise NoBoundError(f"it divides by the length of its input, which may be 0, and eps is 0; {hint(known)}")
        return host.mul_up(bounds[0], host.div_up(1.0, divisor))

    def _divisor_down(self, least: float, count: int | None) -> float:
        """The divisor for the smallest length, rounded down; of how many entries may be unknown."""
        if self.form == "largest":
            return max(least, self.eps)
        if not least or not count or math.isinf(least):
            return host.sqrt_down(self.eps)
        square = max(host.next_down(host.mul_down(least, least) / count), 0.0)
        return host.sqrt_down(max(host.sub_down(square, -self.eps), 0.0))

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        """No entry is larger than the length of all, nor than itself over the smallest divisor."""
        z, lengths = ranges
        count = _count(z.shape, self.axes)
        if not count or not self.eps >= 0:
            return None
        most = host.root_up(count) if self.form == "mean square" else 1.0
        s = enclosing((np.maximum(lengths.low, 0.0), np.maximum(lengths.high, 0.0)))
        if self.form == "mean square":
            over = ((s * s).scaled(1 / count, 2.0**-52) + point(np.full(s.shape, self.eps))).root()
        else:
            over = enclosing((np.maximum(s.low, self.eps), np.maximum(s.high, self.eps)))
        # A root or a sum that was rounded below 0 says nothing.
        over = enclosing((np.maximum(over.low, 0.0), over.high))
        return (z * over.inverse()) & within(np.full(z.shape, most))

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # The length's own rounding is counted where it is computed.
        return 16 * unit * abs(result) + smallest(unit)


def _count(shape: Shape | None, axes: tuple[int, ...]) -> int | None:
    """How many entries are normalised together; None where that is not known, 0 for none."""
    if shape is None or len(set(axes)) < len(axes) or any(not 0 <= axis < len(shape) for axis in axes):
        return None
    return math.prod(shape[axis] for axis in axes)
