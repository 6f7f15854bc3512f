"""Programs for one variable: operators of each entry, one after the other, with their values and derivatives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from itertools import permutations
from operator import add
from typing import Any, TypeAlias

import numpy as np

from specnorm.errors import SpecnormError
from specnorm.proof import Interval, anything, around, enclosing, point, within
from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError, NotRunError, Operator
from specnorm_networks.certified.operators.linear import SCALED_ENTRY_ROUNDINGS
from specnorm_networks.certified.operators.smooth import Wave
from specnorm_networks.certified.operators.steep import power_of
from specnorm_networks.certified.patterns.curves.values import Dual, Mask, Quantity, choose, function, number
from specnorm_networks.certified.subjects import digest_of_operator

EntryProgram: TypeAlias = tuple[tuple[Operator, tuple[int, ...]], ...]
"""Operators of each entry, and the numbers of the values that each reads: 0 is the argument of the program, i the value
of operator i - 1. (`base.Program` is the same with several arguments.)"""
ENTRYWISE = (
    ops.Function, ops.Add, ops.Scale, ops.Product, ops.Quotient, ops.Maximum, ops.Minimum, ops.Where, ops.Compare,
    ops.Choose, ops.Sign, ops.Identity, ops.Constant, ops.LogAddExp,
)  # fmt: skip
"""Operators that programs are made of."""
MOST_THRESHOLDS = 16
"""Largest number of entries of an array whose numbers are taken for thresholds."""
RELATIVE_ERROR = (SCALED_ENTRY_ROUNDINGS + 2) * 2.0**-52
"""Relative error of a factor that was computed with `SCALED_ENTRY_ROUNDINGS` roundings."""


class Unreadable(Exception):
    """A program cannot be evaluated: it is long, an operator is not known, or a number is not read or not finite."""


@dataclass(frozen=True)
class Curve:
    """A program whose numbers are loaded, with the numbers of the values that it returns.

    Numbers in its operators are arrays that broadcast against the value: one number an entry, or one for all. Programs
    that compute the same are equal.
    """

    program: EntryProgram = field(compare=False)
    outputs: tuple[int, ...]
    numbers: Sequence[tuple[Interval, ...]] = field(compare=False)
    """`_numbers` of each operator."""
    digests: tuple[tuple[str, tuple[int, ...]], ...]
    """Digest of each operator, and the numbers of the values that it reads."""

    @staticmethod
    def of(program: EntryProgram, outputs: tuple[int, ...]) -> Curve:
        """Load the numbers of a program.

        Raises
        ------
        Unreadable
            If an operator is not known, or one of its numbers cannot be loaded or is not finite.
        """
        try:
            numbers = [_numbers(operator) for operator, _ in program]
            digests = tuple((digest_of_operator(operator), reads) for operator, reads in program)
        except (SpecnormError, NoBoundError, NotRunError, OSError) as error:
            raise Unreadable from error
        return Curve(program, outputs, numbers, digests)

    @cached_property
    def jumps(self) -> bool:
        """Whether one of the operators jumps."""
        return any(isinstance(operator, ops.Sign | ops.Compare | ops.Choose) for operator, _ in self.program)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape to which all numbers broadcast: each of its entries may be a function of its own."""
        return np.broadcast_shapes(*(number.shape for numbers in self.numbers for number in numbers))

    @cached_property
    def thresholds(self) -> set[float]:
        """Absolute values of numbers at which operators may change their formula."""
        ends = [number.low for numbers in self.numbers for number in numbers if number.low.size <= MOST_THRESHOLDS]
        return {abs(x) for end in ends for x in end.reshape(-1).tolist()}

    def angle_of(self, wave: type[Wave], value: int) -> int | None:
        """Return the number of the value whose sine or cosine this value is; None if it is none."""
        operator, reads = self.program[value - 1] if value else (None, ())
        return reads[0] if type(operator) is wave else None

    @cached_property
    def measured(self) -> list[int]:
        """Numbers of values whose squared slopes have the same sum as those of the outputs.

        In the place of the sine and the cosine of one value it is the value itself.
        """
        measured = [*self.outputs]
        for sine, cosine in permutations(self.outputs, 2):
            angle = self.angle_of(ops.Sin, sine)
            if angle is not None and angle == self.angle_of(ops.Cos, cosine) and {sine, cosine} <= {*measured}:
                measured.remove(sine)
                measured.remove(cosine)
                measured.append(angle)
        return measured


