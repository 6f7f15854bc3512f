"""Functions of one number on intervals: their slopes, their values, and lines along which they lie.

The host's exp, tanh and erf are taken to be good to `CLOSE` of their values, which is hundreds of units in the last
place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.networks import turning
from specnorm.networks.pointwise import interval
from specnorm.networks.steep import entries, is_steep
from specnorm.networks.steep import image as steep_image
from specnorm.proof import host

Values = NDArray[np.float64]
Ends = tuple[Values, Values]
CLOSE = 2.0**-44
"""Relative error, and absolute where a value is less than 1, that a function's value is given."""
ROUNDINGS = 64
"""Of a derivative that is computed from an exponential."""


def slopes(params: Mapping[str, Any], low: Values, high: Values) -> Ends | None:
    """Smallest and largest slope of a function on intervals, rounded outward.

    Parameters
    ----------
    params : mapping
        Of a node of the rule "pointwise".
    low, high : array
        Ends, which may be infinite.

    Returns
    -------
    pair of array, or None
        Every difference quotient of two points of an interval is between them; None where none is known.
    """
    name = str(params["function"])
    if is_steep("pointwise", params):
        most = entries("pointwise", params, [(low, high)])[0]
        return (-most, most) if np.isfinite(most).all() else None
    given = {key: value for key, value in params.items() if key != "function"}
    found = interval(name, **given)
    if found is None:
        return None
    least, most = np.full(low.shape, found[0]), np.full(low.shape, found[1])
    pieces = _pieces(name, given)
    if pieces is not None:
        return _of_pieces(pieces, low, high)
    if name in _BELL:
        near = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(abs(low), abs(high)))
        far = np.maximum(abs(low), abs(high))
        steep, flat = _BELL[name](near), _BELL[name](far)
        # The derivative falls with the distance from 0.
        steep = np.where(near == 0, found[1], host.raised(steep, ROUNDINGS) + 2.0**-1000)
        flat = np.where(flat > 2.0**-900, flat - 2 * ROUNDINGS * 2.0**-52 * flat, 0.0)
        return np.maximum(least, flat), np.minimum(most, steep)
    if name in turning.CURVES:
        return turning.slopes(turning.CURVES[name], found, low, high)
    return least, most


Piece = tuple[float, float, float, float]
"""Where it begins and ends, and its smallest and largest slope."""


def _pieces(name: str, given: Mapping[str, float]) -> list[Piece] | None:
    """A piecewise linear function, by its pieces; None for others."""
    inf = math.inf
    if name == "relu":
        return [(-inf, 0.0, 0.0, 0.0), (0.0, inf, 1.0, 1.0)]
    if name == "leaky":
        alpha = given.get("alpha", 0.01)
        return [(-inf, 0.0, alpha, alpha), (0.0, inf, 1.0, 1.0)]
    if name == "prelu":
        return [(-inf, 0.0, given["low"], given["high"]), (0.0, inf, 1.0, 1.0)]
    if name == "abs":
        return [(-inf, 0.0, -1.0, -1.0), (0.0, inf, 1.0, 1.0)]
    if name == "negative":
        return [(-inf, inf, -1.0, -1.0)]
    if name == "hardtanh":
        ends = given.get("low", -1.0), given.get("high", 1.0)
        return [(-inf, ends[0], 0.0, 0.0), (*ends, 1.0, 1.0), (ends[1], inf, 0.0, 0.0)]
    return None


def _of_pieces(pieces: list[Piece], low: Values, high: Values) -> Ends:
    least, most = np.full(low.shape, math.inf), np.full(low.shape, -math.inf)
    for start, end, flat, steep in pieces:
        # An interval that touches a piece in one point has no quotient of it; one that is a point may have any.
        met = ((low < end) & (high > start)) | ((low == high) & (low >= start) & (high <= end))
        least, most = np.where(met, np.minimum(least, flat), least), np.where(met, np.maximum(most, steep), most)
    return least, most


def _sigmoid_slope(distance: Values) -> Values:
    small = np.exp(-distance)
    return np.asarray(small / (1 + small) ** 2)


def _tanh_slope(distance: Values) -> Values:
    return np.asarray(4 * _sigmoid_slope(2 * distance))


_BELL: dict[str, Callable[[Values], Values]] = {"sigmoid": _sigmoid_slope, "tanh": _tanh_slope}
"""Derivatives that are even and fall with the distance from 0."""


def _silu(x: Values) -> Values:
    return x * _sigmoid(x)


def _sigmoid(x: Values) -> Values:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


_PLAIN: dict[str, Callable[..., Values]] = {
    "sigmoid": _sigmoid,
    "tanh": lambda x: np.tanh(x),
    "silu": _silu,
    "gelu": lambda x: np.asarray(0.5 * x * (1 + turning.erf(x / math.sqrt(2)))),
    "gelu_tanh": lambda x: np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)))),
    "mish": lambda x: np.asarray(x * np.tanh(np.logaddexp(0.0, x))),
}
"""Values of curved functions."""
_ENDS: dict[str, tuple[float, float]] = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "softsign": (-1.0, 1.0)}


