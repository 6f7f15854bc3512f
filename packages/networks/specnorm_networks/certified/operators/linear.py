"""Linear operators without a kernel: sums, scales, reductions, joins of values, padding."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import host, padding_rules
from specnorm_networks.certified.operators import broadcasting
from specnorm_networks.certified.operators.base import (
    ERROR_OF_OFFSETS,
    Affine,
    FloatArray,
    Lengths,
    LinearMap,
    NoBoundError,
    Offset,
    Place,
    Shape,
    entries_along,
    lengths_of,
    offset_up,
)
from specnorm_networks.certified.operators.contractions import contracted, copies, product, sums

PadMode = Literal["zeros", "reflect", "replicate", "circular"]
_NUMPY_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""`numpy.pad`'s names of the modes."""
FACTOR_ROUNDINGS = 14
"""Largest number of roundings of a factor of a `Scale` that is not exact.

A batch normalization needs four: a sum, a root, a quotient and a product. Only the last of them may be to a subnormal
number.
"""
SCALED_ENTRY_ROUNDINGS = 20
"""Largest number of roundings of an entry times such a factor: one more than the factor's are needed."""
SMALLEST_NORMAL = float(np.finfo(np.float64).smallest_normal)
SMALLEST_SUBNORMAL = float(np.finfo(np.float64).smallest_subnormal)


class Scale(Affine):
    """``x * values + offset``, entry by entry: batch normalization at inference, products with constants.

    Its constant is the largest absolute factor (the matrix is diagonal); if the input is broadcast, it is the largest
    2-norm of the factors of one entry's copies. Directly after a layer it is folded into the kernel instead.
    """

    rule = "scale"
    is_diagonal = True
    values: FloatArray
    """Factors in float64, broadcasting against the input by NumPy's rules."""
    offset: Offset | None = None
    exact: bool = False
    """Whether the factors are exact; else they were computed with up to `FACTOR_ROUNDINGS` roundings. 0 is exact."""
    divisors: FloatArray | None = None
    """The exact inverses of the factors, for quotients by constants; None for other factors."""

    @property
    def is_accurate(self) -> bool:
        """Whether all factors are finite, and the relative error of each is that of its roundings."""
        sizes = abs(np.asarray(self.values, dtype=np.float64))
        # The relative error of a number that was rounded to a subnormal one is larger; 0 is exact.
        is_normal = (sizes == 0) | (sizes >= SMALLEST_NORMAL)
        return bool(np.all(np.isfinite(sizes) & (is_normal | self.exact)))

    def factors_up(self) -> FloatArray:
        """Return the absolute values of the factors, rounded up."""
        sizes: FloatArray = abs(np.asarray(self.values, dtype=np.float64))
        if self.exact:
            return sizes
        # `host.inflate` does not raise the smallest subnormal numbers, which may be rounded by half of their distance.
        raised = host.next_up(host.inflate(sizes, FACTOR_ROUNDINGS))
        return np.where(sizes == 0, 0.0, raised)

    def row_norms(self, before: Shape) -> FloatArray:
        return self.factors_up()

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        if place.after is None or place.before[0] != place.after:
            return None
        largest = float(np.max(self.factors_up(), initial=0.0))
        offset = np.zeros(()) if self.offset is None else offset_up(self.offset, place.after)
        shifts = lengths_of(np.broadcast_to(offset, place.after))
        return tuple(host.add_up(host.mul_up(largest, r), shift) for r, shift in zip(before[0], shifts, strict=True))

    def lipschitz(self, place: Place) -> float:
        values = np.asarray(self.values)
        if not values.size or not np.all(np.isfinite(values)):
            raise NoBoundError("it multiplies by values that are not finite")
        largest = float(np.max(self.factors_up()))
        if values.size == 1:
            return largest
        after = broadcasting.broadcast_shapes_or_none(place.shape, values.shape)
        copies = broadcasting.copies_of_entry(place.shape, after)
        if copies <= 1 or after is None:
            return largest
        # Columns of the matrix are orthogonal: each has the factors of the copies of one entry.
        sides = (1,) * (len(after) - len(place.shape)) + place.shape
        axes_of_copies = [axis for axis, n in enumerate(after) if sides[axis] != n]
        factors = self.factors_up().reshape((1,) * (len(after) - values.ndim) + values.shape)
        by_entry = np.moveaxis(factors, axes_of_copies, range(-len(axes_of_copies), 0)).reshape(-1, copies)
        return float(np.max(host.norm_up(by_entry)))

    @property
    def stretches_unevenly(self) -> bool:
        return len(np.unique(abs(np.asarray(self.values)))) > 1

    def factors_along(self, axis: int) -> FloatArray | None:
        values = np.asarray(self.values)
        if axis + values.ndim < 0 or values.size != values.shape[axis] or not self.is_accurate:
            return None
        return values.reshape(-1)

    def alike(self, place: Place) -> frozenset[int]:
        if place.after is None or place.before[0] != place.after:
            return frozenset()
        shape = np.shape(self.values)
        missing_axes = len(place.after) - len(shape)
        # One factor for all entries along an axis.
        return frozenset(
            axis for axis in range(len(place.after)) if axis < missing_axes or shape[axis - missing_axes] == 1
        )

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        values = np.asarray(self.values, dtype=np.float64)
        if not self.is_accurate:
            return None
        roundings = 1 if self.exact else SCALED_ENTRY_ROUNDINGS
        return contracted([product(values, before)], roundings, offset=self.offset)


