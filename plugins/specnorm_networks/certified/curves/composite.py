"""Functions of one variable that several operators of a network compute, alone or side by side.

A difference quotient of a continuous function with a bounded derivative almost everywhere is a mean of that derivative
(the fundamental theorem of calculus). For several functions f_i of one variable, |f(x) - f(y)| is at most the integral
of |f'|, so that the root of the largest sum of squared slopes is a constant.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from specnorm.proof import Interval, arithmetic, enclosing
from specnorm_networks.certified.curves.programs import Curve, EntryProgram, Evaluation
from specnorm_networks.certified.curves.slopes import Proof, bounds_on, prove, root_of_largest
from specnorm_networks.certified.curves.values import Dual, Quantity, number
from specnorm_networks.certified.operators.base import (
    FloatArray,
    LowHigh,
    NoBoundError,
    Operator,
    Place,
    Pointwise,
)
from specnorm_networks.certified.operators.curved import Extent
from specnorm_networks.certified.operators.steep import hint


class _OfOneValue(Operator):
    """Functions of one value that are written as a program."""

    program: EntryProgram
    outputs: tuple[int, ...] = (-1,)
    """Numbers of the program's values that are returned; -1 is the last one."""

    def join(self, outputs: Sequence[FloatArray]) -> FloatArray:
        """Return the operator's value for the values that are returned."""
        return outputs[0]

    def all_values(self, x: FloatArray) -> list[FloatArray]:
        """Return all values of the program for an argument x, by their numbers."""
        values = [x]
        for operator, reads in self.program:
            values.append(operator.run(*(values[number] for number in reads)))
        return values

    @functools.cached_property
    def curve(self) -> Curve:
        """The program with its numbers loaded; `Unreadable` if they cannot be."""
        return Curve.of(self.program, self.outputs)

    @functools.cached_property
    def proof(self) -> Proof | str:
        """Slopes on the whole line, or the reason why they are not bounded."""
        return prove(self.curve)

    def value(self, x: FloatArray) -> FloatArray:
        """Return the value for an argument."""
        values = self.all_values(x)
        return self.join([values[output] for output in self.outputs])

    def lipschitz(self, place: Place) -> float:
        """Return the root of the largest sum of squared slopes, on the whole line or on the range of the input."""
        constants: list[float] = []
        if not isinstance(self.proof, str):
            constants.append(self.proof.constant)
        ranges = place.ranges() if place.boxed or not constants else ()
        if len(ranges) == 1 and ranges[0] is not None:
            square_sum = bounds_on(self.curve, ranges[0].low, ranges[0].high).slopes.square_sum
            constants.append(root_of_largest(square_sum))
        if not any(map(math.isfinite, constants)):
            raise NoBoundError(f"of this function of one value, {self.proof}; {hint(place)}")
        return min(constants)

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # The rounding of each operator, carried through those after it.
        (x,) = values
        steps = self.all_values(x)
        roundings = [
            operator.rounding([steps[source] for source in reads], step, unit)
            for (operator, reads), step in zip(self.program, steps[1:], strict=True)
        ]
        argument = Dual(Quantity(enclosing((x, x))), number(1.0))
        ranges = Evaluation(self.curve, argument, roundings=roundings).values
        ends = zip(*(ranges[output].value.factor.ends for output in self.outputs), strict=True)
        low, high = (self.join([np.broadcast_to(end, x.shape) for end in each]) for each in ends)
        return np.asarray(np.maximum(high - result, result - low))


class Composite(_OfOneValue, Pointwise):
    """A function of one variable that is written as a program, whose last value it is."""

    def extent(self) -> Extent | None:
        proof = self.proof
        return None if isinstance(proof, str) else (float(proof.low.min()), float(proof.high.max()))

    def lipschitz(self, place: Place) -> float:
        """Return the largest absolute slope: on the range of the input if that is known, else on the whole line."""
        if self.slopes_on_range is not None:
            return Pointwise.lipschitz(self, place)
        return super().lipschitz(place)

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        least, most = (end[0] for end in bounds_on(self.curve, low, high).slopes.each.ends)
        if not isinstance(self.proof, str):
            least = np.maximum(least, self.proof.low[0])
            most = np.minimum(most, self.proof.high[0])
        return (least, most) if np.isfinite(least).all() and np.isfinite(most).all() else None

    @arithmetic.on_host()
    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        bounds = bounds_on(self.curve, low, high)
        least, most = bounds.values[0].ends
        slopes = bounds.slopes.each
        # A function that rises or falls on the whole interval has its extremes at the ends.
        for is_monotone, first, last in (
            (slopes.low[0] >= 0, low, high),
            (slopes.high[0] <= 0, high, low),
        ):
            if is_monotone.any():
                at_first, at_last = (bounds_on(self.curve, end, end).values[0] for end in (first, last))
                least = np.where(is_monotone, np.maximum(least, at_first.low), least)
                most = np.where(is_monotone, np.minimum(most, at_last.high), most)
        return least, most


class SideBySide(_OfOneValue):
    """Several functions of one value, joined along an axis; ``new``: along a new axis."""

    rule = "stack"
    axis: int = 0
    new: bool = False

    def join(self, outputs: Sequence[FloatArray]) -> FloatArray:
        return np.stack(outputs, self.axis) if self.new else np.concatenate(outputs, self.axis)

    def run(self, *values: FloatArray) -> FloatArray:
        return self.value(*values)

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        (x,) = ranges
        bounds = bounds_on(self.curve, x.low, x.high)
        low, high = zip(*(value.ends for value in bounds.values), strict=True)
        return enclosing((self.join(low), self.join(high)))
