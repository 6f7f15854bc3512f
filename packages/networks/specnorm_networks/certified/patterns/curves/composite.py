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

from specnorm.proof import Interval, enclosing
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Function,
    Known,
    LowHigh,
    NoBoundError,
    Operator,
    Place,
)
from specnorm_networks.certified.operators.curved import Extent
from specnorm_networks.certified.operators.linear import Concat
from specnorm_networks.certified.operators.steep import hint
from specnorm_networks.certified.patterns.curves.programs import Curve, EntryProgram
from specnorm_networks.certified.patterns.curves.slopes import bounds_on, constant_of, prove


class OfOneValue(Operator):
    """Functions of one value that are written as a program, whose last value they are."""

    program: EntryProgram

    @functools.cached_property
    def curve(self) -> Curve:
        """The program with its numbers loaded; `Unreadable` if they cannot be."""
        return Curve.of(self.program, (len(self.program),))

    @functools.cached_property
    def proof(self) -> Interval | str:
        """Slopes on the whole line (`Evaluation.slope`), or the reason why they are not bounded."""
        return prove(self.curve)

    def value(self, x: FloatArray) -> FloatArray:
        """Return the value for an argument."""
        values = [x]
        for operator, reads in self.program:
            values.append(operator.run(*(values[number] for number in reads)))
        return values[-1]

    def lipschitz(self, place: Place) -> float:
        """Return the root of the largest sum of squared slopes, on the whole line or on the range of the input."""
        constants: list[float] = []
        if not isinstance(self.proof, str):
            constants.append(constant_of(self.curve, self.proof))
        ranges = place.ranges() if place.boxed or not constants else ()
        if len(ranges) == 1 and ranges[0] is not None:
            slope, _ = bounds_on(self.curve, *ranges[0].ends)
            constants.append(constant_of(self.curve, slope))
        if not any(map(math.isfinite, constants)):
            raise NoBoundError(f"of this function of one value, {self.proof}; {hint(place)}")
        return min(constants)


class Composite(OfOneValue, Function):
    """A function of one value."""

    @property
    def shape_of_constants(self) -> tuple[int, ...]:
        return self.curve.shape

    def extent(self) -> Extent | None:
        proof = self.proof
        return None if isinstance(proof, str) else (float(proof.low.min()), float(proof.high.max()))

    def lipschitz(self, place: Place) -> float:
        """Return the largest absolute slope: on the range of the input if that is known, else on the whole line."""
        return (OfOneValue if self.slopes_on_range is None else Function).lipschitz(self, place)

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        slope, _ = bounds_on(self.curve, low, high)
        least, most = (slope if isinstance(self.proof, str) else slope & self.proof).ends
        return (least, most) if np.isfinite(least).all() and np.isfinite(most).all() else None

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        slope, (value,) = bounds_on(self.curve, low, high)
        # A function that rises or falls on the whole interval has its extremes at the ends.
        rises, falls = slope.low >= 0, slope.high <= 0
        if not (rises | falls).any():
            return value.ends
        at_low, at_high = (bounds_on(self.curve, end, end)[1][0] for end in (low, high))
        least = np.where(rises, at_low.low, np.where(falls, at_high.low, -math.inf))
        most = np.where(rises, at_high.high, np.where(falls, at_low.high, math.inf))
        return (value & enclosing((least, most))).ends


class SideBySide(OfOneValue, Known):
    """Several functions of one value that the last operator of the program, a `Concat`, joins along an axis."""

    rule = "stack"

    @functools.cached_property
    def curve(self) -> Curve:
        """The program without its last operator, with its numbers loaded; `Unreadable` if they cannot be."""
        return Curve.of(self.program[:-1], self.program[-1][1])

    @property
    def join(self) -> Concat:
        """The last operator."""
        operator, _ = self.program[-1]
        assert isinstance(operator, Concat)
        return operator

    @property
    def functions(self) -> list[Composite]:
        """The functions one by one."""
        return [Composite(self.program[:output]) for output in self.curve.outputs]

    def run(self, *values: FloatArray) -> FloatArray:
        return self.value(*values)

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        (x,) = ranges
        _, values = bounds_on(self.curve, *x.ends)
        low, high = zip(*(value.ends for value in values), strict=True)
        return enclosing((self.join.run(*low), self.join.run(*high)))
