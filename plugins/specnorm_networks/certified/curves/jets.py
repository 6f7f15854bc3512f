"""Values and slopes of a plan on intervals: derivatives by intervals, one branch at a time.

On an interval of the argument each step's value and its derivative lie in intervals, rounded outward (the chain rule).
Where a value u may cross a number t at which a step changes its branch, three cases are looked at by themselves: u < t,
u > t, and u = t on a set of positive measure, where u' = 0 almost everywhere. All steps that read u are on one branch
then. The union of the cases holds the derivative almost everywhere, which is all that a Lipschitz constant of a
continuous function needs: it is absolutely continuous, since every branch has a bounded derivative on a closed set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, anything, enclosing, host, point
from specnorm_networks.certified.curves.programs import (
    Above,
    If,
    Line,
    Masked,
    Number,
    Over,
    Pick,
    Plan,
    SignOf,
    Step,
    Times,
    Total,
)
from specnorm_networks.certified.operators.base import FloatArray, Pointwise
from specnorm_networks.certified.operators.pointwise import (
    ELU,
    Arctan,
    Erf,
    Exp,
    HardTanh,
    Kinked,
    Log,
    Power,
    Reciprocal,
    Rsqrt,
    Sigmoid,
    Softplus,
    SoftShrink,
    Sqrt,
    Steep,
    Tanh,
    Wave,
)

FREE = 2
"""Of a switch: no branch is chosen; -1, 0 and 1: below, at and above the threshold."""
MOST = 2**13
"""Cases beyond those that there are intervals."""


@dataclass(frozen=True, eq=False)
class Jet:
    """A value and its slope on intervals of the argument."""

    value: Interval
    slope: Interval
    bend: Interval
    """The second derivative, where no switch is undecided; infinite where it is not known."""
    defined: NDArray[np.bool_]
    """Whether it is defined on the whole interval."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All values of a plan on intervals."""

    jets: list[Jet]
    open: NDArray[np.bool_]
    """Shape (switches, *intervals): which switches are undecided there."""
    possible: NDArray[np.bool_]
    """Whether the branches that were chosen are met at all."""

    def output(self, number: int) -> Jet:
        """A value; nothing is known of its slope where it is not defined."""
        jet = self.jets[number]
        if jet.defined.all():
            return jet
        low, high = (
            np.where(jet.defined, end, far) for end, far in zip(jet.slope.ends, (-np.inf, np.inf), strict=True)
        )
        return Jet(jet.value, enclosing((low, high)), jet.bend, jet.defined)


def evaluate(plan: Plan, x: Interval, sides: NDArray[np.int8] | None = None) -> Evaluation:
    """Values and slopes on intervals, with the constants broadcast against them.

    ``sides``: of each switch, shape (switches, *intervals); default: all are free.
    """
    switches = plan.switches
    sides = np.full((len(switches), *x.shape), FREE, np.int8) if sides is None else sides
    undecided = np.zeros(sides.shape, np.bool_)
    possible = np.ones(x.shape, np.bool_)
    jets: list[Jet] = [Jet(x, point(np.ones(x.shape)), point(np.zeros(x.shape)), possible)]
    decisions: dict[tuple[int, float], FloatArray] = {}
    for number in range(len(plan.steps) + 1):
        if number:
            jets.append(_step(plan.steps[number - 1], jets, decisions))
        for at, switch in enumerate(switches):
            if switch.value == number:
                jets[number], met, decision = _restricted(jets[number], switch.threshold, sides[at])
                possible = possible & met
                if switch.jumps:
                    undecided[at] = np.isnan(decision)
                else:
                    value = jets[number].value
                    undecided[at] = (value.low < switch.threshold) & (value.high > switch.threshold)
                decisions[number, switch.threshold] = decision
    return Evaluation(jets, undecided & possible, possible)


