"""Programs for one variable: operators of each entry, one after the other, and the plan of steps that is made of them.

The numbers in a step, such as a slope or a mask, are its *parameters*: arrays that may have one number an entry.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, enclosing, host
from specnorm_networks.certified.operators import curved, multiples, piecewise, smooth, steep
from specnorm_networks.certified.operators.base import FloatArray, LowHigh, Operator, Pointwise
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
from specnorm_networks.certified.operators.multiples import Multiple
from specnorm_networks.certified.operators.piecewise import HardTanh, LeakyReLU, Negative, SoftShrink, TwoSlopes
from specnorm_networks.certified.operators.smooth import ELU, HardSwish
from specnorm_networks.certified.operators.sources import Constant
from specnorm_networks.certified.operators.steep import Power

EntryProgram: TypeAlias = tuple[tuple[Operator, tuple[int, ...]], ...]
"""Operators of each entry, and the numbers of the values that each reads: 0 is the argument of the program, i the value
of operator i - 1. (`base.Program` is the same with several arguments.)"""
ENTRYWISE = (
    Pointwise, Add, Scale, Product, Quotient, Maximum, Minimum, Where, Compare, Choose, Sign, Identity, Constant,
)  # fmt: skip
"""Operators that programs are made of."""
RELATIVE_ERROR = (SCALED_ENTRY_ROUNDINGS + 2) * 2.0**-52
"""Relative error of a factor that was computed with `SCALED_ENTRY_ROUNDINGS` roundings."""


OUR_MODULES = (
    *(module.__name__ for module in (curved, piecewise, smooth, steep, multiples)),
    "specnorm_networks.certified.operators.composite",
)
"""Modules of our own functions: the modules of this folder know more of their classes than the methods state."""


class UserFunction(Pointwise):
    """A function of a user's class, which may derive from one of ours: only its methods are relied on."""

    function: Pointwise

    def value(self, x: FloatArray) -> FloatArray:
        """Return the values of the user's function."""
        return self.function.value(x)

    def extent(self) -> tuple[float, float] | None:
        """Return the extent of the user's function."""
        return self.function.extent()

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        """Return the slopes of the user's function."""
        return self.function.slopes(low, high)

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        """Return intervals of the values of the user's function."""
        return self.function.between(low, high)


class Unreadable(Exception):
    """A program has no plan: an operator has no steps, or one of its numbers cannot be loaded or is not finite."""


# -- the kinds of steps, besides functions of one variable -------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Number:
    """A fixed number; it reads no value."""

    values: FloatArray


@dataclass(frozen=True, eq=False)
class ScaleAndShift:
    """``slope x + shift`` of the value x that it reads, both known to lie between two numbers."""

    slope: LowHigh
    """Smallest and largest slope."""
    shift: LowHigh
    """Smallest and largest shift."""

    @property
    def is_exact(self) -> bool:
        """Whether slope and shift are known exactly."""
        return all(bool(np.array_equal(low, high)) for low, high in (self.slope, self.shift))

    @property
    def intervals(self) -> tuple[Interval, Interval]:
        """Slope and shift as intervals."""
        return enclosing(self.slope), enclosing(self.shift)


@dataclass(frozen=True)
class WeightedSum:
    """A sum of the values that it reads, each times a weight, divided by a whole number."""

    weights: tuple[float, ...]
    divisor: int = 1


@dataclass(frozen=True)
class ProductOfTwo:
    """The first value times the second."""


@dataclass(frozen=True)
class QuotientOfTwo:
    """The first value over the second."""


@dataclass(frozen=True)
class Extreme:
    """The larger, or the smaller, of two values; it reads their difference (first less second), and then both."""

    is_maximum: bool


@dataclass(frozen=True, eq=False)
class ChoiceByMask:
    """The first value where a constant mask is true, else the second."""

    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class ChoiceByValue:
    """The second value where the first is not 0, else the third."""


