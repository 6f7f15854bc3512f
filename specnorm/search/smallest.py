"""Both ends of the smallest singular value of blocks: a vector from above, the norm of a defect from below.

The defect is ``c I - G*G``, with c near the mean of ``G*G``; its norm is found by the search of `enclosing`. The better
a layer is conditioned, the wider may be the interval that is asked of that search, as a part of c. Therefore the
channels are whitened first (`certified.defect`). Kernels near an isometry need no search, and those whose smallest
value is too near 0 for any proof are not searched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified import defect as rule
from specnorm.certified.bound import Lower, Upper, known
from specnorm.certified.layer import uncut
from specnorm.certified.symbol import symbols
from specnorm.problem import polyphase
from specnorm.problem.frequencies import Frequencies, coarse_grid, half_grid
from specnorm.problem.spec import ConvSpec
from specnorm.search.enclosing import enclose_blocks, grid_sizes
from specnorm.search.result import Problem

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.defect import Defect, InBasis
    from specnorm.certified.symbol.cover import Nonnegative
    from specnorm.search.result import SearchResult
    from specnorm.types import ArrayOps


class SmallestTuning(NamedTuple):
    """Effort. It decides on time and on how wide the interval is."""

    norm_rtol: float = 1e-2
    """Tolerance of the norm whose square is c."""
    margin: float = 1e-9
    """Part of the squared norm by which c is larger, so that rounding leaves the defect's symbol nonnegative."""
    resolved: float = 2e-12
    """Part of c below which a squared singular value is not told from 0 by a search of the defect."""
    visited: int = 2048
    """Frequencies of a circular layer that are all visited for a first upper bound."""
    steps: int = 12
    """Newton steps towards a minimum."""
    minima: int = 3
    """Number of frequencies from which Newton's method starts if no value on the grid may be near a zero."""
    starts: int = 16
    """Largest number of frequencies from which it starts if some value may be near a zero."""
    columns: int = 800
    """In that case the matrices of all starts have about so many columns together: the larger a symbol is, the fewer
    starts."""
    hopeful: float = 0.3
    """Part of the norm up to which a smallest singular value on the grid may be near a zero."""
    shortest: float = 1e-13
    """Radians below which a Newton step is the last one."""
    longest: float = 0.5
    """Radians of a Newton step along an axis, at most."""
    least_gap: float = 1e-12
    """Least distance of two squared singular values that a Newton step assumes, as a part of the largest one."""
    flat: float = 1e-10
    """Part of the largest curvature from which an axis is curved."""
    aim: float = 0.99
    """Part of the tolerance that is aimed at."""
    share: float = 0.8
    """Part of that which is left to the proof; the error of the vector takes the rest."""
    searches: int = 3
    """Searches of the defect, each with a smaller tolerance."""
    ridge: float = 1e3
    """Number of roundings that are added to the diagonal of the mean Gram matrix, for each of its columns, so that it
    has a Cholesky factor."""


TUNING = SmallestTuning()


@dataclass(frozen=True, eq=False)
class Witness:
    """A frequency and a vector, and the bound of the smallest singular value that they prove.

    Parameters
    ----------
    upper : Upper
    value : float
        The singular value as computed; ``upper`` is this plus an allowance for rounding.
    frequency : Frequencies
        One point.
    block : int
        Number of the block.
    u, v : arrays, shapes (1, m) and (1, p)
        Unit vectors for the tall blocks, with no more columns than rows; ``u* G v`` is the singular value.
    """

    upper: Upper
    value: float
    frequency: Frequencies
    block: int
    u: Array
    v: Array

    @property
    def is_rounding(self) -> bool:
        """Whether most of the bound is the allowance for rounding."""
        return self.upper.value > 2 * self.value


@dataclass(frozen=True, eq=False)
class SmallestBounds:
    """Two proven bounds of a smallest singular value.

    Parameters
    ----------
    witness : Witness or None
        None for a kernel of zeros, for a layer that leaves pixels unread, and for a layer enclosed by its own matrix.
    cells, levels : int
        Numbers of cells and levels of all searches.
    is_zero : bool
        Whether the value is too near 0 for a proof to tell it from 0.
    """

    lower: Lower
    upper: Upper
    witness: Witness | None
    cells: int = 0
    levels: int = 0
    is_zero: bool = False

    def within(self, rtol: float) -> bool:
        """Whether the bounds are within this relative tolerance."""
        return self.upper.value <= self.lower.value * (1 + rtol)


