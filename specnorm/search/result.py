"""What a search proved."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from specnorm.certified.bound import Lower, Upper
    from specnorm.problem.frequencies import Frequencies
    from specnorm.types import Array


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search proved about the largest norm of some blocks, in their scale.

    Parameters
    ----------
    lower : Lower
        The norm of one block at ``frequency``.
    upper : Upper or None
        Nothing in the cover exceeds it; None where the budget ended first.
    frequency : Frequencies
        One point.
    block : int
        Index of the block.
    cells, levels : int
        Cells visited, and rounds.
    vectors : tuple of arrays, shapes (1, m) and (1, p), optional
        Singular vectors there, where the search has them.
    """

    lower: Lower
    upper: Upper | None
    frequency: Frequencies
    block: int
    cells: int
    levels: int
    vectors: tuple[Array, Array] | None = None

    @property
    def width(self) -> float:
        """Relative distance of the bounds, rounded; infinite without both."""
        return math.inf if self.upper is None else self.upper.value / max(self.lower.value, 1e-300) - 1

    def within(self, rtol: float) -> bool:
        """Whether there are both bounds, so close."""
        return self.upper is not None and self.upper <= self.lower.value * (1 + rtol)
