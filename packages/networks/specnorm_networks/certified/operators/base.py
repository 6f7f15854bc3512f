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
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, TypeGuard, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import Interval, around, enclosing, host
from specnorm_networks.certified.subjects import Region

FloatArray: TypeAlias = NDArray[Any]
"""Array of float64."""
LowHigh: TypeAlias = tuple[FloatArray, FloatArray]
"""Lower and upper ends of intervals, entry by entry."""
Offset: TypeAlias = Callable[[], tuple[FloatArray, FloatArray]]
"""Returns constants that broadcast against a value, and the error of each."""
Shape: TypeAlias = tuple[int, ...]
"""A shape; `Shape | None` if it may be unknown."""
Apply: TypeAlias = Callable[[Sequence[FloatArray]], FloatArray]
"""Maps one array (batch, *shape) for each input to one array (batch, *shape of the value).

A *batch* is several independent values of the same shape, stacked along a new first axis.
"""
Adjoint: TypeAlias = Callable[[FloatArray], list[FloatArray]]
"""Maps one array (batch, *shape of the value) to one array (batch, *shape) for each input."""
Lengths: TypeAlias = "tuple[float, ...]"
"""For each axis of a value a number that no vector along it is longer than; infinity if none is known. Empty: the shape
of the value is not known."""
Program: TypeAlias = "list[tuple[Operator, tuple[int, ...]]]"
"""Operators, and the numbers of the values that each reads: inputs are numbered from 0 on, and then the values of the
operators in order."""
UNDERFLOW = 2.0**-1000
"""Upper bound of what underflow can take from one entry; each of its products loses at most 2^-1074."""
ERROR_OF_OFFSETS = 2.0**-47
"""Error of an offset that is computed, as a share of the sizes of its terms."""
MOST_ENTRIES_AT_ONCE = 2**23
"""Largest number of entries that are computed at once: of the matrix of a linear map, or of a batch."""
MOST_KEPT_NUMBERS = 2**24
"""Largest number of numbers of kernels that linear maps hold while they are kept (`keep_linear_maps`): 128 MB."""