@dataclass(frozen=True)
class Comparison:
    """1 where a value compares with a threshold ("gt", "ge", "lt" or "le"), else 0."""

    relation: str
    threshold: float

    def holds_for(self, sign: FloatArray) -> NDArray[np.bool_]:
        """Return whether the comparison holds, by the sign of the value less the threshold."""
        compare = {"gt": np.greater, "ge": np.greater_equal, "lt": np.less, "le": np.less_equal}[self.relation]
        return np.asarray(compare(sign, 0.0))


@dataclass(frozen=True)
class SignOf:
    """-1, 0 or 1: the sign of a value."""


Kind: TypeAlias = (
    Number
    | ScaleAndShift
    | WeightedSum
    | ProductOfTwo
    | QuotientOfTwo
    | Extreme
    | ChoiceByMask
    | ChoiceByValue
    | Comparison
    | SignOf
    | Pointwise
)
"""What a step computes."""


@dataclass(frozen=True, eq=False)
class PlanStep:
    """One operation of a plan."""

    kind: Kind
    reads: tuple[int, ...]
    """Numbers of the values that it reads: 0 is the argument of the plan, i the value of step i - 1."""


@dataclass(frozen=True)
class Switch:
    """A threshold of a value: where the value crosses it, steps that read the value change their branch."""

    value: int
    """Number of the value."""
    threshold: float
    jumps: bool
    """Whether a step that reads the value jumps there; otherwise steps have kinks there."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A program as steps, whose parameters are arrays that broadcast against the argument."""

    steps: tuple[PlanStep, ...]
    outputs: tuple[int, ...]
    """Numbers of the values that the program returns."""

    @cached_property
    def switches(self) -> tuple[Switch, ...]:
        """All switches, in the order of the numbers of their values."""
        jumps_at: dict[tuple[int, float], bool] = {}
        for step in self.steps:
            for threshold, jumps in _thresholds(step.kind):
                value_and_threshold = (step.reads[0], threshold)
                jumps_at[value_and_threshold] = jumps_at.get(value_and_threshold, False) or jumps
        return tuple(Switch(value, threshold, jumps) for (value, threshold), jumps in sorted(jumps_at.items()))

    @cached_property
    def jumps(self) -> bool:
        """Whether a step may jump."""
        has_choice = any(isinstance(step.kind, ChoiceByValue) for step in self.steps)
        return has_choice or any(switch.jumps for switch in self.switches)

    @cached_property
    def shape_of_parameters(self) -> tuple[int, ...]:
        """Shape that all parameters broadcast to."""
        return np.broadcast_shapes(*(np.shape(array) for array in self._parameters))

    @property
    def _parameters(self) -> list[NDArray[Any]]:
        parameters: list[NDArray[Any]] = []
        for step in self.steps:
            parameters += parameters_of(step.kind)
        return parameters

    @cached_property
    def distinct_functions(self) -> tuple[Plan, NDArray[np.intp]]:
        """A plan whose parameters have one number for each distinct function, and the function's number for each entry.

        Entries with the same parameters have the same function. The returned plan's parameters are flat arrays.
        """
        shape = self.shape_of_parameters
        columns = [np.broadcast_to(array, shape).reshape(-1) for array in self._parameters]
        if not columns:
            return self, np.zeros(shape, np.intp)
        table = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
        _, first_entries, numbers = np.unique(table, axis=0, return_index=True, return_inverse=True)
        return self._with_parameters_at(first_entries), numbers.reshape(shape)

    def of_functions(self, numbers: NDArray[np.intp]) -> Plan:
        """Return the plan of some functions, one for each number, of a plan with flat parameters."""
        return self._with_parameters_at(numbers)

    def of_function(self, number: int) -> Plan:
        """Return the plan of one function, with single numbers as parameters, of a plan with flat parameters."""
        return self._with_parameters_at(number)

    def _with_parameters_at(self, entries: NDArray[np.intp] | int) -> Plan:
        """Return the plan with the parameters of some entries, given by their flat positions."""
        shape = self.shape_of_parameters
        steps = [replace(step, kind=_with_parameters_at(step.kind, shape, entries)) for step in self.steps]
        return replace(self, steps=tuple(steps))

    @cached_property
    def key(self) -> Hashable:
        """A key that two plans share only if they compute the same functions in the same way."""
        return tuple((key_of(step.kind), step.reads) for step in self.steps), self.outputs


