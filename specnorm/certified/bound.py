"""Claims: numbers that are proven, as values of two types that only rules of inference construct (Milner's LCF).

A claim says what its number bounds, by which rule, and from which other claims. Only the modules of this room call
`_upper` and `_lower`, so that whoever has a claim has its proof: a mistake in a search can only waste time.
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
        The rule that proved it, in words.
    of : tuple of claims
        The claims that the rule was applied to.
    digest : str
        Digest of the bits of the user's kernel (`digest_of`); empty for claims about scaled kernels, and about
        networks, where ``what`` says it.
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
    claims = (first, *(claim for claim in others if claim is not None))
    _require_one_norm(claims)
    return min(claims, key=float)


def greatest(*claims: Lower) -> Lower:
    """The highest of several bounds of one norm."""
    _require_one_norm(claims)
    return max(claims, key=float)


def _require_one_norm(claims: tuple[Claim, ...]) -> None:
    """Refuse claims about different norms or kernels."""
    if any(claim.what != claims[0].what for claim in claims):
        raise HypothesisError(f"bounds of different norms: {', '.join(str(claim.what) for claim in claims)}")
    if any(claim.digest != claims[0].digest for claim in claims):
        raise HypothesisError(f"bounds of {claims[0].what} for different kernels")


def _upper(
    value: float,
    what: object,
    rule: str,
    *of: Upper | Lower,
    digest: str = "",
) -> Upper:
    """An upper bound that a rule has proven. For the modules of the trusted room."""
    return Upper(float(value), what, rule, of, _KERNEL, digest)


def _lower(
    value: float,
    what: object,
    rule: str,
    *of: Upper | Lower,
    digest: str = "",
) -> Lower:
    """A lower bound that a rule has proven. For the modules of the trusted room."""
    return Lower(float(value), what, rule, of, _KERNEL, digest)


def _largest(parts: Sequence[Upper], what: object, rule: str) -> Upper:
    """A bound of a direct sum: the largest of the bounds of its parts."""
    return _upper(max((part.value for part in parts), default=0.0), what, rule, *parts)


def nothing(what: object = "any norm") -> Lower:
    """No norm is negative."""
    return _lower(0.0, what, "no norm is negative")


def largest_of_blocks(bounds: Sequence[Upper], blocks: Array) -> Upper:
    """The supremum of some blocks, from a bound of each."""
    if len(bounds) != blocks.shape[0] or any(bound.what != EVERYWHERE for bound in bounds):
        raise HypothesisError(f"{len(bounds)} bounds of {blocks.shape[0]} blocks")
    if len(bounds) == 1:
        return bounds[0]
    return _largest(bounds, EVERYWHERE, f"the largest of {len(bounds)} groups")


def as_array(claims: Sequence[Upper] | Sequence[Lower], like: Array, *, ops: ArrayOps) -> Array:
    """The numbers of some claims as an array (b,) of the widest dtype, outward."""
    values = np.asarray([claim.value for claim in claims], dtype=np.float64)
    if ops.wide_dtype == "float64":
        return ops.from_numpy(values, like)
    if claims and isinstance(claims[0], Upper):
        return ops.from_numpy(host.float32_up(values), like)
    return ops.from_numpy(np.maximum(host.float32_down(values), 0), like)


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
    digest = digest_of(kernel)
    rule = f"{POWER}{exponent}"
    return (
        _lower(scaled_down(lower.value, exponent), lower.what, rule, lower, digest=digest),
        _upper(scaled_up(upper.value, exponent), upper.what, rule, upper, digest=digest),
    )


def scaled_up(value: float, exponent: int) -> float:
    """``value * 2**exponent``, rounded up where that is a subnormal number."""
    scaled = _scaled(value, exponent)
    return host.next_up(scaled) if _scaled(scaled, -exponent) < value else scaled


def scaled_down(value: float, exponent: int) -> float:
    """``value * 2**exponent``, rounded down where that is a subnormal number, or none."""
    scaled = min(_scaled(value, exponent), sys.float_info.max)
    return max(host.next_down(scaled), 0.0) if _scaled(scaled, -exponent) > value else scaled


def _scaled(value: float, exponent: int) -> float:
    with np.errstate(over="ignore", under="ignore"):
        return float(np.ldexp(value, exponent))
