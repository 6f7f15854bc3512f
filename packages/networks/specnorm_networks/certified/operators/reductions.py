"""Reductions along axes that are not linear: largest and smallest entry, 2-norm, softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from specnorm.proof import Interval, enclosing, host, point
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Known,
    Lengths,
    NotRunError,
    Place,
    Program,
    Shape,
    entries_along,
    lengths_at,
)
from specnorm_networks.certified.operators.moves import Identity, Reshape
from specnorm_networks.certified.operators.steep import ROUNDINGS_OF_EXP, Exp
from specnorm_networks.certified.operators.windows import WindowMaximum


class Length(Known):
    """A number in place of several, which changes no more than these: the 2-norm, the largest or smallest entry.

    | |x| - |y| | <= |x - y|, and |max x - max y| <= max |x - y| <= |x - y|.
    """

    rule = "length"
    lipschitz_constant = 1.0
    axes: tuple[int, ...]
    keep: bool = False
    """Whether the axes stay, with size 1."""


class _LargestOrSmallest(Length):
    """The largest or the smallest entry along axes."""

    is_monotone_and_exact = True
    join: ClassVar[np.ufunc]

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        if not entries_along(x.shape, self.axes):
            raise NotRunError("there is no largest of no entries")
        return np.asarray(self.join.reduce(x, axis=self.axes, keepdims=self.keep))

    def written_out(self, before: Sequence[Shape]) -> Program | None:
        (shape,) = before
        if not entries_along(shape, self.axes):
            return None
        program: Program = []
        for axis in self.axes:
            # One window along the axis, which contains all entries. It reads the value of the step before.
            window = np.arange(shape[axis], dtype=np.intp)[None]
            program.append((WindowMaximum(axis, window, self.join is np.minimum), (len(program),)))
        remaining_shape = tuple(n for axis, n in enumerate(shape) if axis not in self.axes)
        last = Identity() if self.keep else Reshape(remaining_shape)
        return [*program, (last, (len(program),))]


class Largest(_LargestOrSmallest):
    """The largest entry along axes."""

    join = np.maximum


class Smallest(_LargestOrSmallest):
    """The smallest entry along axes."""

    join = np.minimum


class Norm(Length):
    """The 2-norm along axes."""

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        sizes = abs(x)
        largest = sizes.max(axis=self.axes, keepdims=True, initial=0.0)
        largest = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        # Divided by a power of 2, which is exact, entries are at most 2, so that no square overflows.
        divisor = np.exp2(np.floor(np.log2(largest)))
        norm = np.sqrt(np.square(sizes / divisor).sum(axis=self.axes, keepdims=True)) * divisor
        return np.asarray(norm if self.keep else norm.squeeze(self.axes))

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval:
        (x,) = ranges
        norm_of_smallest = self.run(x.mignitude())
        norm_of_largest = self.run(x.magnitude())
        n = entries_along(x.low.shape, self.axes)
        # Roundings of a sum of n squares and its root; a square that underflows is below 2^-1000 of the largest.
        error = host.inflate(norm_of_smallest, n + 4) * ((2 * n + 16) * 2.0**-52)
        low = norm_of_smallest - error
        low = np.where(np.isnan(low), 0.0, np.maximum(low, 0.0))
        high = host.next_up(host.inflate(norm_of_largest, n + 8))
        return enclosing((low, np.where(norm_of_largest == 0, 0.0, high)))


class LogSumExp(Length):
    """``log(sum(exp(x)))`` along axes: its gradient is a softmax, of 2-norm at most 1."""

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        largest = x.max(axis=self.axes, keepdims=True, initial=-math.inf)
        base = np.where(np.isfinite(largest), largest, 0.0)
        with np.errstate(all="ignore"):
            total = base + np.log(np.exp(x - base).sum(axis=self.axes, keepdims=True))
        return np.asarray(total if self.keep else total.squeeze(self.axes))

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        return np.asarray(abs(result) + abs(values[0]).max(axis=self.axes, keepdims=self.keep, initial=0.0))

    def lipschitz(self, place: Place) -> float:
        """Return 1; in a region, the largest norm of that softmax there.

        Its entries are exp(x_i - log(sum(exp(x)))), at most exp(high_i - log(sum(exp(low)))).
        """
        ranges = place.ranges() if place.boxed else ()
        x = ranges[0] if ranges else None
        if x is None:
            return super().lipschitz(place)
        least_value = LogSumExp(self.axes, keep=True).image([x], place).low
        with np.errstate(all="ignore"):
            exponents = host.next_up(x.high - least_value)
            _, shares = Exp().between(exponents, exponents)
        shares = np.where(shares < 1, shares, 1.0)  # also where an end is infinite
        norms = Norm(self.axes).image([point(shares)], place).high
        return min(super().lipschitz(place), float(np.max(norms, initial=0.0)))

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval:
        """Return the values at both ends, as it rises with each entry."""
        (x,) = ranges
        n = entries_along(x.low.shape, self.axes)
        low, high = (self.run(end) for end in x.ends)
        # A difference d that is rounded changes exp(d) <= 1 by less than a rounding, and the sum is at least 1.
        roundings = (2 * n + 2 * ROUNDINGS_OF_EXP) * (1 + math.log(max(n, 1)))
        with np.errstate(all="ignore"):
            low = low - (roundings + abs(low)) * 2.0**-52
            high = high + (roundings + abs(high)) * 2.0**-52
        return enclosing((np.where(np.isfinite(low), low, -math.inf), np.where(np.isfinite(high), high, math.inf)))


class _Probabilities(Known):
    """Probabilities along axes, or their logarithms."""

    axes: tuple[int, ...]
    limits: ClassVar[tuple[float, float]]
    """Two numbers between which all entries lie."""

    @property
    def ordered_along(self) -> Shape | None:
        return self.axes

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval:
        (x,) = ranges
        low, high = self.limits
        return enclosing((np.full(x.shape, low), np.full(x.shape, high)))


class Softmax(_Probabilities):
    """Softmax over axes together (one axis; several in ONNX before operator set 13).

    The Jacobian diag(p) - p p^T is symmetric, and the absolute sum of its row i is 2 p_i (1 - p_i) (Gershgorin).
    """

    rule = "softmax"
    lipschitz_constant = 0.5
    limits = (0.0, 1.0)

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        return lengths_at(len(place.after or ()), self.axes, 1.0)

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        with np.errstate(all="ignore"):
            powers = np.exp(x - x.max(axis=self.axes, keepdims=True, initial=-math.inf))
            return np.asarray(powers / powers.sum(axis=self.axes, keepdims=True))


class LogSoftmax(_Probabilities):
    """Logarithm of `Softmax`: of norm sqrt(n) for n classes.

    The norm of the Jacobian I - 1 p^T is convex in p, so largest at a corner: (I - 1 e_1^T)(I - 1 e_1^T)^T is 0 on the
    first axis and I + 1 1^T on the n - 1 others, of norm n.
    """

    rule = "log_softmax"
    limits = (-math.inf, 0.0)

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        with np.errstate(all="ignore"):
            difference = x - x.max(axis=self.axes, keepdims=True, initial=-math.inf)
            return np.asarray(difference - np.log(np.exp(difference).sum(axis=self.axes, keepdims=True)))

    def size_of_terms(self, values: Sequence[FloatArray], result: FloatArray) -> FloatArray:
        return np.asarray(abs(result) + abs(values[0]).max(axis=self.axes, keepdims=True, initial=0.0))

    def lipschitz(self, place: Place) -> float:
        return host.root_up(max(entries_along(place.shape, self.axes), 1))
