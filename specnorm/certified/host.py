"""Outward arithmetic of the host's float64 numbers: each result lies on the named side of the exact one.

IEEE 754 rounds one operation to nearest, so its exact result lies between the neighbours of the computed one, underflow
included: the neighbour beyond is a bound. Sums of many terms are raised by gamma of their roundings instead. The host's
sine and cosine are taken to be good to four units in the last place.

Numbers are floats, or float64 arrays of NumPy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

if TYPE_CHECKING:
    from fractions import Fraction

Real = TypeVar("Real", float, "np.ndarray")


def next_up(x: Real) -> Real:
    """Next number towards infinity."""
    number: Any = x
    beyond: Any = math.nextafter(number, math.inf) if isinstance(number, float) else np.nextafter(number, math.inf)
    of_its_type: Real = beyond
    return of_its_type


def next_down(x: Real) -> Real:
    """Next number towards minus infinity."""
    number: Any = x
    beyond: Any = math.nextafter(number, -math.inf) if isinstance(number, float) else np.nextafter(number, -math.inf)
    of_its_type: Real = beyond
    return of_its_type


def inflate(x: Real, roundings: int) -> Real:
    """A non-negative number computed with so many relative roundings, never below the exact one.

    ``x >= exact (1 - u)**n``, and ``(1 - (n + 1) u)(1 + (2 n + 4) u) >= 1`` for n < 2**25: the product here is counted.
    The factor is exact. For normal numbers and 0.
    """
    return x * (1 + (roundings + 2) * 2.0**-52)


def lowered(x: Real, roundings: int) -> Real:
    """A non-negative number computed with so many relative roundings, never above the exact one; as `raised`."""
    return x * (1 - (roundings + 2) * 2.0**-52)


def mul_up(*factors: float) -> float:
    """Product of non-negative floats, never below the exact one; 0 if a factor is 0, exact if all others are 1.

    0 times infinity is 0; NaN if a factor is.
    """
    if 0 in factors:
        return math.nan if any(map(math.isnan, factors)) else 0.0
    product = 1.0
    for factor in factors:
        if product == 1:
            product = factor
        elif factor != 1:
            product = next_up(product * factor)
    return product


def add_up(*terms: float) -> float:
    """Sum of non-negative floats, never below the exact one; exact if all terms but one are 0."""
    total = 0.0
    for term in terms:
        if total == 0:
            total = term
        elif term != 0:
            total = next_up(total + term)
    return total


def mul_down(a: Real, b: Real | float) -> Real:
    """Product of non-negative numbers, never above the exact one."""
    product: Real = a * b
    return next_down(product)


def sub_down(a: Real, b: Real | float) -> Real:
    """Difference, never above the exact one."""
    difference: Real = a - b
    return next_down(difference)


def div_up(a: float, b: float) -> float:
    """Quotient, never below the exact one."""
    return next_up(a / b)


def div_down(a: float, b: float) -> float:
    """Quotient, never above the exact one."""
    return next_down(a / b)


def sqrt_up(x: float) -> float:
    """Root of a non-negative float, never below the exact one; 0 of 0, NaN of NaN."""
    return 0.0 if x <= 0 else next_up(math.sqrt(x))


def sqrt_down(x: float) -> float:
    """Root of a non-negative float, never above the exact one; 0 of 0, NaN of NaN."""
    return 0.0 if x <= 0 else next_down(math.sqrt(x))


def cos_down(angle: Real) -> Real:
    """Cosine of angles between 0 and pi/2, rounded up themselves, from below: it falls there.

    Four units in the last place are at most 2**-50 of the value.
    """
    cosine: Real = np.cos(angle) * (1 - 2.0**-50)
    return next_down(cosine)


def sin_up(angle: Real) -> Real:
    """Sine of angles between 0 and pi/2, rounded up themselves, from above: it rises there."""
    sine: Real = np.sin(angle) * (1 + 2.0**-49)
    return next_up(sine)


def hypot_up(*terms: float) -> float:
    """Root of a sum of squares of floats, never below the exact one; `math.hypot` is within one unit."""
    nonzero = [term for term in terms if term]
    if not nonzero:
        return 0.0
    if len(nonzero) == 1:
        return abs(nonzero[0])
    return next_up(math.hypot(*nonzero) * (1 + 2.0**-51))


def norm_up(x: np.ndarray) -> np.ndarray:
    """2-norms along the last axis of a float64 array, never below the exact ones; 0 of zeros, NaN of NaN.

    Each vector is divided by a power of two first, so that its largest entry lies between 1/2 and 1: squares do not
    overflow, and those that vanish are less than ``2**-1021`` each of a sum of at least 1/4. With n squares rounded and
    added in any order, and a root, that is less than one rounding more than ``n / 2 + 1``. Only a result below the
    normal numbers is rounded again: by less than a neighbour.
    """
    n = x.shape[-1]
    largest = np.max(np.abs(x), axis=-1, initial=0.0, keepdims=True)
    exponent = np.where(np.isfinite(largest), np.frexp(largest)[1], 0)
    with np.errstate(over="ignore", under="ignore"):
        scaled_norm = np.sqrt(np.sum(np.square(np.ldexp(x, -exponent)), axis=-1))
        norm = np.ldexp(inflate(scaled_norm, n + 2), exponent[..., 0])
    return np.where(scaled_norm == 0, 0.0, next_up(norm))


def root_up(x: Fraction | int) -> float:
    """Root of a non-negative rational number, rounded up to a float; checked in rational numbers.

    Of a number between 1/4 and 4, times a power of two: there the computed root is off by a unit or two, while squares
    of floats vanish or overflow where their roots do not.
    """
    from fractions import Fraction  # here, since importing it takes milliseconds

    exact = Fraction(x)
    exponent = (exact.numerator.bit_length() - exact.denominator.bit_length()) // 2
    scaled = exact / Fraction(4) ** exponent
    y = math.sqrt(scaled)
    while Fraction(y) ** 2 < scaled:
        y = next_up(y)
    try:
        root = math.ldexp(y, exponent)
    except OverflowError:
        return math.inf
    # Below the normal numbers, the power of two rounds.
    is_above = Fraction(root) >= Fraction(y) * Fraction(2) ** exponent
    return root if is_above else next_up(root)


def float_up(x: Fraction) -> float:
    """A float that is not below a rational number, nor more than one unit above."""
    from fractions import Fraction

    y = float(x)
    return y if Fraction(y) >= x else next_up(y)


def representable(x: float, dtype: type[np.floating], rounds: Literal["up", "down"]) -> float:
    """The next number of a precision in a direction; among positive ones, a normal number or 0. NaN stays NaN."""
    with np.errstate(over="ignore"):
        y = dtype(x)
    if (rounds == "up" and float(y) < x) or (rounds == "down" and float(y) > x):
        y = np.nextafter(y, dtype(math.inf if rounds == "up" else -math.inf))
    tiny = float(np.finfo(dtype).smallest_normal)
    if 0 < x < tiny:
        return tiny if rounds == "up" else 0.0
    return float(y)


def float32_up(x: np.ndarray) -> np.ndarray:
    """Single-precision numbers that are not below some numbers."""
    y = x.astype(np.float32)
    return np.where(y < x, np.nextafter(y, np.float32(math.inf)), y)


def float32_down(x: np.ndarray) -> np.ndarray:
    """Single-precision numbers below some numbers: the conversion is to nearest, so the neighbour below is."""
    return np.nextafter(x.astype(np.float32), np.float32(-math.inf))
