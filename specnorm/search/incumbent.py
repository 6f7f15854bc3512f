"""The lower end of a search: the highest norm at one frequency, proven, and the climbs that find it.

How it is found decides how close the ends of an enclosure come, never whether they are true.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg import arrays, symbols
from specnorm.linalg.frequencies import Frequencies, coarse_grid, product
from specnorm.proof import rounding
from specnorm.search.ascent import Ascent, nearby

if TYPE_CHECKING:
    from specnorm.proof.cells import Cells
    from specnorm.proof.gram_polynomial import GramPolynomial
    from specnorm.types import Array, ArrayOps

_HINTS = 4
"""Frequencies whose vectors are kept when directions are left out."""
_MANY, _CLIMBS, _NEAR = 48, 12, 0.95
"""Cells of a round from which so many centres are climbed from, and how near their squared norms must be."""


@dataclass(frozen=True, eq=False)
class Peak:
    """A proven norm from below: of one block at one frequency."""

    value: float
    frequency: Frequencies
    owner: int


class LowerEnd:
    """The highest norm of a stack of blocks that a search knows of.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1, not all zero; p <= m.
    seed : int
        Of the start vectors.

    Attributes
    ----------
    best : Peak
    hints : array, shape (g, h, p), or None
        Right vectors at coarse frequencies where the norm is large.
    """

    def __init__(self, blocks: Array, *, seed: int, ops: ArrayOps) -> None:
        xp = ops.xp
        self.blocks, self.seed, self.xp, self.ops = blocks, seed, ops.xp, ops
        self._symbol_error = ops.to_numpy(rounding.symbol_error(blocks, xp=xp)) * (1 + 1e-12)
        self._rough: Array | None = None
        self._right = self.start_vectors(1, blocks.shape[2])
        self.hints: Array | None = None

    def begin(self, start: Peak, *, free: bool, rtol: float, bound: float | None) -> None:
        """Search on from a norm.

        Parameters
        ----------
        start : Peak
        free : bool
            Whether frequencies may move (on a grid they may not).
        rtol : float
            What is higher by less does not matter.
        bound : float, optional
            Only what is higher than this matters.
        """
        self.best, self._free, self._rtol, self._bound = start, free, rtol, bound
        self._waiting: tuple[Frequencies, Array, int] | None = None

    def start_vectors(self, count: int, size: int) -> Array:
        """Return ``count`` times the same complex vector, shape (count, size)."""
        start = arrays.start_vector(self.seed, size)
        return self.ops.from_numpy(np.broadcast_to(start, (count, size)).astype(np.complex128), self.blocks)

    def look_around(self, *, raise_it: bool) -> None:
        """Power steps at coarse frequencies: hints, and a first norm."""
        if self.hints is not None and not raise_it:
            return
        xp, (groups, _, p) = self.xp, self.blocks.shape[:3]
        frequencies, blocks = coarse_grid(tuple(self.blocks.shape[3:])), self._for_guesses()
        symbol = symbols.Symbol(blocks, frequencies, ops=self.ops)
        v = xp.reshape(self.start_vectors(groups * len(frequencies), p), (groups, len(frequencies), p))
        v = xp.astype(v, arrays.complex_dtype(blocks.dtype, xp=xp), copy=False)
        for _ in range(3):
            v, norms = arrays.normalise(symbol.apply_adjoint(symbol.apply(v)), xp=xp)
        host, vectors = self.ops.to_numpy(norms)[:, :, 0], self.ops.to_numpy(v)
        order = np.argsort(-host, axis=1, kind="stable")[:, :_HINTS]
        hints = np.take_along_axis(vectors, order[:, :, None], axis=1).astype(np.complex128)
        if raise_it:
            which, best = divmod(int(np.argmax(host)), len(frequencies))
            right = xp.astype(v[which, best : best + 1, :], arrays.complex_dtype(self.blocks.dtype, xp=xp), copy=False)
            self._waiting = (frequencies[best : best + 1], right, which)
            # The climb from there waits for the first cells.
            self._note(*self._waiting)
        self.hints = self.ops.from_numpy(hints, self.blocks)

    def raise_from(
        self, polynomial: GramPolynomial, cells: Cells, below: np.ndarray, squares: np.ndarray, vectors: Array
    ) -> None:
        """Climb from the centres with the largest estimates, if that is news.

        Parameters
        ----------
        polynomial : GramPolynomial
            That the estimates are of.
        cells : Cells
        below, squares : float arrays, shape (c,)
            Squared norms at the centres from below, and those of the reduced matrices.
        vectors : array, shape (c, rank)
        """
        # Without a bound the search is as good as its lower end; with one, only a refutation matters.
        news = (self.best.value if self._bound is None else self._bound) ** 2
        # Many cells left: a flat norm with many local maxima. Others than the highest centre may lead higher.
        many = self._bound is None and len(below) > _MANY
        order = np.argsort(-below, kind="stable")[: _CLIMBS if many else 1]
        # What is higher by less than the tolerance has been climbed to from elsewhere, or does not matter.
        chosen = order[below[order] > (_NEAR if many else 1 + 0.2 * self._rtol) * news]
        coarse, self._waiting = self._waiting, None
        blocks = {*cells.owner[chosen].tolist(), *([] if coarse is None else [coarse[2]])}
        for which in sorted(blocks):
            index = chosen[cells.owner[chosen] == which]
            starts, right = cells.boxes[index].centres, vectors[:0, ...]
            if len(index):
                parts = polynomial.parts(starts, cells.owner[index])
                chosen_vectors = arrays.rows(vectors, index, ops=self.ops)
                _, full = polynomial.lift(parts, chosen_vectors, squares[index])
                right = polynomial.unrotated(full, which)
            if coarse is not None and coarse[2] == which:
                starts = nearby(np.concatenate([coarse[0].angles, starts.angles]))
                first = self.xp.astype(coarse[1], right.dtype)
                right = self.xp.concat([first, right], axis=0) if len(index) else first
            self._climb(starts, right, which)

    def at_nearest(self, where: Peak, sizes: tuple[int, ...]) -> int:
        """Begin on a grid, at its best frequency next to one of the torus.

        Parameters
        ----------
        where : Peak
            Of the last search of the torus.
        sizes : tuple of int
            Points a turn.

        Returns
        -------
        int
            How many frequencies were compared.
        """
        below = np.floor(where.frequency.angles[0] / (2 * math.pi) * np.asarray(sizes)).astype(np.int64)
        corners = product([np.asarray([n, n + 1]) for n in below]) % np.asarray(sizes, dtype=np.int64)
        points, block = Frequencies(corners, sizes), self.blocks[where.owner : where.owner + 1, ...]
        self.begin(Peak(0.0, points[:1], where.owner), free=False, rtol=1e-3, bound=None)
        symbol = symbols.Symbol(block, points, ops=self.ops)
        spread = self.xp.broadcast_to(self._right[:, None, :], (1, len(points), self._right.shape[-1]))
        norms = self.xp.linalg.vector_norm(symbol.apply(spread), axis=-1)[0, :]
        best = int(self.xp.argmax(norms))
        self._climb(points[best : best + 1], self._right, where.owner)
        return len(points)

    def _climb(self, starts: Frequencies, vectors: Array, which: int) -> None:
        """Climb from frequencies and right vectors; keep the highest frequency if its proven norm is news."""
        block, rough = (x[which : which + 1, ...] for x in (self.blocks, self._for_guesses()))
        climb = Ascent(block, rough, free=self._free, rtol=self._rtol, best=self.best.value, ops=self.ops)
        self._note(*climb.run(starts, vectors), which)

    def _for_guesses(self) -> Array:
        """The blocks in single precision, where the tolerance and free frequencies allow it."""
        if not self._free or self._rtol < 1e-4:
            return self.blocks
        if self._rough is None:
            self._rough = self.xp.astype(self.blocks, self.xp.float32)
        return self._rough

    def _note(self, point: Frequencies, right: Array, which: int) -> None:
        """Keep a frequency if its norm, proven by a vector, is higher."""
        block = self.blocks[which : which + 1, ...]
        phase = symbols.Symbol(block, point, ops=self.ops).phase
        g = symbols.matrix_at(block, phase, xp=self.xp)
        value = float(rounding.quotient_down(g, right, xp=self.xp)[0]) - float(self._symbol_error[which])
        value = value * (1 - 1e-15)
        if value > self.best.value:
            self.best, self._right = Peak(value, point, which), right
