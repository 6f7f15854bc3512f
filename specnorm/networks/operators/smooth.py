"""Smooth functions of each entry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from specnorm.networks.operators.base import Pointwise


@dataclass(frozen=True, eq=False)
class Sigmoid(Pointwise):
    """1 / (1 + exp(-x))."""


@dataclass(frozen=True, eq=False)
class Tanh(Pointwise):
    """tanh."""


@dataclass(frozen=True, eq=False)
class ELU(Pointwise):
    """``scale x`` above 0, ``scale alpha (exp(input_scale x) - 1)`` below."""

    alpha: float = 1.0
    scale: float = 1.0
    input_scale: float = 1.0


@dataclass(frozen=True, eq=False)
class CELU(Pointwise):
    """x above 0, ``alpha (exp(x / alpha) - 1)`` below."""

    alpha: float = 1.0


@dataclass(frozen=True, eq=False)
class GELU(Pointwise):
    """``x Phi(x)``, or its form by tanh."""

    form: Literal["erf", "tanh"] = "erf"


@dataclass(frozen=True, eq=False)
class SiLU(Pointwise):
    """``x sigmoid(alpha x)``: ``silu(alpha x) / alpha``, of the slopes of silu whatever alpha is."""

    alpha: float = 1.0


@dataclass(frozen=True, eq=False)
class Mish(Pointwise):
    """``x tanh(softplus(x))``."""


@dataclass(frozen=True, eq=False)
class Softplus(Pointwise):
    """``log(1 + exp(beta x)) / beta``, the identity where ``beta x`` is above ``threshold``."""

    beta: float = 1.0
    threshold: float = float("inf")


@dataclass(frozen=True, eq=False)
class Softsign(Pointwise):
    """``x / (1 + |x|)``."""


@dataclass(frozen=True, eq=False)
class LogSigmoid(Pointwise):
    """``log(sigmoid(x))``."""


@dataclass(frozen=True, eq=False)
class TanhShrink(Pointwise):
    """``x - tanh(x)``."""


@dataclass(frozen=True, eq=False)
class Erf(Pointwise):
    """The error function."""


@dataclass(frozen=True, eq=False)
class Sin(Pointwise):
    """sin."""


@dataclass(frozen=True, eq=False)
class Cos(Pointwise):
    """cos."""


@dataclass(frozen=True, eq=False)
class Arctan(Pointwise):
    """arctan."""


@dataclass(frozen=True, eq=False)
class Multiple(Pointwise):
    """``outer * function(inner * x)``: functions that are written out with factors.

    Parameters
    ----------
    function : Pointwise
    outer, inner : float
        Neither is 0.
    roundings : int
        That were made in computing each of the factors.
    """

    function: Pointwise
    outer: float = 1.0
    inner: float = 1.0
    roundings: int = 0
