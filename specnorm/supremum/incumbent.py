"""The incumbent of a search: its highest proven norm, at one frequency, and the ascents that raise it.

The vectors and frequencies chosen here decide how close the bounds of an enclosure come, never whether they are true.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from specnorm.backends import arrays
from specnorm.proofs.bound import Lower
from specnorm.proofs.found import Found, Witness
from specnorm.proofs.frequencies import Frequencies, tap_points
from specnorm.supremum import tuning
from specnorm.symbols import ascent, power
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.running.search import Clock
    from specnorm.supremum.proof import Cells, CentreMatrices
    from specnorm.symbols.proofs.polynomial import GramPolynomial


class Incumbent:
    """The highest norm of a stack of blocks that a search has proven.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the widest dtype of the library, scaled to about 1, not all zero; p <= m.
    seed : int
        Seed of the start vectors.
    clock : Clock
        Deadline: at its end, ascents stop early.

    Attributes
    ----------
    best : Found
        The highest norm so far; set by `begin` and `begin_at_nearest`.
    trial_vectors : array, shape (g, h, p), or None
        Right vectors at frequencies where the norm is large, chosen by `multistart`; None before.
    """

    def __init__(
        self,
        blocks: Array,
        *,
        seed: int,
        clock: Clock,
        ops: ArrayOps,
    ) -> None:
        self.blocks = blocks
        self.seed = seed
        self.xp = ops.xp
        self.ops = ops
        self._clock = clock
        self._float32: Array | None = None
        self._right = self.start_vectors(1, blocks.shape[2])
        self.trial_vectors: Array | None = None

    def begin(
        self,
        start: Found,
        *,
        free: bool,
        rtol: float,
        bound: float | None,
    ) -> None:
        """Begin a search with a lower bound.

        ``free``: whether frequencies may move (on a grid they may not). ``rtol``: a norm that is relatively higher by
        less does not matter. ``bound``: a bound that is to be proven: only norms above it matter.
        """
        self.best = start
        self._free = free
        self._rtol = rtol
        self._bound = bound
        self._is_flat: bool | None = None

    @property
    def is_far_below(self) -> bool:
        """Whether the incumbent is far below a bound that is to be proven."""
        return self.best.lower.value <= tuning.NEAR_PART * (self._bound or 0.0)

    def start_vectors(self, count: int, size: int) -> Array:
        """Return ``count`` times the same complex vector, shape (count, size)."""
        start = arrays.start_vector(self.seed, size)
        return self.ops.from_numpy(np.broadcast_to(start, (count, size)).astype(np.complex128), self.blocks)

    def multistart(self) -> None:
        """Choose trial vectors and, if frequencies may move, ascend from the coarse ones with the largest norms.

        The trial vectors are those of the coarse frequencies and of frequencies around the best maximum. On a grid, or
        if a bound is far above the incumbent, the basis of the reduced polynomial (`reduction`) needs none around the
        maximum.
        """
        coarse_blocks = self._blocks_for(tuning.INCUMBENT_RTOL)
        coarse = Frequencies.coarse_grid(tuple(self.blocks.shape[3:]))
        frequencies, norms, vectors = power.norms_at(coarse_blocks, coarse, ascent.STEPS, seed=self.seed, ops=self.ops)
        # At most as many vectors as there are trials and frequencies of `_around_best`, which are 1 + d.
        count = tuning.TRIALS + 1 + len(frequencies.denominators)
        highest_first = np.argsort(-norms, axis=1, kind="stable")[:, :count]
        chosen = np.take_along_axis(vectors, highest_first[:, :, None], axis=1).astype(np.complex128)
        if self._free:
            # If a bound is to be proven, the vectors need the frequency of the maximum, not its norm: come less close.
            rtol = self._rtol if self._bound is None else 10 * tuning.INCUMBENT_RTOL
            block = int(np.argmax(norms.max(axis=1)))
            trials = tuning.TRIALS
            starts = self.ops.from_numpy(chosen[block, :trials], self.blocks)
            self._ascend(frequencies[highest_first[block, :trials]], starts, block, rtol)
            if not self.is_far_below:
                best_block = self.best.witness.block
                vectors_first = np.concatenate([self._around_best(), chosen[best_block]])
                chosen[best_block] = vectors_first[: chosen.shape[1]]
        self.trial_vectors = self.ops.from_numpy(chosen, self.blocks)

    def _around_best(self) -> np.ndarray:
        """Right vectors at the incumbent's frequency and one step along each axis, shape (1 + d, p) (host).

        Top singular vectors change almost linearly with the frequency. So those at the centres of the cells around the
        incumbent are near the span of these.
        """
        xp = self.xp
        block = self.best.witness.block
        blocks = self._blocks_for(tuning.INCUMBENT_RTOL)
        angles = self.best.witness.frequency.angles
        steps = np.concatenate([np.zeros_like(angles), tuning.AROUND_RADIANS * np.eye(angles.shape[1])])
        frequencies = Frequencies.nearest(angles + steps)
        symbol = Polynomial(blocks[block : block + 1, ...], xp=self.xp).at(frequencies, ops=self.ops)
        start = xp.broadcast_to(self._right, (1, len(steps), self._right.shape[-1]))
        vectors, _ = power.power_of_symbol(symbol, start, ascent.STEPS, xp=xp)
        return np.asarray(self.ops.to_numpy(vectors)[0], dtype=np.complex128)

    def raise_from(
        self,
        polynomial: GramPolynomial,
        cells: Cells,
        norms_sq: np.ndarray,
        eigenvalues: np.ndarray,
        vectors: Array,
    ) -> None:
        """Ascend from the centres with the largest estimates, where that may raise the incumbent.

        ``polynomial``: the polynomial whose norms were estimated. ``norms_sq``, ``eigenvalues`` (c,): squared norms at
        the centres from below, and largest eigenvalues of the reduced matrices. ``vectors`` (c, rank): eigenvectors of
        the reduced matrices.
        """
        chosen = self._worth_an_ascent(norms_sq, cells.block)
        # Not by np.unique, which imports numpy.ma.
        for block in sorted({*cells.block[chosen].tolist()}):
            index = chosen[cells.block[chosen] == block]
            starts = cells.boxes[index].centres
            right = arrays.rows(vectors, index, ops=self.ops)
            if polynomial.rank < polynomial.size:
                planes = polynomial.planes_at(starts, cells.block[index])
                _, right = lift_to_all_columns(polynomial, planes, right, eigenvalues[index], ops=self.ops)
            self._ascend(starts, unrotated(polynomial, right, block, ops=self.ops), block, self._rtol)

    def _worth_an_ascent(self, norms_sq: np.ndarray, block: np.ndarray) -> np.ndarray:
        """Return the positions of the centres to start from, the highest first."""
        # Without a bound the search is as good as its incumbent; with one, only a refutation matters.
        norm_to_beat = self.best.lower.value if self._bound is None else self._bound
        # A flat norm has many local maxima. The highest centre need not lead to the highest one, and at a layer's own
        # size a maximum of the same height can give a better lower bound. Later rounds tell nothing of flatness: their
        # cells are near the maximum, however sharp it is.
        if self._is_flat is None:
            self._is_flat = self._bound is None and self._are_many_near(norms_sq, block)
        if self._is_flat and self._are_many_near(norms_sq, block):
            starts = tuning.TRIALS
            least_sq = self._nearly_sq(norms_sq)
        else:
            starts = 1
            least_sq = norm_to_beat**2
        highest_first = np.argsort(-norms_sq, kind="stable")[:starts]
        return np.asarray(highest_first[norms_sq[highest_first] > least_sq])

    def _nearly_sq(self, norms_sq: np.ndarray) -> float:
        """Square from which a norm at a centre is near the highest; the incumbent may be 0 still."""
        return float(tuning.NEAR_PART * max(self.best.lower.value**2, norms_sq.max(initial=0.0)))

    def _are_many_near(self, norms_sq: np.ndarray, block: np.ndarray) -> bool:
        """Whether one block is near the highest norm at many centres."""
        near = block[norms_sq > self._nearly_sq(norms_sq)]
        return int(np.bincount(near).max(initial=0)) > tuning.FLAT_CELLS

    def begin_at_nearest(
        self,
        torus_best: Found,
        sizes: tuple[int, ...],
        skew: tuple[bool, ...] = (),
    ) -> int:
        """Begin a search of a grid, at the best of the points around a frequency of the torus.

        ``torus_best``: lower bound of the last search of the torus. ``sizes``: points per turn along each axis.
        ``skew``: as in `Boxes.dft`. Returns the number of points compared. The lower bound is in ``best``.
        """
        block = torus_best.witness.block
        points = _neighbours(torus_best.witness.frequency, sizes, skew)
        # The ascent below does not move on a grid: only its power steps end by this tolerance, and a run sets its own.
        self.begin(Found(Lower.trivial(), None, Witness(block, points[:1])), free=False, rtol=1e-3, bound=None)
        symbol = Polynomial(self.blocks[block : block + 1, ...], xp=self.xp).at(points, ops=self.ops)
        right = self.xp.broadcast_to(self._right[:, None, :], (1, len(points), self._right.shape[-1]))
        norms = self.xp.linalg.vector_norm(symbol.apply(right), axis=-1)[0, :]
        best = int(self.xp.argmax(norms))
        self._ascend(points[best : best + 1], self._right, block, self._rtol)
        return len(points)

    def _ascend(self, starts: Frequencies, vectors: Array, block: int, rtol: float) -> None:
        """Ascend from frequencies and right vectors; keep the highest frequency if its proven norm is higher."""
        # If a bound is to be proven, a norm far below it is of no use: the ascent ends if it will not get near.
        norm_to_beat = max(self.best.lower.value, tuning.NEAR_PART * (self._bound or 0.0))
        local_ascent = ascent.Ascent(
            self._blocks_for(rtol)[block : block + 1, ...],
            free=self._free,
            rtol=rtol,
            norm_to_beat=norm_to_beat,
            expired=lambda: self._clock.expired,
            ops=self.ops,
        )
        point, right = local_ascent.run(starts, vectors)
        right = self.xp.astype(right, arrays.complex_dtype(self.blocks.dtype, xp=self.xp), copy=False)
        bound = Polynomial(self.blocks, xp=self.xp).at(point, ops=self.ops).norm_down(block, right)
        if bound.value > self.best.lower.value:
            self.best = Found(bound, None, Witness(block, point))
            self._right = right

    def _blocks_for(self, rtol: float) -> Array:
        """The blocks, or their float32 copy if the tolerance allows it and frequencies may move."""
        if not self._free or rtol < ascent.FLOAT64_RTOL:
            return self.blocks
        if self._float32 is None:
            self._float32 = self.xp.astype(self.blocks, self.xp.float32)
        return self._float32


def _neighbours(frequency: Frequencies, sizes: tuple[int, ...], skew: tuple[bool, ...]) -> Frequencies:
    """Points of a grid around a frequency: the two nearest along each axis."""
    count = np.asarray(sizes, dtype=np.int64)
    # On a skew axis the points are (2 j + 1) / (2 count) of a turn, on other axes j / count.
    offset = np.asarray(skew or (False,) * len(sizes), dtype=np.int64)
    turns = frequency.angles[0] / (2 * math.pi)
    below = np.floor(turns * count - offset / 2).astype(np.int64)
    corners = (below + tap_points((2,) * len(sizes))) % count
    return Frequencies(corners * (1 + offset) + offset, tuple((count * (1 + offset)).tolist()))


class NodeEstimates:
    """Estimates of a round for its open cells, filled in part by part.

    Parameters
    ----------
    polynomial : GramPolynomial
        The polynomial whose norms are estimated, in the precision that is tried first.
    threshold : float
        The bound that was to be proven when the round began.
    vectors : array, shape (c, rank)
        Estimates of the top eigenvectors; the next round begins with them.
    reduced_for : float array, shape (c,)
        Limits for which the matrices are reduced: they prove no lower limit.

    Attributes
    ----------
    eigenvalues : float array, shape (c,)
        Largest eigenvalues of the (reduced) Gram matrices, from below.
    norms_sq : float array, shape (c,)
        Squared norms at the centres, from below: `lift_to_all_columns` of the eigenvalues.
    matrices : list of CentreMatrices
        One for each part of the cells; empty if they would take too much memory.
    """

    def __init__(self, polynomial: GramPolynomial, threshold: float, vectors: Array, reduced_for: np.ndarray) -> None:
        self.polynomial = polynomial
        self.threshold = threshold
        self.vectors = vectors
        self.reduced_for = reduced_for
        self.eigenvalues = np.zeros(len(reduced_for))
        self.norms_sq = np.zeros(len(reduced_for))
        self.matrices: list[CentreMatrices] = []


def top_eigenpairs(
    centre_matrices: CentreMatrices,
    vectors: Array,
    like: Array,
    *,
    first: bool,
    crowded: bool,
    ops: ArrayOps,
) -> tuple[np.ndarray, Array]:
    """Largest eigenvalues of the matrices of some cells, from below, and the vectors for the next round.

    ``vectors`` (c, rank): start vectors. ``like``: a real array on the device of the others. ``first``: whether this is
    the first round, whose start vectors are random. ``crowded``: the result of `is_crowded` for the first round.
    """
    matrices = centre_matrices.matrices
    cut = tuning.NEAR_PART * centre_matrices.reduced_for
    if crowded:
        degree = tuning.CROWDED_DEGREE
    else:
        degree = tuning.FIRST_DEGREE if first else tuning.DEGREE
    values, vectors = power.largest_eigenvalues(matrices, vectors, cut, degree, like, ops=ops)
    if first and is_crowded(values, centre_matrices.reduced_for, matrices.shape[-1]):
        values, vectors = power.largest_eigenvalues(matrices, vectors, cut, tuning.CROWDED_DEGREE, like, ops=ops)
    return values, vectors


def is_crowded(eigenvalues: np.ndarray, eigenvalue_limit: np.ndarray, rank: int) -> bool:
    """Whether most of the first cells are near their limits, as for spectra without a gap at the top."""
    if rank < tuning.SMALLEST_LARGE:
        return False
    near_their_limits = np.count_nonzero(eigenvalues > tuning.NEAR_PART * eigenvalue_limit)
    return bool(near_their_limits > len(eigenvalue_limit) / 2)


def lift_to_all_columns(
    polynomial: GramPolynomial,
    planes: tuple[Array, Array],
    vectors: Array,
    eigenvalues: np.ndarray,
    *,
    ops: ArrayOps,
) -> tuple[np.ndarray, Array]:
    """Squared norms at the centres from below, and vectors of all columns, from those of the reduced matrices.

    ``H = [[A, B*], [B, C]]``. An eigenvector z of the reduced matrix goes on as ``w = B z / lambda``; the squared norm
    is the Rayleigh quotient of (z, w), without its part ``w* C w >= 0``.

    ``planes`` (f, size, rank): real and imaginary part of ``polynomial.planes_at``: A above B. ``vectors`` (f, rank):
    unit vectors of the reduced matrices. ``eigenvalues`` (f,): eigenvalues of the reduced matrices.
    """
    xp = ops.xp
    parts = xp.stack([xp.real(vectors), xp.imag(vectors)], axis=-1)
    by_real = xp.matmul(planes[0], parts)
    by_imag = xp.matmul(planes[1], parts)
    image = ops.complex(by_real[..., 0] - by_imag[..., 1], by_real[..., 1] + by_imag[..., 0])
    by_a, by_b = image[:, : polynomial.rank], image[:, polynomial.rank :]
    form_of_a = ops.to_numpy(xp.sum(xp.real(xp.conj(vectors) * by_a), axis=-1))
    length_of_b_sq = ops.to_numpy(xp.linalg.vector_norm(by_b, axis=-1)) ** 2
    scale = np.maximum(eigenvalues, 1e-30)  # no division by 0
    norms_sq = (form_of_a + 2 * length_of_b_sq / scale) / (1 + length_of_b_sq / scale**2)
    inverse = ops.from_numpy(1 / scale, polynomial.blocks)
    return norms_sq, xp.concat([vectors, by_b * xp.astype(inverse, by_b.dtype)[:, None]], axis=-1)


def unrotated(
    polynomial: GramPolynomial,
    vectors: Array,
    block: int,
    *,
    ops: ArrayOps,
) -> Array:
    """Right vectors (n, size) of one block, from those of the block in the polynomial's rotated basis."""
    if polynomial.basis is None:
        return vectors
    xp = ops.xp
    turned = arrays.real_times(polynomial.basis[block, ...], xp.matrix_transpose(vectors), ops=ops)
    return xp.matrix_transpose(turned)
