"""Values and slopes of a plan on intervals: derivatives by intervals, one branch at a time.

A *plan* is a straight-line program for functions of one variable, the argument (`programs`). A *switch* is a value of
the plan and a threshold at which a later step changes its formula. The formula on one side is a *branch* of the step.

On an interval of the argument the value of each step and its derivative lie in intervals, rounded outward (the chain
rule). If a value u may cross a threshold t of a switch, three cases are evaluated one by one: u < t, u > t, and u = t
on a set of positive measure, where u' = 0 almost everywhere. In each case all steps that read u are on one branch. The
union of the cases contains the derivative almost everywhere. That is enough: a continuous function that is made of
finitely many branches with bounded derivatives, each on a closed set, is absolutely continuous, so that a bound of its
derivative almost everywhere is a Lipschitz constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, anything, enclosing, host, point
from specnorm_networks.certified.curves.programs import (
    ChoiceByMask,
    ChoiceByValue,
    Comparison,
    Extreme,
    Number,
    Plan,
    PlanStep,
    ProductOfTwo,
    QuotientOfTwo,
    ScaleAndShift,
    SignOf,
    WeightedSum,
)
from specnorm_networks.certified.operators.base import FloatArray, Pointwise
from specnorm_networks.certified.operators.piecewise import HardTanh, SoftShrink, TwoSlopes
from specnorm_networks.certified.operators.smooth import ELU, Arctan, Erf, Sigmoid, Softplus, Tanh, Wave
from specnorm_networks.certified.operators.steep import Exp, Log, Power, Reciprocal, Rsqrt, Sqrt, Steep

BELOW = -1
"""Side of a switch: its value is below the threshold."""
AT = 0
"""Side of a switch: its value is at the threshold."""
ABOVE = 1
"""Side of a switch: its value is above the threshold."""
FREE = 2
"""No side of a switch is chosen."""
MOST_CASES = 2**13
"""Largest number of cases that are evaluated, beyond one for each interval."""


@dataclass(frozen=True, eq=False)
class Jet:
    """A value of a plan with two derivatives by the argument, on intervals of the argument."""

    value: Interval
    slope: Interval
    second_derivative: Interval
    """Valid where no switch is undecided; infinite if it is unknown."""
    is_defined: NDArray[np.bool_]
    """Whether the value is defined on the whole interval."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All values of a plan on intervals."""

    jets: list[Jet]
    undecided: NDArray[np.bool_]
    """Which switches the interval may cross, shape (switches, *intervals)."""
    is_possible: NDArray[np.bool_]
    """Whether the chosen sides of the switches can all be met."""

    def output(self, number: int) -> Jet:
        """Return a value by its number; its slope is unbounded where it is not defined."""
        jet = self.jets[number]
        if jet.is_defined.all():
            return jet
        low = np.where(jet.is_defined, jet.slope.low, -np.inf)
        high = np.where(jet.is_defined, jet.slope.high, np.inf)
        return Jet(jet.value, enclosing((low, high)), jet.second_derivative, jet.is_defined)


Signs = dict[tuple[int, float], FloatArray]
"""For a value's number and a threshold: the sign of the value less the threshold, -1, 0 or 1; NaN if undecided."""


def evaluate(plan: Plan, x: Interval, sides: NDArray[np.int8] | None = None) -> Evaluation:
    """Return all values of a plan on intervals of the argument. Its parameters broadcast to the intervals' shape.

    ``sides``: side of each switch, shape (switches, *intervals). Default: all are `FREE`.
    """
    switches = plan.switches
    if sides is None:
        sides = np.full((len(switches), *x.shape), FREE, np.int8)
    undecided = np.zeros(sides.shape, np.bool_)
    is_possible = np.ones(x.shape, np.bool_)
    argument = Jet(x, point(np.ones(x.shape)), point(np.zeros(x.shape)), np.ones(x.shape, np.bool_))
    jets: list[Jet] = []
    signs: Signs = {}
    for number in range(len(plan.steps) + 1):
        jet = _jet_of_step(plan.steps[number - 1], jets, signs) if number > 0 else argument
        for index, switch in enumerate(switches):
            if switch.value != number:
                continue
            jet, is_met, sign = _on_side(jet, switch.threshold, sides[index])
            is_possible = is_possible & is_met
            if switch.jumps:  # the jump counts even if the value only touches the threshold
                undecided[index] = np.isnan(sign)
            else:
                undecided[index] = (jet.value.low < switch.threshold) & (jet.value.high > switch.threshold)
            signs[number, switch.threshold] = sign
        jets.append(jet)
    return Evaluation(jets, undecided & is_possible, is_possible)


