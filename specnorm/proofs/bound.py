"""Claims: proven bounds of norms, as values of the types `Upper` and `Lower`, which only rules of inference construct.

This is the design of Milner's LCF. A claim says which norm its number bounds, by which rule, and from which other
claims the rule derived it. Only files of proofs call `Upper._by_rule` and `Lower._by_rule`, so a mistake in a search
wastes time but never makes a false claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from specnorm.backends.text import POWER, rounded_format
from specnorm.proofs import host

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.backends.types import ArrayOps

ALL_FREQUENCIES = "sigma*"
"""The subject (``what``) of a claim about the supremum over all frequencies of the norm of some blocks' symbols.

That is also the supremum of the circular layer's norm over all input sizes.
"""


ProvenT = TypeVar("ProvenT", "Upper", "Uppers")


class HypothesisError(ValueError):
    """The hypotheses of a rule do not hold, so it makes no claim. This is an error in the calling code of specnorm."""


class Sealed:
    """Base of frozen dataclasses that only rules in files of proofs make, by `_made`: the constructor refuses."""

    __slots__ = ()

    def __new__(cls, *fields: object, **named_fields: object) -> Self:
        """Refuse fields. Unpickling calls it without any, which the dataclass's constructor refuses."""
        if fields or named_fields:
            raise TypeError(f"{cls.__name__}: objects of this class are made by the rules in files of proofs alone")
        return object.__new__(cls)

    @classmethod
    def _made(cls, *fields: Any, **named_fields: Any) -> Self:
        made = object.__new__(cls)
        cls.__init__(made, *fields, **named_fields)
        return made


@dataclass(frozen=True, eq=False, slots=True)
class _Claim(Sealed):
    """A proven bound of a norm.

    Parameters
    ----------
    value : float
        The bound, non-negative; an upper bound may be infinite.
    what : object
        The claim's subject, the norm that is bounded: `ALL_FREQUENCIES`, a `cells.Circulant`, the `ConvSpec` of a
        layer, or a description in words, which is compared like the others. Bounds with equal ``what`` are bounds of
        the same norm.
    rule : str
        Description of the rule that proved the bound.
    of : tuple of claims
        The premises: the claims from which the rule derived this one.
    digest : str
        Digest of the user's kernel (`digest_of`). Empty for claims about scaled kernels, and for claims about networks,
        whose ``what`` identifies the network.
    """

    value: float
    what: object
    rule: str
    of: tuple[Upper | Lower, ...] = field(default=(), repr=False)
    digest: str = ""
    promise: ClassVar[str]
    """The direction in which the bound is rounded to text."""

    def __post_init__(self) -> None:
        if not self.value >= 0:
            raise HypothesisError(f"{self.value!r} bounds no norm ({self.rule})")

    @classmethod
    def _by_rule(cls, value: float, what: object, rule: str, *premises: Upper | Lower, digest: str = "") -> Self:
        """Make the bound that a rule has proven from its premises. Only files of proofs call this."""
        return cls._made(float(value), what, rule, premises, digest)

    @staticmethod
    def as_array(claims: Sequence[Upper] | Sequence[Lower], like: Array, *, ops: ArrayOps) -> Array:
        """Return the values of b claims as an array (b,) of the device's widest dtype.

        Where that is float32, upper bounds are rounded up, and lower bounds down.
        """
        values = np.asarray([claim.value for claim in claims], dtype=np.float64)
        if ops.wide_dtype == "float64":
            return ops.from_numpy(values, like)
        if claims and isinstance(claims[0], Upper):
            return ops.from_numpy(host.float32_up(values), like)
        return ops.from_numpy(np.maximum(host.float32_down(values), 0), like)

    def __float__(self) -> float:
        return self.value

    def __format__(self, spec: str) -> str:
        """The bound as a number, in the formats of a float; an upper bound is rounded up, a lower bound down."""
        return rounded_format(self.value, spec, self.promise) if spec else str(self)

    def __le__(self, other: _Claim | float) -> bool:
        return self.value <= float(other)

    def __lt__(self, other: _Claim | float) -> bool:
        return self.value < float(other)

    def __ge__(self, other: _Claim | float) -> bool:
        return self.value >= float(other)

    def __gt__(self, other: _Claim | float) -> bool:
        return self.value > float(other)


class Upper(_Claim):
    """A proven upper bound: never below the norm, rounding errors included. ``format`` rounds it up."""

    __slots__ = ()
    promise: ClassVar[str] = "upper"

    @classmethod
    def _largest(cls, parts: Sequence[Upper], what: object, rule: str) -> Upper:
        """Bound the norm of a direct sum by the largest of the bounds of its parts."""
        return Upper._by_rule(max((part.value for part in parts), default=0.0), what, rule, *parts)

    @staticmethod
    def least(first: Upper, *others: Upper | None) -> Upper:
        """Return the lowest of several upper bounds of one norm; None stands for a bound that was not proven."""
        claims = (first, *(claim for claim in others if claim is not None))
        _require_one_norm(claims)
        return min(claims, key=float)

    def times_power_of_two(self, exponent: int, digest: str = "") -> Upper:
        """The bound times ``2**exponent``: from a kernel that was divided by this power to the kernel itself.

        ``digest``: of that kernel, if it is a user's. The subject stays.
        """
        _require_no_digest(self)
        value = host.scaled_up(self.value, exponent)
        return Upper._by_rule(value, self.what, f"{POWER}{exponent}", self, digest=digest)