def parameters_of(kind: Kind) -> list[NDArray[Any]]:
    """Return the parameters of a step."""
    match kind:
        case Number():
            return [kind.values]
        case ScaleAndShift():
            return [*kind.slope, *kind.shift]
        case ChoiceByMask():
            return [kind.mask]
        case LeakyReLU():
            return [np.asarray(kind.alpha), np.asarray(kind.above)]
    return []


def _with_parameters_at(kind: Kind, shape: tuple[int, ...], entries: NDArray[np.intp] | int) -> Kind:
    """Return a step with the parameters of some entries, given by their flat positions in a shape."""

    def take(array: NDArray[Any]) -> NDArray[Any]:
        if not shape:
            return np.asarray(array)
        taken: NDArray[Any] = np.broadcast_to(array, shape).reshape(-1)[entries]
        return taken

    match kind:
        case Number():
            return Number(take(kind.values))
        case ScaleAndShift():
            low_slope, high_slope = kind.slope
            low_shift, high_shift = kind.shift
            return ScaleAndShift((take(low_slope), take(high_slope)), (take(low_shift), take(high_shift)))
        case ChoiceByMask():
            return ChoiceByMask(take(kind.mask))
        case LeakyReLU():
            return replace(kind, alpha=take(np.asarray(kind.alpha)), above=take(np.asarray(kind.above)))
    return kind


def key_of(kind: Kind) -> Hashable:
    """Return a key that two steps share only if they compute the same; the step itself if its fields have no keys."""
    arrays = tuple((np.shape(array), np.asarray(array).tobytes()) for array in parameters_of(kind))
    if arrays or not dataclasses.is_dataclass(kind):
        # Kinds with parameters are Number, ScaleAndShift, ChoiceByMask and LeakyReLU. Of their fields that are no
        # parameters, only the leaky ReLU's number of roundings has an influence on bounds.
        return type(kind), getattr(kind, "roundings", 0), arrays
    values = tuple(getattr(kind, field.name) for field in dataclasses.fields(kind))
    if all(value is None or isinstance(value, (bool, int, float, str, tuple)) for value in values):
        return type(kind), values
    return kind


def _thresholds(kind: Kind) -> Iterator[tuple[float, bool]]:
    """Yield the numbers at which a step changes its branch, and whether it jumps there."""
    match kind:
        case Comparison():
            yield kind.threshold, True
        case SignOf():
            yield 0.0, True
        case Extreme():
            yield 0.0, False
        case Negative():
            return  # one slope on both sides, no threshold
        case TwoSlopes() | ELU():
            yield 0.0, False
        case HardTanh():
            yield from ((limit, False) for limit in (kind.low, kind.high) if math.isfinite(limit))
        case SoftShrink():
            yield -kind.edge, False
            yield kind.edge, False
        case HardSwish():
            yield -3.0, False
            yield 3.0, False


# -- from operators to a plan ------------------------------------------------------------------------------------------
AddStep: TypeAlias = Callable[..., int]
"""Adds a step, given by its kind and the numbers of the values that it reads, and returns the number of its value."""


def plan_of(program: EntryProgram, outputs: Sequence[int]) -> Plan:
    """Return operators as steps.

    The maximum of several values becomes maxima of two values. A `Multiple`, c f(b x), becomes three steps: a scale by
    b, the function f, and a scale by c.

    ``outputs``: numbers of the program's values that it returns.

    Raises
    ------
    Unreadable
        If an operator has no steps, or one of its numbers cannot be loaded or is not finite.
    """
    steps: list[PlanStep] = []
    step_values = [0]
    """For each value of the program the number of the same value in the plan."""

    def add(kind: Kind, *reads: int) -> int:
        steps.append(PlanStep(kind, reads))
        return len(steps)

    for operator, reads in program:
        step_values.append(_add_steps(operator, [step_values[value] for value in reads], add))
    return Plan(tuple(steps), tuple(step_values[value] for value in outputs))


