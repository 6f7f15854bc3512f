"""Reductions along axes that are not linear: largest and smallest entry, 2-norm, softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from specnorm.proof import Interval, enclosing, host
from specnorm_networks.certified.operators.base import (
    FloatArray,
    NoBoundError,
    NotRunError,
    Operator,
    Place,
    Program,
    Sizes,
)
from specnorm_networks.certified.operators.formats import smallest
from specnorm_networks.certified.operators.moves import Identity, Reshape
from specnorm_networks.certified.operators.windows import Along


class Length(Operator):
    """A number for many, which moves no further than they do: the 2-norm along axes, the largest or smallest entry.

    | |x| - |y| | <= |x - y|, and |max x - max y| <= max |x - y| <= |x - y|.
    """

    rule = "length"
    lipschitz_constant = 1.0
    axes: tuple[int, ...]
    keep: bool = False


class _End(Length):
    """The largest or the smallest entry along axes."""

    rises = True
    join: ClassVar[np.ufunc]

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        if not _count(x.shape, self.axes):
            raise NotRunError("there is no largest of no entries")
        return np.asarray(self.join.reduce(x, axis=self.axes, keepdims=self.keep))

    def written_out(self, before: Sequence[Sizes]) -> Program | None:
        (shape,) = before
        if not _count(shape, self.axes):
            return None
        whole = [np.arange(shape[axis], dtype=np.intp)[None] for axis in self.axes]
        steps = [Along(axis, each, self.join is np.minimum) for axis, each in zip(self.axes, whole, strict=True)]
        left = tuple(n for axis, n in enumerate(shape) if axis not in self.axes)
        last = Identity() if self.keep else Reshape(left)
        return [*((step, (at,)) for at, step in enumerate(steps)), (last, (len(steps),))]


class Largest(_End):
    """The largest entry along axes."""

    join = np.maximum


class Smallest(_End):
    """The smallest entry along axes."""

    join = np.minimum


class Norm(Length):
    """The 2-norm along axes."""

    def run(self, *values: FloatArray) -> FloatArray:
        # Of numbers that are at most 1, so that no square overflows.
        (x,) = values
        sizes = abs(x)
        largest = sizes.max(axis=self.axes, keepdims=True, initial=0.0)
        unit = np.where((largest > 0) & np.isfinite(largest), largest, 1.0)
        # A power of 2: the quotients are exact.
        unit = np.exp2(np.floor(np.log2(unit)))
        found = np.sqrt(np.square(sizes / unit).sum(axis=self.axes, keepdims=True)) * unit
        return np.asarray(found if self.keep else found.squeeze(self.axes))

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval:
        # Norms of the smallest and of the largest absolute values.
        (x,) = ranges
        low = self.run(x.mignitude())
        high = self.run(x.magnitude())
        n = _count(x.low.shape, self.axes)
        # A sum of n squares and its root; a square that vanishes is below 2^-1000 of the largest.
        down = low - host.inflate(low, n + 4) * ((2 * n + 16) * 2.0**-52)
        down = np.where(np.isnan(down), 0.0, np.maximum(down, 0.0))
        return enclosing((down, np.where(high == 0, 0.0, host.next_up(host.inflate(high, n + 8)))))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # A sum of n squares, in any order, which may underflow, and its root.
        n = _count(values[0].shape, self.axes)
        return np.asarray((n + 4) * unit * abs(result) + math.sqrt(n * smallest(unit)))


class _Probabilities(Operator):
    axes: tuple[int, ...]
    limits: ClassVar[tuple[float, float]]
    """Between which all entries lie."""

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval:
        (x,) = ranges
        low, high = (np.full(x.shape, end) for end in self.limits)
        return enclosing((low, high))

    def units(self, x: FloatArray) -> FloatArray:
        """Relative roundings: terms of the sum, elementary functions, and the range of its arguments.

        A difference from the maximum, of relative error u, makes the exponential's as large as the difference is.
        """
        most = x.max(axis=self.axes, keepdims=True, initial=-math.inf)
        apart = most - x.min(axis=self.axes, keepdims=True, initial=math.inf)
        return np.asarray(_count(x.shape, self.axes) + 16 + apart)


class Softmax(_Probabilities):
    """Softmax over axes together (one axis; several in ONNX before operator set 13).

    The Jacobian diag(p) - p p^T is symmetric, and the absolute sum of its row i is 2 p_i (1 - p_i) (Gershgorin).
    """

    rule = "softmax"
    lipschitz_constant = 0.5
    limits = (0.0, 1.0)

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        with np.errstate(all="ignore"):
            powers = np.exp(x - x.max(axis=self.axes, keepdims=True, initial=-math.inf))
            return np.asarray(powers / powers.sum(axis=self.axes, keepdims=True))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        return np.asarray(2 * self.units(values[0]) * (unit * abs(result) + smallest(unit)))


class LogSoftmax(_Probabilities):
    """Its logarithm: of norm sqrt(n) for n classes.

    The norm of the Jacobian I - 1 p^T is convex in p, so largest at a corner: (I - 1 e_1^T)(I - 1 e_1^T)^T is 0 on the
    first axis and I + 1 1^T on the n - 1 others, of norm n.
    """

    rule = "log_softmax"
    limits = (-math.inf, 0.0)

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        with np.errstate(all="ignore"):
            less = x - x.max(axis=self.axes, keepdims=True, initial=-math.inf)
            return np.asarray(less - np.log(np.exp(less).sum(axis=self.axes, keepdims=True)))

    def lipschitz(self, place: Place) -> float:
        (before,) = place.before
        if before is None:
            raise NoBoundError("the number of classes is not known: give the input shape")
        return host.root_up(max(math.prod(before[axis] for axis in self.axes), 1))

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # The logarithm has the relative error of its sum; differences add those of their terms. Of a probability p that
        # underflows to another number, by twice the smallest at most, it is off by four times log(1 + 2 smallest / p).
        underflow = 4 * np.logaddexp(0.0, math.log(2 * smallest(unit)) - result)
        return np.asarray(2 * unit * (self.units(values[0]) + abs(result)) + underflow)


def _count(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(shape[axis] for axis in axes)
