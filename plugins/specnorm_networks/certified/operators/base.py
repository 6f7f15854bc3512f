"""What an operator is: what it computes in float64, and what is known of it.

By default the methods of `Operator` claim nothing, so that an operator of which nothing is known gives no bound rather
than a guess. What they promise is said here once, for the classes that override them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, around, enclosing, host, point
from specnorm_networks.certified.operators.formats import smallest
from specnorm_networks.certified.regions import Region
from specnorm_networks.certified.shapes import Shape

FloatArray: TypeAlias = NDArray[Any]
"""float64."""
Ends: TypeAlias = tuple[FloatArray, FloatArray]
"""Smallest and largest of something, entry by entry."""
Offset: TypeAlias = Callable[[], Ends]
"""Gives constants that broadcast against a value, and by how much each may be off."""
Line: TypeAlias = tuple[FloatArray, FloatArray, FloatArray]
"""Slope, middle and half."""
Sizes: TypeAlias = tuple[int, ...]
Apply: TypeAlias = Callable[[Sequence[FloatArray]], FloatArray]
Adjoint: TypeAlias = Callable[[FloatArray], list[FloatArray]]
"""Arrays (copies, *shape of the value) -> one (copies, *shape) for each input."""
Program: TypeAlias = "list[tuple[Operator, tuple[int, ...]]]"
"""Operators, and the numbers of the values that each takes: inputs from 0 on, then those of the operators before."""
UNDERFLOW = 2.0**-1000
"""More than underflow takes from an entry."""
AT_ONCE = 2**23
"""Entries of what is gathered for some copies of a value together."""
TABLE = 2**20
"""Most entries of a value whose places are looked up one by one."""


def times_up(*factors: FloatArray) -> FloatArray:
    """As `host.mul_up`, of arrays that are broadcast, none of them NaN; 0 times infinity is 0."""
    product: FloatArray = np.ones(())
    for factor in factors:
        with np.errstate(invalid="ignore", over="ignore"):
            beyond = np.nextafter(product * factor, math.inf)
        beyond = np.where((product == 0) | (factor == 0), 0.0, beyond)
        product = np.where(product == 1, factor, np.where(factor == 1, product, beyond))
    return product


def plus_up(*terms: FloatArray) -> FloatArray:
    """As `host.add_up`, of arrays that are broadcast."""
    total: FloatArray = np.zeros(())
    for term in terms:
        with np.errstate(over="ignore"):
            beyond = np.nextafter(total + term, math.inf)
        total = np.where(total == 0, term, np.where(term == 0, total, beyond))
    return total


def flattened(x: FloatArray) -> FloatArray:
    """Each copy's entries along one axis."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


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
    boxed: bool = False
    """Whether the network's inputs are known to lie in a region, so that ranges say more than nothing."""

    @classmethod
    def of(cls, *values: FloatArray) -> Place:
        """Shapes of given inputs."""
        return cls(tuple(value.shape for value in values))

    def sizes(self) -> list[tuple[int, ...]] | None:
        """Shapes of the inputs; None unless all sizes of all are known."""
        known = [shape for shape in self.before if shape is not None]
        return known if len(known) == len(self.before) else None

    def shortened(self, axes: frozenset[int]) -> Place:
        """The same where some axes have size 1."""
        cut = [
            None if shape is None else tuple(1 if axis in axes else n for axis, n in enumerate(shape))
            for shape in (*self.before, self.after)
        ]
        return Place(tuple(cut[:-1]), cut[-1])

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the value may have a shape: it is the one that is known, or none is."""
        return self.after in (None, shape)


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
    """None: `with_adjoint` finds it."""
    backward: int = 0
    """Roundings of `adjoint`: ``|computed A^T y - A^T y| <= gamma(backward) |A^T| |y|``."""
    moves: bool = False
    """Whether each entry of the value is an entry of an input, or 0."""

    @classmethod
    def moving(cls, apply: Apply, offset: Offset | None = None) -> LinearMap:
        """The map whose values are entries of the inputs, or 0: exact."""
        return cls(apply, apply, 0, np.ones(()), offset, moves=True)

    def with_adjoint(self, before: Sequence[Sizes]) -> LinearMap:
        """With an adjoint, for inputs of some shapes: where none is stated, by the places of entries, or by the matrix.

        `NoBoundError` if that matrix has too many entries.
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

        found = flattened(self.apply(split(np.arange(1.0, count + 1)[None] if self.moves else np.eye(count))))
        if not self.moves:
            n = found.shape[1] + self.roundings + 2
            return dataclasses.replace(self, adjoint=lambda y: split(flattened(y) @ found.T), backward=n)
        # The number, from 1 on, of the entry that each of the value's is; 0: none.
        used = np.flatnonzero(found[0])
        places = found[0, used].astype(np.intp) - 1

        def gather(y: FloatArray) -> list[FloatArray]:
            rows = [np.bincount(places, row, count) for row in flattened(y)[:, used]]
            return split(np.array(rows).reshape(len(y), count))

        return dataclasses.replace(self, adjoint=gather, backward=max(int(np.bincount(places).max(initial=1)) - 1, 0))

    def back(self, y: FloatArray) -> list[FloatArray]:
        """The adjoint's values; it is known."""
        assert self.adjoint is not None
        return self.adjoint(y)

    def lost(self, sizes: Sequence[FloatArray], roundings: int | None = None) -> FloatArray:
        """What rounding changes at most in `apply`, for inputs whose absolute values are at most ``sizes``.

        ``roundings``: as many, such as of the adjoint: then as much of the product of a row with the value.
        """
        n = self.roundings if roundings is None else roundings
        found = self.absolute(sizes)
        return host.inflate(found * ((n + 4) * 2.0**-52), 2 * n + 8) + UNDERFLOW if n else np.zeros(found.shape)

    def magnitude(self, sizes: Sequence[FloatArray]) -> FloatArray:
        """``|A| |x| + |b|`` from above, for inputs whose absolute values are at most ``sizes``."""
        found = host.inflate(self.absolute([size[None] for size in sizes])[0], self.roundings + 4) + UNDERFLOW
        return np.asarray(host.next_up(found if self.offset is None else host.next_up(found + abs(self.offset()[0]))))

    def image(self, known: Sequence[Interval]) -> Interval:
        """Where the value lies while the inputs lie in intervals; roundings are counted."""
        ends = [each.middle() for each in known]
        bounded = [np.isfinite(half) for _, half in ends]
        halves = [np.where(ok, half, 0.0)[None] for ok, (_, half) in zip(bounded, ends, strict=True)]
        middles = [middle[None] for middle, _ in ends]
        centre = self.apply(middles)[0]
        sizes = [host.next_up(abs(middle) + half) for middle, half in zip(middles, halves, strict=True)]
        spread = self.absolute(halves)[0]
        if self.roundings:
            spread = host.inflate(spread + self.lost(sizes)[0], 2 * self.roundings + 8)
        if not all(ok.all() for ok in bounded):
            open_ended = self.absolute([np.where(ok, 0.0, 1.0)[None] for ok in bounded])[0] > 0
            spread = np.where(open_ended, math.inf, spread)
        if self.offset is not None:
            added, off = (np.asarray(each, dtype=np.float64) for each in self.offset())
            centre = centre + added
            spread = host.inflate(spread + off + abs(centre) * 2.0**-52, 4)
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

    def alike(self, place: Place) -> frozenset[int]:
        """Axes, of the inputs and of the value, along which the same happens at each place, from that place alone."""
        return frozenset()

    def shortened(self, axes: frozenset[int]) -> Operator:
        """The same operator where some axes of `alike` have size 1."""
        return self

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        """Weights w_i with ``sum w dy^2 <= sum_i sum w_i dx_i^2`` for each change of the inputs, entry by entry.

        Parameters
        ----------
        weights : array
            w, with the value's axes, of their sizes or 1.
        shares : sequence of array
            Of each input: about how far its entries move, 0 where they do not; likewise.

        Returns
        -------
        list of array, or None
            Rounded up, likewise with the inputs' axes; None: no more is known than `combine` says of all entries.
        """
        return None

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        """Where the value's entries lie; None for linear maps, and where nothing is known. A pair of arrays will do."""
        if not self.rises:
            return None
        try:
            low = self.run(*(each.low for each in ranges))
            high = self.run(*(each.high for each in ranges))
        except NotRunError:
            return None
        return enclosing((low, high)) if place.fits(low.shape) else None

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
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

    def named(self) -> tuple[tuple[str, Any], ...]:
        """Fields by name, for a digest."""
        return tuple((each.name, getattr(self, each.name)) for each in dataclasses.fields(self))


