"""Linear operators without a kernel: sums, scales, reductions, joins of values, padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import numpy as np

from specnorm.networks.operators.base import (
    Apply,
    FloatArray,
    Linear,
    LinearMap,
    NoBoundError,
    Offset,
    Place,
    broadcasted,
    repeats,
    spread,
)
from specnorm.networks.shapes import Shape, concrete
from specnorm.padding import padding_copies
from specnorm.proof import host

PadMode = Literal["zeros", "reflect", "replicate", "circular"]
SCALED = 20
"""Roundings of a scale that is not exact, and of the product with it."""
_NUMPY = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@dataclass(frozen=True, eq=False)
class Scale(Linear):
    """``x * values + offset``, entry by entry: batch normalisation at inference, products with constants.

    The largest absolute value, for a diagonal matrix; times the root of how often the input is repeated besides.
    Directly after a layer it is folded into the kernel instead.

    Parameters
    ----------
    values : array
        float64, broadcasting against the value by NumPy's rules.
    offset : callable or None
        What is added.
    exact : bool
        Whether the values are exact; else they were computed with a handful of roundings.
    """

    rule: ClassVar[str] = "scale"
    values: FloatArray
    offset: Offset | None = None
    exact: bool = False

    def number(self) -> float | None:
        """The number that everything is multiplied by; None where there are several."""
        return float(np.reshape(self.values, ())) if np.size(self.values) == 1 else None

    def channel(self, ndim: int) -> tuple[int, FloatArray] | None:
        """The one axis, of ``ndim`` of the input, along which the values vary, and the values; None: there is none."""
        values = np.asarray(self.values)
        wide = [axis for axis, n in enumerate(values.shape) if n != 1]
        if len(wide) != 1 or values.ndim > ndim:
            return None
        return ndim - values.ndim + wide[0], values.reshape(-1)

    def lipschitz(self, place: Place) -> float:
        """The largest absolute value, and how often the input is repeated."""
        values = np.asarray(self.values)
        if not values.size or not np.all(np.isfinite(values)):
            raise NoBoundError("it multiplies by values that are not finite")
        # A quotient by a root of a sum: a few roundings.
        largest = float(np.max(abs(values)))
        largest = largest if self.exact else host.raised(largest, 14)
        if values.size == 1:
            return largest
        (before,) = place.before
        return host.mul_up(largest, host.root_up(repeats(before, broadcasted(before, values.shape))))

    def linear_map(self, place: Place) -> LinearMap | None:
        """Products with the values."""
        befores, values = place.sizes(), np.asarray(self.values, dtype=np.float64)
        shape = None if befores is None else concrete(broadcasted(befores[0], values.shape))
        if shape is None or not place.fits(shape) or not np.all(np.isfinite(values)):
            return None
        ndim = len(shape)
        rows = abs(values) if self.exact else host.raised(abs(values), 14)
        roundings = 1 if self.exact else SCALED
        return LinearMap.of(lambda k: lambda x: _wide(x[0], ndim) * k, values, roundings, rows, self.offset)


def _wide(x: FloatArray, ndim: int) -> FloatArray:
    """Axes of size 1 between the copies and the value, so that it broadcasts against one of so many axes."""
    return x.reshape(x.shape[0], *(1,) * (ndim + 1 - x.ndim), *x.shape[1:])


@dataclass(frozen=True, eq=False)
class Add(Linear):
    """``(w_1 x_1 + ... + w_n x_n) / over`` of values that are broadcast, constants among them.

    Parameters
    ----------
    weights : tuple of float
        One an input, exact.
    over : int
        More than 1 for means of values.
    """

    rule: ClassVar[str] = "add"
    weights: tuple[float, ...]
    over: int = 1

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """The sum of the inputs' bounds, times their weights: the triangle inequality."""
        if not all(map(math.isfinite, self.weights)):
            raise NoBoundError("it multiplies by values that are not finite")
        terms = zip(self.weights, spread(bounds, place), strict=True)
        total = host.add_up(*(host.mul_up(abs(weight), bound) for weight, bound in terms))
        return total if self.over == 1 else host.mul_up(total, host.div_up(1.0, self.over))

    def linear_map(self, place: Place) -> LinearMap | None:
        """The sum."""
        befores = place.sizes()
        shape = None if befores is None else concrete(broadcasted(*befores))
        if befores is None or shape is None or not place.fits(shape) or not all(map(math.isfinite, self.weights)):
            return None

        def made(k: FloatArray) -> Apply:
            def apply(x: Sequence[FloatArray]) -> FloatArray:
                total: FloatArray = np.zeros((len(x[0]), *shape))
                for weight, each in zip(k, x, strict=True):
                    total = total + weight * _wide(each, len(shape))
                return total if self.over == 1 else total / self.over

            return apply

        weights = np.asarray(self.weights, dtype=np.float64)
        return LinearMap.of(made, weights, len(befores) + (self.over != 1))


