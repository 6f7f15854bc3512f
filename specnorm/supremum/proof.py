"""Prove that cells hold no norm above a threshold: the only place where a search may drop a cell.

A cell is a box of frequencies around a centre c, with phi its radius (`cells.Boxes.radius`). Let sigma* be the largest
norm on the torus, and mu the threshold. A Cholesky factorization proves that ``||G(c)||`` is at most some limit, and
one of three lemmas carries that to the cell. What is factorized is H = G*G of the rotated blocks, as computed: an
*eigenvalue limit* is the largest computed ``lambda_max(H(c))`` that proves a limit of ``||G(c)||``. It is the limit
for the rotated blocks, squared, less the error of H (`GramPolynomial.eigenvalue_limit_of_norm`).
The lemmas:

* Cell lemma (Bernstein, Szego): around a maximiser of the whole torus ``||G|| >= sigma* cos(phi)``. So if every cell of
  a cover has ``||G(c)|| <= mu cos(phi)``, phi < pi/2, then ``sigma* <= mu``.
* Grid lemma: the best point of a DFT grid need be no maximiser of the torus. With a proven ``S >= sigma*``, nothing in
  the cell exceeds mu if ``||G(c)|| <= mu cos(phi) - sqrt(S**2 - mu**2) sin(phi)``. With ``alpha = arccos(mu / S)`` the
  right side is ``S cos(alpha + phi)``: where it is positive, the angle is below pi/2, as the lemma requires.
* Variation: nothing in the cell exceeds mu if ``||G(c)||**2 <= mu**2 - V`` with V the most that G*G varies in it
  (`GramPolynomial.limits_by_variation`).

By the cell lemma alone, a cell may hold norms above mu; it holds no maximiser if sigma* is above mu. A cell is
*fathomed* once any of these conditions is proven of it.

Both first lemmas are one inequality. Let ``|u* G(theta) v| = ||G(theta)||`` for unit vectors u and v, and let
``g(t) = Re(w(t) u* G(theta + t delta) v)`` with ``w(t) = e^{i (a + b t)}``. Here ``g(0) = ||G(theta)||`` by the choice
of a; b moves the middle of the taps to the origin, so that the frequencies of g lie in [-phi, phi]. Then
``|g| <= S``, and Bernstein and Szego's ``g'**2 + phi**2 g**2 <= phi**2 S**2`` says that ``arccos(g / S)`` changes by at
most phi from t = 0 to 1:

    ||G(theta + delta)|| >= S cos(arccos(||G(theta)|| / S) + phi)     while that angle is at most pi.

With theta the maximiser and S = sigma* the arccosine is 0. (A cosine for each axis, and their product, would be wrong.)

Of a symbol that is, but for a phase, a Hermitian matrix D that is nowhere negative (it has no negative eigenvalue at
any frequency), ``f(t) = v* D(theta + t delta) v`` lies between 0 and S, and ``g = f - S / 2`` between -S/2 and S/2,
with the same frequencies. So both lemmas hold for g and S / 2: what was ``mu cos(phi)`` is ``mu (1 + cos(phi)) / 2``, a
loss half as large.

A cell that is fathomed for a threshold is so for every larger one: a search may raise its threshold. The search
keeps its cells in a `Cover`. It decides which of them are tried first and how they are cut: poor decisions cost time,
and no proof rests on them.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays, text
from specnorm.proofs import host, norms, rounding
from specnorm.proofs.bound import ALL_FREQUENCIES, HypothesisError, Lower, Sealed, Upper
from specnorm.proofs.cells import Boxes

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.symbols.proofs.polynomial import CentreValues, GramPolynomial


@dataclass(frozen=True, eq=False)
class Nonnegative(Sealed):
    """A proof that the symbol of a kernel is, but for a phase, Hermitian and nowhere negative.

    Nowhere negative: at no frequency does it have a negative eigenvalue.

    Parameters
    ----------
    kernel : array, shape (g, p, p, *taps)
    """

    kernel: Array

    def is_of(self, blocks: Array, *, ops: ArrayOps) -> bool:
        """Whether blocks are this kernel, maybe without slices of zero taps at its borders."""
        trimmed = arrays.without_zero_borders(self.kernel, ops=ops)
        return tuple(trimmed.shape) == tuple(blocks.shape) and bool(ops.xp.all(trimmed == blocks))


def _nowhere_negative(kernel: Array) -> Nonnegative:
    """The proof, made by a rule. For files of proofs."""
    return Nonnegative._made(kernel)


def cell_lemma(threshold: float, radius: np.ndarray) -> np.ndarray:
    """Norms at the centres up to which cells of the torus are fathomed, rounded down; 0 if no norm suffices.

    A fathomed cell contains no maximiser of the torus with a norm above the threshold. So if all are, the
    supremum is at most the threshold.
    """
    limits = np.maximum(host.mul_down(host.cos_down(radius), threshold), 0.0)
    return np.where(radius < math.pi / 2, limits, 0.0)


def grid_lemma(threshold: float, supremum: Upper, radius: np.ndarray) -> np.ndarray:
    """Norms at the centres up to which no grid point of a cell exceeds the threshold, rounded down.

    0 if no norm suffices, and infinite if every norm does, as the supremum is no larger than the threshold.
    """
    if supremum.what != ALL_FREQUENCIES:
        raise HypothesisError(f"grid points are fathomed by a bound of the supremum, which {supremum.what} is not")
    if supremum <= threshold:
        return np.full(len(radius), math.inf)
    apart_sq = host.mul_up(host.next_up(supremum.value - threshold), host.next_up(supremum.value + threshold))
    lost = host.next_up(host.sin_up(radius) * host.sqrt_up(apart_sq))
    limits = np.maximum(host.sub_down(cell_lemma(threshold, radius), lost), 0.0)
    return np.where(radius < math.pi / 2, limits, 0.0)


def nonnegative_cell_lemma(threshold: float, radius: np.ndarray) -> np.ndarray:
    """`cell_lemma` for a symbol that is nowhere negative: ``mu / 2 + mu / 2 cos(phi)``."""
    limits = host.mul_down(host.next_down(1 + host.cos_down(radius)), threshold / 2)
    return np.where(radius < math.pi / 2, limits, 0.0)


def nonnegative_grid_lemma(threshold: float, supremum: Upper, radius: np.ndarray) -> np.ndarray:
    """`grid_lemma` for a symbol that is nowhere negative.

    With ``mu - S / 2`` for mu and ``S / 2`` for S it is the lemma for ``g = f - S / 2``. Its limit is ``S / 2`` lower
    than that for f.
    """
    if supremum.what != ALL_FREQUENCIES:
        raise HypothesisError(f"grid points are fathomed by a bound of the supremum, which {supremum.what} is not")
    if supremum <= threshold:
        return np.full(len(radius), math.inf)
    half = supremum.value / 2
    above = host.next_down(threshold - half)
    if not above > 0:
        return np.zeros(len(radius))
    # (S / 2)**2 - (mu - S / 2)**2 = mu (S - mu)
    apart_sq = host.mul_up(threshold, host.next_up(supremum.value - threshold))
    lost = host.next_up(host.sin_up(radius) * host.sqrt_up(apart_sq))
    limits = host.sub_down(host.next_down(half + host.mul_down(host.cos_down(radius), above)), lost)
    return np.where(radius < math.pi / 2, np.maximum(limits, 0.0), 0.0)


@dataclass(frozen=True, eq=False)
class Cells:
    """Some boxes, and the index of the block each belongs to.

    Parameters
    ----------
    block : integer array, shape (c,)
    supremum : Upper, optional
        Of all blocks, everywhere; the proofs of grid points rest on it.
    nonnegative : bool
        Whether the symbol is, but for a phase, Hermitian and nowhere negative, which is to say that no eigenvalue is
        negative at any frequency. Its norm then varies less.
    """

    boxes: Boxes
    block: np.ndarray
    supremum: Upper | None
    nonnegative: bool = False

    def __len__(self) -> int:
        return len(self.block)

    def __getitem__(self, index: np.ndarray | slice) -> Cells:
        return Cells(self.boxes[index], self.block[index], self.supremum, self.nonnegative)


def eigenvalue_limits(polynomial: GramPolynomial, cells: Cells, threshold: float) -> np.ndarray:
    """Eigenvalue limits up to which cells are fathomed, by a lemma or by variation, rounded down, shape (c,).

    Negative where no eigenvalue proves that; infinite for grid points where the supremum itself is no larger.
    """
    boxes = cells.boxes
    norms_by_lemma = _by_lemma(boxes, cells.supremum, threshold, nonnegative=cells.nonnegative)
    if boxes.on_grid and cells.supremum is not None and cells.supremum <= threshold:
        # They are infinite, as their squares are.
        return norms_by_lemma
    by_variation = polynomial.limits_by_variation(boxes, threshold, cells.block)
    return np.asarray(np.maximum(polynomial.eigenvalue_limit_of_norm(norms_by_lemma), by_variation))


def _by_lemma(
    boxes: Boxes,
    supremum: Upper | None,
    threshold: float,
    *,
    nonnegative: bool,
) -> np.ndarray:
    """Norms at the centres up to which the cell lemma, or that of grids, proves boxes, shape (c,)."""
    if not boxes.on_grid:
        lemma = nonnegative_cell_lemma if nonnegative else cell_lemma
        return lemma(threshold, boxes.radius)
    if supremum is None:
        raise HypothesisError("grid points are fathomed by a proven supremum of the torus: none was given")
    lemma_of_grids = nonnegative_grid_lemma if nonnegative else grid_lemma
    return lemma_of_grids(threshold, supremum, boxes.radius)


@dataclass(frozen=True, eq=False)
class CentreMatrices(Sealed):
    """Gram matrices at the centres of some open cells of a cover, made by `Cover.form` alone.

    Parameters
    ----------
    polynomial : GramPolynomial
        Whose matrices they are.
    cells : Cells
        The open cells of the cover when the matrices were formed.
    index : integer array, shape (c,)
        Positions, among these, of the cells whose matrices they are.
    reduced_for : float array, shape (c,)
        Eigenvalue limits that the matrices are reduced for.
    matrices : array, shape (c, rank, rank)
    errors : float array, shape (c,)
        Bounds of the rounding of the reduction.
    """

    polynomial: GramPolynomial
    cells: Cells
    index: np.ndarray
    reduced_for: np.ndarray
    matrices: Array
    errors: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def take(self, chosen: np.ndarray, *, ops: ArrayOps) -> CentreMatrices:
        """Some of the matrices, by ascending positions."""
        if len(chosen) == len(self):
            return self
        return CentreMatrices._made(
            self.polynomial,
            self.cells,
            self.index[chosen],
            self.reduced_for[chosen],
            arrays.rows(self.matrices, chosen, ops=ops),
            self.errors[chosen],
        )


def can_prove(formed: CentreMatrices, eigenvalue_limit: np.ndarray) -> np.ndarray:
    """Whether the matrices can prove limits: those reduced for a limit prove no lower one, shape (c,)."""
    nothing_left_out = formed.polynomial.rank == formed.polynomial.size
    return np.asarray((eigenvalue_limit >= formed.reduced_for) | nothing_left_out)


def proven_below(formed: CentreMatrices, eigenvalue_limit: np.ndarray, *, ops: ArrayOps) -> np.ndarray:
    """Whether a factorization proves limits, shape (c,), of the eigenvalues of H at the centres."""
    limits = host.sub_down(eigenvalue_limit, formed.errors)
    if arrays.real_dtype(formed.matrices, xp=ops.xp) == ops.xp.float32:
        limits = host.float32_down(limits)
    below = norms.gram_below(formed.matrices, ops.from_numpy(limits, formed.polynomial.blocks), ops=ops)
    return np.asarray(ops.to_numpy(below) & can_prove(formed, eigenvalue_limit))


class Cover:
    """The cells of a search that may still hold a norm above the threshold.

    A cell leaves by proof alone; the others are cut. *Open* cells were not fathomed when the cover was last pruned.
    Some may be fathomed since: `prune` drops those. When no cell is open, `proven` bounds the norm over all that the
    boxes cover.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        All polynomials are of these blocks.
    boxes : Boxes
        Of each block, with what they cover (`Boxes.covers`).
    supremum : Upper, optional
        Of the whole torus; required for grid points.
    nonnegative : Nonnegative, optional
        That the symbol of the blocks is nowhere negative.
    values : CentreValues, optional
        Of the blocks at the centres of the boxes: cells that they prove to hold nothing above ``threshold`` are never
        opened.
    threshold : float
        For ``values`` alone.
    """

    def __init__(
        self,
        blocks: Array,
        boxes: Boxes,
        supremum: Upper | None = None,
        *,
        nonnegative: Nonnegative | None = None,
        values: CentreValues | None = None,
        threshold: float = 0.0,
        ops: ArrayOps,
    ) -> None:
        if values is not None and values.boxes is not boxes:
            raise HypothesisError("the values are not those of this cover's boxes")
        if boxes.covers is None:
            raise HypothesisError(f"{len(boxes)} boxes are a cover of nothing: take those of Boxes.torus or Boxes.dft")
        if not np.array_equal(boxes.half_degree, [(k - 1) / 2 for k in blocks.shape[3:]]):
            raise HypothesisError("the boxes are of a symbol of another degree")
        if boxes.on_grid and supremum is None:
            raise HypothesisError("grid points are fathomed by a proven supremum of the torus: none was given")
        if nonnegative is not None and not nonnegative.is_of(blocks, ops=ops):
            raise HypothesisError("it is another kernel whose symbol is nowhere negative")
        self._blocks = blocks
        self._ops = ops
        self._what = boxes.covers
        self._supremum = supremum
        self._nonnegative = nonnegative is not None
        # The eigenvalue limits of the open cells, for one polynomial and threshold.
        self._cached_limits: tuple[GramPolynomial, float, np.ndarray] | None = None
        # The largest threshold that a cell was fathomed for, and how many were. Threads may fathom cells at once.
        self._largest_threshold = 0.0
        self._count = 0
        self._lock = threading.Lock()
        if values is None:
            blocks_count = blocks.shape[0]
            boxes_of_each_block = boxes[np.tile(np.arange(len(boxes)), blocks_count)]
            block = np.repeat(np.arange(blocks_count), len(boxes))
            self._set_open(Cells(boxes_of_each_block, block, supremum, self._nonnegative))
        else:
            self._set_open(self._left_by(values, threshold))

    def _left_by(self, values: CentreValues, threshold: float) -> Cells:
        """The cells whose values do not prove that they hold nothing above a threshold; the others are never made."""
        if values.polynomial.blocks is not self._blocks:
            raise HypothesisError("the values are not those of this cover's blocks")
        boxes, polynomial = values.boxes, values.polynomial
        norms_by_lemma = _by_lemma(boxes, self._supremum, threshold, nonnegative=self._nonnegative)
        by_lemma = polynomial.eigenvalue_limit_of_norm(norms_by_lemma)
        by_variation, kind = polynomial.limits_of_kinds(boxes, threshold)
        # One kind stands for all boxes without being repeated for each.
        limits_by_variation = by_variation if by_variation.shape[1] == 1 else by_variation[:, kind]
        fathomed = (values.values <= by_lemma) | (values.values <= limits_by_variation)
        self._count = int(np.count_nonzero(fathomed))
        self._largest_threshold = threshold if self._count else 0.0
        block, place = np.nonzero(~fathomed)
        return Cells(boxes[place], block, self._supremum, self._nonnegative)

    def _set_open(self, cells: Cells) -> None:
        self._open = cells
        self._fathomed = np.zeros(len(cells), dtype=bool)
        self._cached_limits = None

    def __len__(self) -> int:
        return len(self._fathomed)

    @property
    def what(self) -> object:
        """`Boxes.covers` of the boxes that it was made of: `bound.ALL_FREQUENCIES` or a `Circulant`."""
        return self._what

    @property
    def open(self) -> Cells:
        """Cells that were not fathomed when the cover was last pruned."""
        return self._open

    @property
    def fathomed(self) -> np.ndarray:
        """Which of the open cells are fathomed since, shape (c,)."""
        view = self._fathomed.view()
        view.flags.writeable = False
        return view

    def proven(self) -> Upper:
        """A bound, once no cell is open: the largest threshold that a cell was fathomed for."""
        if len(self):
            raise HypothesisError(f"{len(self)} cells of {self.what} are open")
        cells = text.counted(self._count, "cell")
        if self._supremum is None:
            return Upper._by_rule(self._largest_threshold, self.what, f"cell lemma, {cells}")
        return Upper._by_rule(self._largest_threshold, self.what, f"grid lemma, {cells}", self._supremum)

    def eigenvalue_limits(self, polynomial: GramPolynomial, threshold: float) -> np.ndarray:
        """The `eigenvalue_limits` of the open cells."""
        cached = self._cached_limits
        if cached is None or cached[0] is not polynomial or cached[1] != threshold:
            cached = polynomial, threshold, eigenvalue_limits(polynomial, self._open, threshold)
            self._cached_limits = cached
        return cached[2]

    def form(
        self,
        polynomial: GramPolynomial,
        index: np.ndarray,
        reduced_for: np.ndarray,
    ) -> tuple[CentreMatrices, tuple[Array, Array] | None]:
        """Form Gram matrices at the centres of some open cells; return also the planes (c, size, rank) of reduced ones.

        ``index`` is (c,). ``polynomial``: of the cover's blocks. ``reduced_for`` (c,): above the polynomial's
        truncation bound; no lower limit is proven by these matrices.
        """
        if polynomial.blocks is not self._blocks:
            raise HypothesisError("the polynomial is not one of this cover's blocks")
        cells = self._open[index]
        planes = None
        if polynomial.rank == polynomial.size:
            matrices = polynomial.columns_at(cells.boxes.centres, cells.block)
            errors = np.zeros(len(index))
        else:
            planes = polynomial.planes_at(cells.boxes.centres, cells.block)
            matrices, reduced_errors = polynomial.reduced(*planes, reduced_for)
            errors = np.asarray(self._ops.to_numpy(reduced_errors), dtype=np.float64)
        return CentreMatrices._made(polynomial, self._open, index, reduced_for, matrices, errors), planes

    def fathom(self, formed: CentreMatrices, threshold: float) -> np.ndarray:
        """Try to prove that cells hold no norm above a threshold.

        ``formed``: of the cells to try. Returns (c,): which of them are fathomed.
        """
        if formed.cells is not self._open:
            raise HypothesisError("the matrices were formed for cells that have changed since")
        if self.fathom_by_supremum(threshold):
            return np.ones(len(formed), dtype=bool)
        eigenvalue_limit = self.eigenvalue_limits(formed.polynomial, threshold)[formed.index]
        is_fathomed = proven_below(formed, eigenvalue_limit, ops=self._ops)
        self._note(formed.index[is_fathomed], threshold)
        return is_fathomed

    def fathom_by_supremum(self, threshold: float) -> bool:
        """Fathom every open cell if the supremum of the torus is no larger than the threshold.

        Return whether it is.
        """
        supremum = self._open.supremum
        if supremum is None or not supremum <= threshold:
            return False
        self._note(np.arange(len(self)), threshold)
        return True

    def _note(self, index: np.ndarray, threshold: float) -> None:
        """Note that some open cells hold nothing above a threshold."""
        with self._lock:
            self._fathomed[index] = True
            if len(index):
                self._largest_threshold = max(self._largest_threshold, threshold)

    def prune(self) -> np.ndarray:
        """Drop the fathomed cells. Return the positions of those that stay."""
        still_open: np.ndarray = np.flatnonzero(~self._fathomed)
        self._count += len(self) - len(still_open)
        self._set_open(self._open[still_open])
        return still_open

    def split(self, shrink: np.ndarray) -> np.ndarray:
        """Cut the open cells, so that their radii shrink at least so many times; return each piece's parent."""
        if self._fathomed.any():
            raise HypothesisError("cells that are fathomed are pruned before the others are cut")
        boxes, parent = self._open.boxes.split(shrink)
        self._set_open(replace(self._open, boxes=boxes, block=self._open.block[parent]))
        return parent


