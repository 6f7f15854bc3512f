"""What searches answer: two bounds of one number, where one of them is attained, and how the search ended."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum
from typing import Any

import numpy as np

from specnorm.proofs.bound import Lower, Upper, finite, known
from specnorm.proofs.frequencies import Frequencies


class Outcome(Enum):
    """How an enclosure ended: the first word of `Enclosure.status`. Its bounds are proven in each case."""

    CONVERGED = "converged"
    BUDGET = "budget"
    SIZE = "size"
    PADDING = "padding"
    RANGE = "range"
    ZERO = "zero"
    CELLS = "cells"

    @property
    def advice(self) -> str:
        """What to do for closer bounds."""
        return _ADVICE[self]


_ADVICE = {
    Outcome.CONVERGED: "give a smaller rtol",
    Outcome.BUDGET: "give a larger budget, or a larger rtol",
    Outcome.SIZE: "no proof that was affordable comes closer: give a larger budget, or a larger rtol",
    Outcome.PADDING: "give input_shape, a smaller one, or a larger budget: a small layer is enclosed by its own matrix",
    Outcome.ZERO: "no proof tells the value from 0; at an input_shape it may be larger",
    Outcome.CELLS: "more time does not help: give a larger rtol, or input_shape, at which far fewer frequencies count",
    Outcome.RANGE: "scale the kernel by a power of two, or give it in float64: the norm scales with it",
}


class BoundSource(IntEnum):
    """What the proof of the upper bound of a layer at its size rests on."""

    SUPREMUM = 0
    CIRCULANT = 1
    MATRIX = 2

    @property
    def words(self) -> str:
        """What it is."""
        return _SOURCES[self]


_SOURCES = (
    "the supremum over all sizes",
    "a circulant that the layer is a part of",
    "the layer's own matrix",
)

NOWHERE = Frequencies(np.zeros((0, 0), dtype=np.int64), ())
"""The frequency of a witness that has none."""


@dataclass(frozen=True, eq=False)
class Witness:
    """Where a number is attained: a block at one frequency, or the layer itself at its size.

    Parameters
    ----------
    block : int
        Index of the block, or of the matrix.
    frequency : Frequencies
        A single point; `NOWHERE` for a matrix and for a layer at its size.
    u, v : arrays, shapes (1, m) and (1, p), optional
        Singular vectors of the symbol, if the search has them; of a layer an output and an input, empty if they are
        too large.
    gradient : callable, optional
        Of a layer: returns the gradient of ``<u, A v>`` with respect to the kernel, shape (1, *shape).
    """

    block: int = 0
    frequency: Frequencies = NOWHERE
    u: Any = None
    v: Any = None
    gradient: Any = None


@dataclass(frozen=True, eq=False)
class Found:
    """Two proven bounds of one number, where one of them is attained, and how the search for them ended.

    Parameters
    ----------
    lower : Lower
        Of a norm, attained at the witness.
    upper : Upper or None
        Of a smallest singular value, attained at the witness; None if no proof succeeded.
    witness : Witness
    cells, levels : int
        Numbers of cells visited and of rounds: totals of searches in turn, the largest of those side by side.
    source : BoundSource
        Of the upper bound of a layer at its size; without a meaning if there is none.
    ended : Outcome or None
        `Outcome.ZERO` or `Outcome.CELLS`, if more time would not have helped.
    """

    lower: Lower
    upper: Upper | None
    witness: Witness = field(default_factory=Witness)
    cells: int = 0
    levels: int = 0
    source: BoundSource = BoundSource.SUPREMUM
    ended: Outcome | None = None

    @property
    def ends(self) -> tuple[Lower, Upper]:
        """Both bounds; raises a `HypothesisError` if there is no upper one."""
        return self.lower, known(self.upper)

    @property
    def highest(self) -> float:
        """The upper bound as a number: infinity if there is none."""
        return finite(self.upper)

    def within(self, rtol: float) -> bool:
        """Whether there are both bounds, and the upper one is at most ``lower * (1 + rtol)``."""
        return self.highest <= self.lower.value * (1 + rtol)

    @property
    def width(self) -> float:
        """Relative distance of the bounds; infinite without an upper one, or if the lower one is 0."""
        if self.upper is None or not self.lower > 0:
            return math.inf
        return self.upper.value / self.lower.value - 1

    def intersect(self, other: Found) -> Found:
        """The larger lower and the smaller upper bound of two pairs for one layer."""
        closer_below = self if Lower.greatest(self.lower, other.lower) is self.lower else other
        closer_above = self.with_upper(other.upper, other.source)
        return Found(
            closer_below.lower,
            closer_above.upper,
            closer_below.witness,
            cells=self.cells + other.cells,
            levels=self.levels + other.levels,
            source=closer_above.source,
        )

    def with_upper(self, upper: Upper | None, source: BoundSource) -> Found:
        """These bounds with another upper bound, if that is lower."""
        proven = [bound for bound in (self.upper, upper) if bound is not None]
        if not proven or Upper.least(*proven) is self.upper:
            return self
        return replace(self, upper=upper, source=source)
