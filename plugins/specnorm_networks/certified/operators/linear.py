"""Linear operators without a kernel: sums, scales, reductions, joins of values, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from specnorm.proof import host, padding_rules
from specnorm_networks.certified.operators import base, broadcasting
from specnorm_networks.certified.operators.base import (
    Apply,
    FloatArray,
    Linear,
    LinearMap,
    NoBoundError,
    Offset,
    Place,
    Sizes,
)
from specnorm_networks.certified.shapes import Shape

PadMode = Literal["zeros", "reflect", "replicate", "circular"]
SCALED = 20
"""Roundings of a scale that is not exact, and of the product with it."""
_NUMPY = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class Scale(Linear):
    """``x * values + offset``, entry by entry: batch normalisation at inference, products with constants.

    The largest absolute value, for a diagonal matrix; times the root of how often the input is repeated besides.
    Directly after a layer it is folded into the kernel instead.
    """

    rule = "scale"
    values: FloatArray
    """float64, broadcasting against the value by NumPy's rules."""
    offset: Offset | None = None
    exact: bool = False
    """Whether the values are exact; else they were computed with a handful of roundings."""
    cancelling: FloatArray | None = None
    """For batch normalisation: sizes of the two terms whose difference is the offset, which may cancel."""

    def lipschitz(self, place: Place) -> float:
        values = np.asarray(self.values)
        if not values.size or not np.all(np.isfinite(values)):
            raise NoBoundError("it multiplies by values that are not finite")
        # A quotient by a root of a sum: a few roundings.
        largest = float(np.max(abs(values)))
        largest = largest if self.exact else host.inflate(largest, 14)
        if values.size == 1:
            return largest
        (before,) = place.before
        return host.mul_up(
            largest, host.root_up(broadcasting.repeats(before, broadcasting.broadcasted(before, values.shape)))
        )

    def alike(self, place: Place) -> frozenset[int]:
        shape = np.shape(self.values)
        ndim = len(place.after or ())
        if place.after is None or place.before[0] != place.after:
            return frozenset()
        return frozenset(axis for axis in range(ndim) if ([1] * ndim + list(shape))[axis - ndim] == 1)

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        values = abs(np.asarray(self.values))
        if place.before[0] != place.after or values.ndim > weights.ndim or not np.all(np.isfinite(values)):
            return None
        values = values if self.exact else np.where(values == 0, 0.0, host.next_up(host.inflate(values, 14)))
        return [base.times_up(weights, values, values)]

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        allowed = super().rounding(values, result, unit)
        return allowed if self.cancelling is None else allowed + 2 * (SCALED + 4) * unit * self.cancelling

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        values = np.asarray(self.values, dtype=np.float64)
        shape = broadcasting.broadcasted(before, values.shape)
        if shape is None or not np.all(np.isfinite(values)):
            return None
        ndim = len(shape)
        rows = abs(values) if self.exact else host.inflate(abs(values), 14)

        def made(k: FloatArray) -> Apply:
            return lambda x: _wide(x[0], ndim) * k

        n = 1 if self.exact else SCALED
        repeats = math.prod(map(int, shape)) // max(math.prod(before), 1)

        def adjoint(y: FloatArray) -> list[FloatArray]:
            return [broadcasting.summed_to(y * values, before)]

        return LinearMap(
            made(values), made(abs(values)), n, rows, self.offset, adjoint=adjoint, backward=n + repeats
        )  # fmt: skip


def _wide(x: FloatArray, ndim: int) -> FloatArray:
    """Return copies of a value with axes of size 1 in front, so that they broadcast against ``ndim`` axes."""
    return x.reshape(x.shape[0], *(1,) * (ndim + 1 - x.ndim), *x.shape[1:])


def normalisation(
    mean: FloatArray,
    variance: FloatArray,
    scale: FloatArray | None,
    bias: FloatArray | None,
    eps: float,
    ndim: int,
) -> Scale:
    """Batch normalisation at inference, of axis 1 of values with ``ndim`` axes; all in float64."""
    weights = np.ones_like(mean) if scale is None else scale
    shift = np.zeros_like(mean) if bias is None else bias
    wide = 1 / np.sqrt(variance + eps) * weights
    along = (-1, *(1,) * (ndim - 2))
    terms = (abs(shift) + abs(mean * wide)).reshape(along)

    def offset() -> tuple[FloatArray, FloatArray]:
        # A few roundings of the scale, the product and the difference.
        return (shift - mean * wide).reshape(along), terms * 2.0**-47

    return Scale(wide.reshape(along), offset, cancelling=terms)