def _add_steps(operator: Operator, reads: list[int], add: AddStep) -> int:
    """Add the steps of an operator; return the number of its value."""
    match operator:
        case Identity():
            return reads[0]
        case Constant():
            return add(Number(_load_finite(operator.run)))
        case Scale():
            return add(_line_of_scale(operator), *reads)
        case Add():
            return add(_weighted_sum(operator), *reads)
        case Maximum() | Minimum():
            return _add_extremes(isinstance(operator, Maximum), reads, add)
        case Product():
            return add(ProductOfTwo(), *reads)
        case Quotient():
            return add(QuotientOfTwo(), *reads)
        case Where():
            return add(ChoiceByMask(np.asarray(_load_finite(operator.mask), dtype=bool)), *reads)
        case Compare():
            return add(_comparison(operator), *reads)
        case Choose():
            return add(ChoiceByValue(), *reads)
        case Sign():
            return add(SignOf(), *reads)
        case Multiple() if operator.roundings <= SCALED_ENTRY_ROUNDINGS:
            inner = _line_of_factor(operator.inner, operator.roundings)
            outer = _line_of_factor(operator.outer, operator.roundings)
            argument = add(inner, *reads)
            return add(outer, _add_steps(operator.function, [argument], add))
        # A function that has slopes on a range is refused: a plan would not use them.
        case Pointwise() if operator.slopes_on_range is None and _has_valid_fields(operator):
            is_ours = type(operator).__module__ in OUR_MODULES
            return add(operator if is_ours else UserFunction(operator), *reads)
    raise Unreadable


def _has_valid_fields(function: Pointwise) -> bool:
    """Whether a power has a whole exponent of at least 1, and the slopes of a leaky ReLU are finite."""
    if isinstance(function, Power):
        return function.exponent == int(function.exponent) >= 1
    return all(np.isfinite(array).all() for array in parameters_of(function))


def _add_extremes(is_maximum: bool, reads: list[int], add: AddStep) -> int:
    """Add the largest or smallest of several values: of the first two, then of that and the third, and so on."""
    extreme, *others = reads
    for other in others:
        difference = add(WeightedSum((1.0, -1.0)), extreme, other)
        extreme = add(Extreme(is_maximum), difference, extreme, other)
    return extreme


def _load_finite(load: Callable[[], Any]) -> NDArray[Any]:
    try:
        values = np.asarray(load(), dtype=np.float64)
    except Exception as error:
        raise Unreadable from error
    if not np.isfinite(values).all():
        raise Unreadable
    return values


def _weighted_sum(operator: Add) -> WeightedSum:
    if not all(map(math.isfinite, operator.weights)):
        raise Unreadable
    return WeightedSum(operator.weights, operator.divisor)


def _comparison(operator: Compare) -> Comparison:
    if not math.isfinite(operator.threshold):
        raise Unreadable
    return Comparison(operator.kind, operator.threshold)


def _line_of_scale(scale: Scale) -> ScaleAndShift:
    values = np.asarray(scale.values, dtype=np.float64)
    offset = np.zeros(())
    offset_error = np.zeros(())
    if scale.offset is not None:
        offset, offset_error = (np.asarray(part) for part in scale.offset())
    if not scale.is_accurate or not all(np.isfinite(numbers).all() for numbers in (offset, offset_error)):
        raise Unreadable
    slope_error = np.zeros(()) if scale.exact else abs(values) * RELATIVE_ERROR
    shift = _ends_around(np.asarray(offset, dtype=np.float64), np.asarray(offset_error, dtype=np.float64))
    return ScaleAndShift(_ends_around(values, slope_error), shift)


def _line_of_factor(factor: float, roundings: int) -> ScaleAndShift:
    if not math.isfinite(factor):
        raise Unreadable
    slope = np.asarray(factor)
    zero = np.zeros(())
    slope_error = abs(slope) * RELATIVE_ERROR if roundings else zero
    return ScaleAndShift(_ends_around(slope, slope_error), (zero, zero))


def _ends_around(values: FloatArray, error: FloatArray) -> LowHigh:
    """Return values less and plus an error, rounded outward; the values themselves if there is no error."""
    if not error.any():
        return values, values
    return host.next_down(values - error), host.next_up(values + error)
