"""The incumbent of a search: the highest norm at one frequency that is known, proven; and estimates that raise it.

How it is found decides how close the bounds of an enclosure come, never whether they are true.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import nothing
from specnorm.certified.matrices.norms import SymbolNorms
from specnorm.certified.symbol import symbols
from specnorm.numerics.power import gram_power, largest_eigenvalues
from specnorm.problem.frequencies import Frequencies, coarse_grid, product
from specnorm.search.ascent import Ascent, nearest_lattice_points

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Lower
    from specnorm.certified.symbol.cells import Cells
    from specnorm.certified.symbol.cover import CentreMatrices
    from specnorm.certified.symbol.gram_polynomial import GramPolynomial
    from specnorm.clock import Clock
    from specnorm.search.tuning import Tuning
    from specnorm.types import ArrayOps


@dataclass(frozen=True, eq=False)
class LowerBound:
    """A proven norm from below: of one block, by its index, at one frequency."""

    claim: Lower
    frequency: Frequencies
    block: int


class Incumbent:
    """The highest norm of a stack of blocks that a search knows of.

    Parameters
    ----------
    blocks : array, shape (g, m, p, *kernel_shape)
        In the wide dtype, scaled to about 1, not all zero; p <= m.
    seed : int
        Of the start vectors.
    clock : Clock
        Ascents end early by it.

    Attributes
    ----------
    trial_vectors : array, shape (g, h, p), or None
        Right vectors at coarse frequencies where the norm is large.
    """

    def __init__(self, blocks: Array, tuning: Tuning, *, seed: int, clock: Clock, ops: ArrayOps) -> None:
        self.blocks, self.tuning, self.seed, self.xp, self.ops = blocks, tuning, seed, ops.xp, ops
        self._clock = clock
        self._norms = SymbolNorms(blocks, ops=ops)
        self._float32: Array | None = None
        self._right = self.start_vectors(1, blocks.shape[2])
        self.trial_vectors: Array | None = None

    def begin(self, start: LowerBound, *, free: bool, rtol: float, bound: float | None) -> None:
        """Search on from a norm.

        Parameters
        ----------
        free : bool
            Whether frequencies may move (on a grid they may not).
        rtol : float
            What is higher by less does not matter.
        bound : float, optional
            Only what is higher than this matters.
        """
        self.best, self._free, self._rtol, self._bound = start, free, rtol, bound

    @property
    def far(self) -> bool:
        """Whether all that is known is far below a bound that is to be proven."""
        return self.best.claim.value <= self.tuning.doubtful * (self._bound or 0.0)

    def start_vectors(self, count: int, size: int) -> Array:
        """Return ``count`` times the same complex vector, shape (count, size)."""
        start = arrays.start_vector(self.seed, size)
        return self.ops.from_numpy(np.broadcast_to(start, (count, size)).astype(np.complex128), self.blocks)

    def multistart(self) -> None:
        """Trial vectors: power steps at coarse frequencies, and at those around the maximum to which the highest lead.

        On a grid, or where a bound is far above, there is no need of the latter.
        """
        xp, (groups, _, p) = self.xp, self.blocks.shape[:3]
        frequencies, blocks = coarse_grid(tuple(self.blocks.shape[3:])), self._trial_blocks(self.tuning.close)
        # The images by all taps, and their phases.
        each = math.prod(blocks.shape[3:]) * (24 * 8 + 16 * groups * sum(blocks.shape[1:3]))
        frequencies = frequencies[:: -(-len(frequencies) * each // self.ops.memory)]
        symbol = symbols.Symbol(blocks, frequencies, ops=self.ops)
        v = xp.reshape(self.start_vectors(groups * len(frequencies), p), (groups, len(frequencies), p))
        v = xp.astype(v, arrays.complex_dtype(blocks.dtype, xp=xp), copy=False)
        v, norms = gram_power(lambda x: symbol.apply_adjoint(symbol.apply(x)), v, 3, xp=xp)
        host, vectors = self.ops.to_numpy(norms)[:, :, 0], self.ops.to_numpy(v)
        count = self.tuning.trials + 1 + len(frequencies.denominators)
        order = np.argsort(-host, axis=1, kind="stable")[:, :count]
        chosen = np.take_along_axis(vectors, order[:, :, None], axis=1).astype(np.complex128)
        if self._free:
            # Where a bound is to be proven the norm need not be known closely, only where it is.
            rtol = self._rtol if self._bound is None else 10 * self.tuning.close
            block = int(np.argmax(host.max(axis=1)))
            starts = self.ops.from_numpy(chosen[block, : self.tuning.trials], self.blocks)
            self._ascend(frequencies[order[block, : self.tuning.trials]], starts, block, rtol)
            if not self.far:
                near = self._around_best()
                chosen[self.best.block] = np.concatenate([near, chosen[self.best.block]])[: chosen.shape[1]]
        self.trial_vectors = self.ops.from_numpy(chosen, self.blocks)

    def _around_best(self) -> np.ndarray:
        """Right vectors at the incumbent's frequency and one step along each axis, shape (1 + d, p) (host).

        Between them, top vectors change almost linearly: what they span, these of the cells there lie in.
        """
        xp, block, blocks = self.xp, self.best.block, self._trial_blocks(self.tuning.close)
        angles = self.best.frequency.angles
        steps = np.concatenate([np.zeros_like(angles), self.tuning.around * np.eye(angles.shape[1])])
        symbol = symbols.Symbol(blocks[block : block + 1, ...], nearest_lattice_points(angles + steps), ops=self.ops)
        start = xp.astype(self._right, arrays.complex_dtype(blocks.dtype, xp=xp), copy=False)
        vectors = xp.broadcast_to(start, (1, len(steps), start.shape[-1]))
        vectors, _ = gram_power(lambda x: symbol.apply_adjoint(symbol.apply(x)), vectors, 3, xp=xp)
        return np.asarray(self.ops.to_numpy(vectors)[0], dtype=np.complex128)

    def raise_from(
        self, polynomial: GramPolynomial, cells: Cells, norms_sq: np.ndarray, eigenvalues: np.ndarray, vectors: Array
    ) -> None:
        """Ascend from the centres with the largest estimates, if that is news.

        Parameters
        ----------
        polynomial : GramPolynomial
            That the estimates are of.
        norms_sq, eigenvalues : float arrays, shape (c,)
            Squared norms at the centres from below, and those of the reduced matrices.
        vectors : array, shape (c, rank)
        """
        chosen = self._worth_an_ascent(norms_sq)
        for block in sorted({*cells.block[chosen].tolist()}):  # np.unique imports masked arrays
            index = chosen[cells.block[chosen] == block]
            starts, full = cells.boxes[index].centres, arrays.rows(vectors, index, ops=self.ops)
            if polynomial.rank < polynomial.size:
                planes = polynomial.planes_at(starts, cells.block[index])
                _, full = lift(polynomial, planes, full, eigenvalues[index], ops=self.ops)
            self._ascend(starts, unrotated(polynomial, full, block, ops=self.ops), block, self._rtol)

    def _worth_an_ascent(self, norms_sq: np.ndarray) -> np.ndarray:
        """Positions of the centres to start from, the highest first."""
        # Without a bound the search is as good as its incumbent; with one, only a refutation matters.
        least_sq = (self.best.claim.value if self._bound is None else self._bound) ** 2
        # Many cells left: a flat norm with many local maxima. Others than the highest centre may lead higher.
        many = self._bound is None and len(norms_sq) > self.tuning.many
        order = np.argsort(-norms_sq, kind="stable")[: self.tuning.starts if many else 1]
        # What is higher by less than the tolerance has been reached from elsewhere, or does not matter.
        return np.asarray(
            order[norms_sq[order] > (self.tuning.near if many else 1 + self.tuning.news * self._rtol) * least_sq]
        )

    def at_nearest(self, where: LowerBound, sizes: tuple[int, ...], skew: tuple[bool, ...] = ()) -> int:
        """Begin on a grid, at its best frequency next to one of the torus.

        Parameters
        ----------
        where : LowerBound
            Of the last search of the torus.
        sizes : tuple of int
            Points a turn.
        skew : tuple of bool, optional
            As in `certified.symbol.cells.dft`.

        Returns
        -------
        int
            How many frequencies were compared.
        """
        offset, count = np.asarray(skew or (False,) * len(sizes), dtype=np.int64), np.asarray(sizes, dtype=np.int64)
        below = np.floor(where.frequency.angles[0] / (2 * math.pi) * count - offset / 2).astype(np.int64)
        corners = (product([np.asarray([n, n + 1]) for n in below]) % count) * (1 + offset) + offset
        points = Frequencies(corners, tuple((count * (1 + offset)).tolist()))
        block = self.blocks[where.block : where.block + 1, ...]
        self.begin(LowerBound(nothing(), points[:1], where.block), free=False, rtol=1e-3, bound=None)
        symbol = symbols.Symbol(block, points, ops=self.ops)
        repeated = self.xp.broadcast_to(self._right[:, None, :], (1, len(points), self._right.shape[-1]))
        norms = self.xp.linalg.vector_norm(symbol.apply(repeated), axis=-1)[0, :]
        best = int(self.xp.argmax(norms))
        self._ascend(points[best : best + 1], self._right, where.block, self._rtol)
        return len(points)

    def _ascend(self, starts: Frequencies, vectors: Array, block: int, rtol: float) -> None:
        """Ascend from frequencies and right vectors; keep the highest frequency if its proven norm is news."""
        # What stays far below a bound that is to be proven is of no use.
        least = max(self.best.claim.value, self.tuning.doubtful * (self._bound or 0.0))
        given: dict[str, Any] = {"free": self._free, "rtol": rtol, "best": least, "clock": self._clock}
        ascent = Ascent(self._trial_blocks(rtol)[block : block + 1, ...], self.tuning, **given, ops=self.ops)
        point, right = ascent.run(starts, vectors)
        wide = arrays.complex_dtype(self.blocks.dtype, xp=self.xp)
        self._note(point, self.xp.astype(right, wide, copy=False), block)

    def _trial_blocks(self, rtol: float) -> Array:
        """The blocks, or their float32 copy where the tolerance and free frequencies allow it."""
        if not self._free or rtol < self.tuning.tight:
            return self.blocks
        if self._float32 is None:
            self._float32 = self.xp.astype(self.blocks, self.xp.float32)
        return self._float32

    def _note(self, point: Frequencies, right: Array, block: int) -> None:
        claim = self._norms.norm_at(block, point, right)
        if claim.value > self.best.claim.value:
            self.best, self._right = LowerBound(claim, point, block), right


@dataclass(eq=False)
class NodeEstimates:
    """What a round knows of its open cells, filled in as it goes on.

    Parameters
    ----------
    polynomial : GramPolynomial
        In the precision that is tried first.
    threshold : float
        What was to be proven when the round began.
    vectors : array, shape (c, rank)
        Estimates of the top eigenvectors; the next round begins with them.
    reduced_for_sq : float array, shape (c,)
        What the matrices are reduced for: no lower limit is proven by them.
    eigenvalues : float array, shape (c,)
        Largest ones of the (reduced) Gram matrices, from below.
    norms_sq : float array, shape (c,)
        Squared norms at the centres, from below.
    kept : list of CentreMatrices
        One for each part of the cells; empty where they would take too much memory.
    exact : int
        How many cells may still get an exact eigenpair.
    """

    polynomial: GramPolynomial
    threshold: float
    vectors: Array
    reduced_for_sq: np.ndarray
    exact: int
    eigenvalues: np.ndarray = field(init=False)
    norms_sq: np.ndarray = field(init=False)
    kept: list[CentreMatrices] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.eigenvalues = np.zeros(len(self.reduced_for_sq))
        self.norms_sq = np.zeros(len(self.reduced_for_sq))


def largest(
    formed: CentreMatrices, vectors: Array, tuning: Tuning, like: Array, *, first: bool, crowded: bool, ops: ArrayOps
) -> tuple[np.ndarray, Array]:
    """Largest eigenvalues of the matrices of some cells, from below, and the vectors for the next round.

    Parameters
    ----------
    vectors : array, shape (c, rank)
        To begin with.
    like : array
        Real, on the device of the others.
    first : bool
        Whether this is the first round: vectors are random.
    crowded : bool
        What `is_crowded` said of it.
    """
    degree = tuning.first_degree if first else tuning.crowded_degree if crowded else tuning.degree
    matrices, cut = formed.matrices, tuning.cut * formed.reduced_for_sq
    values, vectors = largest_eigenvalues(matrices, vectors, cut, degree, like, ops=ops)
    if first and is_crowded(values, formed.reduced_for_sq, matrices.shape[-1], tuning):
        values, vectors = largest_eigenvalues(matrices, vectors, cut, tuning.crowded_first, like, ops=ops)
    return values, vectors


def is_crowded(eigenvalues: np.ndarray, limit_sq: np.ndarray, rank: int, tuning: Tuning) -> bool:
    """Whether nearly all of the first cells are near their limits, as with spectra without a gap: filters are slow."""
    if rank < tuning.smallest_crowded:
        return False
    return bool(np.count_nonzero(eigenvalues > tuning.cut * limit_sq) > tuning.crowded * len(limit_sq))


def lift(
    polynomial: GramPolynomial, planes: tuple[Array, Array], vectors: Array, eigenvalues: np.ndarray, *, ops: ArrayOps
) -> tuple[np.ndarray, Array]:
    """Squared norms at the centres from below, and vectors of all columns, from those of the reduced matrices.

    An eigenvector z of the reduced matrix goes on as ``B z / lambda``.

    Parameters
    ----------
    planes : arrays, shape (f, size, rank)
        Of ``polynomial.planes_at``.
    vectors : array, shape (f, rank)
        Of unit length.
    eigenvalues : float array, shape (f,)
        Of the reduced matrices.
    """
    if polynomial.rank == polynomial.size:
        return eigenvalues.copy(), vectors
    xp = ops.xp
    parts = xp.stack([xp.real(vectors), xp.imag(vectors)], axis=-1)
    even, odd = (xp.matmul(plane, parts) for plane in planes)
    image = ops.complex(even[..., 0] - odd[..., 1], even[..., 1] + odd[..., 0])
    above = ops.to_numpy(xp.sum(xp.real(xp.conj(vectors) * image[:, : polynomial.rank]), axis=-1))
    rest = image[:, polynomial.rank :]
    beside = ops.to_numpy(xp.linalg.vector_norm(rest, axis=-1)) ** 2
    scale = np.maximum(eigenvalues, 1e-30)
    norms_sq = (above + 2 * beside / scale) / (1 + beside / scale**2)
    weight = ops.from_numpy(1 / scale, polynomial.blocks)
    return norms_sq, xp.concat([vectors, rest * xp.astype(weight, rest.dtype)[:, None]], axis=-1)


def unrotated(polynomial: GramPolynomial, vectors: Array, block: int, *, ops: ArrayOps) -> Array:
    """Right vectors (n, size) of one block as given, from those of the block as rotated."""
    if polynomial.rotation is None:
        return vectors
    xp = ops.xp
    turned = arrays.real_times(polynomial.rotation.basis[block, ...], xp.matrix_transpose(vectors), ops=ops)
    return xp.matrix_transpose(turned)
