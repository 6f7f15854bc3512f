"""Proven bounds of a layer's norm at one input size, any geometry.

From below by a sum of waves, or by Lanczos on the layer. From above by the first of four that comes close enough: the
supremum over all sizes, twisted rings (zero padding), such a ring without its highest waves, the layer's own Gram
matrix. Small layers have that done at once.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from specnorm import arrays
from specnorm.certified.bound import finite, nothing
from specnorm.certified.layer.circulant import padded_norm, reads_zeros, shortest
from specnorm.certified.layer.components import (
    SubLayer,
    norm_of_groups,
    norm_of_restriction,
    norms_of_parts,
    norms_of_patch,
    sublayers,
)
from specnorm.certified.layer.own_matrix import quotients
from specnorm.certified.matrices.block_tridiagonal import of_one_group, plans
from specnorm.numerics.block_lanczos import Plan, top_vectors
from specnorm.numerics.power import composed
from specnorm.problem.layer_map import Convolution, shapes_of
from specnorm.search import tuning as knobs
from specnorm.search.circulants import away_from, bound_by_rings
from specnorm.search.compression import bound_by_subspace, most_vectors
from specnorm.search.constant import SMALLEST, enclose_matrices
from specnorm.search.deflated import SplitRing
from specnorm.search.lanczos_bound import enclose_by_matrix
from specnorm.search.layer_bounds import LayerBounds, LayerProblem, Way
from specnorm.search.layer_tuning import TUNING
from specnorm.search.one_wave import WaveSum
from specnorm.search.open_groups import open_groups
from specnorm.search.plane_wave import windowed_wave
from specnorm.search.supremum import Supremum

if TYPE_CHECKING:
    from specnorm.certified.bound import Lower, Upper
    from specnorm.numerics.power import LinearMap
    from specnorm.problem.spec import ConvSpec
    from specnorm.search.branch_and_bound import Search, SearchResult
    from specnorm.types import Array, ArrayOps


def enclose_layer(problem: LayerProblem, *, ops: ArrayOps) -> LayerBounds:
    """Enclose the norm of a layer with at least one axis, at ``spec.input_shape``, whatever its geometry."""
    whole = Supremum(problem, ops=ops)
    found = [_Layer(problem, sub, whole, ops=ops).enclose() for sub in sublayers(problem.spec)]
    if not found:
        return replace(_zero(problem, problem.spec, ops=ops), upper=norms_of_parts(problem.spec, [])[1])
    return _direct_sum(problem.spec, found)


def _direct_sum(spec: ConvSpec, parts: list[LayerBounds]) -> LayerBounds:
    """Bounds of a layer from those of its `sublayers`, at least one."""
    low, high = max(parts, key=lambda x: x.lower.value), max(parts, key=lambda x: finite(x.upper))
    cells, levels = (max(getattr(x, name) for x in parts) for name in ("cells", "levels"))
    lower, upper = norms_of_parts(spec, [(x.lower, x.upper) for x in parts])
    return LayerBounds(lower, upper, low.u, low.v, low.gradient, high.way, cells, levels)


def _zero(problem: LayerProblem, spec: ConvSpec, *, ops: ArrayOps) -> LayerBounds:
    """Of a layer, or of one of its parts, of which nothing is known yet."""
    xp, kernel = ops.xp, problem.kernel
    u, v = (
        xp.zeros((1, math.prod(shape)), dtype=kernel.dtype, device=ops.device(kernel))
        for shape in reversed(witness_shapes(problem.spec))
    )
    return LayerBounds(nothing(spec), None, u, v, xp.zeros_like(kernel), "matrix")


def witness_shapes(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the layer's input and output; (0,) where they are too large for their vectors to be given."""
    inputs, outputs = shapes_of(spec)
    fits = math.prod(inputs) + math.prod(outputs) <= TUNING.witness
    return (inputs, outputs) if fits else ((0,), (0,))