def _numbers(operator: Operator) -> tuple[Interval, ...]:
    """Return the numbers of an operator: slope and shift, weights, a constant, a mask, thresholds."""
    match operator:
        case ops.Function() if operator.slopes_on_range is not None:
            raise Unreadable
        case ops.Scale():
            return line_of(operator)
        case ops.Add():
            return tuple(point(_finite(weight)) for weight in operator.weights)
        case ops.Constant():
            return (point(_finite(operator.run())),)
        case ops.Where():
            return (point(np.asarray(operator.mask(), dtype=bool).astype(np.float64)),)
        case ops.Compare():
            return (point(_finite(operator.threshold)),)
        case ops.HardTanh():
            return point(np.array(operator.low)), point(np.array(operator.high))
        case ops.LeakyReLU():
            return (point(_finite(operator.alpha)),)
        case ops.LinearSpline():
            return (point(_finite(operator.values[0])),)
        case ops.Power() if not operator.exponent == int(operator.exponent) >= 1:
            raise Unreadable
        case _ if not isinstance(operator, ENTRYWISE):
            raise Unreadable
    return ()


def line_of(scale: ops.Scale) -> tuple[Interval, Interval]:
    """Return the slope and the shift of a line; `Unreadable` if its numbers are not known."""
    if not scale.is_accurate:
        raise Unreadable
    values = _finite(scale.values)
    offset, error = scale.offset() if scale.offset else (0.0, 0.0)
    slope_error: FloatArray = abs(values) * (0.0 if scale.exact else RELATIVE_ERROR)
    return around(values, slope_error), around(_finite(offset), _finite(error))


def _finite(numbers: Any) -> FloatArray:
    array = np.asarray(numbers, dtype=np.float64)
    if not np.isfinite(array).all():
        raise Unreadable
    return array