@dataclass(frozen=True, eq=False)
class Concat(Linear):
    """Values (constants among them) one behind the other along an axis; ``new``: along an axis of their own."""

    rule: ClassVar[str] = "stack"
    axis: int
    new: bool = False

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """The root of the sum of squares of the inputs' bounds: squared changes add up."""
        del place
        return host.hypot_up(*bounds)

    def linear_map(self, place: Place) -> LinearMap | None:
        """Each output is one input."""
        befores = place.sizes()
        if not befores or not 0 <= self.axis < len(befores[0]) + self.new:
            return None
        join = np.stack if self.new else np.concatenate
        try:
            shape = join([np.zeros(before, np.bool_) for before in befores], axis=self.axis).shape
        except ValueError:
            return None
        if not place.fits(shape):
            return None

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return join(x, axis=self.axis + 1)

        return LinearMap(apply, apply, 0, np.ones(()))


@dataclass(frozen=True, eq=False)
class Merge(Linear):
    """The first value, whose entries at some flat positions are those of the second, in order.

    Parameters
    ----------
    at : array of int
        Positions in the first value; none twice.
    """

    rule: ClassVar[str] = "stack"
    at: FloatArray

    def combine(self, bounds: Sequence[float], place: Place) -> float:
        """As of values one behind the other: each entry is one of the first or one of the second."""
        del place
        return host.hypot_up(*bounds)

    def linear_map(self, place: Place) -> LinearMap | None:
        """Each output is one input."""
        befores, at = place.sizes(), np.ravel(self.at)
        if befores is None or math.prod(befores[1]) != at.size or not place.fits(befores[0]):
            return None
        if at.size and (at.min() < 0 or at.max() >= math.prod(befores[0]) or len(np.unique(at)) < at.size):
            return None

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            copies = len(x[0])
            found = np.array(x[0], np.result_type(*x)).reshape(copies, math.prod(befores[0]))
            found[:, at] = x[1].reshape(copies, at.size)
            return found.reshape(x[0].shape)

        return LinearMap(apply, apply, 0)


@dataclass(frozen=True, eq=False)
class Broadcast(Linear):
    """Broadcast to a shape, by NumPy's rules.

    Parameters
    ----------
    target : tuple of int
        As `numpy.broadcast_to` takes it; it may have fewer axes than the value, or 1 where the value has more (ONNX's
        Expand): both are broadcast to each other.
    """

    rule: ClassVar[str] = "broadcast"
    target: tuple[int, ...]

    def lipschitz(self, place: Place) -> float:
        """The root of the number of copies, counted from the shapes before and after."""
        (before,) = place.before
        return host.root_up(repeats(before, broadcasted(before, self.target)))

    def linear_map(self, place: Place) -> LinearMap | None:
        """Each output is one input."""
        befores = place.sizes()
        shape = None if befores is None else concrete(broadcasted(befores[0], self.target))
        if shape is None or not place.fits(shape):
            return None

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return np.broadcast_to(_wide(x[0], len(shape)), (len(x[0]), *shape))

        return LinearMap(apply, apply, 0, np.ones(()))


@dataclass(frozen=True, eq=False)
class _Reduction(Linear):
    """Sums over axes, times a share."""

    axes: tuple[int, ...]
    keep: bool = False

    def _share(self, count: int) -> float:
        raise NotImplementedError

    def _count(self, before: Shape | None) -> int | None:
        """How many numbers become one; None where it is not known."""
        if before is None:
            return None
        sizes = [before[axis] for axis in self.axes]
        return math.prod(n for n in sizes if isinstance(n, int)) if all(isinstance(n, int) for n in sizes) else None

    def linear_map(self, place: Place) -> LinearMap | None:
        """The sums."""
        befores = place.sizes()
        if befores is None or len(set(self.axes)) < len(self.axes):
            return None
        (before,) = befores
        if any(not 0 <= axis < len(before) for axis in self.axes):
            return None
        count = self._count(before)
        kept = [1 if axis in self.axes else n for axis, n in enumerate(before)]
        shape = tuple(n for axis, n in enumerate(kept) if self.keep or axis not in self.axes)
        if not count or not place.fits(shape):
            return None
        over, share = tuple(axis + 1 for axis in self.axes), self._share(count)

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return np.asarray(x[0].sum(axis=over, keepdims=self.keep) / share)

        return LinearMap(apply, apply, count + 1)


