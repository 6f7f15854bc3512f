"""Smooth functions of each entry, with largest and smallest slopes that the tests prove by ball arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from specnorm.certified import host
from specnorm.certified.interval import enclosing
from specnorm_networks.certified.operators.base import Ends, FloatArray
from specnorm_networks.certified.operators.curvature import (
    CLOSE,
    LOST,
    ROUNDINGS,
    Bell,
    Curve,
    Curved,
    Extent,
    Turning,
    erf,
    sigmoid,
)

JUMP_FREE = 20.0
"""Threshold of softplus from which its jump is below 2.1e-9 / beta and is not counted as a slope."""
MOST_TURNS = 2.0**20
"""Size of arguments from which sine and cosine are taken to have every value and slope."""


# -- bells ---------------------------------------------------------------------------------------------------------
class Sigmoid(Bell):
    """1 / (1 + exp(-x)), of slope s (1 - s)."""

    whole = (0.0, 0.25)
    limits = (0.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return sigmoid(x)

    def bell(self, distance: FloatArray) -> FloatArray:
        small = np.exp(-distance)
        return np.asarray(small / (1 + small) ** 2)


class Tanh(Bell):
    """2 sigmoid(2 x) - 1, of slope 1 - tanh^2."""

    whole = (0.0, 1.0)
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.tanh(x)

    def bell(self, distance: FloatArray) -> FloatArray:
        return 4 * Sigmoid().bell(2 * distance)


class Softsign(Bell):
    """``x / (1 + |x|)``."""

    whole = (0.0, 1.0)
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(np.isinf(x), np.sign(x), x / (1 + abs(x)))

    def bell(self, distance: FloatArray) -> FloatArray:
        return np.asarray(1 / np.square(1 + distance))


class Arctan(Bell):
    """The inverse of the tangent."""

    whole = (0.0, 1.0)
    limits = (-1.5707963267948968, 1.5707963267948968)  # half of pi, rounded up

    def value(self, x: FloatArray) -> FloatArray:
        return np.arctan(x)

    def bell(self, distance: FloatArray) -> FloatArray:
        return 1 / (1 + np.square(distance))


# -- derivatives that turn at 0 or nowhere --------------------------------------------------------------------------
def _tanhshrink(x: FloatArray) -> FloatArray:
    small = np.exp(-2 * abs(x))
    return np.asarray(((1 - small) / (1 + small)) ** 2)


class LogSigmoid(Turning):
    """``log(sigmoid(x))``."""

    whole = (0.0, 1.0)
    steepness = Curve(lambda x: sigmoid(-x))
    limits = (-math.inf, 0.0)

    def value(self, x: FloatArray) -> FloatArray:
        return -np.logaddexp(0.0, -x)


class TanhShrink(Turning):
    """``x - tanh(x)``."""

    whole = (0.0, 1.0)  # tanh^2
    steepness = Curve(_tanhshrink, ((0.0, 0.0),))

    def value(self, x: FloatArray) -> FloatArray:
        return x - np.tanh(x)


class Erf(Turning):
    """The error function."""

    whole = (0.0, 1.1283791670955128)  # 2 / sqrt(pi) at 0
    steepness = Curve(lambda x: 2 / math.sqrt(math.pi) * np.exp(-np.square(x)), (), ((0.0, 0.0),))
    limits = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.asarray(erf(x))


class Softplus(Curved):
    """``log(1 + exp(beta x)) / beta``, the identity where ``beta x`` is above ``threshold``.

    It jumps there by log(1 + exp(-threshold)) / beta.
    """

    beta: float = 1.0
    threshold: float = math.inf

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(self.beta * x > self.threshold, x, np.logaddexp(0.0, self.beta * x) / self.beta)

    def off(self, x: FloatArray, value: FloatArray) -> FloatArray:
        # The jump besides, at an end and at any place between.
        return super().off(x, value) + 2 * self._jump()

    def extent(self) -> Extent | None:
        # sigmoid(beta x), whatever the sign of beta is.
        fits = self.beta != 0 and math.isfinite(self.beta) and self.threshold >= JUMP_FREE
        return (0.0, 1.0) if fits else None

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        """Of log(1 + exp) at beta x; 1 above the threshold."""
        if self.extent() is None:
            return None
        low, high = enclosing((low, high)).scaled(self.beta).ends
        down, up = Curve(sigmoid).slopes((0.0, 1.0), low, high)
        return down, np.where(high >= self.threshold, 1.0, up)

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """Elementary functions; a library may see the threshold one rounding earlier or later."""
        return np.asarray(super().rounding(values, result, unit)) + self._jump()

    def _jump(self) -> float:
        if self.beta == 0:
            return math.inf
        return host.inflate(float(np.logaddexp(0.0, -self.threshold)) / abs(self.beta), ROUNDINGS)


# -- exponentials below 0 ------------------------------------------------------------------------------------------
class Exponential(Curved):
    """A line above 0, a multiple of an exponential less 1 below, both 0 at 0."""

    bends = (((0.0, 0.0), (0.0, 0.0)),)  # slopes may change their sign

    def sides(self) -> tuple[float, float, float] | None:
        """Slope above 0, slope just below 0 rounded away from 0, and value at -infinity; None: no slope is known."""
        raise NotImplementedError

    def argument(self, x: FloatArray) -> FloatArray:
        raise NotImplementedError

    def extent(self) -> Extent | None:
        """The slope above 0; between 0 and the slope at 0 below."""
        sides = self.sides()
        if sides is None or not all(map(math.isfinite, sides)):
            return None
        return min(0.0, *sides[:2]), max(0.0, *sides[:2])

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        """Below 0 the exponential, which rises: an error of its argument a u makes at most one of a exp(a) u < u."""
        sides, extent = self.sides(), self.extent()
        if sides is None or extent is None:
            return None
        above, steep, _ = sides
        with np.errstate(all="ignore"):
            least, most = (np.exp(self.argument(np.minimum(end, 0.0))) for end in (low, high))
        least, most = np.maximum(host.next_down(least - LOST), 0.0), np.minimum(host.next_up(most + LOST), 1.0)
        # ``steep`` was rounded away from 0 a few times.
        least, most = host.next_down(host.lowered(abs(steep), 14) * least), host.next_up(abs(steep) * most)
        down, up = (least, most) if steep >= 0 else (-most, -least)
        falls, rises = (low < 0) | (high <= 0), (high > 0) | (low >= 0)
        down = np.where(falls, np.where(rises, np.minimum(down, above), down), above)
        up = np.where(falls, np.where(rises, np.maximum(up, above), up), above)
        return np.maximum(down, extent[0]), np.minimum(up, extent[1])

    def rounding(self, values: Sequence[FloatArray], result: FloatArray, unit: float) -> FloatArray | float:
        """Elementary functions; a library may compute exp(x) - 1 by a difference. One that grows feels its argument."""
        sides, (x,) = self.sides(), values
        lost = 0.0 if sides is None else np.where(x < 0, 16 * unit * abs(sides[2]), 0.0)
        grows = 1.0 if sides is not None else 1 + np.where(x < 0, abs(self.argument(x)), 0.0)
        return super().rounding(values, result, unit) * grows + lost


class ELU(Exponential):
    """``scale x`` above 0, ``scale alpha (exp(input_scale x) - 1)`` below."""

    alpha: float = 1.0
    scale: float = 1.0
    input_scale: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        below = self.scale * self.alpha * np.expm1(self.argument(np.minimum(x, 0.0)))
        return np.where(x > 0, self.scale * x, below)

    def argument(self, x: FloatArray) -> FloatArray:
        return np.zeros(x.shape) if self.input_scale == 0 else self.input_scale * x

    def sides(self) -> tuple[float, float, float] | None:
        """None for a negative ``input_scale``, where the exponential grows."""
        if not self.input_scale >= 0:
            return None
        steep = host.mul_up(abs(self.alpha), abs(self.scale), self.input_scale)
        ends = self.alpha * self.scale
        return self.scale, math.copysign(steep, self.alpha) * math.copysign(1.0, self.scale), ends


class CELU(Exponential):
    """x above 0, ``alpha (exp(x / alpha) - 1)`` below."""

    alpha: float = 1.0

    def value(self, x: FloatArray) -> FloatArray:
        return np.where(x > 0, x, self.alpha * np.expm1(self.argument(np.minimum(x, 0.0))))

    def argument(self, x: FloatArray) -> FloatArray:
        return x / self.alpha

    def sides(self) -> tuple[float, float, float] | None:
        """None for alpha <= 0, where the exponential grows."""
        return (1.0, 1.0, self.alpha) if self.alpha > 0 else None


# -- waves ---------------------------------------------------------------------------------------------------------
def _wave(f: Callable[[FloatArray], FloatArray], top: float, low: FloatArray, high: FloatArray) -> Ends:
    """Values of a wave on intervals, with ``f(top) = 1``, rounded outward."""
    with np.errstate(all="ignore"):
        far = ~((abs(low) < MOST_TURNS) & (abs(high) < MOST_TURNS))

        def meets(place: float) -> FloatArray:
            # 2 pi k is off by less than 2^-51 2^21.
            turns = np.ceil((low - place - 2.0**-26) / (2 * math.pi))
            return np.asarray(far | (place + 2 * math.pi * turns <= high + 2.0**-26))

        ends = [f(end) for end in (low, high)]
        down, up = np.minimum(*ends) - CLOSE, np.maximum(*ends) + CLOSE
        down = np.where(meets(top + math.pi), -1.0, np.maximum(down, -1.0))
        return down, np.where(meets(top), 1.0, np.minimum(up, 1.0))


class Sin(Curved):
    """The sine, of which the cosine is the derivative."""

    whole = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.sin(x)

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        return _wave(np.cos, 0.0, low, high)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return _wave(np.sin, math.pi / 2, low, high)


class Cos(Curved):
    """The cosine, of which minus the sine is the derivative."""

    whole = (-1.0, 1.0)

    def value(self, x: FloatArray) -> FloatArray:
        return np.cos(x)

    def slopes(self, low: FloatArray, high: FloatArray) -> Ends | None:
        return _wave(lambda x: -np.sin(x), -math.pi / 2, low, high)

    def between(self, low: FloatArray, high: FloatArray) -> Ends:
        return _wave(np.cos, 0.0, low, high)
