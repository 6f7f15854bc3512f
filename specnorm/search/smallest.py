"""Both ends of the smallest singular value: a witness from above, the norm of ``c I - K*K`` from below.

The search for the norm of the defect is the one of `enclosing`. What it is asked for is relative to ``c - m**2``: the
better a layer is conditioned, the less it costs. Kernels near an isometry need none, and those whose smallest value
is too near 0 for any proof are not searched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified import defect as rule
from specnorm.certified.bound import Lower, Upper, known
from specnorm.certified.layer.own_matrix import LayerGram, has_fewer_rows, smallest_of_groups, smallest_quotients
from specnorm.certified.matrices.block_tridiagonal import of_one_group, plans, to_layer
from specnorm.certified.symbol import symbols
from specnorm.errors import GeometryError
from specnorm.problem import polyphase
from specnorm.problem.frequencies import Frequencies, coarse_grid, half_grid
from specnorm.problem.layer_map import Convolution
from specnorm.problem.spec import ConvSpec
from specnorm.search.enclosing import enclose_blocks, grid_sizes
from specnorm.search.result import Problem

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.matrices.block_tridiagonal import BlockPlan
    from specnorm.certified.symbol.cover import Nonnegative
    from specnorm.clock import Clock
    from specnorm.search.result import SearchResult
    from specnorm.types import ArrayOps


class SmallestTuning(NamedTuple):
    """Effort. It decides on time and on how wide the interval is."""

    norm_rtol: float = 1e-2
    """Tolerance of the norm whose square is c."""
    margin: float = 1e-9
    """Part of c by which it is larger than that square, so that its rounding leaves the defect's symbol nonnegative."""
    resolved: float = 2e-12
    """Part of c below which a squared singular value is not told from 0 by a search of the defect."""
    visited: int = 2048
    """Frequencies of a circular layer that are all visited for a first upper bound."""
    steps: int = 12
    """Newton steps towards a zero of a square symbol."""
    starts: int = 16
    """Frequencies that they start from, at most."""
    columns: int = 800
    """Columns of all matrices that are decomposed in a step, about: the larger a symbol is, the fewer starts."""
    hopeful: float = 0.3
    """Part of the norm up to which a smallest singular value on the grid may be near a zero."""
    share: float = 0.8
    """Part of the tolerance that the proof may use up."""
    searches: int = 3
    """Searches of the defect, each with a smaller tolerance."""
    rows: int = 2048
    """Rows of a layer's own Gram matrix up to which it is taken: some seconds."""


TUNING = SmallestTuning()
_POWERS = 400
"""Powers of two up to which the square of a scale is taken as it is, beside a kernel of about 1."""


@dataclass(frozen=True, eq=False)
class Witness:
    """A frequency and a vector, and the bound of the smallest singular value that they prove.

    Parameters
    ----------
    u, v : arrays, shapes (1, m) and (1, p)
        Unit vectors of the blocks with no more columns than rows, ``u* G v`` the singular value.
    """

    upper: Upper
    frequency: Frequencies
    block: int
    u: Array
    v: Array


