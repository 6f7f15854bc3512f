"""Operators without a rule that bounds them by their inputs: inputs of the network, constants, unknown operators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import field

import numpy as np

from specnorm.proof import Interval, point
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Lengths,
    LowHigh,
    NoBoundError,
    NotRunError,
    Operator,
    Place,
    lengths_of,
)

NO_LOOPS = (
    "recurrent layers (RNN, GRU, LSTM) have no constant here that holds for every length; written out step by step "
    "(matrices, sums, activations; gates on a box) they have one, which grows with each step"
)
"""Reason why the bound of a recurrent layer is unknown."""


class Input(Operator):
    """An input of the network."""

    rule = "input"
    may_change: bool = True
    """Whether the network's constant is with respect to this input; other inputs (integers, text) stay the same."""
    low: FloatArray | None = None
    """Low end of the box in which the user says that it lies, broadcasting to its shape; None: no end."""
    high: FloatArray | None = None
    """High end of the box, as ``low``."""

    @property
    def digested(self) -> bool:
        """What digests have of the input: a box is a region, and no part of the network."""
        return self.may_change

    @property
    def box(self) -> LowHigh | None:
        """Low and high end of the box, infinite where none is stated; None if there is no box."""
        if self.low is None and self.high is None:
            return None
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)


class Constant(Operator):
    """A constant."""

    rule = "constant"
    load: Callable[[], FloatArray] = field(default=lambda: np.zeros(()))
    """Returns the constant, as float64."""

    def run(self, *values: FloatArray) -> FloatArray:
        return np.asarray(self.load())

    def lengths(self, before: Sequence[Lengths], place: Place, norm: Callable[[], float]) -> Lengths | None:
        return lengths_of(self.run())

    def image(self, ranges: object, place: Place) -> Interval | None:
        value = self.run()
        return point(value) if value.dtype.kind == "f" and not np.isnan(value).any() else None


class Held(Operator):
    """A value that depends on shapes and integers alone, so that it stays the same while floating inputs change."""

    rule = "held"
    reason: str = ""
    """Why its numbers are not known."""


class Unknown(Operator):
    """An operator without a rule."""

    reason: str = "this operator has no Lipschitz constant that is known here"
    """Why it has no bound."""

    def combine(self, bounds: object, place: Place) -> float:
        raise NoBoundError(self.reason)


class Random(Operator):
    """An operator that draws random numbers."""

    rule = "random"

    def run(self, *values: FloatArray) -> FloatArray:
        raise NotRunError("it draws random numbers")

    def combine(self, bounds: object, place: Place) -> float:
        raise NoBoundError("it draws random numbers, so that the network is not a function of its inputs")
