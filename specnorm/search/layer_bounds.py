"""A layer at its size as a problem, and two proven bounds of its norm: how those of its parts are put together."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from specnorm.certified.bound import greatest, least
from specnorm.search.clock import Clock

if TYPE_CHECKING:
    from specnorm.certified.bound import Lower, Upper
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import Array

Way = Literal["supremum", "ring", "matrix"]
WAYS: tuple[Way, ...] = ("supremum", "ring", "matrix")


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """One layer at its size, and how closely its norm is to be enclosed.

    Parameters
    ----------
    kernel : array, shape (1, *shape)
        In torch's order, scaled to about 1, with known values.
    spec : ConvSpec
        With ``input_shape``.
    rtol : float
        Relative width asked for.
    max_cells : int
        Budget of one search.
    fallback : callable
        Blocks -> a bound of the supremum of fixed cost, for where no search ends within its budget.
    deadline : float
        On the clock of `time.monotonic`; what is not begun by then is not tried.
    """

    kernel: Array
    spec: ConvSpec
    rtol: float
    max_cells: int
    fallback: Callable[[Array], Upper]
    deadline: float = math.inf

    @property
    def expired(self) -> bool:
        """Whether the deadline has passed."""
        return Clock(self.deadline).expired


@dataclass(frozen=True, eq=False)
class LayerBounds:
    """Two proven bounds of ``||A||``.

    Parameters
    ----------
    u, v : arrays, shapes (1, outputs) and (1, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding; empty where they are too large.
    gradient : array, shape (1, *shape)
        Of ``<u, A v>`` with respect to the kernel.
    way : {"supremum", "ring", "matrix"}
        What the upper bound is by.
    cells, levels : int
        Of all searches.
    """

    lower: Lower
    upper: Upper | None
    u: Array
    v: Array
    gradient: Array
    way: Way
    cells: int = 0
    levels: int = 0

    def within(self, rtol: float) -> bool:
        """Whether the bounds are so close."""
        return self.upper is not None and self.upper <= self.lower.value * (1 + rtol)

    def intersect(self, other: LayerBounds) -> LayerBounds:
        """The better of both bounds of one layer."""
        low = self if greatest(self.lower, other.lower) is self.lower else other
        found = self.with_upper(other.upper, other.way)
        cells, levels = self.cells + other.cells, self.levels + other.levels
        return LayerBounds(low.lower, found.upper, low.u, low.v, low.gradient, found.way, cells, levels)

    def with_upper(self, upper: Upper | None, way: Way) -> LayerBounds:
        """With another upper bound, if that is lower."""
        known = [bound for bound in (self.upper, upper) if bound is not None]
        if not known or least(*known) is self.upper:
            return self
        return replace(self, upper=upper, way=way)
