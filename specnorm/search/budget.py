"""What a search can still afford: where its tolerance does not fit, the tolerance that does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from specnorm.certified.symbol.cover import Cover
    from specnorm.clock import Clock
    from specnorm.search.estimates import NodeEstimates
    from specnorm.search.tuning import Tuning

_BISECTIONS = 30


class Budget:
    """Cells and seconds that are left to a search of the torus.

    Parameters
    ----------
    max_cells : int
        Of the search.
    clock : Clock
        Ends it.
    """

    def __init__(self, max_cells: int, tuning: Tuning, *, clock: Clock) -> None:
        self.max_cells, self._tuning, self._clock = max_cells, tuning, clock
        self._begun = self._each = 0.0

    def begin(self) -> None:
        """Begin a round."""
        self._begun = self._clock.left

    def end(self, cells: int) -> None:
        """End a round of so many cells: the next ones take as long."""
        self._each = (self._begun - self._clock.left) / cells if math.isfinite(self._begun) else 0.0

    def cells(self, visited: int) -> float:
        """How many more may be visited."""
        in_time = self._clock.left / self._each if self._each > 0 else math.inf
        return min(self.max_cells - visited, in_time)

    def pieces(self, cover: Cover, norms_sq: np.ndarray, threshold: float, rtol: float) -> np.ndarray:
        """How many times smaller than now the open cells have to be, shape (c,); more are not cut at once."""
        ratio = np.sqrt(norms_sq) / max(threshold, 1e-300)
        angle = np.arccos(np.clip(ratio, 0.0, 1 / (1 + (0.5 * rtol + self._tuning.angle))))
        pieces = np.ceil(self._tuning.overlap * cover.open.boxes.radius / angle)
        return np.asarray(np.clip(pieces, 2, self._tuning.pieces).astype(np.int64))

    def tolerance(self, cover: Cover, nodes: NodeEstimates, rtol: float, best: float, visited: int) -> float:
        """The tolerance that the next round can be afforded at: the same, or the closest wider one; at most 1.

        The round has the pieces of every cell that the tolerance leaves open. Its share of what is left is for it alone:
        pieces of pieces follow.
        """
        rest = np.flatnonzero(cover.norms == math.inf)
        norms_sq, radius = nodes.norms_sq[rest], cover.open.boxes.radius[rest]
        axes = int(np.count_nonzero(cover.open.boxes.half_degree))
        most = self._tuning.ahead * self.cells(visited)
        if len(rest) * self._tuning.pieces**axes <= most:
            return rtol

        def fits(tolerance: float) -> bool:
            threshold = best * (1 + self._tuning.share * tolerance)
            ratio = np.sqrt(norms_sq) / threshold
            open_ = ratio > np.cos(radius)
            angle = np.arccos(np.clip(ratio[open_], 0.0, 1 / (1 + (0.5 * tolerance + self._tuning.angle))))
            pieces = np.clip(np.ceil(self._tuning.overlap * radius[open_] / angle), 2, self._tuning.pieces)
            return float((pieces**axes).sum()) <= most

        low, high = rtol, 1.0
        if rtol >= high or fits(rtol):
            return rtol
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high
