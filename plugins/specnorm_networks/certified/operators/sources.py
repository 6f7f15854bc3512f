"""Where values come from: inputs, constants, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field

import numpy as np

from specnorm.proof import Interval, point
from specnorm_networks.certified.operators.base import Ends, FloatArray, NoBoundError, NotRunError, Operator, Place

NO_LOOPS = (
    "recurrent layers (RNN, GRU, LSTM) have no constant here that holds for every length; written out step by step "
    "(matrices, sums, activations; gates on a box) they have one, which grows with each step"
)
"""Why they are unknown."""


class Input(Operator):
    """An input of the network."""

    rule = "input"
    moves: bool = True
    """Whether a constant is asked for with respect to it; others (integers, text) are held."""
    low: FloatArray | None = None
    high: FloatArray | None = None
    """End of the box in which it is said to lie, as ``low``, broadcasting to its shape; None: no end."""

    @property
    def box(self) -> Ends | None:
        """Both ends, infinite where there is none; None: anywhere."""
        if self.low is None and self.high is None:
            return None
        ends = zip((self.low, self.high), (-math.inf, math.inf), strict=True)
        low, high = (np.asarray(far if end is None else end, dtype=np.float64) for end, far in ends)
        return low, high


class Constant(Operator):
    """A constant, which ``load`` gives as float64."""

    rule = "constant"
    load: Callable[[], FloatArray] = field(default=lambda: np.zeros(()))

    def run(self, *values: FloatArray) -> FloatArray:
        return np.asarray(self.load())

    def image(self, ranges: object, place: Place) -> Interval | None:
        value = self.run()
        return point(value) if value.dtype.kind == "f" and not np.isnan(value).any() else None


class Held(Operator):
    """What depends on shapes and integers alone, and stays as it is while floating inputs move."""

    rule = "held"
    reason: str = ""


class Unknown(Operator):
    """An operator without a rule."""

    reason: str = "this operator has no Lipschitz constant that is known here"

    def lipschitz(self, place: Place) -> float:
        raise NoBoundError(self.reason)

    def combine(self, bounds: object, place: Place) -> float:
        return self.lipschitz(place)


class Random(Operator):
    """An operator that draws random numbers."""

    rule = "random"

    def run(self, *values: FloatArray) -> FloatArray:
        raise NotRunError("it draws random numbers")

    def combine(self, bounds: object, place: Place) -> float:
        raise NoBoundError("it draws random numbers, so that the network is no function of its inputs")
