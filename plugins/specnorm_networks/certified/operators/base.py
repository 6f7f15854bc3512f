"""The base classes of operators: what an operator computes in float64, and what it states about that.

By default the methods of `Operator` claim nothing: an operator that states nothing has no bound, rather than a guess.
Their promises are written here once, for the classes that override them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, around, enclosing, host, point
from specnorm_networks.certified.operators.formats import smallest
from specnorm_networks.certified.regions import Region
from specnorm_networks.certified.shapes import Shape

FloatArray: TypeAlias = NDArray[Any]
"""Array of float64."""
Ends: TypeAlias = tuple[FloatArray, FloatArray]
"""Lower and upper ends, entry by entry."""
Offset: TypeAlias = Callable[[], tuple[FloatArray, FloatArray]]
"""Returns constants that broadcast against a value, and the error of each."""
Line: TypeAlias = tuple[FloatArray, FloatArray, FloatArray]
"""Slope, middle and half of a strip: ``|f(v) - slope v - middle| <= half``."""
Sizes: TypeAlias = tuple[int, ...]
Apply: TypeAlias = Callable[[Sequence[FloatArray]], FloatArray]
"""Maps one array (copies, *shape) for each input to one array (copies, *shape of the value)."""
Adjoint: TypeAlias = Callable[[FloatArray], list[FloatArray]]
"""Maps one array (copies, *shape of the value) to one array (copies, *shape) for each input."""
Program: TypeAlias = "list[tuple[Operator, tuple[int, ...]]]"
"""Operators, and the numbers of the values that each takes: inputs from 0 on, then those of the operators before."""
UNDERFLOW = 2.0**-1000
"""More than underflow takes from an entry."""
AT_ONCE = 2**23
"""Largest number of entries of the matrix of a linear map."""
TABLE = 2**20
"""Largest number of entries of a value of which a table says where each came from."""
KEPT_ENTRIES = 2**24
"""Entries of coefficients of linear maps that are kept while a network is executed: 128 MB."""


def times_up(*factors: FloatArray) -> FloatArray:
    """Return the product of broadcast arrays without NaN, rounded up as `host.mul_up`; 0 times infinity is 0."""
    product: FloatArray = np.ones(())
    for factor in factors:
        with np.errstate(invalid="ignore", over="ignore"):
            beyond = np.nextafter(product * factor, math.inf)
        beyond = np.where((product == 0) | (factor == 0), 0.0, beyond)
        product = np.where(product == 1, factor, np.where(factor == 1, product, beyond))
    return product


def plus_up(*terms: FloatArray) -> FloatArray:
    """Return the sum of broadcast arrays, rounded up as `host.add_up`."""
    total: FloatArray = np.zeros(())
    for term in terms:
        with np.errstate(over="ignore"):
            beyond = np.nextafter(total + term, math.inf)
        total = np.where(total == 0, term, np.where(term == 0, total, beyond))
    return total


def flattened(x: FloatArray) -> FloatArray:
    """Return an array with all entries of each copy along one axis."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


class NoBoundError(Exception):
    """An operator has no constant here; the message says why."""


class NotRunError(Exception):
    """An operator cannot be executed here; the message says why."""