def _with_axes_in_front(x: FloatArray, ndim: int) -> FloatArray:
    """Return a batch (batch, *shape) with axes of size 1 in front of the shape, which has ``ndim`` axes with them."""
    new_axes = (1,) * (ndim + 1 - x.ndim)
    return x.reshape(x.shape[0], *new_axes, *x.shape[1:])


def normalisation(
    mean: FloatArray,
    variance: FloatArray,
    scale: FloatArray | None,
    bias: FloatArray | None,
    eps: float,
    ndim: int,
) -> Scale:
    """Return batch normalization at inference, along axis 1 of values with ``ndim`` axes, from arrays in float64."""
    weight = np.ones_like(mean) if scale is None else scale
    shift = np.zeros_like(mean) if bias is None else bias
    factor = 1 / np.sqrt(variance + eps) * weight
    # A factor of 0 is taken as exact, so a factor that underflows is rounded to the other neighbour.
    factor = np.where((factor == 0) & (weight != 0), np.copysign(SMALLEST_SUBNORMAL, weight), factor)
    shape_along_axis_1 = (-1, *(1,) * (ndim - 2))

    def offset() -> tuple[FloatArray, FloatArray]:
        # The error covers the roundings of the factor, of the product and of the difference.
        error = (abs(shift) + abs(mean * factor)) * ERROR_OF_OFFSETS
        return (shift - mean * factor).reshape(shape_along_axis_1), error.reshape(shape_along_axis_1)

    return Scale(factor.reshape(shape_along_axis_1), offset)


class Add(Affine):
    """``w_1 x_1 + ... + w_n x_n`` of values that are broadcast, fixed values among them."""

    rule = "add"
    joins = "sum"
    weights: tuple[float, ...]
    """Exact weights w, one for each input."""

    def shares(self, bounds: Sequence[float], place: Place) -> Sequence[float]:
        if not all(map(math.isfinite, self.weights)):
            raise NoBoundError("it multiplies by values that are not finite")
        constants = broadcasting.constants_after_broadcast(bounds, place)
        return [host.mul_up(abs(weight), constant) for weight, constant in zip(self.weights, constants, strict=True)]

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        """Return the sums of the lengths of all values, along the axes that all of them have."""
        if place.after is None:
            return None
        total = [0.0] * len(place.after)
        for weight, lengths, shape in zip(self.weights, before, place.before, strict=True):
            missing = len(place.after) - len(lengths)
            for axis, n in enumerate(place.after):
                own = lengths[axis - missing] if axis >= missing else math.inf
                # An entry that is broadcast along an axis of n entries is a vector of n copies.
                copies = n if axis >= missing and shape is not None and shape[axis - missing] != n else 1
                total[axis] = host.add_up(total[axis], host.mul_up(abs(weight), own, host.root_up(copies)))
        return tuple(total)

    def alike(self, place: Place) -> frozenset[int]:
        shapes = [shape or () for shape in (*place.before, place.after)]
        if len({len(shape) for shape in shapes}) > 1:
            return frozenset()
        return frozenset(axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len({*sizes}) == 1)

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        if not all(map(math.isfinite, self.weights)):
            return None
        shapes = (before, *others)
        after = np.broadcast_shapes(*shapes)
        terms = [copies(weight, shape, after) for weight, shape in zip(self.weights, shapes, strict=True)]
        return contracted(terms, roundings=1 + len(others))


class Concat(Affine):
    """Values, fixed ones among them, joined along an axis; ``new``: along a new axis.

    The squared changes of the values add up.
    """

    rule = "stack"
    only_moves_entries = True
    joins = "squares"
    axis: int
    new: bool = False

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset() if self.new else place.axes - {self.axis}

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        if not 0 <= self.axis < len(before) + self.new:
            return None
        join = np.stack if self.new else np.concatenate
        return LinearMap.of_moves(lambda x: join(x, axis=self.axis + 1))


