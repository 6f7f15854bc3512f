"""Both ends of the smallest singular value of blocks: a vector from above, the norm of a defect from below.

The defect is ``c I - G*G``, with c near the mean of ``G*G``; its norm is found by the search of `enclosing`. The better
a layer is conditioned, the wider may be the interval that is asked of that search, as a part of c. Therefore the
channels are whitened first (`ends.proof`). Kernels near an isometry need no search,
and those whose smallest value is too near 0 for any proof are not searched.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm.at_size.proofs import uncut
from specnorm.backends import arrays
from specnorm.ends import proof as defects
from specnorm.geometry.spec import ConvSpec
from specnorm.proofs import rounding
from specnorm.proofs.bound import Lower
from specnorm.proofs.found import Found, Outcome, Witness
from specnorm.proofs.frequencies import Frequencies
from specnorm.running.search import Problem
from specnorm.supremum.enclosing import enclose_blocks
from specnorm.symbols.proofs.polynomial import Polynomial

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.ends.proof import Defect, InBasis
    from specnorm.supremum.proof import Nonnegative

SCALE_BITS = 32
"""Blocks whose largest entries differ by a factor of more than two to this power are searched separately."""
RESOLVED_PART = 2e-12
"""Part of the squared norm of the whitened blocks below which a search of the defect does not tell a squared singular
value from 0. The centre c is raised by as much, so that no rounding makes the defect's symbol negative."""
MOST_VISITED = 2048
"""Number of frequencies of a circular layer up to which all of them are visited for a first upper bound."""
NEWTON_STEPS = 12
"""Most steps of Newton's method towards a minimum."""
STARTS_WITHOUT_ZEROS = 3
"""Number of frequencies from which Newton's method starts if the smallest singular value has no zero."""
MOST_STARTS = 16
"""Most frequencies from which Newton's method starts if the smallest singular value may have zeros."""
HOPEFUL_PART = 0.3
"""Part of the norm up to which a smallest singular value on the grid may be near a zero."""
LONGEST_STEP = 0.5
"""Length in radians along an axis to which longer Newton steps are shortened."""
LEAST_PART = 1e-10
"""Part of the largest squared singular value that two of them are assumed to differ by in a Newton step; and part of
the largest curvature up to which an axis counts as flat: Newton's method does not move along it."""
AIMED_SHARE = 0.9
"""Part of the tolerance that the lower bound is to keep; the rest is for rounding. Of that share, the search of the
defect gets such a part again; the rest is for a witness above the minimum."""
MOST_CELLS = 25_000
"""Most cells of a search of the defect at every size: what is not proven then rarely is with four times as many."""
LOOSE_RTOL = 0.1
"""Tolerance of the norm of the whitened blocks, whose square the centre c is near; and of a second search, if the cells
do not suffice for the first."""
MOST_SEARCHES = 3
"""Most searches of the defect, each with a smaller tolerance."""

_POINTS_PER_TURN = 2**44
"""Points per turn of the frequencies that Newton's method visits. Near a zero the smallest singular value is
proportional to the distance, while near a maximum the norm falls with its square: so this lattice is finer than that of
`ascent`."""


def smallest_of_blocks(blocks: Array, problem: Problem, *, ops: ArrayOps) -> Found:
    """Enclose the smallest singular value of one layer's blocks over all frequencies, or those of its size.

    ``blocks`` is (g, m, p, *kernel_shape).
    """
    xp = ops.xp
    if uncut.unread_pixels_make_smallest_zero(problem.spec):
        return Found(*defects.smallest_with_unread_pixels(problem.spec), ended=Outcome.ZERO)
    blocks = arrays.tall(arrays.without_zero_borders(blocks, ops=ops), xp=xp)
    is_zero = ops.to_numpy(xp.all(xp.reshape(blocks == 0, (blocks.shape[0], -1)), axis=1))
    if is_zero.any():
        zero_blocks = arrays.rows(blocks, np.flatnonzero(is_zero), ops=ops)
        return Found(*defects.smallest_of_zero(zero_blocks, ops=ops), ended=Outcome.ZERO)
    exponents = ops.to_numpy(arrays.exponents(blocks, xp=xp)).astype(np.int64)
    classes = (exponents.max() - exponents) // SCALE_BITS
    parts = [_of_scale(blocks, np.flatnonzero(classes == x), problem, ops=ops) for x in np.unique(classes)]
    if len(parts) == 1:
        return parts[0]
    lower, upper = defects.smallest_of_parts([part.ends for part in parts])
    return Found(
        lower,
        upper,
        min(parts, key=lambda part: part.highest).witness,
        cells=sum(part.cells for part in parts),
        levels=max(part.levels for part in parts),
        ended=min(parts, key=lambda part: part.lower.value).ended,
    )


