"""GELU, SiLU and Mish: x times a number between 0 and 1, with constants that the tests prove by ball arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from specnorm.certified import host
from specnorm.certified.interval import enclosing
from specnorm_networks.certified.operators.base import Ends, FloatArray
from specnorm_networks.certified.operators.curvature import Curve, Extent, Turn, Turning, erf, erfc, sigmoid

SMALLEST = 1e-100
"""Factor of an argument, such that no quotient by it overflows that matters."""


def _odd(above: Callable[[FloatArray], FloatArray]) -> Callable[[FloatArray], FloatArray]:
    """A derivative with ``f'(x) + f'(-x) = 1``, from its values above 0, where nothing cancels."""

    def derivative(x: FloatArray) -> FloatArray:
        found = above(abs(x))
        return np.where(x < 0, 1 - found, found)

    return derivative


def _silu(x: FloatArray) -> FloatArray:
    small = np.exp(-x)
    return np.asarray(1 / (1 + small) + x * small / (1 + small) ** 2)


def _gelu(x: FloatArray) -> FloatArray:
    bell = np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)
    return np.asarray(0.5 * (1 + erf(x / math.sqrt(2))) + x * bell)


def _gelu_tanh(x: FloatArray) -> FloatArray:
    scale = math.sqrt(2 / math.pi)
    small = np.exp(-2 * scale * x * (1 + 0.044715 * np.square(x)))
    steep = 2 * scale * (1 + 3 * 0.044715 * np.square(x)) * x
    return np.asarray(1 / (1 + small) + steep * small / (1 + small) ** 2)


def _mish(x: FloatArray) -> FloatArray:
    """``t + x t'`` with t = tanh(log(1 + e^x)), by powers of e^-|x|."""
    small = np.exp(-abs(x))
    left, right = small * (2 + small), 1 + 2 * small
    below, above = left + 2, right + 2 * small**2
    t = np.where(x < 0, left / below, right / above)
    steep = 4 * (1 + small) * np.where(x < 0, small / below**2, (small / above) ** 2)
    return np.asarray(t + x * steep)


class Gated(Turning):
    """x times a number between 0 and 1."""

    def gate(self, x: FloatArray) -> FloatArray:
        """The number."""
        raise NotImplementedError

    def value(self, x: FloatArray) -> FloatArray:
        """The product; 0 where the gate is 0, for infinite x, too."""
        gate = self.gate(x)
        return np.where(gate == 0, 0.0, x * gate)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        down, up = super().between(low, high)
        return np.maximum(down, np.minimum(low, 0.0)), np.minimum(up, np.maximum(high, 0.0))


class GELU(Gated):
    """``x Phi(x)``, or its form by tanh."""

    form: Literal["erf", "tanh"] = "erf"

    def gate(self, x: FloatArray) -> FloatArray:
        """The distribution of a normal number; (1 + tanh(y / 2)) / 2 = sigmoid(y)."""
        if self.form == "erf":
            return np.asarray(0.5 * erfc(-x / math.sqrt(2)))
        return sigmoid(2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))

    def extent(self) -> Extent | None:
        """Phi(x) + x phi(x) at the root of 2; slopes at x and at -x have the sum 1."""
        return (-0.12892, 1.12892) if self.form == "erf" else (-0.12900, 1.12900)

    def turns(self) -> tuple[Turn, ...]:
        if self.form == "erf":
            return (((-0.75180, -0.75179), (-0.169971208, -0.169971207)),)
        return (((-0.75247, -0.75246), (-0.170040751, -0.170040750)),)

    def curve(self) -> Curve:
        if self.form == "erf":
            return Curve(_odd(_gelu), ((-1.41422, -1.41421),), ((1.41421, 1.41422),))
        return Curve(_odd(_gelu_tanh), ((-1.4186, -1.4185),), ((1.4185, 1.4186),))


class Mish(Gated):
    """``x tanh(softplus(x))``."""

    whole = (-0.11253, 1.08851)  # at -2.2564 and 1.4906
    steepness = Curve(_mish, ((-2.2564, -2.2563),), ((1.4905, 1.4906),))
    bends = (((-1.19244, -1.19243), (-0.308843414, -0.308843413)),)

    def gate(self, x: FloatArray) -> FloatArray:
        return np.tanh(np.logaddexp(0.0, x))


class SiLU(Gated):
    """``x sigmoid(alpha x)``: ``silu(alpha x) / alpha``, of the slopes of silu whatever alpha is; of 1/2 for 0."""

    whole = (-0.09985, 1.09985)  # s (1 + x (1 - s)) at 2.3994
    steepness = Curve(_odd(_silu), ((-2.39936, -2.39935),), ((2.39935, 2.39936),))  # x tanh(x / 2) = 2
    bends = (((-1.27847, -1.27846), (-0.278464543, -0.278464542)),)
    alpha: float = 1.0

    def gate(self, x: FloatArray) -> FloatArray:
        return sigmoid(np.zeros(x.shape) if self.alpha == 0 else self.alpha * x)

    def extent(self) -> Extent | None:
        """Slopes at x and at -x have the sum 1, whatever alpha is."""
        return self.whole if math.isfinite(self.alpha) else None

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        return super().slopes(*enclosing((low, high)).scaled(self.alpha).ends)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        """``silu(alpha x) / alpha``; and between 0 and x."""
        if self.alpha == 1:
            return super().between(low, high)
        least, most = np.minimum(low, 0.0), np.maximum(high, 0.0)
        if not SMALLEST < abs(self.alpha) < 1 / SMALLEST:
            return least, most
        ends = SiLU().between(*enclosing((low, high)).scaled(self.alpha).ends)
        down, up = (end / self.alpha for end in (ends if self.alpha > 0 else ends[::-1]))
        return np.maximum(host.next_down(down), least), np.minimum(host.next_up(up), most)
