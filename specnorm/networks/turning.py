"""Slopes on intervals of functions whose derivative turns a few times, such as GELU, SiLU and Mish.

Between two turning points a derivative is monotone, so that on an interval it lies between its values at both ends, but
where the interval meets a turning point: there it goes to the largest or smallest slope of all. The tests prove by ball
arithmetic that there are no turning points but those below, and that values are good to `LOST`.

The host's exp and erf are taken to be good to 2^-44 of their values, hundreds of units in the last place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import host

Values: TypeAlias = NDArray[np.float64]
Between: TypeAlias = tuple[float, float]
LOST = 2.0**-40
"""By how much a derivative that is computed here may be off."""
FAR = 700.0
"""From there on derivatives are within `LOST` of their limits, and exp does not overflow."""


@dataclass(frozen=True)
class Curve:
    """A function of one number.

    Parameters
    ----------
    derivative : callable
        Off by at most `LOST`.
    lowest, highest : tuple of (float, float)
        Intervals that hold the places where the derivative is smallest and largest, and where alone it turns.
    """

    derivative: Callable[[Values], Values]
    lowest: tuple[Between, ...] = ()
    highest: tuple[Between, ...] = ()


def slopes(curve: Curve, all_over: Between, low: Values, high: Values) -> tuple[Values, Values]:
    """Smallest and largest derivative on intervals, rounded outward.

    Parameters
    ----------
    curve : Curve
    all_over : (float, float)
        Proven for all numbers.
    low, high : array
        Ends, which may be infinite.
    """
    ends = [curve.derivative(np.clip(end, -FAR, FAR)) for end in (low, high)]
    down, up = host.below(np.minimum(*ends) - LOST), host.above(np.maximum(*ends) + LOST)
    for start, end in curve.lowest:
        down = np.where((low <= end) & (high >= start), all_over[0], down)
    for start, end in curve.highest:
        up = np.where((low <= end) & (high >= start), all_over[1], up)
    return np.maximum(down, all_over[0]), np.minimum(up, all_over[1])


def erf(x: Values) -> Values:
    """The host's own; NumPy has none."""
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def _odd(above: Callable[[Values], Values]) -> Callable[[Values], Values]:
    """A derivative with ``f'(x) + f'(-x) = 1``, from its values above 0, where nothing cancels."""

    def derivative(x: Values) -> Values:
        found = above(abs(x))
        return np.where(x < 0, 1 - found, found)

    return derivative


def _silu(x: Values) -> Values:
    small = np.exp(-x)
    return np.asarray(1 / (1 + small) + x * small / (1 + small) ** 2)


def _gelu(x: Values) -> Values:
    bell = np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)
    return np.asarray(0.5 * (1 + erf(x / math.sqrt(2))) + x * bell)


def _gelu_tanh(x: Values) -> Values:
    scale = math.sqrt(2 / math.pi)
    small = np.exp(-2 * scale * x * (1 + 0.044715 * np.square(x)))
    steep = 2 * scale * (1 + 3 * 0.044715 * np.square(x)) * x
    return np.asarray(1 / (1 + small) + steep * small / (1 + small) ** 2)


def _mish(x: Values) -> Values:
    """``t + x t'`` with t = tanh(log(1 + e^x)), by powers of e^-|x|."""
    small = np.exp(-abs(x))
    left, right = small * (2 + small), 1 + 2 * small
    below, above = left + 2, right + 2 * small**2
    t = np.where(x < 0, left / below, right / above)
    steep = 4 * (1 + small) * np.where(x < 0, small / below**2, (small / above) ** 2)
    return np.asarray(t + x * steep)


def _erf(x: Values) -> Values:
    return np.asarray(2 / math.sqrt(math.pi) * np.exp(-np.square(x)))


def _log_sigmoid(x: Values) -> Values:
    small = np.exp(-abs(x))
    return np.asarray(np.where(x < 0, 1.0, small) / (1 + small))


def _tanhshrink(x: Values) -> Values:
    small = np.exp(-2 * abs(x))
    return np.asarray(((1 - small) / (1 + small)) ** 2)


_TOP: tuple[Between, ...] = ((0.0, 0.0),)
CURVES = {
    "gelu": Curve(_odd(_gelu), ((-1.41422, -1.41421),), ((1.41421, 1.41422),)),  # root of 2
    "gelu_tanh": Curve(_odd(_gelu_tanh), ((-1.4186, -1.4185),), ((1.4185, 1.4186),)),
    "silu": Curve(_odd(_silu), ((-2.39936, -2.39935),), ((2.39935, 2.39936),)),  # x tanh(x / 2) = 2
    "mish": Curve(_mish, ((-2.2564, -2.2563),), ((1.4905, 1.4906),)),
    "erf": Curve(_erf, (), _TOP),
    "log_sigmoid": Curve(_log_sigmoid),
    "tanhshrink": Curve(_tanhshrink, _TOP),
}