class Add(Linear):
    """``(w_1 x_1 + ... + w_n x_n) / over`` of values that are broadcast, constants among them."""

    rule = "add"
    weights: tuple[float, ...]
    """One an input, exact."""
    over: int = 1
    """More than 1 for means of values."""

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        # The triangle inequality.
        if not all(map(math.isfinite, self.weights)):
            raise NoBoundError("it multiplies by values that are not finite")
        terms = zip(self.weights, broadcasting.spread(bounds, place), strict=True)
        total = host.add_up(*(host.mul_up(abs(weight), bound) for weight, bound in terms))
        return total if self.over == 1 else host.mul_up(total, host.div_up(1.0, self.over))

    def alike(self, place: Place) -> frozenset[int]:
        shapes = [shape or () for shape in (*place.before, place.after)]
        if len({len(shape) for shape in shapes}) > 1:
            return frozenset()
        return frozenset(axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len({*sizes}) == 1)

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        """Use Cauchy and Schwarz: ``(sum a_i dx_i)^2 <= (sum t_i) sum a_i^2 dx_i^2 / t_i`` for any t_i > 0.

        With ``t_i = |a_i| c_i`` for inputs that move by c_i it is no more than the triangle inequality; where but one
        input moves, it is a_i^2.
        """
        if not all(map(math.isfinite, self.weights)):
            return None
        sizes = zip(self.weights, broadcasting.spread([1.0] * len(shares), place), strict=True)
        terms = [share * host.mul_up(abs(a), r) for share, (a, r) in zip(shares, sizes, strict=True)]
        total = base.plus_up(*terms)
        weights_before = []
        part = host.div_up(1.0, self.over) if self.over > 1 else 1.0
        for before, share, a, term in zip(place.before, shares, self.weights, terms, strict=True):
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = np.where(term == total, 1.0, host.next_up(total / term))
            factor = np.where(share > 0, np.where(term > 0, factor, math.inf), 0.0)
            stretched = base.times_up(weights, factor, *[np.asarray(abs(a)), np.asarray(part)] * 2)
            weights_before.append(broadcasting.gathered(stretched, before, place.after))
        return weights_before

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        shape = broadcasting.broadcasted(before, *others)
        if shape is None or not all(map(math.isfinite, self.weights)):
            return None

        def made(k: Sequence[float]) -> Apply:
            def apply(x: Sequence[FloatArray]) -> FloatArray:
                total: FloatArray = np.zeros((len(x[0]), *(1,) * len(shape)))
                for weight, value in zip(k, x, strict=True):
                    total = total + weight * _wide(value, len(shape))
                return total if self.over == 1 else total / self.over

            return apply

        def adjoint(y: FloatArray) -> list[FloatArray]:
            return [
                broadcasting.summed_to(w * y, x) / self.over
                for w, x in zip(self.weights, (before, *others), strict=True)
            ]

        both = made(self.weights), made([abs(weight) for weight in self.weights])
        return LinearMap(
            *both, 1 + len(others) + (self.over != 1), adjoint=adjoint, backward=math.prod(map(int, shape)) + 3
        )


class Concat(Linear):
    """Values (constants among them) one behind the other along an axis; ``new``: along an axis of their own.

    Squared changes add up.
    """

    rule = "stack"
    moves = True
    axis: int
    new: bool = False

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        return host.hypot_up(*bounds)

    def alike(self, place: Place) -> frozenset[int]:
        return frozenset() if self.new else frozenset(range(len(place.after or ()))) - {self.axis}

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        if not 0 <= self.axis < len(before) + self.new:
            return None
        join = np.stack if self.new else np.concatenate
        return LinearMap.moving(lambda x: join(x, axis=self.axis + 1))


class Merge(Linear):
    """The first value, whose entries at some flat positions are those of the second, in order."""

    rule = "stack"
    moves = True
    at: FloatArray
    """Positions in the first value; none twice."""

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        # As of values one behind the other: each entry is one of the first or one of the second.
        return host.hypot_up(*bounds)

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        at = np.ravel(self.at)
        size = math.prod(before)
        if math.prod(others[0]) != at.size or len(np.unique(at)) < at.size or not np.all((at >= 0) & (at < size)):
            return None

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            found = np.array(x[0], np.result_type(*x)).reshape(len(x[0]), size)
            found[:, at] = x[1].reshape(len(x[0]), at.size)
            return found.reshape(x[0].shape)

        return LinearMap.moving(apply)


class Broadcast(Linear):
    """Broadcast to a shape, by NumPy's rules: the root of the number of copies."""

    rule = "broadcast"
    moves = True
    target: tuple[int, ...]
    """Shape to broadcast with. It may have fewer axes than the value, or size 1 (ONNX's Expand)."""

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        shape = broadcasting.broadcasted(before, self.target)
        if shape is None:
            return None
        return LinearMap.moving(lambda x: np.broadcast_to(_wide(x[0], len(shape)), (len(x[0]), *shape)))


