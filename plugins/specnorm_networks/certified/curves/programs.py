"""Programs for one variable: operators of each entry, one after the other, and their values in any arithmetic.

A program is evaluated in an `Arithmetic`: on intervals of the argument (`intervals`), for all large arguments
(`tails`), or as functions that repeat (`periods`). The chain rule is written here once, for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import SpecnormError
from specnorm.proof import Interval, enclosing, host, point
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError, NotRunError, Operator, Pointwise
from specnorm_networks.certified.operators.joins import (
    Choose,
    Compare,
    Floor,
    Lookup,
    Maximum,
    Minimum,
    Product,
    Quotient,
    Sign,
    Where,
)
from specnorm_networks.certified.operators.linear import SCALED_ENTRY_ROUNDINGS, Add, Scale
from specnorm_networks.certified.operators.moves import Identity
from specnorm_networks.certified.operators.multiples import Multiple
from specnorm_networks.certified.operators.piecewise import HardTanh, LeakyReLU, SoftShrink
from specnorm_networks.certified.operators.smooth import HardSwish
from specnorm_networks.certified.operators.sources import Constant
from specnorm_networks.certified.operators.steep import Power

EntryProgram: TypeAlias = tuple[tuple[Operator, tuple[int, ...]], ...]
"""Operators of each entry, and the numbers of the values that each reads: 0 is the argument of the program, i the value
of operator i - 1. (`base.Program` is the same with several arguments.)"""
ENTRYWISE = (
    Pointwise, Add, Scale, Product, Quotient, Maximum, Minimum, Where, Compare, Choose, Sign, Floor, Lookup, Identity,
    Constant,
)  # fmt: skip
"""Operators that programs are made of."""
JUMPING = (Sign, Compare, Floor)
"""Operators that jump where their input crosses a threshold."""
RELATIVE_ERROR = (SCALED_ENTRY_ROUNDINGS + 2) * 2.0**-52
"""Relative error of a factor that was computed with `SCALED_ENTRY_ROUNDINGS` roundings."""
T = TypeVar("T")


class Unreadable(Exception):
    """A program cannot be evaluated: an operator is not known, or a number cannot be loaded or is not finite."""


class UnknownError(Exception):
    """A value is not known in an arithmetic."""


@dataclass(frozen=True, eq=False)
class Dual(Generic[T]):
    """A value with its derivative by the argument."""

    value: T
    slope: T
    is_defined: Any = True
    """Whether the value is defined for all arguments; booleans that broadcast against an interval's shape."""