# -- values and derivatives --------------------------------------------------------------------------------------------
@dataclass(eq=False)
class Evaluation:
    """All values of a program: the argument, and then the value of each operator.

    Parameters
    ----------
    sides : mapping of int to array
        For comparisons and signs, by their numbers in the program: -1, 0 or 1, where their input is taken to lie; NaN
        where that is found from the input.
    """

    curve: Curve
    argument: Quantity
    sides: Mapping[int, FloatArray] = field(default_factory=dict)
    signs: dict[int, FloatArray] = field(default_factory=dict)
    """Sides that were found, NaN if unknown: at all arguments in an interval, except for its ends."""

    def __post_init__(self) -> None:
        self.values = [Dual(self.argument, number(1.0))]
        for at, (operator, reads) in enumerate(self.curve.program):
            self.values.append(self._value(at, operator, [self.values[source] for source in reads], reads))

    def slope(self, shape: tuple[int, ...]) -> Interval:
        """Return intervals of the derivative, infinite where it is not defined.

        Of several outputs it is the sum of the squared derivatives.
        """
        slopes = []
        for output in self.curve.measured:
            value = self.values[output]
            low, high = value.slope.interval().ends
            infinite = np.where(value.is_defined, np.zeros(shape), math.inf)
            slopes.append(enclosing((low - infinite, high + infinite)))
        return slopes[0] if len(slopes) == 1 else reduce(add, (power_of(slope, 2) for slope in slopes))

    def _value(self, at: int, operator: Operator, inputs: list[Dual], reads: tuple[int, ...]) -> Dual:
        """Return the value of an operator by the chain rule."""
        numbers = [Quantity(interval) for interval in self.curve.numbers[at]]
        match operator, inputs:
            case ops.Identity(), [x]:
                return x
            case ops.Constant(), _:
                return Dual(numbers[0], number(0.0))
            case ops.Scale(), [x]:
                slope, shift = numbers
                return Dual(slope * x.value + shift, slope * x.slope, x.is_defined)
            case ops.Add(), _:
                value, slope, is_defined = number(0.0), number(0.0), True
                for weight, x in zip(numbers, inputs, strict=True):
                    value, slope = value + weight * x.value, slope + weight * x.slope
                    is_defined = is_defined & x.is_defined
                return Dual(value, slope, is_defined)
            case (ops.Product(), [x, y]) if reads[0] == reads[1]:
                return self._square(x, reads[0])
            case ops.Power(exponent=2), [x]:
                return self._square(x, reads[0])
            case ops.Product(), [x, y]:
                slope = x.slope * y.value + x.value * y.slope
                return Dual(x.value * y.value, slope, x.is_defined & y.is_defined)
            case ops.Quotient(), [x, y]:
                return _quotient(x, y)
            case ops.Maximum() | ops.Minimum(), _:
                return reduce(lambda x, y: _extreme(x, y, is_maximum=isinstance(operator, ops.Maximum)), inputs)
            case ops.Where(), [x, y]:
                is_first = numbers[0].factor.low > 0
                return _chosen(is_first, ~is_first, x, y, anything(()))
            case ops.Choose(), [condition, x, y]:
                values = condition.value.interval()
                is_first = (values.mignitude() > 0) & condition.is_defined
                is_second = (values.magnitude() == 0) & condition.is_defined
                return _chosen(is_first, is_second, x, y, anything(()))
            case ops.Reciprocal(), [x]:
                return _quotient(Dual(number(operator.scale), number(0.0)), x)
            case ops.Function(), [x]:
                at_x = function(operator, x.value)
                return Dual(at_x.value, at_x.slope * x.slope, x.is_defined & at_x.is_defined)
        return self._step(at, operator, inputs[0])

    def _square(self, x: Dual, at: int) -> Dual:
        slope = number(2.0) * x.value * x.slope
        angle = self.curve.angle_of(ops.Sin, at)
        if angle is not None:  # the derivative of sin(u)^2 is sin(2 u) u'
            u = self.values[angle]
            slope = function(ops.Sin(), number(2.0) * u.value).value * u.slope
        return Dual(x.value.to_the(2), slope, x.is_defined)

    def _step(self, at: int, operator: Operator, x: Dual) -> Dual:
        """Return the value of a comparison or sign; where it is unknown, it jumps.

        A value that rises or falls on an interval with ends has its extremes at the ends alone: inside, a value that is
        nowhere below its threshold is above it.
        """
        threshold = operator.threshold if isinstance(operator, ops.Compare) else 0.0
        u = x.value.interval()
        is_monotone = x.is_defined & (x.slope.interval().mignitude() > 0)
        is_strict = is_monotone & (self.argument.factor.low < self.argument.factor.high)
        is_above = (u.low > threshold) | ((u.low == threshold) & is_strict)
        is_below = (u.high < threshold) | ((u.high == threshold) & is_strict)
        is_at = (u.low == threshold) & (u.high == threshold)
        sign = np.where(is_above, 1.0, np.where(is_below, -1.0, np.where(is_at, 0.0, math.nan)))
        forced = self.sides.get(at, np.array(math.nan))
        self.signs[at] = sign = np.where(np.isnan(forced), sign, forced)
        is_unknown = np.isnan(sign)
        of_sign = replace(operator, threshold=0.0) if isinstance(operator, ops.Compare) else operator
        first, last = (point(of_sign.run(np.where(is_unknown, side, sign))) for side in (-1.0, 1.0))
        slope = within(np.where(is_unknown, math.inf, 0.0))
        return Dual(Quantity(first | last), Quantity(slope), x.is_defined)


def _quotient(x: Dual, y: Dual) -> Dual:
    # q = x / y has q' = (x' - q y') / y.
    inverse = y.value.inverse()
    value = x.value * inverse
    slope = (x.slope - value * y.slope) * inverse
    return Dual(value, slope, x.is_defined & y.is_defined & (y.value.factor.mignitude() > 0))


def _extreme(x: Dual, y: Dual, *, is_maximum: bool) -> Dual:
    """Return the larger or smaller of two values; both of their slopes count where that is not known."""
    advantage = (x.value - y.value if is_maximum else y.value - x.value).interval()
    unknown_slope = x.slope.interval() | y.slope.interval()
    chosen = _chosen(advantage.low >= 0, advantage.high <= 0, x, y, unknown_slope)
    return replace(chosen, is_defined=x.is_defined & y.is_defined)


def _chosen(is_first: Mask, is_second: Mask, x: Dual, y: Dual, unknown_slope: Interval) -> Dual:
    """Return the value that is chosen; where that is unknown it is one of both, with a slope that is given."""
    unknown_value = x.value.interval() | y.value.interval()
    value = choose(is_first, x.value, choose(is_second, y.value, Quantity(unknown_value)))
    slope = choose(is_first, x.slope, choose(is_second, y.slope, Quantity(unknown_slope)))
    is_defined = np.where(is_second, y.is_defined, x.is_defined & y.is_defined)
    return Dual(value, slope, np.where(is_first, x.is_defined, is_defined))
