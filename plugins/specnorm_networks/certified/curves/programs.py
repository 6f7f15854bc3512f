"""Entry-wise operators one after the other, as a program for one number, with the constants of each entry."""

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
from specnorm_networks.certified.operators.base import Ends, FloatArray, Operator, Pointwise
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
from specnorm_networks.certified.operators.linear import SCALED, Add, Scale
from specnorm_networks.certified.operators.moves import Identity
from specnorm_networks.certified.operators.pointwise import (
    ELU,
    HardSwish,
    HardTanh,
    Kinked,
    LeakyReLU,
    Multiple,
    Negative,
    Power,
    SoftShrink,
)
from specnorm_networks.certified.operators.sources import Constant

Written: TypeAlias = tuple[tuple[Operator, tuple[int, ...]], ...]
"""Operators, and the numbers of the values that each reads: 0 is the argument, i the value of operator i - 1."""
JUMPING = (Compare, Sign)
ENTRYWISE = (
    Pointwise, Add, Scale, Product, Quotient, Maximum, Minimum, Where, Compare, Choose, Sign, Identity, Constant,
)  # fmt: skip
"""Operators that programs are made of."""
SLACK = (SCALED + 2) * 2.0**-52
"""Relative error of constants that were computed."""


OURS = (ELU.__module__, "specnorm_networks.certified.operators.composite")
"""Modules of our own functions, of whose classes more is known than their methods state."""


class Foreign(Pointwise):
    """A function of a user's class, which may derive from one of ours: only its methods count."""

    function: Pointwise

    def value(self, x: FloatArray) -> FloatArray:
        """Return the values of the user's function."""
        return self.function.value(x)

    def extent(self) -> tuple[float, float] | None:
        """Return the extent of the user's function."""
        return self.function.extent()

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        """Return the slopes of the user's function."""
        return self.function.slopes(low, high)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        """Return intervals of the values of the user's function."""
        return self.function.between(low, high)


class Unreadable(Exception):
    """A program cannot be read: a constant of it cannot be loaded, or is no number."""


# -- the kinds of a plan's steps, besides functions of one number ------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Number:
    """A constant."""

    values: FloatArray


@dataclass(frozen=True, eq=False)
class Line:
    """``slope x + shift``; both lie between two numbers."""

    slope: tuple[FloatArray, FloatArray]
    shift: tuple[FloatArray, FloatArray]

    @property
    def exact(self) -> bool:
        """Whether both are known."""
        return all(bool(np.array_equal(low, high)) for low, high in (self.slope, self.shift))

    @property
    def intervals(self) -> tuple[Interval, Interval]:
        """Slope and shift."""
        return enclosing(self.slope), enclosing(self.shift)


@dataclass(frozen=True)
class Total:
    """A weighted sum, divided by a whole number."""

    weights: tuple[float, ...]
    over: int = 1


@dataclass(frozen=True)
class Times:
    """The product of two values."""


@dataclass(frozen=True)
class Over:
    """The quotient of two values."""


@dataclass(frozen=True)
class Pick:
    """The second value where the first, their difference, is above 0, else the third; ``larger`` or the other way."""

    larger: bool


@dataclass(frozen=True, eq=False)
class Masked:
    """The first value where a constant mask is true, else the second."""

    mask: NDArray[np.bool_]


@dataclass(frozen=True)
class If:
    """The second value where the first is not 0, else the third."""


@dataclass(frozen=True)
class Above:
    """1 where a value compares with a number, else 0."""

    kind: str
    threshold: float


@dataclass(frozen=True)
class SignOf:
    """-1, 0 or 1."""


