"""Proven bounds of a layer's norm at one input size, any geometry: a list of attempts, from the cheapest.

From below by a sum of waves, or by Lanczos on the layer. From above by the first that comes close enough: the supremum
over all sizes, circulants (zero padding), a circulant without its highest waves, the layer's own Gram matrix. Small
layers have the last one done at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import finite, greatest, least, nothing
from specnorm.certified.layer.circulant import padded_norm, reads_zeros, shortest
from specnorm.certified.layer.components import (
    PolyphaseComponent,
    norm_of_groups,
    norm_of_restriction,
    norms_of_parts,
    norms_of_patch,
    polyphase_components,
)
from specnorm.certified.layer.own_matrix import LayerGram, quotients
from specnorm.certified.matrices import norms
from specnorm.certified.matrices.block_tridiagonal import of_one_group, plans, to_layer
from specnorm.certified.symbol.cells import torus
from specnorm.certified.symbol.symbols import Symbol
from specnorm.numerics.lanczos import Plan, top_vectors
from specnorm.numerics.power import composed
from specnorm.problem import polyphase
from specnorm.problem.frequencies import coarse_grid, half_grid
from specnorm.problem.layer_map import Convolution
from specnorm.problem.taps import shapes_of
from specnorm.result import BoundSource
from specnorm.search import tuning as knobs
from specnorm.search.branch_and_bound import Search
from specnorm.search.circulants import DeflatedCirculant, away_from, bound_by_circulant
from specnorm.search.constant import SMALLEST, enclose_matrices
from specnorm.search.enclosing import search_torus
from specnorm.search.plane_wave import WaveSum, windowed_wave
from specnorm.search.result import Bounds, Problem

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Lower, Upper
    from specnorm.certified.matrices.block_tridiagonal import BlockPlan
    from specnorm.clock import Clock
    from specnorm.numerics.power import LinearMap
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import BoundSource
    from specnorm.search.branch_and_bound import Search
    from specnorm.search.result import Problem, SearchResult
    from specnorm.types import ArrayOps


@dataclass(frozen=True, eq=False)
class LayerBounds(Bounds):
    """Two proven bounds of ``||A||``.

    Parameters
    ----------
    u, v : arrays, shapes (1, outputs) and (1, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding; empty where they are too large.
    gradient : array, shape (1, *shape)
        Of ``<u, A v>`` with respect to the kernel.
    bound_source : BoundSource
        Of the upper bound.
    cells, levels : int
        Of all searches.
    """

    u: Array
    v: Array
    gradient: Array
    bound_source: BoundSource
    cells: int = 0
    levels: int = 0

    def intersect(self, other: LayerBounds) -> LayerBounds:
        """The better of both bounds of one layer."""
        low = self if greatest(self.lower, other.lower) is self.lower else other
        bounds = self.with_upper(other.upper, other.bound_source)
        cells, levels = self.cells + other.cells, self.levels + other.levels
        return LayerBounds(low.lower, bounds.upper, low.u, low.v, low.gradient, bounds.bound_source, cells, levels)

    def with_upper(self, upper: Upper | None, source: BoundSource) -> LayerBounds:
        """With another upper bound, if that is lower."""
        known = [bound for bound in (self.upper, upper) if bound is not None]
        if not known or least(*known) is self.upper:
            return self
        return replace(self, upper=upper, bound_source=source)


class LayerTuning(NamedTuple):
    """Effort for a layer at its size. It decides on time and on how wide the interval is."""

    at_once: float = 3e6
    """Multiplications of a proof by the layer's own matrix up to which nothing else is tried: a search takes longer."""
    soon: float = 2e9
    """Those up to which it is tried after one circulant: less than a second."""
    work: float = 3e10
    """Those up to which it is tried where nothing else came close enough: some seconds."""
    second: float = 1e10
    """Multiplications in a second: what takes longer than is left is not begun."""
    deflated_from: float = 2e8
    """Those from which a circulant is deflated first."""
    deflated_groups: int = 12
    """Groups up to which a circulant is deflated for each."""
    deflated_down_to: float = 1e-4
    """Tolerance: for a smaller one too many waves would have to be taken out."""
    steps: int = 4
    """Lanczos steps from a plane wave at the best frequency. The wave alone is within 1e-4 to 4e-3 of the norm on
    trained layers at 32 pixels an axis, after four steps within 1e-6 to 4e-4, after eight within 1e-7 to 1e-4."""
    waves: int = 24
    """Pixels an axis from which a sum of waves takes the place of these steps: it is as close."""
    closer: int = 10
    """Steps where few waves taken out of a circulant are not enough."""
    more: int = 48
    """Steps where the bounds are still apart, or closer ones are asked for."""
    applied: float = 2.0**21
    """Pixels times channels times steps at most; of a larger layer a restriction is taken, which loses the less the
    larger it is: by the square of its inverse size."""
    again: float = 2.0
    """Times as much where the bounds are still apart."""
    witness: int = 2**23
    """Inputs and outputs up to which the vectors are given."""
    near: float = 0.3
    """Part of the tolerance that a layer may be below its supremum, as most are, for the supremum to be enough."""
    loose: float = 0.01
    """Tolerance of the supremum where the layer is farther below. Wider ones leave the circulant more frequencies than
    they save."""
    below: float = 0.97
    """Part of the layer's norm up to which estimates of a group's norm count as lower."""
    tries: int = 6
    """Proofs that some groups are lower, each without one more group."""
    matrix_steps: int = 400
    """Lanczos steps on a layer's own matrix: its proof is tried near the lower bound, and fails unless that has
    converged."""
    matrix_more: int = 1600
    """Steps after a proof that failed, where the matrix has several blocks."""
    matrix_wider: tuple[float, ...] = (0.5, 2.0, 8.0, 32.0)
    """Tolerances, in those asked for, that are tried then."""


TUNING = LayerTuning()
_FEW_TAPS = 32
"""Of scalar symbols that are estimated on a grid twice as fine."""


def enclose_layer(problem: Problem, *, ops: ArrayOps) -> LayerBounds:
    """Enclose the norm of a layer with at least one axis, at ``spec.input_shape``, whatever its geometry."""
    whole = Supremum(problem, ops=ops)
    components = polyphase_components(problem.spec)
    parts = [_enclose(ComponentSearch(problem, component, whole, ops=ops)) for component in components]
    if not parts:
        zero = no_bounds(problem, problem.spec, ops=ops)
        return replace(zero, upper=norms_of_parts(problem.spec, [])[1])
    return _direct_sum(problem.spec, parts)


def _enclose(layer: ComponentSearch) -> LayerBounds:
    """Each attempt in its order until the bounds are close enough; one that is not affordable changes nothing."""
    bounds = no_bounds(layer.problem, layer.spec, ops=layer.ops)
    for attempt in ATTEMPTS:
        if bounds.within(layer.rtol):
            break
        bounds = attempt(layer, bounds)
    return bounds


def _direct_sum(spec: ConvSpec, parts: list[LayerBounds]) -> LayerBounds:
    low, high = max(parts, key=lambda x: x.lower.value), max(parts, key=lambda x: finite(x.upper))
    cells, levels = (max(getattr(x, name) for x in parts) for name in ("cells", "levels"))
    lower, upper = norms_of_parts(spec, [(x.lower, x.upper) for x in parts])
    return LayerBounds(lower, upper, low.u, low.v, low.gradient, high.bound_source, cells, levels)


def patch(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """A layer with one output (transposed: input) an axis is the matrix of the taps that it reads, if none is small."""
    parts = layer.component.parts
    if not reads_zeros(layer.spec) or any(x.outputs > 1 for x in parts):
        return bounds
    first, second = layer.parts.shape[1:3]
    if min(first, second * int(np.prod([x.pixels for x in parts]))) < SMALLEST:
        return bounds
    taps = layer.parts[(..., *(slice(x.before, x.before + x.pixels) for x in parts))]
    matrix = layer.xp.reshape(taps, (*taps.shape[:2], -1))
    found = enclose_matrices(matrix, layer.rtol, ops=layer.ops)
    if found.upper is None or not found.within(layer.rtol):
        return bounds
    one = Convolution(layer.parts[found.index : found.index + 1, ...], layer.single, ops=layer.ops)
    u, v = (found.v, found.u) if layer.spec.transposed else (found.u, found.v)
    lower, upper = norms_of_patch(layer.component, found.lower, found.upper)
    return layer.bounds_of(lower, upper, one, u, v, found.index, layer.component, BoundSource.MATRIX)


def small_matrix(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """The layer's own matrix at once, where that is less work than a search."""
    if not layer.is_small:
        return bounds
    return bounds.intersect(layer.by_matrix(np.arange(layer.groups), bounds.lower.value))


def near_supremum(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """From above the supremum over all sizes; from below a wave near its frequency, in few steps if rtol is loose."""
    steps = TUNING.steps if layer.rtol >= 1e-3 else TUNING.more
    return layer.by_supremum(bounds.intersect(layer.near_supremum(steps, TUNING.applied)))


def best_circulant(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """The circulant whose frequencies are farthest from the maximum; its own norm too, unless something follows."""
    if layer.fewest is None or layer.problem.clock.expired:
        return bounds
    return layer.by_circulant(bounds, only_one=layer.one_circulant)


def few_waves(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """A circulant of each open group without its few highest waves, which are met with the pixels."""
    return _deflation(layer, bounds, first=True)


def more_steps(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """From below: more steps on the whole layer, if all of it fits, before more waves are taken out.

    In a restriction of a larger layer they come no closer than the waves on all of it.
    """
    most = TUNING.again * TUNING.applied
    fits = layer.size * TUNING.closer <= most
    if not (fits and layer.is_plain and layer.rtol >= 1e-3 and layer.deflated(bounds)):
        return bounds
    return bounds.intersect(layer.near_supremum(TUNING.closer, most))


def many_waves(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """As `few_waves`, with as many as it takes, and wider bounds."""
    return bounds if layer.rtol < 1e-3 else _deflation(layer, bounds, first=False)


def _deflation(layer: ComponentSearch, bounds: LayerBounds, *, first: bool) -> LayerBounds:
    if not layer.is_plain:
        return bounds
    limits = (bounds.lower.value, layer.closeness, layer.problem.clock)
    uppers = [x.upper(*limits, first=first) for x in layer.deflated(bounds)]
    return layer.lowered(bounds, uppers) if uppers else bounds


def own_matrix(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """The open groups' own matrices, in some seconds, if they were not tried at once."""
    most = min(TUNING.work, TUNING.second * max(layer.problem.clock.left, 0.0))
    if layer.is_small or layer.problem.clock.expired or layer.work(bounds) > most:
        return bounds
    return bounds.intersect(layer.by_matrix(layer.open_groups(bounds), bounds.lower.value))


def refined_supremum(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """The supremum as closely as was asked for, where it is known less closely since a circulant was to follow."""
    if not layer.supremum.is_loose or layer.problem.clock.expired:
        return bounds
    return bounds.with_upper(layer.padded(layer.supremum.refine()), BoundSource.SUPREMUM)


ATTEMPTS: tuple[Callable[[ComponentSearch, LayerBounds], LayerBounds], ...] = (
    patch,
    small_matrix,
    near_supremum,
    best_circulant,
    few_waves,
    more_steps,
    few_waves,
    many_waves,
    own_matrix,
    refined_supremum,
)
"""In this order, until the bounds are close enough."""


class ComponentSearch:
    """The groups of one layer that is no sum of others, and what the attempts to bound their norm share."""

    def __init__(self, problem: Problem, component: PolyphaseComponent, supremum: Supremum, *, ops: ArrayOps) -> None:
        self.problem, self.component, self.supremum = problem, component, supremum
        self.ops, self.xp = ops, ops.xp
        self.spec, self.rtol, self.groups = component.spec, problem.rtol, problem.spec.groups
        self.single = of_one_group(component.spec)
        self.closeness = knobs.TUNING.share * problem.rtol
        kernel = problem.kernel
        self.parts = self.xp.reshape(kernel, (self.groups, kernel.shape[1] // self.groups, *kernel.shape[2:]))
        self.plan = min(plans(self.single), key=lambda plan: (plan.memory > ops.memory, plan.work))
        self._open: tuple[np.ndarray, Upper | None] | None = None
        self._deflated: list[DeflatedCirculant] | None = None

    # -- what is affordable ------------------------------------------------------------------------------------------
    @property
    def is_small(self) -> bool:
        """Whether the layer's own matrix is less work than a search."""
        return self.plan.work * self.groups <= TUNING.at_once

    @property
    def is_plain(self) -> bool:
        """Whether circulants can be deflated: no stride, and no tolerance for which too many waves would go."""
        return set(self.spec.stride) == {1} and self.rtol >= TUNING.deflated_down_to

    @property
    def one_circulant(self) -> bool:
        """Whether something else will come close enough where the best circulant does not."""
        return self.is_plain or (self._fits and self.plan.work * self.groups <= TUNING.soon)

    @property
    def _fits(self) -> bool:
        return self.plan.memory <= self.ops.memory

    @property
    def size(self) -> int:
        """Pixels times channels."""
        return max(self.single.stored_channels) * math.prod(x.pixels for x in self.component.parts)

    @property
    def fewest(self) -> tuple[int, ...] | None:
        """Points of the shortest circulant; one where the symbol does not move, None if that is everywhere."""
        return fewest_points(self.spec, self.search) if reads_zeros(self.spec) else None

    # -- the supremum over all sizes ---------------------------------------------------------------------------------
    @property
    def search(self) -> Search:
        """That found the supremum."""
        return self.supremum()[0]

    @property
    def whole(self) -> SearchResult:
        """The supremum."""
        return self.supremum()[1]

    def padded(self, supremum: Upper | None) -> Upper | None:
        """A bound of the layer."""
        return None if supremum is None else padded_norm(supremum, self.spec)

    def by_supremum(self, bounds: LayerBounds) -> LayerBounds:
        """With the supremum, and what its search took."""
        cells, levels = bounds.cells + self.whole.cells, bounds.levels + self.whole.levels
        return replace(bounds, cells=cells, levels=levels).with_upper(
            self.padded(self.whole.upper), BoundSource.SUPREMUM
        )

    # -- groups ------------------------------------------------------------------------------------------------------
    def open_groups(self, bounds: LayerBounds) -> np.ndarray:
        """Groups that were not proven to be below the layer when that was first asked."""
        if self._open is None:
            # Of padding that repeats pixels, a group's norm may be larger than that of its symbol.
            target = bounds.lower.value / math.sqrt(self.spec.padding_gain_sq)
            limits: dict[str, Any] = {"max_cells": self.problem.max_cells, "clock": self.problem.clock}
            self._open = open_groups(self.search.blocks, target, **limits, ops=self.ops)
        return self._open[0]

    def work(self, bounds: LayerBounds) -> float:
        """Multiplications of a proof by the matrices of the open groups."""
        rest = self.open_groups(bounds)
        return self.plan.work * len(rest) if self._fits else math.inf

    def deflates(self, bounds: LayerBounds) -> bool:
        """Whether a circulant of each open group is deflated before others are tried, or the layer's own matrix."""
        few = len(self.open_groups(bounds)) <= TUNING.deflated_groups
        return self.work(bounds) > TUNING.deflated_from and few and self.fewest is not None

    def deflated(self, bounds: LayerBounds) -> list[DeflatedCirculant]:
        """The circulant of each open group."""
        if self.problem.clock.expired or not self.deflates(bounds):
            return []
        if self._deflated is None:
            self._deflated = self._deflations(self.open_groups(bounds))
        return self._deflated

    def _deflations(self, rest: np.ndarray) -> list[DeflatedCirculant]:
        fewest = shortest(self.single)
        circulant = away_from(self.whole, fewest, self.spec.kernel_shape)
        short = any(n < least for n, least in zip(circulant.points, fewest, strict=True))
        if short or self.whole.upper is None:
            return []
        given = (self.single, circulant, self.whole.upper, self.search)
        clock = self.problem.clock
        return [
            DeflatedCirculant(self.parts[at : at + 1, ...], *given, at, clock=clock, ops=self.ops)
            for at in rest.tolist()
        ]

    def lowered(self, bounds: LayerBounds, uppers: list[Upper | None]) -> LayerBounds:
        """With the bounds of the open groups, if each has one, and the largest is lower."""
        proven = [upper for upper in uppers if upper is not None]
        if len(proven) < len(uppers) or self._open is None:
            return bounds
        return bounds.with_upper(norm_of_groups(self.spec, proven, self._open[1]), BoundSource.CIRCULANT)

    # -- bounds ------------------------------------------------------------------------------------------------------
    def near_supremum(self, steps: int, applied: float) -> LayerBounds:
        """From below near the wave of the supremum, which is the upper bound; of a large layer in a restriction."""
        xp, channels, block = self.xp, max(self.single.stored_channels), self.whole.block
        kernel, upper = self.parts[block : block + 1, ...], self.padded(self.whole.upper)
        plain, angles = reads_zeros(self.spec) and set(self.spec.stride) == {1}, self.whole.frequency.angles[0]
        restriction = self.component.restricted(applied / (max(steps, 1) * channels))
        nowhere = witness_shapes(self.problem.spec) == ((0,), (0,))
        if plain and nowhere and (self.rtol >= 1e-3 or restriction is not self.component):
            quotient, gradient = WaveSum(kernel, self.single, angles, ops=self.ops).bound()
            lower = norm_of_restriction(self.component, self.component, quotient)
            empty = xp.zeros((1, 0), dtype=kernel.dtype, device=self.ops.device(kernel))
            gradient = xp.reshape(self._among_groups(gradient, block), self.problem.kernel.shape)
            return LayerBounds(lower, upper, empty, empty, gradient, BoundSource.SUPREMUM)
        sizes = [x.pixels for x, k in zip(self.component.parts, self.spec.kernel_shape, strict=True) if k > 1]
        sums = plain and min(sizes, default=0) >= TUNING.waves
        if sums and steps == TUNING.steps:
            steps = 0
        restriction = self.component.restricted(applied / (max(steps, 1) * channels))
        single = of_one_group(restriction.spec)
        # Patches are copied once or twice on the way.
        budget = self.ops.memory // 4
        layer = Convolution(kernel, single, budget=budget, ops=self.ops)
        if sums:
            vectors = WaveSum(kernel, single, angles, ops=self.ops).vector()
        else:
            vectors = windowed_wave(kernel, single, angles, ops=self.ops)
        if steps > 0 and not self.problem.clock.expired:
            # What is proven is a quotient of the vector, however it was found: float32 does for most of the way.
            trial = xp.astype(kernel, xp.float32) if self.rtol >= 1e-3 and steps <= TUNING.closer else kernel
            tried = Convolution(trial, single, budget=budget, ops=self.ops)
            # From the large side to the small one, and back.
            there, back = (tried.adjoint, tried.apply) if single.transposed else (tried.apply, tried.adjoint)
            plan, start = Plan(steps, 0, min(1e-6, self.rtol / 100)), xp.astype(vectors, trial.dtype)
            size = vectors.shape[2]
            vectors, _ = top_vectors(composed(there, back), trial, size, 1, plan, start=start, ops=self.ops)
            vectors = xp.astype(vectors, kernel.dtype)
        (lower,), images = quotients(layer, vectors, single.transposed, ops=self.ops)
        u, v = (vectors, images) if single.transposed else (images, vectors)
        return self.bounds_of(lower, upper, layer, u[:, 0, :], v[:, 0, :], block, restriction, BoundSource.SUPREMUM)

    def by_circulant(self, bounds: LayerBounds, *, only_one: bool) -> LayerBounds:
        """By a circulant of the layer."""
        if self.fewest is None:
            return bounds
        limits: dict[str, Any] = {"lower": bounds.lower.value, "rtol": self.rtol, "max_cells": self.problem.max_cells}
        upper, cells, levels = bound_by_circulant(
            self.spec, self.search, self.whole, self.fewest, **limits, only_one=only_one
        )
        bounds = replace(bounds, cells=bounds.cells + cells, levels=bounds.levels + levels)
        return bounds.with_upper(upper, BoundSource.CIRCULANT)

    def by_matrix(self, groups: np.ndarray, lower: float) -> LayerBounds:
        """Of the largest norm of the open groups, or of all; of one below ``lower`` no more is proven."""
        kernels = arrays.rows(self.parts, groups, ops=self.ops)
        found = enclose_by_matrix(kernels, self.single, self.plan, rtol=self.rtol, lower=lower, ops=self.ops)
        best = max(range(len(groups)), key=lambda j: found.lower[j].value)
        layer = Convolution(kernels[best : best + 1, ...], self.single, ops=self.ops)
        u, v = (x[best : best + 1, :] for x in (found.u, found.v))
        proven = [upper for upper in found.upper if upper is not None]
        others = None if self._open is None else self._open[1]
        upper = norm_of_groups(self.spec, proven, others) if len(proven) == len(groups) else None
        return self.bounds_of(
            found.lower[best], upper, layer, u, v, int(groups[best]), self.component, BoundSource.MATRIX
        )

    def bounds_of(
        self,
        lower: Lower,
        upper: Upper | None,
        layer: Convolution,
        u: Array,
        v: Array,
        group: int,
        restriction: PolyphaseComponent,
        source: BoundSource,
    ) -> LayerBounds:
        """With the witness and the gradient of one group on a restriction as those of the whole layer."""
        xp = self.xp
        lower = norm_of_restriction(self.component, restriction, lower)
        gradient = layer.kernel_gradient(u[:, None, :], v[:, None, :])[:, 0, ...]
        gradient = xp.reshape(self._among_groups(gradient, group), self.problem.kernel.shape)
        inputs, outputs = witness_shapes(self.problem.spec)
        pixels, lines = [x.pixel for x in restriction.parts], [x.output for x in restriction.parts]
        whole_u = self._placed(u, group, layer.shapes[1], outputs, pixels if self.spec.transposed else lines)
        whole_v = self._placed(v, group, layer.shapes[0], inputs, lines if self.spec.transposed else pixels)
        return LayerBounds(lower, upper, whole_u, whole_v, gradient, source)

    # -- vectors -----------------------------------------------------------------------------------------------------
    def _among_groups(self, x: Array, group: int) -> Array:
        """One group's part (1, ...) as one of (1, groups, ...), the others zero."""
        index = self.ops.from_numpy(np.asarray([group], dtype=np.int64), x)
        return arrays.one_hot(x, index, self.groups, xp=self.xp)

    def _placed(
        self, x: Array, group: int, shape: tuple[int, ...], whole: tuple[int, ...], at: list[tuple[int, int]]
    ) -> Array:
        """A vector (1, n) of a group's part, as one of the whole layer; empty where that is too large to be given."""
        if whole == (0,):
            return x[:, :0]
        full = self.xp.zeros(whole, dtype=x.dtype, device=self.ops.device(x))
        sizes = shape[1:]
        where = tuple(
            slice(first, first + step * (n - 1) + 1, step) for (first, step), n in zip(at, sizes, strict=True)
        )
        channels = slice(group * shape[0], (group + 1) * shape[0])
        full[(channels, *where)] = self.xp.reshape(x, shape)
        return self.xp.reshape(full, (1, -1))


def fewest_points(spec: ConvSpec, search: Search) -> tuple[int, ...] | None:
    """Points of the shortest circulant; one where the symbol does not move, None if that is everywhere."""
    kernel_shape = search.blocks.shape[3:]
    fewest = tuple(1 if k == 1 else n for n, k in zip(shortest(spec), kernel_shape, strict=True))
    return None if all(k == 1 for k in kernel_shape) else fewest


def no_bounds(problem: Problem, spec: ConvSpec, *, ops: ArrayOps) -> LayerBounds:
    """Of a layer, or of one of its components, of which nothing is known yet."""
    xp, kernel = ops.xp, problem.kernel
    u, v = (
        xp.zeros((1, math.prod(shape)), dtype=kernel.dtype, device=ops.device(kernel))
        for shape in reversed(witness_shapes(problem.spec))
    )
    return LayerBounds(nothing(spec), None, u, v, xp.zeros_like(kernel), BoundSource.MATRIX)


def witness_shapes(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the layer's input and output; (0,) where they are too large for their vectors to be given."""
    inputs, outputs = shapes_of(spec)
    fits = math.prod(inputs) + math.prod(outputs) <= TUNING.witness
    return (inputs, outputs) if fits else ((0,), (0,))


class Supremum:
    """The supremum over all sizes, and the search it was found by, once they are asked for.

    Attributes
    ----------
    is_loose : bool
        Whether it is known less closely than was asked for: at this size the layer will be far below it, and a
        circulant that is searched anyway needs no more than a bound.
    """

    def __init__(self, problem: Problem, *, ops: ArrayOps) -> None:
        self._problem, self._ops = problem, ops
        # The kernel is in torch's order already.
        self._everywhere = replace(problem.spec, input_shape=None, layout=None)
        self._found: tuple[Search, SearchResult] | None = None
        self.is_loose = False

    def __call__(self) -> tuple[Search, SearchResult]:
        """As closely as what follows needs it."""
        if self._found is None:
            problem, blocks = self._problem, self.blocks()
            constant = all(k == 1 for k in blocks.shape[3:])
            rtol = problem.rtol if constant or not reads_zeros(problem.spec) else self._tolerance()
            self.is_loose = rtol > problem.rtol
            self._found = self._search(rtol)
        return self._found

    def refine(self) -> Upper | None:
        """To the tolerance that was asked for."""
        return self._search(self._problem.rtol)[1].upper

    def _search(self, rtol: float) -> tuple[Search, SearchResult]:
        problem, blocks = self._problem, self.blocks()
        given = Problem(blocks, self._everywhere, rtol, problem.max_cells, problem.clock)
        return search_torus(given, ops=self._ops)

    def blocks(self) -> Array:
        """Of the whole layer, as they are searched."""
        return polyphase.to_blocks(self._problem.kernel, self._everywhere, xp=self._ops.xp)

    def _tolerance(self) -> float:
        """So that the supremum of a large layer needs nothing after it, if the layer is as near as most."""
        spec, rtol = self._problem.spec, self._problem.rtol
        parts = [x for component in polyphase_components(spec) for x in component.parts]
        apart = sum(
            ((k - 1) * math.pi / max(1, min(x.pixels for x in parts[j :: spec.ndim]))) ** 2 / 24
            for j, k in enumerate(spec.kernel_shape)
        )
        if apart > rtol:
            return max(rtol, TUNING.loose)
        near = apart if apart < TUNING.near * rtol else 0.0
        return max(0.97 * rtol - near, (1 - TUNING.near) * 1e-3)


def open_groups(
    blocks: Array, bound: float, *, max_cells: int, clock: Clock, ops: ArrayOps
) -> tuple[np.ndarray, Upper | None]:
    """Groups whose supremum over all frequencies is not proven to be at most a bound, and what bounds the others'.

    Parameters
    ----------
    blocks : array, shape (groups, m, p, *kernel_shape)
        Scaled to about 1.
    max_cells : int
        Budget of each search.
    clock : Clock
        Ends the searches.

    Returns
    -------
    rest : integer array
        Numbers of the groups that are not proven to be lower.
    others : Upper or None
        Of the supremum of all others; None if there are none.
    """
    every, kernel_shape = np.arange(blocks.shape[0]), tuple(blocks.shape[3:])
    if len(every) == 1 or not bound > 0:
        return every, None
    grid = coarse_grid(kernel_shape)
    if min(blocks.shape[1:3]) == 1 and math.prod(kernel_shape) <= _FEW_TAPS:
        grid = half_grid([1 if k == 1 else 4 * k for k in kernel_shape])  # of scalar symbols: next to nothing
    xp, symbols = ops.xp, Symbol(blocks, grid, ops=ops).matrices()
    scalar = min(blocks.shape[1:3]) == 1
    # Of scalar symbols there is nothing to factorise.
    values = xp.linalg.vector_norm(symbols, axis=(2, 3))[..., None] if scalar else xp.linalg.svdvals(symbols)
    norms = ops.to_numpy(xp.max(values, axis=(1, 2)))
    lower = np.flatnonzero(norms < TUNING.below * bound)
    for _ in range(TUNING.tries):
        if not len(lower):
            break
        search = Search(arrays.rows(blocks, lower, ops=ops), clock=clock, ops=ops)
        proven = search.run(torus(kernel_shape), bound=bound, max_cells=max_cells)
        if proven.upper is not None and proven.upper <= bound:
            return np.setdiff1d(every, lower), proven.upper
        if proven.lower <= bound:
            break
        # One of them is not lower after all.
        lower = np.delete(lower, proven.block)
    return every, None


@dataclass(frozen=True, eq=False)
class GroupBounds:
    """Proven bounds of a stack of groups.

    Parameters
    ----------
    upper : list of Upper or None
        None where there is no proof.
    u, v : arrays, shapes (b, outputs) and (b, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding.
    """

    lower: list[Lower]
    upper: list[Upper | None]
    u: Array
    v: Array


def enclose_by_matrix(
    kernels: Array, spec: ConvSpec, plan: BlockPlan, *, rtol: float, lower: float = 0.0, ops: ArrayOps
) -> GroupBounds:
    """Enclose the norms of layers of one group by Lanczos and a factorisation of their Gram matrices.

    Parameters
    ----------
    kernels : array, shape (b, first, second, *kernel_shape)
        In torch's order, scaled to about 1, with known values.
    spec : ConvSpec
        Of one group, with ``input_shape``.
    rtol : float
        Relative width asked for.
    lower : float
        Of the whole layer's norm: of a group below, no more is proven than that it is.
    """
    xp = ops.xp
    step = max(1, ops.memory // plan.memory)
    found = []
    for start in range(0, kernels.shape[0], step):
        few = kernels[start : min(start + step, kernels.shape[0]), ...]
        found.append(_Groups(few, spec, plan, ops=ops).enclose(rtol, lower))
        lower = max(lower, *(bound.value for bound in found[-1].lower))
    vectors = (xp.concat([getattr(x, name) for x in found], axis=0) for name in ("u", "v"))
    return GroupBounds([y for x in found for y in x.lower], [y for x in found for y in x.upper], *vectors)


class _Groups:
    def __init__(self, kernels: Array, spec: ConvSpec, plan: BlockPlan, *, ops: ArrayOps) -> None:
        self.kernels, self.spec, self.plan, self.ops, self.xp = kernels, spec, plan, ops, ops.xp
        self.layer = Convolution(kernels, spec, ops=ops)
        # A transposed layer's inputs are the small side.
        self.wide = plan.wide != spec.transposed
        there, back = self.layer.apply, self.layer.adjoint
        self.gram: LinearMap = composed(back, there) if self.wide else composed(there, back)

    def enclose(self, rtol: float, lower: float) -> GroupBounds:
        xp, plan = self.xp, self.plan
        vectors = self._lanczos(TUNING.matrix_steps, rtol, None)
        found, images = quotients(self.layer, vectors, self.wide, ops=self.ops)
        gram = LayerGram(self.layer, plan, ops=self.ops)
        upper = gram.norms_near(self._target(found, lower, 0.5 * rtol))
        if not self._within(upper, found, lower, rtol):
            if plan.blocks == 1:
                _, top = arrays.top_eigenpair(gram.matrix.diagonal[:, 0, :, :], xp=xp)
                top = to_layer(top[:, None, :], self.spec, plan, xp=xp)
            else:
                top = self._lanczos(TUNING.matrix_more, rtol, vectors)
            better, raised = quotients(self.layer, top, self.wide, ops=self.ops)
            pairs = list(zip(better, found, strict=True))
            higher = self.ops.from_numpy(np.asarray([x > y for x, y in pairs]), vectors)[:, None, None]
            vectors, images = (xp.where(higher, x, y) for x, y in ((top, vectors), (raised, images)))
            found = [greatest(y, x) for x, y in pairs]
            for wider in TUNING.matrix_wider:
                if self._within(upper, found, lower, rtol):
                    break
                upper = _lower_of(upper, gram.norms_near(self._target(found, lower, wider * rtol)))
            if plan.blocks == 1:
                upper = _lower_of(upper, gram.norms_near(_near_eigenvalues(gram, ops=self.ops)))
        upper = gram.or_zero(upper)
        u, v = (vectors, images) if self.wide else (images, vectors)
        return GroupBounds(found, upper, u[:, 0, :], v[:, 0, :])

    def _lanczos(self, steps: int, rtol: float, start: Array | None) -> Array:
        size = self.layer.shape[0 if self.wide else 1]
        plan = Plan(steps, 0, min(1e-6, rtol / 100))
        vectors, _ = top_vectors(self.gram, self.kernels, size, 1, plan, start=start, ops=self.ops)
        return vectors

    def _target(self, found: list[Lower], lower: float, rtol: float) -> np.ndarray:
        return np.asarray([max(x.value, lower) * (1 + rtol) for x in found])

    def _within(self, upper: list[Upper | None], found: list[Lower], lower: float, rtol: float) -> bool:
        return bool(np.all(np.asarray([finite(x) for x in upper]) <= self._target(found, lower, rtol)))


def _lower_of(one: list[Upper | None], other: list[Upper | None]) -> list[Upper | None]:
    return [y if x is None else least(x, y) for x, y in zip(one, other, strict=True)]


def _near_eigenvalues(gram: LayerGram, *, ops: ArrayOps) -> np.ndarray:
    """As close as a factorisation comes, where quotients are lost in the roundings of taps that cancel; shape (b,)."""
    xp, band = ops.xp, gram.matrix.diagonal
    values, _ = arrays.top_eigenpair(band[:, 0, :, :], xp=xp)
    # Allowance for the proof itself, as in `stacks.matrix_norm_up`, and for what the matrix is off.
    allowance = 1 + 2 * band.shape[-1] * norms.cholesky_loss(band.shape[-1], band, xp=xp)
    squared = xp.maximum(values, xp.zeros_like(values)) * allowance + gram.error
    unit = float(xp.finfo(gram.error.dtype).eps) / 2
    return np.asarray(ops.to_numpy(xp.sqrt(squared) * (1 + 32 * unit)))