def flattened(x: FloatArray) -> FloatArray:
    """Return a batch (batch, *shape) as an array (batch, entries)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def keeps_samples_and_channels(before: Shape, after: Shape) -> bool:
    """Return whether a value has as many axes as another one, and the same first two sizes."""
    return len(after) == len(before) and after[:2] == before[:2]


def entries_along(shape: Shape, axes: Sequence[int]) -> int:
    """Return the number of entries along some axes together; `NoBoundError` if the shape has no such axes."""
    has_axes = all(0 <= axis < len(shape) for axis in axes)
    if not has_axes or len(set(axes)) < len(axes):
        raise NoBoundError(f"axes {axes} of a value of shape {shape}")
    return math.prod(shape[axis] for axis in axes)


def _split(x: FloatArray, shapes: Sequence[Shape]) -> list[FloatArray]:
    """Return one array (batch, *shape) for each of several values, whose entries are joined in the rows of ``x``."""
    values = []
    first = 0
    for shape in shapes:
        last = first + math.prod(shape)
        values.append(x[:, first:last].reshape(len(x), *shape))
        first = last
    return values


def lengths_of(numbers: FloatArray) -> Lengths:
    """Return the lengths of the longest vectors along each axis of an array, rounded up; infinity for NaN."""
    found = []
    for axis in range(numbers.ndim):
        norms = host.norm_up(np.moveaxis(np.asarray(numbers, dtype=np.float64), axis, -1))
        longest = float(np.max(norms, initial=0.0))
        found.append(math.inf if math.isnan(longest) else longest)
    return tuple(found)


def lengths_at(ndim: int, axes: Sequence[int], length: float) -> Lengths:
    """Return a length along some axes, and that others are unknown."""
    return tuple(length if axis in axes else math.inf for axis in range(ndim))


def offset_up(offset: Offset, shape: Shape) -> FloatArray:
    """Return upper bounds on the absolute values of an offset, in the shape of a value."""
    numbers, error = offset()
    return np.broadcast_to(host.next_up(abs(np.asarray(numbers, dtype=np.float64)) + error), shape)


class NoBoundError(Exception):
    """An operator has no constant here; the message says why."""


class NotRunError(Exception):
    """An operator cannot be executed here; the message says why."""


@dataclass(frozen=True, eq=False)
class Place:
    """What an operator is told of its surroundings in the network."""

    before: tuple[Shape | None, ...]
    """Shape of each input; None: unknown."""
    after: Shape | None = None
    """Shape of the operator's value; None: unknown."""
    ranges: Callable[[], tuple[Interval | None, ...]] = lambda: ()
    """Returns the range of each input, or None; an empty tuple: no range is known."""
    boxed: bool = False
    """Whether the network's inputs are known to lie in a region. Otherwise ranges say little, and cost time."""
    lengths: Callable[[], tuple[Lengths, ...]] = lambda: ()
    """Returns bounds on the lengths of the vectors along each axis of each input; an empty tuple: none is known."""

    @classmethod
    def of(cls, *values: FloatArray) -> Place:
        """Return the place of an operator on some inputs."""
        return cls(tuple(value.shape for value in values))

    @property
    def shape(self) -> Shape:
        """Shape of the first input; `NoBoundError` if it is unknown."""
        if self.before[0] is None:
            raise NoBoundError("its shape is unknown: give the input shape")
        return self.before[0]

    @property
    def axes(self) -> frozenset[int]:
        """Axes of the value; none if its shape is unknown."""
        return frozenset(range(len(self.after or ())))

    def known_shapes(self) -> list[tuple[int, ...]] | None:
        """Return the shapes of the inputs; None unless all of them are known."""
        shapes = [shape for shape in self.before if shape is not None]
        return shapes if len(shapes) == len(self.before) else None

    def shortened(self, axes: frozenset[int]) -> Place:
        """Return the same place with size 1 along some axes."""
        return Place(tuple(_shortened(shape, axes) for shape in self.before), _shortened(self.after, axes))

    def fits(self, shape: Shape | None) -> bool:
        """Whether the value may have a shape: the known one, or any if it is unknown."""
        return self.after in (None, shape)


def _shortened(shape: Shape | None, axes: frozenset[int]) -> Shape | None:
    if shape is None:
        return None
    return tuple(1 if axis in axes else n for axis, n in enumerate(shape))