def supremum_on_grid(supremum: Upper, boxes: Boxes) -> Upper:
    """A bound of the supremum bounds the norm at the points of a grid."""
    if supremum.what != ALL_FREQUENCIES or not boxes.on_grid or boxes.covers is None:
        raise HypothesisError(f"{supremum.what} is no supremum over a grid that has {len(boxes)} boxes")
    return Upper._by_rule(supremum.value, boxes.covers, "some of all frequencies", supremum)


def norm_by_magnitudes(blocks: Array, *, ops: ArrayOps) -> Upper:
    """Bound the supremum of blocks by the largest norm of a matrix ``sum_k |K_k|``; attained if no entry is negative.

    ``blocks`` is (g, m, p, *kernel_shape).
    """
    xp = ops.xp
    g, m, p = blocks.shape[:3]
    magnitudes = xp.reshape(xp.abs(blocks), (g, m, p, -1))
    # A sum of t numbers of one sign is too small by at most t relative roundings.
    sums = rounding.up(xp.sum(magnitudes, axis=-1), magnitudes.shape[3], xp=xp)
    value = float(xp.max(norms.matrix_norm_up(sums, ops=ops)))
    return Upper._by_rule(value, ALL_FREQUENCIES, "norm of the sum of the taps' magnitudes")


def norm_of_one_tap(blocks: Array, norm: Upper) -> Upper:
    """Bound the supremum of blocks with one tap by the norm of these taps as matrices.

    The symbol is the tap at every frequency, but for a factor of modulus 1.

    ``blocks`` (g, m, p, *kernel_shape): with one tap. ``norm``: bound of the largest norm of ``blocks`` as matrices (g,
    m, p): its subject is ``norm_of_stack((g, m, p))``.
    """
    g, m, p, *kernel_shape = blocks.shape
    if math.prod(kernel_shape) > 1 or norm.what != norms.norm_of_stack((g, m, p)):
        raise HypothesisError(f"{norm.what} is not the norm of blocks of shape {tuple(blocks.shape)}")
    return Upper._by_rule(norm.value, ALL_FREQUENCIES, "one tap", norm)


def largest_quotient(a: Array, v: Array, *, ops: ArrayOps) -> tuple[Lower, int]:
    """The largest bound `quotient_down` of matrices (g, m, n) with vectors (g, n), and the index of its matrix."""
    quotients = ops.to_numpy(norms.quotient_down(a, v, xp=ops.xp))
    best = int(quotients.argmax())
    return Lower._by_rule(float(quotients[best]), norms.norm_of_stack(tuple(a.shape)), "quotient of a vector"), best