class Lower(_Claim):
    """A proven lower bound: never above the norm, rounding errors included. ``format`` rounds it down."""

    __slots__ = ()
    promise: ClassVar[str] = "lower"

    @classmethod
    def trivial(cls, what: object = "any norm") -> Lower:
        """Return the lower bound 0, which holds for any norm."""
        return Lower._by_rule(0.0, what, "no norm is negative")

    @staticmethod
    def greatest(*claims: Lower) -> Lower:
        """Return the highest of several lower bounds of one norm."""
        _require_one_norm(claims)
        return max(claims, key=float)

    def times_power_of_two(self, exponent: int, digest: str = "") -> Lower:
        """The bound times ``2**exponent``: from a kernel that was divided by this power to the kernel itself.

        ``digest``: of that kernel, if it is a user's. The subject stays.
        """
        _require_no_digest(self)
        value = host.scaled_down(self.value, exponent)
        return Lower._by_rule(value, self.what, f"{POWER}{exponent}", self, digest=digest)


@dataclass(frozen=True, eq=False)
class Uppers(Sealed):
    """Proven upper bounds of the norms of b blocks, as an array: the claims are read from it, which waits for a device.

    Parameters
    ----------
    values : array, shape (b,)
        The bounds.
    what : object
        The subject of each claim, as for `Upper`.
    rule : str
        Description of the rule that proved the bounds.
    of : Uppers, optional
        The premises, block by block.
    """

    values: Array
    what: object
    rule: str
    of: Uppers | None = None

    @classmethod
    def _by_rule(cls, values: Array, what: object, rule: str, of: Uppers | None = None) -> Uppers:
        """Make the bounds that a rule has proven. Only files of proofs call this."""
        return cls._made(values, what, rule, of)

    @staticmethod
    def joined(parts: Sequence[Uppers], *, xp: Namespace) -> Uppers:
        """The bounds of some blocks, then of others, by one rule."""
        first = parts[0]
        if any((part.what, part.rule, part.of) != (first.what, first.rule, None) for part in parts):
            raise HypothesisError("bounds of different norms, or by different rules")
        return Uppers._by_rule(xp.concat([part.values for part in parts], axis=0), first.what, first.rule)

    def claims(self, *, ops: ArrayOps) -> list[Upper]:
        """The bound of each block."""
        values = ops.to_numpy(self.values).tolist()
        if self.of is None:
            return [Upper._by_rule(value, self.what, self.rule) for value in values]
        premises = self.of.claims(ops=ops)
        return [Upper._by_rule(x, self.what, self.rule, premise) for x, premise in zip(values, premises, strict=True)]

    def largest(self, *, ops: ArrayOps) -> Upper:
        """A bound of the largest of the norms of all blocks."""
        # Unlike `max`, `np.max` keeps a NaN, which bounds nothing.
        return Upper._by_rule(float(np.max(ops.to_numpy(self.values))), self.what, self.rule)


make_upper, make_lower, least = Upper._by_rule, Lower._by_rule, Upper.least
"""The names of these in `specnorm.proof`."""


def _require_no_digest(claim: _Claim) -> None:
    """Raise a `HypothesisError` if a claim is about a user's kernel: it is not scaled to another one."""
    if claim.digest:
        raise HypothesisError("a bound that carries the digest of a user's kernel is not scaled to another kernel")


def _require_one_norm(claims: Sequence[_Claim]) -> None:
    """Raise a `HypothesisError` if the claims are about different norms or kernels."""
    if any(claim.what != claims[0].what for claim in claims):
        raise HypothesisError(f"bounds of different norms: {', '.join(str(claim.what) for claim in claims)}")
    if any(claim.digest != claims[0].digest for claim in claims):
        raise HypothesisError(f"bounds of {claims[0].what} for different kernels")


def known(claim: ProvenT | None) -> ProvenT:
    """Return a claim, or an array of bounds; raise a `HypothesisError` if nothing was proven (None)."""
    if claim is None:
        raise HypothesisError("nothing was proven")
    return claim


def finite(claim: Upper | None) -> float:
    """Return the value of an upper bound, infinity if nothing was proven (None)."""
    return math.inf if claim is None else claim.value


def digest_of(kernel: Any) -> str:
    """Return the SHA-256 of the shape and the float64 values of a kernel on the host.

    Equal numbers in different real precisions have the same digest.
    """
    import hashlib  # imported here: OpenSSL takes four megabytes

    numbers = np.ascontiguousarray(kernel, dtype=np.float64)
    sha = hashlib.sha256(repr(np.shape(kernel)).encode())
    sha.update(numbers.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def of_kernel(lower: Lower, upper: Upper, kernel: Any, exponent: int) -> tuple[Lower, Upper]:
    """Bound the norm of the user's kernel, from bounds for the scaled kernel ``kernel * 2**-exponent``.

    ``lower``, ``upper``: bounds for the scaled kernel. ``kernel``: the user's kernel, on the host. The new claims carry
    its digest. ``exponent``: power of two by which the kernel was divided.
    """
    digest = digest_of(kernel)
    return lower.times_power_of_two(exponent, digest), upper.times_power_of_two(exponent, digest)