@dataclass(frozen=True, eq=False)
class Place:
    """The place of an operator in a network: shapes of its inputs and of its value, None if unknown."""

    before: tuple[Shape | None, ...]
    after: Shape | None = None
    ranges: Callable[[], tuple[Interval | None, ...]] = tuple
    """Returns the range of each input, or None; an empty tuple: no range is known."""
    boxed: bool = False
    """Whether the network's inputs are known to lie in a region: only then ranges are of use."""

    @classmethod
    def of(cls, *values: FloatArray) -> Place:
        """Return the place of an operator on some inputs."""
        return cls(tuple(value.shape for value in values))

    def sizes(self) -> list[tuple[int, ...]] | None:
        """Return the shapes of the inputs; None unless all sizes of all inputs are known."""
        shapes = [shape for shape in self.before if shape is not None]
        return shapes if len(shapes) == len(self.before) else None

    def shortened(self, axes: frozenset[int]) -> Place:
        """Return the same place with size 1 along some axes."""
        return Place(tuple(_shortened(shape, axes) for shape in self.before), _shortened(self.after, axes))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the value may have a shape: the known one, or any if it is unknown."""
        return self.after in (None, shape)


def _shortened(shape: Shape | None, axes: frozenset[int]) -> Shape | None:
    if shape is None:
        return None
    return tuple(1 if axis in axes else n for axis, n in enumerate(shape))


@dataclass(frozen=True, eq=False)
class LinearMap:
    """An affine operator at known sizes: its linear part A, and the constants b that it adds (`offset`)."""

    apply: Apply
    """Computes A x."""
    absolute: Apply
    """Computes |A| x, with the absolute values of the coefficients."""
    roundings: int
    """``|computed A x - A x| <= gamma(roundings) |A| |x|``."""
    rows: FloatArray | None = None
    """Upper bounds of the 2-norms of A's rows, broadcasting against the value's shape; None: unknown."""
    offset: Offset | None = None
    shape: Sizes | None = None
    """Shape of the value; None: the one that `apply` returns."""
    adjoint: Adjoint | None = None
    """Computes A^T y; None: `with_adjoint` makes one."""
    backward: int = 0
    """Roundings of `adjoint`: ``|computed A^T y - A^T y| <= gamma(backward) |A^T| |y|``."""
    moves: bool = False
    """Whether each entry of the value is an entry of an input, or 0."""
    entries: int = 0
    """Number of entries of the coefficients that it holds."""

    @classmethod
    def moving(cls, apply: Apply, offset: Offset | None = None) -> LinearMap:
        """Return a map whose values are entries of the inputs, or 0: it is exact."""
        return cls(apply, apply, 0, np.ones(()), offset, moves=True)

    def with_adjoint(self, before: Sequence[Sizes]) -> LinearMap:
        """Return the map with an adjoint, for inputs of some shapes.

        If none is stated, it is made from the places of the entries that move, or from the matrix. `NoBoundError` if
        that has too many entries.
        """
        if self.adjoint is not None:
            return self
        ends = np.cumsum([0, *map(math.prod, before)])
        count = int(ends[-1])
        if not self.moves and count**2 > AT_ONCE:
            raise NoBoundError("its transpose has too many entries")

        def split(x: FloatArray) -> list[FloatArray]:
            pairs = zip(ends, ends[1:], before, strict=False)
            return [x[:, a:b].reshape(len(x), *shape) for a, b, shape in pairs]

        if not self.moves:
            matrix = flattened(self.apply(split(np.eye(count)))).T
            roundings = len(matrix) + self.roundings + 2
            return dataclasses.replace(self, adjoint=lambda y: split(flattened(y) @ matrix), backward=roundings)
        # For each entry of the value the number, from 1 on, of the input's entry that it is; 0: it is 0.
        (numbers,) = flattened(self.apply(split(np.arange(1.0, count + 1)[None])))
        used = np.flatnonzero(numbers)
        places = numbers[used].astype(np.intp) - 1

        def gather(y: FloatArray) -> list[FloatArray]:
            rows = [np.bincount(places, row, count) for row in flattened(y)[:, used]]
            return split(np.array(rows).reshape(len(y), count))

        most_copies = int(np.bincount(places).max(initial=1))
        return dataclasses.replace(self, adjoint=gather, backward=max(most_copies - 1, 0))

    def back(self, y: FloatArray) -> list[FloatArray]:
        """Return A^T y for each input; the adjoint has to be known."""
        assert self.adjoint is not None
        return self.adjoint(y)

    def rounding_error(self, sizes: Sequence[FloatArray], roundings: int | None = None) -> FloatArray:
        """Bound the rounding error of `apply`, for inputs whose absolute values are at most ``sizes``.

        ``roundings``: their number, if it is another one. With that of the adjoint it is the error of the product of a
        row with the value.
        """
        n = self.roundings if roundings is None else roundings
        magnitude = self.absolute(sizes)
        if not n:
            return np.zeros(magnitude.shape)
        return host.inflate(magnitude * ((n + 4) * 2.0**-52), 2 * n + 8) + UNDERFLOW

    def magnitude(self, sizes: Sequence[FloatArray]) -> FloatArray:
        """Return ``|A| |x| + |b|``, rounded up, for inputs whose absolute values are at most ``sizes``."""
        total = host.inflate(self.absolute([size[None] for size in sizes])[0], self.roundings + 4) + UNDERFLOW
        if self.offset is not None:
            added, _ = self.offset()
            total = host.next_up(total + abs(added))
        return np.asarray(host.next_up(total))

    def image(self, inputs: Sequence[Interval]) -> Interval:
        """Return an interval of the value for intervals of the inputs; roundings are counted."""
        ends = [one.middle() for one in inputs]
        bounded = [np.isfinite(half) for _, half in ends]
        halves = [np.where(ok, half, 0.0)[None] for ok, (_, half) in zip(bounded, ends, strict=True)]
        middles = [middle[None] for middle, _ in ends]
        centre = self.apply(middles)[0]
        sizes = [host.next_up(abs(middle) + half) for middle, half in zip(middles, halves, strict=True)]
        spread = self.absolute(halves)[0]
        if self.roundings:
            spread = host.inflate(spread + self.rounding_error(sizes)[0], 2 * self.roundings + 8)
        if not all(ok.all() for ok in bounded):
            open_ended = self.absolute([np.where(ok, 0.0, 1.0)[None] for ok in bounded])[0] > 0
            spread = np.where(open_ended, math.inf, spread)
        if self.offset is not None:
            added, error = (np.asarray(part, dtype=np.float64) for part in self.offset())
            centre = centre + added
            spread = host.inflate(spread + error + abs(centre) * 2.0**-52, 4)
        unknown = ~np.isfinite(centre) | np.isnan(spread)
        return around(np.where(unknown, 0.0, centre), np.where(unknown, math.inf, spread))


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
@dataclass(frozen=True, eq=False)
class Operator:
    """One operator. Its fields are all that it depends on besides its inputs.

    Every class derived from it is a frozen dataclass, without a decorator. Axes are numbered from 0 along the whole
    value, the samples' axis included; shapes are those of one sample or more.
    """

    rule: ClassVar[str] = "unknown"
    """Name of the rule that gives its constant, in tables and JSON."""
    lipschitz_constant: ClassVar[float | None] = None
    """The constant, if it is the same for all shapes and fields."""
    rises: ClassVar[bool] = False
    """Whether each entry of the value rises with the entries of the inputs, computed without rounding."""
    keeps_channels: ClassVar[bool] = False
    """Whether it treats every channel (axis 1) by itself and alike, entry-wise functions and layers apart."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, eq=False)(cls)

    def run(self, *values: FloatArray) -> FloatArray:
        """Return the value for float64 inputs; `NotRunError` if it cannot be computed."""
        raise NotRunError(f"{type(self).__name__} is not executed here")

    def lipschitz(self, place: Place) -> float:
        """Return the constant of an operator with one moving input, rounded up; `NoBoundError` if none is known."""
        if self.lipschitz_constant is not None:
            return self.lipschitz_constant
        raise NoBoundError("this operator has no Lipschitz constant that is known here")

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """Return the constant of the value from those of the inputs (0 for constants); otherwise as `lipschitz`."""
        if len(bounds) != 1:
            raise NoBoundError("this operator of several values has no Lipschitz constant that is known here")
        return host.mul_up(self.lipschitz(place), bounds[0])

    def linear_map(self, place: Place) -> LinearMap | None:
        """Return the operator as a linear map at known sizes; None if it is not linear, or if they are unknown."""
        return None

    def alike(self, place: Place) -> frozenset[int]:
        """Return the axes along which each place of the value depends on that place of the inputs alone, all alike."""
        return frozenset()

    def shortened(self, axes: frozenset[int]) -> Operator:
        """Return the same operator for size 1 along some of the axes of `alike`."""
        return self

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        """Return weights w_i with ``sum w dy^2 <= sum_i sum w_i dx_i^2`` for each change of the inputs.

        Parameters
        ----------
        weights : array
            w, with the value's axes, each of its size or of size 1.
        shares : sequence of array
            For each input, with its axes: roughly how far its entries move, 0 where they do not.

        Returns
        -------
        list of array, or None
            Weights with the inputs' axes, rounded up. None: the operator states no more than `combine`.
        """
        return None

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        """Return the interval of the value for intervals of the inputs; None for linear maps, or if it is unknown.

        Classes that override it may return a pair of arrays.
        """
        if not self.rises:
            return None
        try:
            low = self.run(*(one.low for one in ranges))
            high = self.run(*(one.high for one in ranges))
        except NotRunError:
            return None
        return enclosing((low, high)) if place.fits(low.shape) else None

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        """Bound the difference of another library's value from ``result``, which `run` returned for ``values``.

        The other library computes with the unit roundoff ``unit``; our own rounding is counted besides.
        """
        linear = self.linear_map(Place(tuple(value.shape for value in values), result.shape))
        if linear is None or not (linear.roundings or linear.offset):
            return 0.0
        size = linear.absolute([abs(value)[None] for value in values])[0]
        if linear.offset is not None:
            added, error = linear.offset()
            size = size + abs(added) + error / unit
        # Sums in any order, products rounded or fused: gamma(n) of the terms' sizes; twice, for theirs and ours.
        allowed: FloatArray = 2 * (linear.roundings + 4) * unit * size + linear.roundings * smallest(unit)
        return allowed

    def written_out(self, before: Sequence[Sizes]) -> Program | None:
        """Return the operator as linear operators and functions of each entry, for inputs of some shapes; or None."""
        return None

    def named(self) -> tuple[tuple[str, Any], ...]:
        """Return fields by name, for a digest."""
        return tuple((one.name, getattr(self, one.name)) for one in dataclasses.fields(self))


