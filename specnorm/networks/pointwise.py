"""Functions of one number, applied to each entry: the largest slope, rounded up.

A map that applies functions of slope at most c to each entry has Lipschitz constant at most c (mean value theorem,
entry by entry). The constants of curved functions are proven in the tests: ball arithmetic evaluates the derivative on
intervals that cover the line but for its tails, where it is within 2e-6 of 0 or 1.
"""

from __future__ import annotations

import math

SLOPES = {
    "abs": 1.0,
    "arctan": 1.0,
    "clip": 1.0,  # also hard tanh, ReLU6, maximum or minimum with constants
    "cos": 1.0,
    "hard_swish": 1.5000001,  # (2x + 3) / 6 on [-3, 3]; libraries have 1/6 in float32
    "log_sigmoid": 1.0,
    "negative": 1.0,
    "relu": 1.0,
    "sigmoid": 0.25,  # s (1 - s)
    "sin": 1.0,
    "softplus": 1.0,  # sigmoid(beta x)
    "softshrink": 1.0,
    "softsign": 1.0,  # 1 / (1 + |x|)^2
    "tanh": 1.0,  # 1 - tanh^2
    "tanhshrink": 1.0,  # tanh^2
    "celu": 1.0,  # exp(x / alpha), alpha > 0
    "erf": 1.1283791670955128,  # 2 / sqrt(pi) at 0
    "gelu": 1.12892,  # Phi(x) + x phi(x) at sqrt(2)
    "gelu_tanh": 1.12900,
    "mish": 1.08851,
    "selu": 1.7580994,  # 1.0507009873554805 * 1.6732632423543772, as x -> 0-
    "silu": 1.09985,  # s (1 + x (1 - s)) at 2.3994
}
"""Largest absolute value of the derivative, rounded up."""


def slope(function: str, alpha: float = 1.0) -> float | None:
    """Largest slope of a function of one number; None if there is none, or it is not in the table.

    Parameters
    ----------
    function : str
        A key of `SLOPES`, or "leaky" (slope ``alpha`` below 0; ELU, PReLU, too) or "linear" (slope ``alpha`` in a
        range, 0 outside: hard sigmoid).
    alpha : float
    """
    if not math.isfinite(alpha):
        return None
    if function == "leaky":
        return max(1.0, abs(alpha))
    if function == "linear":
        return abs(alpha)
    return SLOPES.get(function)