class _Reduction(Linear):
    """Sums over axes, or their means."""

    axes: tuple[int, ...]
    keep: bool = False

    def _count(self, before: Shape | None) -> int | None:
        """Return how many numbers become one; None if unknown."""
        return None if before is None else math.prod(before[axis] for axis in self.axes)

    def alike(self, place: Place) -> frozenset[int]:
        before = place.before[0] or ()
        return frozenset(range(len(before) if self.keep else min(self.axes, default=0))) - {*self.axes}

    def pulled(
        self,
        weights: FloatArray,
        shares: Sequence[FloatArray],
        place: Place,
    ) -> list[FloatArray] | None:
        # (sum of n numbers)^2 <= n times the sum of their squares.
        count = self._count(place.before[0])
        if not count or len({*self.axes}) < len(self.axes):
            return None
        wide = weights if self.keep else np.expand_dims(weights, self.axes)
        return [base.times_up(wide, np.asarray(host.div_up(1.0, count) if isinstance(self, Mean) else float(count)))]

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        if len(set(self.axes)) < len(self.axes) or any(not 0 <= axis < len(before) for axis in self.axes):
            return None
        count = self._count(before)
        over = tuple(axis + 1 for axis in self.axes)
        if not count:
            return None
        share = count if isinstance(self, Mean) else 1
        apply: Apply = lambda x: np.asarray(x[0].sum(axis=over, keepdims=self.keep) / share)  # noqa: E731
        wide = tuple(1 if axis in self.axes else n for axis, n in enumerate(before))

        def adjoint(y: FloatArray) -> list[FloatArray]:
            return [np.broadcast_to(y.reshape(-1, *wide) / share, (len(y), *before))]

        return LinearMap(apply, apply, count + 1, adjoint=adjoint, backward=2)


class Sum(_Reduction):
    """Sum over axes: disjoint rows, of norm sqrt(N) for N numbers."""

    rule = "sum"

    def lipschitz(self, place: Place) -> float:
        count = self._count(place.before[0])
        if count is None:
            raise NoBoundError("it sums numbers whose count depends on the input's size: give the input shape")
        return host.root_up(count)


class Mean(_Reduction):
    """Mean over axes: disjoint rows, of norm 1/sqrt(N) for N numbers; 1 where N is not known."""

    rule = "mean"

    def lipschitz(self, place: Place) -> float:
        count = self._count(place.before[0])
        return 1.0 if count is None else host.root_up(Fraction(1, max(count, 1)))


class Pad(Linear):
    """Padding of the last ``len(pads)`` axes.

    1 for constants; sqrt(r) for repeated pixels, r a product over the axes of the largest number of copies of one
    pixel. With the convolution after it, padding is one layer.
    """

    rule = "pad"
    moves = True
    mode: PadMode
    pads: tuple[tuple[int, int], ...]
    """Before and after each of those axes; not negative."""
    value: float = 0.0
    """Constant of "zeros" padding; NaN: unknown."""

    def lipschitz(self, place: Place) -> float:
        if self.mode not in _NUMPY or any(min(pair) < 0 for pair in self.pads):
            raise NoBoundError(f"padding by {self.mode} has no rule")
        if self.mode == "zeros":
            return 1.0
        counts = []
        for (first, last), n in zip(self.pads, broadcasting.last_sizes(place.before[0], len(self.pads)), strict=True):
            # Across an axis of an unknown size, all that reflections repeat may be one pixel.
            unknown = n is None and self.mode == "reflect"
            counts.append(1 + first + last if unknown else padding_rules.padding_count(first, last, n, self.mode))
        return host.root_up(math.prod(counts))

    def alike(self, place: Place) -> frozenset[int]:
        ndim = len(place.after or ())
        return frozenset(axis for axis in range(ndim) if not any(([(0, 0)] * ndim + [*self.pads])[axis - ndim]))

    def map_at(self, before: Sizes, *others: Sizes) -> LinearMap | None:
        if math.isnan(self.value) or len(self.pads) > len(before):
            return None
        pads = ((0, 0),) * (len(before) - len(self.pads)) + tuple(self.pads)
        # What a reflection, or one turn, can give.
        short = {"reflect": 1, "circular": 0, "replicate": -math.inf, "zeros": -math.inf}.get(self.mode, math.inf)
        if not all(min(pair) >= 0 and max(pair) <= n - short for n, pair in zip(before, pads, strict=True)):
            return None
        numpy: Any = np

        def offset() -> tuple[FloatArray, FloatArray]:
            return numpy.pad(np.zeros(before), pads, constant_values=self.value), np.zeros(())

        added = offset if self.mode == "zeros" and self.value else None
        return LinearMap.moving(lambda x: numpy.pad(x[0], ((0, 0), *pads), mode=_NUMPY[self.mode]), added)
