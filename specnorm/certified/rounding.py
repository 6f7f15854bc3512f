"""Roundings of array libraries, counted. Every 'upper' or 'lower' is made in this package; no method inflates by hand.

Notation: u is the unit roundoff, gamma(n) = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms,
section 3.1). Inputs are scaled to about 1, so underflow stays below every allowance. Second-order terms are covered by
the factor `SLACK`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

from specnorm import arrays
from specnorm.errors import KernelError

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace

Rounds = Literal["nearest", "up", "down"]
SLACK = 1.001
"""Covers products of two rounding terms, each below 1e-3."""


def unit(x: Array, *, xp: Namespace) -> float:
    """Unit roundoff of an array's precision: 2**-53 or 2**-24."""
    return 2.0**-53 if x.dtype in (xp.float64, xp.complex128) else 2.0**-24


def gamma(n: int, u: float) -> float:
    """Return n u / (1 - n u): the relative error of n accumulated roundings."""
    if n * u >= 0.5:
        raise KernelError(
            f"the kernel is too large to bound in {'float64' if u == 2.0**-53 else 'float32'}: {n} roundings leave no "
            "valid error bound. Compute in float64 (JAX: enable 64-bit values)."
        )
    return n * u / (1 - n * u)


def product_error(length: int, x: Array, *, xp: Namespace) -> float:
    """Componentwise relative error of a matrix product of the given inner length: |fl(AB) - AB| <= this * |A||B|.

    A complex entry is two real sums of 2 n products, each off by at most gamma(2 n) times the sum of |a||b| (Cauchy and
    Schwarz on real and imaginary parts), both together by sqrt(2) gamma(2 n). For ``H = fl(A* A)`` this gives
    ``||H - A* A|| <= e ||A||_F**2``.
    """
    u = unit(x, xp=xp)
    return math.sqrt(2) * gamma(2 * length, u) if arrays.is_complex(x, xp=xp) else gamma(length, u)


def up(x: Array, n: int, *, xp: Namespace) -> Array:
    """Increase non-negative numbers by more than ``n`` roundings."""
    return x * (1 + SLACK * gamma(n + 2, unit(x, xp=xp)))


def down(x: Array, n: int, *, xp: Namespace) -> Array:
    """Decrease non-negative numbers by more than ``n`` roundings."""
    return x * (1 - SLACK * gamma(n + 2, unit(x, xp=xp)))


def padded_up(value: Array, gain_sq: int, *, xp: Namespace) -> Array:
    """Bounds of padded layers' norms from those of their symbols (`every_size.padded_norm`), rounded up."""
    return up(value * math.sqrt(gain_sq), 4, xp=xp)


def to_dtype(value: Array, dtype: Any, rounds: Rounds, *, xp: Namespace) -> Array:
    """Convert to the result's dtype in the safe direction.

    Unscaling by a power of two is exact but for underflow, and the conversion rounds to nearest once; zero (only the
    zero kernel has it) stays zero. A lower value that leaves the range ends at the largest finite number.
    """
    converted = xp.astype(value, dtype)
    if rounds == "nearest":
        return converted
    info = xp.finfo(dtype)
    eps, tiny, largest = float(info.eps), float(info.smallest_normal), float(info.max)
    if rounds == "up":
        return xp.where(value > 0, converted * (1 + 2 * eps) + tiny, converted)
    lowered = xp.minimum(converted, xp.full_like(converted, largest)) * (1 - 2 * eps) - tiny
    return xp.where(lowered > 0, lowered, xp.zeros_like(lowered))
