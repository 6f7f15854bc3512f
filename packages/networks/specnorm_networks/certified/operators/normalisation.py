"""Normalization by the length of a value's own entries: layer, group, instance and RMS norm, and x / |x|.

Let s be the length of a vector z of entries. The Jacobian of z / g(s) is (g - s g') / g^2 in the direction of z, and
1/g in directions orthogonal to z, so that its norm is 1/g if 0 <= s g' <= g. The divisor g is at least g(0). If the
inputs of the network stay in a ball or a box, g is at least its smallest value for the lengths there: the segment
between two inputs stays in the region, and the path of z is no longer than z's constant times the segment. The length
is a value of the network of its own, with a range like any other value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from specnorm.proof import Interval, anything, enclosing, host, point, within
from specnorm_networks.certified.operators.base import (
    Affine,
    FloatArray,
    Known,
    Lengths,
    LinearMap,
    NoBoundError,
    Place,
    Shape,
    entries_along,
    lengths_at,
)
from specnorm_networks.certified.operators.reductions import Norm
from specnorm_networks.certified.operators.steep import hint

Form = Literal["mean square", "sum of squares", "length"]


class Centre(Affine):
    """``x - mean(x)``, with the mean over some axes: an orthogonal projection."""

    rule = "centre"
    lipschitz_constant = 1.0
    axes: tuple[int, ...]

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        if len(self.axes) != 1:
            return None
        return lengths_at(len(place.after or ()), self.axes, before[0][self.axes[0]])

    def row_norms(self, before: Shape) -> FloatArray:
        return np.ones(())  # a row of a projection is no longer than its image of a unit vector

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        count = entries_along(before, self.axes)
        if not count:
            return None
        axes_of_batch = tuple(axis + 1 for axis in self.axes)
        return LinearMap(
            lambda x: x[0] - x[0].mean(axis=axes_of_batch, keepdims=True),
            absolute=lambda x: x[0] + x[0].mean(axis=axes_of_batch, keepdims=True),
            roundings=count + 3,
        )


class Normalise(Known):
    """The first input z, divided by a function of its length s along some axes.

    The second input is s: `Norm` of the first one, with axes kept. Forms: "mean square" is ``z / sqrt(s^2 / n + eps)``
    for n entries, "sum of squares" is ``z / sqrt(s^2 + eps)``, "length" is ``z / (max(s, floor) + eps)``. If ``terms``
    is given, n is that number, and ``s / sqrt(n)`` stands for s in the last one: a standard deviation. ``floor`` may be
    a number that was rounded down to the next float.
    """

    rule = "normalise"
    axes: tuple[int, ...]
    eps: float
    form: Form = "mean square"
    terms: int | None = None
    floor: float = 0.0

    def _terms(self, shape: Shape) -> int:
        """Return the number by which the square of the length is divided, for a value of some shape."""
        if self.terms is not None:
            return self.terms
        return entries_along(shape, self.axes) if self.form == "mean square" else 1

    def longest(self, shape: Shape) -> float:
        """Return the largest length of the value along the axes, rounded up, for a first input of some shape.

        The divisor is at least the length of z, over sqrt(n) if the square of the length is divided by n.
        """
        return host.root_up(max(self._terms(shape), 1))

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        """Return the length of each vector, which is at most the divisor, over it."""
        if not min(self.eps, self.floor) >= 0:
            return None
        return lengths_at(len(place.after or ()), self.axes, self.longest(place.shape))

    def require_inputs(self, inputs: Sequence[Any]) -> None:
        """Refuse a second input that is not the length of the first."""
        *others, lengths = inputs
        norm = lengths.operator
        is_norm = type(norm) is Norm and norm.keep and tuple(sorted(norm.axes)) == tuple(sorted(self.axes))
        if not is_norm or [lengths.inputs] != [(z.name,) for z in others]:
            raise NoBoundError("it divides by a value that is not the length of what is divided")

    def run(self, *values: FloatArray) -> FloatArray:
        z, length = values
        terms = self._terms(z.shape)
        if self.form in ("mean square", "sum of squares"):
            return np.asarray(z / np.sqrt(length * length / max(terms, 1) + self.eps))
        if terms != 1:
            length = np.sqrt(length * length / terms)
        divisor = np.maximum(length, self.floor) + self.eps
        # In ONNX 0 / 0 is 0 here.
        return np.asarray(z / np.where(divisor == 0, 1.0, divisor))

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """Return the constant of the first input over the smallest divisor."""
        ranges = place.ranges()
        lengths = anything(())
        if len(ranges) == 2 and ranges[1] is not None:
            lengths = ranges[1]
        if not min(self.eps, self.floor) >= 0:
            raise NoBoundError(f"eps={self.eps!r} or {self.floor!r} is negative, or no number")
        divisors = self._divisor(lengths, self._terms(place.shape))
        smallest_divisor = float(np.min(divisors.low, initial=math.inf))
        if not smallest_divisor > 0:
            raise NoBoundError(f"it divides by the length of its input, which may be 0, and eps is 0; {hint(place)}")
        return host.mul_up(bounds[0], host.div_up(1.0, smallest_divisor))

    def _divisor(self, lengths: Interval, terms: int) -> Interval:
        """Return intervals of the divisor. ``terms``: as `_terms` returns them."""
        s = enclosing((np.maximum(lengths.low, 0.0), np.maximum(lengths.high, 0.0)))
        if self.form in ("mean square", "sum of squares"):
            return (_mean_square(s, terms) + point(np.full(s.shape, self.eps))).root()
        if terms != 1:
            s = _mean_square(s, terms).root()
        highest_floor = host.next_up(self.floor) if self.floor else 0.0
        limited = enclosing((np.maximum(s.low, self.floor), np.maximum(s.high, highest_floor)))
        return limited + point(np.full(s.shape, self.eps))

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        """Return the smaller of two intervals.

        An entry of the value is at most the entry of z over the smallest divisor. It is also at most 1, or sqrt(n) if
        the square of the length is divided by n, since no entry of z is larger than its length.
        """
        z, lengths = ranges
        terms = self._terms(z.shape)
        if terms < 1 or not min(self.eps, self.floor) >= 0:
            return None
        return (z * self._divisor(lengths, terms).inverse()) & within(np.full(z.shape, self.longest(z.shape)))


def _mean_square(lengths: Interval, terms: int) -> Interval:
    """Return the square of lengths, over a number of terms."""
    squares = lengths * lengths
    return squares if terms == 1 else squares.scaled(1 / max(terms, 1), 2.0**-52)
