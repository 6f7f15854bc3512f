"""Branch and bound over frequencies: the engine behind enclosures, certificates and exact norms.

A round of the search estimates the norms at the centres of the open cells, ascends from the highest, and asks the cover
to fathom cells (`supremum.proof`). Fathomed cells are pruned, the others are cut. Each round is a level of the tree of
cells. If the budget ends the search first, the result has no upper bound.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs import norms
from specnorm.proofs.bound import Lower
from specnorm.proofs.cells import Boxes
from specnorm.proofs.found import Found, Witness
from specnorm.running.search import Clock, OutOfTime
from specnorm.supremum import tuning
from specnorm.supremum.incumbent import (
    Incumbent,
    NodeEstimates,
    is_crowded,
    lift_to_all_columns,
    top_eigenpairs,
)
from specnorm.supremum.proof import Cells, CentreMatrices, Cover, supremum_on_grid
from specnorm.supremum.reduction import Polynomials
from specnorm.symbols import ascent

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper
    from specnorm.proofs.cells import Boxes
    from specnorm.supremum.proof import Nonnegative
    from specnorm.symbols.proofs.polynomial import CentreValues, GramPolynomial


class Search:
    """Branch and bound for the largest norm of a stack of blocks: one block, or the groups of one layer.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the widest dtype of the library, scaled to about 1, not all zero.
    seed : int
        Seed of the start vectors.
    clock : Clock, optional
        Deadline: nothing is begun once the time is up.
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
        self.blocks = blocks = arrays.tall(blocks, xp=xp)
        self.xp = xp
        self.ops = ops
        self.clock = clock or Clock()
        self.nonnegative = nonnegative
        self.incumbent = Incumbent(blocks, seed=seed, clock=self.clock, ops=ops)
        self.polynomials = Polynomials(blocks, clock=self.clock, ops=ops)
        # State of one run, set by `_begin`.
        self._is_torus = True  # boxes of the torus, in which frequencies may move, not points of a grid
        self._rtol = self._asked_rtol = 0.0
        self._bound: float | None = None
        self._cells = 0
        self._rounds = 0
        self._is_crowded = False

    def run(
        self,
        boxes: Boxes,
        *,
        rtol: float = 0.0,
        bound: float | None = None,
        supremum: Upper | None = None,
        start: Found | None = None,
        max_cells: int,
        relaxes: bool = False,
    ) -> Found:
        """Enclose the largest norm over the boxes.

        ``boxes``: cells of the torus, or points of a grid, that hold all frequencies to be searched; the same for each
        block. ``rtol``: prove that ``upper`` is at most ``lower * (1 + rtol)``. ``bound``: prove this bound instead, or
        a norm above it. ``supremum``: bound of the norm on the whole torus, for boxes of grid points. ``start``: an
        earlier search of these blocks over the same frequencies, for its lower bound and frequency. ``max_cells``:
        budget, for each block. ``relaxes``: whether to widen the tolerance if ``rtol`` needs more cells or time than
        are left. For searches of the torus alone.
        """
        self._begin(boxes, rtol, bound, start)
        if supremum is not None and supremum <= self.threshold:
            return self._result(supremum_on_grid(supremum, boxes))
        try:
            cover = self._first_cover(boxes, supremum)
            result = self._refine(cover, max_cells * self.blocks.shape[0], relaxes=relaxes)
        except OutOfTime:
            result = self._result(None)
        if result.upper is None and self._is_torus and not self.incumbent.best.lower.value > 0:
            # The budget ended before the first ascent: the multistart gives the answer a lower bound.
            self.incumbent.multistart()
            return self._result(None)
        return result

    def _first_cover(self, boxes: Boxes, supremum: Upper | None) -> Cover:
        """The cover of the first round: all boxes of every block, open.

        For scalar symbols, only the boxes that the values at their centres do not prove are open.
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

    def _refine(self, cover: Cover, max_cells: int, *, relaxes: bool) -> Found:
        """Prove or cut the open cells, round by round, until none is left or the budget ends."""
        self.clock.check()
        polynomial: GramPolynomial | None = None
        vectors: Array | None = None
        while len(cover):
            if self._is_refuted() or self._cells + len(cover) > max_cells:
                return self._result(None)
            self.clock.check()
            count = len(cover)
            self._cells += count
            self._rounds += 1
            lower_before = self.incumbent.best.lower.value
            previous_polynomial = polynomial
            in_float32 = self.incumbent.is_far_below and self._rounds == 1
            polynomial = self.polynomials.reduced(self.threshold, self.incumbent.trial_vectors, in_float32=in_float32)
            if vectors is None or polynomial is not previous_polynomial:
                vectors = self.incumbent.start_vectors(count, polynomial.rank)
            vectors = self._prefilter(cover, polynomial, vectors)
            if not len(cover):
                break
            # From here on, time is spent on cells: later rounds need no new polynomial.
            time_left = self.clock.left
            nodes = self._estimate(cover, polynomial, vectors)
            # The estimates may be of the polynomial's float32 copy.
            self.incumbent.raise_from(nodes.polynomial, cover.open, nodes.norms_sq, nodes.eigenvalues, nodes.vectors)
            self._narrow(lower_before)
            if not self._is_refuted():
                self._fathom_round(cover, polynomial, nodes)
                lower_so_far = self.incumbent.best.lower.value
                if self._ascend_from_failures(cover, nodes):
                    self._narrow(lower_so_far)
                    self._fathom_round(cover, polynomial, nodes)
            if self._is_refuted():
                return self._result(None)
            if relaxes:
                self._relax(cover, polynomial, nodes, max_cells - self._cells, time_left)
            still_open = cover.prune()
            are_single_open = self._evaluate_single_frequencies(cover)
            if are_single_open and not self._has_risen_above(lower_before):
                # The next round could do no more.
                return self._result(None)
            # The open cells are cut, more finely where their norms are high.
            parent = cover.split(self._pieces(nodes.norms_sq[still_open], cover.open.boxes.radius))
            vectors = arrays.rows(nodes.vectors, still_open[parent], ops=self.ops)
        return self._result(cover.proven())

    # -- the threshold -----------------------------------------------------------------------------------------------
    def _begin(
        self,
        boxes: Boxes,
        rtol: float,
        bound: float | None,
        start: Found | None,
    ) -> None:
        """Set what a run needs for its threshold; begin with an earlier lower bound or, if need be, a multistart."""
        self._is_torus = not boxes.on_grid
        self._rtol = self._asked_rtol = rtol
        self._bound = bound
        # For a bound, the tolerance is unknown: nobody knows how far the bound is above the norm.
        self.polynomials.tolerance = rtol if bound is None else 0.0
        self._cells = 0
        self._rounds = 0
        if start is None:
            first = Found(Lower.trivial(), None, Witness(0, boxes.centres[:1]))
        else:
            first = Found(start.lower, None, Witness(start.witness.block, start.witness.frequency))
        self.incumbent.begin(first, free=self._is_torus, rtol=min(rtol, tuning.INCUMBENT_RTOL), bound=bound)
        # A multistart chooses trial vectors, which are for the reduced polynomial alone: blocks with few channels have
        # none. An enclosure from the beginning also needs its ascents.
        is_first_enclosure = self._is_torus and start is None and bound is None
        needs_multistart = self.incumbent.trial_vectors is None or is_first_enclosure
        if needs_multistart and self.blocks.shape[2] >= tuning.SMALLEST_REDUCED:
            self.incumbent.multistart()

    @property
    def threshold(self) -> float:
        """The bound that is to be proven: the one given, or the incumbent raised by nearly all of the tolerance."""
        if self._bound is not None:
            return self._bound
        return self.incumbent.best.lower.value * (1 + tuning.PROOF_SHARE * self._rtol)

    def _is_refuted(self) -> bool:
        """Whether a norm above the bound is proven."""
        return self._bound is not None and self.incumbent.best.lower.value > self._bound

    def _result(self, upper: Upper | None) -> Found:
        return replace(self.incumbent.best, upper=upper, cells=self._cells, levels=self._rounds)

    # -- the phases of a round ---------------------------------------------------------------------------------------
    # `_prefilter` fathoms grid cells in float32, `_estimate` estimates the norms of those left, and `_fathom_round`
    # tries to fathom cells once the ascent has raised the incumbent. A cell's eigenvalue limit is infinite if the
    # supremum fathoms it, which needs no matrix. Masks are named after their test:
    # - `limit_is_provable`: the limit is finite, and high enough for a (reduced) matrix,
    # - `estimate_is_below`: the estimated eigenvalue is below the limit (or, in `_fathom_likely`, below what a
    #   factorization's rounding leaves of it),
    # - `norm_is_below`, `limit_is_high`: the estimate of a cell's norm is below its limit, and that is near the
    #   threshold. If such a cell is not fathomed, the truncation is to blame.
    # Cells are tried unconditionally (`_fathom_all`) or if their estimates allow it (`_fathom_likely`).
    def _prefilter(self, cover: Cover, polynomial: GramPolynomial, vectors: Array) -> Array:
        """Fathom the grid cells that float32 proves. Return the vectors of the cells left.

        Most cells are far below the threshold: to estimate them first would take as long as to prove them.
        """
        if self._is_torus or polynomial.rank < tuning.SMALLEST_REDUCED:
            return vectors
        float32 = polynomial.float32_copy()
        if not float32.is_float32:
            # float32 is not to be trusted here: the copy is in float64, and everything would be tried twice.
            return vectors
        eigenvalue_limit = cover.eigenvalue_limits(float32, self.threshold)
        least_limit = self.polynomials.least_eigenvalue_limit(float32)
        limit_is_provable = (eigenvalue_limit >= least_limit) & (eigenvalue_limit < math.inf)
        self._fathom_all(cover, float32, np.flatnonzero(limit_is_provable), eigenvalue_limit)
        return arrays.rows(vectors, cover.prune(), ops=self.ops)

    def _estimate(
        self,
        cover: Cover,
        polynomial: GramPolynomial,
        vectors: Array,
    ) -> NodeEstimates:
        """Fathom the cells that the supremum proves, then estimate the norms at the centres.

        Some cells are proven before the ascent, at the present threshold: large later cells of the torus
        (`_prove_or_estimate_part`) and, if the matrices are too many to be kept, all whose estimates allow it.
        """
        threshold = self.threshold
        count = len(cover)
        cover.fathom_by_supremum(threshold)
        if self._is_torus:
            polynomial = self.polynomials.for_trial(polynomial, threshold, cover.open.boxes.radius)
        vectors = self.xp.astype(vectors, arrays.complex_dtype(polynomial.dtype, xp=self.xp), copy=False)
        # A reduced matrix proves no limit below the one for which it was reduced (`GramPolynomial.reduced`). Reduce it
        # for the limit of its cell or, if that is too low for a reduction, for the least one that is not.
        least_limit = self.polynomials.least_eigenvalue_limit(polynomial)
        eigenvalue_limit = cover.eigenvalue_limits(polynomial, threshold)
        reduced_for = np.minimum(np.maximum(eigenvalue_limit, least_limit), 1e300)  # finite
        nodes = NodeEstimates(polynomial, threshold, vectors, reduced_for)
        keeps_matrices = polynomial.itemsize * count * polynomial.rank**2 <= tuning.CACHE_BYTES
        mapped = self.ops.map if polynomial.rank >= tuning.SMALLEST_LARGE else map
        new_vectors = []
        visited = []
        estimate = partial(self._prove_or_estimate_part, cover, nodes, eigenvalue_limit)
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
                self._fathom_likely(cover, nodes, matrices, threshold)
        if self._rounds == 1:
            self._is_crowded = is_crowded(nodes.eigenvalues, reduced_for, polynomial.rank)
        if new_vectors:
            all_new = self.xp.concat(new_vectors, axis=0)
            nodes.vectors = self._with_new_rows(vectors, np.concatenate(visited), all_new)
        return nodes

    def _prove_or_estimate_part(
        self,
        cover: Cover,
        nodes: NodeEstimates,
        eigenvalue_limit: np.ndarray,
        part: slice,
    ) -> tuple[np.ndarray, CentreMatrices, np.ndarray, np.ndarray, Array]:
        """Estimate a part of the cells. Later cells of the torus with large matrices are tried by proof first.

        ``nodes``: estimates of the round; its polynomial, limits and start vectors are read, and it is not changed.
        ``eigenvalue_limit`` (c,): limits of all cells. Returns ``index`` (n,): numbers of the cells that were
        estimated; ``matrices``: their matrices; ``eigenvalues``, ``norms_sq`` (n,); ``vectors`` (n, rank).
        """
        polynomial = nodes.polynomial
        reduced_for = nodes.reduced_for[part]
        is_first = self._rounds == 1
        index = np.arange(len(cover))[part]
        matrices, planes = cover.form(polynomial, index, reduced_for)
        vectors = nodes.vectors[part, ...]
        # Later cells were cut so that nearly all of their proofs succeed: only the others need an estimate. Those
        # of small matrices cost less than proofs, and may raise the incumbent.
        if self._is_torus and not is_first and polynomial.rank >= tuning.SMALLEST_REDUCED:
            limit_is_provable = (eigenvalue_limit[part] >= reduced_for) & (eigenvalue_limit[part] < math.inf)
            cover.fathom(matrices.take(np.flatnonzero(limit_is_provable), ops=self.ops), nodes.threshold)
            still_open = np.flatnonzero(~cover.fathomed[index])
            index = index[still_open]
            matrices = matrices.take(still_open, ops=self.ops)
            if planes is not None:
                real, imag = (arrays.rows(plane, still_open, ops=self.ops) for plane in planes)
                planes = (real, imag)
            vectors = arrays.rows(vectors, still_open, ops=self.ops)
        if not len(index):
            return index, matrices, np.zeros(0), np.zeros(0), vectors
        eigenvalues, eigenvectors = top_eigenpairs(
            matrices,
            vectors,
            self.blocks,
            first=is_first,
            crowded=self._is_crowded,
            ops=self.ops,
        )
        norms_sq = eigenvalues
        if planes is not None:
            norms_sq, _ = lift_to_all_columns(polynomial, planes, eigenvectors, eigenvalues, ops=self.ops)
        return index, matrices, eigenvalues, norms_sq, eigenvectors

    def _with_new_rows(self, vectors: Array, index: np.ndarray, new_vectors: Array) -> Array:
        """Replace the rows of vectors (c, rank) at ``index``, which ascends.

        The other cells were proven without an estimate: they keep their vectors.
        """
        is_new: np.ndarray = np.zeros(vectors.shape[0], dtype=bool)
        is_new[index] = True
        if is_new.all():
            return new_vectors
        kept = np.flatnonzero(np.logical_not(is_new))
        rows = self.xp.concat([new_vectors, arrays.rows(vectors, kept, ops=self.ops)], axis=0)
        return arrays.rows(rows, np.argsort(np.concatenate([index, kept])), ops=self.ops)

    def _fathom_round(self, cover: Cover, polynomial: GramPolynomial, nodes: NodeEstimates) -> None:
        """Try to prove the cells at the present threshold, by the kept matrices and, if need be, by new ones."""
        threshold = self.threshold
        if cover.fathom_by_supremum(threshold):
            return
        for matrices in nodes.matrices:
            self._fathom_likely(cover, nodes, matrices, threshold)
        was_tried_in_float32 = polynomial is not nodes.polynomial
        if nodes.matrices and not was_tried_in_float32 and not polynomial.truncation > 0:
            # The same matrices in the same precision, with all directions, would prove no more.
            return
        eigenvalue_limit = cover.eigenvalue_limits(polynomial, threshold)
        estimate_is_below = nodes.eigenvalues < eigenvalue_limit
        likely = np.flatnonzero(estimate_is_below & (eigenvalue_limit >= nodes.reduced_for) & ~cover.fathomed)
        # The matrices were used at once and not kept: form them again if the threshold has risen since.
        must_form_again = not nodes.matrices and threshold > nodes.threshold
        if was_tried_in_float32 or must_form_again:
            for part in self.polynomials.parts(polynomial, len(likely)):
                matrices, _ = cover.form(polynomial, likely[part], nodes.reduced_for[likely[part]])
                self._fathom_likely(cover, nodes, matrices, threshold)
        if polynomial.truncation > 0:
            self._fathom_untruncated(cover, nodes, eigenvalue_limit)

    def _fathom_untruncated(
        self,
        cover: Cover,
        nodes: NodeEstimates,
        eigenvalue_limit: np.ndarray,
    ) -> None:
        """Retry with all directions the cells whose proofs failed by the truncation.

        A retry takes less time than the four pieces into which a cell would be cut.

        ``eigenvalue_limit`` (c,): limits of the truncated proof.
        """
        threshold = self.threshold
        norm_is_below = nodes.norms_sq < eigenvalue_limit
        limit_is_high = eigenvalue_limit > tuning.NEAR_PART * threshold**2
        retried = np.flatnonzero(norm_is_below & limit_is_high & ~cover.fathomed)
        if not len(retried):
            return
        whole = self.polynomials.for_trial(self.polynomials.whole, threshold, cover.open.boxes.radius[retried])
        no_reduction = np.zeros(len(cover))
        self._fathom_all(cover, whole, retried, no_reduction)
        # Where the cells are so small that float32 loses too much, they are tried in float64.
        if whole is not self.polynomials.whole:
            self._fathom_all(cover, self.polynomials.whole, retried[~cover.fathomed[retried]], no_reduction)

    def _ascend_from_failures(self, cover: Cover, nodes: NodeEstimates) -> bool:
        """Raise the incumbent from centres whose proofs failed against their estimates; return whether it has risen.

        There the estimates are too low, as for spectra without a gap at the top. Their norms are found by full
        eigendecompositions.
        """
        whole = self.polynomials.whole
        eigenvalue_limit = cover.eigenvalue_limits(whole, self.threshold)
        norm_is_below = nodes.norms_sq < eigenvalue_limit
        limit_is_high = (eigenvalue_limit > tuning.NEAR_PART * self.threshold**2) & (eigenvalue_limit < math.inf)
        failed = np.flatnonzero(norm_is_below & limit_is_high & ~cover.fathomed)
        chosen = failed[np.argsort(-nodes.norms_sq[failed], kind="stable")[:1]]
        if not len(chosen) or not self.clock.affords(len(chosen) * Clock.eigh_cost(whole.rank, is_complex=True)):
            return False
        lower_before = self.incumbent.best.lower.value
        self._ascend_from_eigenpairs(cover.open[chosen])
        return self._has_risen_above(lower_before)

    def _ascend_from_eigenpairs(self, points: Cells) -> None:
        """Raise the incumbent from the centres of some cells, by full eigendecompositions."""
        whole = self.polynomials.whole
        columns = whole.columns_at(points.boxes.centres, points.block)
        values, vectors = arrays.top_eigenpair(columns, xp=self.xp)
        norms_sq = self.ops.to_numpy(values)
        self.incumbent.raise_from(whole, points, norms_sq, norms_sq, vectors)

    def _fathom_all(
        self,
        cover: Cover,
        polynomial: GramPolynomial,
        index: np.ndarray,
        reduced_for: np.ndarray,
    ) -> None:
        """Try to fathom some cells by new matrices, whatever their estimates are."""
        for part in self.polynomials.parts(polynomial, len(index)):
            matrices, _ = cover.form(polynomial, index[part], reduced_for[index[part]])
            cover.fathom(matrices, self.threshold)

    def _fathom_likely(
        self,
        cover: Cover,
        nodes: NodeEstimates,
        matrices: CentreMatrices,
        threshold: float,
    ) -> None:
        """Try to fathom the cells whose estimates allow it."""
        polynomial = matrices.polynomial
        index = matrices.index
        eigenvalue_limit = cover.eigenvalue_limits(polynomial, threshold)[index]
        # The part of the limit that the factorization leaves after its own rounding.
        part_left = 1 - norms.likely_loss(polynomial.rank, matrices.matrices, ops=self.ops)
        estimate_is_below = nodes.eigenvalues[index] < part_left * eigenvalue_limit
        limit_is_provable = (eigenvalue_limit >= nodes.reduced_for[index]) & (eigenvalue_limit < math.inf)
        likely = np.flatnonzero(estimate_is_below & limit_is_provable & ~cover.fathomed[index])
        if not len(likely):
            return
        cover.fathom(matrices.take(likely, ops=self.ops), threshold)

    def _has_risen_above(self, lower_before: float) -> bool:
        """Whether the incumbent is higher than before, by more than rounding."""
        return self.incumbent.best.lower.value > lower_before * (1 + ascent.LEAST_GAIN)

    def _evaluate_single_frequencies(self, cover: Cover) -> bool:
        """Raise the incumbent at open single frequencies, by full eigendecompositions; return whether there are any.

        They cannot be cut, and their estimates may not have converged.
        """
        open_cells = cover.open
        is_divisible = open_cells.boxes.divisible
        if is_divisible.all():
            return False
        points = open_cells[np.flatnonzero(~is_divisible)]
        whole = self.polynomials.whole
        for part in self.polynomials.parts(whole, len(points)):
            some_points = points[part]
            self.clock.require(len(some_points) * Clock.eigh_cost(whole.rank, is_complex=True))
            self._ascend_from_eigenpairs(some_points)
        return True

    def _relax(
        self,
        cover: Cover,
        polynomial: GramPolynomial,
        nodes: NodeEstimates,
        cells_left: int,
        time_left: float,
    ) -> None:
        """Widen the tolerance until the next round fits into the cells and the time left, and prove what it allows.

        Cells that were proven stay proven. ``time_left``: at the beginning of this round.
        """
        axes = int(np.count_nonzero(cover.open.boxes.half_degree))
        rtol_before, is_time_short = self._rtol, False

        def fits(is_open: np.ndarray) -> bool:
            nonlocal is_time_short
            pieces = self._pieces(nodes.norms_sq[is_open], cover.open.boxes.radius[is_open])
            # Assume that the next round's cells take as long as these.
            seconds = time_left - self.clock.left
            cells_in_time = self.clock.left * len(cover) / seconds if seconds > 0 else math.inf
            is_time_short = cells_in_time < cells_left
            return bool((pieces**axes).sum() <= tuning.PART_OF_BUDGET * min(cells_left, cells_in_time))

        limits = cover.eigenvalue_limits(polynomial, self.threshold)
        norms_sq = nodes.norms_sq.copy()
        # Where proofs fail, the norms are above the limits: assume that they are so by as much as the limits are above
        # the estimates, or else, where matrices are kept and a round of proofs costs little, that they are the limits.
        surplus = 0.0 if nodes.matrices and polynomial is nodes.polynomial else 1.0
        while not fits(~cover.fathomed) and self._rtol < 1 and not self.clock.expired:
            failed = ~cover.fathomed & (norms_sq < limits) & (limits < math.inf)
            norms_sq[failed] = limits[failed] * (limits[failed] / np.maximum(norms_sq[failed], arrays.TINY)) ** surplus
            while self._rtol < 1 and not fits(~cover.fathomed & (norms_sq >= limits)):
                self._rtol = min(1.0, tuning.WIDENING_FACTOR * self._rtol)
                limits = cover.eigenvalue_limits(polynomial, self.threshold)
            self._fathom_round(cover, polynomial, nodes)
        self.clock.has_cut |= is_time_short and self._rtol > rtol_before

    def _narrow(self, lower_before: float) -> None:
        """Where the incumbent has risen, narrow a widened tolerance, so that the threshold stays where it was."""
        lower = self.incumbent.best.lower.value
        if lower > lower_before:
            self._rtol = max(self._asked_rtol, (1 + self._rtol) * lower_before / lower - 1)

    def _pieces(self, norms_sq: np.ndarray, radius: np.ndarray) -> np.ndarray:
        """Pieces per axis for each open cell, shape (c,).

        They are as many as make a piece small enough to be fathomed if its norm were its parent's, but at least 2 and
        at most `tuning.PIECES`.

        ``norms_sq``, ``radius`` (c,): squared norms at the centres, and the cells' radii.
        """
        ratio = np.sqrt(norms_sq) / max(self.threshold, arrays.TINY)
        # By the cell lemma, a cell is fathomed if cos phi >= ratio; if the symbol is nowhere negative, if
        # (1 + cos phi) / 2 >= ratio, that is, cos phi >= 2 ratio - 1.
        least_cosine = 2 * ratio - 1 if self.nonnegative else ratio
        # Near the maximum the ratio would ask for a radius of 0. A radius for half of the tolerance is enough: the norm
        # at a piece's centre may then use up the other half.
        largest_cosine = 1 / (1 + max(0.5 * self._rtol, sys.float_info.epsilon))
        provable_radius = np.arccos(np.clip(least_cosine, 0.0, largest_cosine))
        pieces = np.clip(np.ceil(tuning.CUTTING_MARGIN * radius / provable_radius), 2, tuning.PIECES)
        return np.asarray(pieces.astype(np.int64))

    # -- helpers -----------------------------------------------------------------------------------------------------
    def lower_bound_on_circulant(
        self,
        torus: Found,
        sizes: tuple[int, ...],
        skew: tuple[bool, ...] = (),
    ) -> Found:
        """Norm at the best of the circulant's frequencies around the torus' best one, as a result without upper bound.

        The incumbent begins anew there. The result's ``cells`` is the number of frequencies compared.

        ``torus``: result of a search of the torus. ``sizes``, ``skew``: as in `Boxes.dft`.
        """
        start = Found(torus.lower, None, Witness(torus.witness.block, torus.witness.frequency))
        compared = self.incumbent.begin_at_nearest(start, sizes, skew)
        return replace(self.incumbent.best, cells=compared)
