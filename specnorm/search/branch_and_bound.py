"""Branch and bound over frequencies: the engine behind enclosures, certificates and exact norms.

A round of the search estimates the norms at the centres of the open cells, ascends from the highest, and asks the cover
(`certified.symbol.cover`) which cells hold nothing above the threshold. Those are pruned, the others are cut. The value
of the search is its proof: where the budget ends it, nothing is claimed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import nothing
from specnorm.certified.matrices import norms
from specnorm.certified.symbol.cells import Cells
from specnorm.certified.symbol.cover import CentreMatrices, Cover, on_grid
from specnorm.clock import Clock, OutOfTime
from specnorm.numerics.costs import eigh_work
from specnorm.search import tuning as knobs
from specnorm.search.incumbent import Incumbent, LowerBound, NodeEstimates, is_crowded, largest, lift
from specnorm.search.reduction import Polynomials
from specnorm.search.result import SearchResult

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Upper
    from specnorm.certified.symbol.cells import Boxes
    from specnorm.certified.symbol.cover import Nonnegative
    from specnorm.certified.symbol.gram_polynomial import GramPolynomial
    from specnorm.types import ArrayOps


class Search:
    """Branch and bound for the largest norm of a stack of blocks: one block, or the groups of one layer.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1, not all zero.
    seed : int
        Of the start vectors.
    clock : Clock, optional
        What is not begun by its end is not tried.
    nonnegative : Nonnegative, optional
        That the symbol of the blocks is nowhere negative.
    """

    def __init__(
        self,
        blocks: Array,
        *,
        seed: int = 0,
        clock: Clock | None = None,
        nonnegative: Nonnegative | None = None,
        ops: ArrayOps,
    ) -> None:
        xp = ops.xp
        if blocks.shape[1] < blocks.shape[2]:
            # G^T has the norms of G: from here on, the columns are the smaller side.
            blocks = xp.permute_dims(blocks, (0, 2, 1, *range(3, blocks.ndim)))
        self.blocks, self.xp, self.ops, self.tuning = blocks, ops.xp, ops, knobs.TUNING
        self.clock, self.nonnegative = clock or Clock(), nonnegative
        self.incumbent = Incumbent(blocks, self.tuning, seed=seed, clock=self.clock, ops=ops)
        self.polynomials = Polynomials(blocks, self.tuning, clock=self.clock, ops=ops)
        self._cells = self._levels = 0
        self._crowded = False

    def run(
        self,
        boxes: Boxes,
        *,
        rtol: float = 0.0,
        bound: float | None = None,
        supremum: Upper | None = None,
        start: SearchResult | None = None,
        max_cells: int,
        max_levels: int | None = None,
        relaxes: bool = False,
    ) -> SearchResult:
        """Enclose the largest norm over the boxes.

        Parameters
        ----------
        rtol : float
            Prove ``upper = lower * (1 + rtol)``.
        bound : float, optional
            Prove this bound instead, or find a norm above it.
        supremum : Upper, optional
            Of the whole torus, for boxes of grid points.
        start : SearchResult, optional
            An earlier search of these blocks over the same frequencies, for its lower bound and frequency.
        max_cells : int
            Budget, for each block.
        max_levels : int, optional
            Most rounds.
        relaxes : bool
            Whether to ask for less where ``rtol`` does not fit into what is left of cells and time (torus alone).
        """
        self._begin(boxes, rtol, bound, start)
        if supremum is not None and supremum <= self.threshold:
            return self._result(on_grid(supremum, boxes))
        try:
            cover = self._first_cover(boxes, supremum)
            found = self._refine(cover, max_cells * self.blocks.shape[0], max_levels, relaxes=relaxes)
        except OutOfTime:
            found = self._result(None)
        if found.upper is None and self._free and not self.incumbent.best.claim.value > 0:
            self.incumbent.multistart()
            return self._result(None)
        return found

    def _first_cover(self, boxes: Boxes, supremum: Upper | None) -> Cover:
        """All boxes of every block; of scalar symbols those that their values at the centres leave open."""
        values = self.polynomials.at_centres(boxes)
        if values is None:
            return Cover(self.blocks, boxes, supremum, nonnegative=self.nonnegative, ops=self.ops)
        self.clock.check()
        # The best centre of each block, the highest blocks first.
        best, block = values.values.argmax(axis=1), np.arange(len(values.values))
        chosen = np.argsort(-values.values[block, best], kind="stable")[: self.tuning.starts]
        norms_sq = values.values[chosen, best[chosen]]
        cells = Cells(boxes[best[chosen]], chosen, supremum)
        self.incumbent.raise_from(
            values.polynomial, cells, norms_sq, norms_sq, self.incumbent.start_vectors(len(chosen), 1)
        )
        return Cover(
            self.blocks, boxes, supremum, nonnegative=self.nonnegative, values=values, threshold=self.threshold,
            ops=self.ops,
        )  # fmt: skip

    def _refine(self, cover: Cover, max_cells: int, max_levels: int | None, *, relaxes: bool) -> SearchResult:
        self.clock.check()
        polynomial: GramPolynomial | None = None
        vectors: Array | None = None
        while len(cover):
            if self._refuted() or self._cells + len(cover) > max_cells or self._levels == max_levels:
                return self._result(None)
            self.clock.check()
            self._cells, self._levels = self._cells + len(cover), self._levels + 1
            before, time_left, count = self.incumbent.best.claim.value, self.clock.left, len(cover)
            narrow, previous = self.incumbent.far and self._levels <= self.tuning.float32_rounds, polynomial
            polynomial = self.polynomials.near(self.threshold, self.incumbent.trial_vectors, narrow=narrow)
            if vectors is None or polynomial is not previous:
                vectors = self.incumbent.start_vectors(len(cover), polynomial.rank)
            vectors = self._prefilter(cover, polynomial, vectors)
            if not len(cover):
                break
            nodes = self._estimate(cover, polynomial, vectors)
            self.incumbent.raise_from(nodes.polynomial, cover.open, nodes.norms_sq, nodes.eigenvalues, nodes.vectors)
            if not self._refuted():
                self._fathom(cover, polynomial, nodes)
            if self._refuted():
                return self._result(None)
            self._fathom_closer(cover, polynomial, nodes, max_cells - self._cells)
            if relaxes:
                # The next round's cells take as long as these.
                took = time_left - self.clock.left
                in_time = self.clock.left * count / took if took > 0 else math.inf
                self._relax(cover, polynomial, nodes, self.tuning.ahead * min(max_cells - self._cells, in_time))
            rest = cover.prune()
            if not self._may_end(cover, before):
                return self._result(None)
            # The open cells are cut, more finely where their norms are high.
            ratio = np.sqrt(nodes.norms_sq[rest]) / max(self.threshold, 1e-300)
            parent = cover.split(self._pieces(ratio, cover.open.boxes.radius))
            vectors = arrays.rows(nodes.vectors, rest[parent], ops=self.ops)
        return self._result(cover.proven())

    # -- what is to be proven ----------------------------------------------------------------------------------------
    def _begin(self, boxes: Boxes, rtol: float, bound: float | None, start: SearchResult | None) -> None:
        """Set the threshold; take over an earlier lower bound, or find a first one."""
        self._free, self._rtol, self._bound = not boxes.on_grid, rtol, bound
        self._cells = self._levels = 0
        zero = LowerBound(nothing(), boxes.centres[:1], 0)
        first = zero if start is None else LowerBound(start.lower, start.frequency, start.block)
        self.incumbent.begin(first, free=self._free, rtol=min(rtol, self.tuning.close), bound=bound)
        begins = self.incumbent.trial_vectors is None or (self._free and start is None and bound is None)
        if begins and self.blocks.shape[2] >= self.tuning.smallest_reduced:
            self.incumbent.multistart()

    @property
    def threshold(self) -> float:
        """What is to be proven: the bound, or the incumbent and the tolerance."""
        if self._bound is not None:
            return self._bound
        return self.incumbent.best.claim.value * (1 + self.tuning.share * self._rtol)

    def _refuted(self) -> bool:
        return self._bound is not None and self.incumbent.best.claim.value > self._bound

    def _result(self, upper: Upper | None) -> SearchResult:
        best = self.incumbent.best
        return SearchResult(best.claim, upper, best.frequency, best.block, self._cells, self._levels)

    # -- the phases of a round ---------------------------------------------------------------------------------------
    def _prefilter(self, cover: Cover, polynomial: GramPolynomial, vectors: Array) -> Array:
        """Fathom what float32 can of many grid cells, before any is estimated. The vectors of those left.

        Most are far below: to estimate them first would take as long as to prove them.
        """
        few = len(cover) <= self.tuning.prefilter or polynomial.rank < self.tuning.smallest_float32
        if self._free or few:
            return vectors
        float32, threshold = polynomial.float32_copy(), self.threshold
        if not float32.is_float32:
            # Where float32 is not to be trusted, this would be to prove everything twice in float64.
            return vectors
        limit_sq = cover.limits_sq(float32, threshold)
        index = np.flatnonzero((limit_sq >= self.polynomials.least_limit_sq(float32)) & (limit_sq < math.inf))
        self._try(cover, float32, index, limit_sq)
        return arrays.rows(vectors, cover.prune(), ops=self.ops)

    def _estimate(self, cover: Cover, polynomial: GramPolynomial, vectors: Array) -> NodeEstimates:
        """Estimate the norms at the centres, and prove what the incumbent before allows if matrices cannot be kept."""
        threshold, count = self.threshold, len(cover)
        cover.fathom_by_supremum(threshold)
        loose = self._free and (self._bound is not None or self._rtol >= self.tuning.rtol_float32)
        trial = self.polynomials.for_trial(polynomial, threshold, cover.open.boxes.radius) if loose else polynomial
        vectors = self.xp.astype(vectors, arrays.complex_dtype(trial.even.dtype, xp=self.xp), copy=False)
        least_sq = max(self.polynomials.least_limit_sq(trial), self.tuning.least * threshold**2)
        reduced_for_sq = np.minimum(np.maximum(cover.limits_sq(trial, threshold), least_sq), 1e300)
        nodes = NodeEstimates(trial, threshold, vectors, reduced_for_sq, self.tuning.exact)
        keeps, found = trial.itemsize * count * trial.rank**2 <= self.tuning.kept, []

        def of(part: slice) -> tuple[slice, CentreMatrices, np.ndarray, np.ndarray, Array]:
            formed, planes = cover.form(trial, np.arange(count)[part], reduced_for_sq[part])
            given = (formed, vectors[part, ...], self.tuning, self.blocks)
            eigenvalues, vector = largest(*given, first=self._levels == 1, crowded=self._crowded, ops=self.ops)
            return part, formed, eigenvalues, lift(trial, planes, vector, eigenvalues, ops=self.ops)[0], vector

        mapped = self.ops.map if trial.rank >= self.tuning.smallest_shared else map
        for part, formed, eigenvalues, norms_sq, vector in mapped(of, self.polynomials.parts(trial, count)):
            nodes.eigenvalues[part], nodes.norms_sq[part] = eigenvalues, norms_sq
            found.append(vector)
            if keeps:
                nodes.kept.append(formed)
            else:
                self._prove(cover, nodes, formed, threshold)
        if self._levels == 1:
            self._crowded = is_crowded(nodes.eigenvalues, reduced_for_sq, trial.rank, self.tuning)
        if found:
            nodes.vectors = found[0] if len(found) == 1 else self.xp.concat(found, axis=0)
        return nodes

    def _fathom(self, cover: Cover, polynomial: GramPolynomial, nodes: NodeEstimates) -> None:
        """Prove what the incumbent allows by now: by the matrices that were kept, and then, if need be, by new ones."""
        threshold = self.threshold
        if cover.fathom_by_supremum(threshold):
            return
        for formed in nodes.kept:
            self._prove(cover, nodes, formed, threshold)
        if polynomial is nodes.polynomial and nodes.kept and not polynomial.truncation > 0:
            return
        limit_sq = cover.limits_sq(polynomial, threshold)
        likely = (nodes.eigenvalues < limit_sq) & (limit_sq >= nodes.reduced_for_sq) & ~cover.done
        hopeful = np.flatnonzero(likely)
        if polynomial is not nodes.polynomial or (not nodes.kept and threshold > nodes.threshold):
            for part in self.polynomials.parts(polynomial, len(hopeful)):
                formed, _ = cover.form(polynomial, hopeful[part], nodes.reduced_for_sq[hopeful[part]])
                self._prove(cover, nodes, formed, threshold)
        if polynomial.truncation > 0:
            self._fathom_whole(cover, nodes, limit_sq, hopeful)

    def _fathom_whole(self, cover: Cover, nodes: NodeEstimates, limit_sq: np.ndarray, hopeful: np.ndarray) -> None:
        """Try cells with nothing left out, where the truncation weighs too much, so that no smaller cell passes."""
        smaller_sq = (self.threshold * np.cos(cover.open.boxes.radius / 4)) ** 2
        near = (nodes.norms_sq < limit_sq) & (limit_sq > self.tuning.stuck * self.threshold**2)
        stuck = np.flatnonzero(~cover.done & near & (nodes.eigenvalues > smaller_sq))
        if len(stuck):
            self._try(cover, self.polynomials.whole, stuck, np.zeros(len(cover)))
        # An estimate that allowed what the proof did not tells nothing of a small cell. Where there are many of them,
        # the first tells of the others.
        small = hopeful[limit_sq[hopeful] > self.tuning.small * self.threshold**2]
        misled = small[near[small] & ~cover.done[small]]
        if len(misled) >= self.tuning.misled:
            misled = misled[np.argsort(-nodes.eigenvalues[misled], kind="stable")]
            self._try(cover, self.polynomials.whole, misled[:1], np.zeros(len(cover)))
            if cover.done[misled[0]]:
                self._try(cover, self.polynomials.whole, misled[1:], np.zeros(len(cover)))

    def _fathom_closer(self, cover: Cover, polynomial: GramPolynomial, nodes: NodeEstimates, cells: int) -> None:
        """Where many cells are open, bound what is left out more closely, and try those again that may pass then."""
        affordable = polynomial.truncation > 0 and cells > self.tuning.repaid * len(cover)
        if affordable and (closer := self.polynomials.closer(polynomial, cover)) is not polynomial:
            trial = self.polynomials.for_trial(closer, self.threshold, cover.open.boxes.radius)
            limit_sq = cover.limits_sq(trial, self.threshold)
            likely = (nodes.norms_sq < limit_sq) & (limit_sq >= self.polynomials.least_limit_sq(trial))
            self._try(cover, trial, np.flatnonzero(likely & ~cover.done), limit_sq)

    def _try(self, cover: Cover, polynomial: GramPolynomial, index: np.ndarray, reduced_for_sq: np.ndarray) -> None:
        for part in self.polynomials.parts(polynomial, len(index)):
            formed, _ = cover.form(polynomial, index[part], reduced_for_sq[index[part]])
            cover.fathom(formed, self.threshold)

    def _prove(self, cover: Cover, nodes: NodeEstimates, formed: CentreMatrices, threshold: float) -> None:
        """Try to fathom some cells by their matrices; sharpen the estimates of the highest where that fails.

        Tried are cells whose estimates allow it.
        """
        polynomial, index = formed.polynomial, formed.index
        limit_sq = cover.limits_sq(polynomial, threshold)[index]
        # What the factorisation takes of the limit for its own rounding.
        part = 1 - norms.likely_loss(polynomial.rank, formed.matrices, ops=self.ops)
        allowed = (nodes.eigenvalues[index] < part * limit_sq) & (limit_sq >= nodes.reduced_for_sq[index])
        tried = (allowed & ~cover.done[index] & (limit_sq < math.inf)).nonzero()[0]
        if not len(tried):
            return
        failed = tried[~cover.fathom(formed.take(tried, ops=self.ops), threshold)]
        failed = failed[np.argsort(-nodes.eigenvalues[index[failed]], kind="stable")[: nodes.exact]]
        # What failed in float32 is formed again in float64.
        if len(failed) and not polynomial.is_float32:
            nodes.exact -= len(failed)
            self._sharpen(cover, nodes, formed.take(np.sort(failed), ops=self.ops))

    def _sharpen(self, cover: Cover, nodes: NodeEstimates, formed: CentreMatrices) -> None:
        """Replace the estimates of a few cells by eigenpairs, and ascend from there."""
        index, polynomial, there = formed.index, formed.polynomial, cover.open[formed.index]
        self.clock.require(len(index) * eigh_work(polynomial.rank, is_complex=True))
        values, vectors = arrays.top_eigenpair(formed.matrices, xp=self.xp)
        nodes.eigenvalues[index] = eigenvalues = self.ops.to_numpy(values)
        planes = polynomial.planes_at(there.boxes.centres, there.block)
        nodes.norms_sq[index], _ = lift(polynomial, planes, vectors, eigenvalues, ops=self.ops)
        self.incumbent.raise_from(polynomial, there, nodes.norms_sq[index], eigenvalues, vectors)

    def _may_end(self, cover: Cover, before: float) -> bool:
        """Whether the next round can do more: an open single frequency must have raised the incumbent."""
        divisible = cover.open.boxes.divisible
        if divisible.all():
            return True
        self._evaluate_points(cover.open[np.flatnonzero(~divisible)])
        return self.incumbent.best.claim.value > before * (1 + self.tuning.progress)

    def _evaluate_points(self, points: Cells) -> None:
        """Evaluate single frequencies exactly that neither passed nor were seen above: they are not converged."""
        whole = self.polynomials.whole
        for part in self.polynomials.parts(whole, len(points)):
            here = points[part]
            self.clock.require(len(here) * eigh_work(whole.rank, is_complex=True))
            values, vectors = arrays.top_eigenpair(whole.columns_at(here.boxes.centres, here.block), xp=self.xp)
            norms_sq = self.ops.to_numpy(values)
            self.incumbent.raise_from(whole, here, norms_sq, norms_sq, vectors)

    def _relax(self, cover: Cover, polynomial: GramPolynomial, nodes: NodeEstimates, most: float) -> None:
        """Ask for less where the next round would be too many cells: the cells that are done with stay so."""
        axes = int(np.count_nonzero(cover.open.boxes.half_degree))
        while self._rtol < 1 and not self.clock.expired:
            rest = (~cover.done).nonzero()[0]
            ratio = np.sqrt(nodes.norms_sq[rest]) / max(self.threshold, 1e-300)
            if (self._pieces(ratio, cover.open.boxes.radius[rest]) ** axes).sum() <= most:
                break
            self._rtol = min(1.0, self.tuning.wider * self._rtol)
            self._fathom(cover, polynomial, nodes)

    def _pieces(self, ratio: np.ndarray, radius: np.ndarray) -> np.ndarray:
        """How many times smaller cells have to be to pass, at least twice; more are not cut at once, shape (c,).

        Parameters
        ----------
        ratio, radius : float arrays, shape (c,)
            Norms at the centres over the threshold, and the cells' radii.
        """
        # Of a symbol that is nowhere negative, what is halfway to 0 counts as 0.
        height = 2 * ratio - 1 if self.nonnegative else ratio
        angle = np.arccos(np.clip(height, 0.0, 1 / (1 + (0.5 * self._rtol + self.tuning.angle))))
        found = np.clip(np.ceil(self.tuning.overlap * radius / angle), 2, self.tuning.pieces)
        return np.asarray(found.astype(np.int64))

    # -- helpers -----------------------------------------------------------------------------------------------------
    def at_nearest(self, where: SearchResult, sizes: tuple[int, ...], skew: tuple[bool, ...] = ()) -> SearchResult:
        """Lower bound at the best frequency of a circulant next to one of the torus.

        ``where`` is from a search of the torus; ``sizes`` and ``skew`` are as in `certified.symbol.cells.dft`.
        """
        start = LowerBound(where.lower, where.frequency, where.block)
        compared = self.incumbent.at_nearest(start, sizes, skew)
        best = self.incumbent.best
        return SearchResult(best.claim, None, best.frequency, best.block, compared, 0)
