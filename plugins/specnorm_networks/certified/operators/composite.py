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
from numpy.typing import NDArray

from specnorm.proof import Interval, anything, arithmetic, enclosing, host
from specnorm_networks.certified.curves.jets import CurveBounds, bounds_by_branches, evaluate
from specnorm_networks.certified.curves.programs import EntryProgram, Plan, plan_of
from specnorm_networks.certified.curves.subdivision import Proof, prove
from specnorm_networks.certified.operators.base import (
    FloatArray,
    LowHigh,
    NoBoundError,
    Operator,
    Place,
    Pointwise,
    times_up,
)
from specnorm_networks.certified.operators.curved import Extent
from specnorm_networks.certified.operators.steep import hint

MOST_INTERVALS_AT_ONCE = 2**16
"""Largest number of intervals that are evaluated together."""
MOST_PARTS = 8
"""Largest number of parts of an interval, each of which is bounded by itself."""


def run_all(program: EntryProgram, x: FloatArray) -> list[FloatArray]:
    """Return all values of a program for an argument x, by their numbers."""
    values = [x]
    for operator, reads in program:
        values.append(operator.run(*(values[number] for number in reads)))
    return values


def _ranges_in_other_library(program: EntryProgram, x: FloatArray, unit: float) -> list[Interval]:
    """Return intervals of all values as another library computes them, with the unit roundoff ``unit``."""
    values = run_all(program, x)
    ranges = [enclosing((x, x))]
    for number, (operator, reads) in enumerate(program, 1):
        value = values[number]
        place = Place(tuple(values[source].shape for source in reads), value.shape)
        linear = operator.linear_map(place)
        inputs = [ranges[source] for source in reads]
        stated_image = linear.image(inputs) if linear is not None else operator.image(inputs, place)
        image = anything(value.shape) if stated_image is None else enclosing(stated_image)
        rounding = np.asarray(operator.rounding([values[source] for source in reads], value, unit))
        low = np.minimum(image.low, value) - rounding
        high = np.maximum(image.high, value) + rounding
        ranges.append(enclosing((low, high)))
    return ranges


