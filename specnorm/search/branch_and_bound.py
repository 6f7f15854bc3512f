"""Branch and bound over frequencies: the engine behind enclosures, certificates and exact norms.

A cell is a box of frequencies around a centre c, with phi its reach (`cells.Boxes`). Cells are ruled out by proof, not
by sampling: a Cholesky factorisation shows ``||G(c)|| <= tau``, and a lemma carries that to the whole cell.

* Cell lemma (Bernstein, Szego): around a maximiser of the whole torus ``||G|| >= sigma* cos(phi)``. So if every cell of
  a cover has ``||G(c)|| <= mu cos(phi)``, then ``sigma* <= mu``.
* On a grid, where the best point is no maximum of the torus, with a proven ``S >= sigma*``: nothing in the cell exceeds
  mu if ``||G(c)|| <= mu cos(phi) - sqrt(S**2 - mu**2) sin(phi)`` and ``arccos(mu/S) + phi <= pi/2``. The search of the
  torus that proved S has proven norms at its own cells' centres: what those rule out is not visited again.
* Variation: nothing in the cell exceeds mu if ``||G(c)||**2 <= mu**2 - V`` with V the most that G*G varies in it
  (`autocorrelation.GramPolynomial.variation`): nearly flat symbols, as of orthogonal layers, need few cells.

Cells that cannot be ruled out are cut; a centre above the lower bound raises it. The value of the search is its
proof: where the budget ends it, nothing is claimed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specnorm.linalg import arrays
from specnorm.linalg.frequencies import Frequencies
from specnorm.proof import gram_polynomial, rounding
from specnorm.proof.cells import Boxes, Cells
from specnorm.proof.gram_polynomial import GramPolynomial
from specnorm.search.incumbent import LowerEnd, Peak

if TYPE_CHECKING:
    from specnorm.types import Array, ArrayOps

_DOUBTFUL = 1
"""How many cells of a round get an exact eigenpair: estimates stall where singular values nearly coincide. It takes as
long as many proofs."""
_MOST = 4
"""Pieces an axis that a cell is cut into at once, at most."""
_MANY = 48
"""Cells of a grid from which they are sifted before they are looked at."""
_CLEAR = 1.2
"""A limit must exceed the tail by this factor to be worth a proof without the tail's directions."""
_CUT = 0.85
"""Part of a cell's limit up to which an eigenvalue is not told apart from smaller ones: such a cell passes anyway."""
_ROOM = 1.03
"""Over an estimate of an eigenvalue, where more is proven than is needed."""
_CACHE = 24 * 2**20
"""Bytes of the cells visited together on the host."""
_ROUGH, _WIDE = 0.02, 32
"""Reach of cells down to which single precision is tried first, and size of matrices from which that saves time."""
_KEPT = 32 * 2**20
"""Bytes of the matrices of a round that are kept until its best cells have been climbed from; of more, what the lower
end before allows is proven as soon as it is looked at."""


