"""Piecewise linear functions of each entry."""

from __future__ import annotations

from dataclasses import dataclass

from specnorm.networks.operators.base import FloatArray, Pointwise


@dataclass(frozen=True, eq=False)
class ReLU(Pointwise):
    """max(x, 0)."""


@dataclass(frozen=True, eq=False)
class Abs(Pointwise):
    """|x|."""


@dataclass(frozen=True, eq=False)
class Negative(Pointwise):
    """-x."""


@dataclass(frozen=True, eq=False)
class LeakyReLU(Pointwise):
    """x above 0, ``alpha x`` below."""

    alpha: float = 0.01


@dataclass(frozen=True, eq=False)
class PReLU(Pointwise):
    """x above 0, ``slope x`` below, one slope an entry.

    Parameters
    ----------
    slopes : array
        float64, broadcasting against the value without making it larger.
    """

    slopes_below: FloatArray


@dataclass(frozen=True, eq=False)
class HardTanh(Pointwise):
    """x between two numbers, the nearer of them outside; infinite ones are no limit."""

    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True, eq=False)
class HardSigmoid(Pointwise):
    """``alpha x + beta`` between 0 and 1.

    Parameters
    ----------
    alpha, beta : float
    slack : float
        By how much a library's alpha may be larger, relatively (torch multiplies by 1/6 in single precision).
    """

    alpha: float = 0.2
    beta: float = 0.5
    slack: float = 0.0


@dataclass(frozen=True, eq=False)
class HardSwish(Pointwise):
    """``x min(max(x + 3, 0), 6) / 6``; libraries have 1/6 in single precision."""


@dataclass(frozen=True, eq=False)
class Threshold(Pointwise):
    """x above ``threshold``, else ``value``: without a jump where both are equal."""

    threshold: float
    value_below: float


@dataclass(frozen=True, eq=False)
class SoftShrink(Pointwise):
    """x moved towards 0 by ``lambd``, 0 where it is nearer."""

    lambd: float = 0.5


@dataclass(frozen=True, eq=False)
class TwoSlopes(Pointwise):
    """``below x`` where x <= 0, ``above x`` elsewhere: a leaky ReLU written out, one pair of slopes an entry.

    Parameters
    ----------
    below, above : array
        float64, broadcasting against the value without making it larger.
    roundings : int
        That were made in computing them.
    """

    below: FloatArray
    above: FloatArray
    roundings: int = 0
