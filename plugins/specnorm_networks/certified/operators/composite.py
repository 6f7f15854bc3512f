"""Functions of one number that several operators of a network compute, alone or side by side.

A difference quotient of a continuous function with a bounded derivative almost everywhere is a mean of that derivative
(the fundamental theorem of calculus). For several functions f_i of one number, |f(x) - f(y)| is at most the integral
of |f'|, so that the root of the largest sum of squared slopes is a constant.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, anything, arithmetic, enclosing, host
from specnorm_networks.certified.curves.jets import Slopes, evaluate, slopes_by_branches
from specnorm_networks.certified.curves.programs import Plan, Written, plan_of
from specnorm_networks.certified.curves.subdivision import Proof, prove
from specnorm_networks.certified.operators.base import (
    Ends,
    FloatArray,
    NoBoundError,
    Operator,
    Place,
    Pointwise,
    times_up,
)
from specnorm_networks.certified.operators.pointwise import hint

Extent: TypeAlias = tuple[float, float]
AT_ONCE = 2**16
"""Intervals that are looked at together."""
PARTS = 8
"""Of an interval, at most."""


def run_all(program: Written, x: FloatArray) -> list[FloatArray]:
    """All values of a program."""
    values = [x]
    for operator, reads in program:
        values.append(operator.run(*(values[at] for at in reads)))
    return values


def _rounded(program: Written, x: FloatArray, unit: float) -> list[Interval]:
    """Where values lie that another library computes, whose unit roundoff is ``unit``."""
    values = run_all(program, x)
    ranges = [enclosing((x, x))]
    for at, (operator, reads) in enumerate(program):
        place = Place(tuple(values[each].shape for each in reads), values[at + 1].shape)
        linear = operator.linear_map(place)
        given = [ranges[each] for each in reads]
        image = linear.image(given) if linear is not None else operator.image(given, place)
        if image is None:
            image = anything(values[at + 1].shape)
        lost = np.asarray(operator.rounding([values[each] for each in reads], values[at + 1], unit))
        low = np.minimum(image.low, values[at + 1]) - lost
        high = np.maximum(image.high, values[at + 1]) + lost
        ranges.append(enclosing((low, high)))
    return ranges


@arithmetic.on_host()
def slopes_on(plan: Plan, low: FloatArray, high: FloatArray) -> Slopes:
    """Slopes and values of each entry's function on intervals, which are looked at in parts; arrays of their shape."""
    flat, which = plan.entries
    entries = np.broadcast_to(which, low.shape).reshape(-1)
    one = low.reshape(-1)
    other = high.reshape(-1)
    points = np.array_equal(one, other)
    count = 1 if points else max(1, min(PARTS, AT_ONCE // max(low.size, 1)))
    chunks = [
        _in_parts(flat, one[at : at + AT_ONCE], other[at : at + AT_ONCE], entries[at : at + AT_ONCE], count)
        for at in range(0, max(low.size, 1), AT_ONCE)
    ]

    def together(arrays: Sequence[FloatArray]) -> FloatArray:
        whole = np.concatenate(arrays, axis=-1)
        return whole.reshape((*whole.shape[:-1], *low.shape))

    values = together([each.values[0] for each in chunks]), together([each.values[1] for each in chunks])
    square = together([each.square for each in chunks])
    return Slopes(together([each.low for each in chunks]), together([each.high for each in chunks]), square, values)


def _in_parts(
    plan: Plan,
    low: FloatArray,
    high: FloatArray,
    entries: NDArray[np.intp],
    count: int,
) -> Slopes:
    """Of intervals that are divided into so many parts each; those without an end are not."""
    share = np.linspace(0.0, 1.0, count + 1)[1:-1, None]
    inner = np.clip(low + share * (high - low), low, high)
    ends = np.concatenate([low[None], inner, high[None]])
    whole = ~(np.isfinite(low) & np.isfinite(high)) | np.isnan(inner).any(axis=0)
    first = np.where(whole, low, ends[:-1])
    last = np.where(whole, high, ends[1:])
    found = slopes_by_branches(plan, first.reshape(-1), last.reshape(-1), np.tile(entries, count))

    def reduced(array: FloatArray, reduce: np.ufunc) -> FloatArray:
        return np.asarray(reduce.reduce(array.reshape((*array.shape[:-1], count, low.size)), axis=-2))

    values = reduced(found.values[0], np.minimum), reduced(found.values[1], np.maximum)
    square = reduced(found.square, np.maximum)
    return Slopes(reduced(found.low, np.minimum), reduced(found.high, np.maximum), square, values)


class Composite(Pointwise):
    """A function of one number, in operators."""

    program: Written
    """Operators, and the numbers of the values that each reads: 0 is the argument; the last one is the value."""

    def value(self, x: FloatArray) -> FloatArray:
        return run_all(self.program, x)[-1]

    @functools.cached_property
    def plan(self) -> Plan:
        """The program, to be proven."""
        return plan_of(self.program, (len(self.program),))

    @functools.cached_property
    def proof(self) -> Proof | str:
        """Slopes everywhere, or why there are none."""
        return prove(self.plan)

    def extent(self) -> Extent | None:
        proof = self.proof
        return None if isinstance(proof, str) else (float(proof.low.min()), float(proof.high.max()))

    def lipschitz(self, place: Place) -> float:
        """The largest absolute slope, everywhere or on the range that the inputs are known to lie in."""
        lacks = isinstance(self.proof, str)
        if self.near is None and (lacks or place.boxed):
            known = place.ranges()
            found = None
            if len(known) == 1 and known[0] is not None:
                found = self.slopes(known[0].low, known[0].high)
            if found is not None:
                return float(max(np.max(abs(end), initial=0.0) for end in found))
            if lacks:
                raise NoBoundError(f"of this function of one value, {self.proof}; {hint(known)}")
        return super().lipschitz(place)

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        everywhere = self._everywhere(low.shape)
        if everywhere is None and self.plan.jumps:
            return None
        if everywhere is not None and not (np.isfinite(low) & np.isfinite(high)).any():
            return everywhere
        least, most = everywhere or (np.full(low.shape, -math.inf), np.full(low.shape, math.inf))
        found = slopes_on(self.plan, low, high)
        least = np.maximum(least, found.low[0])
        most = np.minimum(most, found.high[0])
        return (least, most) if np.isfinite(least).all() and np.isfinite(most).all() else None

    @arithmetic.on_host()
    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        # By intervals on parts; where the function rises or falls all the way, by both ends.
        if self.plan.jumps and isinstance(self.proof, str):
            return super().between(low, high)
        found = slopes_on(self.plan, low, high)
        least = found.values[0][0]
        most = found.values[1][0]
        one, other = (
            evaluate(self.plan, enclosing((end, end))).output(self.plan.outputs[0]).value for end in (low, high)
        )
        for steady, first, last in ((found.low[0] >= 0, one, other), (found.high[0] <= 0, other, one)):
            least = np.where(steady, np.maximum(least, first.low), least)
            most = np.where(steady, np.minimum(most, last.high), most)
        return least, most

    def _everywhere(self, shape: tuple[int, ...]) -> Ends | None:
        """Slopes of each entry's function on the whole line."""
        proof = self.proof
        if isinstance(proof, str):
            return None
        which = np.broadcast_to(self.plan.entries[1], shape)
        return proof.low[0][which], proof.high[0][which]

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # Each operator's own rounding, and what it makes of those before.
        found = _rounded(self.program, values[0], unit)[-1]
        return np.asarray(np.maximum(found.high - result, result - found.low))


class SideBySide(Operator):
    """Several functions of one value, one behind the other along an axis; ``new``: along an axis of their own."""

    rule = "stack"
    program: Written
    outputs: tuple[int, ...]
    """Numbers of the values that are joined."""
    axis: int
    new: bool = False

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        found = run_all(self.program, x)
        return self._joined([found[output] for output in self.outputs])

    @functools.cached_property
    def plan(self) -> Plan:
        """The program, to be proven."""
        return plan_of(self.program, self.outputs)

    @functools.cached_property
    def proof(self) -> Proof | str:
        """Slopes everywhere, or why there are none."""
        return prove(self.plan)

    def lipschitz(self, place: Place) -> float:
        """The root of the largest sum of squared slopes, everywhere or on the range of the inputs."""
        limits = [] if isinstance(self.proof, str) else [self.proof.steepest]
        known = place.ranges() if place.boxed or not limits else ()
        if len(known) == 1 and known[0] is not None and not (self.plan.jumps and not limits):
            square = slopes_on(self.plan, known[0].low, known[0].high).square
            limits.append(host.sqrt_up(float(np.max(square, initial=0.0))))
        if not any(map(math.isfinite, limits)):
            raise NoBoundError(f"of these functions of one value, {self.proof}; {hint(known)}")
        return min(limits)

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        # The largest weight of the functions at each entry, times their sum of squared slopes.
        if isinstance(self.proof, str) or place.before[0] is None:
            return None
        if weights.shape[self.axis] == 1:
            largest = weights.take(0, self.axis) if self.new else weights
        else:
            parts = np.split(weights, len(self.outputs), self.axis)
            largest = np.maximum.reduce([part.take(0, self.axis) if self.new else part for part in parts])
        steep = np.asarray(self.proof.steepest)
        return [times_up(largest, steep, steep)]

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        (x,) = ranges
        if self.plan.jumps and isinstance(self.proof, str):
            return None
        low, high = slopes_on(self.plan, x.low, x.high).values
        return enclosing((self._joined([*low]), self._joined([*high])))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        known = _rounded(self.program, values[0], unit)
        low, high = (self._joined([known[output].ends[end] for output in self.outputs]) for end in (0, 1))
        return np.asarray(np.maximum(high - result, result - low))

    def _joined(self, parts: Sequence[FloatArray]) -> FloatArray:
        return np.stack(parts, self.axis) if self.new else np.concatenate(parts, self.axis)
