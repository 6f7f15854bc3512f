"""The problem of a search, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from specnorm.running.clock import Clock

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.geometry.frequencies import Frequencies
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower, Upper
    from specnorm.symbols.proofs.nonnegative import Nonnegative


@dataclass(frozen=True, eq=False)
class Problem:
    """One layer, and how closely its norm is to be enclosed.

    Parameters
    ----------
    kernel : array
        In the widest dtype of the library, scaled to about 1, not traced. For searches over frequencies
        (`enclosing.enclose_blocks` and others): the layer's blocks (g, m, p, *kernel_shape). For the layer itself at
        one size (`layer.enclose_layer`): its kernel (1, *shape) in torch's order.
    spec : ConvSpec
        Geometry of the layer. For blocks, the norm is over the DFT frequencies of the circular layer if there is an
        ``input_shape``, otherwise over all frequencies.
    rtol : float
        Relative width asked for.
    max_cells : int
        Budget of one search.
    clock : Clock
        Deadline: nothing is begun once the time is up.
    nonnegative : Nonnegative, optional
        Proof that the symbol of the blocks is nowhere negative.
    """

    kernel: Array
    spec: ConvSpec
    rtol: float
    max_cells: int
    clock: Clock = field(default_factory=Clock)
    nonnegative: Nonnegative | None = None


@dataclass(frozen=True, eq=False)
class Bounds:
    """Two proven bounds of one norm; ``upper`` is None if no proof succeeded."""

    lower: Lower
    upper: Upper | None

    def within(self, rtol: float) -> bool:
        """Whether there are both bounds, and the upper one is at most ``lower * (1 + rtol)``."""
        return self.upper is not None and self.upper <= self.lower.value * (1 + rtol)


@dataclass(frozen=True, eq=False)
class SearchResult(Bounds):
    """Bounds that a search proved of the largest norm of some blocks, in their scale.

    Parameters
    ----------
    lower : Lower
        The norm of one block at ``frequency``.
    upper : Upper or None
        Bound of the norm at all frequencies of the cover; None if the budget ended first.
    frequency : Frequencies
        A single point.
    block : int
        Index of the block.
    cells, levels : int
        Numbers of cells visited and of rounds.
    vectors : tuple of arrays, shapes (1, m) and (1, p), optional
        Singular vectors at ``frequency``, if the search has them.
    """

    frequency: Frequencies
    block: int
    cells: int
    levels: int
    vectors: tuple[Array, Array] | None = None