@dataclass(frozen=True, eq=False)
class LinearMap:
    """An affine operator ``A x + b`` for inputs of known shapes; x are the entries of all inputs together."""

    apply: Apply
    """Computes A x."""
    absolute: Apply
    """Computes |A| x, with the absolute values of the entries of A."""
    roundings: int
    """Number of roundings of `apply`: ``|computed A x - A x| <= gamma(roundings) |A| |x|``."""
    offset: Offset | None = None
    """Returns b; None: b is 0."""
    shape: Shape | None = None
    """Shape of the value; None: the one that `apply` returns."""
    adjoint: Adjoint | None = None
    """Computes A^T y; None: `with_adjoint` makes one."""
    only_moves_entries: bool = False
    """Whether each entry of A x is an entry of an input, or 0."""
    kept_numbers: int = 0
    """Number of numbers, of kernels, that the map holds in memory."""

    @classmethod
    def of_moves(cls, apply: Apply, offset: Offset | None = None) -> LinearMap:
        """Return a map that only moves entries (`only_moves_entries`); it has no roundings."""
        return cls(apply, absolute=apply, roundings=0, offset=offset, only_moves_entries=True)

    def sources(self, before: Sequence[Shape]) -> NDArray[np.intp]:
        """Return for each entry of the value, in flat order, the number of the entry of the inputs that is moved there.

        -1 if the entry is 0. ``before``: shapes of the inputs, whose entries are numbered one input after the other.
        Only for a map that moves entries.
        """
        count = sum(map(math.prod, before))
        # The map is applied to the entries' numbers, counted from 1, so that a 0 in the value has no source.
        numbers_from_1 = np.arange(1.0, count + 1)
        (numbers,) = flattened(self.apply(_split(numbers_from_1[None], before)))
        sources: NDArray[np.intp] = numbers.astype(np.intp) - 1
        return sources

    def most_copies(self, before: Sequence[Shape]) -> int:
        """Return the largest number of positions of the value to which one entry of the inputs is moved, at least 1.

        ``before``: shapes of the inputs. Only for a map that moves entries.
        """
        sources = self.sources(before)
        return int(np.bincount(sources[sources >= 0]).max(initial=1))

    def with_adjoint(self, before: Sequence[Shape]) -> LinearMap:
        """Return the map with an adjoint, for inputs of the shapes ``before``.

        If none is stated, it is made from the sources of the entries that move, or from the matrix A. `NoBoundError` if
        A has too many entries.
        """
        if self.adjoint is not None:
            return self
        count = sum(map(math.prod, before))
        if not self.only_moves_entries:
            # The identity has count^2 entries. The matrix, which the value's size enters, is not limited.
            if count**2 > MOST_ENTRIES_AT_ONCE:
                raise NoBoundError("its transpose has too many entries")
            matrix = flattened(self.apply(_split(np.eye(count), before))).T
            return dataclasses.replace(self, adjoint=lambda y: _split(flattened(y) @ matrix, before))
        sources = self.sources(before)
        moved_entries = np.flatnonzero(sources >= 0)
        sources_of_moved = sources[moved_entries]

        def add_up_copies(y: FloatArray) -> list[FloatArray]:
            rows = [np.bincount(sources_of_moved, row, count) for row in flattened(y)[:, moved_entries]]
            return _split(np.array(rows).reshape(len(y), count), before)

        return dataclasses.replace(self, adjoint=add_up_copies)

    def transposed(self, roundings: int, shape: Shape) -> LinearMap:
        """Return the adjoint of a map of non-negative entries with one input, which has the shape ``shape``."""

        def apply(y: Sequence[FloatArray]) -> FloatArray:
            (x,) = self.back(y[0])
            return x

        return LinearMap(apply, absolute=apply, roundings=roundings, shape=shape, adjoint=lambda x: [self.apply([x])])

    def back(self, y: FloatArray) -> list[FloatArray]:
        """Return A^T y, one array for each input. Only for a map `with_adjoint`."""
        assert self.adjoint is not None
        return self.adjoint(y)

    def error_of_apply(self, magnitudes: Sequence[FloatArray], roundings: int | None = None) -> FloatArray:
        """Bound the rounding error of `apply`, shape (batch, *shape of the value).

        Parameters
        ----------
        magnitudes : sequence of array, shape (batch, *shape)
            Upper bounds of the absolute values of each input.
        roundings : int, optional
            Number of roundings that are counted. Default: those of `apply`. With those of `adjoint` a bound e is
            returned such that ``|(computed A^T y) x - (A^T y) x| <= sum |y| e``.
        """
        n = self.roundings if roundings is None else roundings
        magnitude = self.absolute(magnitudes)
        if not n:
            return np.zeros(magnitude.shape)
        # The error is at most gamma(n) |A| |x| with gamma(n) = n u / (1 - n u) and u = 2^-53, less than (n + 4) 2^-52.
        # The magnitude itself had n roundings, and there are some more here: 2 n + 8 cover them all.
        return host.inflate(magnitude * ((n + 4) * 2.0**-52), 2 * n + 8) + UNDERFLOW

    def image(self, inputs: Sequence[Interval]) -> Interval:
        """Return an interval of the value for intervals of the inputs; roundings are counted.

        For inputs with middles m and half widths h, it has the middle ``A m + b`` and the half width ``|A| h``.
        """
        middles: list[FloatArray] = []
        halves: list[FloatArray] = []
        are_bounded: list[NDArray[np.bool_]] = []
        for interval in inputs:
            middle, half = interval.middle()
            is_bounded = np.isfinite(half)
            middles.append(middle[None])
            halves.append(np.where(is_bounded, half, 0.0)[None])
            are_bounded.append(is_bounded)
        value_middle = self.apply(middles)[0]
        value_half = self.absolute(halves)[0]
        if self.roundings:
            magnitudes = [host.next_up(abs(middle) + half) for middle, half in zip(middles, halves, strict=True)]
            # `absolute` has as many roundings as `apply`, and the error is added: 2 n + 8 cover both.
            value_half = host.inflate(value_half + self.error_of_apply(magnitudes)[0], 2 * self.roundings + 8)
        if not all(is_bounded.all() for is_bounded in are_bounded):
            reads_unbounded = self.absolute([np.where(is_bounded, 0.0, 1.0)[None] for is_bounded in are_bounded])[0] > 0
            value_half = np.where(reads_unbounded, math.inf, value_half)
        if self.offset is not None:
            offset, error = (np.asarray(part, dtype=np.float64) for part in self.offset())
            value_middle = value_middle + offset
            value_half = host.inflate(value_half + error + abs(value_middle) * 2.0**-52, 4)
        is_unknown = ~np.isfinite(value_middle) | np.isnan(value_half)
        return around(np.where(is_unknown, 0.0, value_middle), np.where(is_unknown, math.inf, value_half))