Kind: TypeAlias = Number | Line | Total | Times | Over | Pick | Masked | If | Above | SignOf | Pointwise


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a plan."""

    kind: Kind
    reads: tuple[int, ...]
    """Numbers of values: 0 is the argument, i the value of step i - 1."""


@dataclass(frozen=True)
class Switch:
    """A number at which steps change their branch when a value crosses it."""

    value: int
    """Number of the value."""
    threshold: float
    jumps: bool
    """Whether a step jumps there; otherwise it has a kink."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A program whose constants are arrays that broadcast against the argument."""

    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    """Numbers of the values that the program returns."""

    @cached_property
    def switches(self) -> tuple[Switch, ...]:
        """All switches, in the order of the values that cross them."""
        jumps_at: dict[tuple[int, float], bool] = {}
        for step in self.steps:
            for threshold, jumps in _thresholds(step.kind):
                place = (step.reads[0], threshold)
                jumps_at[place] = jumps_at.get(place, False) or jumps
        return tuple(Switch(value, threshold, jumps) for (value, threshold), jumps in sorted(jumps_at.items()))

    @cached_property
    def jumps(self) -> bool:
        """Whether a step jumps."""
        return any(switch.jumps for switch in self.switches) or any(isinstance(s.kind, If) for s in self.steps)

    @cached_property
    def constants_shape(self) -> tuple[int, ...]:
        """Shape that all constants broadcast to."""
        return np.broadcast_shapes(*(np.shape(array) for step in self.steps for array in arrays_of(step.kind)))

    @cached_property
    def entries(self) -> tuple[Plan, NDArray[np.intp]]:
        """The plan with one number of each constant for each function, and the number of each entry's function."""
        shape = self.constants_shape
        columns = [np.broadcast_to(array, shape).reshape(-1) for step in self.steps for array in arrays_of(step.kind)]
        if not columns:
            return self, np.zeros(shape, np.intp)
        table = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
        _, first, which = np.unique(table, axis=0, return_index=True, return_inverse=True)
        flat = replace(self, steps=tuple(replace(s, kind=taken(s.kind, shape, first)) for s in self.steps))
        return flat, which.reshape(shape)

    def at(self, entries: NDArray[np.intp]) -> Plan:
        """Return a plan with flat constants for some of its functions."""
        count = self.constants_shape
        return replace(self, steps=tuple(replace(s, kind=taken(s.kind, count, entries)) for s in self.steps))

    @cached_property
    def key(self) -> Hashable:
        """A key that plans share which compute the same function in the same way."""
        return tuple((_key(step.kind), step.reads) for step in self.steps), self.outputs


def arrays_of(kind: Kind) -> Iterator[NDArray[Any]]:
    """Constants of a step."""
    match kind:
        case Number():
            yield kind.values
        case Line():
            yield from (*kind.slope, *kind.shift)
        case Masked():
            yield kind.mask
        case LeakyReLU():
            yield from (np.asarray(kind.alpha), np.asarray(kind.above))


def taken(kind: Kind, shape: tuple[int, ...], at: NDArray[np.intp]) -> Kind:
    """A step with some of the constants, by their positions in a shape, as a flat array."""

    def take(array: NDArray[Any]) -> NDArray[Any]:
        return np.broadcast_to(array, shape).reshape(-1)[at] if shape else np.asarray(array)

    match kind:
        case Number():
            return Number(take(kind.values))
        case Line():
            low, high = kind.slope
            least, most = kind.shift
            return Line((take(low), take(high)), (take(least), take(most)))
        case Masked():
            return Masked(take(kind.mask))
        case LeakyReLU():
            return replace(kind, alpha=take(np.asarray(kind.alpha)), above=take(np.asarray(kind.above)))
    return kind


def _key(kind: Kind) -> Hashable:
    arrays = tuple((np.shape(array), np.asarray(array).tobytes()) for array in arrays_of(kind))
    if arrays or not dataclasses.is_dataclass(kind):
        return type(kind), getattr(kind, "roundings", 0), arrays
    fields = tuple(getattr(kind, each.name) for each in dataclasses.fields(kind))
    plain = all(each is None or isinstance(each, (bool, int, float, str, tuple)) for each in fields)
    return (type(kind), fields) if plain else kind


def _thresholds(kind: Kind) -> Iterator[tuple[float, bool]]:
    """Yield the numbers at which a step changes its branch, and whether it jumps there."""
    match kind:
        case Above():
            yield kind.threshold, True
        case SignOf():
            yield 0.0, True
        case Pick():
            yield 0.0, False
        case Negative():
            return
        case Kinked() | ELU():
            yield 0.0, False
        case HardTanh():
            yield from ((end, False) for end in (kind.low, kind.high) if math.isfinite(end))
        case SoftShrink():
            yield from ((end, False) for end in (-kind.edge, kind.edge))
        case HardSwish():
            yield from ((end, False) for end in (-3.0, 3.0))