def _restricted(
    jet: Jet,
    threshold: float,
    side: NDArray[np.int8],
) -> tuple[Jet, NDArray[np.bool_], FloatArray]:
    """A value on the chosen side, whether there is any, and the sign of it less the threshold; NaN: undecided."""
    low, high = jet.value.ends
    slope = jet.slope
    met = np.ones(low.shape, np.bool_)
    if (side != FREE).any():
        still = side == 0
        # A value with a slope that is not 0 does not stay anywhere.
        stays = (slope.low <= 0) & (slope.high >= 0) & (low <= threshold) & (high >= threshold)
        met = np.where(side == -1, low < threshold, np.where(side == 1, high > threshold, stays | (side == FREE)))
        low = np.where(still | (side == 1), np.maximum(low, threshold), low)
        high = np.where(still | (side == -1), np.minimum(high, threshold), high)
        slope = enclosing((np.where(still, 0.0, slope.low), np.where(still, 0.0, slope.high)))
    low = np.where(met, low, threshold)
    high = np.where(met, high, threshold)
    sign = np.where(low > threshold, 1.0, np.where(high < threshold, -1.0, math.nan))
    sign = np.where((low == threshold) & (high == threshold), 0.0, sign)
    sign = np.where(side == FREE, sign, side)
    return Jet(enclosing((low, high)), slope, jet.bend, jet.defined), met, sign


def times(one: Interval, other: Interval) -> Interval:
    """The product; exact where one factor is -1, 0 or 1, and of the sign that it has."""
    low, high = (one * other).ends
    above = [x.low >= 0 for x in (one, other)]
    below = [x.high <= 0 for x in (one, other)]
    low = np.where((above[0] & above[1]) | (below[0] & below[1]), np.maximum(low, 0.0), low)
    high = np.where((above[0] & below[1]) | (below[0] & above[1]), np.minimum(high, 0.0), high)
    for factor, rest in ((one, other), (other, one)):
        fixed = factor.low == factor.high
        zero, same, turned = (fixed & (factor.low == number) for number in (0.0, 1.0, -1.0))
        low = np.where(zero, 0.0, np.where(same, rest.low, np.where(turned, -rest.high, low)))
        high = np.where(zero, 0.0, np.where(same, rest.high, np.where(turned, -rest.low, high)))
    return enclosing((low, high))


def plus(one: Interval, other: Interval) -> Interval:
    """The sum; exact where nothing is rounded (Knuth's error of a sum is 0)."""
    ends = []
    for a, b, outward in ((one.low, other.low, host.next_down), (one.high, other.high, host.next_up)):
        total = a + b
        part = total - a
        error = (a - (total - part)) + (b - part)
        ends.append(np.where(error == 0, total, outward(total)))
    return enclosing((ends[0], ends[1]))


def slopes_of(function: Pointwise, x: Interval) -> Interval:
    """Slopes of a function of one number, entry by entry; infinite where none is known."""
    if isinstance(function, Steep):
        return enclosing(function.derivative(x).ends)
    found = function.slopes(*x.ends)
    if found is None:
        return anything(x.shape)
    return enclosing((np.broadcast_to(found[0], x.shape), np.broadcast_to(found[1], x.shape)))


def is_defined(function: Pointwise, x: Interval) -> NDArray[np.bool_]:
    """Whether a function is defined on all of an interval."""
    if isinstance(function, Sqrt):
        return np.asarray(x.low >= 0)
    if isinstance(function, Reciprocal):
        return np.asarray((x.low > 0) | (x.high < 0))
    if isinstance(function, Steep) and function.positive:
        return np.asarray(x.low > 0)
    return np.ones(x.shape, np.bool_)


