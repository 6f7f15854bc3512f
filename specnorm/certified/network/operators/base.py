"""What an operator is: what it computes in float64, and what is known of it.

By default the methods of `Operator` claim nothing, so that an operator of which nothing is known gives no bound rather
than a guess. What they promise is said here once, for the classes that override them.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from specnorm.certified import host
from specnorm.certified.interval import Interval, enclosing
from specnorm.certified.network.operators.executed import EXACT, Executed, Format
from specnorm.certified.network.shapes import Shape, Size, concrete

FloatArray: TypeAlias = NDArray[Any]
"""float64, or complex128 for operators of Fourier transforms."""
Ends: TypeAlias = tuple[FloatArray, FloatArray]
"""Smallest and largest of something, entry by entry."""
Offset: TypeAlias = Callable[[], Ends]
"""Gives constants that broadcast against a value, and by how much each may be off."""
Sizes: TypeAlias = tuple[int, ...]
Apply: TypeAlias = Callable[[Sequence[FloatArray]], FloatArray]
Adjoint: TypeAlias = Callable[[FloatArray], list[FloatArray]]
Program: TypeAlias = "list[tuple[Operator, tuple[int, ...]]]"
"""Operators, and the numbers of the values that each takes: inputs from 0 on, then those of the operators before."""
AT_ONCE = 2**23
"""Entries of what is gathered for some copies of a value together."""


class NoBoundError(Exception):
    """An operator has no constant here; the message says why."""


class NotRunError(Exception):
    """An operator cannot be executed here; the message says why."""


@dataclass(frozen=True, eq=False)
class Place:
    """Where an operator stands in a network: shapes of its inputs and of its value, None where they are not known."""

    before: tuple[Shape | None, ...]
    after: Shape | None = None
    ranges: Callable[[], tuple[Interval | None, ...]] = tuple
    """Gives for each input where its entries lie, or None; an empty tuple: nothing is known of any."""

    @classmethod
    def of(cls, *values: FloatArray) -> Place:
        """Shapes of given inputs."""
        return cls(tuple(value.shape for value in values))

    def sizes(self) -> list[tuple[int, ...]] | None:
        """Shapes of the inputs; None unless all sizes of all are known."""
        found = [concrete(shape) for shape in self.before]
        known = [shape for shape in found if shape is not None]
        return known if len(known) == len(found) else None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the value may have a shape: it is the one that is known, or none is."""
        return concrete(self.after) in (None, shape)


@dataclass(frozen=True, eq=False)
class LinearMap:
    """The linear part of an operator at known sizes; what is added to it is `offset`."""

    apply: Apply
    """Arrays of shape (copies, *shape), one for each input -> array of shape (copies, *shape of the value)."""
    absolute: Apply
    """The same with absolute values of the coefficients."""
    roundings: int
    """``|computed A x - A x| <= gamma(roundings) |A| |x|``."""
    rows: FloatArray | None = None
    """Upper bounds of the 2-norms of the rows, broadcasting against the value's shape; None: not known."""
    offset: Offset | None = None
    shape: Sizes | None = None
    """Of the value; None: that of `apply`'s."""
    adjoint: Adjoint | None = None
    """Arrays (copies, *shape of the value) -> one (copies, *shape) for each input; None: `linear_reading` finds it."""
    backward: int = 0
    """Roundings of `adjoint`: ``|computed A^T y - A^T y| <= gamma(backward) |A^T| |y|``."""
    moves: bool = False
    """Whether each entry of the value is an entry of an input, or 0."""

    @classmethod
    def moving(cls, apply: Apply, offset: Offset | None = None) -> LinearMap:
        """The map whose values are entries of the inputs, or 0: exact."""
        return cls(apply, apply, 0, np.ones(()), offset, moves=True)