class Linear(Operator):
    """An operator whose `linear_map` is all there is to it."""

    moves: ClassVar[bool] = False
    """Whether each entry of the value is one of the inputs', or 0."""

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

    def lipschitz(self, place: Place) -> float:
        """Of what moves entries: columns are orthogonal, each with as many ones as its entry has copies."""
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
        # Of what moves entries: each weight goes to where its entry came from. One entry stands for all that are alike.
        same = frozenset(axis for axis in self.alike(place) if weights.shape[axis] == 1)
        at = place.shortened(same)
        befores = at.sizes()
        after = at.after
        if not self.moves or befores is None or after is None or max(map(math.prod, [*befores, after])) > TABLE:
            return None
        linear = self.shortened(same).linear_map(at)
        if linear is None:
            return None
        linear = linear.with_adjoint(befores)
        total = [each[0] for each in linear.back(np.broadcast_to(weights, (1, *after)))]
        return [host.inflate(each, linear.backward) for each in total] if linear.backward else total

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
    lipschitz_constant: ClassVar[float | None] = 1.0
    moves = True

    def moved(self, x: FloatArray) -> FloatArray:
        """The value, for an array of any kind; `NotRunError`, ValueError or IndexError if that does not fit."""
        raise NotRunError(f"{type(self).__name__} moves nothing of shape {x.shape}")

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return np.stack([self.moved(one) for one in x[0]]) if len(x[0]) else self._none(before, x[0].dtype)

        return LinearMap.moving(apply)

    def _none(self, before: Sizes, dtype: Any) -> FloatArray:
        return np.zeros((0, *self.moved(np.zeros(before, np.bool_)).shape), dtype)


