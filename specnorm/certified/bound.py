"""Claims: numbers that are proven, as values of two types that only rules of inference construct (Milner's LCF).

A claim says what its number bounds, by which rule, and from which other claims. `_upper` and `_lower` belong to the
modules of this room: whoever holds a claim holds its proof, and a search can but waste time.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from specnorm.certified import host
from specnorm.text import POWER

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.types import ArrayOps

EVERYWHERE = "sigma*"
"""What a bound of the symbol's norm at every frequency bounds: the supremum over all sizes."""
_KERNEL = object()


class HypothesisError(ValueError):
    """A rule was applied where what it supposes does not hold: an error of ours, never a claim."""


@dataclass(frozen=True, eq=False, slots=True)
class _Claim:
    """A proven bound of a norm.

    Parameters
    ----------
    value : float
        Non-negative.
    what : object
        The norm that it bounds: `EVERYWHERE`, a `cells.Circulant`, the `ConvSpec` of a layer, or words.
    rule : str
        By what.
    of : tuple of claims
        What the rule was applied to.
    digest : str
        Of the bits of the kernel that it speaks of (`certified.bound`); empty of what is not yet a user's
        kernel, and of networks, where ``what`` says it.
    """

    value: float
    what: object
    rule: str
    of: tuple[Upper | Lower, ...] = field(default=(), repr=False)
    maker: InitVar[object] = None
    digest: str = ""

    def __post_init__(self, maker: object) -> None:
        if maker is not _KERNEL:
            raise TypeError(f"{type(self).__name__}: a claim is made by the rules of specnorm.certified alone")
        if not self.value >= 0:
            raise HypothesisError(f"{self.value!r} bounds no norm ({self.rule})")

    def __float__(self) -> float:
        return self.value

    def __le__(self, other: _Claim | float) -> bool:
        return self.value <= float(other)

    def __lt__(self, other: _Claim | float) -> bool:
        return self.value < float(other)

    def __ge__(self, other: _Claim | float) -> bool:
        return self.value >= float(other)

    def __gt__(self, other: _Claim | float) -> bool:
        return self.value > float(other)


class Upper(_Claim):
    """Never below the norm, rounding included."""

    __slots__ = ()


class Lower(_Claim):
    """Never above the norm, rounding included."""

    __slots__ = ()


Claim = TypeVar("Claim", Upper, Lower)


def least(first: Upper, *others: Upper | None) -> Upper:
    """The lowest of several bounds of one norm."""
    return min(_of_one((first, *(claim for claim in others if claim is not None))), key=float)


def greatest(*claims: Lower) -> Lower:
    """The highest of several bounds of one norm."""
    return max(_of_one(claims), key=float)


def _of_one(claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
    if any(claim.what != claims[0].what for claim in claims):
        raise HypothesisError(f"bounds of different norms: {', '.join(str(claim.what) for claim in claims)}")
    if any(claim.digest != claims[0].digest for claim in claims):
        raise HypothesisError(f"bounds of {claims[0].what} for different kernels")
    return claims


def _upper(value: float, what: object, rule: str, *of: Upper | Lower, digest: str = "") -> Upper:
    """An upper bound that a rule has proven. For the modules of the trusted room."""
    return Upper(float(value), what, rule, of, _KERNEL, digest)


def _lower(value: float, what: object, rule: str, *of: Upper | Lower, digest: str = "") -> Lower:
    """A lower bound that a rule has proven. For the modules of the trusted room."""
    return Lower(float(value), what, rule, of, _KERNEL, digest)


def _largest(parts: Sequence[Upper], what: object, rule: str) -> Upper:
    """Of a direct sum: the largest of its parts' bounds."""
    return _upper(max((part.value for part in parts), default=0.0), what, rule, *parts)


def nothing(what: object = "any norm") -> Lower:
    """No norm is negative."""
    return _lower(0.0, what, "no norm is negative")


def largest_of_blocks(bounds: Sequence[Upper], blocks: Array) -> Upper:
    """The supremum of some blocks, from a bound of each."""
    if len(bounds) != blocks.shape[0] or any(bound.what != EVERYWHERE for bound in bounds):
        raise HypothesisError(f"{len(bounds)} bounds of {blocks.shape[0]} blocks")
    return bounds[0] if len(bounds) == 1 else _largest(bounds, EVERYWHERE, f"the largest of {len(bounds)} groups")


def as_array(claims: Sequence[Upper] | Sequence[Lower], like: Array, *, ops: ArrayOps) -> Array:
    """The numbers of some claims as an array (b,) of the widest dtype, outward."""
    values = np.asarray([claim.value for claim in claims], dtype=np.float64)
    if ops.wide_dtype != "float64":
        up = bool(claims) and isinstance(claims[0], Upper)
        values = host.float32_up(values) if up else np.maximum(host.float32_down(values), 0)
    return ops.from_numpy(values, like)


def known(claim: Upper | None) -> Upper:
    """A bound that there has to be."""
    if claim is None:
        raise HypothesisError("nothing was proven")
    return claim


def finite(claim: Upper | None) -> float:
    """A bound as a number; infinity where there is none."""
    return math.inf if claim is None else claim.value


def digest_of(kernel: Any) -> str:
    """SHA-256 of a kernel's shape and numbers, on the host, whatever real precision it is stored in."""
    import hashlib  # here, since OpenSSL takes four megabytes

    numbers = np.ascontiguousarray(kernel, dtype=np.float64)
    whole = hashlib.sha256(repr(np.shape(kernel)).encode())
    whole.update(numbers.reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def of_kernel(lower: Lower, upper: Upper, kernel: Any, exponent: int) -> tuple[Lower, Upper]:
    """Bounds of a kernel's norm from those of the kernel times ``2**-exponent``.

    Parameters
    ----------
    kernel : array
        On the host.

    Raises
    ------
    HypothesisError
        If the bounds are a user's kernel's already, which is not scaled again.
    """
    if lower.digest or upper.digest:
        raise HypothesisError("bounds of a kernel that is known by its bits are not scaled to another one")
    digest, rule = digest_of(kernel), f"{POWER}{exponent}"
    low, high = scaled_down(lower.value, exponent), scaled_up(upper.value, exponent)
    return _lower(low, lower.what, rule, lower, digest=digest), _upper(high, upper.what, rule, upper, digest=digest)


def scaled_up(value: float, exponent: int) -> float:
    """``value * 2**exponent``, rounded up where that is a subnormal number."""
    found = _scaled(value, exponent)
    return host.next_up(found) if _scaled(found, -exponent) < value else found


def scaled_down(value: float, exponent: int) -> float:
    """``value * 2**exponent``, rounded down where that is a subnormal number, or none."""
    found = min(_scaled(value, exponent), sys.float_info.max)
    return max(host.next_down(found), 0.0) if _scaled(found, -exponent) > value else found


def _scaled(value: float, exponent: int) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(value, exponent))
