"""Bounds of a kernel that was scaled for a method, as those of the user's kernel, which they know by its bits."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import numpy as np

from specnorm.certified import host
from specnorm.certified.bound import HypothesisError, Lower, Upper, _lower, _upper
from specnorm.text import POWER


def digest_of(kernel: Any) -> str:
    """SHA-256 of a kernel's shape and numbers, on the host, whatever real precision it is stored in."""
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