class _Maps:
    """Linear maps of operators at input shapes, and the shapes of their values."""

    def __init__(self, entries: int) -> None:
        self.entries_left = entries
        # Operators are part of the value, so that no other operator gets the identity of one of them.
        self.maps: dict[tuple[int, tuple[Sizes, ...]], tuple[Operator, LinearMap, Sizes]] = {}

    def find(self, operator: Operator, befores: Sequence[Sizes]) -> tuple[LinearMap, Sizes] | None:
        """Return a map that was kept, with the shape of its value."""
        kept = self.maps.get((id(operator), tuple(befores)))
        return None if kept is None else kept[1:]

    def keep(self, operator: Operator, befores: Sequence[Sizes], sized: tuple[LinearMap, Sizes]) -> None:
        """Keep a map, if its coefficients fit into what is left."""
        linear, shape = sized
        if linear.entries <= self.entries_left:
            self.entries_left -= linear.entries
            self.maps[id(operator), tuple(befores)] = (operator, linear, shape)


_KEPT_MAPS: ContextVar[_Maps | None] = ContextVar("_KEPT_MAPS", default=None)


@contextmanager
def keep_linear_maps(entries: int = KEPT_ENTRIES) -> Iterator[None]:
    """Make the linear map of each operator once, while a network is executed many times.

    Kernels have to stay as they are until the context ends. ``entries``: of coefficients, at most, that are kept.
    """
    token = _KEPT_MAPS.set(_Maps(entries))
    try:
        yield
    finally:
        _KEPT_MAPS.reset(token)


