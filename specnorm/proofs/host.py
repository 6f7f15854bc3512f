"""Outward-rounded float64 arithmetic on the host: ``..._up`` is never below, ``..._down`` never above the exact result.

Numbers are Python floats, or float64 arrays of NumPy.

IEEE 754 rounds one operation to nearest, so the exact result lies between the neighbours of the computed one, also
where it underflows. So the next float in the wanted direction is a bound. Results of many roundings are raised by a
relative allowance instead (`inflate`). The sine and cosine of NumPy are assumed to be accurate to four units in the
last place.
"""

from __future__ import annotations

import math
import sys
from fractions import Fraction
from typing import Any, Literal, TypeVar

import numpy as np

Real = TypeVar("Real", float, "np.ndarray")


def next_up(x: Real) -> Real:
    """Return the next float towards infinity."""
    number: Any = x
    neighbour: Any = math.nextafter(number, math.inf) if isinstance(number, float) else np.nextafter(number, math.inf)
    result: Real = neighbour
    return result


def next_down(x: Real) -> Real:
    """Return the next float towards minus infinity."""
    number: Any = x
    neighbour: Any = math.nextafter(number, -math.inf) if isinstance(number, float) else np.nextafter(number, -math.inf)
    result: Real = neighbour
    return result


def inflate(x: Real, roundings: int) -> Real:
    """Raise a non-negative number that was computed with n = ``roundings`` roundings, never below the exact one.

    With u = 2**-53, ``x >= exact * (1 - u)**n``, and ``(1 - (n + 1) u)(1 + (2 n + 4) u) >= 1`` for n < 2**25, where the
    rounding of the product in this function is the (n + 1)-st. The factor is exact. Valid for normal numbers and 0.
    """
    return x * (1 + (roundings + 2) * 2.0**-52)


def lowered(x: Real, roundings: int) -> Real:
    """Lower a non-negative number that was computed with so many roundings, never above the exact one (`inflate`)."""
    return x * (1 - (roundings + 2) * 2.0**-52)


def mul_up(*factors: float) -> float:
    """Product of non-negative floats, never below the exact one.

    It is exact if all factors but one are 1, 0 if a factor is 0 (also 0 times infinity), and NaN if a factor is NaN.
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
    """Square root of a non-negative float, never below the exact one. The root of 0 is 0, of NaN NaN."""
    return 0.0 if x <= 0 else next_up(math.sqrt(x))


def sqrt_down(x: float) -> float:
    """Square root of a non-negative float, never above the exact one. The root of 0 is 0, of NaN NaN."""
    return 0.0 if x <= 0 else next_down(math.sqrt(x))


def cos_down(angle: Real) -> Real:
    """Lower bound of the cosine of an angle in [0, pi/2], given an upper bound of the angle; the cosine decreases.

    NumPy's error of four units in the last place is at most 2**-50 of the value.
    """
    cosine: Real = np.cos(angle) * (1 - 2.0**-50)
    return next_down(cosine)


def sin_up(angle: Real) -> Real:
    """Upper bound of the sine of an angle in [0, pi/2], given an upper bound of the angle; the sine increases."""
    sine: Real = np.sin(angle) * (1 + 2.0**-49)
    return next_up(sine)


def hypot_up(*terms: float) -> float:
    """Root of the sum of squares, never below the exact one; `math.hypot` is good to a unit in the last place."""
    nonzero = [term for term in terms if term]
    if not nonzero:
        return 0.0
    if len(nonzero) == 1:
        return abs(nonzero[0])
    return next_up(math.hypot(*nonzero) * (1 + 2.0**-51))


def norm_up(x: np.ndarray) -> np.ndarray:
    """2-norms along the last axis of a float64 array, never below the exact ones; 0 for zeros, NaN for NaN.

    Each vector is divided by a power of two, so that its largest entry lies between 1/2 and 1. Then squares do not
    overflow, and each square that underflows loses less than ``2**-1021`` of a sum of at least 1/4. The squares, their
    sum in any order and its root make less than ``n / 2 + 2`` relative roundings. The multiplication by the power of
    two rounds only if the result is subnormal, by less than the distance to the next float.
    """
    n = x.shape[-1]
    largest = np.max(np.abs(x), axis=-1, initial=0.0, keepdims=True)
    exponent = np.where(np.isfinite(largest), np.frexp(largest)[1], 0)
    with np.errstate(over="ignore", under="ignore"):
        scaled_norm = np.sqrt(np.sum(np.square(np.ldexp(x, -exponent)), axis=-1))
        norm = np.ldexp(inflate(scaled_norm, n + 2), exponent[..., 0])
    return np.where(scaled_norm == 0, 0.0, next_up(norm))


def root_up(x: Fraction | int) -> float:
    """Square root of a non-negative rational number, rounded up to a float; checked in rational arithmetic.

    The number is first divided by a power of four, so that it lies between 1/4 and 4: its floating-point root is then
    accurate to a unit or two in the last place, whereas the number itself may overflow or underflow as a float.
    """
    exact = Fraction(x)
    exponent = (exact.numerator.bit_length() - exact.denominator.bit_length()) // 2
    scaled = exact / Fraction(4) ** exponent
    scaled_root = math.sqrt(scaled)
    while Fraction(scaled_root) ** 2 < scaled:
        scaled_root = next_up(scaled_root)
    try:
        root = math.ldexp(scaled_root, exponent)
    except OverflowError:
        return math.inf
    # `ldexp` rounds if the result is subnormal.
    is_above = Fraction(root) >= Fraction(scaled_root) * Fraction(2) ** exponent
    return root if is_above else next_up(root)


def float_up(x: Fraction) -> float:
    """The smallest or second smallest float that is not below a rational number."""
    y = float(x)
    return y if Fraction(y) >= x else next_up(y)


def representable(x: float, dtype: type[np.floating], rounds: Literal["up", "down"]) -> float:
    """Round a float up or down to a number of the given dtype; a positive result is a normal number. NaN stays NaN."""
    smallest_normal = float(np.finfo(dtype).smallest_normal)
    if 0 < x < smallest_normal:
        return smallest_normal if rounds == "up" else 0.0
    with np.errstate(over="ignore"):
        nearest = dtype(x)
    if rounds == "up" and float(nearest) < x:
        return float(np.nextafter(nearest, dtype(math.inf)))
    if rounds == "down" and float(nearest) > x:
        return float(np.nextafter(nearest, dtype(-math.inf)))
    return float(nearest)


def float32_up(x: np.ndarray) -> np.ndarray:
    """Round float64 numbers to float32, never below them."""
    y = x.astype(np.float32)
    return np.where(y < x, np.nextafter(y, np.float32(math.inf)), y)


def float32_down(x: np.ndarray) -> np.ndarray:
    """Round float64 numbers to float32 numbers below them: the neighbours below the nearest ones."""
    return np.nextafter(x.astype(np.float32), np.float32(-math.inf))


def scaled_up(value: float, exponent: int) -> float:
    """Return ``value * 2**exponent``, rounded up if the result is a subnormal number; exact otherwise."""
    scaled = _scaled(value, exponent)
    return next_up(scaled) if _scaled(scaled, -exponent) < value else scaled


def scaled_down(value: float, exponent: int) -> float:
    """Return ``value * 2**exponent``, rounded down if the result is subnormal or overflows; exact otherwise."""
    scaled = min(_scaled(value, exponent), sys.float_info.max)
    return max(next_down(scaled), 0.0) if _scaled(scaled, -exponent) > value else scaled


def _scaled(value: float, exponent: int) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(value, exponent))