class Restricted(NamedTuple):
    """A value on one side of a threshold."""

    jet: Jet
    is_met: NDArray[np.bool_]
    """Whether the value can be on that side."""
    sign: FloatArray
    """Sign of the value less the threshold; NaN if it is undecided."""


def _on_side(jet: Jet, threshold: float, side: NDArray[np.int8]) -> Restricted:
    """Restrict a value to the chosen side of a threshold."""
    low, high = jet.value.ends
    slope = jet.slope
    is_met = np.ones(low.shape, np.bool_)
    if (side != FREE).any():
        is_at = side == AT
        # A value that stays at the threshold on a set of positive measure has slope 0 there.
        can_stay = (slope.low <= 0) & (slope.high >= 0) & (low <= threshold) & (high >= threshold)
        is_met = np.where(side == FREE, True, can_stay)
        is_met = np.where(side == BELOW, low < threshold, is_met)
        is_met = np.where(side == ABOVE, high > threshold, is_met)
        low = np.where(is_at | (side == ABOVE), np.maximum(low, threshold), low)
        high = np.where(is_at | (side == BELOW), np.minimum(high, threshold), high)
        slope = enclosing((np.where(is_at, 0.0, slope.low), np.where(is_at, 0.0, slope.high)))
    # Cases whose sides cannot be met are left out later. Here their intervals only need a lower end that is not above
    # the upper end.
    low = np.where(is_met, low, threshold)
    high = np.where(is_met, high, threshold)
    sign = np.where(low > threshold, 1.0, np.where(high < threshold, -1.0, math.nan))
    sign = np.where((low == threshold) & (high == threshold), 0.0, sign)
    sign = np.where(side == FREE, sign, side)
    return Restricted(Jet(enclosing((low, high)), slope, jet.second_derivative, jet.is_defined), is_met, sign)


# -- arithmetic --------------------------------------------------------------------------------------------------------
def times(one: Interval, other: Interval) -> Interval:
    """Return the product of two intervals.

    It is exact if a factor is the number -1, 0 or 1. Rounding outward never gives the product a sign that it cannot
    have.
    """
    low, high = (one * other).ends
    one_is_above = one.low >= 0
    one_is_below = one.high <= 0
    other_is_above = other.low >= 0
    other_is_below = other.high <= 0
    have_same_sign = (one_is_above & other_is_above) | (one_is_below & other_is_below)
    have_opposite_signs = (one_is_above & other_is_below) | (one_is_below & other_is_above)
    low = np.where(have_same_sign, np.maximum(low, 0.0), low)
    high = np.where(have_opposite_signs, np.minimum(high, 0.0), high)
    for factor, rest in ((one, other), (other, one)):
        is_number = factor.low == factor.high
        is_zero = is_number & (factor.low == 0.0)
        is_one = is_number & (factor.low == 1.0)
        is_minus_one = is_number & (factor.low == -1.0)
        low = np.where(is_zero, 0.0, np.where(is_one, rest.low, np.where(is_minus_one, -rest.high, low)))
        high = np.where(is_zero, 0.0, np.where(is_one, rest.high, np.where(is_minus_one, -rest.low, high)))
    return enclosing((low, high))


def plus(one: Interval, other: Interval) -> Interval:
    """Return the sum of two intervals, exact if nothing is rounded."""
    low = _rounded_sum(one.low, other.low, host.next_down)
    return enclosing((low, _rounded_sum(one.high, other.high, host.next_up)))