@dataclass_transform(frozen_default=True, eq_default=False, field_specifiers=(field,))
@dataclass(frozen=True, eq=False)
class Operator:
    """An operator of a network, which depends on its inputs and on its fields alone.

    A class is of one of three kinds: `Affine` (a linear map and an offset), `Function` (of each entry, with slopes) or
    `Known` (by a Lipschitz constant alone). Values without a rule (`sources`) are of none. Every derived class is a
    frozen dataclass, without a decorator. Axes are numbered from 0 along the whole value, the samples' axis included.
    """

    rule: ClassVar[str] = "unknown"
    """Name of the rule that gives its constant, in tables and JSON."""
    lipschitz_constant: ClassVar[float | None] = None
    """The constant, if it is the same for all shapes and fields."""
    joins: ClassVar[Literal["sum", "squares"] | None] = None
    """How the changes of several inputs join (`shares`): they add up, or their squares do; None: unknown."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, eq=False)(cls)

    def run(self, *values: FloatArray) -> FloatArray:
        """Return the value for float64 inputs; `NotRunError` if it cannot be computed."""
        raise NotRunError(f"{type(self).__name__} is not executed here")

    def lipschitz(self, place: Place) -> float:
        """Return the Lipschitz constant with respect to the only input that can change, rounded up, or `NoBoundError`.

        All other inputs are fixed values of the network.
        """
        if self.lipschitz_constant is not None:
            return self.lipschitz_constant
        raise NoBoundError("this operator has no Lipschitz constant that is known here")

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """Return the Lipschitz constant of the value, rounded up, from those of the inputs; `NoBoundError` without one.

        ``bounds``: the inputs' Lipschitz constants; 0 for a fixed value of the network.
        """
        if self.joins is not None:
            shares = self.shares(bounds, place)
            return host.add_up(*shares) if self.joins == "sum" else host.hypot_up(*shares)
        if len(bounds) != 1:
            raise NoBoundError("this operator of several values has no Lipschitz constant that is known here")
        return host.mul_up(self.lipschitz(place), bounds[0])

    def shares(self, bounds: Sequence[float], place: Place) -> Sequence[float]:
        """Return for each input the constant of the value if that input alone changes; the arguments are as above.

        Only for an operator with `joins`.
        """
        return bounds

    def keeps_channels(self, before: Shape, after: Shape) -> bool:
        """Return whether it treats every channel (axis 1) of a value with spatial axes by itself, and all alike.

        False for functions of each entry and for layers, which have rules of their own.
        """
        return False

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | LowHigh | None:
        """Return the interval of the value for intervals of the inputs; None if it is unknown."""
        return None

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        """Return bounds on the lengths of the value's vectors from those of the inputs; None if they are unknown.

        ``norm`` returns the norm of the operator's kernel, rounded up. The value's shape is known.
        """
        return None

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        """Return the size that roundings of each entry are relative to; `run` returned ``result`` for ``values``."""
        return abs(result)


class Known(Operator):
    """An operator of which a Lipschitz constant is known, and perhaps more: `written_out`, an `image`."""

    is_monotone_and_exact: ClassVar[bool] = False
    """Whether each entry of the value is a nondecreasing function of each entry of the inputs, and `run` computes it
    without rounding."""

    def require_inputs(self, inputs: Sequence[Any]) -> None:
        """Refuse nodes that are not such inputs as the rules of the operator suppose, by `NoBoundError`."""

    @property
    def ordered_along(self) -> Shape | None:
        """Axes of which the value keeps the order of the entries, the shape too; None if it does not."""
        return None

    def error_of_jump(self, x: FloatArray) -> FloatArray | float:
        """Return how far each entry of the value may jump at an input, which no bound counts."""
        return 0.0

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | LowHigh | None:
        if not self.is_monotone_and_exact:
            return None
        try:
            low = self.run(*(interval.low for interval in ranges))
            high = self.run(*(interval.high for interval in ranges))
        except NotRunError:
            return None
        return enclosing((low, high)) if place.fits(low.shape) else None

    def written_out(self, before: Sequence[Shape]) -> Program | None:
        """Return the operator as a program of simpler ones, for inputs of the shapes ``before``; None if there is none.

        Operators of the program may be written out again. In the end only those of the two other kinds remain.
        """
        return None


class _KeptMaps(dict[Any, "LinearMap"]):
    """Maps by operator and shapes of the inputs."""

    numbers = 0
    """Numbers of kernels that they hold together."""


_KEPT_MAPS: ContextVar[_KeptMaps | None] = ContextVar("_KEPT_MAPS", default=None)
"""None outside of `keep_linear_maps`."""


@contextmanager
def keep_linear_maps() -> Iterator[None]:
    """Make the linear map of each operator only once, while a network is executed many times.

    Kernels must not change until the context ends. Maps hold at most `MOST_KEPT_NUMBERS` numbers of kernels together.
    """
    token = _KEPT_MAPS.set(_KeptMaps())
    try:
        yield
    finally:
        _KEPT_MAPS.reset(token)


class Affine(Operator):
    """An operator that is defined by its `linear_map` alone."""

    only_moves_entries: ClassVar[bool] = False
    """Whether it only moves entries: each entry of the value is an entry of an input, or 0."""
    is_diagonal: ClassVar[bool] = False
    """Whether it multiplies each entry of its only input, and copies of it, by a number."""
    is_layer: ClassVar[bool] = False
    """Whether it is bounded by the norm of its kernel (``layer``), with padding before and scaling after it."""

    @property
    def stretches_unevenly(self) -> bool:
        """Whether it is known to stretch some vectors more than others."""
        return False

    def factors_along(self, axis: int) -> FloatArray | None:
        """Return the numbers that an operator multiplies by, if one belongs to each entry of an axis; None otherwise.

        ``axis``: counted from the last one, so negative. The relative error of each number is that of its roundings.
        """
        return None

    @property
    def factor_of_layer(self) -> float:
        """Number that the kernel of a layer is multiplied by."""
        return 1.0

    @property
    def axis_of_outputs(self) -> int:
        """Axis of the output channels of a layer, counted from the last one."""
        return -1

    def with_padding(self, pad: Operator, before: Shape | None) -> dict[str, Any] | None:
        """Return the padding (``padding_mode``, ``padding``) of this operator and a padding before it as one layer.

        ``before``: the shape of what is padded. None: both are bounded one after the other.
        """
        return None

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        """Return lengths of a value that consists of entries of its inputs, and zeros.

        A vector of the value with entries of k vectors, none of them more than c times, is at most root(k c) times as
        long as the longest of these.
        """
        shapes = place.known_shapes()
        linear = self.linear_map(place) if self.only_moves_entries else None
        axes = [[axis for axis, r in enumerate(lengths) if math.isfinite(r)] for lengths in before]
        if linear is None or linear.offset is not None or shapes is None or place.after is None or not all(axes):
            return None
        if max(sum(map(math.prod, shapes)), math.prod(place.after)) > MOST_ENTRIES_AT_ONCE:
            return None
        entries = linear.sources(shapes).reshape(place.after)
        # Each input has one axis along which its vectors are read; of several known ones, the last.
        numbers: list[NDArray[np.intp]] = []
        largest = 0.0
        first = 0
        for shape, own_axes, own_lengths in zip(shapes, axes, before, strict=True):
            axis = own_axes[-1]
            count = math.prod(shape) // max(shape[axis], 1)
            own_numbers = np.arange(first, first + count).reshape(*shape[:axis], 1, *shape[axis + 1 :])
            numbers.append(np.broadcast_to(own_numbers, shape).ravel())
            largest = max(largest, own_lengths[axis])
            first += count
        vectors = np.where(entries < 0, -1, np.concatenate(numbers)[entries])
        found = []
        for axis in range(len(place.after)):
            count = _most_different(np.moveaxis(vectors, axis, -1)) * _most_equal(np.moveaxis(entries, axis, -1))
            found.append(host.mul_up(host.root_up(count), largest))
        return tuple(found)

    def row_norms(self, before: Shape) -> FloatArray:
        """Return upper bounds of the 2-norms of the rows of the linear map, which broadcast against the value.

        They are infinite for operators whose rows are not known here. ``before``: shape of the first input.
        """
        return np.full((), 1.0 if self.only_moves_entries else math.inf)

    def alike(self, place: Place) -> frozenset[int]:
        """Return the axes along which the operator is one function, applied at each position.

        Along such an axis, position i of the value depends on position i of the inputs alone, by the same function for
        all i.
        """
        return frozenset()

    def shortened(self, axes: frozenset[int]) -> Affine:
        """Return the operator for values of size 1 along some of the axes of `alike`: the function at one position."""
        return self

    def map_at_one_position(self, place: Place, axes: frozenset[int]) -> LinearMap | None:
        """Return the linear map at one position along some of the axes of `alike`; None as for `linear_map`."""
        return self.shortened(axes).linear_map(place.shortened(axes))

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        """Return the linear map for inputs of some shapes; None, or an error that `_new_map` catches, if there is none.

        ``before``: shape of the first input. ``others``: shapes of the other inputs.
        """
        return None

    def linear_map(self, place: Place) -> LinearMap | None:
        """Return the operator as a linear map of values of these sizes; None has one meaning: no such map is known."""
        befores = place.known_shapes()
        if not befores:
            return None
        kept = _KEPT_MAPS.get()
        key = (self, *befores)
        linear = self._new_map(befores) if kept is None or key not in kept else kept[key]
        if linear is None:
            return None
        if kept is not None and key not in kept and kept.numbers + linear.kept_numbers <= MOST_KEPT_NUMBERS:
            kept[key] = linear
            kept.numbers += linear.kept_numbers
        return linear if place.fits(linear.shape) else None

    def _new_map(self, befores: list[Shape]) -> LinearMap | None:
        """Return the linear map for inputs of some shapes, with the shape of its value; None if it has none."""
        try:
            linear = self.map_at(*befores)
            if linear is None or linear.shape is not None:
                return linear
            # An empty batch gives the value's shape without computing anything.
            empty_inputs = [np.zeros((0, *before)) for before in befores]
            return dataclasses.replace(linear, shape=linear.apply(empty_inputs).shape[1:])
        except (NoBoundError, NotRunError, ValueError, IndexError):
            return None

    def lipschitz(self, place: Place) -> float:
        """Return the constant; if entries are moved, the root of the largest number of copies of one entry.

        The columns of such a map are orthogonal, each with as many ones as its entry has copies.
        """
        if self.lipschitz_constant is not None or not self.only_moves_entries:
            return super().lipschitz(place)
        # Along the axes of `alike`, one position stands for all.
        alike_axes = self.alike(place)
        shapes = place.shortened(alike_axes).known_shapes()
        linear = self.map_at_one_position(place, alike_axes)
        if linear is None or shapes is None:
            raise NoBoundError("it has no map of values of such sizes, or these are not known: give the input shape")
        return host.root_up(linear.most_copies(shapes))

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        """Return the sum of the absolute values of the terms, since they may cancel."""
        linear = self.linear_map(Place(tuple(value.shape for value in values), result.shape))
        if linear is None:
            return abs(result)
        size = linear.absolute([abs(value)[None] for value in values])[0]
        if linear.offset is not None:
            offset, error = linear.offset()
            size = size + abs(offset) + error / ERROR_OF_OFFSETS
        return np.asarray(size)

    def run(self, *values: FloatArray) -> FloatArray:
        # Ranges are made from the linear map. Since it is run here, it is compared with the model, too.
        linear = self.linear_map(Place.of(*values))
        if linear is None:
            raise NotRunError(f"{type(self).__name__} has no map of values of shapes {[v.shape for v in values]}")
        result = linear.apply([value[None] for value in values])[0]
        if linear.offset is not None:
            offset, _ = linear.offset()
            result = result + offset
        return np.asarray(result)


def _most_different(vectors: NDArray[np.intp]) -> int:
    """Return the largest number of different numbers, -1 left out, along the last axis."""
    ordered = np.sort(vectors, axis=-1)
    begins = (ordered[..., 1:] != ordered[..., :-1]) & (ordered[..., 1:] >= 0)
    count = begins.sum(axis=-1) + (ordered[..., :1] >= 0).sum(axis=-1)
    return int(count.max(initial=1))


def _most_equal(entries: NDArray[np.intp]) -> int:
    """Return how often a number, -1 left out, occurs at most along the last axis."""
    ordered = np.sort(entries, axis=-1)
    most = 1
    while ((ordered[..., most:] == ordered[..., :-most]) & (ordered[..., most:] >= 0)).any():
        most += 1
    return most


class Move(Affine):
    """An operator whose value consists of entries of its only input, none of them twice, and zeros.

    A derived class states the value by `moved`.
    """

    rule = "select"
    lipschitz_constant: ClassVar[float | None] = 1.0
    only_moves_entries = True

    def moved(self, x: FloatArray) -> FloatArray:
        """Return the value for an input of any data type.

        `NotRunError`, ValueError or IndexError if the input does not fit.
        """
        raise NotRunError(f"{type(self).__name__} moves nothing of shape {x.shape}")

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        def apply(x: Sequence[FloatArray]) -> FloatArray:
            (batch,) = x
            if len(batch):
                return np.stack([self.moved(value) for value in batch])
            shape = self.moved(np.zeros(before, np.bool_)).shape
            return np.zeros((0, *shape), batch.dtype)

        return LinearMap.of_moves(apply)


@dataclass(frozen=True, eq=False)
class Slopes:
    """Smallest and largest slope of each entry of a function, proven on some regions of the network's inputs."""

    low: FloatArray
    high: FloatArray
    regions: frozenset[Region]
    """The slopes hold where the network's inputs lie in all of these regions."""

    @property
    def ends(self) -> LowHigh:
        """Smallest and largest slopes."""
        return self.low, self.high


