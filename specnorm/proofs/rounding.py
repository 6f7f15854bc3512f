"""Allowances for the rounding errors of array libraries, from the number of roundings.

Every rule takes its allowances from here; nothing outside of proofs inflates a number.

Notation: u is the unit roundoff, gamma(n) = n u / (1 - n u) (Higham, Accuracy and Stability of Numerical Algorithms,
section 3.1). Kernels are scaled to about 1, so that underflow is far below every allowance. That is not so of one block
among several, or of a vector on weak channels: rules about the smallest singular value scale these, or count underflow.
The factor `SLACK` covers terms of second order.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from specnorm.backends import arrays
from specnorm.errors import KernelError

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace

Rounds = Literal["nearest", "up", "down"]
SLACK = 1.001
"""Covers products of two rounding terms, each below 1e-3."""
_SUBNORMAL_TEST = [5e-324, 2.0**-1022, 0.5]
"""The smallest subnormal number, the smallest normal one, and a factor that makes the latter subnormal. A list, so that
Python's compiler does not fold the tests on it into constants."""


def unit(x: Array, *, xp: Namespace) -> float:
    """Unit roundoff of an array's dtype: 2**-53 for float64 and complex128, else 2**-24."""
    return _unit_of(x.dtype, xp)  # type: ignore[arg-type] # a module, or an object that is hashed by identity


@functools.lru_cache(maxsize=64)
def _unit_of(dtype: Any, xp: Namespace) -> float:
    # Cached, since libraries compare dtypes slowly and a search asks hundreds of times.
    return 2.0**-53 if dtype in (xp.float64, xp.complex128) else 2.0**-24


@functools.lru_cache(maxsize=256)
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

    ``length``: n: columns of A. ``x``: any array of the product's dtype.
    """
    u = unit(x, xp=xp)
    return math.sqrt(2) * gamma(2 * length, u) if arrays.is_complex(x, xp=xp) else gamma(length, u)


def up(x: Array, n: int, *, xp: Namespace) -> Array:
    """Increase non-negative numbers by more than ``n`` roundings may have decreased them.

    ``n``: at least the number of operations since the last allowance: one for each sum, product, quotient, root or
    conversion, and p for a sum of p terms. Numbers from rules that end in ``_up`` count as exact. Most calls give 2 for
    one operation and 4 for two or three, since a larger number is always valid. The two roundings of this function, the
    factor's conversion and the product, are added.
    """
    return x * (1 + SLACK * gamma(n + 2, unit(x, xp=xp)))


def down(x: Array, n: int, *, xp: Namespace) -> Array:
    """Decrease non-negative numbers by more than ``n`` roundings may have increased them; n as for `up`."""
    return x * (1 - SLACK * gamma(n + 2, unit(x, xp=xp)))


def padded_up(value: Array, gain_sq: int, *, xp: Namespace) -> Array:
    """``sqrt(gain_sq) * value``, rounded up: bounds for padded layers from those of their symbols.

    See `specnorm.running.proofs.padding.padded_norm`.
    """
    # The roundings: the root, its conversion to the dtype, and the product.
    return up(value * math.sqrt(gain_sq), 4, xp=xp)


def to_dtype(value: Array, dtype: Any, rounds: Rounds, *, eager: bool = False, xp: Namespace) -> Array:
    """Convert non-negative numbers to a dtype, rounded in the given direction: the last conversion of every answer.

    With "up" the result is no smaller, with "down" no larger than the exact number. Zero, the norm of the zero kernel
    alone, stays zero. With "down", a number beyond the dtype's range becomes the largest finite number.

    ``eager``: whether each operation runs as it is written, on the host: then the number is rounded to the nearest one
    on its side. Else an allowance covers the rounding, since compilers may remove a comparison with the number before
    it. Both ways cover the underflow of an unscaling by a power of two before.
    """
    with np.errstate(over="ignore", under="ignore"):
        converted = xp.astype(value, dtype)
        if rounds == "nearest":
            return converted
        if eager and hasattr(xp, "nextafter"):
            return _neighbour(value, converted, rounds, xp=xp)
        info = xp.finfo(dtype)
        eps, tiny, largest = float(info.eps), float(info.smallest_normal), float(info.max)
        if rounds == "up":
            return xp.where(value > 0, converted * (1 + 2 * eps) + tiny, converted)
        lowered = xp.minimum(converted, largest) * (1 - 2 * eps) - tiny
        return xp.where(lowered > 0, lowered, 0.0)


def _neighbour(value: Array, nearest: Array, rounds: Literal["up", "down"], *, xp: Namespace) -> Array:
    """`to_dtype` of numbers, given the nearest ones of the dtype."""
    info = xp.finfo(nearest.dtype)
    tiny, largest = float(info.smallest_normal), float(info.max)
    # An unscaling rounds only if its result is subnormal: by less than the distance of two such numbers, or to zero.
    lost = tiny if flushes() else tiny * float(info.eps)
    # Newer than the standard's version that `Namespace` lists.
    next_after: Any = getattr(xp, "nextafter")  # noqa: B009 - unknown to the type checker
    may_have_underflowed = value < 2 * tiny
    converted = xp.astype(nearest, value.dtype)
    if rounds == "up":
        next_up = next_after(nearest, xp.full_like(nearest, math.inf))
        above = xp.where(converted < value, next_up, nearest)
        return xp.where(may_have_underflowed & (value > 0), above + lost, above)
    next_down = next_after(nearest, xp.full_like(nearest, -math.inf))
    below = xp.minimum(xp.where(converted > value, next_down, nearest), largest)
    lowered = xp.where(below > lost, below - lost, 0.0)
    return xp.where(may_have_underflowed, lowered, below)


def flushes() -> bool:
    """Whether this thread replaces subnormal numbers by zero, as operands or as results."""
    smallest_subnormal, smallest_normal, half = _SUBNORMAL_TEST
    return smallest_subnormal == 0 or smallest_normal * half == 0


def kept_positive(unscaled: Array, scaled: Array, *, eager: bool, xp: Namespace) -> Array:
    """Products with ``scaled``, to be rounded up by `to_dtype` or not at all: no positive number underflows to zero."""
    info = xp.finfo(unscaled.dtype)
    smallest_normal = float(info.smallest_normal)
    smallest = smallest_normal * float(info.eps) if eager and not flushes() else smallest_normal
    return xp.where((scaled > 0) & (unscaled == 0), smallest, unscaled)


def from_converted_up(distance: Array, value: Array, dtype: str, *, eager: bool, xp: Namespace) -> Array:
    """Upper bounds of the distance from `to_dtype` of values, by those of the distance from the values.

    Zero, which holds for the zero kernel alone, stays zero. The results are still to be rounded up by `to_dtype`.

    ``value``: values after an unscaling by a power of two, which rounds if its result is subnormal.
    """
    info = np.finfo(dtype)
    # A subnormal number loses a few units: by the unscaling, by `to_dtype`, and by the sum below.
    unit_of_subnormals = float(info.smallest_subnormal if eager and not flushes() else info.smallest_normal)
    lost = value * conversion_loss(dtype) + 6 * unit_of_subnormals
    return xp.where(distance > 0, up(distance + lost, 4, xp=xp), distance)


def conversion_loss(dtype: str) -> float:
    """The largest relative change of a normal number by `to_dtype`, rounded up."""
    return 4 * float(np.finfo(dtype).eps)
