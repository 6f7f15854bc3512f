"""How an operator is executed in another precision than real arithmetic: what is stored, and what is rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format with gradual underflow, rounded to nearest."""

    name: str
    digits: int
    """Of the significand."""
    smallest: float
    normal: float
    largest: float
    """The smallest positive number, the smallest normal one, and the largest finite one."""

    @property
    def unit(self) -> float:
        """Unit roundoff."""
        return 2.0**-self.digits

    def stored(self, x: FloatArray) -> FloatArray:
        """Numbers of float64 rounded to nearest, ties to even; infinite where they overflow."""
        exponent = np.frexp(np.where(np.isfinite(x), x, 0.0))[1]
        # Powers of two: the quotient and the product are exact.
        quantum = np.maximum(np.ldexp(1.0, exponent - self.digits), self.smallest)
        with np.errstate(all="ignore"):
            found = np.rint(x / quantum) * quantum
        return np.where(abs(found) <= self.largest, found, np.copysign(np.inf, x))

    def holds(self, x: FloatArray | float) -> bool:
        """Whether numbers are of this format; infinite ones are."""
        wide = np.asarray(x, dtype=np.float64)
        return bool((self.stored(wide) == wide).all())

    def scales(self, x: FloatArray) -> bool:
        """Whether numbers and their inverses are 0 or stored with a small relative error."""
        size = abs(x[x != 0])
        return bool(np.isfinite(x).all() and ((size >= 2 * self.normal) & (size <= 0.5 / self.normal)).all())


DOUBLE = Format("float64", 53, 2.0**-1074, 2.0**-1022, float(np.finfo(np.float64).max))
SINGLE = Format("float32", 24, 2.0**-149, 2.0**-126, (2 - 2.0**-23) * 2.0**127)
HALF = Format("float16", 11, 2.0**-24, 2.0**-14, 65504.0)
BRAIN = Format("bfloat16", 8, 2.0**-133, 2.0**-126, (2 - 2.0**-7) * 2.0**127)
UNITS = {each.name: each.unit for each in (DOUBLE, SINGLE, HALF, BRAIN)}
"""Unit roundoffs; TensorFloat-32 has that of float16."""


def smallest(unit: float) -> float:
    """The smallest number above 0 of an arithmetic: what underflow may take from a product."""
    return {each.unit: each.smallest for each in (DOUBLE, HALF, BRAIN)}.get(unit, SINGLE.smallest)


@dataclass(frozen=True, eq=False)
class Executed:
    """What is computed in place of ``A x + b``, or of a function that rounds its value alone.

    The sum is off by at most ``gamma(sums) (|A'| |x| + |b'|)``, A' and b' as they are stored, in the precision that
    sums are made in and in any order, with or without fused products; then the value is rounded ``stores`` times in
    the precision of what is stored. Neither: it is exact.
    """

    sums: int = 0
    stores: int = 0
    stored: Any = None
    """With A' and b'; None: constants are stored as they are."""
    change: Any = None
    """Their differences to A and b; None: none."""
    growth: float = 1.0
    """How much larger than ``|A'| |x|`` and than the value what is computed on the way may be."""
    narrow: bool = False
    """Sums are made in the precision of what is stored, or in a wider one."""

    @property
    def exact(self) -> bool:
        """Whether nothing is rounded."""
        return not (self.sums or self.stores or self.change)


EXACT = Executed()
"""Each entry of the value is one of the inputs', or one's negative, or 0."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of batch normalisation at inference: m, v, w, b, one number a channel, and the number added to v.

    With ``s = 1 / sqrt(v + eps)`` and ``a = w s``, what is computed is ``x a + (b - m a)`` or ``(x - m) s w + b``, its
    products in any order, s a quotient or the inverse root to two units in the last place, every constant stored and
    every operation rounded. Relative errors of the three terms, in units: v, eps, sum, root and inverse of s 6; w and
    the product 2; m, its product and two sums 4; storage 1. No product that underflows is off by more than the smallest
    number, before at most one product with w, s or a.
    """

    mean: FloatArray
    variance: FloatArray
    scale: FloatArray
    bias: FloatArray
    eps: float

    def terms(self) -> FloatArray:
        """Sizes of the two terms that make what is added, ``|b| + |m a|``, however much of them cancels."""
        return np.asarray(abs(self.bias) + abs(self.mean * self.scale / np.sqrt(self.variance + self.eps)))

    def executed(self, format: Format) -> tuple[int, FloatArray, float] | None:
        """Roundings, what they refer to besides ``|a| |x|``, and the growth; None for constants beyond the format."""
        under = self.variance + self.eps
        with np.errstate(all="ignore"):
            inverse = 1 / np.sqrt(under)
            slopes = self.scale * inverse
        sizes = [self.scale, inverse, slopes]
        # A scale of 0 leaves no bound of what it is multiplied with.
        if not all(format.scales(each) and each.all() for each in sizes) or not (self.variance >= 0).all():
            return None
        if not all((abs(each) < format.largest / 4).all() for each in (self.mean, self.bias, under)):
            return None
        lost = np.ceil(format.smallest / format.unit / float(under.min(initial=1.0)))
        tiny = (1 + sum(abs(each) for each in sizes)) * format.normal
        around: FloatArray = self.terms() * (1 + 2.0**-40) + tiny
        growth = max(1.0, *(1.01 / float(abs(each).min(initial=1.0)) for each in sizes))
        return 16 + int(lost), around, growth


def means(count: int) -> Executed:
    """Means of so many numbers: a sum that is stored, and a quotient, or a product with an inverse, that is."""
    return Executed(count + 2, 2, growth=float(count))