def smallest_of_blocks(problem: Problem, *, ops: ArrayOps) -> SmallestBounds:
    """Enclose the smallest singular value of one layer's blocks over all frequencies, or those of its size.

    Parameters
    ----------
    problem : Problem
        A problem of blocks (g, m, p, *kernel_shape).
    """
    xp = ops.xp
    if uncut.unread_pixels_make_smallest_zero(problem.spec):
        return SmallestBounds(*rule.smallest_with_unread_pixels(problem.spec), None, is_zero=True)
    blocks = arrays.tall(polyphase.support(problem.kernel, ops=ops), xp=xp)
    if not bool(xp.any(blocks != 0)):
        return SmallestBounds(*rule.smallest_of_zero(blocks, ops=ops), None, is_zero=True)
    return _SmallestSearch(blocks, problem, ops=ops).run()


def norm_problem(like: Problem, blocks: Array, rtol: float, sizes: tuple[int, ...] | None) -> Problem:
    """The norm of blocks (g, m, p, *taps) over all frequencies, or those of a circulant, with another's limits."""
    groups, m, p, *taps = blocks.shape
    spec = ConvSpec(groups * m, groups * p, tuple(taps), groups=groups, input_shape=sizes)
    return Problem(blocks, spec, rtol, like.max_cells, like.clock)


def circulant_sizes(problem: Problem, blocks: Array) -> tuple[int, ...] | None:
    """Points an axis of the circular layer at its size; None at every size."""
    return None if problem.spec.input_shape is None else grid_sizes(problem.spec, tuple(blocks.shape[3:]))


