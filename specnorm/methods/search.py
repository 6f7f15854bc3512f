"""Branch and bound over frequencies: the engine behind enclosures, certificates and exact norms.

A cell is a box of frequencies around a centre c, with phi its reach (`cells.Boxes`). Cells are ruled out by proof, not
by sampling: a Cholesky factorisation shows ``||G(c)|| <= tau``, and a lemma carries that to the whole cell.

* Cell lemma (Bernstein, Szego): around a maximiser of the whole torus ``||G|| >= sigma* cos(phi)``. So if every cell of
  a cover has ``||G(c)|| <= mu cos(phi)``, then ``sigma* <= mu``.
* On a grid, where the best point is no maximum of the torus, with a proven ``S >= sigma*``: nothing in the cell exceeds
  mu if ``||G(c)|| <= mu cos(phi) - sqrt(S**2 - mu**2) sin(phi)`` and ``arccos(mu/S) + phi <= pi/2``.
* Variation: nothing in the cell exceeds mu if ``||G(c)||**2 <= mu**2 - V`` with V the most that G*G varies in it
  (`autocorrelation.GramPolynomial.variation`): nearly flat symbols, as of orthogonal layers, need few cells.

Cells that cannot be ruled out are cut; a centre above the lower bound raises it. The value of the search is its
proof: where the budget ends it, nothing is claimed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays, operators, rounding
from specnorm.autocorrelation import GramPolynomial
from specnorm.cells import Boxes
from specnorm.frequencies import Frequencies, coarse_grid, product
from specnorm.methods.ascent import Ascent

if TYPE_CHECKING:
    from specnorm.backends import Array, Backend

_DOUBTFUL = 4
"""How many cells of a round get an exact eigenpair: power steps stall where singular values nearly coincide."""
_HINTS = 4
"""Frequencies whose vectors are kept when directions are left out."""
_MOST = 4
"""Pieces an axis that a cell is cut into at once, at most."""
_MANY, _CLIMBS, _NEAR = 48, 12, 0.95
"""Cells of a round from which so many centres more are climbed from, and how near their squared norms must be."""
_CLEAR = 1.2
"""A limit must exceed the tail by this factor to be worth a proof without the tail's directions."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Some boxes, the blocks they belong to, and the proven supremum of the torus where they are grid points."""

    boxes: Boxes
    owner: np.ndarray
    supremum: float | None

    def __getitem__(self, index: np.ndarray) -> Cells:
        return Cells(self.boxes[index], self.owner[index], self.supremum)


@dataclass(frozen=True, eq=False)
class Found:
    """What a search proved about the largest norm of some blocks, in their scale.

    Parameters
    ----------
    lower : float
        Proven: the norm of one block at ``frequency``, rounded down.
    upper : float
        Proven: nothing in the cover exceeds it; infinity where the budget ended first.
    frequency : Frequencies
        One point.
    owner : int
        The block.
    cells, levels : int
        Cells visited, and rounds.
    """

    lower: float
    upper: float
    frequency: Frequencies
    owner: int
    cells: int
    levels: int


