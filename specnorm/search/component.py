"""One component of a layer at its size: its groups, and how a bound of some of them becomes one of the layer.

Each function gives bounds that are proven; which is called when is up to `search.layer`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import nothing
from specnorm.certified.layer.circulant import padded_norm, reads_zeros, shortest
from specnorm.certified.layer.components import PolyphaseComponent, norm_of_groups, norm_of_restriction
from specnorm.certified.layer.own_matrix import quotients
from specnorm.certified.matrices.block_tridiagonal import of_one_group, plans
from specnorm.numerics.block_lanczos import Plan, top_vectors
from specnorm.numerics.power import composed
from specnorm.problem.layer_map import Convolution, shapes_of
from specnorm.result import BoundSource
from specnorm.search import tuning as knobs
from specnorm.search.circulants import away_from, bound_by_circulants
from specnorm.search.deflated import DeflatedCirculant
from specnorm.search.lanczos_bound import enclose_by_matrix
from specnorm.search.layer_bounds import LayerBounds, LayerTuning
from specnorm.search.open_groups import open_groups
from specnorm.search.plane_wave import WaveSum, windowed_wave

if TYPE_CHECKING:
    from specnorm.certified.bound import Lower, Upper
    from specnorm.numerics.power import LinearMap
    from specnorm.problem.spec import ConvSpec
    from specnorm.search.branch_and_bound import Search
    from specnorm.search.result import Problem, SearchResult
    from specnorm.search.supremum import Supremum
    from specnorm.types import Array, ArrayOps


class ComponentSearch:
    """The groups of one layer that is no sum of others, and what the attempts to bound their norm share."""

    def __init__(
        self,
        problem: Problem,
        component: PolyphaseComponent,
        supremum: Supremum,
        tuning: LayerTuning,
        *,
        ops: ArrayOps,
    ) -> None:
        self.problem, self.component, self.supremum, self.tuning = problem, component, supremum, tuning
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
        return self.plan.work * self.groups <= self.tuning.at_once

    @property
    def is_plain(self) -> bool:
        """Whether circulants can be deflated: no stride, and no tolerance for which too many waves would go."""
        return set(self.spec.stride) == {1} and self.rtol >= self.tuning.deflated_down_to

    @property
    def one_circulant(self) -> bool:
        """Whether something else will come close enough where the best circulant does not."""
        return self.is_plain or (self._fits and self.plan.work * self.groups <= self.tuning.soon)

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
        few = len(self.open_groups(bounds)) <= self.tuning.deflated_groups
        return self.work(bounds) > self.tuning.deflated_from and few and self.fewest is not None

    def deflated(self, bounds: LayerBounds) -> list[DeflatedCirculant]:
        """The circulant of each open group; none where blocks are not those of the layer without its dilation."""
        if self.problem.clock.expired or not self.deflates(bounds):
            return []
        if self._deflated is None:
            self._deflated = self._deflations(self.open_groups(bounds))
        return self._deflated

    def _deflations(self, rest: np.ndarray) -> list[DeflatedCirculant]:
        strided = set(self.spec.stride) != {1}
        dilated = strided and set(self.problem.spec.dilation) != {1}
        blocks = self.supremum.blocks() if strided else self.parts
        fewest = shortest(self.single)
        circulant = away_from([self.whole], fewest, tuple(blocks.shape[3:]), [])
        short = circulant is None or any(n < least for n, least in zip(circulant.points, fewest, strict=True))
        if circulant is None or short or dilated or self.whole.upper is None:
            return []
        given = (self.single, circulant, self.whole.upper, self.search)
        return [DeflatedCirculant(blocks[at : at + 1, ...], *given, at, ops=self.ops) for at in rest.tolist()]

    def lowered(self, bounds: LayerBounds, uppers: list[Upper | None]) -> LayerBounds:
        """With the bounds of the open groups, if each has one, and the largest is lower."""
        proven = [upper for upper in uppers if upper is not None]
        if len(proven) < len(uppers) or self._open is None:
            return bounds
        return bounds.with_upper(norm_of_groups(self.spec, proven, self._open[1]), BoundSource.CIRCULANT)

    # -- bounds ------------------------------------------------------------------------------------------------------
    def near_supremum(self, steps: int, applied: float) -> LayerBounds:
        """From below near the wave of the supremum, which is the upper bound; of a large layer in a restriction."""
        xp, tuning, channels, block = self.xp, self.tuning, max(self.single.stored_channels), self.whole.block
        kernel, upper = self.parts[block : block + 1, ...], self.padded(self.whole.upper)
        plain, angles = reads_zeros(self.spec) and set(self.spec.stride) == {1}, self.whole.frequency.angles[0]
        restriction = self.component.restricted(applied / (max(steps, 1) * channels))
        nowhere = witness_shapes(self.problem.spec, self.tuning) == ((0,), (0,))
        if plain and nowhere and (self.rtol >= 1e-3 or restriction is not self.component):
            quotient, gradient = WaveSum(kernel, self.single, angles, ops=self.ops).bound()
            lower = norm_of_restriction(self.component, self.component, quotient)
            empty = xp.zeros((1, 0), dtype=kernel.dtype, device=self.ops.device(kernel))
            gradient = xp.reshape(self._among_groups(gradient, block), self.problem.kernel.shape)
            return LayerBounds(lower, upper, empty, empty, gradient, BoundSource.SUPREMUM)
        sizes = [x.pixels for x, k in zip(self.component.parts, self.spec.kernel_shape, strict=True) if k > 1]
        sums = plain and min(sizes, default=0) >= tuning.waves
        if sums and steps == tuning.steps:
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
            trial = xp.astype(kernel, xp.float32) if self.rtol >= 1e-3 and steps <= tuning.closer else kernel
            there, back = self._maps(Convolution(trial, single, budget=budget, ops=self.ops))
            plan, start = Plan(steps, 0, min(1e-6, self.rtol / 100)), xp.astype(vectors, trial.dtype)
            size = vectors.shape[2]
            vectors, _ = top_vectors(composed(there, back), trial, size, 1, plan, start=start, ops=self.ops)
            vectors = xp.astype(vectors, kernel.dtype)
        (lower,), images = quotients(layer, vectors, single.transposed, ops=self.ops)
        u, v = (vectors, images) if single.transposed else (images, vectors)
        return self.bounds_of(lower, upper, layer, u[:, 0, :], v[:, 0, :], block, restriction, BoundSource.SUPREMUM)

    def by_circulants(self, bounds: LayerBounds, *, only_one: bool) -> LayerBounds:
        """By the circulants of the layer, or the best of them alone."""
        if self.fewest is None:
            return bounds
        limits: dict[str, Any] = {"lower": bounds.lower.value, "rtol": self.rtol, "max_cells": self.problem.max_cells}
        upper, cells, levels = bound_by_circulants(
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
        inputs, outputs = witness_shapes(self.problem.spec, self.tuning)
        pixels, lines = [x.pixel for x in restriction.parts], [x.output for x in restriction.parts]
        whole_u = self._placed(u, group, layer.shapes[1], outputs, pixels if self.spec.transposed else lines)
        whole_v = self._placed(v, group, layer.shapes[0], inputs, lines if self.spec.transposed else pixels)
        return LayerBounds(lower, upper, whole_u, whole_v, gradient, source)

    # -- vectors -----------------------------------------------------------------------------------------------------
    def _maps(self, layer: Convolution) -> tuple[LinearMap, LinearMap]:
        """From the large side to the small one, and back."""
        return (layer.adjoint, layer.apply) if self.single.transposed else (layer.apply, layer.adjoint)

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


def no_bounds(problem: Problem, spec: ConvSpec, tuning: LayerTuning, *, ops: ArrayOps) -> LayerBounds:
    """Of a layer, or of one of its components, of which nothing is known yet."""
    xp, kernel = ops.xp, problem.kernel
    u, v = (
        xp.zeros((1, math.prod(shape)), dtype=kernel.dtype, device=ops.device(kernel))
        for shape in reversed(witness_shapes(problem.spec, tuning))
    )
    return LayerBounds(nothing(spec), None, u, v, xp.zeros_like(kernel), BoundSource.MATRIX)


def witness_shapes(spec: ConvSpec, tuning: LayerTuning) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the layer's input and output; (0,) where they are too large for their vectors to be given."""
    inputs, outputs = shapes_of(spec)
    fits = math.prod(inputs) + math.prod(outputs) <= tuning.witness
    return (inputs, outputs) if fits else ((0,), (0,))
