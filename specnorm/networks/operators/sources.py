"""Where values come from: inputs, constants, and what is not known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from specnorm.networks.operators.base import FloatArray, NoBoundError, NotRunError, Operator, Place
from specnorm.networks.regions import Range


@dataclass(frozen=True, eq=False)
class Input(Operator):
    """An input of the network.

    Parameters
    ----------
    moves : bool
        Whether a constant is asked for with respect to it; others (integers, text) are held.
    low, high : array or None
        Ends of the box in which it is said to lie, broadcasting to its shape; None: anywhere.
    """

    rule: ClassVar[str] = "input"
    moves: bool = True
    low: FloatArray | None = None
    high: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Constant(Operator):
    """A constant.

    Parameters
    ----------
    load : callable
        Gives it, as float64.
    """

    rule: ClassVar[str] = "constant"
    load: Callable[[], FloatArray] = field(default=lambda: np.zeros(()))

    def run(self, *values: FloatArray) -> FloatArray:
        """The constant."""
        del values
        return np.asarray(self.load())

    def image(self, ranges: object, place: Place) -> Range | None:
        """One point."""
        del ranges, place
        value = self.run()
        return Range(value, value) if value.dtype.kind == "f" else None


@dataclass(frozen=True, eq=False)
class Held(Operator):
    """What depends on shapes and integers alone, and stays as it is while floating inputs move."""

    rule: ClassVar[str] = "held"
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Unknown(Operator):
    """An operator without a rule.

    Parameters
    ----------
    reason : str
        Why.
    """

    rule: ClassVar[str] = "unknown"
    reason: str = "this operator has no Lipschitz constant that is known here"

    def lipschitz(self, place: Place) -> float:
        """None."""
        del place
        raise NoBoundError(self.reason)

    def combine(self, bounds: object, place: Place) -> float:
        """None."""
        del bounds
        return self.lipschitz(place)


@dataclass(frozen=True, eq=False)
class Random(Operator):
    """An operator that draws random numbers."""

    rule: ClassVar[str] = "random"

    def run(self, *values: FloatArray) -> FloatArray:
        """Not executed: it gives another value at each call."""
        del values
        raise NotRunError("it draws random numbers")

    def combine(self, bounds: object, place: Place) -> float:
        """None, however its inputs move."""
        del bounds, place
        raise NoBoundError("it draws random numbers, so that the network is no function of its inputs")