@dataclass(frozen=True, eq=False)
class SmallestBounds:
    """Two proven bounds of a smallest singular value.

    Parameters
    ----------
    witness : Witness or None
        None of a kernel of zeros, and of a layer that leaves pixels unread.
    cells, levels : int
        Of all searches.
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
        """Whether both are so close."""
        return self.upper.value <= self.lower.value * (1 + rtol)


def smallest_of_blocks(problem: Problem, *, ops: ArrayOps) -> SmallestBounds:
    """Enclose the smallest singular value of one layer's blocks over all frequencies, or those of its size.

    Parameters
    ----------
    problem : Problem
        Of blocks (g, m, p, *kernel_shape).
    """
    xp = ops.xp
    if rule.has_unread_pixels(problem.spec):
        return SmallestBounds(*rule.smallest_with_unread_pixels(problem.spec), None, is_zero=True)
    blocks = arrays.tall(polyphase.support(problem.kernel, ops=ops), xp=xp)
    if not bool(xp.any(blocks != 0)):
        return SmallestBounds(*rule.smallest_of_zero(blocks, ops=ops), None, is_zero=True)
    return _Search(blocks, problem, ops=ops).run()


def _problem_of(blocks: Array, sizes: tuple[int, ...] | None, rtol: float, max_cells: int, clock: Clock) -> Problem:
    """The norm of some blocks, over all frequencies or over those of a circulant."""
    groups, m, p, *taps = blocks.shape
    spec = ConvSpec(groups * m, groups * p, tuple(taps), groups=groups, input_shape=sizes)
    return Problem(blocks, spec, rtol, max_cells, clock)


class _Search:
    def __init__(self, blocks: Array, problem: Problem, *, ops: ArrayOps) -> None:
        self.blocks, self.ops, self.xp = blocks, ops, ops.xp
        self.rtol, self.clock, self.max_cells = problem.rtol, problem.clock, problem.max_cells
        at_size = problem.spec.input_shape is not None
        self.sizes = grid_sizes(problem.spec, tuple(blocks.shape[3:])) if at_size else None
        self.cells = self.levels = 0
        self.nonnegative: Nonnegative | None = None

    def run(self) -> SmallestBounds:
        witness = self.first_witness()
        square = float(self.xp.sum(self.blocks**2)) / (self.blocks.shape[0] * self.blocks.shape[2])
        near = rule.defect(self.blocks, square, ops=self.ops)
        lower = rule.smallest_down(near, rule.norm_by_taps(near, ops=self.ops))
        found = SmallestBounds(lower, witness.upper, witness)
        if found.within(self.rtol) or self.clock.expired:
            return found
        norm, _ = enclose_blocks(self.problem_of(self.blocks, TUNING.norm_rtol, None), ops=self.ops)
        centre = known(norm.upper).value ** 2 * (1 + TUNING.margin)
        defect = rule.defect(self.blocks, centre, ops=self.ops)
        self.nonnegative = rule.nowhere_negative(defect, known(norm.upper))
        for attempt in range(TUNING.searches):
            square = found.upper.value**2
            if square <= 4 * (defect.error + TUNING.resolved * centre):
                return replace(found, cells=self.cells, levels=self.levels, is_zero=True)
            # The tolerance is relative to the norm of the defect, c - m**2.
            share = TUNING.share * 4.0**-attempt * 2 * self.rtol * square / max(centre - square, 1e-3 * centre)
            found = self.searched(defect, min(share, 0.5), found)
            if found.within(self.rtol) or self.clock.expired:
                break
        return found

    def problem_of(self, blocks: Array, rtol: float, sizes: tuple[int, ...] | None) -> Problem:
        """As `_problem_of`, with what is left of the budget."""
        return _problem_of(blocks, sizes, rtol, self.max_cells, self.clock)

    def searched(self, defect: rule.Defect, rtol: float, found: SmallestBounds) -> SmallestBounds:
        """With a lower bound from the norm of the defect, and the witness where that is attained."""
        problem = replace(self.problem_of(defect.kernel, rtol, self.sizes), nonnegative=self.nonnegative)
        norm, _ = enclose_blocks(problem, ops=self.ops)
        self.cells, self.levels = self.cells + norm.cells, self.levels + norm.levels
        lower = rule.smallest_down(defect, known(norm.upper))
        witness = self.witness_at(norm.frequency, norm.block)
        if found.witness is not None and found.upper <= witness.upper:
            witness = found.witness
        return SmallestBounds(max(found.lower, lower, key=float), witness.upper, witness, self.cells, self.levels)

    # -- from above --------------------------------------------------------------------------------------------------
    def witness_at(self, frequency: Frequencies, block: int) -> Witness:
        """The smallest singular triple at one frequency."""
        u, v, _ = self.triple(frequency, block)
        return Witness(rule.smallest_at(self.blocks, block, frequency, v, ops=self.ops), frequency, block, u, v)

    def triple(self, frequency: Frequencies, block: int) -> tuple[Array, Array, float]:
        """Left and right vector (1, m) and (1, p), and the singular value."""
        xp = self.xp
        symbol = symbols.Symbol(self.blocks[block : block + 1, ...], frequency, ops=self.ops)
        u, s, vh = xp.linalg.svd(symbol.matrices()[0, ...], full_matrices=False)
        return u[:, :, -1], xp.conj(vh[:, -1, :]), float(s[0, -1])

    def first_witness(self) -> Witness:
        """The smallest singular value on a grid, and of square symbols near a zero that it may lie next to."""
        kernel_shape = tuple(self.blocks.shape[3:])
        grid = coarse_grid(kernel_shape)
        if self.sizes is not None and math.prod(self.sizes) <= TUNING.visited:
            grid = half_grid(self.sizes)
        elif self.sizes is not None:
            # Points of the layer's own grid, about as many.
            every = (np.arange(g) * n // g for g, n in zip(grid.denominators, self.sizes, strict=True))
            grid = Frequencies(np.stack([x.ravel() for x in np.meshgrid(*every, indexing="ij")], axis=-1), self.sizes)
        values = self.values_on(grid)
        best = np.argsort(values[..., 0], axis=None, kind="stable")
        block, at = divmod(int(best[0]), len(grid))
        witness = self.witness_at(grid[at : at + 1], block)
        square = self.blocks.shape[1] == self.blocks.shape[2] and math.prod(kernel_shape) > 1
        if self.sizes is not None or not square or witness.upper > TUNING.hopeful * values[..., 1].max():
            return witness
        starts = max(1, min(TUNING.starts, TUNING.columns // self.blocks.shape[2]))
        for start in best[:starts].tolist():
            block, at = divmod(start, len(grid))
            nearer = self.towards_zero(grid[at : at + 1], block)
            witness = min(witness, nearer, key=lambda x: x.upper.value)
            if witness.upper.value**2 <= TUNING.resolved * values[..., 1].max() ** 2:
                break
        return witness

    def values_on(self, grid: Frequencies) -> np.ndarray:
        """Smallest and largest singular values of the blocks, shape (g, f, 2)."""
        xp, step = self.xp, symbols.chunk_length(self.blocks, ops=self.ops)
        parts = []
        for start in range(0, len(grid), step):
            symbol = symbols.Symbol(self.blocks, grid[start : start + step], ops=self.ops)
            values = self.ops.to_numpy(xp.linalg.svdvals(symbol.matrices()))
            parts.append(np.stack([values[..., -1], values[..., 0]], axis=-1))
            if self.clock.expired:
                break
        return np.concatenate(parts, axis=1)

    def towards_zero(self, start: Frequencies, block: int) -> Witness:
        """Newton steps for ``u* G(theta) v = 0`` with the vectors of the smallest singular value; the best on the way.

        Two real equations in as many unknowns as there are axes: the shortest step that solves them linearised.
        """
        xp, taps = self.xp, self.blocks.shape[3:]
        places = np.indices(taps).reshape(len(taps), -1)
        theta, best, value = start.angles[0], start, math.inf
        for _ in range(TUNING.steps):
            frequency = _rational(theta)
            u, v, s = self.triple(frequency, block)
            if s < value:
                best, value = frequency, s
            along = xp.reshape(self.blocks[block, ...], (*self.blocks.shape[1:3], -1))
            along = xp.reshape(xp.permute_dims(along, (2, 0, 1)), (-1, *self.blocks.shape[1:3]))
            terms = xp.matmul(xp.matmul(xp.conj(u)[None, ...], xp.astype(along, u.dtype)), v[0, :, None])[:, 0, 0]
            weights = self.ops.to_numpy(terms) * np.exp(1j * theta @ places)
            slope = 1j * places @ weights
            step = np.linalg.lstsq(np.stack([slope.real, slope.imag]), -np.asarray([s, 0.0]), rcond=1e-10)[0]
            length = np.abs(step).max(initial=0.0)
            if self.clock.expired or not length > 1e-13:
                break
            theta = theta + step * min(1.0, 0.5 / length)
        return self.witness_at(best, block)


def _rational(theta: np.ndarray) -> Frequencies:
    """The frequency nearest to some angles among those whose turn is a whole number of ``2**-44``."""
    turn = 2**44
    return Frequencies(np.rint(theta / (2 * math.pi) * turn).astype(np.int64)[None, :] % turn, (turn,) * len(theta))


# -- the isometry defect ---------------------------------------------------------------------------------------------
def isometry_of_blocks(
    problem: Problem, target: tuple[float, int] | None, *, ops: ArrayOps
) -> tuple[Lower, Upper, SearchResult]:
    """Enclose ``||K*K - s**2 I|| / s**2`` of one layer's blocks, over all frequencies or those of its size.

    Parameters
    ----------
    target : pair of float and int, optional
        A fraction and the power of two that s squared is. None: the mean of the squared singular values.
    """
    blocks = arrays.tall(polyphase.support(problem.kernel, ops=ops), xp=ops.xp)
    centre = float(ops.xp.sum(blocks**2)) / (blocks.shape[0] * blocks.shape[2]) or 1.0
    beyond = 0
    if target is not None:
        fraction, power = target
        within = min(max(power, -_POWERS), _POWERS)
        centre, beyond = math.ldexp(fraction, within), power - within
    defect = rule.defect(blocks, centre, ops=ops)
    sizes = None if problem.spec.input_shape is None else grid_sizes(problem.spec, tuple(blocks.shape[3:]))
    sought = _problem_of(defect.kernel, sizes, problem.rtol, problem.max_cells, problem.clock)
    norm, _ = enclose_blocks(sought, ops=ops)
    unread = rule.has_unread_pixels(problem.spec)
    lower, upper = rule.isometry_ends(defect, norm.lower, known(norm.upper), unread=unread, beyond=beyond)
    return lower, upper, norm


# -- a layer whose borders cut ---------------------------------------------------------------------------------------
def own_plan(spec: ConvSpec) -> BlockPlan:
    """How the smaller Gram matrix of one group of a layer at its size is formed, as one block.

    Raises
    ------
    GeometryError
        If it has too many rows.
    """
    single = of_one_group(spec)
    plan = min((x for x in plans(single) if x.blocks == 1 and x.wide is has_fewer_rows(single)), key=lambda x: x.work)
    if plan.size <= TUNING.rows:
        return plan
    raise GeometryError(
        f"the layer at input_shape={spec.input_shape} is no circular one (padding_mode={spec.padding_mode!r}, "
        f"padding={spec.padding}): only its own matrix tells its smallest singular "
        f"value, and that has {plan.size} rows; at most {TUNING.rows} are affordable. Give a smaller input_shape, or "
        'padding_mode="circular", whose values are known at every size; where no tap is cut off, leave input_shape out.'
    )


def smallest_of_layer(problem: Problem, *, ops: ArrayOps) -> tuple[SmallestBounds, tuple[Array, Array, Array]]:
    """Enclose the smallest singular value of a layer at its size by the Gram matrix of each of its groups.

    Parameters
    ----------
    problem : Problem
        Of a kernel (1, *shape) in torch's order.

    Returns
    -------
    bounds : SmallestBounds
    witness : arrays, shapes (1, outputs), (1, inputs) and (1, *shape)
        Unit vectors u and v with ``<u, A v>`` the singular value, and its gradient.
    """
    xp, kernel, groups = ops.xp, problem.kernel, problem.spec.groups
    single, plan = of_one_group(problem.spec), own_plan(problem.spec)
    parts = xp.reshape(kernel, (groups, kernel.shape[1] // groups, *kernel.shape[2:]))
    each = []
    for group in range(groups):
        layer = Convolution(parts[group : group + 1, ...], single, ops=ops)
        gram = LayerGram(layer, plan, ops=ops)
        values, vectors = xp.linalg.eigh(gram.matrix.diagonal[0, 0, ...])
        vector = to_layer(vectors[None, None, :, 0], single, plan, xp=xp)
        (upper,), image = smallest_quotients(layer, vector, ops=ops)
        (lower,) = gram.smallest_near(ops.to_numpy(values[:1]), float(values[-1]))
        is_left = has_fewer_rows(single) is not single.transposed
        u, v = (vector, image) if is_left else (image, vector)
        each.append((lower, upper, group, layer, u, v))
    lower, upper = smallest_of_groups(problem.spec, [(low, high) for low, high, *_ in each])
    _, _, group, layer, u, v = min(each, key=lambda x: float(x[1]))
    index = ops.from_numpy(np.asarray([group], dtype=np.int64), kernel)

    def among_groups(x: Array) -> Array:
        """One group's part (1, ...) as one of (1, groups, ...), the others zero."""
        return arrays.one_hot(x, index, groups, xp=xp)

    gradient = xp.reshape(among_groups(layer.kernel_gradient(u, v)[:, 0, ...]), kernel.shape)
    whole_u, whole_v = (xp.reshape(among_groups(x[:, 0, :]), (1, -1)) for x in (u, v))
    is_zero = lower.value == 0 and not upper.value**2 > TUNING.resolved * float(xp.max(xp.abs(kernel))) ** 2
    return SmallestBounds(lower, upper, None, 0, 0, is_zero), (whole_u, whole_v, gradient)