class _SmallestSearch:
    """The search for blocks with no more columns than rows, not all zero."""

    def __init__(self, blocks: Array, problem: Problem, *, ops: ArrayOps) -> None:
        self.blocks = blocks
        self.problem = problem
        self.ops = ops
        self.xp = ops.xp
        self.rtol = problem.rtol
        self.clock = problem.clock
        self.sizes = circulant_sizes(problem, blocks)

    def run(self) -> SmallestBounds:
        grid = self.first_grid()
        smallest, largest = self.values_on(grid)
        block, at = np.unravel_index(smallest.argmin(), smallest.shape)
        witness = self.witness_at(grid[at : at + 1], int(block))
        bounds = SmallestBounds(self.lower_by_taps(), witness.upper, witness)
        if bounds.within(self.rtol) or self.clock.expired:
            return bounds
        if self.sizes is None and math.prod(self.blocks.shape[3:]) > 1:
            witness = self.lowest_minimum(witness, grid, smallest, largest)
            bounds = replace(bounds, upper=witness.upper, witness=witness)
        if witness.is_rounding:
            return replace(bounds, is_zero=True)
        return self.raise_lower_by_searches(bounds, witness)

    # -- from below --------------------------------------------------------------------------------------------------
    def lower_by_taps(self) -> Lower:
        """By the norms of the taps of ``c I - K*K`` with c the mean squared singular value: close near isometries."""
        centre = mean_square(self.blocks, ops=self.ops)
        of = rule.defect(rule.in_basis(self.blocks, ops=self.ops), centre, sizes=self.sizes, ops=self.ops)
        return rule.smallest_down(of, rule.norm_by_taps(of, ops=self.ops))

    def raise_lower_by_searches(self, bounds: SmallestBounds, witness: Witness) -> SmallestBounds:
        """Raise the lower bound by the norm of the defect, by searches with smaller and smaller tolerances."""
        whitened_blocks, inverse = self.whitened()
        norm, _ = enclose_blocks(
            norm_problem(self.problem, whitened_blocks.kernel, TUNING.norm_rtol, None),
            ops=self.ops,
        )
        largest = known(norm.upper)
        for attempt in range(TUNING.searches):
            square = witness.upper.value**2
            weight = self.weight(witness, inverse)
            # The square of a lower bound within the tolerance. It is proven if the defect's norm is at most c.
            floor = square / (1 + TUNING.aim * self.rtol) ** 2
            centre = rule.least_centre(whitened_blocks, largest, floor) + TUNING.margin * largest.value**2
            defect = rule.defect(whitened_blocks, centre, floor=floor, sizes=self.sizes, ops=self.ops)
            unresolved = 4 * (defect.error + TUNING.resolved * largest.value**2)
            if square <= unresolved * weight:
                return replace(bounds, is_zero=True)
            # At the witness, the defect's norm is less than c by about this. The search may be off by a part of it; its
            # tolerance is relative to the norm, about c.
            gap = max((square - floor) / weight, unresolved)
            tolerance = TUNING.share * 4.0**-attempt * gap / centre
            nonnegative = rule.nowhere_negative(defect, whitened_blocks, largest)
            lower, nearer, norm = self.by_defect(defect, nonnegative, min(tolerance, 0.5))
            witness = min(witness, nearer, key=lambda x: x.upper.value)
            bounds = SmallestBounds(
                lower=max(bounds.lower, lower, key=float),
                upper=witness.upper,
                witness=witness,
                cells=bounds.cells + norm.cells,
                levels=bounds.levels + norm.levels,
            )
            if bounds.within(self.rtol) or self.clock.expired:
                break
        return bounds

    def by_defect(
        self, of: Defect, nonnegative: Nonnegative | None, rtol: float
    ) -> tuple[Lower, Witness, SearchResult]:
        """A lower bound from the norm of the defect, and the witness where that is attained."""
        problem = replace(norm_problem(self.problem, of.kernel, rtol, self.sizes), nonnegative=nonnegative)
        norm, _ = enclose_blocks(problem, ops=self.ops)
        return rule.smallest_down(of, known(norm.upper)), self.witness_at(norm.frequency, norm.block), norm

    def whitened(self) -> tuple[InBasis, np.ndarray]:
        """The blocks in a basis B in which all combinations of channels weigh about as much, and ``B^-1``.

        ``T = B^-1`` is the Cholesky factor of the mean of ``G*G`` over all frequencies: ``B*(mean)B`` is the identity.
        """
        ops, xp = self.ops, self.xp
        g, m, p, *taps = self.blocks.shape
        by_tap = xp.permute_dims(xp.reshape(self.blocks, (g, m, p, -1)), (0, 1, 3, 2))
        rows: Any = ops.to_numpy(xp.reshape(by_tap, (g, m * math.prod(taps), p))).astype(np.float64)
        info = np.finfo(ops.wide_dtype)
        # The columns are divided by powers of two, to have lengths of about 1. The same powers are multiplied onto T
        # and divided out of B, so that they cancel in the product of both.
        lengths = np.linalg.norm(rows, axis=1)
        exponents = np.clip(np.frexp(lengths)[1], info.minexp // 5, 0)
        scales = np.ldexp(1.0, exponents)
        rows = rows / scales[:, None, :]
        gram = np.swapaxes(rows, 1, 2) @ rows
        factor = np.swapaxes(np.linalg.cholesky(gram + TUNING.ridge * p * info.eps * np.eye(p)), 1, 2)
        inverse = factor * scales[:, None, :]
        matrix = np.linalg.inv(factor) / scales[:, :, None]
        parts = (ops.from_numpy(x.astype(ops.wide_dtype), self.blocks) for x in (matrix, inverse))
        return rule.in_basis(self.blocks, rule.basis(*parts, ops=ops), ops=ops), inverse

    def weight(self, witness: Witness, inverse: np.ndarray) -> float:
        """``||B^-1 v||**2``: what a squared singular value at v is divided by in the basis."""
        return float(np.linalg.norm(inverse[witness.block] @ self.ops.to_numpy(witness.v)[0]) ** 2)

    # -- from above --------------------------------------------------------------------------------------------------
    def witness_at(self, frequency: Frequencies, block: int) -> Witness:
        """The smallest singular triple at one frequency."""
        u, v, value = self.triple(frequency, block)
        upper = rule.smallest_at(self.blocks, block, frequency, v, ops=self.ops)
        return Witness(upper, value, frequency, block, u, v)

    def triple(self, frequency: Frequencies, block: int) -> tuple[Array, Array, float]:
        """Left and right vector (1, m) and (1, p), and the singular value."""
        xp = self.xp
        symbol = symbols.Symbol(self.blocks[block : block + 1, ...], frequency, ops=self.ops)
        u, s, vh = xp.linalg.svd(symbol.matrices()[0, ...], full_matrices=False)
        return u[:, :, -1], xp.conj(vh[:, -1, :]), float(s[0, -1])

    def first_grid(self) -> Frequencies:
        """A coarse grid; of a circular layer all of its frequencies, or about as many of them as the grid has."""
        if self.sizes is not None and math.prod(self.sizes) <= TUNING.visited:
            return half_grid(self.sizes)
        grid = coarse_grid(tuple(self.blocks.shape[3:]))
        if self.sizes is None:
            return grid
        axes = [np.arange(g) * n // g for g, n in zip(grid.denominators, self.sizes, strict=True)]
        points = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=-1)
        return Frequencies(points, self.sizes)

    def lowest_minimum(self, witness: Witness, grid: Frequencies, smallest: np.ndarray, largest: float) -> Witness:
        """The lowest of the minima that the lowest points of a grid lead to."""
        m, p = self.blocks.shape[1:3]
        may_vanish = m == p and witness.value <= TUNING.hopeful * largest
        starts = min(TUNING.starts, max(1, TUNING.columns // p)) if may_vanish else TUNING.minima
        for start in np.argsort(smallest, axis=None, kind="stable")[:starts]:
            if witness.is_rounding or self.clock.expired:
                break
            block, at = np.unravel_index(start, smallest.shape)
            nearer = self.minimum_from(grid[at : at + 1], int(block))
            witness = min(witness, nearer, key=lambda x: x.upper.value)
        return witness

    def values_on(self, grid: Frequencies) -> tuple[np.ndarray, float]:
        """Smallest singular values of the blocks, shape (g, f), and the largest of all; of fewer if time is up."""
        xp = self.xp
        step = symbols.chunk_length(self.blocks, ops=self.ops)
        parts = []
        for start in range(0, len(grid), step):
            symbol = symbols.Symbol(self.blocks, grid[start : start + step], ops=self.ops)
            parts.append(self.ops.to_numpy(xp.linalg.svdvals(symbol.matrices())))
            if self.clock.expired:
                break
        values = np.concatenate(parts, axis=1)
        return values[..., -1], float(values[..., 0].max())

    def minimum_from(self, start: Frequencies, block: int) -> Witness:
        """Newton's method for a minimum of the smallest singular value; the best on the way."""
        _, m, p, *sizes = self.blocks.shape
        offsets = np.indices(sizes).reshape(len(sizes), -1)
        taps = np.moveaxis(self.ops.to_numpy(self.blocks)[block].reshape(m, p, -1), -1, 0)
        theta, best, least = start.angles[0], start, math.inf
        for _ in range(TUNING.steps):
            frequency = _rational(theta)
            value, step = _newton_step(taps, offsets, theta)
            if value < least:
                best, least = frequency, value
            length = np.abs(step).max()
            if self.clock.expired or not length > TUNING.shortest:
                break
            theta = theta + step * min(1.0, TUNING.longest / length)
        return self.witness_at(best, block)


def _newton_step(taps: np.ndarray, offsets: np.ndarray, theta: np.ndarray) -> tuple[float, np.ndarray]:
    """The smallest singular value of a symbol at a frequency, and Newton's step towards a minimum of its square.

    With ``H = G*G``, ``H v = s**2 v`` and derivatives ``H_a``, ``H_ab`` the square's are ``v*H_a v`` and ``v*H_ab v``
    less twice the sum over the other eigenvectors w of ``Re(conj(w*H_a v) (w*H_b v))`` over their distances.

    Parameters
    ----------
    taps : array, shape (t, m, p)
    offsets : array, shape (d, t)
        Where each tap reads.
    theta : array, shape (d,)
    """
    phases = np.exp(1j * theta @ offsets)
    symbol = np.tensordot(phases, taps, axes=1)
    _, values, vectors = np.linalg.svd(symbol, full_matrices=False)
    v, others = vectors[-1].conj(), vectors[:-1]
    image = symbol @ v
    terms = phases[:, None] * (taps @ v)
    adjoint_terms = phases.conj()[:, None] * (image @ taps)
    first = 1j * offsets @ terms
    second = -(offsets[:, None, :] * offsets[None, :, :]) @ terms
    gram_first = -1j * offsets @ adjoint_terms + first @ symbol.conj()
    slope = 2 * (first @ image.conj()).real
    squares = values**2
    distances = np.maximum(squares[:-1] - squares[-1], TUNING.least_gap * squares[0])
    coupling = gram_first @ others.T
    curvature = second @ image.conj() + first.conj() @ first.T - (coupling / distances).conj() @ coupling.T
    # Downhill along every axis of the curvature that is not flat.
    curvatures, axes = np.linalg.eigh(2 * curvature.real)
    curvatures = np.abs(curvatures)
    is_curved = curvatures > TUNING.flat * curvatures.max(initial=0.0)
    slopes = axes.T @ slope
    return float(values[-1]), -axes[:, is_curved] @ (slopes[is_curved] / curvatures[is_curved])


def mean_square(blocks: Array, *, ops: ArrayOps) -> float:
    """Mean squared singular value of blocks with no more columns than rows, over all frequencies; 1 of zeros."""
    return float(ops.xp.sum(blocks**2)) / (blocks.shape[0] * blocks.shape[2]) or 1.0


def _rational(theta: np.ndarray) -> Frequencies:
    """The frequency nearest to some angles among those whose turn is a whole number of ``2**-44``."""
    turn = 2**44
    return Frequencies(np.rint(theta / (2 * math.pi) * turn).astype(np.int64)[None, :] % turn, (turn,) * len(theta))