@dataclass(frozen=True, eq=False)
class Sum(_Reduction):
    """Sum over axes: disjoint rows, of norm sqrt(N) for N numbers."""

    rule: ClassVar[str] = "sum"

    def _share(self, count: int) -> float:
        del count
        return 1.0

    def lipschitz(self, place: Place) -> float:
        """The root of how many numbers are added."""
        count = self._count(place.before[0])
        if count is None:
            raise NoBoundError("it sums numbers whose count depends on the input's size: give the input shape")
        return host.root_up(count)


@dataclass(frozen=True, eq=False)
class Mean(_Reduction):
    """Mean over axes: disjoint rows, of norm 1/sqrt(N) for N numbers; 1 where N is not known."""

    rule: ClassVar[str] = "mean"

    def _share(self, count: int) -> float:
        return float(count)

    def lipschitz(self, place: Place) -> float:
        """One over the root of how many numbers are averaged."""
        count = self._count(place.before[0])
        return 1.0 if count is None else host.root_up(Fraction(1, max(count, 1)))


@dataclass(frozen=True, eq=False)
class Pad(Linear):
    """Padding of the last ``len(pads)`` axes.

    1 for constants; sqrt(r) for repeated pixels, r a product over the axes of the largest number of copies of one
    pixel. With the convolution after it, padding is one layer.

    Parameters
    ----------
    mode : {"zeros", "reflect", "replicate", "circular"}
        "zeros": with `value`.
    pads : tuple of (int, int)
        Before and after each of those axes; not negative.
    value : float
        NaN: not known.
    """

    rule: ClassVar[str] = "pad"
    mode: PadMode
    pads: tuple[tuple[int, int], ...]
    value: float = 0.0

    def lipschitz(self, place: Place) -> float:
        """The root of the largest number of copies of one pixel."""
        if self.mode not in _NUMPY or any(min(pair) < 0 for pair in self.pads):
            raise NoBoundError(f"padding by {self.mode} has no rule")
        if self.mode == "zeros":
            return 1.0
        (before,), count = place.before, len(self.pads)
        sizes = (None,) * count if before is None else before[len(before) - count :]
        counts = []
        for (first, last), size in zip(self.pads, sizes, strict=True):
            n = size if isinstance(size, int) else None
            # Across an axis of an unknown size, all that reflections repeat may be one pixel.
            unknown = n is None and self.mode == "reflect"
            counts.append(1 + first + last if unknown else padding_copies(first, last, n, self.mode))
        return host.root_up(math.prod(counts))

    def linear_map(self, place: Place) -> LinearMap | None:
        """Each output is one input, or the value."""
        befores = place.sizes()
        if befores is None or math.isnan(self.value) or len(self.pads) > len(befores[0]):
            return None
        (before,) = befores
        pads = ((0, 0),) * (len(before) - len(self.pads)) + tuple(self.pads)
        # What a reflection, or one turn, can give.
        short = {"reflect": 1, "circular": 0, "replicate": -math.inf, "zeros": -math.inf}.get(self.mode, math.inf)
        fits = all(min(pair) >= 0 and max(pair) <= n - short for n, pair in zip(before, pads, strict=True))
        if not fits or not place.fits(tuple(n + sum(pair) for n, pair in zip(before, pads, strict=True))):
            return None
        numpy: Any = np

        def apply(x: Sequence[FloatArray]) -> FloatArray:
            return np.asarray(numpy.pad(x[0], ((0, 0), *pads), mode=_NUMPY[self.mode]))

        def offset() -> tuple[FloatArray, FloatArray]:
            return numpy.pad(np.zeros(before), pads, constant_values=self.value), np.zeros(())

        return LinearMap(apply, apply, 0, np.ones(()), offset if self.mode == "zeros" and self.value else None)