def _step(step: Step, jets: Sequence[Jet], decisions: dict[tuple[int, float], FloatArray]) -> Jet:
    read = [jets[at] for at in step.reads]
    shape = jets[0].value.shape
    defined = np.logical_and.reduce([jet.defined for jet in read]) if read else np.ones(shape, np.bool_)
    none = point(np.zeros(shape))
    match step.kind:
        case Number(values):
            return Jet(point(np.broadcast_to(values, shape)), none, none, defined)
        case Line() as line:
            slope, shift = (_wide(each, shape) for each in line.intervals)
            scaled = [times(each, slope) for each in (read[0].value, read[0].slope, read[0].bend)]
            return Jet(plus(scaled[0], shift), scaled[1], scaled[2], defined)
        case Total(weights, over):
            totals = []
            for parts in zip(*((jet.value, jet.slope, jet.bend) for jet in read), strict=True):
                total = none
                for weight, part in zip(weights, parts, strict=True):
                    total = plus(total, part.scaled(weight))
                totals.append(total if over == 1 else total.scaled(1 / over, 2.0**-52))
            value, slope, bend = totals
            return Jet(value, slope, bend, defined)
        case Times():
            one, other = read
            if step.reads[0] == step.reads[1]:
                square = times(one.value, one.value)
                value = enclosing((np.maximum(square.low, 0.0), square.high))
                bend = plus(_square(one.slope), times(one.value, one.bend)).scaled(2.0)
                return Jet(value, times(one.value, one.slope).scaled(2.0), bend, defined)
            slope = plus(times(one.slope, other.value), times(one.value, other.slope))
            bend = plus(times(one.bend, other.value), times(one.value, other.bend))
            bend = plus(bend, times(one.slope, other.slope).scaled(2.0))
            return Jet(times(one.value, other.value), slope, bend, defined)
        case Over():
            one, other = read
            inverse = other.value.inverse()
            value = times(one.value, inverse)
            slope = times(plus(one.slope, -times(value, other.slope)), inverse)
            # (a / b)'' = (a'' - 2 (a / b)' b' - (a / b) b'') / b
            less = plus(times(slope, other.slope).scaled(2.0), times(value, other.bend))
            bend = times(plus(one.bend, -less), inverse)
            return Jet(value, slope, bend, defined & (other.value.mignitude() > 0))
        case Masked(mask):
            return _chosen(np.broadcast_to(mask, shape), *read)
        case Pick(larger):
            sign = decisions[step.reads[0], 0.0]
            return _picked(np.asarray(sign if larger else -sign), larger, *read[1:])
        case If():
            condition, one, other = read
            yes = condition.value.mignitude() > 0
            no = (condition.value.low == 0) & (condition.value.high == 0)
            found = _chosen(yes, one, other)
            known = condition.defined & np.where(yes, one.defined, other.defined) & (yes | no)
            value = _union(one.value, other.value, ~(yes | no), found.value)
            return Jet(value, found.slope, found.bend, known)
        case Above(kind, threshold):
            sign = decisions[step.reads[0], threshold]
            return _decided(sign, _meets(kind, sign), (0.0, 1.0), defined)
        case SignOf():
            sign = decisions[step.reads[0], 0.0]
            return _decided(sign, sign, (-1.0, 1.0), defined)
        case Pointwise() as function:
            (jet,) = read
            value = _wide(enclosing(function.between(*jet.value.ends)), shape)
            slope = slopes_of(function, jet.value)
            # The chain rule, twice.
            bend = times(_bends_of(function, jet.value, value, slope), _square(jet.slope))
            bend = plus(bend, times(slope, jet.bend))
            return Jet(value, times(slope, jet.slope), bend, defined & is_defined(function, jet.value))


def _square(x: Interval) -> Interval:
    found = times(x, x)
    return enclosing((np.maximum(found.low, 0.0), found.high))


def _bends_of(f: Pointwise, x: Interval, value: Interval, slope: Interval) -> Interval:
    """The second derivative of a function on intervals in which it has no kink, from its value and its slope."""
    match f:
        case Kinked() | HardTanh() | SoftShrink():
            return point(np.zeros(x.shape))
        case Exp():
            return slope
        case Log():
            return -_square(slope)
        case Power():
            inner = Power(max(f.exponent - 1, 1)).derivative(x)
            return inner.scaled(float(f.exponent)) if f.exponent > 1 else point(np.zeros(x.shape))
        case Sqrt():
            return times(slope, x.inverse()).scaled(-0.5)
        case Rsqrt():
            return times(slope, x.inverse()).scaled(-1.5)
        case Reciprocal():
            return times(slope, x.inverse()).scaled(-2.0)
        case Tanh():
            return times(value, slope).scaled(-2.0)
        case Sigmoid():
            return times(slope, plus(point(np.ones(x.shape)), value.scaled(-2.0)))
        case Softplus():
            return times(slope, plus(point(np.ones(x.shape)), -slope))
        case Wave():
            return -value
        case Erf():
            return times(x, slope).scaled(-2.0)
        case Arctan():
            return times(x, _square(slope)).scaled(-2.0)
        case ELU():
            below = x.high <= 0
            above = x.low >= 0
            low, high = (np.where(above, 0.0, np.where(below, end, far))
                         for end, far in zip(slope.ends, (-math.inf, math.inf), strict=True))  # fmt: skip
            return enclosing((low, high))
    return anything(x.shape)