@arithmetic.on_host()
def bounds_on(plan: Plan, low: FloatArray, high: FloatArray) -> CurveBounds:
    """Bound slopes and values of each entry's function on the entry's interval, by parts of the interval.

    ``low``, ``high``: of the shape of the value; so are the intervals of `CurveBounds`.
    """
    flat_plan, function_of_entry = plan.distinct_functions
    functions = np.broadcast_to(function_of_entry, low.shape).reshape(-1)
    flat_low = low.reshape(-1)
    flat_high = high.reshape(-1)
    are_points = np.array_equal(flat_low, flat_high)
    parts = 1 if are_points else max(1, min(MOST_PARTS, MOST_INTERVALS_AT_ONCE // max(low.size, 1)))
    chunks = []
    for first in range(0, max(low.size, 1), MOST_INTERVALS_AT_ONCE):
        chunk = slice(first, first + MOST_INTERVALS_AT_ONCE)
        chunks.append(_bounds_by_parts(flat_plan, flat_low[chunk], flat_high[chunk], functions[chunk], parts))

    def joined(arrays: Sequence[FloatArray]) -> FloatArray:
        whole = np.concatenate(arrays, axis=-1)
        return whole.reshape((*whole.shape[:-1], *low.shape))

    return CurveBounds(
        joined([bounds.low_slope for bounds in chunks]),
        joined([bounds.high_slope for bounds in chunks]),
        joined([bounds.square_sum for bounds in chunks]),
        joined([bounds.low_value for bounds in chunks]),
        joined([bounds.high_value for bounds in chunks]),
    )


def _bounds_by_parts(
    plan: Plan,
    low: FloatArray,
    high: FloatArray,
    functions: NDArray[np.intp],
    parts: int,
) -> CurveBounds:
    """Bound slopes and values on intervals that are divided into a number of parts; infinite ones stay whole."""
    share = np.linspace(0.0, 1.0, parts + 1)[1:-1, None]
    inner_ends = np.clip(low + share * (high - low), low, high)
    ends = np.concatenate([low[None], inner_ends, high[None]])
    stays_whole = ~(np.isfinite(low) & np.isfinite(high)) | np.isnan(inner_ends).any(axis=0)
    first = np.where(stays_whole, low, ends[:-1])
    last = np.where(stays_whole, high, ends[1:])
    bounds = bounds_by_branches(plan, first.reshape(-1), last.reshape(-1), np.tile(functions, parts))

    def over_parts(array: FloatArray, extreme: np.ufunc) -> FloatArray:
        return np.asarray(extreme.reduce(array.reshape((*array.shape[:-1], parts, low.size)), axis=-2))

    return CurveBounds(
        over_parts(bounds.low_slope, np.minimum),
        over_parts(bounds.high_slope, np.maximum),
        over_parts(bounds.square_sum, np.maximum),
        over_parts(bounds.low_value, np.minimum),
        over_parts(bounds.high_value, np.maximum),
    )


class Composite(Pointwise):
    """A function of one variable that is written as a program."""

    program: EntryProgram
    """Its last value is that of the function."""

    def value(self, x: FloatArray) -> FloatArray:
        return run_all(self.program, x)[-1]

    @functools.cached_property
    def plan(self) -> Plan:
        """The program as a plan; `Unreadable` if it has none."""
        return plan_of(self.program, (len(self.program),))

    @functools.cached_property
    def proof(self) -> Proof | str:
        """Slopes on the whole line, or the reason why they are not bounded."""
        return prove(self.plan)

    def extent(self) -> Extent | None:
        proof = self.proof
        return None if isinstance(proof, str) else (float(proof.low.min()), float(proof.high.max()))

    def lipschitz(self, place: Place) -> float:
        """Return the largest absolute slope: on the range of the input if that is known, else on the whole line."""
        lacks_proof = isinstance(self.proof, str)
        needs_range = lacks_proof or place.boxed
        if self.slopes_on_range is not None or not needs_range:
            return super().lipschitz(place)
        ranges = place.ranges()
        if len(ranges) == 1 and ranges[0] is not None:
            slopes = self.slopes(ranges[0].low, ranges[0].high)
            if slopes is not None:
                return float(max(np.max(abs(end), initial=0.0) for end in slopes))
        if lacks_proof:
            raise NoBoundError(f"of this function of one value, {self.proof}; {hint(ranges)}")
        return super().lipschitz(place)

    @property
    def may_jump(self) -> bool:
        """Whether one of the operators jumps, and nothing proves that the function is continuous."""
        return self.plan.jumps and isinstance(self.proof, str)

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        if self.may_jump:
            return None
        everywhere = self._slopes_everywhere(low.shape)
        if everywhere is not None and not (np.isfinite(low) & np.isfinite(high)).any():
            return everywhere
        least, most = everywhere or (np.full(low.shape, -math.inf), np.full(low.shape, math.inf))
        bounds = bounds_on(self.plan, low, high)
        least = np.maximum(least, bounds.low_slope[0])
        most = np.minimum(most, bounds.high_slope[0])
        return (least, most) if np.isfinite(least).all() and np.isfinite(most).all() else None

    @arithmetic.on_host()
    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        if self.may_jump:
            return super().between(low, high)
        bounds = bounds_on(self.plan, low, high)
        least = bounds.low_value[0]
        most = bounds.high_value[0]
        # A function that rises or falls on the whole interval has its extremes at the ends.
        at_low = self._value_interval(low)
        at_high = self._value_interval(high)
        rises = bounds.low_slope[0] >= 0
        least = np.where(rises, np.maximum(least, at_low.low), least)
        most = np.where(rises, np.minimum(most, at_high.high), most)
        falls = bounds.high_slope[0] <= 0
        least = np.where(falls, np.maximum(least, at_high.low), least)
        most = np.where(falls, np.minimum(most, at_low.high), most)
        return least, most

    def _value_interval(self, x: FloatArray) -> Interval:
        """Return intervals of the function's values at points."""
        return evaluate(self.plan, enclosing((x, x))).output(self.plan.outputs[0]).value

    def _slopes_everywhere(self, shape: tuple[int, ...]) -> LowHigh | None:
        """Return the slopes of each entry's function on the whole line; None if they are not bounded."""
        proof = self.proof
        if isinstance(proof, str):
            return None
        _, function_of_entry = self.plan.distinct_functions
        functions = np.broadcast_to(function_of_entry, shape)
        return proof.low[0][functions], proof.high[0][functions]

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # The rounding of each operator, carried through those after it.
        range_elsewhere = _ranges_in_other_library(self.program, values[0], unit)[-1]
        return np.asarray(np.maximum(range_elsewhere.high - result, result - range_elsewhere.low))


class SideBySide(Operator):
    """Several functions of one value, joined along an axis; ``new``: along a new axis."""

    rule = "stack"
    program: EntryProgram
    outputs: tuple[int, ...]
    """Numbers of the program's values that are joined."""
    axis: int
    new: bool = False

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        program_values = run_all(self.program, x)
        return self._join([program_values[output] for output in self.outputs])

    @functools.cached_property
    def plan(self) -> Plan:
        """The program as a plan; `Unreadable` if it has none."""
        return plan_of(self.program, self.outputs)

    @functools.cached_property
    def proof(self) -> Proof | str:
        """Slopes on the whole line, or the reason why they are not bounded."""
        return prove(self.plan)

    @property
    def may_jump(self) -> bool:
        """Whether one of the operators jumps, and nothing proves that the functions are continuous."""
        return self.plan.jumps and isinstance(self.proof, str)

    def lipschitz(self, place: Place) -> float:
        """Return the root of the largest sum of squared slopes, on the whole line or on the range of the input."""
        constants: list[float] = []
        if not isinstance(self.proof, str):
            constants.append(self.proof.constant)
        ranges = place.ranges() if place.boxed or not constants else ()
        if len(ranges) == 1 and ranges[0] is not None and not self.may_jump:
            square_sum = bounds_on(self.plan, ranges[0].low, ranges[0].high).square_sum
            constants.append(host.sqrt_up(float(np.max(square_sum, initial=0.0))))
        if not any(map(math.isfinite, constants)):
            raise NoBoundError(f"of these functions of one value, {self.proof}; {hint(ranges)}")
        return min(constants)

    def carry_weights_back(
        self,
        weights: FloatArray,
        rough_changes: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        # The weight of an entry of the input is the largest weight of the functions at that entry, times the largest
        # sum of their squared slopes.
        if isinstance(self.proof, str) or place.before[0] is None:
            return None
        all_functions_alike = weights.shape[self.axis] == 1
        parts = [weights] if all_functions_alike else np.split(weights, len(self.outputs), self.axis)
        if self.new:
            parts = [part.take(0, self.axis) for part in parts]
        constant = np.asarray(self.proof.constant)
        return [times_up(np.maximum.reduce(parts), constant, constant)]

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        (x,) = ranges
        if self.may_jump:
            return None
        bounds = bounds_on(self.plan, x.low, x.high)
        return enclosing((self._join([*bounds.low_value]), self._join([*bounds.high_value])))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        ranges = _ranges_in_other_library(self.program, values[0], unit)
        low = self._join([ranges[output].low for output in self.outputs])
        high = self._join([ranges[output].high for output in self.outputs])
        return np.asarray(np.maximum(high - result, result - low))

    def _join(self, parts: Sequence[FloatArray]) -> FloatArray:
        return np.stack(parts, self.axis) if self.new else np.concatenate(parts, self.axis)
