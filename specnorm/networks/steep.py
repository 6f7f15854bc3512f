"""What has a constant where its inputs lie in a range: squares, powers, roots, exp, products and quotients of values.

By the mean value theorem |f(x) - f(y)| <= sup |f'| |x - y|, the supremum over the interval between x and y. And
xy - x'y' = y (x - x') + x' (y - y') has a norm of at most sup |y| |x - x'| + sup |x| |y - y'|.

The host's exp is taken to be good to 2^-44 of its values, hundreds of units in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import host

Values = NDArray[np.float64]
Ends = tuple[Values, Values]
ROUNDINGS = 2**9
"""By which an exponential is off at most."""
TINY = 2.0**-1000
"""Added to what may have underflowed."""
MOST = 16
"""Largest whole exponent of a power."""
HINT = (
    "on a box of inputs it may have one: specnorm.networks.within(graph, low, high) or --input-range states one, "
    "radius= a ball"
)


def _largest(low: Values, high: Values) -> Values:
    return np.maximum(abs(low), abs(high))


def _least(low: Values, high: Values) -> Values:
    """Smallest absolute value; 0 where the interval holds 0."""
    return np.where((low <= 0) & (high >= 0), 0.0, np.minimum(abs(low), abs(high)))


def _over(numbers: Values) -> Values:
    """1 / numbers >= 0, rounded up; infinite at 0."""
    return np.asarray(host.above(1 / numbers))


def _exp(low: Values, high: Values) -> Ends:
    down, up = np.exp(low), host.raised(np.exp(high), ROUNDINGS) + TINY
    return np.maximum(down - host.raised(down, ROUNDINGS) * (4 * ROUNDINGS * 2.0**-52), 0.0), up


def _power(low: Values, high: Values, exponent: int) -> Ends:
    """Whole powers, from 1."""
    one, other = (np.asarray(math.prod([end] * exponent)) for end in (low, high))
    lost = host.raised(np.maximum(abs(one), abs(other)), exponent) * (2 * exponent * 2.0**-52) + TINY
    down, up = host.below(np.minimum(one, other) - lost), host.above(np.maximum(one, other) + lost)
    return (np.where(_least(low, high) == 0, 0.0, np.maximum(down, 0.0)), up) if exponent % 2 == 0 else (down, up)


def _root(low: Values, high: Values) -> Ends:
    return host.below(np.sqrt(np.maximum(low, 0.0))), host.above(np.sqrt(np.maximum(high, 0.0)))


def _inverse(low: Values, high: Values) -> Ends:
    """1 / x where 0 is not among them."""
    ends = 1 / low, 1 / high
    crossing = _least(low, high) == 0
    return (
        np.where(crossing, -math.inf, host.below(np.minimum(*ends))),
        np.where(crossing, math.inf, host.above(np.maximum(*ends))),
    )


def _power_slope(low: Values, high: Values, exponent: int) -> Values:
    largest = np.asarray(math.prod([_largest(low, high)] * (exponent - 1)))
    return np.asarray(host.raised(exponent * largest, exponent + 2) + (TINY if exponent > 2 else 0.0))


def _root_slope(low: Values, high: Values) -> Values:
    del high
    return np.asarray(np.where(low > 0, host.raised(0.5 * _over(np.sqrt(np.maximum(low, 0.0))), 4), math.inf))


def _log_slope(low: Values, high: Values) -> Values:
    del high
    return np.asarray(np.where(low > 0, _over(np.maximum(low, 0.0)), math.inf))


def _rsqrt_slope(low: Values, high: Values) -> Values:
    inner = _over(np.maximum(low, 0.0))
    return np.asarray(np.where(low > 0, host.raised(inner * _root_slope(low, high), 4), math.inf))


def _inverse_slope(low: Values, high: Values, scale: float = 1.0) -> Values:
    return np.asarray(host.raised(abs(scale) * np.square(_over(_least(low, high))), 4) + TINY)


def _multiple_of_inverse(low: Values, high: Values, scale: float = 1.0) -> Ends:
    ends = [scale * end for end in _inverse(low, high)]
    return host.below(np.minimum(*ends)), host.above(np.maximum(*ends))


Slope = Callable[..., Values]
STEEP: dict[str, tuple[Slope, Callable[..., Ends]]] = {
    "exp": (lambda low, high: _exp(low, high)[1], _exp),
    "log": (_log_slope, lambda low, high: (np.full(low.shape, -math.inf), np.full(high.shape, math.inf))),
    "power": (_power_slope, _power),
    "sqrt": (_root_slope, _root),
    "rsqrt": (_rsqrt_slope, lambda low, high: _inverse(*_root(low, high))),
    "reciprocal": (_inverse_slope, _multiple_of_inverse),
}
"""Functions of one number: largest absolute slope on intervals, rounded up, and the values there, rounded outward."""
_POSITIVE = ("exp", "sqrt")
JOINS = ("product", "quotient")
"""Rules of nodes with two inputs."""


def power_params(exponent: float) -> dict[str, Any] | None:
    """Parameters of the rule ``pointwise`` for a power of each entry: whole exponents, roots and inverses, or none."""
    if 1 <= exponent <= MOST and exponent == int(exponent):
        return {"function": "power", "exponent": int(exponent)}
    function = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}.get(exponent)
    return None if function is None else {"function": function}


def is_steep(rule: str, params: Mapping[str, Any]) -> bool:
    """Whether a node's constant depends on where its inputs lie."""
    return rule in JOINS or (rule == "pointwise" and params.get("function") in STEEP)