@dataclass(frozen=True, eq=False)
class Slopes:
    """Smallest and largest slope of each entry of a function, proven where its inputs stay in some regions."""

    low: FloatArray
    high: FloatArray
    regions: frozenset[Region]
    """All of which the inputs of the network lie in."""

    @property
    def ends(self) -> Ends:
        """Both arrays."""
        return self.low, self.high


class Pointwise(Operator):
    """A function of one number, applied to each entry: at most its largest slope (mean value theorem)."""

    rule = "pointwise"
    near: Slopes | None = field(default=None, kw_only=True)
    """Where its inputs stay in a range; None: anywhere. Set by `ranges.with_slopes_on` alone."""

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

    def affine(self, low: FloatArray, high: FloatArray) -> Line:
        """Slope, middle and half with ``|f(v) - slope v - middle| <= half`` on intervals, rounded outward.

        The chord's slope s, or 0 where that is nearer. The function less the line has slopes between ``m - s`` and
        ``M - s``: so on an interval of length w it is at most ``(M - s) (s - m) w / (M - m)`` beyond its values at both
        ends. Where nothing is known: 0, 0 and infinity.
        """
        finite = np.isfinite(low) & np.isfinite(high)
        low = np.where(finite, low, 0.0)
        high = np.where(finite, high, 0.0)
        slopes = self.slopes(low, high) or (np.full(low.shape, -math.inf), np.full(high.shape, math.inf))
        with np.errstate(all="ignore"):
            first, last, whole = (enclosing(self.between(*ends)) for ends in ((low, low), (high, high), (low, high)))
            slope = np.clip(np.nan_to_num((last.middle()[0] - first.middle()[0]) / (high - low)), *slopes)
            least = host.next_up(slope - slopes[0])
            most = host.next_up(slopes[1] - slope)
            apart = host.inflate(least * (most / (least + most)) * (high - low), 8) + UNDERFLOW
            ends = [each - point(end) * point(slope) for each, end in ((first, low), (last, high))]
            down = np.minimum(*(each.low for each in ends)) - apart
            up = np.maximum(*(each.high for each in ends)) + apart
            middle = down / 2 + up / 2
            half = host.inflate(up / 2 - down / 2 + (abs(down) + abs(up)) * 2.0**-50, 8)
        flat = whole.middle()
        better = finite & np.isfinite(middle) & (half < flat[1])
        half = np.where(better, half, np.where(finite, flat[1], math.inf))
        return np.where(better, slope, 0.0), np.where(better, middle, np.where(finite, flat[0], 0.0)), half

    def breaks(self, low: FloatArray, high: FloatArray) -> FloatArray:
        """Ends of the parts of intervals on which lines are near the function, ascending: shape (parts + 1, *shape)."""
        shares = np.linspace(0.0, 1.0, 9).reshape(-1, *(1,) * low.ndim)
        found = np.clip(low + shares * (high - low), low, high)
        found[-1] = high
        return np.asarray(found)

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # What the elementary functions of libraries promise, and more.
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
        """Smallest and largest slope in each channel, shape (width,)."""
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
    """A constant times a number, and by how much that may be off."""
    found = constant * factor
    return found, abs(found) * (0.0 if abs(factor) == 1 else 2.0**-50)