@dataclass(eq=False)
class Looks:
    """What a round finds out about some cells, filled in as it goes on.

    Parameters
    ----------
    polynomial : GramPolynomial
        In the precision that is tried first.
    target : float
        What was to be proven when the round began.
    vectors : array, shape (c, rank)
        For the next round.
    limits : float array, shape (c,)
        What the matrices are reduced for: no lower limit is proven by them.
    norms : float array, shape (c,)
        Proven norms at the centres of the cells that hold nothing above the target, infinite for the others.
    below : float array, shape (c,)
        Squared norms at the centres, from below.
    squares : float array, shape (c,)
        Largest eigenvalues of the (reduced) Gram matrices, from below.
    matrices : list of (matrices, errors), shapes (part, rank, rank) and (part,)
        For each part of the cells the reduced Gram matrices and bounds of their rounding; empty where not kept.
    doubts : int
        How many cells may still get an exact eigenpair.
    """

    polynomial: GramPolynomial
    target: float
    vectors: Array
    limits: np.ndarray
    norms: np.ndarray
    below: np.ndarray
    squares: np.ndarray
    matrices: list[tuple[Array, np.ndarray]]
    doubts: int = _DOUBTFUL


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

    def __init__(self, blocks: Array, *, seed: int = 0, ops: ArrayOps) -> None:
        xp = ops.xp
        if blocks.shape[1] < blocks.shape[2]:
            # G^T has the norms of G: from here on, the columns are the smaller side.
            blocks = xp.permute_dims(blocks, (0, 2, 1, *range(3, blocks.ndim)))
        self.blocks, self.xp, self.ops = blocks, ops.xp, ops
        self.lower = LowerEnd(blocks, seed=seed, ops=ops)
        self._reduced: GramPolynomial | None = None
        self._whole: GramPolynomial | None = None
        self._torus: list[tuple[Cells, np.ndarray]] | None = None

    def run(
        self,
        boxes: Boxes,
        *,
        rtol: float = 0.0,
        bound: float | None = None,
        supremum: float | None = None,
        start: Found | None = None,
        grid_follows: bool = False,
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
        grid_follows : bool
            Prove more than is needed where that is easy: the grid points there need no search of their own.
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
        first = Peak(0.0, boxes.centres[:1], 0) if start is None else Peak(start.lower, start.frequency, start.owner)
        self.lower.begin(first, free=self.free, rtol=rtol, bound=bound)
        if self.blocks.shape[2] >= gram_polynomial.SMALLEST:
            self.lower.look_around(raise_it=start is None and bound is None and self.free)
        groups, owners = self.blocks.shape[0], np.arange(self.blocks.shape[0])
        if supremum is not None:
            boxes, owners = self._left(boxes, owners, supremum)
        owner = np.repeat(owners, len(boxes))
        boxes = boxes[np.tile(np.arange(len(boxes)), len(owners))]
        self._slack = math.acos(1 / (1 + 1.5 * rtol)) if grid_follows else 0.0
        if self.free:
            self._torus = None
        done: list[tuple[Cells, np.ndarray]] = []
        vectors: Array | None = None
        polynomial: GramPolynomial | None = None
        seen, level = 0, 0

        def ended(upper: float) -> Found:
            best = self.lower.best
            return Found(best.value, upper, best.frequency, best.owner, seen, level)

        if supremum is not None and supremum <= self.target:
            return ended(self.target)
        while len(boxes):
            if seen + len(boxes) > max_cells * groups or level == max_levels:
                return ended(math.inf)
            seen, level, entry = seen + len(boxes), level + 1, self.lower.best.value
            previous, polynomial = polynomial, self._polynomial(self.target)
            if vectors is None or polynomial is not previous:
                vectors = self.lower.start_vectors(len(boxes), polynomial.rank)
            cells = Cells(boxes, owner, supremum)
            if not self.free and len(boxes) > _MANY and polynomial.rank >= _WIDE:
                left = self._sift(polynomial.narrowed(), cells)
                boxes, owner, vectors, cells = boxes[left], owner[left], self._take(vectors, left), cells[left]
                if not len(boxes):
                    break
            looks = self._look(polynomial, cells, vectors, degree=6 if level == 1 else 3)
            if bound is not None and self.lower.best.value > bound:
                return ended(math.inf)
            self._rule_out(polynomial, cells, looks)
            if bound is not None and self.lower.best.value > bound:
                return ended(math.inf)
            norms = looks.norms
            ruled_out, rest = np.flatnonzero(norms < math.inf), np.flatnonzero(norms == math.inf)
            if grid_follows:
                done.append((cells[ruled_out], norms[ruled_out]))
            boxes, owner = boxes[rest], owner[rest]
            below, vectors = looks.below[rest], self._take(looks.vectors, rest)
            points = np.flatnonzero(~boxes.divisible)
            if len(points):
                # A single frequency neither passes nor is seen above: its estimate has not converged. Settle it.
                self._settle(Cells(boxes[points], owner[points], supremum))
                if self.lower.best.value <= entry * (1 + 1e-14):
                    return ended(math.inf)
            boxes, parent = boxes.split(self._pieces(boxes, below))
            owner = owner[parent]
            vectors = self._take(vectors, parent)
        if grid_follows:
            self._torus = done
        return ended(self.target)

    @property
    def target(self) -> float:
        """What is to be proven: the bound, or the lower bound and the tolerance."""
        return self.lower.best.value * (1 + 0.999 * self.rtol) if self.bound is None else self.bound

    def _pieces(self, boxes: Boxes, squares: np.ndarray) -> np.ndarray:
        """How many times smaller the cells must become, going by the norms at their centres."""
        ratio: np.ndarray = np.sqrt(squares) / max(self.target, 1e-300)
        needed = np.arccos(np.clip(ratio, 0.0, 1 / (1 + 0.5 * self.rtol + 1e-9)))
        return np.asarray(np.clip(np.ceil(0.9 * boxes.reach / needed), 2, _MOST).astype(np.int64))

    def _sift(self, rough: GramPolynomial, cells: Cells) -> np.ndarray:
        """Which cells are left when, of many grid points, each has been tried in single precision unseen.

        Most are far below: to look at them first would take as long as to prove them.
        """
        left, limit = np.ones(len(cells.boxes), dtype=bool), self._limits(rough, cells)
        # Where float32 is not to be trusted, to sift would be to prove everything twice in double.
        able = np.flatnonzero((limit >= self._least(rough)) & (limit < math.inf) & rough.narrow)
        for part in self._parts(rough, len(able)):
            index = able[part]
            _, gram, errors = self._formed(rough, cells[index], limit[index])
            left[index] = ~self._below(gram, limit[index] - errors)
        return np.flatnonzero(left)

    def _formed(self, polynomial: GramPolynomial, cells: Cells, limit: np.ndarray) -> tuple[Array, Array, np.ndarray]:
        """Parts of the Gram matrices at the centres, the matrices reduced for limits, and bounds of their rounding."""
        parts = polynomial.parts(cells.boxes.centres, cells.owner)
        gram, error = polynomial.reduced_up(parts, limit)
        return parts, gram, self.ops.to_numpy(error)

    def _look(self, polynomial: GramPolynomial, cells: Cells, vectors: Array, *, degree: int) -> Looks:
        """Estimate the norms at the centres of some cells, prove of many what can be, and climb from the highest."""
        xp, count = self.xp, len(cells.boxes)
        rough = polynomial.narrowed() if self._may_be_rough(polynomial, cells.boxes) else polynomial
        vectors = xp.astype(vectors, arrays.complex_dtype(rough.even.dtype, xp=xp), copy=False)
        easy, limit = self._goals(rough, cells)
        reduced_for = np.clip(easy, max(self._least(rough), 0.3 * self.target**2), 1e300)
        # Where limits are infinite nothing on the whole torus exceeds the target.
        norms = np.where(np.isinf(limit), self.target, math.inf)
        looks = Looks(rough, self.target, vectors, reduced_for, norms, np.zeros(count), np.zeros(count), [])
        keep, kept = rough.itemsize * count * rough.rank**2 <= _KEPT, []
        for part in self._parts(rough, count):
            parts, gram, errors = self._formed(rough, cells[part], reduced_for[part])
            looks.squares[part], vector = self._estimate(gram, vectors[part, ...], _CUT * reduced_for[part], degree)
            looks.below[part], _ = rough.lift(parts, vector, looks.squares[part])
            kept.append(vector)
            if keep:
                looks.matrices.append((gram, errors))
            else:
                self._prove(rough, cells, looks, np.arange(count)[part], gram, errors, (easy, limit))
        looks.vectors = kept[0] if len(kept) == 1 else xp.concat(kept, axis=0)
        self.lower.raise_from(rough, cells, looks.below, looks.squares, looks.vectors)
        return looks

    def _rule_out(self, polynomial: GramPolynomial, cells: Cells, looks: Looks) -> None:
        """Prove what the lower end allows by now: by the matrices that were kept, and then, if need be, by new ones."""
        squares, norms, first = looks.squares, looks.norms, 0
        goals = self._goals(looks.polynomial, cells)
        for matrices, errors in looks.matrices:
            index = np.arange(first, first + len(errors))
            self._prove(looks.polynomial, cells, looks, index, matrices, errors, goals)
            first += len(errors)
        if polynomial is not looks.polynomial:
            goals = self._goals(polynomial, cells)
        limit = goals[1]
        norms[np.isinf(limit)] = self.target
        hopeful = np.flatnonzero((squares < limit) & (limit >= looks.limits) & (norms == math.inf))
        if polynomial is not looks.polynomial or (not looks.matrices and self.target > looks.target):
            for part in self._parts(polynomial, len(hopeful)):
                index = hopeful[part]
                _, gram, errors = self._formed(polynomial, cells[index], looks.limits[index])
                self._prove(polynomial, cells, looks, index, gram, errors, goals)
        if polynomial.tail > 0:
            # Where the tail weighs too much, not the norm, so that no smaller cell passes: nothing is left out then.
            smaller = (self.target * np.cos(cells.boxes.reach / 4)) ** 2
            # An estimate that allowed what the proof did not tells nothing: small cells get the whole matrix at once.
            misled = np.zeros(len(norms), dtype=bool)
            misled[hopeful] = limit[hopeful] > 0.98 * self.target**2
            hard = (squares > smaller) | misled
            stuck = np.flatnonzero((norms == math.inf) & (looks.below < limit) & hard & (limit > 0.9 * self.target**2))
            whole = self._polynomial(0.0) if len(stuck) else polynomial
            for part in self._parts(whole, len(stuck)):
                index = stuck[part]
                here = cells[index]
                parts = whole.parts(here.boxes.centres, here.owner)
                goal = self._limits(whole, here)
                norms[index] = np.where(self._below(parts, goal), whole.norm(goal), math.inf)

    def _prove(
        self,
        polynomial: GramPolynomial,
        cells: Cells,
        looks: Looks,
        index: np.ndarray,
        matrices: Array,
        errors: np.ndarray,
        goals: tuple[np.ndarray, np.ndarray],
    ) -> None:
        """Try to rule out some cells by their matrices; and look closer at the highest of those where that fails.

        Tried are cells whose estimates allow it. Estimates that allowed what the proof did not are made better.
        """
        squares, norms = looks.squares, looks.norms
        easy, limit = (goal[index] for goal in goals)
        # What the factorisation takes of the limit for its own rounding.
        room = 1 - rounding.cholesky_loss(polynomial.rank, matrices, xp=self.xp) * polynomial.rank
        # A second precision is for what is close: more than needed is not asked of it.
        sharper = self._slack and polynomial is looks.polynomial
        for goal in (np.clip(_ROOM * squares[index], easy, limit), limit) if sharper else (limit,):
            allowed = (squares[index] < room * goal) & (goal >= looks.limits[index])
            tried = np.flatnonzero(allowed & (norms[index] == math.inf) & (goal < math.inf))
            if not len(tried):
                continue
            chosen = matrices if len(tried) == len(index) else self._take(matrices, tried)
            passed = self._below(chosen, goal[tried] - errors[tried])
            norms[index[tried]] = np.where(passed, polynomial.norm(goal[tried]), math.inf)
            failed = tried[~passed]
            failed = failed[np.argsort(-squares[index[failed]], kind="stable")[: looks.doubts]]
            # What failed in single precision is formed again in double.
            if len(failed) and not polynomial.narrow:
                looks.doubts -= len(failed)
                which = index[failed]
                values, few = arrays.top_eigenpair(self._take(matrices, failed), xp=self.xp)
                squares[which] = self.ops.to_numpy(values)
                there = cells[which]
                parts = polynomial.parts(there.boxes.centres, there.owner)
                looks.below[which], _ = polynomial.lift(parts, few, squares[which])
                self.lower.raise_from(polynomial, there, looks.below[which], squares[which], few)

    def _least(self, polynomial: GramPolynomial) -> float:
        """Limit below which the matrices are not reduced."""
        return max(_CLEAR * polynomial.tail, polynomial.error)

    def _may_be_rough(self, polynomial: GramPolynomial, boxes: Boxes) -> bool:
        """Whether single precision is enough for most of some cells: large ones, whose limits are far below."""
        wanted = polynomial.rank >= _WIDE and (self.bound is not None or self.rtol >= 1e-4)
        return self.free and wanted and float(boxes.reach.min(initial=math.inf)) > _ROUGH

    def _parts(self, polynomial: GramPolynomial, count: int) -> list[slice]:
        """Slices of so many cells that fit the memory budget."""
        chunk = self._chunk(polynomial)
        return [slice(first, min(first + chunk, count)) for first in range(0, count, chunk)]

    def _polynomial(self, limit: float) -> GramPolynomial:
        """The Gram polynomial for norms around a limit, 0: with nothing left out."""
        stale = self._reduced is None or self._reduced.tail > 0.6 * limit**2
        if limit > 0 and self.lower.hints is not None and stale:
            self._reduced = GramPolynomial(self.blocks, limit, self.lower.hints, ops=self.ops)
        if limit > 0 and self._reduced is not None:
            return self._reduced
        if self._whole is None:
            self._whole = GramPolynomial(self.blocks, 0.0, ops=self.ops)
        return self._whole

    @staticmethod
    def _chunk(polynomial: GramPolynomial) -> int:
        """Cells at once within the memory budget: some complex matrices each, and the coefficients of many blocks."""
        size, rank, lags = polynomial.size, polynomial.rank, len(polynomial.lags)
        gathered = 2 * 8 * lags * size * rank if polynomial.even.shape[0] > 1 else 0
        each = polynomial.itemsize * (3 * size * rank + 4 * rank**2) + 12 * 8 * lags + gathered
        # On the host in the cache, but enough cells to read the coefficients only now and then.
        few = max(8, _CACHE // each) if polynomial.ops.on_host else math.inf
        return int(min(few, max(1, polynomial.ops.memory // each)))

    def _take(self, x: Array, index: np.ndarray) -> Array:
        return arrays.rows(x, index, ops=self.ops)

    def _estimate(self, gram: Array, vectors: Array, cut: np.ndarray, degree: int) -> tuple[np.ndarray, Array]:
        """Largest eigenvalues from below by a Chebyshev filter and a power step, and the vectors for the next round."""
        xp = self.xp
        # The polynomial is at most 1 on [0, cut] and grows fast above: too fast for single precision, were cut tiny.
        # The largest eigenvalue is at least the mean of all; far below other cells' it is rounding.
        trace = self.ops.to_numpy(xp.real(xp.linalg.trace(gram)))
        cut = np.maximum(np.maximum(cut, 0.5 * trace / gram.shape[-1]), max(1e-5 * trace.max(), 1e-30))
        scale = xp.astype(self.ops.from_numpy(2 / cut, self.blocks), vectors.dtype)[:, None]
        before, vectors = vectors, vectors * 0
        for step in range(degree):
            image = xp.matmul(gram, before[..., None])[..., 0] * scale - before
            before, vectors = (image if step == 0 else 2 * image - vectors), before
            if step % 3 == 2:
                before, norm = arrays.normalise(before, xp=xp)
                vectors = vectors / xp.astype(xp.where(norm > 0, norm, xp.ones_like(norm)), vectors.dtype)
        vectors, _ = arrays.normalise(before, xp=xp)
        vectors, norm = arrays.normalise(xp.matmul(gram, vectors[..., None])[..., 0], xp=xp)
        # ||H v|| for the unit v before is at most lambda_max.
        return self.ops.to_numpy(norm[:, 0]).astype(float), vectors

    def _below(self, gram: Array, limit: np.ndarray) -> np.ndarray:
        """Which matrices are proven to have no eigenvalue above their limits."""
        if arrays.real_dtype(gram, xp=self.xp) == self.xp.float32:
            limit = np.nextafter(limit.astype(np.float32), np.float32(-math.inf))
        limits = self.ops.from_numpy(limit, self.blocks)
        return np.asarray(self.ops.to_numpy(rounding.gram_below(gram, limits, ops=self.ops)))

    def _goals(self, polynomial: GramPolynomial, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
        """Limits that will be enough for the grid points in a cell, if a grid follows, and for the cell."""
        limit = self._limits(polynomial, cells)
        if not self._slack:
            return limit, limit
        angle = np.minimum(cells.boxes.reach + self._slack, math.pi / 2)
        return np.minimum(polynomial.limit(self.target * np.cos(angle)), limit), limit

    def _limits(self, polynomial: GramPolynomial, cells: Cells) -> np.ndarray:
        """Largest computed ``lambda_max(H(c))`` that rules a cell out, rounded down; negative where nothing does."""
        boxes, supremum, target = cells.boxes, cells.supremum, self.target
        if not boxes.closed:
            tau = np.where(boxes.reach < math.pi / 2, target * np.cos(boxes.reach), 0.0)
        elif supremum is None or supremum <= target:
            # Everything on the torus is below the target.
            return np.full(len(boxes), np.inf)
        else:
            tau = _on_grid(target, supremum, boxes.reach)
        by_cosine = polynomial.limit(np.maximum(tau * (1 - 1e-14) - 1e-16, 0.0))
        # The computed polynomial is off by its error at the centre (in `limit`) and at the point compared with it.
        by_variation = (
            polynomial.limit(np.asarray(target))
            - polynomial.variation(boxes.spread(polynomial.lags[1:]))
            - 2 * polynomial.error
        )
        return np.asarray(np.maximum(by_cosine, by_variation) * (1 - 1e-14))

    def _left(self, cover: Boxes, owners: np.ndarray, supremum: float) -> tuple[Boxes, np.ndarray]:
        """Which grid points, of which blocks, an earlier search of the torus leaves: cells and their owners.

        That search covered the torus, and proved norms at the centres of its cells.
        """
        if self._torus is None or not self._torus:
            return cover, owners
        low, high, owner = [], [], []
        for cells, norms in self._torus:
            open_ = norms > _on_grid(self.target, supremum, cells.boxes.reach) * (1 - 1e-14) - 1e-16
            low.append(cells.boxes.low[open_])
            high.append(cells.boxes.high[open_])
            owner.append(cells.owner[open_])
        boxes = self._torus[0][0].boxes
        ends = np.unique(np.concatenate([np.concatenate(low), np.concatenate(high)], axis=1), axis=0)
        half = ends.shape[1] // 2
        around = cover.around(boxes._with(ends[:, :half], ends[:, half:]))
        return around, np.unique(np.concatenate(owner))

    def _settle(self, points: Cells) -> None:
        """Raise the lower bound by the exact norms of single frequencies."""
        whole = self._polynomial(0.0)
        for part in self._parts(whole, len(points.boxes)):
            here = points[part]
            values, vectors = arrays.top_eigenpair(whole.parts(here.boxes.centres, here.owner), xp=self.xp)
            squares = self.ops.to_numpy(values)
            self.lower.raise_from(whole, here, squares, squares, vectors)

    def at_nearest(self, where: Found, sizes: tuple[int, ...]) -> Found:
        """Lower bound at the best DFT frequency next to one of the torus.

        Parameters
        ----------
        where : Found
            From a search of the torus.
        sizes : tuple of int
            Points a turn.
        """
        compared = self.lower.at_nearest(Peak(where.lower, where.frequency, where.owner), sizes)
        best = self.lower.best
        return Found(best.value, math.inf, best.frequency, best.owner, compared, 0)


def _on_grid(target: float, supremum: float, reach: np.ndarray) -> np.ndarray:
    """Norm at the centre of a cell up to which no grid point in it exceeds the target: the second lemma."""
    if supremum <= target:
        return np.full(len(reach), math.inf)
    apart = math.sqrt((supremum - target) * (supremum + target)) * (1 + 1e-15)
    angle = math.acos(target / supremum) + 1e-15
    return np.where(reach + angle < math.pi / 2, target * np.cos(reach) - apart * np.sin(reach), 0.0)
