"""Functions of one number, applied to each entry: the largest slope, rounded up.

A map that applies functions of slope at most c to each entry has Lipschitz constant at most c (mean value theorem,
entry by entry). The constants of curved functions are proven in the tests: ball arithmetic evaluates the derivative on
intervals that cover the line but for its tails, where it is within 2e-6 of 0 or 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import host

Values = NDArray[np.float64]

JUMP_FREE = 20.0
"""Threshold of softplus from which its jump is below 2.1e-9 / beta and is not counted."""
SLOPES = {
    "abs": 1.0,
    "arctan": 1.0,
    "clip": 1.0,  # ReLU6, maximum or minimum with numbers
    "cos": 1.0,
    "hard_swish": 1.5000001,  # (2x + 3) / 6 on [-3, 3]; libraries have 1/6 in float32
    "log_sigmoid": 1.0,
    "negative": 1.0,
    "relu": 1.0,
    "sigmoid": 0.25,  # s (1 - s)
    "sin": 1.0,
    "softsign": 1.0,  # 1 / (1 + |x|)^2
    "tanh": 1.0,  # 1 - tanh^2
    "tanhshrink": 1.0,  # tanh^2
    "erf": 1.1283791670955128,  # 2 / sqrt(pi) at 0
    "gelu": 1.12892,  # Phi(x) + x phi(x) at sqrt(2)
    "gelu_tanh": 1.12900,
    "mish": 1.08851,
    "selu": 1.7580994,  # 1.0507009873554805 * 1.6732632423543772, as x -> 0-
    "silu": 1.09985,  # s (1 + x (1 - s)) at 2.3994
}
"""Largest absolute value of the derivative, rounded up."""


def slope(function: str, **parameters: float) -> float | None:
    """Largest slope of a function of one number; None if there is none, or it is not in the tables.

    Parameters
    ----------
    function : str
        A key of `SLOPES` or `PARAMETRIC`.
    **parameters : float
        As `PARAMETRIC` names them. Constants hold only for parameters that they were derived for: for others, and for
        those of a function that has none, the slope is None.
    """
    if not all(map(math.isfinite, parameters.values())):
        return None
    if function not in PARAMETRIC:
        return None if parameters else SLOPES.get(function)
    try:
        found = PARAMETRIC[function](**parameters)
    except TypeError:
        return None
    return found if found is not None and math.isfinite(found) else None


def interval(function: str, **parameters: float) -> tuple[float, float] | None:
    """Smallest and largest slope of a function of one number, rounded outward; None as for `slope`.

    Parameters
    ----------
    function, **parameters
        As for `slope`.

    Returns
    -------
    tuple of float, or None
        Every difference quotient is between them. ``(-slope, slope)`` where the sign of the slope is not known.
    """
    steep = slope(function, **parameters)
    if steep is None:
        return None
    if function in RISING:
        return 0.0, steep
    if function in LOWEST:
        return LOWEST[function], steep
    if function == "negative":
        return -1.0, -1.0
    if function == "leaky":
        alpha = parameters.get("alpha", 0.01)
        return min(alpha, 1.0), max(alpha, 1.0)
    if function == "prelu":
        return min(parameters["low"], 1.0), max(parameters["high"], 1.0)
    if function == "elu" and parameters.get("alpha", 1.0) >= 0 and parameters.get("scale", 1.0) >= 0:
        return 0.0, steep
    return -steep, steep


def by_channel(params: Mapping[str, Any], axis: int, width: int) -> tuple[Values, Values] | None:
    """Smallest and largest slope in each channel.

    Parameters
    ----------
    params : mapping
        Of a node of the rule "pointwise"; with ``slopes`` of each entry near one input.
    axis, width : int
        Where the channels are, and how many.

    Returns
    -------
    pair of array, shape (width,), or None
    """
    near = params.get("slopes")
    if near is None:
        found = interval(str(params["function"]), **{name: v for name, v in params.items() if name != "function"})
        return None if found is None else (np.full(width, found[0]), np.full(width, found[1]))
    if near[0].shape[axis] != width:
        return None
    low, high = (np.moveaxis(end, axis, 0).reshape(width, -1) for end in near)
    return low.min(axis=1), high.max(axis=1)


RISING = frozenset({
    "arctan", "celu", "clip", "erf", "hardtanh", "log_sigmoid", "relu", "selu", "sigmoid", "softplus", "softshrink",
    "softsign", "tanh", "tanhshrink", "threshold",
})  # fmt: skip
"""Functions that nowhere fall."""
LOWEST = {
    "gelu": -0.12892,  # phi'(x) + phi'(-x) = 1 for these three
    "gelu_tanh": -0.12900,
    "silu": -0.09985,
    "swish": -0.09985,  # of every alpha
    "hard_swish": -0.5000001,  # (2x + 3) / 6 at -3
    "mish": -0.11253,
}
"""Smallest slope of functions that fall somewhere, rounded down."""


def _celu(alpha: float = 1.0) -> float | None:
    """exp(x / alpha) below 0, which grows without end for alpha < 0."""
    return 1.0 if alpha > 0 else None


def _elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> float | None:
    """``scale`` above 0, scale alpha input_scale exp(input_scale x) below."""
    if input_scale < 0:
        return None
    return max(abs(scale), host.mul_up(abs(alpha), abs(scale), input_scale))


def _leaky(alpha: float = 0.01) -> float:
    """``alpha`` below 0, 1 above."""
    return max(1.0, abs(alpha))


def _linear(alpha: float) -> float:
    """``alpha`` in a range, 0 outside."""
    return abs(alpha)


def _hardtanh(low: float = -1.0, high: float = 1.0) -> float | None:
    return 1.0 if low <= high else None


def _prelu(low: float, high: float) -> float | None:
    """A slope between ``low`` and ``high`` below 0, 1 above."""
    return max(1.0, abs(low), abs(high)) if low <= high else None


def _softshrink(lambd: float = 0.5) -> float | None:
    """For negative ``lambd`` it jumps."""
    return 1.0 if lambd >= 0 else None


def _softplus(beta: float = 1.0, threshold: float = JUMP_FREE) -> float | None:
    """sigmoid(beta x); it jumps by log(1 + exp(-threshold)) / beta, where it becomes the identity."""
    return 1.0 if beta and threshold >= JUMP_FREE else None


def _swish(alpha: float) -> float:
    """``x sigmoid(alpha x)``, whose slope at x is that of SiLU at alpha x; 1/2 for alpha = 0."""
    del alpha
    return SLOPES["silu"]


def _threshold(threshold: float, value: float) -> float | None:
    """The identity above ``threshold``, else ``value``."""
    return 1.0 if threshold == value else None


PARAMETRIC: dict[str, Callable[..., float | None]] = {
    "celu": _celu,
    "elu": _elu,
    "hardtanh": _hardtanh,
    "leaky": _leaky,
    "linear": _linear,
    "prelu": _prelu,
    "softplus": _softplus,
    "softshrink": _softshrink,
    "swish": _swish,
    "threshold": _threshold,
}
"""Largest slopes of functions with parameters; None for parameters without one."""