def in_parts(apply: Callable[[FloatArray], FloatArray], x: FloatArray, entries: int) -> FloatArray:
    """A function of arrays (copies, ...), applied to some copies at a time; each needs so many entries."""
    step = max(1, AT_ONCE // max(entries, 1))
    parts = [apply(x[at : at + step]) for at in range(0, len(x), step)]
    if not parts:
        return apply(np.zeros((1, *x.shape[1:]), x.dtype))[:0]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
@dataclass(frozen=True, eq=False)
class Operator:
    """One operator. Its fields are all that it depends on besides its inputs.

    Every class derived from it is a frozen dataclass, without a decorator. Axes are numbered from 0 along the whole
    value, the samples' axis included; shapes are those of one sample or more.
    """

    rule: ClassVar[str] = "unknown"
    """Which rule gives its constant, as tables and JSON name it."""
    lipschitz_constant: ClassVar[float | None] = None
    """`lipschitz`, where it is the same for all shapes and fields."""
    rises: ClassVar[bool] = False
    """Whether each entry of the value rises with the entries of the inputs, computed without rounding."""
    keeps_channels: ClassVar[bool] = False
    """Whether it treats every channel (axis 1) by itself and alike, entry-wise functions and layers apart."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, eq=False)(cls)

    def run(self, *values: FloatArray) -> FloatArray:
        """Value for float64 inputs; `NotRunError` where it cannot be computed."""
        raise NotRunError(f"{type(self).__name__} is not executed here")

    def lipschitz(self, place: Place) -> float:
        """Lipschitz constant of an operator with one input that moves, rounded up; `NoBoundError` if none is known."""
        if self.lipschitz_constant is not None:
            return self.lipschitz_constant
        raise NoBoundError("this operator has no Lipschitz constant that is known here")

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """Lipschitz constant of the value from those of the inputs, which are 0 of constants; as `lipschitz`."""
        if len(bounds) != 1:
            raise NoBoundError("this operator of several values has no Lipschitz constant that is known here")
        return host.mul_up(self.lipschitz(place), bounds[0])

    def linear_map(self, place: Place) -> LinearMap | None:
        """The operator as a linear map at known sizes; None where it is not linear, or they are not known."""
        return None

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        """Where the value's entries lie; None for linear maps, and where nothing is known. A pair of arrays will do."""
        if not self.rises:
            return None
        try:
            low, high = self.run(*(each.low for each in ranges)), self.run(*(each.high for each in ranges))
        except NotRunError:
            return None
        return enclosing((low, high)) if place.fits(low.shape) else None

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """By how much another library's value may differ from ``result``, what `run` made of the inputs ``values``.

        The other library computes with the unit roundoff ``unit``; our own rounding is counted besides.
        """
        linear = self.linear_map(Place(tuple(value.shape for value in values), result.shape))
        if linear is None or not (linear.roundings or linear.offset):
            return 0.0
        size = linear.absolute([abs(value)[None] for value in values])[0]
        if linear.offset is not None:
            added, off = linear.offset()
            size = size + abs(added) + off / unit
        # Sums in any order, products rounded or fused: gamma(n) of the terms' sizes; twice, for theirs and ours.
        allowed: FloatArray = 2 * (linear.roundings + 4) * unit * size + linear.roundings * smallest(unit)
        return allowed

    def written_out(self, before: Sequence[Sizes]) -> Program | None:
        """The same by linear operators and functions of each entry, for inputs of some shapes; None: there is none."""
        return None

    def executed(self, place: Place, format: Format) -> Executed:
        """What is computed in its place where values are stored in a format; `NoBoundError` where that is not known."""
        raise NoBoundError("what is rounded where it is executed is not known here")

    def named(self) -> tuple[tuple[str, Any], ...]:
        """Fields by name, for a digest."""
        return tuple((each.name, getattr(self, each.name)) for each in dataclasses.fields(self))


class Linear(Operator):
    """An operator whose `linear_map` is all there is to it."""

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        """`linear_map` for inputs of some shapes, whatever the shape of the value is said to be."""
        return None

    def linear_map(self, place: Place) -> LinearMap | None:
        befores = place.sizes()
        linear = self.map_at(*befores) if befores else None
        if linear is None or befores is None:
            return None
        try:
            shape = linear.shape or linear.apply([np.zeros((0, *before)) for before in befores]).shape[1:]
        except (NotRunError, ValueError, IndexError):
            return None
        return linear if place.fits(shape) else None

    def run(self, *values: FloatArray) -> FloatArray:
        # By the linear map, so that what is compared with a model is what ranges are made with.
        linear = self.linear_map(Place.of(*values))
        if linear is None:
            raise NotRunError(f"{type(self).__name__} has no map of values of shapes {[v.shape for v in values]}")
        found = linear.apply([value[None] for value in values])[0]
        if linear.offset is not None:
            found = found + linear.offset()[0]
        return np.asarray(found)


class Move(Linear):
    """Each entry of the value is one entry of the input, none twice, or 0: `moved` says which."""

    rule = "select"
    lipschitz_constant = 1.0

    def moved(self, x: FloatArray) -> FloatArray:
        """The value, for an array of any kind; `NotRunError`, ValueError or IndexError if that does not fit."""
        raise NotRunError(f"{type(self).__name__} moves nothing of shape {x.shape}")

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return np.stack([self.moved(one) for one in x[0]]) if len(x[0]) else self._none(before, x[0].dtype)

        return LinearMap.moving(apply)

    def executed(self, place: Place, format: Format) -> Executed:
        return EXACT

    def _none(self, before: Sizes, dtype: Any) -> FloatArray:
        """The value of no copies."""
        return np.zeros((0, *self.moved(np.zeros(before, np.bool_)).shape), dtype)


class Pointwise(Operator):
    """A function of one number, applied to each entry: at most its largest slope (mean value theorem)."""

    rule = "pointwise"
    near: Ends | None = field(default=None, kw_only=True)
    """Smallest and largest slope of each entry, where its inputs stay in a range; None: anywhere."""

    def value(self, x: FloatArray) -> FloatArray:
        """The function."""
        raise NotRunError(f"{type(self).__name__} is not executed here, on shape {x.shape}")

    def extent(self) -> tuple[float, float] | None:
        """Smallest and largest slope of all, rounded outward: every difference quotient is between; None: none."""
        return None

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        """Smallest and largest slope on intervals (ends may be infinite), rounded outward; None where none is known."""
        ends = self.extent()
        return None if ends is None else (np.full(low.shape, ends[0]), np.full(high.shape, ends[1]))

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        """Interval that the values on intervals lie in, rounded outward; infinite where none is known."""
        return np.full(low.shape, -np.inf), np.full(high.shape, np.inf)

    def affine(self, low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray] | None:
        """Slope, middle and half with ``|f(v) - slope v - middle| <= half`` on intervals, rounded outward.

        Where an interval is not finite: 0, 0 and infinity. None: no line is known.
        """
        return None

    def breaks(self, low: FloatArray, high: FloatArray) -> FloatArray:
        """Ends of the parts of intervals on which lines are near the function, ascending: shape (parts + 1, *shape)."""
        shares = np.linspace(0.0, 1.0, 9).reshape(-1, *(1,) * low.ndim)
        found = np.clip(low + shares * (high - low), low, high)
        found[-1] = high
        return np.asarray(found)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        # What the elementary functions of libraries promise, and more.
        return 16 * unit * (abs(result) + abs(values[0]))

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        with np.errstate(all="ignore"):
            return np.asarray(self.value(x))

    def lipschitz(self, place: Place) -> float:
        if self.near is not None:
            return float(max(np.max(abs(end), initial=0.0) for end in self.near))
        ends = self.extent()
        if ends is None:
            raise NoBoundError(f"{self!r} has no largest slope that is known here")
        return max(map(abs, ends))

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        (x,) = ranges
        with np.errstate(all="ignore"):
            return enclosing(self.between(*x.ends))

    def by_channel(self, axis: int, width: int) -> Ends | None:
        """Smallest and largest slope in each channel, shape (width,)."""
        if self.near is None:
            ends = self.extent()
            return None if ends is None else (np.full(width, ends[0]), np.full(width, ends[1]))
        if self.near[0].shape[axis] != width:
            return None
        if not self.near[0].size:
            return np.zeros(width), np.zeros(width)
        low, high = (np.moveaxis(end, axis, 0).reshape(width, -1) for end in self.near)
        return low.min(axis=1), high.max(axis=1)


def last_sizes(shape: Shape | None, count: int) -> list[int | None]:
    """Sizes of the last axes; None where they are not known."""
    if shape is None or len(shape) < count:
        return [None] * count
    return [n if isinstance(n, int) else None for n in shape[len(shape) - count :]]


UNITS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoffs; TensorFloat-32 has that of float16."""


def multiplied(constant: FloatArray, factor: float) -> Ends:
    """A constant times a number, and by how much that may be off."""
    found = constant * factor
    return found, abs(found) * (0.0 if abs(factor) == 1 else 2.0**-50)


def smallest(unit: float) -> float:
    """The smallest number above 0 of an arithmetic: what underflow may take from a product."""
    return {2.0**-53: 2.0**-1074, 2.0**-11: 2.0**-24, 2.0**-8: 2.0**-133}.get(unit, 2.0**-149)


def summed_to(y: FloatArray, shape: Sizes) -> FloatArray:
    """Adjoint of broadcasting copies (copies, *shape): sums over what was repeated."""
    ahead = y.ndim - 1 - len(shape)
    wide = (1,) * ahead + shape
    repeated = tuple(at + 1 for at, n in enumerate(wide) if n == 1 and y.shape[at + 1] != 1)
    return np.asarray((y.sum(axis=repeated, keepdims=True) if repeated else y).reshape(len(y), *shape))


def broadcasted(*shapes: Shape | None) -> Shape | None:
    """The shape that values are broadcast to, by NumPy's rules; None where that is not known.

    A symbol beside a number above 1 is that number, or 1: what is said is the number.
    """
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    found: list[Size] = []
    for sizes in itertools.zip_longest(*(shape[::-1] for shape in known), fillvalue=1):
        others = {n for n in sizes if n != 1}
        numbers = {n for n in others if isinstance(n, int)}
        if len(numbers or others) > 1:
            return None
        found.append(next(iter(numbers or others), 1))
    return tuple(found[::-1])


def repeats(before: Shape | None, after: Shape | None) -> int:
    """How often broadcasting repeats each entry; `NoBoundError` if the shapes do not tell."""
    if before is None or after is None or len(before) > len(after):
        raise NoBoundError("the shapes that are broadcast are not known: give the input shape")
    aligned = (1,) * (len(after) - len(before)) + before
    found = 1
    for n, m in zip(aligned, after, strict=True):
        if n == m:
            continue
        if n != 1 or not isinstance(m, int):
            raise NoBoundError(f"shape {before} cannot be compared with {after}: give the input shape")
        found *= m
    return found


def spread(bounds: Sequence[float], place: Place) -> list[float]:
    """Each input's constant times the root of how often broadcasting repeats its entries; 0 stays 0."""
    return [
        host.mul_up(bound, host.root_up(repeats(before, place.after))) if bound else 0.0
        for bound, before in zip(bounds, place.before, strict=True)
    ]
