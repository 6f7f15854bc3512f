"""Sorting, and what else moves no two vectors apart.

Alone, the larger and the smaller of two pieces have each the norm of both, and together root of two times that. But
sorting moves no two vectors further apart, so the pair of them has norm 1 (MaxMin, GroupSort, full sort). So has the
pair of positive and negative part. A choice between two linear maps by the sign of a third, where both agree when that
is 0, has the larger one's norm (Householder activations).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from specnorm.proof import Interval, enclosing, host
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError, NotRunError, Operator, Place

JUMP = 2.0**-20
"""Some roundings in single precision."""


class Sorted(Operator):
    """Entries in order: |sort(x) - sort(y)| <= |x - y| (rearrangement inequality); the k-th rises with each of them."""

    rule = "select"
    lipschitz_constant = 1.0
    rises = True


class Sort(Sorted):
    """Sort along an axis; ``first``: only so many of them, in order."""

    axis: int
    descending: bool = False
    first: int | None = None

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        found = _in_order(x, self.axis, self.descending)
        return found if self.first is None else np.take(found, np.arange(self.first), self.axis)


class GroupSort(Sorted):
    """Sort within groups of so many entries along an axis."""

    axis: int
    size: int
    layout: Literal["consecutive", "strided"]
    """"consecutive": entries g*size .. g*size + size - 1 are group g; "strided": entries g, g + n/size, ... are."""
    descending: bool = False

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        n = x.shape[self.axis]
        if self.size < 1 or n % self.size:
            raise NotRunError(f"{n} entries are no groups of {self.size}")
        within = self.layout == "consecutive"
        split = (n // self.size, self.size) if within else (self.size, n // self.size)
        groups = x.reshape(*x.shape[: self.axis], *split, *x.shape[self.axis + 1 :])
        return _in_order(groups, self.axis + within, self.descending).reshape(x.shape)


def _in_order(x: FloatArray, axis: int, descending: bool) -> FloatArray:
    found = np.sort(x, axis)
    return np.flip(found, axis) if descending else found


class SignParts(Operator):
    """``relu(x)`` and ``relu(-x)`` one behind the other along an axis (``negative_first``: the other way).

    Norm 1: where x and y have one sign, one of both parts moves; else |x - y| = |x| + |y|.
    """

    rule = "select"
    lipschitz_constant = 1.0
    axis: int
    negative_first: bool = False

    def run(self, *values: FloatArray) -> FloatArray:
        (x,) = values
        return self._joined(np.maximum(x, 0.0), np.maximum(-x, 0.0))

    def image(self, ranges: Sequence[Interval], place: Place) -> Interval:
        # The negative part falls.
        (x,) = ranges
        low = np.maximum(x.low, 0.0)
        high = np.maximum(x.high, 0.0)
        return enclosing((self._joined(low, np.maximum(-x.high, 0.0)), self._joined(high, np.maximum(-x.low, 0.0))))

    def _joined(self, positive: FloatArray, negative: FloatArray) -> FloatArray:
        parts = (negative, positive) if self.negative_first else (positive, negative)
        return np.concatenate(parts, self.axis)


class Reflection(Operator):
    """A choice between two linear maps of pairs by the sign of a third, which agree where that is 0.

    The pair at channel c is (x[c], x[c + n/2]) along an axis. Householder activations are such. The choice is
    continuous, and linear on either side; a segment crosses the border once. Both maps may differ there by a `jump` of
    at most `JUMP`, which is not counted.
    """

    rule = "reflect"
    axis: int
    sign: FloatArray
    """What is compared with 0: ``sign[0] * first + sign[1] * second``; shape (2, channels of a half)."""
    below: FloatArray
    """Rows of the map where that is not above 0: ``first' = m[0, 0] first + m[0, 1] second``; shape (2, 2, ...)."""
    above: FloatArray
    """And where it is."""

    @property
    def jump(self) -> float:
        """By how much both maps differ where the sign is 0, over a vector's length and the larger map's norm."""
        a = self.below.transpose(2, 0, 1)
        b = self.above.transpose(2, 0, 1)
        border = np.array([self.sign[1], -self.sign[0]]).T
        length = np.linalg.norm(border, axis=1)
        largest = float(max(np.max(np.linalg.norm(m, axis=(1, 2))) for m in (a, b)))
        if not (0 < length.min() <= length.max() < np.inf and 1e-100 < largest < 1e100):
            return math.inf
        return float(np.max(np.linalg.norm(np.einsum("kij,kj->ki", a - b, border / length[:, None]), axis=1))) / largest

    @property
    def norm(self) -> float | None:
        """Of the larger map, rounded up; None where they differ on the border by more than rounding."""
        if not self.jump <= JUMP:
            return None
        # ||M||^2 = (t + root of (t^2 - 4 d^2)) / 2, t the sum of squares and d the determinant.
        worst = 0.0
        for (p, q), (r, s) in np.concatenate([self.below.transpose(2, 0, 1), self.above.transpose(2, 0, 1)]):
            apart = np.hypot(p - s, q + r) * np.hypot(p + s, q - r)
            worst = max(worst, float((p * p + q * q + r * r + s * s + apart) / 2))
        return host.root_up(Fraction(host.inflate(worst, 64)))

    def run(self, *values: FloatArray) -> FloatArray:
        sign, below, above = self._parts(*self._pair(*values))
        return np.where(np.concatenate([sign, sign], self.axis) > 0, above, below)

    def lipschitz(self, place: Place) -> float:
        norm = self.norm
        if norm is None:
            raise NoBoundError("its two maps differ where its sign is 0: it jumps")
        return norm

    def rounding(
        self,
        values: Sequence[FloatArray],
        result: FloatArray,
        unit: float,
    ) -> FloatArray | float:
        # A sum of two products whose factors are rounded; next to the border either map may be chosen.
        pair = self._pair(*values)
        sizes = tuple(abs(part) for part in pair)
        absolute = Reflection(self.axis, abs(self.sign), abs(self.below), abs(self.above))
        signs, belows, aboves = absolute._parts(*sizes)
        sign, below, above = self._parts(*pair)
        beside = abs(sign) <= 16 * unit * signs
        apart = np.where(np.concatenate([beside, beside], self.axis), abs(above - below), 0.0)
        return 16 * unit * np.maximum(aboves, belows) + apart

    def _pair(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        n = x.shape[self.axis]
        if n != 2 * self.sign.shape[1]:
            raise NotRunError(f"{n} channels are no pairs of {self.sign.shape[1]}")
        first, second = np.split(x, 2, self.axis)
        return first, second

    def _parts(
        self,
        first: FloatArray,
        second: FloatArray,
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What is compared with 0, and both maps' values."""
        shape = [1] * first.ndim
        shape[self.axis] = -1

        def mixed(row: FloatArray) -> FloatArray:
            return np.asarray(row[0].reshape(shape) * first + row[1].reshape(shape) * second)

        below, above = (np.concatenate([mixed(row) for row in m], self.axis) for m in (self.below, self.above))
        return mixed(self.sign), below, above
