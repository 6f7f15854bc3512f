"""The problem of a search, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specnorm.clock import Clock

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Lower, Upper
    from specnorm.certified.symbol.cover import Nonnegative
    from specnorm.problem.frequencies import Frequencies
    from specnorm.problem.spec import ConvSpec


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer, and how closely its norm is to be enclosed.

    Parameters
    ----------
    kernel : array
        In the wide dtype, scaled to about 1, with values that can be read. For `enclosing.enclose_blocks`, and whatever
        searches frequencies: the layer's blocks (g, m, p, *kernel_shape). For `layer.enclose_layer`, and whatever
        encloses the layer itself at its size: its kernel (1, *shape) in torch's order.
    spec : ConvSpec
        The layer's geometry. With blocks and ``input_shape``, the norm is over the DFT frequencies of the circular
        layer; with blocks and without ``input_shape``, over all frequencies.
    rtol : float
        Relative width asked for.
    max_cells : int
        Budget of one search.
    clock : Clock
        What is not begun by its end is not tried.
    nonnegative : Nonnegative, optional
        That the symbol of the blocks is nowhere negative.
    """

    kernel: Array
    spec: ConvSpec
    rtol: float
    max_cells: int
    clock: Clock = field(default_factory=Clock)
    nonnegative: Nonnegative | None = None


@dataclass(frozen=True, eq=False)
class Bounds:
    """Two proven bounds of one norm; ``upper`` is None where no proof came through."""

    lower: Lower
    upper: Upper | None

    def within(self, rtol: float) -> bool:
        """Whether there are both bounds, and the upper one is at most ``lower * (1 + rtol)``."""
        return self.upper is not None and self.upper <= self.lower.value * (1 + rtol)


@dataclass(frozen=True, eq=False)
class SearchResult(Bounds):
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

    frequency: Frequencies
    block: int
    cells: int
    levels: int
    vectors: tuple[Array, Array] | None = None