class _Layer:
    """The groups of one layer that is no sum of others, and the ways to bound their norm."""

    def __init__(self, problem: LayerProblem, sub: SubLayer, supremum: Supremum, *, ops: ArrayOps) -> None:
        self.problem, self.sub, self.supremum, self.ops, self.xp = problem, sub, supremum, ops, ops.xp
        self.spec, self.rtol, self.groups = sub.spec, problem.rtol, problem.spec.groups
        self.single = of_one_group(sub.spec)
        self.closeness = knobs.TUNING.share * problem.rtol
        kernel = problem.kernel
        self.parts = self.xp.reshape(kernel, (self.groups, kernel.shape[1] // self.groups, *kernel.shape[2:]))
        self.plan = min(plans(self.single), key=lambda plan: (plan.memory > ops.memory, plan.work))
        self._near_top: dict[int, Array] = {}
        # What bounds the groups that are proven to be lower.
        self.others: Upper | None = None

    @property
    def is_small(self) -> bool:
        """Whether the layer's own matrix is less work than a search."""
        return self.plan.work * self.groups <= TUNING.at_once

    @property
    def is_tiny(self) -> bool:
        """Whether a ring, with or without its highest waves, is known to stay apart, and a subspace not to."""
        moving = [x.pixels for x, k in zip(self.sub.parts, self.spec.kernel_shape, strict=True) if k > 1]
        plain = reads_zeros(self.spec) and set(self.spec.stride) == {1} and self.rtol >= TUNING.splits_down_to
        affordable = self.plan.work > TUNING.split and most_vectors(self.single) >= TUNING.vectors
        return plain and affordable and self.groups == 1 and min(moving, default=0) <= TUNING.tiny

    def enclose(self) -> LayerBounds:
        """Bounds by the layer's own matrix if it is of one patch, or small; else by the supremum, rings, and that."""
        patch = self._by_patch()
        if patch is not None:
            return patch
        if not self.is_small:
            return self._closely(self._enclose())
        found = self._by_matrix(np.arange(self.groups), 0.0)
        return found if found.within(self.rtol) else self._closely(found.intersect(self._enclose(tried=True)))

    def _closely(self, found: LayerBounds) -> LayerBounds:
        """With the supremum as closely as was asked for, where nothing else came close."""
        if found.within(self.rtol) or self.problem.expired or not self.supremum.is_loose:
            return found
        return found.with_upper(self._padded(self.supremum.refine()), "supremum")

    def _padded(self, supremum: Upper | None) -> Upper | None:
        return None if supremum is None else padded_norm(supremum, self.spec)

    def _enclose(self, *, tried: bool = False) -> LayerBounds:
        rtol, (search, whole) = self.rtol, self.supremum()
        if self.is_tiny:
            found = self._lanczos(whole, whole.block, self._nothing(whole))
        else:
            found = self._near(whole, TUNING.steps if rtol >= 1e-3 else TUNING.more, TUNING.applied)
        found = replace(found, cells=whole.cells, levels=whole.levels)
        if found.within(rtol):
            return found
        fewest = _fewest(self.spec, search) if reads_zeros(self.spec) else None
        plain = set(self.spec.stride) == {1} and rtol >= TUNING.splits_down_to
        affordable = self.plan.memory <= self.ops.memory
        only_one = plain or (affordable and self.plan.work * self.groups <= TUNING.soon)
        if fewest is not None and not self.is_tiny and not self.problem.expired:
            found = self._by_rings(search, whole, fewest, found, only_one=only_one)
        if found.within(rtol):
            return found
        # Of padding that repeats pixels, a group's norm may be larger than that of its symbol.
        target = found.lower.value / math.sqrt(self.spec.padding_gain_sq)
        limits: dict[str, Any] = {"max_cells": self.problem.max_cells, "deadline": self.problem.deadline}
        rest, self.others = open_groups(search.blocks, target, **limits, ops=self.ops)
        work = self.plan.work * len(rest) if affordable else math.inf
        if fewest is not None and not self.problem.expired:
            if work > TUNING.split and len(rest) <= TUNING.splits:
                found = self._by_parts_of_rings(search, whole, rest, found, plain=plain)
            elif only_one and work > TUNING.work:
                found = self._by_rings(search, whole, fewest, found, only_one=False)
        if not found.within(rtol) and work > TUNING.soon and rtol >= 1e-3 and not plain:
            found = found.intersect(self._near_closely(whole))
        if found.within(rtol) or tried or work > TUNING.work or self.problem.expired:
            return found
        return found.intersect(self._by_matrix(rest, found.lower.value))

    @property
    def _size(self) -> int:
        """Pixels times channels."""
        return max(self.single.stored_channels) * math.prod(x.pixels for x in self.sub.parts)

    def _near_closely(self, whole: SearchResult) -> LayerBounds:
        """More steps on the whole layer; of a larger one as few, in a larger window."""
        applied = TUNING.again * TUNING.applied
        return self._near(whole, TUNING.more if self._size * TUNING.more <= applied else TUNING.steps, applied)

    def _near(self, whole: SearchResult, steps: int, applied: float) -> LayerBounds:
        """From below near the wave of the supremum, which is the upper bound; of a large layer in a window."""
        xp, channels = self.xp, max(self.single.stored_channels)
        kernel = self.parts[whole.block : whole.block + 1, ...]
        upper = self._padded(whole.upper)
        plain, angles = reads_zeros(self.spec) and set(self.spec.stride) == {1}, whole.frequency.angles[0]
        window = self.sub.window(applied / (max(steps, 1) * channels))
        nowhere = witness_shapes(self.problem.spec) == ((0,), (0,))
        if plain and nowhere and (self.rtol >= 1e-3 or window is not self.sub):
            quotient, gradient = WaveSum(kernel, self.single, angles, ops=self.ops).bound()
            lower = norm_of_restriction(self.sub, self.sub, quotient)
            nothing = xp.zeros((1, 0), dtype=kernel.dtype, device=self.ops.device(kernel))
            gradient = xp.reshape(self._among_groups(gradient, whole.block), self.problem.kernel.shape)
            return LayerBounds(lower, upper, nothing, nothing, gradient, "supremum")
        sizes = [x.pixels for x, k in zip(self.sub.parts, self.spec.kernel_shape, strict=True) if k > 1]
        sums = plain and min(sizes, default=0) >= TUNING.waves
        if sums and steps == TUNING.steps:
            steps = 0
        window = self.sub.window(applied / (max(steps, 1) * channels))
        single = of_one_group(window.spec)
        # Patches are copied once or twice on the way.
        budget = self.ops.memory // 4
        layer = Convolution(kernel, single, budget=budget, ops=self.ops)
        if sums:
            vectors = WaveSum(kernel, single, angles, ops=self.ops).vector()
        else:
            vectors = windowed_wave(kernel, single, angles, ops=self.ops)
        if steps > 0 and not self.problem.expired:
            # What is proven is a quotient of the vector, however it was found: float32 does for most of the way.
            trial = xp.astype(kernel, xp.float32) if self.rtol >= 1e-3 and steps <= TUNING.closer else kernel
            there, back = self._maps(Convolution(trial, single, budget=budget, ops=self.ops))
            plan, start = Plan(steps, 0, min(1e-6, self.rtol / 100)), xp.astype(vectors, trial.dtype)
            size = vectors.shape[2]
            vectors, _ = top_vectors(lambda x: back(there(x)), trial, size, 1, plan, start=start, ops=self.ops)
            vectors = xp.astype(vectors, kernel.dtype)
        (lower,), images = quotients(layer, vectors, single.transposed, ops=self.ops)
        u, v = (vectors, images) if single.transposed else (images, vectors)
        return self._bounds(lower, upper, layer, u[:, 0, :], v[:, 0, :], whole.block, window, "supremum")

    def _maps(self, layer: Convolution) -> tuple[LinearMap, LinearMap]:
        """From the large side to the small one, and back."""
        return (layer.adjoint, layer.apply) if self.single.transposed else (layer.apply, layer.adjoint)

    def _by_rings(
        self, search: Search, whole: SearchResult, fewest: tuple[int, ...], found: LayerBounds, *, only_one: bool
    ) -> LayerBounds:
        limits: dict[str, Any] = {"lower": found.lower.value, "rtol": self.rtol, "max_cells": self.problem.max_cells}
        upper, cells, levels = bound_by_rings(self.spec, search, whole, fewest, **limits, only_one=only_one)
        found = replace(found, way="ring", cells=found.cells + cells, levels=found.levels + levels)
        return found.with_upper(upper, "ring")

    def _by_parts_of_rings(
        self, search: Search, whole: SearchResult, rest: np.ndarray, found: LayerBounds, *, plain: bool
    ) -> LayerBounds:
        """By the best ring with its highest waves taken out, which are met with the pixels or with the layer."""
        rings = self._split_rings(search, whole, rest)
        few = most_vectors(self.single) >= TUNING.vectors

        def split(found: LayerBounds, *, first: bool) -> LayerBounds:
            done = found.within(self.rtol) or not plain
            limits = (found.lower.value, self.closeness, self.problem.deadline)
            return found if done else self._lowered(found, [x.upper(*limits, first=first) for x in rings])

        if rings and not self.is_tiny:
            found = split(found, first=True)
        if found.within(self.rtol) or not rings:
            return found
        if few:
            for group in set(rest.tolist()) - set(self._near_top):
                found = self._lanczos(whole, group, found)
        elif self.rtol >= 1e-3 and plain and self._size * TUNING.closer <= TUNING.again * TUNING.applied:
            # In a window of a larger layer more steps come no closer than the waves on all of it.
            found = found.intersect(self._near(whole, TUNING.closer, TUNING.again * TUNING.applied))
        if not self.is_tiny:
            found = split(found, first=True)
        if few and not found.within(self.rtol):
            found = self._by_subspace(rings, rest, found)
        return split(found, first=False) if self.rtol >= 1e-3 else found

    def _split_rings(self, search: Search, whole: SearchResult, rest: np.ndarray) -> list[SplitRing]:
        """The ring of each group; none where blocks are not those of the layer without its dilation."""
        strided = set(self.spec.stride) != {1}
        dilated = strided and set(self.problem.spec.dilation) != {1}
        blocks = self.supremum.blocks() if strided else self.parts
        fewest = shortest(self.single)
        ring = away_from([whole], fewest, tuple(blocks.shape[3:]), [])
        short = ring is None or any(n < least for n, least in zip(ring.points, fewest, strict=True))
        if ring is None or short or dilated or whole.upper is None:
            return []
        given = (self.single, ring, whole.upper, search)
        return [SplitRing(blocks[at : at + 1, ...], *given, at, ops=self.ops) for at in rest.tolist()]

    def _lowered(self, found: LayerBounds, uppers: list[Upper | None]) -> LayerBounds:
        """With the bound of the groups that are not proven to be lower, if each has one, and it is lower."""
        known = [upper for upper in uppers if upper is not None]
        if len(known) < len(uppers):
            return found
        return found.with_upper(norm_of_groups(self.spec, known, self.others), "ring")

    def _nothing(self, whole: SearchResult) -> LayerBounds:
        """The supremum, and no lower bound yet."""
        return _zero(self.problem, self.spec, ops=self.ops).with_upper(self._padded(whole.upper), "supremum")

    def _lanczos(self, whole: SearchResult, group: int, found: LayerBounds) -> LayerBounds:
        """Bounds with vectors of the small side near a group's top ones, shape (1, k, size), which are kept."""
        kernel, single = self.parts[group : group + 1, ...], self.single
        layer = Convolution(kernel, single, ops=self.ops)
        down, up = self._maps(layer)
        start = down(windowed_wave(kernel, single, whole.frequency.angles[0], ops=self.ops))
        steps = TUNING.ritz if self.rtol >= 1e-3 else TUNING.more
        plan, gram = Plan(steps, 0, min(1e-6, self.rtol / 100)), composed(up, down)
        near, _ = top_vectors(
            gram, kernel, start.shape[2], 1, plan, several=TUNING.several, start=start, ops=self.ops
        )  # fmt: skip
        self._near_top[group] = near
        return self._raised(found, layer, near[:, :1, :], group)

    def _by_subspace(self, rings: list[SplitRing], rest: np.ndarray, found: LayerBounds) -> LayerBounds:
        """By few vectors: those near the top ones, the highest waves, and where the layer takes them."""
        uppers = []
        for ring, group in zip(rings, rest.tolist(), strict=True):
            layer, vectors = (
                Convolution(self.parts[group : group + 1, ...], self.single, ops=self.ops),
                self._near_top[group],
            )
            limits = (found.lower.value, self.closeness, self.problem.deadline)
            upper, vector = bound_by_subspace(ring, layer, vectors, *limits, ops=self.ops)
            uppers.append(upper)
            found = found if vector is None else self._raised(found, layer, vector, group)
        return self._lowered(found, uppers)

    def _raised(self, found: LayerBounds, layer: Convolution, vector: Array, group: int) -> LayerBounds:
        """With the quotient of a vector (1, 1, size of the small side), where it is higher."""
        transposed = self.single.transposed
        (lower,), images = quotients(layer, vector, not transposed, ops=self.ops)
        if lower <= found.lower:
            return found
        u, v = (images, vector) if transposed else (vector, images)
        return found.intersect(self._bounds(lower, None, layer, u[:, 0, :], v[:, 0, :], group, self.sub, found.way))

    def _by_patch(self) -> LayerBounds | None:
        """Of a layer with one output (transposed: input) an axis: the matrix of the taps that it reads."""
        if not reads_zeros(self.spec) or any(x.outputs > 1 for x in self.sub.parts):
            return None
        read = tuple(slice(x.before, x.before + x.pixels) for x in self.sub.parts)
        taps = self.parts[(..., *read)]
        matrix = self.xp.reshape(taps, (*taps.shape[:2], -1))
        if min(matrix.shape[1:]) < SMALLEST:
            return None
        found = enclose_matrices(matrix, self.rtol, ops=self.ops)
        layer = Convolution(self.parts[found.index : found.index + 1, ...], self.single, ops=self.ops)
        if found.upper is None or not found.within(self.rtol):
            return None
        u, v = (found.v, found.u) if self.spec.transposed else (found.u, found.v)
        lower, upper = norms_of_patch(self.sub, found.lower, found.upper)
        return self._bounds(lower, upper, layer, u, v, found.index, self.sub, "matrix")

    def _by_matrix(self, groups: np.ndarray, lower: float) -> LayerBounds:
        """Bounds of the largest norm of some groups, all but `others`; of one below ``lower`` no more is proven."""
        kernels = arrays.rows(self.parts, groups, ops=self.ops)
        found = enclose_by_matrix(kernels, self.single, self.plan, rtol=self.rtol, lower=lower, ops=self.ops)
        best = max(range(len(groups)), key=lambda j: found.lower[j].value)
        layer = Convolution(kernels[best : best + 1, ...], self.single, ops=self.ops)
        u, v = (x[best : best + 1, :] for x in (found.u, found.v))
        known = [upper for upper in found.upper if upper is not None]
        upper = norm_of_groups(self.spec, known, self.others) if len(known) == len(groups) else None
        return self._bounds(found.lower[best], upper, layer, u, v, int(groups[best]), self.sub, "matrix")

    def _bounds(
        self,
        lower: Lower,
        upper: Upper | None,
        layer: Convolution,
        u: Array,
        v: Array,
        group: int,
        window: SubLayer,
        way: Way,
    ) -> LayerBounds:
        """With the witness and the gradient of one group on a window as those of the whole layer."""
        xp = self.xp
        lower = norm_of_restriction(self.sub, window, lower)
        gradient = layer.kernel_gradient(u[:, None, :], v[:, None, :])[:, 0, ...]
        gradient = xp.reshape(self._among_groups(gradient, group), self.problem.kernel.shape)
        inputs, outputs = witness_shapes(self.problem.spec)
        pixels, lines = [x.pixel for x in window.parts], [x.output for x in window.parts]
        whole_u = self._placed(u, group, layer.shapes[1], outputs, pixels if self.spec.transposed else lines)
        whole_v = self._placed(v, group, layer.shapes[0], inputs, lines if self.spec.transposed else pixels)
        return LayerBounds(lower, upper, whole_u, whole_v, gradient, way)

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


def _fewest(spec: ConvSpec, search: Search) -> tuple[int, ...] | None:
    """Points of the shortest ring; one where the symbol does not move, None if that is everywhere."""
    kernel_shape = search.blocks.shape[3:]
    fewest = tuple(1 if k == 1 else n for n, k in zip(shortest(spec), kernel_shape, strict=True))
    return None if all(k == 1 for k in kernel_shape) else fewest