class Arithmetic(Generic[T]):
    """Sums, products and functions of values of one kind. Without a rule a value is unknown."""

    def number(self, numbers: Interval) -> T:
        """Return fixed numbers."""
        raise NotImplementedError

    def add(self, a: T, b: T) -> T:
        """Return a sum."""
        raise NotImplementedError

    def multiply(self, a: T, b: T) -> T:
        """Return a product."""
        raise NotImplementedError

    def square(self, a: T) -> T:
        """Return a square."""
        return self.multiply(a, a)

    def inverse(self, a: T) -> tuple[T, Any]:
        """Return 1 over a value, and whether it is defined."""
        raise UnknownError

    def function(self, f: Pointwise, u: T) -> tuple[T, T, Any]:
        """Return f(u), f'(u), and whether both are defined."""
        raise UnknownError

    def choose(self, mask: NDArray[np.bool_], a: Dual[T], b: Dual[T]) -> Dual[T]:
        """Return the first value where a constant mask is true, else the second."""
        if mask.all():
            return a
        if not mask.any():
            return b
        raise UnknownError

    def sign(self, a: T, *, weakly: bool = False) -> FloatArray:
        """Return the sign of a value: -1, 0, or 1; NaN if it is not known.

        ``weakly``: a value that is at least 0 has the sign 1, and one that is at most 0 the sign -1.
        """
        raise UnknownError

    def either(self, a: Dual[T], b: Dual[T], chosen: Dual[T], unknown: NDArray[np.bool_], extreme: Any) -> Dual[T]:
        """Return ``chosen``, and where it is ``unknown`` which value is chosen, both.

        ``extreme``: `numpy.maximum` or `numpy.minimum` of the values, or None for any of them, with a jump between.
        """
        if unknown.any():
            raise UnknownError
        return chosen

    def step(self, number: int, operator: Operator, u: T) -> tuple[T, T]:
        """Return value and slope of a `JUMPING` operator, which has this number in its program."""
        raise UnknownError

    def look_up(self, table: FloatArray, u: Dual[T]) -> Dual[T]:
        """Return the entries of a table at whole numbers."""
        raise UnknownError


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
    """Arrays of constants, masks and tables, by the operator's number."""

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
                        lines[at] = _line(operator)
                    case Constant():
                        numbers[at] = _finite(operator.run())
                    case Where():
                        numbers[at] = np.asarray(operator.mask(), dtype=bool)
                    case Lookup():
                        numbers[at] = _finite(operator.table())
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
        return any(isinstance(operator, (*JUMPING, Choose, Lookup)) for operator, _ in self.program)

    @cached_property
    def arrays(self) -> list[NDArray[Any]]:
        """The numbers that may differ between entries."""
        arrays = [array for at, array in self.numbers.items() if not isinstance(self.program[at][0], Lookup)]
        for line in self.lines.values():
            arrays += [*line.slope.ends, *line.shift.ends]
        for operator, _ in self.program:
            if isinstance(operator, LeakyReLU):
                arrays.append(np.asarray(operator.alpha))
        return arrays

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape to which all numbers broadcast: each of its entries may be a function of its own."""
        return np.broadcast_shapes(*(np.shape(array) for array in self.arrays))

    @cached_property
    def thresholds(self) -> list[float]:
        """Numbers at which operators change their formula."""
        found: set[float] = set()
        for operator, _ in self.program:
            match operator:
                case Compare():
                    found.add(operator.threshold)
                case HardTanh():
                    found |= {operator.low, operator.high}
                case SoftShrink():
                    found |= {-operator.edge, operator.edge}
                case HardSwish():
                    found |= {-3.0, 3.0}
        return sorted(filter(math.isfinite, found))

    @cached_property
    def key(self) -> Hashable:
        """A key that two programs share only if they compute the same."""
        keys = []
        for at, (operator, reads) in enumerate(self.program):
            arrays = [*self.lines[at].slope.ends, *self.lines[at].shift.ends] if at in self.lines else []
            arrays += [self.numbers[at]] if at in self.numbers else []
            keys.append((_key(operator, arrays), reads))
        return tuple(keys), self.outputs


def evaluate(
    curve: Curve,
    argument: Dual[T],
    arithmetic: Arithmetic[T],
    known: Mapping[int, T] | None = None,
) -> list[Dual[T]]:
    """Return all values of a program: the argument, and then the value of each operator.

    ``known``: values that are known otherwise, by their numbers.
    """
    values = [argument]
    for at, (operator, reads) in enumerate(curve.program):
        if known and at in known:  # the value of the operator before
            values[at] = replace(values[at], value=known[at])
        values.append(_value(curve, at, operator, [values[number] for number in reads], arithmetic))
    return values


def _value(curve: Curve, at: int, operator: Operator, inputs: list[Dual[T]], a: Arithmetic[T]) -> Dual[T]:
    """Return the value of an operator by the chain rule."""
    zero = a.number(point(np.zeros(())))
    match operator:
        case Identity():
            return inputs[0]
        case Constant():
            return Dual(a.number(point(curve.numbers[at])), zero)
        case Scale():
            return _on_line(curve.lines[at], inputs[0], a)
        case Add():
            return _sum(operator, inputs, Dual(zero, zero), a)
        case Product():
            first, second = inputs
            return _product(first, second, a)
        case Quotient():
            first, second = inputs
            return _ratio(first, second, a)
        case Maximum() | Minimum():
            extreme, *others = inputs
            for other in others:
                extreme = _extreme(extreme, other, a, is_maximum=isinstance(operator, Maximum))
            return extreme
        case Where():
            return a.choose(curve.numbers[at], *inputs)
        case Choose():
            condition, first, second = inputs
            sign = a.sign(condition.value)
            chosen = a.choose(np.asarray(abs(sign) == 1), first, second)
            return a.either(first, second, chosen, np.isnan(sign) | ~np.asarray(condition.is_defined), None)
        case Lookup():
            return a.look_up(curve.numbers[at], inputs[0])
        case Multiple():
            inner = Line(_factor(operator.inner, operator.roundings), point(np.zeros(())))
            outer = Line(_factor(operator.outer, operator.roundings), point(np.zeros(())))
            return _on_line(outer, _value(curve, at, operator.function, [_on_line(inner, inputs[0], a)], a), a)
        case Pointwise():
            (x,) = inputs
            if type(operator) is Power and operator.exponent == 2:
                return _product(x, x, a)
            value, slope, is_defined = a.function(operator, x.value)
            return Dual(value, a.multiply(slope, x.slope), x.is_defined & is_defined)
    (x,) = inputs
    return Dual(*a.step(at, operator, x.value), x.is_defined)


def _on_line(line: Line, x: Dual[T], a: Arithmetic[T]) -> Dual[T]:
    slope = a.number(line.slope)
    return Dual(a.add(a.multiply(slope, x.value), a.number(line.shift)), a.multiply(slope, x.slope), x.is_defined)


def _less(x: T, y: T, a: Arithmetic[T]) -> T:
    return a.add(x, a.multiply(a.number(point(np.array(-1.0))), y))


def _product(x: Dual[T], y: Dual[T], a: Arithmetic[T]) -> Dual[T]:
    # (x y)' = x' y + x y'
    is_defined = x.is_defined & y.is_defined
    if x is y:
        twice = a.multiply(a.number(point(np.array(2.0))), x.value)
        return Dual(a.square(x.value), a.multiply(twice, x.slope), is_defined)
    slope = a.add(a.multiply(x.slope, y.value), a.multiply(x.value, y.slope))
    return Dual(a.multiply(x.value, y.value), slope, is_defined)


def _ratio(x: Dual[T], y: Dual[T], a: Arithmetic[T]) -> Dual[T]:
    # q = x / y has q' = (x' - q y') / y.
    inverse, is_defined = a.inverse(y.value)
    value = a.multiply(x.value, inverse)
    slope = a.multiply(_less(x.slope, a.multiply(value, y.slope), a), inverse)
    return Dual(value, slope, x.is_defined & y.is_defined & is_defined)


def _sum(operator: Add, inputs: Sequence[Dual[T]], zero: Dual[T], a: Arithmetic[T]) -> Dual[T]:
    total = zero
    for weight, x in zip(operator.weights, inputs, strict=True):
        factor = a.number(_quotient(weight, operator.divisor))
        value = a.add(total.value, a.multiply(factor, x.value))
        slope = a.add(total.slope, a.multiply(factor, x.slope))
        total = Dual(value, slope, total.is_defined & x.is_defined)
    return total


def _extreme(x: Dual[T], y: Dual[T], a: Arithmetic[T], *, is_maximum: bool) -> Dual[T]:
    sign = a.sign(_less(x.value, y.value, a), weakly=True)
    chosen = a.choose(np.asarray(sign >= 0) == is_maximum, x, y)
    return a.either(x, y, chosen, np.isnan(sign), np.maximum if is_maximum else np.minimum)


# -- numbers of operators ----------------------------------------------------------------------------------------------
def _is_known(operator: Operator) -> bool:
    match operator:
        case Power():
            return operator.exponent == int(operator.exponent) >= 1 and operator.slopes_on_range is None
        case LeakyReLU():
            return bool(np.isfinite(operator.alpha).all())
        case Multiple():
            is_exact_enough = operator.roundings <= SCALED_ENTRY_ROUNDINGS
            factors = [operator.inner, operator.outer]
            return is_exact_enough and bool(np.isfinite(factors).all()) and _is_known(operator.function)
        case Pointwise():
            return operator.slopes_on_range is None
    return isinstance(operator, ENTRYWISE)


def _finite(numbers: Any) -> NDArray[Any]:
    array = np.asarray(numbers, dtype=np.float64)
    if not np.isfinite(array).all():
        raise Unreadable
    return array


def _line(scale: Scale) -> Line:
    offset, error = scale.offset() if scale.offset else (0.0, 0.0)
    values = _finite(scale.values)
    if not scale.is_accurate:
        raise Unreadable
    slope_error = np.zeros(()) if scale.exact else abs(values) * RELATIVE_ERROR
    return Line(_around(values, slope_error), _around(_finite(offset), _finite(error)))


def _factor(factor: float, roundings: int) -> Interval:
    value = np.asarray(factor, dtype=np.float64)
    return _around(value, abs(value) * RELATIVE_ERROR if roundings else np.zeros(()))


def _quotient(weight: float, divisor: int) -> Interval:
    quotient = np.asarray(weight / divisor)
    is_exact = divisor & (divisor - 1) == 0  # a power of two
    return _around(quotient, np.zeros(()) if is_exact else abs(quotient) * 2.0**-52)


def _around(values: FloatArray, error: FloatArray) -> Interval:
    """Return values less and plus an error, rounded outward; the values themselves if there is no error."""
    if not np.any(error):
        return point(values)
    return enclosing((host.next_down(values - error), host.next_up(values + error)))


def _key(operator: Operator, arrays: Sequence[NDArray[Any]]) -> Hashable:
    """Return a key that two operators share only if they compute the same; the operator if its fields have no keys."""
    if not arrays and is_dataclass(operator):
        values: list[Hashable] = []
        for field in fields(operator):
            value = getattr(operator, field.name)
            if isinstance(value, np.ndarray):
                values.append((value.shape, value.tobytes()))
            elif isinstance(value, Pointwise):
                values.append(_key(value, []))
            elif value is None or isinstance(value, (bool, int, float, str, tuple)):
                values.append(value)
            else:
                return operator
        return type(operator), tuple(values)
    return type(operator), tuple((array.shape, array.tobytes()) for array in arrays)
