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

from specnorm.proof import Interval, anything, enclosing, host, point, within
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Linear,
    LinearMap,
    NoBoundError,
    Operator,
    Place,
    Sizes,
)
from specnorm_networks.certified.operators.formats import smallest
from specnorm_networks.certified.operators.pointwise import hint
from specnorm_networks.certified.shapes import Shape

Form = Literal["mean square", "largest", "sum"]


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

    "mean square": ``z / sqrt(s^2 / n + eps)`` for n entries; "largest": ``z / max(s, eps)``; "sum": ``z / (s + eps)``.
    """

    rule = "normalise"
    axes: tuple[int, ...]
    eps: float
    form: Form = "mean square"

    def run(self, *values: FloatArray) -> FloatArray:
        z, length = values
        if self.form == "mean square":
            return np.asarray(z / np.sqrt(length * length / (_count(z.shape, self.axes) or 1) + self.eps))
        over = np.maximum(length, self.eps) if self.form == "largest" else length + self.eps
        # ONNX has 0 for 0 / 0.
        return np.asarray(z / np.where(over == 0, 1.0, over))

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """The first input's bound, over the smallest number that is divided by."""
        known = place.ranges()
        lengths = known[1] if len(known) == 2 and known[1] is not None else anything(())
        if not self.eps >= 0:
            raise NoBoundError(f"eps={self.eps!r} is negative, or no number")
        divisor = float(np.min(self._divisor(lengths, _count(place.before[0], self.axes)).low, initial=math.inf))
        if not divisor > 0:
            raise NoBoundError(f"it divides by the length of its input, which may be 0, and eps is 0; {hint(known)}")
        return host.mul_up(bounds[0], host.div_up(1.0, divisor))

    def _divisor(self, lengths: Interval, count: int | None) -> Interval:
        """What entries are divided by; of how many there are may be unknown."""
        s = enclosing((np.maximum(lengths.low, 0.0), np.maximum(lengths.high, 0.0)))
        if self.form == "largest":
            return enclosing((np.maximum(s.low, self.eps), np.maximum(s.high, self.eps)))
        if self.form == "sum":
            return s + point(np.full(s.shape, self.eps))
        unknown = enclosing((np.zeros(s.shape), np.full(s.shape, math.inf)))
        square = (s * s).scaled(1 / count, 2.0**-52) if count else unknown
        return (square + point(np.full(s.shape, self.eps))).root()

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        """No entry is larger than the length of all, nor than itself over the smallest divisor."""
        z, lengths = ranges
        count = _count(z.shape, self.axes)
        if not count or not self.eps >= 0:
            return None
        most = host.root_up(count) if self.form == "mean square" else 1.0
        return (z * self._divisor(lengths, count).inverse()) & within(np.full(z.shape, most))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # The length's own rounding is counted where it is computed.
        return 16 * unit * abs(result) + smallest(unit)


def _count(shape: Shape | None, axes: tuple[int, ...]) -> int | None:
    """How many entries are normalised together; None where that is not known, 0 for none."""
    if shape is None or len(set(axes)) < len(axes) or any(not 0 <= axis < len(shape) for axis in axes):
        return None
    return math.prod(shape[axis] for axis in axes)