class Linear(Operator):
    """An operator that is defined by its `linear_map` alone."""

    moves: ClassVar[bool] = False
    """Whether each entry of the value is one of the inputs', or 0."""

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        """Return the `linear_map` for inputs of some shapes, whatever the stated shape of the value is."""
        return None

    def linear_map(self, place: Place) -> LinearMap | None:
        befores = place.sizes()
        if not befores:
            return None
        maps = _KEPT_MAPS.get()
        sized = None if maps is None else maps.find(self, befores)
        if sized is None:
            sized = self._sized_map(befores)
            if maps is not None and sized is not None:
                maps.keep(self, befores, sized)
        if sized is None:
            return None
        linear, shape = sized
        return linear if place.fits(shape) else None

    def _sized_map(self, befores: list[Sizes]) -> tuple[LinearMap, Sizes] | None:
        """Return the linear map for inputs of some shapes, and the shape of its value."""
        linear = self.map_at(*befores)
        if linear is None:
            return None
        try:
            shape = linear.shape or linear.apply([np.zeros((0, *before)) for before in befores]).shape[1:]
        except (NotRunError, ValueError, IndexError):
            return None
        return linear, shape

    def lipschitz(self, place: Place) -> float:
        """Return the constant; if entries are moved, the root of the largest number of copies of one entry.

        The columns of such a map are orthogonal, each with as many ones as its entry has copies.
        """
        if self.lipschitz_constant is not None or not self.moves:
            return super().lipschitz(place)
        same = self.alike(place)
        sizes = place.shortened(same).sizes()
        linear = self.shortened(same).linear_map(place.shortened(same)) if sizes else None
        if linear is None or sizes is None:
            raise NoBoundError("it has no map of values of such sizes, or these are not known: give the input shape")
        return host.root_up(linear.with_adjoint(sizes).backward + 1)

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        # Where entries are moved, each weight goes to where its entry came from. Along axes that are alike, one entry
        # stands for all.
        same = frozenset(axis for axis in self.alike(place) if weights.shape[axis] == 1)
        short_place = place.shortened(same)
        befores = short_place.sizes()
        after = short_place.after
        if not self.moves or befores is None or after is None or max(map(math.prod, [*befores, after])) > TABLE:
            return None
        linear = self.shortened(same).linear_map(short_place)
        if linear is None:
            return None
        linear = linear.with_adjoint(befores)
        totals = [total[0] for total in linear.back(np.broadcast_to(weights, (1, *after)))]
        if not linear.backward:
            return totals
        return [host.inflate(total, linear.backward) for total in totals]

    def run(self, *values: FloatArray) -> FloatArray:
        # By the linear map, so that the map from which ranges are made is the one that is compared with a model.
        linear = self.linear_map(Place.of(*values))
        if linear is None:
            raise NotRunError(f"{type(self).__name__} has no map of values of shapes {[v.shape for v in values]}")
        result = linear.apply([value[None] for value in values])[0]
        if linear.offset is not None:
            added, _ = linear.offset()
            result = result + added
        return np.asarray(result)