class Merge(Affine):
    """The first value, with its entries at some positions replaced by those of the second value, in order."""

    rule = "stack"
    only_moves_entries = True
    joins = "squares"
    at: FloatArray
    """Flat positions of these entries in the first value, none twice."""

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        positions = np.ravel(self.at)
        size = math.prod(before)
        are_inside = np.all((positions >= 0) & (positions < size))
        are_different = len(np.unique(positions)) == positions.size
        if math.prod(others[0]) != positions.size or not are_different or not are_inside:
            return None

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            first, second = x
            merged = np.array(first, np.result_type(*x)).reshape(len(first), size)
            merged[:, positions] = second.reshape(len(first), positions.size)
            return merged.reshape(first.shape)

        return LinearMap.of_moves(apply)


class Where(Affine):
    """The first value where a constant mask is true, else the second."""

    rule = "stack"
    only_moves_entries = True
    joins = "squares"
    mask: Callable[[], NDArray[Any]]
    """Returns booleans that broadcast against the values."""

    def shares(self, bounds: Sequence[float], place: Place) -> Sequence[float]:
        return broadcasting.constants_after_broadcast(bounds, place)

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        mask = np.asarray(self.mask(), dtype=bool)
        ndim = len(np.broadcast_shapes(before, *others, mask.shape))
        return LinearMap.of_moves(lambda x: np.where(mask, *(_with_axes_in_front(value, ndim) for value in x)))


class Broadcast(Affine):
    """The input, broadcast with a shape by NumPy's rules; its constant is the root of the number of copies."""

    rule = "broadcast"
    only_moves_entries = True
    target: tuple[int, ...]
    """Shape to broadcast with. It may have fewer axes than the value, or size 1 (ONNX's Expand)."""

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        shape = np.broadcast_shapes(before, self.target)

        def copied(x: Sequence[FloatArray]) -> FloatArray:
            (batch,) = x
            return np.broadcast_to(_with_axes_in_front(batch, len(shape)), (len(batch), *shape))

        return LinearMap.of_moves(copied)


class _Reduction(Affine):
    """Sums over axes, or their means."""

    axes: tuple[int, ...]
    keep: bool = False
    """Whether the axes stay, with size 1."""

    def alike(self, place: Place) -> frozenset[int]:
        before = place.before[0] or ()
        # If the axes are dropped, only the axes before the first of them keep their numbers.
        axes_with_same_number = range(len(before) if self.keep else min(self.axes, default=0))
        return frozenset(axes_with_same_number) - {*self.axes}

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        count = entries_along(before, self.axes)
        if not count:
            return None
        divisor = count if isinstance(self, Mean) else 1
        return contracted([sums(self.axes, before, self.keep, 1 / divisor)], roundings=count + 1)


class Sum(_Reduction):
    """Sum over axes: disjoint rows, of norm sqrt(N) for N numbers."""

    rule = "sum"

    def lipschitz(self, place: Place) -> float:
        return host.root_up(entries_along(place.shape, self.axes))


class Mean(_Reduction):
    """Mean over axes: disjoint rows, of norm 1/sqrt(N) for N numbers."""

    rule = "mean"

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        """Return the lengths along axes that are not averaged: a mean of vectors is no longer than the longest."""
        if not self.keep:
            return None
        return tuple(math.inf if axis in self.axes else length for axis, length in enumerate(before[0]))

    def keeps_channels(self, before: Shape, after: Shape) -> bool:
        return min(self.axes, default=0) > 1  # only pixels are averaged

    def lipschitz(self, place: Place) -> float:
        return host.root_up(Fraction(1, max(entries_along(place.shape, self.axes), 1)))


class CumulativeSum(Affine):
    """Sums of the first entries along an axis: a triangular matrix of ones."""

    rule = "cumulative_sum"
    stretches_unevenly = True
    axis: int
    reverse: bool = False
    """Whether the entries are counted from the last one."""
    exclusive: bool = False
    """Whether each sum is without the entry at its own position."""

    def alike(self, place: Place) -> frozenset[int]:
        return place.axes - {self.axis}

    def lipschitz(self, place: Place) -> float:
        """Return 1 / (2 sin(pi / (4 n + 2))), rounded up, for sums of n entries.

        The inverse D takes differences of neighbours; the smallest eigenvalue of D D^T is 4 sin(pi / (4 n + 2))^2.
        """
        n = entries_along(place.shape, (self.axis,)) - self.exclusive
        return host.float_up(1 / (2 * _sine_down(n))) if n > 0 else 0.0

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        count = entries_along(before, (self.axis,))
        axis_of_batch = self.axis + 1  # axis 0 counts the values of a batch

        def sums(x: FloatArray, reverse: bool) -> FloatArray:
            ordered = np.flip(x, axis_of_batch) if reverse else x
            totals = np.cumsum(ordered, axis_of_batch)
            if self.exclusive:
                zero = np.zeros_like(totals[(slice(None),) * axis_of_batch + (slice(0, 1),)])
                earlier = totals[(slice(None),) * axis_of_batch + (slice(0, -1),)]
                totals = np.concatenate([zero, earlier], axis_of_batch)
            return np.flip(totals, axis_of_batch) if reverse else totals

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return sums(x[0], self.reverse)

        def adjoint(y: FloatArray) -> list[FloatArray]:
            return [sums(y, not self.reverse)]

        return LinearMap(apply, absolute=apply, roundings=count, adjoint=adjoint)