def factors(rule: str, params: Mapping[str, Any], known: Sequence[Ends]) -> list[float]:
    """For each input of a node, by how much a change of it is stretched, without what broadcasting adds.

    Parameters
    ----------
    rule : str
    params : mapping
        Of the node.
    known : sequence of pair of array
        Ends of the intervals that the inputs lie in.

    Returns
    -------
    list of float
        Rounded up; infinite where there is none.
    """
    return [_sup(each) for each in entries(rule, params, known)]


def entries(rule: str, params: Mapping[str, Any], known: Sequence[Ends]) -> list[Values]:
    """The same for each entry, in shapes that broadcast."""
    with np.errstate(all="ignore"):
        if rule == "product":
            (a, b), (c, d) = known
            return [_largest(c, d), _largest(a, b)]
        if rule == "quotient":
            (a, b), (c, d) = known
            inner = _over(_least(c, d))
            return [inner, np.asarray(host.raised(_largest(a, b) * inner * inner, 4) + TINY)]
        ((low, high),) = known
        given = {key: value for key, value in params.items() if key not in ("function", "slopes")}
        return [STEEP[str(params["function"])][0](low, high, **given)]


def image(rule: str, params: Mapping[str, Any], known: Sequence[Ends]) -> Ends:
    """Where a node's values lie, in the shape that its inputs are broadcast to.

    Parameters
    ----------
    rule, params, known
        As for `factors`.
    """
    with np.errstate(all="ignore"):
        if rule in JOINS:
            (a, b), (c, d) = known[0], known[1] if rule == "product" else _inverse(*known[1])
            ends = [np.asarray(x * y) for x in (a, b) for y in (c, d)]
            # 0 times infinity is 0 here: no value is infinite.
            ends = [np.where(np.isnan(end), 0.0, end) for end in ends]
            found = np.minimum.reduce(ends), np.maximum.reduce(ends)
        else:
            ((low, high),) = known
            given = {key: value for key, value in params.items() if key not in ("function", "slopes")}
            found = STEEP[str(params["function"])][1](low, high, **given)
        low, high = (np.where(np.isnan(end), side, end) for end, side in zip(found, (-np.inf, np.inf), strict=True))
        low, high = host.below(low), host.above(high)
        even = params.get("function") == "power" and int(params["exponent"]) % 2 == 0
        return np.asarray(np.maximum(low, 0.0) if even or params.get("function") in _POSITIVE else low), np.asarray(
            high
        )


def _sup(numbers: Values) -> float:
    largest = float(np.max(numbers, initial=0.0))
    return math.inf if math.isnan(largest) else largest