class Move(Linear):
    """An operator whose value consists of entries of the input, none twice, and zeros; `moved` returns it."""

    rule = "select"
    lipschitz_constant: ClassVar[float | None] = 1.0
    moves = True

    def moved(self, x: FloatArray) -> FloatArray:
        """Return the value for an array of any type; `NotRunError`, ValueError or IndexError if that does not fit."""
        raise NotRunError(f"{type(self).__name__} moves nothing of shape {x.shape}")

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return np.stack([self.moved(one) for one in x[0]]) if len(x[0]) else self._none(before, x[0].dtype)

        return LinearMap.moving(apply)

    def _none(self, before: Sizes, dtype: Any) -> FloatArray:
        return np.zeros((0, *self.moved(np.zeros(before, np.bool_)).shape), dtype)


@dataclass(frozen=True, eq=False)
class Slopes:
    """Smallest and largest slope of each entry of a function, proven on some regions of the network's inputs."""

    low: FloatArray
    high: FloatArray
    regions: frozenset[Region]
    """The slopes hold where the network's inputs lie in all of these regions."""

    @property
    def ends(self) -> Ends:
        """Smallest and largest slopes."""
        return self.low, self.high


class Pointwise(Operator):
    """A function of one number, applied to each entry: at most its largest slope (mean value theorem)."""

    rule = "pointwise"
    near: Slopes | None = field(default=None, kw_only=True)
    """Slopes on a range of its inputs; None: the inputs are anywhere. Only `ranges.with_slopes_on` sets it."""

    def value(self, x: FloatArray) -> FloatArray:
        """Return the values of the function."""
        raise NotRunError(f"{type(self).__name__} is not executed here, on shape {x.shape}")

    def extent(self) -> tuple[float, float] | None:
        """Return two numbers between which all difference quotients lie, rounded outward; None if there are none."""
        return None

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        """Return smallest and largest slopes on intervals (also infinite ones), rounded outward; None if unknown."""
        ends = self.extent()
        return None if ends is None else (np.full(low.shape, ends[0]), np.full(high.shape, ends[1]))

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        """Return intervals of the values on intervals, rounded outward; infinite if unknown."""
        return np.full(low.shape, -np.inf), np.full(high.shape, np.inf)

    def affine(self, low: FloatArray, high: FloatArray) -> Line:
        """Return slope, middle and half with ``|f(v) - slope v - middle| <= half`` on intervals, rounded outward.

        The slope is the chord's slope s, or 0 where that is nearer. The function less the line has slopes between
        ``m - s`` and ``M - s``: so on an interval of length w it is at most ``(M - s) (s - m) w / (M - m)`` beyond its
        values at both ends. If nothing is known, slope and middle are 0, and half is infinite.
        """
        finite = np.isfinite(low) & np.isfinite(high)
        low = np.where(finite, low, 0.0)
        high = np.where(finite, high, 0.0)
        slopes = self.slopes(low, high) or (np.full(low.shape, -math.inf), np.full(high.shape, math.inf))
        with np.errstate(all="ignore"):
            value_at_low = enclosing(self.between(low, low))
            value_at_high = enclosing(self.between(high, high))
            values = enclosing(self.between(low, high))
            chord = (value_at_high.middle()[0] - value_at_low.middle()[0]) / (high - low)
            slope = np.clip(np.nan_to_num(chord), *slopes)
            # m - s and M - s of the docstring, and how far the function may be beyond its values at both ends.
            fall = host.next_up(slope - slopes[0])
            rise = host.next_up(slopes[1] - slope)
            excess = host.inflate(fall * (rise / (fall + rise)) * (high - low), 8) + UNDERFLOW
            rest_at_low = value_at_low - point(low) * point(slope)
            rest_at_high = value_at_high - point(high) * point(slope)
            down = np.minimum(rest_at_low.low, rest_at_high.low) - excess
            up = np.maximum(rest_at_low.high, rest_at_high.high) + excess
            middle = down / 2 + up / 2
            half = host.inflate(up / 2 - down / 2 + (abs(down) + abs(up)) * 2.0**-50, 8)
        # The strip of slope 0 around all values.
        flat_middle, flat_half = values.middle()
        is_nearer = finite & np.isfinite(middle) & (half < flat_half)
        return (
            np.where(is_nearer, slope, 0.0),
            np.where(is_nearer, middle, np.where(finite, flat_middle, 0.0)),
            np.where(is_nearer, half, np.where(finite, flat_half, math.inf)),
        )

    def breaks(self, low: FloatArray, high: FloatArray) -> FloatArray:
        """Return ends of parts of intervals on which lines are near the function, ascending: (parts + 1, *shape)."""
        shares = np.linspace(0.0, 1.0, 9).reshape(-1, *(1,) * low.ndim)
        ends = np.clip(low + shares * (high - low), low, high)
        ends[-1] = high
        return np.asarray(ends)

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # More than the errors that libraries promise for elementary functions.
        return 16 * unit * (abs(result) + abs(values[0]))

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        with np.errstate(all="ignore"):
            return np.asarray(self.value(x))

    def lipschitz(self, place: Place) -> float:
        if self.near is not None:
            return float(max(np.max(abs(end), initial=0.0) for end in self.near.ends))
        ends = self.extent()
        if ends is None:
            raise NoBoundError(f"{self!r} has no largest slope that is known here")
        return max(map(abs, ends))

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        (x,) = ranges
        with np.errstate(all="ignore"):
            return enclosing(self.between(*x.ends))

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        if self.near is not None and self.near.low.shape == place.after:
            steepest = np.maximum(abs(self.near.low), abs(self.near.high))
        else:
            steepest = np.asarray(self.lipschitz(place))
        return [times_up(weights, steepest, steepest)]

    def by_channel(self, axis: int, width: int) -> Ends | None:
        """Return the smallest and largest slope in each channel, shape (width,); None if unknown."""
        if self.near is None:
            ends = self.extent()
            return None if ends is None else (np.full(width, ends[0]), np.full(width, ends[1]))
        if self.near.low.shape[axis] != width:
            return None
        if not self.near.low.size:
            return np.zeros(width), np.zeros(width)
        low, high = (np.moveaxis(end, axis, 0).reshape(width, -1) for end in self.near.ends)
        return low.min(axis=1), high.max(axis=1)


def multiplied(constant: FloatArray, factor: float) -> Ends:
    """Return a constant times a number, and the error of each entry."""
    product = constant * factor
    unit = 0.0 if abs(factor) == 1 else 2.0**-50
    return product, abs(product) * unit