def _sine_down(n: int) -> Fraction:
    """Return a lower bound on sin(pi / (4 n + 2)): the float of pi is below pi, and the series alternates."""
    angle = Fraction(math.pi) / (4 * n + 2)
    return sum((angle**k / math.factorial(k) * (2 - k % 4) for k in range(1, 17, 2)), Fraction(0))


class AddedUp(Affine):
    """Entries added to zeros at constant positions: disjoint rows, of norm sqrt(N) for N entries at one position."""

    rule = "sum"
    at: NDArray[Any]
    """Flat positions in the value, one for each entry of the input."""
    target: tuple[int, ...]
    """Shape of the value."""

    def lipschitz(self, place: Place) -> float:
        return host.root_up(int(np.unique(self.at, return_counts=True)[1].max(initial=1)))

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        positions = np.ravel(self.at)
        size = math.prod(self.target)
        if math.prod(before) != positions.size or np.any((positions < 0) | (positions >= size)):
            return None

        # It is the adjoint of a move: of the entries at the positions.
        def moved(y: Sequence[FloatArray]) -> FloatArray:
            return y[0].reshape(len(y[0]), size)[:, positions].reshape(len(y[0]), *before)

        move = LinearMap.of_moves(moved).with_adjoint([self.target])
        most = int(np.bincount(positions).max(initial=1))
        return move.transposed(roundings=most, shape=self.target)


class Pad(Affine):
    """Padding of the last ``len(pads)`` axes.

    Its constant is 1 for padding with a constant, and sqrt(r) if pixels are repeated, where r is the product over the
    axes of the largest number of copies of one pixel. With the convolution after it, padding is one layer.
    """

    rule = "pad"
    only_moves_entries = True
    mode: PadMode
    pads: tuple[tuple[int, int], ...]
    """Numbers of entries before and after each of those axes; not negative."""
    value: float = 0.0
    """Constant of "zeros" padding; NaN: unknown."""

    def lipschitz(self, place: Place) -> float:
        if self.mode not in _NUMPY_MODES or any(min(pair) < 0 for pair in self.pads):
            raise NoBoundError(f"padding mode {self.mode} is not supported")
        if self.mode == "zeros":
            return 1.0
        counts = []
        sizes = place.shape[len(place.shape) - len(self.pads) :]
        for (first, last), n in zip(self.pads, sizes, strict=True):
            counts.append(padding_rules.padding_count(first, last, n, self.mode))
        return host.root_up(math.prod(counts))

    def alike(self, place: Place) -> frozenset[int]:
        first_padded_axis = len(place.axes) - len(self.pads)
        return place.axes - {axis for axis, pair in enumerate(self.pads, first_padded_axis) if any(pair)}

    def map_at(self, before: Shape, *others: Shape) -> LinearMap | None:
        if math.isnan(self.value) or len(self.pads) > len(before):
            return None
        pads = ((0, 0),) * (len(before) - len(self.pads)) + tuple(self.pads)
        for n, pair in zip(before, pads, strict=True):
            if min(pair) < 0 or max(pair) > self._most_padding(n):
                return None
        numpy: Any = np  # for the type checker: the type of `numpy.pad` allows literal modes only

        def offset() -> tuple[FloatArray, FloatArray]:
            return numpy.pad(np.zeros(before), pads, constant_values=self.value), np.zeros(())

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return np.asarray(numpy.pad(x[0], ((0, 0), *pads), mode=_NUMPY_MODES[self.mode]))

        return LinearMap.of_moves(apply, offset if self.mode == "zeros" and self.value else None)

    def _most_padding(self, n: int) -> float:
        """Return how many entries the mode can put on one side of an axis with n entries."""
        most = {"reflect": n - 1, "circular": n, "zeros": math.inf, "replicate": math.inf}
        return most.get(self.mode, -math.inf)
