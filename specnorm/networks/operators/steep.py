"""Functions of each entry that have a constant where their inputs lie in a range."""

from __future__ import annotations

from dataclasses import dataclass

from specnorm.networks.operators.base import Pointwise


@dataclass(frozen=True, eq=False)
class Steep(Pointwise):
    """A function whose slope is bounded on ranges alone."""


@dataclass(frozen=True, eq=False)
class Exp(Steep):
    """exp."""


@dataclass(frozen=True, eq=False)
class Log(Steep):
    """The natural logarithm."""


@dataclass(frozen=True, eq=False)
class Power(Steep):
    """Whole powers, from 1 to `MOST`."""

    exponent: int


@dataclass(frozen=True, eq=False)
class Sqrt(Steep):
    """The root."""


@dataclass(frozen=True, eq=False)
class Rsqrt(Steep):
    """One over the root."""


@dataclass(frozen=True, eq=False)
class Reciprocal(Steep):
    """``scale / x``."""

    scale: float = 1.0
