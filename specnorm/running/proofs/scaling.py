"""The way of every bound from a plan to the caller: out of the scale, past the padding, into the caller's dtype.

A plan answers for kernels times a power of two, without padding that repeats pixels, in the dtype of its computation.
Each step here keeps an upper bound above and a lower bound below. Programs and training steps take the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from specnorm.backends import arrays, text
from specnorm.proofs import host, rounding
from specnorm.proofs.bound import Lower, Upper

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array, Namespace
    from specnorm.proofs.found import Found

Rounds = rounding.Rounds


def for_caller(
    values: Array, exponent: Array, rounds: Rounds, dtype: Any, *, gain_sq: int = 1, eager: bool = False, xp: Namespace
) -> Array:
    """Values of layers for the caller's kernels, rounded to the caller's dtype.

    Parameters
    ----------
    values : array, shape (layers, ...)
        Values of the kernels times ``2**-exponent``, which scale with them.
    exponent : array, shape (layers,)
    rounds : {"nearest", "up", "down"}
        "up" for upper bounds, "down" for lower bounds.
    gain_sq : int, default 1
        `ConvSpec.padding_gain_sq`, if the values are upper bounds of symbols and the layer repeats pixels.
    eager : bool, default False
        As in `rounding.to_dtype`.
    """
    unscaled = _unscaled(values, exponent, rounds, eager=eager, xp=xp)
    if gain_sq > 1:
        unscaled = rounding.padded_up(unscaled, gain_sq, xp=xp)
    return rounding.to_dtype(unscaled, dtype, rounds, eager=eager, xp=xp)


def distance_for_caller(
    distances: Array, values: Array, exponent: Array, dtype: str, *, eager: bool = False, xp: Namespace
) -> Array:
    """Upper bounds of the distances of the caller's values from exact ones, which `for_caller` rounds to nearest.

    ``distances``, ``values`` (layers,): of the kernels times ``2**-exponent``; the distances as they were computed.
    """
    distance = _unscaled(distances, exponent, "up", eager=eager, xp=xp)
    value = _unscaled(values, exponent, "nearest", eager=eager, xp=xp)
    distance = rounding.from_converted_up(distance, value, dtype, eager=eager, xp=xp)
    return rounding.to_dtype(distance, getattr(xp, dtype), "up", eager=eager, xp=xp)


def narrowed(x: Any, dtype: str, rounds: Rounds | Literal["distance"], value: Any, *, xp: Namespace) -> Any:
    """Answers of the host in a device's narrower dtype; "distance": upper bounds of the distance from ``value``."""
    if rounds != "distance":
        return rounding.to_dtype(x, getattr(np, dtype), rounds, eager=True, xp=xp)
    distance = rounding.from_converted_up(x, value, dtype, eager=True, xp=xp)
    return rounding.to_dtype(distance, getattr(np, dtype), "up", eager=True, xp=xp)


def in_dtype_of(claim: Lower | Upper, like: Any, *, xp: Namespace) -> Any:
    """The number of a claim as an array like another one: an upper bound rounded up, a lower one down."""
    rounds: Literal["up", "down"] = "up" if isinstance(claim, Upper) else "down"
    dtype = np.float64 if "float64" in str(like.dtype) else np.float32
    return xp.full_like(like, host.representable(claim.value, dtype, rounds))


def found_in_words(found: Found, exponent: int) -> str:
    """The bounds of a search for a kernel times ``2**-exponent``, as text about the kernel."""
    lower = text.number(host.scaled_down(found.lower.value, exponent), "lower")
    upper = text.number(host.scaled_up(found.highest, exponent), "upper")
    at_most = "" if upper == "inf" else f" <= {upper}"
    return f"{lower} <= norm{at_most}"


def _unscaled(values: Array, exponent: Array, rounds: Rounds, *, eager: bool, xp: Namespace) -> Array:
    """Values times ``2**exponent``; a positive upper bound stays positive."""
    exponent_of_values = xp.reshape(exponent, (-1,) + (1,) * (values.ndim - 1))
    unscaled = arrays.unscale(values, exponent_of_values, xp=xp)
    return rounding.kept_positive(unscaled, values, eager=eager, xp=xp) if rounds == "up" else unscaled