def _rounded_sum(a: FloatArray, b: FloatArray, outward: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Return a sum, moved outward where it was rounded: where Knuth's error of a sum (TwoSum) is not 0."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return np.where(error == 0, total, outward(total))


def square(x: Interval) -> Interval:
    """Return the square of an interval."""
    product = times(x, x)
    return enclosing((np.maximum(product.low, 0.0), product.high))


# -- functions of one variable -----------------------------------------------------------------------------------------
def slopes_of(function: Pointwise, x: Interval) -> Interval:
    """Return the slopes of a function on intervals; infinite if they are unknown."""
    if isinstance(function, Steep):
        return enclosing(function.derivative(x).ends)
    slopes = function.slopes(*x.ends)
    if slopes is None:
        return anything(x.shape)
    low, high = slopes
    return enclosing((np.broadcast_to(low, x.shape), np.broadcast_to(high, x.shape)))


def is_defined(function: Pointwise, x: Interval) -> NDArray[np.bool_]:
    """Return whether a function is defined on all of an interval."""
    if isinstance(function, Sqrt):
        return np.asarray(x.low >= 0)
    if isinstance(function, Reciprocal):
        return np.asarray((x.low > 0) | (x.high < 0))
    if isinstance(function, Steep) and function.positive:
        return np.asarray(x.low > 0)
    return np.ones(x.shape, np.bool_)


def _second_derivative(f: Pointwise, x: Interval, value: Interval, slope: Interval) -> Interval:
    """Return the second derivative of a function on intervals that contain no kink of it.

    ``value``, ``slope``: of the function on these intervals.
    """
    match f:
        case TwoSlopes() | HardTanh() | SoftShrink():
            return point(np.zeros(x.shape))
        case Exp():
            return slope
        case Log():
            return -square(slope)
        case Power():
            return _second_derivative_of_power(f, x)
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
            return times(x, square(slope)).scaled(-2.0)
        case ELU():
            # Below 0 it is the slope, alpha exp(x); above 0 it is 0.
            is_below = x.high <= 0
            is_above = x.low >= 0
            low = np.where(is_above, 0.0, np.where(is_below, slope.low, -math.inf))
            high = np.where(is_above, 0.0, np.where(is_below, slope.high, math.inf))
            return enclosing((low, high))
    return anything(x.shape)


def _second_derivative_of_power(f: Power, x: Interval) -> Interval:
    """Return ``n (n - 1) x^(n - 2)``."""
    if f.exponent == 1:
        return point(np.zeros(x.shape))
    return Power(f.exponent - 1).derivative(x).scaled(float(f.exponent))


# -- steps -------------------------------------------------------------------------------------------------------------
def _jet_of_step(step: PlanStep, jets: Sequence[Jet], signs: Signs) -> Jet:
    """Return the value of a step from the values before it."""
    inputs = [jets[number] for number in step.reads]
    shape = jets[0].value.shape
    inputs_defined = np.ones(shape, np.bool_)
    for jet in inputs:
        inputs_defined = inputs_defined & jet.is_defined
    zero = point(np.zeros(shape))
    match step.kind:
        case Number(values):
            return Jet(point(np.broadcast_to(values, shape)), zero, zero, inputs_defined)
        case ScaleAndShift() as line:
            return _jet_of_line(line, inputs[0])
        case WeightedSum(weights, divisor):
            value = _weighted_sum([jet.value for jet in inputs], weights, divisor, zero)
            slope = _weighted_sum([jet.slope for jet in inputs], weights, divisor, zero)
            second_derivative = _weighted_sum([jet.second_derivative for jet in inputs], weights, divisor, zero)
            return Jet(value, slope, second_derivative, inputs_defined)
        case ProductOfTwo():
            is_square = step.reads[0] == step.reads[1]
            return _jet_of_square(inputs[0]) if is_square else _jet_of_product(*inputs)
        case QuotientOfTwo():
            return _jet_of_quotient(*inputs)
        case ChoiceByMask(mask):
            return _choose_by_mask(np.broadcast_to(mask, shape), *inputs)
        case Extreme(is_maximum):
            # The step reads the difference of two values, and then both.
            _, first, second = inputs
            sign_of_difference = signs[step.reads[0], 0.0]
            preference = np.asarray(sign_of_difference if is_maximum else -sign_of_difference)
            return _jet_of_extreme(preference, is_maximum, first, second)
        case ChoiceByValue():
            return _choose_by_value(*inputs)
        case Comparison(_, threshold) as comparison:
            sign = signs[step.reads[0], threshold]
            value_if_decided = np.where(comparison.holds_for(sign), 1.0, 0.0)
            return _jet_of_jump(sign, value_if_decided, (0.0, 1.0), inputs_defined)
        case SignOf():
            sign = signs[step.reads[0], 0.0]
            return _jet_of_jump(sign, sign, (-1.0, 1.0), inputs_defined)
        case Pointwise() as function:
            return _jet_of_function(function, inputs[0], shape)


def _jet_of_line(line: ScaleAndShift, x: Jet) -> Jet:
    shape = x.value.shape
    slope, shift = (_broadcast(part, shape) for part in line.intervals)
    value = plus(times(x.value, slope), shift)
    return Jet(value, times(x.slope, slope), times(x.second_derivative, slope), x.is_defined)


def _weighted_sum(parts: Sequence[Interval], weights: Sequence[float], divisor: int, zero: Interval) -> Interval:
    total = zero
    for part, weight in zip(parts, weights, strict=True):
        total = plus(total, part.scaled(weight))
    # The factor 1 / divisor is rounded: its relative error is below 2^-52.
    return total if divisor == 1 else total.scaled(1 / divisor, 2.0**-52)


def _jet_of_square(x: Jet) -> Jet:
    # (x^2)' = 2 x x' and (x^2)'' = 2 (x'^2 + x x'')
    slope = times(x.value, x.slope).scaled(2.0)
    second = plus(square(x.slope), times(x.value, x.second_derivative)).scaled(2.0)
    return Jet(square(x.value), slope, second, x.is_defined)


def _jet_of_product(a: Jet, b: Jet) -> Jet:
    # (a b)' = a' b + a b' and (a b)'' = a'' b + a b'' + 2 a' b'
    slope = plus(times(a.slope, b.value), times(a.value, b.slope))
    second = plus(times(a.second_derivative, b.value), times(a.value, b.second_derivative))
    second = plus(second, times(a.slope, b.slope).scaled(2.0))
    return Jet(times(a.value, b.value), slope, second, a.is_defined & b.is_defined)


def _jet_of_quotient(a: Jet, b: Jet) -> Jet:
    # q = a / b has q' = (a' - q b') / b and q'' = (a'' - 2 q' b' - q b'') / b.
    inverse = b.value.inverse()
    value = times(a.value, inverse)
    slope = times(plus(a.slope, -times(value, b.slope)), inverse)
    subtrahend = plus(times(slope, b.slope).scaled(2.0), times(value, b.second_derivative))
    second = times(plus(a.second_derivative, -subtrahend), inverse)
    return Jet(value, slope, second, a.is_defined & b.is_defined & (b.value.mignitude() > 0))


def _jet_of_function(function: Pointwise, x: Jet, shape: tuple[int, ...]) -> Jet:
    # f(x)' = f'(x) x' and f(x)'' = f''(x) x'^2 + f'(x) x''
    value = _broadcast(enclosing(function.between(*x.value.ends)), shape)
    slope = slopes_of(function, x.value)
    second = times(_second_derivative(function, x.value, value, slope), square(x.slope))
    second = plus(second, times(slope, x.second_derivative))
    return Jet(value, times(slope, x.slope), second, x.is_defined & is_defined(function, x.value))


def _jet_of_jump(
    sign: FloatArray,
    value_if_decided: FloatArray,
    ends: tuple[float, float],
    inputs_defined: NDArray[np.bool_],
) -> Jet:
    """Return a step that jumps where its switch is undecided; its slope is unbounded there.

    ``ends``: smallest and largest value.
    """
    is_undecided = np.isnan(sign)
    least, most = ends
    low = np.where(is_undecided, least, value_if_decided)
    high = np.where(is_undecided, most, value_if_decided)
    slope = enclosing((np.where(is_undecided, -math.inf, 0.0), np.where(is_undecided, math.inf, 0.0)))
    return Jet(enclosing((low, high)), slope, slope, inputs_defined)


def _jet_of_extreme(preference: FloatArray, is_maximum: bool, first: Jet, second: Jet) -> Jet:
    """Return the larger, or the smaller, of two values.

    ``preference``: at least 0 where that is the first value, below 0 where it is the second, NaN if undecided.
    """
    is_undecided = np.isnan(preference)
    chosen = _choose_by_mask(preference >= 0, first, second)
    extreme = np.maximum if is_maximum else np.minimum
    low = np.where(is_undecided, extreme(first.value.low, second.value.low), chosen.value.low)
    high = np.where(is_undecided, extreme(first.value.high, second.value.high), chosen.value.high)
    slope = _union_where(is_undecided, first.slope, second.slope, chosen.slope)
    return Jet(enclosing((low, high)), slope, chosen.second_derivative, first.is_defined & second.is_defined)


def _choose_by_value(condition: Jet, first: Jet, second: Jet) -> Jet:
    """Return the first value where a condition is not 0, the second where it is 0; both together if undecided."""
    is_first = condition.value.mignitude() > 0
    is_second = (condition.value.low == 0) & (condition.value.high == 0)
    is_decided = is_first | is_second
    chosen = _choose_by_mask(is_first, first, second)
    value = _union_where(~is_decided, first.value, second.value, chosen.value)
    return Jet(value, chosen.slope, chosen.second_derivative, condition.is_defined & chosen.is_defined & is_decided)


def _choose_by_mask(mask: NDArray[np.bool_], first: Jet, second: Jet) -> Jet:
    """Return the first value where a mask is true, else the second."""
    value = _choose_interval(mask, first.value, second.value)
    slope = _choose_interval(mask, first.slope, second.slope)
    second_derivative = _choose_interval(mask, first.second_derivative, second.second_derivative)
    return Jet(value, slope, second_derivative, np.where(mask, first.is_defined, second.is_defined))


def _choose_interval(mask: NDArray[np.bool_], first: Interval, second: Interval) -> Interval:
    return enclosing((np.where(mask, first.low, second.low), np.where(mask, first.high, second.high)))


def _union_where(mask: NDArray[np.bool_], one: Interval, other: Interval, elsewhere: Interval) -> Interval:
    """Return the smallest interval that contains two others where a mask is true, and a third interval elsewhere."""
    low = np.where(mask, np.minimum(one.low, other.low), elsewhere.low)
    high = np.where(mask, np.maximum(one.high, other.high), elsewhere.high)
    return enclosing((low, high))


def _broadcast(x: Interval, shape: tuple[int, ...]) -> Interval:
    if x.shape == shape:
        return x
    return enclosing((np.broadcast_to(x.low, shape), np.broadcast_to(x.high, shape)))


# -- by branches -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class CurveBounds:
    """Bounds of the slopes and values of a plan's outputs on intervals."""

    low_slope: FloatArray
    high_slope: FloatArray
    """Smallest and largest slope, shape (outputs, *intervals)."""
    square_sum: FloatArray
    """Largest sum of the squared slopes of all outputs, rounded up, shape (*intervals)."""
    low_value: FloatArray
    high_value: FloatArray
    """Smallest and largest value, shape (outputs, *intervals)."""


class _Union:
    """Bounds that hold for all cases that were included, by interval."""

    def __init__(self, outputs: int, count: int) -> None:
        self.low_slope = np.full((outputs, count), math.inf)
        self.high_slope = np.full((outputs, count), -math.inf)
        self.low_value = np.full((outputs, count), math.inf)
        self.high_value = np.full((outputs, count), -math.inf)
        self.square_sum = np.zeros(count)

    def include(
        self,
        output: int,
        slope: Interval,
        value: Interval,
        cases: NDArray[np.intp],
        interval_of_case: NDArray[np.intp],
    ) -> None:
        """Include the slopes and values of an output in some cases, which are given by their numbers.

        ``interval_of_case``: number of the interval of each case.
        """
        intervals = interval_of_case[cases]
        np.minimum.at(self.low_slope[output], intervals, slope.low[cases])
        np.maximum.at(self.high_slope[output], intervals, slope.high[cases])
        np.minimum.at(self.low_value[output], intervals, value.low[cases])
        np.maximum.at(self.high_value[output], intervals, value.high[cases])

    def bounds(self) -> CurveBounds:
        """Return the bounds; infinite on intervals without a case, where the plan is not defined."""
        is_missing = self.low_slope > self.high_slope
        square_is_unknown = is_missing.any(axis=0) | np.isnan(self.square_sum)
        return CurveBounds(
            np.where(is_missing, -math.inf, self.low_slope),
            np.where(is_missing, math.inf, self.high_slope),
            np.where(square_is_unknown, math.inf, self.square_sum),
            np.where(is_missing, -math.inf, self.low_value),
            np.where(is_missing, math.inf, self.high_value),
        )


def bounds_by_branches(
    plan: Plan,
    low: FloatArray,
    high: FloatArray,
    functions: NDArray[np.intp] | None,
) -> CurveBounds:
    """Bound slopes and values on intervals, each branch by itself.

    Cases with undecided switches are split, until `MOST_CASES` cases more than intervals were evaluated. Then they
    count unsplit: an undecided switch allows both branches, so that the bounds hold, but are wider.

    Parameters
    ----------
    low, high : array, shape (intervals,)
    functions : array, shape (intervals,), or None
        For a plan whose parameters are flat arrays with one number for each of several functions: which function each
        interval belongs to. None if the plan is one function.
    """
    # A single point may be a kink: the slopes on both sides count.
    is_point = low == high
    low = np.where(is_point, host.next_down(low), low)
    high = np.where(is_point, host.next_up(high), high)
    count = len(low)
    union = _Union(len(plan.outputs), count)
    # Cases to be evaluated: the number of the interval of each, and the sides of all switches. At first each interval
    # is one case, without a side.
    interval_of_case = np.arange(count)
    sides = np.full((len(plan.switches), count), FREE, np.int8)
    budget = count + MOST_CASES
    uses_mean_value = not is_point.all()
    while len(interval_of_case):
        plan_of_cases = plan if functions is None else plan.of_functions(functions[interval_of_case])
        low_of_cases = low[interval_of_case]
        high_of_cases = high[interval_of_case]
        evaluation = evaluate(plan_of_cases, enclosing((low_of_cases, high_of_cases)), sides)
        budget -= len(interval_of_case)
        is_split = evaluation.undecided.any(axis=0) & (budget > 0)
        settled = np.flatnonzero(evaluation.is_possible & ~is_split)
        mean_value: MeanValueBounds | None = None
        if uses_mean_value:
            mean_value = _by_mean_value(plan_of_cases, low_of_cases, high_of_cases, evaluation, ~is_point)
        square_sum = np.zeros(len(settled))
        for output, number in enumerate(plan.outputs):
            jet = evaluation.output(number)
            slope = jet.slope if mean_value is None else jet.slope & mean_value.slopes[output]
            union.include(output, slope, jet.value, settled, interval_of_case)
            largest = slope.magnitude()[settled]
            square_sum = host.next_up(square_sum + host.next_up(largest * largest))
        if mean_value is not None:
            square_sum = np.minimum(square_sum, mean_value.square_sum.high[settled])
        np.maximum.at(union.square_sum, interval_of_case[settled], square_sum)
        # Later cases hold only where a switch is on one side. The middle of the interval need not be on that side, so
        # that its slope says nothing about the case.
        uses_mean_value = False
        split = np.flatnonzero(is_split)
        if not len(split):
            break
        first_undecided = evaluation.undecided[:, split].argmax(axis=0)
        sides_of_parts = []
        for side in (BELOW, AT, ABOVE):
            sides_of_part = sides[:, split].copy()
            sides_of_part[first_undecided, np.arange(len(split))] = side
            sides_of_parts.append(sides_of_part)
        interval_of_case = np.tile(interval_of_case[split], 3)
        sides = np.concatenate(sides_of_parts, axis=1)
    return union.bounds()


@dataclass(frozen=True, eq=False)
class MeanValueBounds:
    """Bounds of slopes by the mean value theorem, from second derivatives."""

    slopes: list[Interval]
    """Slopes of each output."""
    square_sum: Interval
    """Sum of the squared slopes of all outputs."""


def _by_mean_value(
    plan: Plan,
    low: FloatArray,
    high: FloatArray,
    evaluation: Evaluation,
    is_interval: NDArray[np.bool_],
) -> MeanValueBounds:
    """Bound slopes by the slope at the middle and the second derivative on the interval.

    The bounds are infinite where a switch is undecided, and for single points, where ``is_interval`` is false.
    """
    is_bounded = np.isfinite(low) & np.isfinite(high)
    middle = np.where(is_bounded, np.clip(low / 2 + high / 2, low, high), 0.0)
    half_width = np.maximum(host.next_up(high - middle), host.next_up(middle - low))
    distances = enclosing((-half_width, half_width))
    at_middle = evaluate(plan, point(middle))
    is_valid = is_interval & ~evaluation.undecided.any(axis=0) & is_bounded
    slopes = []
    # The sum of squares has the derivative 2 sum f' f''.
    square_sum = point(np.zeros(low.shape))
    slope_of_square_sum = point(np.zeros(low.shape))
    for number in plan.outputs:
        jet = evaluation.output(number)
        second = jet.second_derivative
        slope_at_middle = at_middle.output(number).slope
        is_valid = is_valid & jet.is_defined & np.isfinite(second.low) & np.isfinite(second.high)
        slopes.append(_anything_unless(is_valid, plus(slope_at_middle, times(second, distances))))
        square_sum = plus(square_sum, square(slope_at_middle))
        slope_of_square_sum = plus(slope_of_square_sum, times(jet.slope, second).scaled(2.0))
    square_sum = _anything_unless(is_valid, plus(square_sum, times(slope_of_square_sum, distances)))
    return MeanValueBounds(slopes, square_sum)


def _anything_unless(is_valid: NDArray[np.bool_], x: Interval) -> Interval:
    return enclosing((np.where(is_valid, x.low, -math.inf), np.where(is_valid, x.high, math.inf)))
