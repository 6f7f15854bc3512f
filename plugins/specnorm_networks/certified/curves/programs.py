"""Programs for one variable: operators of each entry, one after the other, with their values and derivatives."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import SpecnormError
from specnorm.proof import Interval, anything, enclosing, host, point
from specnorm_networks.certified.curves.values import Arithmetic, Dual, Quantity, hull, number
from specnorm_networks.certified.digests import digest_of_operator
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError, NotRunError, Operator, Pointwise
from specnorm_networks.certified.operators.joins import (
    Choose,
    Compare,
    Maximum,
    Minimum,
    Product,
    Quotient,
    Sign,
    Where,
)
from specnorm_networks.certified.operators.linear import SCALED_ENTRY_ROUNDINGS, Add, Scale
from specnorm_networks.certified.operators.moves import Identity
from specnorm_networks.certified.operators.piecewise import HardTanh, LeakyReLU
from specnorm_networks.certified.operators.smooth import Sin
from specnorm_networks.certified.operators.sources import Constant
from specnorm_networks.certified.operators.steep import Power

EntryProgram: TypeAlias = tuple[tuple[Operator, tuple[int, ...]], ...]
"""Operators of each entry, and the numbers of the values that each reads: 0 is the argument of the program, i the value
of operator i - 1. (`base.Program` is the same with several arguments.)"""
ENTRYWISE = (
    Pointwise, Add, Scale, Product, Quotient, Maximum, Minimum, Where, Compare, Choose, Sign, Identity, Constant,
)  # fmt: skip
"""Operators that programs are made of."""
MOST_THRESHOLDS = 16
"""Largest number of entries of a constant whose numbers are taken for thresholds."""
RELATIVE_ERROR = (SCALED_ENTRY_ROUNDINGS + 2) * 2.0**-52
"""Relative error of a factor that was computed with `SCALED_ENTRY_ROUNDINGS` roundings."""


class Unreadable(Exception):
    """A program cannot be evaluated: it is long, an operator is not known, or a number is not read or not finite."""


@dataclass(frozen=True, eq=False)
class Line:
    """``slope x + shift``, both known to lie between two numbers."""

    slope: Interval
    shift: Interval


@dataclass(frozen=True, eq=False)
class Curve:
    """A program whose numbers are loaded, with the numbers of the values that it returns.

    Numbers in its operators are arrays that broadcast against the value: one number an entry, or one for all.
    """

    program: EntryProgram
    outputs: tuple[int, ...]
    lines: Mapping[int, Line]
    """Operators that are lines, by their number in the program."""
    numbers: Mapping[int, NDArray[Any]]
    """Arrays of constants and masks, by the operator's number."""

    @staticmethod
    def of(program: EntryProgram, outputs: Sequence[int]) -> Curve:
        """Load the numbers of a program.

        Raises
        ------
        Unreadable
            If an operator is not known, or one of its numbers cannot be loaded or is not finite.
        """
        lines: dict[int, Line] = {}
        numbers: dict[int, NDArray[Any]] = {}
        for at, (operator, _) in enumerate(program):
            try:
                match operator:
                    case Scale():
                        lines[at] = line_of(operator)
                    case Constant():
                        numbers[at] = _finite(operator.run())
                    case Where():
                        numbers[at] = np.asarray(operator.mask(), dtype=bool)
                    case Add():
                        _finite(operator.weights)
                    case Compare():
                        _finite(operator.threshold)
                    case _ if not _is_known(operator):
                        raise Unreadable
            except (SpecnormError, NoBoundError, NotRunError, OSError) as error:
                raise Unreadable from error
        return Curve(program, tuple(outputs), lines, numbers)

    @cached_property
    def jumps(self) -> bool:
        """Whether one of the operators jumps."""
        return any(isinstance(operator, Sign | Compare | Choose) for operator, _ in self.program)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape to which all numbers broadcast: each of its entries may be a function of its own."""
        arrays = [*self.numbers.values()]
        for line in self.lines.values():
            arrays += [*line.slope.ends, *line.shift.ends]
        arrays += [np.asarray(operator.alpha) for operator, _ in self.program if isinstance(operator, LeakyReLU)]
        return np.broadcast_shapes(*(np.shape(array) for array in arrays))

    @cached_property
    def thresholds(self) -> list[float]:
        """Numbers at which operators may change their formula."""
        found: set[float] = set()
        shifts = [line.shift.low for line in self.lines.values()]
        for array in (*self.numbers.values(), *shifts):
            if array.size <= MOST_THRESHOLDS and array.dtype.kind == "f":
                found |= {*array.reshape(-1).tolist(), *(-array).reshape(-1).tolist()}
        for operator, _ in self.program:
            match operator:
                case Compare():
                    found |= {operator.threshold, -operator.threshold}
                case HardTanh():
                    found |= {operator.low, operator.high}
        return sorted(filter(math.isfinite, found))

    @cached_property
    def key(self) -> Hashable:
        """A key that two programs share only if they compute the same."""
        return tuple((digest_of_operator(operator), reads) for operator, reads in self.program), self.outputs

    def sine_of(self, value: int) -> int | None:
        """Return the number of the value whose sine this value is; None if it is no sine."""
        operator, reads = self.program[value - 1] if value else (None, ())
        return reads[0] if type(operator) is Sin else None


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
    argument: Dual
    arithmetic: Arithmetic
    sides: Mapping[int, FloatArray] = field(default_factory=dict)
    signs: dict[int, FloatArray] = field(default_factory=dict)
    """Sides that were found, NaN if unknown."""
    touched: dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = field(default_factory=dict)
    """Where an input is at its threshold at the low or at the high end of an interval of x, and beside it inside."""

    def __post_init__(self) -> None:
        self.values = [self.argument]
        for at, (operator, reads) in enumerate(self.curve.program):
            self.values.append(self._value(at, operator, [self.values[source] for source in reads], reads))

    def slopes(self) -> list[Interval]:
        """Return intervals of the derivatives of all outputs, infinite where a value is not defined."""
        slopes = []
        for output in self.curve.outputs:
            value = self.values[output]
            slope = self.arithmetic.interval(value.slope)
            infinite = np.where(np.asarray(value.is_defined), 0.0, math.inf)
            slopes.append(enclosing((slope.low - infinite, slope.high + infinite)))
        return slopes

    def _value(self, at: int, operator: Operator, inputs: list[Dual], reads: tuple[int, ...]) -> Dual:
        """Return the value of an operator by the chain rule."""
        a = self.arithmetic
        match operator:
            case Identity():
                return inputs[0]
            case Constant():
                return Dual(Quantity(point(self.curve.numbers[at])), number(0.0))
            case Scale():
                line = self.curve.lines[at]
                (x,) = inputs
                value = a.add(a.multiply(Quantity(line.slope), x.value), Quantity(line.shift))
                return Dual(value, a.multiply(Quantity(line.slope), x.slope), x.is_defined)
            case Add():
                return self._sum(operator, inputs)
            case Product():
                return self._square(inputs[0], reads[0]) if reads[0] == reads[1] else self._product(*inputs)
            case Power(exponent=2):
                return self._square(inputs[0], reads[0])
            case Quotient():
                return self._ratio(*inputs)
            case Maximum() | Minimum():
                extreme, *others = inputs
                for other in others:
                    extreme = self._extreme(extreme, other, is_maximum=isinstance(operator, Maximum))
                return extreme
            case Where():
                return self._choose(self.curve.numbers[at], *inputs)
            case Choose():
                return self._choose_by(*inputs)
            case Pointwise():
                (x,) = inputs
                value, slope, is_defined = a.function(operator, x.value)
                return Dual(value, a.multiply(slope, x.slope), x.is_defined & is_defined)
            case Compare():
                return self._step(at, replace(operator, threshold=0.0), operator.threshold, inputs[0])
        return self._step(at, operator, 0.0, inputs[0])

    def _sum(self, operator: Add, inputs: Sequence[Dual]) -> Dual:
        a = self.arithmetic
        total = Dual(number(0.0), number(0.0))
        for weight, x in zip(operator.weights, inputs, strict=True):
            quotient = np.asarray(weight / operator.divisor)
            is_exact = operator.divisor & (operator.divisor - 1) == 0  # a power of two
            factor = Quantity(_around(quotient, np.zeros(()) if is_exact else abs(quotient) * 2.0**-52))
            value = a.add(total.value, a.multiply(factor, x.value))
            slope = a.add(total.slope, a.multiply(factor, x.slope))
            total = Dual(value, slope, total.is_defined & x.is_defined)
        return total

    def _product(self, x: Dual, y: Dual) -> Dual:
        # (x y)' = x' y + x y'
        a = self.arithmetic
        slope = a.add(a.multiply(x.slope, y.value), a.multiply(x.value, y.slope))
        return Dual(a.multiply(x.value, y.value), slope, x.is_defined & y.is_defined)

    def _square(self, x: Dual, at: int) -> Dual:
        a = self.arithmetic
        angle = self.curve.sine_of(at)
        if angle is None:
            slope = a.multiply(a.multiply(number(2.0), x.value), x.slope)
        else:  # the derivative of sin(u)^2 is sin(2 u) u'
            u = self.values[angle]
            sine, _, _ = a.function(Sin(), a.multiply(number(2.0), u.value))
            slope = a.multiply(sine, u.slope)
        return Dual(a.square(x.value), slope, x.is_defined)

    def _ratio(self, x: Dual, y: Dual) -> Dual:
        # q = x / y has q' = (x' - q y') / y.
        a = self.arithmetic
        inverse = a.inverse(y.value)
        value = a.multiply(x.value, inverse)
        slope = a.multiply(self._less(x.slope, a.multiply(value, y.slope)), inverse)
        is_defined = a.interval(y.value).mignitude() > 0
        if y.value.power < 0:
            is_defined = y.value.factor.mignitude() > 0
        return Dual(value, slope, x.is_defined & y.is_defined & is_defined)

    def _less(self, x: Quantity, y: Quantity) -> Quantity:
        return self.arithmetic.add(x, self.arithmetic.multiply(number(-1.0), y))

    # -- choices -------------------------------------------------------------------------------------------------------
    def _choose(self, mask: NDArray[np.bool_], x: Dual, y: Dual) -> Dual:
        """Return the first value where a mask is true, else the second."""
        a = self.arithmetic
        is_defined = np.where(mask, x.is_defined, y.is_defined)
        return Dual(a.where(mask, x.value, y.value), a.where(mask, x.slope, y.slope), is_defined)

    def _extreme(self, x: Dual, y: Dual, *, is_maximum: bool) -> Dual:
        """Return the larger or smaller of two values; both of their slopes count where that is not known."""
        a = self.arithmetic
        difference = a.interval(self._less(x.value, y.value))
        is_first = (difference.low >= 0) if is_maximum else (difference.high <= 0)
        is_second = (difference.high <= 0) if is_maximum else (difference.low >= 0)
        extreme = np.maximum if is_maximum else np.minimum
        (x_value, x_slope), (y_value, y_slope) = ((a.interval(z.value), a.interval(z.slope)) for z in (x, y))
        value = enclosing((extreme(x_value.low, y_value.low), extreme(x_value.high, y_value.high)))
        chosen = self._choose_or_both(is_first, is_second, x, y, (value, hull(x_slope, y_slope)))
        return replace(chosen, is_defined=np.logical_and(x.is_defined, y.is_defined))

    def _choose_by(self, condition: Dual, x: Dual, y: Dual) -> Dual:
        """Return the first value where a condition is not 0, else the second; it jumps where that is not known."""
        a = self.arithmetic
        values = a.interval(condition.value)
        is_first = values.mignitude() > 0
        is_second = (values.low == 0) & (values.high == 0)
        value = hull(a.interval(x.value), a.interval(y.value))
        is_known = np.asarray(condition.is_defined)
        return self._choose_or_both(is_first & is_known, is_second & is_known, x, y, (value, anything(value.shape)))

    def _choose_or_both(
        self,
        is_first: NDArray[np.bool_],
        is_second: NDArray[np.bool_],
        x: Dual,
        y: Dual,
        both: tuple[Interval, Interval],
    ) -> Dual:
        """Return the value that is chosen. ``both``: value and slope where that is unknown."""
        chosen = self._choose(np.asarray(is_first), x, y)
        unknown = ~np.asarray(is_first | is_second)
        if not unknown.any():
            return chosen
        a = self.arithmetic
        value, slope = both
        return Dual(
            a.where(unknown, Quantity(value), Quantity(a.interval(chosen.value))),
            a.where(unknown, Quantity(slope), Quantity(a.interval(chosen.slope))),
            np.where(unknown, np.logical_and(x.is_defined, y.is_defined), chosen.is_defined),
        )

    def _step(self, at: int, operator: Operator, threshold: float, x: Dual) -> Dual:
        """Return the value of a comparison or sign of ``x - threshold``; where it is unknown, it jumps."""
        u, slope = self.arithmetic.interval(x.value), self.arithmetic.interval(x.slope)
        is_above, is_below = u.low == threshold, u.high == threshold
        sign = np.where(u.low > threshold, 1.0, np.where(u.high < threshold, -1.0, math.nan))
        sign = np.where(is_above & is_below, 0.0, sign)
        # An input that is at its threshold at an end of an interval, and monotone, is on one side inside of it.
        may_touch = np.isnan(sign) & np.asarray(x.is_defined) & (self.arithmetic.start == 0)
        rises, falls = may_touch & (slope.low > 0), may_touch & (slope.high < 0)
        self.touched[at] = (rises & is_above) | (falls & is_below), (rises & is_below) | (falls & is_above)
        touched = np.logical_or(*self.touched[at])
        sign = np.where(touched, np.where(is_above, 1.0, -1.0), sign)
        forced = np.broadcast_to(self.sides.get(at, np.array(math.nan)), sign.shape)
        sign = np.where(np.isnan(forced), sign, forced)
        self.signs[at] = sign
        unknown = np.isnan(sign)
        decided = operator.run(np.where(unknown, 0.0, sign))
        ends = [operator.run(np.full(sign.shape, side)) for side in (-1.0, 0.0, 1.0)]
        low, high = (np.where(unknown, end, decided) for end in (np.minimum.reduce(ends), np.maximum.reduce(ends)))
        infinite = np.where(unknown, math.inf, 0.0)
        return Dual(Quantity(enclosing((low, high))), Quantity(enclosing((-infinite, infinite))), x.is_defined)


# -- numbers of operators ----------------------------------------------------------------------------------------------
def _is_known(operator: Operator) -> bool:
    match operator:
        case Power():
            return operator.exponent == int(operator.exponent) >= 1 and operator.slopes_on_range is None
        case LeakyReLU():
            return bool(np.isfinite(operator.alpha).all())
        case Pointwise():
            return operator.slopes_on_range is None
    return isinstance(operator, ENTRYWISE)


def _finite(numbers: Any) -> NDArray[Any]:
    array = np.asarray(numbers, dtype=np.float64)
    if not np.isfinite(array).all():
        raise Unreadable
    return array


def line_of(scale: Scale) -> Line:
    """Return a product with constants, and a sum, as a line; `Unreadable` if the numbers are not known."""
    offset, error = scale.offset() if scale.offset else (0.0, 0.0)
    values = _finite(scale.values)
    if not scale.is_accurate:
        raise Unreadable
    slope_error = np.zeros(()) if scale.exact else abs(values) * RELATIVE_ERROR
    return Line(_around(values, slope_error), _around(_finite(offset), _finite(error)))


def _around(values: FloatArray, error: FloatArray) -> Interval:
    """Return values less and plus an error, rounded outward; the values themselves if there is no error."""
    if not np.any(error):
        return point(values)
    return enclosing((host.next_down(values - error), host.next_up(values + error)))