def _of_scale(blocks: Array, index: np.ndarray, problem: Problem, *, ops: ArrayOps) -> Found:
    """`smallest_of_blocks` of some of the blocks, whose entries are about as large, scaled to about 1."""
    xp = ops.xp
    some_blocks = arrays.rows(blocks, index, ops=ops)
    exponent = xp.max(arrays.exponents(some_blocks, xp=xp))
    scaled = arrays.unscale(some_blocks, -exponent, xp=xp)
    found = _SmallestSearch(scaled, problem, ops=ops).run()
    lower, upper = found.ends
    lower, upper = lower.times_power_of_two(int(exponent)), upper.times_power_of_two(int(exponent))
    witness = replace(found.witness, block=int(index[found.witness.block]))
    return replace(found, lower=lower, upper=upper, witness=witness)


def norm_problem(like: Problem, blocks: Array, rtol: float, sizes: tuple[int, ...] | None) -> Problem:
    """The problem of the norm of blocks (g, m, p, *taps), with the cells and the clock of another problem.

    ``sizes``: points along each axis of the circulant whose frequencies count; None: all frequencies count.
    """
    groups, m, p, *taps = blocks.shape
    spec = ConvSpec(groups * m, groups * p, tuple(taps), groups=groups, input_shape=sizes)
    return replace(like, spec=spec, rtol=rtol)


def circulant_sizes(problem: Problem, blocks: Array) -> tuple[int, ...] | None:
    """Points along each axis of the circular layer at its size; None if the problem is of every size."""
    if problem.spec.input_shape is None:
        return None
    return problem.spec.grid_sizes(tuple(blocks.shape[3:]))