class Search:
    """Branch and bound for the largest norm of a stack of blocks: one block, or the groups of one layer.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1, not all zero.
    seed : int
        Of the start vectors.
    """

    def __init__(self, blocks: Array, *, seed: int = 0, xp: Any, backend: Backend) -> None:
        if blocks.shape[1] < blocks.shape[2]:
            # G^T has the norms of G: from here on, the columns are the smaller side.
            blocks = xp.permute_dims(blocks, (0, 2, 1, *range(3, blocks.ndim)))
        self.blocks, self.seed, self.xp, self.backend = blocks, seed, xp, backend
        self.symbol_error = backend.to_numpy(rounding.symbol_error(blocks, xp=xp)) * (1 + 1e-12)
        self.hints: Array | None = None
        self._reduced: GramPolynomial | None = None
        self._whole: GramPolynomial | None = None

    def run(
        self,
        boxes: Boxes,
        *,
        rtol: float = 0.0,
        bound: float | None = None,
        supremum: float | None = None,
        start: Found | None = None,
        max_cells: int,
        max_levels: int | None = None,
    ) -> Found:
        """Enclose the largest norm over the boxes.

        Parameters
        ----------
        boxes : Boxes
        rtol : float
            Prove ``upper = lower * (1 + rtol)``.
        bound : float, optional
            Prove this bound instead, or find a norm above it.
        supremum : float, optional
            Proven bound of the whole torus, for boxes of grid points.
        start : Found, optional
            An earlier search of these blocks over the same frequencies, for its lower bound and frequency.
        max_cells : int
            Budget, for each block.
        max_levels : int, optional
            Most rounds.

        Returns
        -------
        Found
        """
        if boxes.closed and supremum is None:
            raise ValueError("grid points are ruled out by a proven supremum of the torus: none was given")
        self.free, self.rtol, self.bound = not boxes.closed, rtol, bound
        self.doubts, self.climbs = _DOUBTFUL, 0
        self.best = (0.0, boxes.centres[:1], 0) if start is None else (start.lower, start.frequency, start.owner)
        self._look_around(raise_lower=start is None and bound is None and self.free)
        groups = self.blocks.shape[0]
        owner = np.repeat(np.arange(groups), len(boxes))
        boxes = boxes[np.tile(np.arange(len(boxes)), groups)]
        vectors: Array | None = None
        polynomial: GramPolynomial | None = None
        seen, level = 0, 0

        def ended(upper: float) -> Found:
            lower, where, which = self.best
            return Found(lower, upper, where, which, seen, level)

        while len(boxes):
            if seen + len(boxes) > max_cells * groups or level == max_levels:
                return ended(math.inf)
            seen, level, entry = seen + len(boxes), level + 1, self.best[0]
            previous, polynomial = polynomial, self._polynomial(self.target)
            if vectors is None or polynomial is not previous:
                vectors = self._start_vectors(len(boxes), polynomial.rank)
            self.doubts, self.climbs = _DOUBTFUL, _CLIMBS if bound is None and len(boxes) > _MANY else 0
            failed: list[np.ndarray] = []
            next_vectors: list[Array] = []
            squares: list[np.ndarray] = []
            chunk = self._chunk(polynomial)
            for first in range(0, len(boxes), chunk):
                part = slice(first, min(first + chunk, len(boxes)))
                cells = Cells(boxes[part], owner[part], supremum)
                passed, square, vector = self._visit(
                    polynomial, cells, vectors[part, ...], steps=6 if level == 1 else 2
                )
                if bound is not None and self.best[0] > bound:
                    return ended(math.inf)
                rest = np.flatnonzero(~passed)
                failed.append(rest + first)
                next_vectors.append(self._take(vector, rest))
                squares.append(square[rest])
            rest = np.concatenate(failed)
            boxes, owner = boxes[rest], owner[rest]
            vectors = self.xp.concat(next_vectors, axis=0)
            points = np.flatnonzero(~boxes.divisible)
            if len(points):
                # A single frequency neither passes nor is seen above: its estimate has not converged. Settle it.
                self._settle(boxes[points].centres, owner[points])
                if self.best[0] <= entry * (1 + 1e-14):
                    return ended(math.inf)
            boxes, parent = boxes.split(self._pieces(boxes, np.concatenate(squares)))
            owner = owner[parent]
            vectors = self._take(vectors, parent)
        return ended(self.target)

    @property
    def target(self) -> float:
        """What is to be proven: the bound, or the lower bound and the tolerance."""
        return self.best[0] * (1 + 0.999 * self.rtol) if self.bound is None else self.bound

    def _pieces(self, boxes: Boxes, squares: np.ndarray) -> np.ndarray:
        """How many times smaller the cells must become, going by the norms at their centres."""
        ratio: np.ndarray = np.sqrt(squares) / max(self.target, 1e-300)
        needed = np.arccos(np.clip(ratio, 0.0, 1 / (1 + 0.5 * self.rtol + 1e-9)))
        return np.asarray(np.clip(np.ceil(0.9 * boxes.reach / needed), 2, _MOST).astype(np.int64))

    def _visit(
        self, polynomial: GramPolynomial, cells: Cells, vectors: Array, *, steps: int
    ) -> tuple[np.ndarray, np.ndarray, Array]:
        """Try to rule out some cells, raising the lower bound where a centre is above it.

        Returns
        -------
        passed : boolean array, shape (c,)
        below : float array, shape (c,)
            Squared norms at the centres, estimated from below.
        vectors : array, shape (c, rank)
            For the next round.
        """
        # What is proven must not be less than what the matrices were reduced for.
        centres, least = cells.boxes.centres, max(_CLEAR * polynomial.tail, polynomial.error)
        parts = polynomial.parts(centres, cells.owner)
        limit = self._limits(polynomial, cells)
        reduced, rounded = polynomial.reduced(parts, np.clip(limit, least, 1e300))
        error = self.backend.to_numpy(rounded)
        square, vectors = self._estimate(reduced, vectors, steps)
        below, full = polynomial.lift(parts, vectors, square)
        if self._raise_best(polynomial, centres, cells.owner, below, full):
            # A higher target: what is proven with the weights of the lower one is proven.
            limit = self._limits(polynomial, cells)
        passed: np.ndarray = np.isinf(limit)  # nothing on the whole torus exceeds the target
        hopeful = np.flatnonzero((square < limit - error) & (limit > least) & ~passed)
        passed[hopeful] = self._below(reduced, hopeful, limit - error)
        doubtful = hopeful[~passed[hopeful]]
        doubtful = doubtful[np.argsort(-square[doubtful], kind="stable")[: self.doubts]]
        if len(doubtful):
            self.doubts -= len(doubtful)
            values, few = arrays.top_eigenpair(self._take(reduced, doubtful), xp=self.xp)
            square[doubtful] = self.backend.to_numpy(values)
            below[doubtful], full = polynomial.lift(self._take(parts, doubtful), few, square[doubtful])
            self._raise_best(polynomial, centres[doubtful], cells.owner[doubtful], below[doubtful], full)
        if polynomial.tail > 0:
            # Where the tail weighs too much, not the norm: small cells and points are tried with nothing left out.
            stuck = np.flatnonzero(~passed & (below < limit - error) & (limit > 0.9 * self.target**2))
            whole = self._polynomial(0.0) if len(stuck) else polynomial
            for first in range(0, len(stuck), self._chunk(whole)):
                index = stuck[first : first + self._chunk(whole)]
                parts = whole.parts(centres[index], cells.owner[index])
                passed[index] = self._below(parts, np.arange(len(index)), self._limits(whole, cells[index]))
        return passed, below, vectors

    def _polynomial(self, limit: float) -> GramPolynomial:
        """The Gram polynomial for norms around a limit, 0: with nothing left out."""
        if limit > 0 and (self._reduced is None or self._reduced.tail > 0.6 * limit**2):
            self._reduced = GramPolynomial(self.blocks, limit, self.hints, xp=self.xp, backend=self.backend)
        if limit > 0 and self._reduced is not None:
            return self._reduced
        if self._whole is None:
            self._whole = GramPolynomial(self.blocks, 0.0, xp=self.xp, backend=self.backend)
        return self._whole

    @staticmethod
    def _chunk(polynomial: GramPolynomial) -> int:
        """Cells at once within the memory budget: some complex matrices each, and the coefficients of many blocks."""
        size, rank, lags = polynomial.size, polynomial.rank, len(polynomial.lags)
        gathered = 2 * 8 * lags * size * rank if polynomial.even.shape[0] > 1 else 0
        return int(max(1, 256 * 2**20 // (3 * 16 * size * rank + 4 * 16 * rank**2 + 12 * 8 * lags + gathered)))

    def _start_vectors(self, count: int, size: int) -> Array:
        start = arrays.random_vectors(self.seed, (1, size))
        return self.backend.from_numpy(np.broadcast_to(start, (count, size)).astype(np.complex128), self.blocks)

    def _take(self, x: Array, index: np.ndarray) -> Array:
        return self.xp.take(x, self.backend.from_numpy(index.astype(np.int64), self.blocks), axis=0)

    def _estimate(self, gram: Array, vectors: Array, steps: int) -> tuple[np.ndarray, Array]:
        """Largest eigenvalues from below by power steps, and the vectors for the next round."""
        xp = self.xp
        for _ in range(steps):
            vectors, norm = arrays.normalise(xp.matmul(gram, vectors[..., None])[..., 0], xp=xp)
        # ||H v|| for the unit v before last is at most lambda_max.
        return self.backend.to_numpy(norm[:, 0]), vectors

    def _below(self, gram: Array, index: np.ndarray, limit: np.ndarray) -> np.ndarray:
        """Which matrices are proven to have no eigenvalue above their limits."""
        if not len(index):
            return np.zeros(0, dtype=np.bool_)
        limits = self.backend.from_numpy(limit[index], self.blocks)
        taken = gram if len(index) == gram.shape[0] else self._take(gram, index)
        return np.asarray(self.backend.to_numpy(rounding.gram_below(taken, limits, xp=self.xp, backend=self.backend)))

    def _limits(self, polynomial: GramPolynomial, cells: Cells) -> np.ndarray:
        """Largest computed ``lambda_max(H(c))`` that rules a cell out, rounded down; negative where nothing does."""
        boxes, supremum, target = cells.boxes, cells.supremum, self.target
        reach = boxes.reach
        if not boxes.closed:
            tau = np.where(reach < math.pi / 2, target * np.cos(reach), 0.0)
        elif supremum is None or supremum <= target:
            # Everything on the torus is below the target.
            return np.full(len(boxes), np.inf)
        else:
            apart = math.sqrt((supremum - target) * (supremum + target)) * (1 + 1e-15)
            angle = math.acos(target / supremum) + 1e-15
            tau = np.where(reach + angle < math.pi / 2, target * np.cos(reach) - apart * np.sin(reach), 0.0)
        by_cosine = polynomial.limit(np.maximum(tau * (1 - 1e-14) - 1e-16, 0.0))
        # The computed polynomial is off by its error at the centre (in `limit`) and at the point compared with it.
        by_variation = (
            polynomial.limit(np.asarray(target))
            - polynomial.variation(boxes.spread(polynomial.lags[1:]))
            - 2 * polynomial.error
        )
        return np.asarray(np.maximum(by_cosine, by_variation) * (1 - 1e-14))

    def _look_around(self, *, raise_lower: bool) -> None:
        """Power steps at coarse frequencies: vectors that matter, and a first lower bound."""
        if self.hints is not None and not raise_lower:
            return
        xp, (groups, _, p) = self.xp, self.blocks.shape[:3]
        frequencies = coarse_grid(tuple(self.blocks.shape[3:]))
        symbol = operators.Symbol(self.blocks, frequencies, xp=xp, backend=self.backend)
        v = self._start_vectors(groups * len(frequencies), p)
        v = xp.reshape(v, (groups, len(frequencies), p))
        for _ in range(3):
            v, norms = arrays.normalise(symbol.apply_adjoint(symbol.apply(v)), xp=xp)
        host, vectors = self.backend.to_numpy(norms)[:, :, 0], self.backend.to_numpy(v)
        order = np.argsort(-host, axis=1, kind="stable")[:, :_HINTS]
        hints = np.take_along_axis(vectors, order[:, :, None], axis=1)
        if raise_lower:
            which, best = divmod(int(np.argmax(host)), len(frequencies))
            right = self._raise(frequencies[best : best + 1], v[which, best : best + 1, :], which)
            hints[which, 0, :] = self.backend.to_numpy(right)[0]
        self.hints = self.backend.from_numpy(hints, self.blocks)

    def _raise_best(
        self, polynomial: GramPolynomial, centres: Frequencies, owner: np.ndarray, below: np.ndarray, vectors: Array
    ) -> bool:
        """Climb from the cell with the largest estimate, if that is news."""
        # Without a bound the search is as good as its lower end; with one, only a refutation matters.
        before, news = self.best[0], (self.best[0] if self.bound is None else self.bound) ** 2
        for index in np.argsort(-below, kind="stable")[: 1 + min(self.climbs, 1)]:
            # Many cells left: a flat norm with many local maxima. Others than the highest centre may lead higher.
            hopeful = self.climbs > 0 and below[index] > _NEAR * news
            if below[index] > news or hopeful:
                self.climbs -= int(below[index] <= news)
                which = int(owner[index])
                vector = polynomial.unrotated(vectors[index : index + 1, :], which)
                self._raise(centres[index : index + 1], vector, which)
        return self.best[0] > before

    def _raise(self, start: Frequencies, vector: Array, which: int) -> Array:
        """Climb from a frequency and right vector; keep the frequency if its proven norm is higher."""
        block = self.blocks[which : which + 1, ...]
        climb = Ascent(block, free=self.free, rtol=self.rtol, best=self.best[0], xp=self.xp, backend=self.backend)
        point, right = climb.run(start, vector)
        g = operators.matrix_at(block, self._phase(block, point), xp=self.xp)
        value = float(rounding.quotient_down(g, right, xp=self.xp)[0]) - float(self.symbol_error[which])
        value = value * (1 - 1e-15)
        if value > self.best[0]:
            self.best = (value, point, which)
        return right

    def _settle(self, points: Frequencies, owner: np.ndarray) -> None:
        """Raise the lower bound by the exact norms of single frequencies."""
        whole = self._polynomial(0.0)
        chunk = self._chunk(whole)
        for first in range(0, len(points), chunk):
            part = slice(first, first + chunk)
            values, vectors = arrays.top_eigenpair(whole.parts(points[part], owner[part]), xp=self.xp)
            self._raise_best(whole, points[part], owner[part], self.backend.to_numpy(values), vectors)

    def at_nearest(self, where: Found, sizes: tuple[int, ...]) -> Found:
        """Lower bound at the best DFT frequency next to one of the torus.

        Parameters
        ----------
        where : Found
            From a search of the torus.
        sizes : tuple of int
            Points a turn.
        """
        below = np.floor(where.frequency.angles[0] / (2 * math.pi) * np.asarray(sizes)).astype(np.int64)
        corners = product([np.asarray([n, n + 1]) for n in below]) % np.asarray(sizes, dtype=np.int64)
        points, block = Frequencies(corners, sizes), self.blocks[where.owner : where.owner + 1, ...]
        self.free, self.rtol, self.bound, self.climbs = False, 1e-3, None, 0
        self.best = (0.0, points[:1], where.owner)
        phase = self._phase(block, where.frequency)
        _, vector, _ = operators.top_triple(operators.matrix_at(block, phase, xp=self.xp), xp=self.xp)
        symbol = operators.Symbol(block, points, xp=self.xp, backend=self.backend)
        spread = self.xp.broadcast_to(vector[:, None, :], (1, len(points), vector.shape[-1]))
        norms = self.xp.linalg.vector_norm(symbol.apply(spread), axis=-1)[0, :]
        best = int(self.xp.argmax(norms))
        self._raise(points[best : best + 1], vector, where.owner)
        return Found(self.best[0], math.inf, self.best[1], where.owner, len(points), 0)

    def _phase(self, block: Array, point: Frequencies) -> Array:
        return operators.Symbol(block, point, xp=self.xp, backend=self.backend).phase