# -- from operators to a plan -----------------------------------------------------------------------------------------
def plan_of(written: Written, outputs: Sequence[int]) -> Plan:
    """Operators as steps: several maxima two by two, a function with factors between two lines.

    Raises
    ------
    Unreadable
    """
    steps: list[Step] = []
    numbers = [0]

    def add(kind: Kind, *reads: int) -> int:
        steps.append(Step(kind, reads))
        return len(steps)

    for operator, reads in written:
        numbers.append(_added(operator, [numbers[at] for at in reads], add))
    return Plan(tuple(steps), tuple(numbers[at] for at in outputs))


def _added(operator: Operator, reads: list[int], add: Callable[..., int]) -> int:
    """The number of an operator's value, after its steps were added."""
    match operator:
        case Identity():
            return reads[0]
        case Constant():
            return add(Number(_loaded(operator.run)))
        case Scale():
            return add(_line(operator), *reads)
        case Add():
            if not all(map(math.isfinite, operator.weights)):
                raise Unreadable
            return add(Total(operator.weights, operator.over), *reads)
        case Maximum() | Minimum():
            return _two_by_two(isinstance(operator, Maximum), reads, add)
        case Product():
            return add(Times(), *reads)
        case Quotient():
            return add(Over(), *reads)
        case Where():
            return add(Masked(np.asarray(_loaded(operator.mask), dtype=bool)), *reads)
        case Compare() | Choose() | Sign():
            return add(_chooser(operator), *reads)
        case Multiple() if operator.roundings <= SCALED:
            inner, outer = (_factor(number, operator.roundings) for number in (operator.inner, operator.outer))
            return add(outer, _added(operator.function, [add(inner, *reads)], add))
        case Pointwise() if operator.near is None and _is_plain(operator):
            return add(operator if type(operator).__module__ in OURS else Foreign(operator), *reads)
    raise Unreadable


def _is_plain(function: Pointwise) -> bool:
    """Whether a function's numbers are such as its class takes."""
    if isinstance(function, Power):
        return function.exponent == int(function.exponent) >= 1
    return all(np.isfinite(array).all() for array in arrays_of(function))


def _two_by_two(larger: bool, reads: list[int], add: Callable[..., int]) -> int:
    """The largest or smallest of several values: of two, by their difference, and so on."""
    first, *others = reads
    for other in others:
        difference = add(Total((1.0, -1.0)), first, other)
        first = add(Pick(larger), difference, first, other)
    return first


def _chooser(operator: Compare | Choose | Sign) -> Kind:
    if isinstance(operator, Compare):
        if not math.isfinite(operator.threshold):
            raise Unreadable
        return Above(operator.kind, operator.threshold)
    return SignOf() if isinstance(operator, Sign) else If()


def _loaded(load: Callable[[], Any]) -> NDArray[Any]:
    try:
        found = np.asarray(load(), dtype=np.float64)
    except Exception as error:
        raise Unreadable from error
    if not np.isfinite(found).all():
        raise Unreadable
    return found


def _line(scale: Scale) -> Line:
    values = np.asarray(scale.values, dtype=np.float64)
    added, off = (np.zeros(()), np.zeros(())) if scale.offset is None else map(np.asarray, scale.offset())
    if not all(np.isfinite(each).all() for each in (values, added, off)):
        raise Unreadable
    slope = _around(values, np.zeros(()) if scale.exact else abs(values) * SLACK)
    return Line(slope, _around(np.asarray(added, dtype=np.float64), np.asarray(off, dtype=np.float64)))


def _factor(number: float, roundings: int) -> Line:
    if not math.isfinite(number):
        raise Unreadable
    value = np.asarray(number)
    zero = np.zeros(())
    return Line(_around(value, abs(value) * SLACK if roundings else zero), (zero, zero))


def _around(values: FloatArray, off: FloatArray) -> tuple[FloatArray, FloatArray]:
    if not off.any():
        return values, values
    return host.next_down(values - off), host.next_up(values + off)