class _SmallestSearch:
    """Search for both bounds of the smallest singular value of tall blocks, not all zero."""

    def __init__(self, blocks: Array, problem: Problem, *, ops: ArrayOps) -> None:
        self.blocks = blocks
        self.problem = problem
        self.rtol = problem.rtol
        self.clock = problem.clock
        self.sizes = circulant_sizes(problem, blocks)
        self.visited = self._visited_whole()
        self.ops = ops
        self.xp = ops.xp

    def _visited_whole(self) -> tuple[int, ...] | None:
        """Sizes of the grid of all frequencies that count, if it is visited whole; one frequency, if all are the same.

        None if they are too many.
        """
        taps = self.blocks.shape[3:]
        if math.prod(taps) == 1:
            return (1,) * len(taps)
        is_small = self.sizes is not None and math.prod(self.sizes) <= MOST_VISITED
        return self.sizes if is_small else None

    def run(self) -> Found:
        """Visit a grid, bound by it or by the taps, go to the lowest minimum, then search the norm of the defect."""
        grid = self.first_grid()
        smallest, largest = self.values_on(grid)
        block, point = np.unravel_index(smallest.argmin(), smallest.shape)
        attained = self.attained_at(grid[point : point + 1], int(block))
        bounds = replace(attained, cells=len(grid), levels=1, ended=None)
        if self.visited is not None and not self.clock.expired:
            lower = defects.smallest_on_grid(self.blocks, self.visited, float(smallest.min()), largest, ops=self.ops)
            bounds = bounds if lower is None else replace(bounds, lower=lower)
            if bounds.within(self.rtol):
                return bounds
        bounds = replace(bounds, lower=max(self.lower_by_taps(), bounds.lower, key=float), cells=0, levels=0)
        if bounds.within(self.rtol) or self.clock.expired:
            return bounds
        if self.sizes is None and math.prod(self.blocks.shape[3:]) > 1:
            attained = self.lowest_minimum(attained, grid, smallest, largest)
            bounds = replace(bounds, upper=attained.upper, witness=attained.witness)
        if attained.ended is Outcome.ZERO:
            return replace(bounds, ended=Outcome.ZERO)
        return self.raise_lower_by_searches(bounds)

    # -- from below --------------------------------------------------------------------------------------------------
    def lower_by_taps(self) -> Lower:
        """Bound the smallest singular value by the norms of the taps of ``c I - K*K``, with c the mean squared value.

        The bound is close for layers near isometries.
        """
        centre = mean_square(self.blocks, ops=self.ops)
        blocks = defects.in_basis(self.blocks, ops=self.ops)
        defect = defects.defect(blocks, centre, sizes=self.sizes, ops=self.ops)
        return defects.smallest_down(defect, defects.norm_by_taps(defect, ops=self.ops))

    def raise_lower_by_searches(self, bounds: Found) -> Found:
        """The bounds with a lower bound from the norm of the defect, by searches with ever smaller tolerances.

        The defect is ``D = c I - B*(G*G - floor I)B``, B the whitening basis. Where ``||D|| <= c``, floor is a lower
        bound of ``G*G``.
        """
        whitened, inverse = self.whitened_blocks()
        norm_of_whitened, _ = enclose_blocks(
            whitened.kernel, norm_problem(self.problem, whitened.kernel, LOOSE_RTOL, None), ops=self.ops
        )
        _, largest = norm_of_whitened.ends
        aimed_rtol = self.rtol
        for attempt in range(MOST_SEARCHES):
            square = bounds.highest**2
            weight = self.weight(bounds.witness, inverse)
            # The square of the lower bound that is aimed at.
            floor = square / (1 + AIMED_SHARE * aimed_rtol) ** 2
            # The least c for which D is proven to be nowhere negative, and a margin for its rounding.
            centre = defects.least_centre(whitened, largest, floor) + RESOLVED_PART * largest.value**2
            defect = defects.defect(whitened, centre, floor=floor, sizes=self.sizes, ops=self.ops)
            # Squares in the basis that are smaller are lost in the error of D and in that of its search.
            unresolved = 4 * (defect.error + RESOLVED_PART * largest.value**2)
            if square <= unresolved * weight:
                return replace(bounds, ended=Outcome.ZERO)
            # At the witness's frequency, D has an eigenvalue of about c - gap: if no other is larger, a search to a
            # tolerance below gap / c proves ||D|| <= c.
            gap = max((square - floor) / weight, unresolved)
            tolerance = AIMED_SHARE * 4.0**-attempt * gap / centre
            nonnegative = defects.nowhere_negative(defect, whitened, largest)
            lower, nearer, result, is_close = self.bounds_from_norm_of(defect, nonnegative, min(tolerance, 0.5))
            attained = min(bounds, nearer, key=lambda x: x.highest)
            bounds = replace(
                bounds,
                lower=max(bounds.lower, lower, key=float),
                upper=attained.upper,
                witness=attained.witness,
                cells=bounds.cells + result.cells,
                levels=bounds.levels + result.levels,
            )
            is_cut = self.clock.has_cut or self.clock.expired
            is_out_of_cells = not is_cut and (bounds.ended is Outcome.CELLS or not is_close)
            bounds = replace(bounds, ended=Outcome.CELLS if is_out_of_cells else None)
            if bounds.within(self.rtol) or self.clock.expired:
                break
            if not is_close:
                # Cells or time did not suffice, and a smaller tolerance takes more. A larger one may do with fewer.
                if aimed_rtol >= LOOSE_RTOL:
                    break
                aimed_rtol = LOOSE_RTOL
        return bounds

    def bounds_from_norm_of(
        self, defect: Defect, nonnegative: Nonnegative | None, rtol: float
    ) -> tuple[Lower, Found, Found, bool]:
        """Enclose the norm of the defect ``D = c I - B*(G*G - floor I)B``, whose largest value is at the smallest of G.

        ``nonnegative``: a proof that D is nowhere negative. ``rtol``: of the search for its norm. Returns ``lower``: of
        the smallest singular value. ``nearer``: the singular value of G where the norm of D is attained.
        ``result``: of the search. ``is_close``: whether that reached its tolerance.
        """
        problem = norm_problem(self.problem, defect.kernel, rtol, self.sizes)
        if self.sizes is None:
            problem = replace(problem, max_cells=min(problem.max_cells, MOST_CELLS))
        result, is_close = enclose_blocks(defect.kernel, problem, nonnegative=nonnegative, ops=self.ops)
        lower = defects.smallest_down(defect, result.ends[1])
        return lower, self.attained_at(result.witness.frequency, result.witness.block), result, is_close

    def whitened_blocks(self) -> tuple[InBasis, np.ndarray]:
        """The blocks in a basis B in which all combinations of channels weigh about as much, and ``B^-1``.

        ``T = B^-1`` is the Cholesky factor of the mean of ``G*G`` over all frequencies: ``B*(mean)B`` is the identity.
        """
        ops, xp = self.ops, self.xp
        g, m, p, *taps = self.blocks.shape
        by_tap = xp.permute_dims(xp.reshape(self.blocks, (g, m, p, -1)), (0, 1, 3, 2))
        rows: Any = ops.to_numpy(xp.reshape(by_tap, (g, m * math.prod(taps), p))).astype(np.float64)
        info = np.finfo(ops.wide_dtype)
        # The columns are scaled to norms of about 1. The scales are powers of two, so that T and B are multiplied by
        # them without rounding.
        lengths = np.linalg.norm(rows, axis=1)
        # Bounds of the rounding of B*B are sums of fourth powers of B's entries, about the inverse scales: a fifth of
        # the range of exponents keeps them finite. Columns longer than 1 are short enough as they are.
        exponents = np.clip(np.frexp(lengths)[1], info.minexp // 5, 0)
        scales = np.ldexp(1.0, exponents)
        rows = rows / scales[:, None, :]
        gram = np.swapaxes(rows, 1, 2) @ rows
        # Twice the error of the product and of the factorization, so that there is a factor.
        ridge = 2 * rounding.gamma(rows.shape[1] + p + 8, float(info.eps) / 2) * np.trace(gram, axis1=1, axis2=2)
        factor = np.swapaxes(np.linalg.cholesky(gram + ridge[:, None, None] * np.eye(p)), 1, 2)
        inverse = factor * scales[:, None, :]
        matrix = np.linalg.inv(factor) / scales[:, :, None]
        parts = (ops.from_numpy(x.astype(ops.wide_dtype), self.blocks) for x in (matrix, inverse))
        return defects.in_basis(self.blocks, defects.basis(*parts, ops=ops), ops=ops), inverse

    def weight(self, witness: Witness, inverse: np.ndarray) -> float:
        """``||B^-1 v||**2``: a squared singular value with the vector v is this many times smaller in the basis."""
        return float(np.linalg.norm(inverse[witness.block] @ self.ops.to_numpy(witness.v)[0]) ** 2)

    # -- from above --------------------------------------------------------------------------------------------------
    def attained_at(self, frequency: Frequencies, block: int) -> Found:
        """The smallest singular triple at one frequency; `Outcome.ZERO` if most of the bound is for rounding."""
        u, v, value = self.triple(frequency, block)
        upper = defects.smallest_at(self.blocks, block, frequency, v, ops=self.ops)
        ended = Outcome.ZERO if upper.value > 2 * value else None
        return Found(Lower.trivial(), upper, Witness(block, frequency, u, v), ended=ended)

    def triple(self, frequency: Frequencies, block: int) -> tuple[Array, Array, float]:
        """Left and right vector (1, m) and (1, p), and the singular value."""
        xp = self.xp
        symbol = Polynomial(self.blocks[block : block + 1, ...], xp=xp).at(frequency, ops=self.ops)
        u, s, vh = xp.linalg.svd(symbol.matrices()[0, ...], full_matrices=False)
        return u[:, :, -1], xp.conj(vh[:, -1, :]), float(s[0, -1])

    def first_grid(self) -> Frequencies:
        """A coarse grid, or for a circular layer all of its frequencies, or about as many of them as the grid has."""
        if self.visited is not None:
            return Frequencies.half_grid(self.visited)
        grid = Frequencies.coarse_grid(tuple(self.blocks.shape[3:]))
        if self.sizes is None:
            return grid
        axes = [np.arange(g) * n // g for g, n in zip(grid.denominators, self.sizes, strict=True)]
        points = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=-1)
        return Frequencies(points, self.sizes)

    def lowest_minimum(self, attained: Found, grid: Frequencies, smallest: np.ndarray, largest: float) -> Found:
        """The lowest of the minima that the lowest points of a grid lead to."""
        m, p = self.blocks.shape[1:3]
        may_vanish = m == p and attained.highest <= HOPEFUL_PART * largest
        starts = MOST_STARTS if may_vanish else STARTS_WITHOUT_ZEROS
        for start in np.argsort(smallest, axis=None, kind="stable")[:starts]:
            if attained.ended is Outcome.ZERO or self.clock.expired:
                break
            block, point = np.unravel_index(start, smallest.shape)
            nearer = self.minimum_from(grid[point : point + 1], int(block))
            attained = min(attained, nearer, key=lambda x: x.highest)
        return attained

    def values_on(self, grid: Frequencies) -> tuple[np.ndarray, float]:
        """Smallest singular values of the blocks, shape (g, f), and the largest of all singular values.

        When the time is up, the rest of the frequencies is left out.
        """
        polynomial = Polynomial(self.blocks, xp=self.xp)
        step = polynomial.frequencies_at_once(ops=self.ops)
        parts = []
        for start in range(0, len(grid), step):
            symbol = polynomial.at(grid[start : start + step], ops=self.ops)
            parts.append(self.ops.to_numpy(self._singular_values(symbol.matrices())))
            if self.clock.expired:
                break
        values = np.concatenate(parts, axis=1)
        return values[..., -1], float(values[..., 0].max())

    def _singular_values(self, matrices: Array) -> Array:
        """Singular values of tall matrices: roots of eigenvalues, unless some are so small that these are imprecise."""
        xp = self.xp
        squares = xp.linalg.eigvalsh(xp.matmul(arrays.adjoint(matrices, xp=xp), matrices))
        # The root of a part so large of the largest square has half of the digits.
        is_precise = xp.all(squares[..., 0] > math.sqrt(float(xp.finfo(squares.dtype).eps)) * xp.max(squares))
        return xp.flip(xp.sqrt(squares), axis=-1) if bool(is_precise) else xp.linalg.svdvals(matrices)

    def minimum_from(self, start: Frequencies, block: int) -> Found:
        """What is attained at the lowest of the frequencies that Newton's method visits on the way to a minimum."""
        _, m, p, *sizes = self.blocks.shape
        offsets = np.indices(sizes).reshape(len(sizes), -1)
        taps = np.moveaxis(self.ops.to_numpy(self.blocks)[block].reshape(m, p, -1), -1, 0)
        theta, best, least = start.angles[0], start, math.inf
        for _ in range(NEWTON_STEPS):
            frequency = _rational(theta)
            value, step = _newton_step(taps, offsets, theta)
            if value < least:
                best, least = frequency, value
            length = np.abs(step).max()
            # Half a step of the lattice.
            if self.clock.expired or not length > math.pi / _POINTS_PER_TURN:
                break
            theta = theta + step * min(1.0, LONGEST_STEP / length)
        return self.attained_at(best, block)


def _newton_step(taps: np.ndarray, offsets: np.ndarray, theta: np.ndarray) -> tuple[float, np.ndarray]:
    """The smallest singular value of a symbol at a frequency, and Newton's step towards a minimum of its square.

    With ``H = G*G``, ``H v = s**2 v`` and derivatives ``H_a``, ``H_ab`` the square's are ``v*H_a v`` and ``v*H_ab v``
    less twice the sum over the other eigenvectors w of ``Re(conj(w*H_a v) (w*H_b v))`` over the distance of their
    eigenvalue from ``s**2``.

    Shapes: ``taps`` (t, m, p), ``theta`` (d,). ``offsets`` (d, t): position of each tap.
    """
    phases = np.exp(1j * (theta @ offsets))
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
    distances = np.maximum(squares[:-1] - squares[-1], LEAST_PART * squares[0])
    coupling = gram_first @ others.T
    curvature = second @ image.conj() + first.conj() @ first.T - (coupling / distances).conj() @ coupling.T
    # Downhill along every axis of the curvature that is not flat.
    bends, axes = np.linalg.eigh(2 * curvature.real)
    bends = np.abs(bends)
    usable = bends > LEAST_PART * bends.max(initial=0.0)
    along = axes.T @ slope
    return float(values[-1]), -axes[:, usable] @ (along[usable] / bends[usable])


def mean_square(blocks: Array, *, ops: ArrayOps) -> float:
    """Mean squared singular value of tall blocks over all frequencies; 1 for a kernel of zeros."""
    return float(ops.xp.sum(blocks**2)) / (blocks.shape[0] * blocks.shape[2]) or 1.0


def _rational(theta: np.ndarray) -> Frequencies:
    """The nearest frequency of the lattice with `_POINTS_PER_TURN` points along each axis, for angles (d,)."""
    turns = theta / (2 * math.pi)
    numerators = np.rint(turns * _POINTS_PER_TURN).astype(np.int64) % _POINTS_PER_TURN
    return Frequencies(numerators[None, :], (_POINTS_PER_TURN,) * len(theta))