def is_extent(ends: Any) -> TypeGuard[tuple[float, float]]:
    """Return whether what a user's operator returns is two finite numbers, the smaller one first."""
    try:
        least, most = ends
        return bool(-math.inf < least <= most < math.inf)
    except (TypeError, ValueError):
        return False


Numbers: TypeAlias = float | FloatArray
"""One number for all entries, or one number an entry."""


class Piece(NamedTuple):
    """A linear piece ``slope x + shift`` of a function, on the closed interval from ``start`` to ``end``."""

    start: float
    end: float
    slope: Numbers
    shift: float = 0.0

    def has_slope_on(self, low: FloatArray, high: FloatArray) -> FloatArray:
        """Return whether the piece's slope is a slope of the function on each of some intervals.

        An interval that touches the piece in one point has no difference quotient on it. If the interval is a single
        point, both one-sided slopes at the point count.
        """
        if not self.start < self.end:
            return np.zeros(low.shape, np.bool_)
        overlaps = (low < self.end) & (high > self.start)
        is_point_inside = (low == high) & (low >= self.start) & (high <= self.end)
        return np.asarray(overlaps | is_point_inside)


class Function(Operator):
    """A function of one variable, applied to each entry.

    Its constant is its largest absolute slope (mean value theorem).
    """

    rule = "pointwise"
    positive: ClassVar[bool] = False
    """Whether it is defined only for arguments above 0."""
    slopes_on_range: Slopes | None = field(default=None, kw_only=True)
    """Slopes on the range of the function's input (on a part of the line); None: the input may be anything.

    Only `ranges.with_slopes_on` sets it.
    """

    def value(self, x: FloatArray) -> FloatArray:
        """Return the values of the function."""
        raise NotRunError(f"{type(self).__name__} is not executed here, on shape {x.shape}")

    def extent(self) -> tuple[float, float] | None:
        """Return the extent of the slopes on the whole line, rounded outward; None if it is unknown.

        It consists of two numbers between which all difference quotients of the function lie.
        """
        return None

    def slopes(self, low: FloatArray, high: FloatArray) -> LowHigh | None:
        """Return smallest and largest slopes on intervals (also infinite ones), rounded outward; None if unknown."""
        ends = self.extent()
        if not is_extent(ends):
            return None
        return np.full(low.shape, ends[0]), np.full(high.shape, ends[1])

    def pieces(self, low: FloatArray, high: FloatArray) -> tuple[Piece, ...]:
        """Return the linear pieces of the function on some intervals, in order; an empty tuple if there are none."""
        return ()

    def between(self, low: FloatArray, high: FloatArray) -> LowHigh:
        """Return intervals of the values on intervals, rounded outward; infinite if unknown."""
        return np.full(low.shape, -np.inf), np.full(high.shape, np.inf)

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        # Functions with slopes of about 1 change by roundings of their argument.
        return abs(result) + abs(values[0])

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        with np.errstate(all="ignore"):
            return np.asarray(self.value(x))

    def lipschitz(self, place: Place) -> float:
        if self.slopes_on_range is not None:
            return float(max(np.max(abs(end), initial=0.0) for end in self.slopes_on_range.ends))
        return max(map(abs, self._known_extent()))

    def _known_extent(self) -> tuple[float, float]:
        ends = self.extent()
        if ends is None:
            raise NoBoundError("its slopes have no bound that is known here")
        if not is_extent(ends):
            name = type(self).__name__
            raise NoBoundError(f"the `extent` of its operator {name} is {ends!r}, not two finite numbers, least first")
        return ends

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval | None:
        (x,) = ranges
        with np.errstate(all="ignore"):
            return enclosing(self.between(*x.ends))

    @property
    def shape_of_constants(self) -> tuple[int, ...]:
        """Shape to which the function's constants broadcast: each entry may be a function of its own."""
        return (1,)

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        """Return the largest slope times the lengths before, and the length of the function's values at 0."""
        ends, zeros = self.extent(), np.zeros(self.shape_of_constants)
        with np.errstate(all="ignore"):
            at_zero = float(np.max(np.maximum(*map(abs, self.between(zeros, zeros))), initial=0.0))
        if not is_extent(ends) or math.isnan(at_zero) or place.after is None:
            return None
        slope = max(map(abs, ends))
        found = []
        for length, n in zip(before[0], place.after, strict=True):
            found.append(host.add_up(host.mul_up(slope, length), host.mul_up(host.root_up(n), at_zero)))
        return tuple(found)

    def by_channel(self, axis: int, width: int) -> LowHigh:
        """Return the smallest and largest slope in each channel, shape (width,); `NoBoundError` if unknown."""
        if self.slopes_on_range is None:
            least, most = self._known_extent()
            return np.full(width, least), np.full(width, most)
        if self.slopes_on_range.low.shape[axis] != width:
            raise NoBoundError(f"its slopes are of other channels than the {width} on axis {axis}")
        if not self.slopes_on_range.low.size:
            return np.zeros(width), np.zeros(width)
        low, high = (np.moveaxis(end, axis, 0).reshape(width, -1) for end in self.slopes_on_range.ends)
        return low.min(axis=1), high.max(axis=1)


def multiplied(constant: FloatArray, factor: float) -> tuple[FloatArray, FloatArray]:
    """Return a constant times a number, and a bound of the error of each entry."""
    product = constant * factor
    # One rounding, counted eight times.
    relative_error = 0.0 if abs(factor) == 1 else 2.0**-50
    return product, abs(product) * relative_error
