"""Branch and bound over frequencies: the engine behind enclosures, certificates and exact norms.

A round of the search estimates the norms at the centres of the open cells, ascends from the highest, and asks the cover
(`certified.symbol.cover`) which cells pass. Those are pruned, the others are cut. Each round is a level of the tree of
cells. If the budget ends the search first, its result has no upper bound.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import trivial_lower
from specnorm.certified.matrices import norms
from specnorm.certified.symbol.cells import Cells
from specnorm.certified.symbol.cover import CentreMatrices, Cover, supremum_on_grid
from specnorm.clock import Clock, OutOfTime
from specnorm.numerics.costs import eigh_cost
from specnorm.search import tuning as knobs
from specnorm.search.incumbent import (
    Incumbent,
    LowerBound,
    NodeEstimates,
    is_crowded,
    lift_to_all_columns,
    top_eigenpairs,
)
from specnorm.search.reduction import Polynomials
from specnorm.search.result import SearchResult

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Upper
    from specnorm.certified.symbol.cells import Boxes
    from specnorm.certified.symbol.cover import Nonnegative
    from specnorm.certified.symbol.gram_polynomial import GramPolynomial
    from specnorm.certified.symbol.scalar import CentreValues
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
        A proof that the symbol of the blocks is nowhere negative, that is, that it is Hermitian (but for a phase) with
        no negative eigenvalue at any frequency.
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
        self.blocks = blocks
        self.xp = xp
        self.ops = ops
        self.tuning = knobs.TUNING
        self.clock = clock or Clock()
        self.nonnegative = nonnegative
        self.incumbent = Incumbent(blocks, self.tuning, seed=seed, clock=self.clock, ops=ops)
        self.polynomials = Polynomials(blocks, self.tuning, clock=self.clock, ops=ops)
        self._cells = 0
        self._rounds = 0
        self._is_crowded = False
        # Those of the present run: whether it searches the torus, its tolerance, and the bound to be proven.
        self._is_torus = True
        self._rtol = 0.0
        self._bound: float | None = None

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
            Most rounds, since each is a level of the tree of cells.
        relaxes : bool
            Whether to widen the tolerance where ``rtol`` does not fit into what is left of cells and time. For searches
            of the torus alone.
        """
        self._begin(boxes, rtol, bound, start)
        if supremum is not None and supremum <= self.threshold:
            return self._result(supremum_on_grid(supremum, boxes))
        try:
            cover = self._first_cover(boxes, supremum)
            result = self._refine(cover, max_cells * self.blocks.shape[0], max_levels, relaxes=relaxes)
        except OutOfTime:
            result = self._result(None)
        if result.upper is None and self._is_torus and not self.incumbent.best.claim.value > 0:
            # The budget ended before the first ascent: the multistart gives the answer a lower bound.
            self.incumbent.multistart()
            return self._result(None)
        return result

    def _first_cover(self, boxes: Boxes, supremum: Upper | None) -> Cover:
        """The cover to begin with: all boxes of every block, open.

        For scalar symbols, only the boxes that their values at the centres do not prove are ever opened.
        """
        centre_values = self.polynomials.at_centres(boxes)
        if centre_values is None:
            return Cover(self.blocks, boxes, supremum, nonnegative=self.nonnegative, ops=self.ops)
        self.clock.check()
        self._ascend_from_best(centre_values, boxes, supremum)
        return Cover(
            self.blocks,
            boxes,
            supremum,
            nonnegative=self.nonnegative,
            values=centre_values,
            threshold=self.threshold,
            ops=self.ops,
        )

    def _ascend_from_best(
        self,
        centre_values: CentreValues,
        boxes: Boxes,
        supremum: Upper | None,
    ) -> None:
        """Raise the incumbent from the centre with the largest value."""
        values = centre_values.values
        block, place = np.unravel_index(int(values.argmax()), values.shape)
        norms_sq = values[block, place][None]
        cells = Cells(boxes[np.asarray([place])], np.asarray([block]), supremum)
        vectors = self.incumbent.start_vectors(1, 1)
        self.incumbent.raise_from(centre_values.polynomial, cells, norms_sq, norms_sq, vectors)

    def _refine(
        self,
        cover: Cover,
        max_cells: int,
        max_levels: int | None,
        *,
        relaxes: bool,
    ) -> SearchResult:
        """Prove or cut the open cells, round by round, until none is left or the budget ends."""
        self.clock.check()
        polynomial: GramPolynomial | None = None
        vectors: Array | None = None
        while len(cover):
            if self._is_refuted() or self._cells + len(cover) > max_cells or self._rounds == max_levels:
                return self._result(None)
            self.clock.check()
            count = len(cover)
            self._cells += count
            self._rounds += 1
            time_left = self.clock.left
            lower_before = self.incumbent.best.claim.value
            previous_polynomial = polynomial
            in_float32 = self.incumbent.is_far_below and self._rounds <= self.tuning.float32_rounds
            polynomial = self.polynomials.near(self.threshold, self.incumbent.trial_vectors, in_float32=in_float32)
            if vectors is None or polynomial is not previous_polynomial:
                vectors = self.incumbent.start_vectors(count, polynomial.rank)
            vectors = self._prefilter(cover, polynomial, vectors)
            if not len(cover):
                break
            nodes = self._estimate(cover, polynomial, vectors)
            # The estimates may be of the polynomial's float32 copy.
            self.incumbent.raise_from(nodes.polynomial, cover.open, nodes.norms_sq, nodes.eigenvalues, nodes.vectors)
            if not self._is_refuted():
                self._fathom_round(cover, polynomial, nodes)
            if self._is_refuted():
                return self._result(None)
            cells_left = max_cells - self._cells
            if relaxes:
                # Assume that the next round's cells take as long as these.
                seconds = time_left - self.clock.left
                cells_in_time = self.clock.left * count / seconds if seconds > 0 else math.inf
                self._relax(cover, polynomial, nodes, self.tuning.ahead * min(cells_left, cells_in_time))
            still_open = cover.prune()
            if not self._evaluate_single_frequencies(cover, lower_before):
                return self._result(None)
            # The open cells are cut, more finely where their norms are high.
            ratio = np.sqrt(nodes.norms_sq[still_open]) / max(self.threshold, 1e-300)
            parent = cover.split(self._pieces(ratio, cover.open.boxes.radius))
            vectors = arrays.rows(nodes.vectors, still_open[parent], ops=self.ops)
        return self._result(cover.proven())

    # -- what is to be proven ----------------------------------------------------------------------------------------
    def _begin(
        self,
        boxes: Boxes,
        rtol: float,
        bound: float | None,
        start: SearchResult | None,
    ) -> None:
        """Set the threshold; take over an earlier lower bound, or find a first one."""
        self._is_torus = not boxes.on_grid
        self._rtol = rtol
        self._bound = bound
        self._cells = 0
        self._rounds = 0
        if start is None:
            first = LowerBound(trivial_lower(), boxes.centres[:1], 0)
        else:
            first = LowerBound(start.lower, start.frequency, start.block)
        self.incumbent.begin(first, free=self._is_torus, rtol=min(rtol, self.tuning.close), bound=bound)
        # Trial vectors are for the reduced polynomial alone, and small blocks are not reduced. An enclosure of the
        # torus without an earlier result chooses them anew.
        is_first_enclosure = self._is_torus and start is None and bound is None
        needs_vectors = self.incumbent.trial_vectors is None or is_first_enclosure
        if needs_vectors and self.blocks.shape[2] >= self.tuning.smallest_reduced:
            self.incumbent.multistart()

    @property
    def threshold(self) -> float:
        """What is to be proven: the bound, or the incumbent raised by nearly all of the tolerance."""
        if self._bound is not None:
            return self._bound
        return self.incumbent.best.claim.value * (1 + self.tuning.share * self._rtol)

    def _is_refuted(self) -> bool:
        """Whether a norm above the bound is proven."""
        return self._bound is not None and self.incumbent.best.claim.value > self._bound

    def _result(self, upper: Upper | None) -> SearchResult:
        best = self.incumbent.best
        return SearchResult(best.claim, upper, best.frequency, best.block, self._cells, self._rounds)

    # -- the phases of a round ---------------------------------------------------------------------------------------
    # `_prefilter` fathoms grid cells in float32, `_estimate` estimates the norms of those left, and `_fathom_round`
    # tries to prove the cells once the ascent has raised the incumbent. The limit of a cell is the largest eigenvalue
    # of H at its centre with which it passes (`cover.limits_sq`); an infinite limit says that the supremum proves the
    # cell, without a matrix. A cell is called provable if its limit is high enough for its matrix, hopeful if its
    # estimate is below its limit, too, and futile if cutting it would not help.
    def _prefilter(self, cover: Cover, polynomial: GramPolynomial, vectors: Array) -> Array:
        """Fathom what float32 can of many grid cells, before any is estimated. Return the vectors of those left.

        Most are far below: to estimate them first would take as long as to prove them.
        """
        has_few_cells = len(cover) <= self.tuning.prefilter
        has_small_matrices = polynomial.rank < self.tuning.smallest_float32
        if self._is_torus or has_few_cells or has_small_matrices:
            return vectors
        float32 = polynomial.float32_copy()
        if not float32.is_float32:
            # Where float32 is not to be trusted, this would be to prove everything twice in float64.
            return vectors
        limit_sq = cover.limits_sq(float32, self.threshold)
        provable = (limit_sq >= self.polynomials.least_limit_sq(float32)) & (limit_sq < math.inf)
        self._fathom_unconditionally(cover, float32, np.flatnonzero(provable), limit_sq)
        return arrays.rows(vectors, cover.prune(), ops=self.ops)

    def _estimate(
        self,
        cover: Cover,
        polynomial: GramPolynomial,
        vectors: Array,
    ) -> NodeEstimates:
        """Estimate the norms at the centres.

        Matrices that are too many to be kept are used at once: cells are tried against the incumbent before the ascent.
        """
        xp = self.xp
        threshold = self.threshold
        count = len(cover)
        cover.fathom_by_supremum(threshold)
        tries_float32 = self._is_torus and (self._bound is not None or self._rtol >= self.tuning.rtol_float32)
        if tries_float32:
            polynomial = self.polynomials.for_trial(polynomial, threshold, cover.open.boxes.radius)
        vectors = xp.astype(vectors, arrays.complex_dtype(polynomial.even.dtype, xp=xp), copy=False)
        # A reduced matrix proves limits only from the one upwards that it is formed for (`GramPolynomial.reduced`).
        # That is the cell's limit, or the least one for which a reduction is possible.
        least_sq = max(self.polynomials.least_limit_sq(polynomial), self.tuning.least_reduced_part * threshold**2)
        reduced_for_sq = np.minimum(np.maximum(cover.limits_sq(polynomial, threshold), least_sq), 1e300)
        nodes = NodeEstimates(polynomial, threshold, vectors, reduced_for_sq)
        keeps_matrices = polynomial.itemsize * count * polynomial.rank**2 <= self.tuning.kept

        limit_sq = cover.limits_sq(polynomial, threshold)
        is_first = self._rounds == 1
        # Later cells were cut so that nearly all of their proofs succeed: only the others need an estimate.
        is_small = polynomial.rank < self.tuning.smallest_proven_first
        proves_first = self._is_torus and not is_first and not is_small

        def estimate(part: slice) -> tuple[np.ndarray, CentreMatrices, np.ndarray, np.ndarray, Array]:
            index = np.arange(count)[part]
            matrices, planes = cover.form(polynomial, index, reduced_for_sq[part])
            part_vectors = vectors[part, ...]
            if proves_first:
                provable = (limit_sq[part] >= reduced_for_sq[part]) & (limit_sq[part] < math.inf)
                cover.fathom(matrices.take(np.flatnonzero(provable), ops=self.ops), threshold)
                still_open = np.flatnonzero(~cover.done[index])
                index = index[still_open]
                matrices = matrices.take(still_open, ops=self.ops)
                even, odd = (arrays.rows(plane, still_open, ops=self.ops) for plane in planes)
                planes = (even, odd)
                part_vectors = arrays.rows(part_vectors, still_open, ops=self.ops)
            if not len(index):
                return index, matrices, np.zeros(0), np.zeros(0), part_vectors
            eigenvalues, eigenvectors = top_eigenpairs(
                matrices,
                part_vectors,
                self.tuning,
                self.blocks,
                first=is_first,
                crowded=self._is_crowded,
                ops=self.ops,
            )
            norms_sq, _ = lift_to_all_columns(polynomial, planes, eigenvectors, eigenvalues, ops=self.ops)
            return index, matrices, eigenvalues, norms_sq, eigenvectors

        mapped = self.ops.map if polynomial.rank >= self.tuning.smallest_shared else map
        new_vectors = []
        visited = []
        for index, matrices, eigenvalues, norms_sq, eigenvectors in mapped(
            estimate, self.polynomials.parts(polynomial, count)
        ):
            nodes.eigenvalues[index] = eigenvalues
            nodes.norms_sq[index] = norms_sq
            new_vectors.append(eigenvectors)
            visited.append(index)
            if keeps_matrices:
                nodes.matrices.append(matrices)
            else:
                self._fathom_promising(cover, nodes, matrices, threshold)
        if is_first:
            self._is_crowded = is_crowded(nodes.eigenvalues, reduced_for_sq, polynomial.rank, self.tuning)
        if new_vectors:
            nodes.vectors = self._with_new_rows(vectors, np.concatenate(visited), xp.concat(new_vectors, axis=0))
        return nodes

    def _with_new_rows(self, vectors: Array, index: np.ndarray, new_vectors: Array) -> Array:
        """Replace rows of vectors (c, rank); cells that were proven without an estimate keep their old vectors.

        Parameters
        ----------
        index : integer array
            Numbers of the rows, ascending.
        """
        is_new: np.ndarray = np.zeros(vectors.shape[0], dtype=bool)
        is_new[index] = True
        if is_new.all():
            return new_vectors
        kept = np.flatnonzero(np.logical_not(is_new))
        rows = self.xp.concat([new_vectors, arrays.rows(vectors, kept, ops=self.ops)], axis=0)
        return arrays.rows(rows, np.argsort(np.concatenate([index, kept])), ops=self.ops)

    def _fathom_round(self, cover: Cover, polynomial: GramPolynomial, nodes: NodeEstimates) -> None:
        """Prove what the incumbent allows by now: by the matrices that were kept, and then, if need be, by new ones."""
        threshold = self.threshold
        if cover.fathom_by_supremum(threshold):
            return
        for matrices in nodes.matrices:
            self._fathom_promising(cover, nodes, matrices, threshold)
        is_same_polynomial = polynomial is nodes.polynomial
        if is_same_polynomial and nodes.matrices and not polynomial.truncation > 0:
            # The kept matrices were all that can be tried.
            return
        limit_sq = cover.limits_sq(polynomial, threshold)
        is_hopeful = (nodes.eigenvalues < limit_sq) & (limit_sq >= nodes.reduced_for_sq) & ~cover.done
        hopeful = np.flatnonzero(is_hopeful)
        # Form matrices if float32 was tried so far, or if the threshold has risen since matrices were tried.
        must_form_again = not nodes.matrices and threshold > nodes.threshold
        if not is_same_polynomial or must_form_again:
            for part in self.polynomials.parts(polynomial, len(hopeful)):
                matrices, _ = cover.form(polynomial, hopeful[part], nodes.reduced_for_sq[hopeful[part]])
                self._fathom_promising(cover, nodes, matrices, threshold)
        if polynomial.truncation > 0:
            self._fathom_untruncated(cover, nodes, limit_sq, hopeful)

    def _fathom_untruncated(
        self,
        cover: Cover,
        nodes: NodeEstimates,
        limit_sq: np.ndarray,
        hopeful: np.ndarray,
    ) -> None:
        """Retry cells with all directions, where truncation raises eigenvalues so much that smaller cells would fail.

        Parameters
        ----------
        limit_sq : float array, shape (c,)
            Limits of the truncated proof.
        hopeful : integer array
            Cells whose estimates allowed a proof.
        """
        threshold = self.threshold
        no_reduction = np.zeros(len(cover))
        norm_is_below = nodes.norms_sq < limit_sq
        limit_is_high = limit_sq > self.tuning.high_limit * threshold**2
        failed_by_truncation = norm_is_below & limit_is_high & ~cover.done
        # The truncated proof would fail for cells of a quarter of the radius, too: cutting does not help.
        limit_of_quarter_sq = (threshold * np.cos(cover.open.boxes.radius / 4)) ** 2
        cutting_is_futile = nodes.eigenvalues > limit_of_quarter_sq
        futile = np.flatnonzero(failed_by_truncation & cutting_is_futile)
        if len(futile):
            self._fathom_unconditionally(cover, self.polynomials.whole, futile, no_reduction)
        # For small cells the estimate can pass although the truncated proof fails. If there are many, the hardest one
        # is retried first; the others are retried if it passes.
        small = hopeful[limit_sq[hopeful] > self.tuning.limit_of_small_cells * threshold**2]
        failed = small[failed_by_truncation[small] & ~cover.done[small]]
        if len(failed) < self.tuning.fewest_retries:
            return
        hardest_first = failed[np.argsort(-nodes.eigenvalues[failed], kind="stable")]
        self._fathom_unconditionally(cover, self.polynomials.whole, hardest_first[:1], no_reduction)
        if cover.done[hardest_first[0]]:
            self._fathom_unconditionally(cover, self.polynomials.whole, hardest_first[1:], no_reduction)

    def _fathom_unconditionally(
        self,
        cover: Cover,
        polynomial: GramPolynomial,
        index: np.ndarray,
        reduced_for_sq: np.ndarray,
    ) -> None:
        """Try to fathom some cells by new matrices, whatever their estimates."""
        for part in self.polynomials.parts(polynomial, len(index)):
            matrices, _ = cover.form(polynomial, index[part], reduced_for_sq[index[part]])
            cover.fathom(matrices, self.threshold)

    def _fathom_promising(
        self,
        cover: Cover,
        nodes: NodeEstimates,
        matrices: CentreMatrices,
        threshold: float,
    ) -> None:
        """Try to fathom the cells whose estimates allow it."""
        polynomial = matrices.polynomial
        index = matrices.index
        limit_sq = cover.limits_sq(polynomial, threshold)[index]
        # What the factorisation leaves of the limit after its own rounding.
        part_left = 1 - norms.likely_loss(polynomial.rank, matrices.matrices, ops=self.ops)
        is_hopeful = (nodes.eigenvalues[index] < part_left * limit_sq) & (limit_sq >= nodes.reduced_for_sq[index])
        hopeful = np.flatnonzero(is_hopeful & ~cover.done[index] & (limit_sq < math.inf))
        if not len(hopeful):
            return
        cover.fathom(matrices.take(hopeful, ops=self.ops), threshold)

    def _evaluate_single_frequencies(self, cover: Cover, lower_before: float) -> bool:
        """Evaluate the open cells that are single frequencies, which cannot be cut.

        Return whether the next round can do more: there are none, or the incumbent has risen in this round.
        """
        divisible = cover.open.boxes.divisible
        if divisible.all():
            return True
        self._evaluate_points(cover.open[np.flatnonzero(~divisible)])
        return self.incumbent.best.claim.value > lower_before * (1 + self.tuning.least_gain)

    def _evaluate_points(self, points: Cells) -> None:
        """Evaluate single frequencies by a full eigendecomposition: their estimates may not have converged."""
        whole = self.polynomials.whole
        for part in self.polynomials.parts(whole, len(points)):
            some_points = points[part]
            self.clock.require(len(some_points) * eigh_cost(whole.rank, is_complex=True))
            columns = whole.columns_at(some_points.boxes.centres, some_points.block)
            values, vectors = arrays.top_eigenpair(columns, xp=self.xp)
            norms_sq = self.ops.to_numpy(values)
            self.incumbent.raise_from(whole, some_points, norms_sq, norms_sq, vectors)

    def _relax(
        self,
        cover: Cover,
        polynomial: GramPolynomial,
        nodes: NodeEstimates,
        most_cells: float,
    ) -> None:
        """Widen the tolerance while the next round would have too many cells. Cells that were proven stay proven."""
        axes = int(np.count_nonzero(cover.open.boxes.half_degree))
        while self._rtol < 1 and not self.clock.expired:
            still_open = np.flatnonzero(~cover.done)
            ratio = np.sqrt(nodes.norms_sq[still_open]) / max(self.threshold, 1e-300)
            pieces = self._pieces(ratio, cover.open.boxes.radius[still_open])
            if (pieces**axes).sum() <= most_cells:
                break
            self._rtol = min(1.0, self.tuning.wider * self._rtol)
            self._fathom_round(cover, polynomial, nodes)

    def _pieces(self, ratio: np.ndarray, radius: np.ndarray) -> np.ndarray:
        """Pieces an axis for each open cell, shape (c,).

        They are as many as make a piece small enough to pass if its norm were its parent's, but at least 2 and at most
        `Tuning.pieces`.

        Parameters
        ----------
        ratio, radius : float arrays, shape (c,)
            Norms at the centres over the threshold, and the cells' radii.
        """
        # By the cell lemma, cos phi >= ratio. If the symbol is nowhere negative, (1 + cos phi) / 2 >= ratio is enough,
        # so that cos phi >= 2 ratio - 1.
        least_cosine = 2 * ratio - 1 if self.nonnegative else ratio
        # Near the maximum the ratio would ask for a radius of 0, where half of the tolerance allows for a larger one.
        largest_cosine = 1 / (1 + (0.5 * self._rtol + self.tuning.added_tolerance))
        provable_radius = np.arccos(np.clip(least_cosine, 0.0, largest_cosine))
        pieces = np.clip(np.ceil(self.tuning.cutting_margin * radius / provable_radius), 2, self.tuning.pieces)
        return np.asarray(pieces.astype(np.int64))

    # -- helpers -----------------------------------------------------------------------------------------------------
    def at_nearest(
        self,
        where: SearchResult,
        sizes: tuple[int, ...],
        skew: tuple[bool, ...] = (),
    ) -> SearchResult:
        """Lower bound of the norm at the best of the circulant's frequencies around the best one of the torus.

        ``where`` is from a search of the torus; ``sizes`` and ``skew`` are as in `certified.symbol.cells.dft`.
        """
        start = LowerBound(where.lower, where.frequency, where.block)
        compared = self.incumbent.at_nearest(start, sizes, skew)
        best = self.incumbent.best
        return SearchResult(
            lower=best.claim,
            upper=None,
            frequency=best.frequency,
            block=best.block,
            cells=compared,
            levels=0,
        )