def image(params: Mapping[str, Any], low: Values, high: Values) -> Ends:
    """Interval that a function's values on intervals lie in; infinite where none is known."""
    name = str(params["function"])
    if is_steep("pointwise", params):
        return steep_image("pointwise", params, [(low, high)])
    given = {key: value for key, value in params.items() if key != "function"}
    if name == "relu":
        return np.maximum(low, 0.0), np.maximum(high, 0.0)
    if name == "abs":
        nearest: Values = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(abs(low), abs(high)))
        return nearest, np.maximum(abs(low), abs(high))
    if name == "negative":
        return -high, -low
    if name == "hardtanh" and given.get("low", -1.0) <= given.get("high", 1.0):
        ends = given.get("low", -1.0), given.get("high", 1.0)
        return np.clip(low, *ends), np.clip(high, *ends)
    if name in ("leaky", "prelu"):
        least, most = (given["low"], given["high"]) if name == "prelu" else (given.get("alpha", 0.01),) * 2
        if least <= most:
            # Below 0 between two lines through it; each end once, rounded outward.
            sides = [np.where(end > 0, end, slope * end) for end in (low, high) for slope in (least, most)]
            down: Values = np.minimum.reduce(sides)
            up: Values = np.maximum.reduce(sides)
            down = np.where((low <= 0) & (high >= 0), np.minimum(down, 0.0), down)
            up = np.where((low <= 0) & (high >= 0), np.maximum(up, 0.0), up)
            return host.below(_known(down, -math.inf)), host.above(_known(up, math.inf))
    if name in ("sigmoid", "tanh"):
        ends_of = [_PLAIN[name](end) for end in (low, high)]
        lost = CLOSE
        return np.maximum(ends_of[0] - lost, _ENDS[name][0]), np.minimum(ends_of[1] + lost, _ENDS[name][1])
    if name in ("silu", "swish", "gelu", "gelu_tanh", "mish", "hard_swish"):
        # x times a number between 0 and 1; hard swish with libraries' 1/6 in float32.
        most = np.maximum(high, 0.0)
        return np.minimum(low, 0.0), host.raised(most, 2**28) if name == "hard_swish" else most
    wide = _ENDS.get(name, (-math.inf, math.inf))
    return np.full(low.shape, wide[0]), np.full(low.shape, wide[1])


def _known(x: Values, otherwise: float) -> Values:
    return np.where(np.isnan(x), otherwise, x)


def line(params: Mapping[str, Any], low: Values, high: Values) -> tuple[Values, Values, Values] | None:
    """Numbers with ``|f(v) - slope v - middle| <= half`` on intervals, rounded outward; None where none are known.

    For ReLU the line is the chord: its half is least [1]_.

    Returns
    -------
    slope, middle, half : array
        Where an interval is not finite, 0, 0 and infinity.

    References
    ----------
    .. [1] Singh, Gehr, Mirman, Pueschel, Vechev, "Fast and Effective Robustness Certification", NeurIPS 2018.
    """
    name, found = str(params["function"]), slopes(params, low, high)
    if found is None:
        return None
    finite = np.isfinite(low) & np.isfinite(high)
    low, high = np.where(finite, low, 0.0), np.where(finite, high, 0.0)
    if name == "relu":
        crossing = (low < 0) & (high > 0)
        steep = np.where(crossing, high / np.where(crossing, high - low, 1.0), (low >= 0).astype(np.float64))
        steep = np.clip(steep, 0.0, 1.0)
        # Above the line by -steep low at the low end, by (1 - steep) high at the high one; never below it.
        most = np.where(crossing, np.maximum(-steep * low, (1 - steep) * high), 0.0)
        most = np.where(crossing, host.raised(most, 4) + 2.0**-1000, 0.0)
        middle, half = most / 2, most / 2
    elif name in ("leaky", "prelu", "abs", "negative", *_PLAIN):
        given = {key: value for key, value in params.items() if key != "function"}
        value = _value(name, given)
        if value is None:
            return None
        steep, at = (found[0] + found[1]) / 2, (low + high) / 2
        radius = np.maximum(high - at, at - low)
        there = value(at)
        middle = there - steep * at
        half = (found[1] - found[0]) / 2 * radius
        lost = CLOSE * (1 + abs(there) + abs(steep * at) + abs(at)) * (half > 0)
        exact = (found[0] == found[1]) & (name not in _PLAIN)
        half = np.where(exact, 0.0, host.raised(half, 8) + lost + CLOSE * (1 + abs(there) + abs(at)))
        middle = np.where(exact, 0.0, middle)
    else:
        return None
    nothing = np.zeros(low.shape)
    return (
        np.where(finite, steep, nothing), np.where(finite, middle, nothing), np.where(finite, half, math.inf),
    )  # fmt: skip


def _value(name: str, given: Mapping[str, float]) -> Callable[[Values], Values] | None:
    if name in _PLAIN:
        return _PLAIN[name]
    if name == "abs":
        return lambda x: abs(x)
    if name == "negative":
        return lambda x: -x
    alpha = given.get("alpha", 0.01) if name == "leaky" else given["low"]
    if name == "prelu" and given["low"] != given["high"]:
        return None
    return lambda x: np.where(x > 0, x, alpha * x)