def _meets(kind: str, sign: FloatArray) -> FloatArray:
    """Whether a value compares with its threshold, by the sign of the difference: 1 or 0."""
    compare = {"gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal}[kind]
    return np.where(compare(sign, 0.0), 1.0, 0.0)


def _decided(
    sign: FloatArray,
    value: FloatArray,
    ends: tuple[float, float],
    defined: NDArray[np.bool_],
) -> Jet:
    """A step's value: known where its switch is decided; else it jumps, which is no slope."""
    unknown = np.isnan(sign)
    low, high = (np.where(unknown, end, value) for end in ends)
    slope = enclosing((np.where(unknown, -math.inf, 0.0), np.where(unknown, math.inf, 0.0)))
    return Jet(enclosing((low, high)), slope, slope, defined)


def _picked(sign: FloatArray, larger: bool, one: Jet, other: Jet) -> Jet:
    """The larger or the smaller of two values: the first where the sign is not below 0; both where it is unknown."""
    unknown = np.isnan(sign)
    found = _chosen(sign >= 0, one, other)
    extreme = np.maximum if larger else np.minimum
    both = enclosing((extreme(one.value.low, other.value.low), extreme(one.value.high, other.value.high)))
    value = enclosing((np.where(unknown, both.low, found.value.low), np.where(unknown, both.high, found.value.high)))
    slope = _union(one.slope, other.slope, unknown, found.slope)
    return Jet(value, slope, found.bend, one.defined & other.defined)


def _chosen(mask: NDArray[np.bool_], one: Jet, other: Jet) -> Jet:
    """The first where a mask is true, else the second."""
    value, slope, bend = (
        enclosing((np.where(mask, a.low, b.low), np.where(mask, a.high, b.high)))
        for a, b in ((one.value, other.value), (one.slope, other.slope), (one.bend, other.bend))
    )
    return Jet(value, slope, bend, np.where(mask, one.defined, other.defined))


def _union(one: Interval, other: Interval, where: NDArray[np.bool_], rest: Interval) -> Interval:
    """Both intervals together at some entries, another one elsewhere."""
    low = np.where(where, np.minimum(one.low, other.low), rest.low)
    return enclosing((low, np.where(where, np.maximum(one.high, other.high), rest.high)))


def _wide(x: Interval, shape: tuple[int, ...]) -> Interval:
    return x if x.shape == shape else enclosing((np.broadcast_to(x.low, shape), np.broadcast_to(x.high, shape)))


# -- by branches -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Slopes:
    """On each interval, for each output: shape (outputs, intervals)."""

    low: FloatArray
    high: FloatArray
    square: FloatArray
    """Of all outputs together, shape (intervals,): the largest sum of squared slopes, rounded up."""
    values: tuple[FloatArray, FloatArray]
    """Smallest and largest values, shape (outputs, intervals)."""


def slopes_by_branches(
    plan: Plan,
    low: FloatArray,
    high: FloatArray,
    entries: NDArray[np.intp] | None,
) -> Slopes:
    """Slopes on intervals, each branch by itself.

    Parameters
    ----------
    low, high : array, shape (intervals,)
    entries : array, shape (intervals,), or None
        Numbers of the functions, where the plan has flat constants of several.
    """
    # A point may be a kink: both sides count.
    alone = low == high
    low = np.where(alone, host.next_down(low), low)
    high = np.where(alone, host.next_up(high), high)
    count = len(low)
    outputs = len(plan.outputs)
    least = np.full((outputs, count), math.inf)
    most = np.full((outputs, count), -math.inf)
    down = least.copy()
    up = most.copy()
    square = np.zeros(count)
    owner = np.arange(count)
    sides = np.full((len(plan.switches), count), FREE, np.int8)
    budget = count + MOST
    # Intervals on which no branch was chosen yet.
    whole: NDArray[np.bool_] | None = None if alone.all() else ~alone
    while len(owner):
        own = plan if entries is None else plan.at(entries[owner])
        found = evaluate(own, enclosing((low[owner], high[owner])), sides)
        budget -= len(owner)
        undecided = found.open.any(axis=0) & (budget > 0)
        done = np.flatnonzero(found.possible & ~undecided)
        smooth = None if whole is None else _at_middles(own, low[owner], high[owner], found, whole)
        total = np.zeros(len(done))
        for at, number in enumerate(plan.outputs):
            jet = found.output(number)
            slope = jet.slope if smooth is None else jet.slope & smooth[at]
            for array, reduce, end in (
                (least, np.minimum, slope.low), (most, np.maximum, slope.high), (down, np.minimum, jet.value.low),
                (up, np.maximum, jet.value.high),
            ):  # fmt: skip
                reduce.at(array[at], owner[done], end[done])
            steep = slope.magnitude()[done]
            total = host.next_up(total + host.next_up(steep * steep))
        if smooth is not None:
            total = np.minimum(total, smooth[-1].high[done])
        np.maximum.at(square, owner[done], total)
        whole = None
        split = np.flatnonzero(undecided)
        if not len(split):
            break
        first = found.open[:, split].argmax(axis=0)
        cases = []
        for side in (-1, 0, 1):
            each = sides[:, split].copy()
            each[first, np.arange(len(split))] = side
            cases.append(each)
        owner = np.tile(owner[split], 3)
        sides = np.concatenate(cases, axis=1)
    # Branches that are never met leave nothing: the function is not there.
    missing = least > most
    least = np.where(missing, -math.inf, least)
    most = np.where(missing, math.inf, most)
    down = np.where(missing, -math.inf, down)
    up = np.where(missing, math.inf, up)
    square = np.where(missing.any(axis=0) | np.isnan(square), math.inf, square)
    return Slopes(least, most, square, (down, up))


def _at_middles(
    plan: Plan,
    low: FloatArray,
    high: FloatArray,
    found: Evaluation,
    whole: NDArray[np.bool_],
) -> list[Interval]:
    """Slopes of all outputs, and their sum of squares, by those at the middles: the mean value theorem.

    Where a switch is undecided on an interval, nothing is said.
    """
    bounded = np.isfinite(low) & np.isfinite(high)
    middle = np.where(bounded, np.clip(low / 2 + high / 2, low, high), 0.0)
    away = np.maximum(host.next_up(high - middle), host.next_up(middle - low))
    there = evaluate(plan, point(middle))
    steady = whole & ~found.open.any(axis=0) & bounded
    around = enclosing((-away, away))
    made = []
    square = point(np.zeros(low.shape))
    rise = point(np.zeros(low.shape))
    for number in plan.outputs:
        jet = found.output(number)
        at_middle = there.output(number)
        steady = steady & jet.defined & np.isfinite(jet.bend.low) & np.isfinite(jet.bend.high)
        made.append(_where(steady, plus(at_middle.slope, times(jet.bend, around))))
        square = plus(square, _square(at_middle.slope))
        rise = plus(rise, times(jet.slope, jet.bend).scaled(2.0))
    return [*made, _where(steady, plus(square, times(rise, around)))]


def _where(mask: NDArray[np.bool_], x: Interval) -> Interval:
    """An interval where a mask is true, elsewhere anything."""
    return enclosing((np.where(mask, x.low, -math.inf), np.where(mask, x.high, math.inf)))
