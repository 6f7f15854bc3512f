"""What a search can still afford: where its tolerance does not fit, the tolerance that does."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from specnorm.certified.symbol.cover import Cover
    from specnorm.clock import Clock
    from specnorm.search.tuning import Tuning

_BISECTIONS = 30
"""Of a wider tolerance, on a logarithmic scale."""


class Budget:
    """Cells and seconds that are left to a search of the torus.

    Parameters
    ----------
    max_cells : int
        Of the search.
    pace : float
        Seconds that a cell took in a search before; 0: not known.
    clock : Clock
        Ends it.
    relaxes : bool
        Whether the tolerance may be widened.
    """

    def __init__(self, max_cells: int, pace: float, tuning: Tuning, *, clock: Clock, relaxes: bool) -> None:
        self.max_cells, self.relaxes, self._tuning, self._clock = max_cells, relaxes, tuning, clock
        self._timed = relaxes and clock.deadline < math.inf
        self._begun = self._each = self._spent = 0.0
        self._done, self.pace = 0, pace

    def begin(self) -> None:
        """Begin a round."""
        if self._timed:
            self._begun = self._clock.left

    def end(self, cells: int, tried: int) -> None:
        """End a round of so many cells, with a proof tried of some: the next ones take as long, and a proof each."""
        if self._timed:
            each, untried = (self._begun - self._clock.left) / cells, max(0.0, 1 - tried / cells)
            expected = max(each, self.pace) if self.pace else self._tuning.proof * each
            self._each = each + (expected - each) * untried
            if untried < 1:
                self._spent, self._done = self._spent + self._each * cells, self._done + cells
                self.pace = self._spent / self._done

    def cells(self, visited: int) -> float:
        """How many more may be visited."""
        in_time = self._tuning.hurry * self._clock.left / self._each if self._each > 0 else math.inf
        return min(self.max_cells - visited, in_time)

    def holds(self, cover: Cover, norms_sq: np.ndarray, rtol: float, best: float, visited: int) -> bool:
        """Whether the next round is affordable as the open cells are going to be cut; with what `tolerance` takes."""
        boxes, most = cover.open.boxes, self._tuning.ahead * self.cells(visited)
        if not self.relaxes or len(cover) * self._tuning.pieces**boxes.half_degree.size <= most:
            return True
        rest = np.flatnonzero(cover.norms == math.inf)
        pieces = self.pieces(self._ratio(np.sqrt(norms_sq[rest]), best, rtol), boxes.radius[rest], rtol)
        return float((pieces ** int(np.count_nonzero(boxes.half_degree))).sum()) <= most

    def tolerance(self, cover: Cover, norms_sq: np.ndarray, rtol: float, best: float, visited: int) -> float:
        """The tolerance at which the next round is affordable: the same, or the closest wider one; at most 1.

        Parameters
        ----------
        norms_sq : float array, shape (c,)
            Estimates of the squares at the cells' centres; of those that did not pass, above what would have.
        best : float
            The incumbent's norm.
        visited : int
            Cells.
        """
        most = self._tuning.ahead * max(0.0, self.cells(visited))
        axes = int(np.count_nonzero(cover.open.boxes.half_degree))
        rest = np.flatnonzero(cover.norms == math.inf)
        norms, radius = np.sqrt(norms_sq[rest]), cover.open.boxes.radius[rest]

        def fits(tolerance: float) -> bool:
            ratio = self._ratio(norms, best, tolerance)
            open_ = ratio > np.cos(radius)
            count = self.pieces(ratio[open_], radius[open_], tolerance) ** axes
            return float(count.sum()) <= most

        if rtol >= 1 or fits(rtol):
            return rtol
        low, high = rtol, 1.0
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high

    def _ratio(self, norms: np.ndarray, best: float, rtol: float) -> np.ndarray:
        """Norms over the threshold of a tolerance."""
        return norms / max(best * (1 + self._tuning.share * rtol), 1e-300)

    def pieces(self, ratio: np.ndarray, radius: np.ndarray, rtol: float) -> np.ndarray:
        """How many times smaller cells have to be to pass, at least twice; more are not cut at once, shape (c,).

        Parameters
        ----------
        ratio, radius : float arrays, shape (c,)
            Norms at the centres over the threshold, and the cells' radii.
        """
        angle = np.arccos(np.clip(ratio, 0.0, 1 / (1 + (0.5 * rtol + self._tuning.angle))))
        found = np.clip(np.ceil(self._tuning.overlap * radius / angle), 2, self._tuning.pieces)
        return np.asarray(found.astype(np.int64))
