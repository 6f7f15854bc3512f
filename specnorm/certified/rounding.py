"""Allowances for the rounding errors of array libraries, from the number of roundings.

Every rule in `specnorm.certified` takes its allowances from here; methods outside of it never inflate numbers.

Notation: u is the unit roundoff, gamma(n) = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms,
section 3.1). Inputs are scaled to about 1, so that underflow is far below every allowance. The factor `SLACK` covers
terms of second order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from specnorm import arrays
from specnorm.certified import host
from specnorm.errors import KernelError

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace

Rounds = Literal["nearest", "up", "down"]
SLACK = 1.001
"""Covers products of two rounding terms, each below 1e-3."""


def unit(x: Array, *, xp: Namespace) -> float:
    """Unit roundoff of an array's dtype: 2**-53 for float64 and complex128, else 2**-24."""
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
    """Return e such that a computed matrix product has ``|fl(A B) - A B| <= e |A| |B|``, entry by entry.

    For a Gram matrix ``H = fl(A* A)`` this gives ``||H - A* A|| <= e ||A||_F**2``. For real matrices e is gamma(n),
    with n the inner length. A complex entry is two real sums of 2 n products; by Cauchy and Schwarz on real and
    imaginary parts, each sum has an error of at most gamma(2 n) times the sum of |a| |b|, so e is sqrt(2) gamma(2 n).

    Parameters
    ----------
    length : int
        n: columns of A.
    x : array
        Any array of the product's dtype.
    """
    u = unit(x, xp=xp)
    return math.sqrt(2) * gamma(2 * length, u) if arrays.is_complex(x, xp=xp) else gamma(length, u)


def up(x: Array, n: int, *, xp: Namespace) -> Array:
    """Increase non-negative numbers by more than ``n`` roundings may have decreased them.

    Parameters
    ----------
    n : int
        At least the number of operations since the last allowance: one for each sum, product, quotient, root or
        conversion, and p for a sum of p terms. Numbers from rules that end in ``_up`` count as exact. Most calls give 2
        for one operation and 4 for two or three, since a larger number is always valid. The two roundings of this
        function, the factor's conversion and the product, are added.
    """
    return x * (1 + SLACK * gamma(n + 2, unit(x, xp=xp)))


def down(x: Array, n: int, *, xp: Namespace) -> Array:
    """Decrease non-negative numbers by more than ``n`` roundings may have increased them; n as for `up`."""
    return x * (1 - SLACK * gamma(n + 2, unit(x, xp=xp)))


def padded_up(value: Array, gain_sq: int, *, xp: Namespace) -> Array:
    """``sqrt(gain_sq) * value``, rounded up: bounds for padded layers from those of their symbols.

    See `specnorm.certified.layer.circulant.padded_norm`.
    """
    # The roundings: the root, its conversion to the dtype, and the product.
    return up(value * math.sqrt(gain_sq), 4, xp=xp)


def to_dtype(value: Array, dtype: Any, rounds: Rounds, *, xp: Namespace) -> Array:
    """Convert non-negative numbers to a dtype, rounded in the given direction: the last conversion of every answer.

    With "up" the result is no smaller, with "down" no larger than the exact number. A NumPy array is rounded to the
    nearest number on that side. For other arrays an allowance covers the rounding of the conversion, since compilers
    may remove a comparison with the number before it. Both cover the underflow of an unscaling by a power of two
    before. Zero, the norm of the zero kernel alone, stays zero. With "down", a number beyond the dtype's range becomes
    the largest finite number.
    """
    if rounds == "nearest":
        return xp.astype(value, dtype)
    if isinstance(value, (np.ndarray, np.generic)):
        return _rounded_on_host(np.asarray(value), dtype, rounds)
    converted = xp.astype(value, dtype)
    info = xp.finfo(dtype)
    eps, tiny, largest = float(info.eps), float(info.smallest_normal), float(info.max)
    if rounds == "up":
        return xp.where(value > 0, converted * (1 + 2 * eps) + tiny, converted)
    lowered = xp.minimum(converted, xp.full_like(converted, largest)) * (1 - 2 * eps) - tiny
    return xp.where(lowered > 0, lowered, xp.zeros_like(lowered))


def _rounded_on_host(value: np.ndarray, dtype: Any, rounds: Literal["up", "down"]) -> Any:
    """`to_dtype` of a NumPy array."""
    info = np.finfo(dtype)
    tiny: Any = info.smallest_normal
    # An unscaling rounds only if its result is subnormal, and then by less than the smallest normal number.
    may_have_underflowed = value < 2 * float(tiny)
    with np.errstate(over="ignore", under="ignore"):
        nearest = value.astype(dtype)
        if rounds == "up":
            above = np.where(nearest < value, host.next_up(nearest), nearest)
            return np.where(may_have_underflowed & (value > 0), above + tiny, above)
        below = np.minimum(np.where(nearest > value, host.next_down(nearest), nearest), info.max)
        return np.where(may_have_underflowed, np.maximum(below, tiny) - tiny, below)


def conversion_loss(dtype: Literal["float32", "float64"]) -> float:
    """The largest relative change of a normal number by `to_dtype`, rounded up."""
    return 4 * float(np.finfo(dtype).eps)
