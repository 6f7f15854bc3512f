"""Proven bounds of a layer's norm at one input size, any geometry.

From below by Lanczos on the layer. From above by the first of three that comes close enough: the supremum over all
sizes, twisted rings (zero padding), the layer's own Gram matrix. Small layers have that done at once.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from specnorm.linalg import arrays, polyphase
from specnorm.linalg.block_lanczos import Plan, top_vectors
from specnorm.linalg.frequencies import coarse_grid
from specnorm.linalg.layer_map import Convolution
from specnorm.linalg.line_blocks import of_one_group, plans
from specnorm.linalg.plane_wave import windowed_wave
from specnorm.linalg.symbols import Symbol
from specnorm.proof import host
from specnorm.proof.cells import torus
from specnorm.proof.layer import ritz_values_down
from specnorm.proof.rings import reads_zeros, shortest
from specnorm.search.branch_and_bound import Search, SearchResult
from specnorm.search.enclosing import Problem, search_torus
from specnorm.search.own_matrix import enclose_by_matrix
from specnorm.search.rings import bound_by_rings

if TYPE_CHECKING:
    from specnorm.linalg.power import LinearMap
    from specnorm.spec import ConvSpec
    from specnorm.types import Array, ArrayOps

Way = Literal["supremum", "ring", "matrix"]
WAYS: tuple[Way, ...] = ("supremum", "ring", "matrix")


@dataclass(frozen=True)
class LayerTuning:
    """Effort for a layer at its size. It decides on time and on how wide the interval is.

    Parameters
    ----------
    at_once : float
        Multiplications of a proof by the layer's own matrix up to which nothing else is tried: a search takes longer.
    soon : float
        Those up to which it is tried after one ring: less than a second.
    work : float
        Those up to which it is tried where nothing else came close enough: some seconds.
    steps : int
        Lanczos steps from a plane wave at the best frequency. The wave alone is within 1e-4 to 4e-3 of the norm on
        trained layers at 32 pixels an axis, after four steps within 1e-6 to 4e-4, after eight within 1e-7 to 1e-4.
    more : int
        Steps where the bounds are still apart, or closer ones are asked for.
    applied : int
        Pixels times channels times steps at most.
    below : float
        Part of the layer's lower bound up to which estimates of a group's norm count as clearly lower.
    """

    at_once: float = 3e6
    soon: float = 2e9
    work: float = 2e10
    steps: int = 4
    more: int = 48
    applied: int = 2**21
    below: float = 0.9


TUNING = LayerTuning()


@dataclass(frozen=True, eq=False)
class LayerProblem:
    """One layer at its size, and how closely its norm is to be enclosed.

    Parameters
    ----------
    kernel : array, shape (1, *shape)
        In torch's order, scaled to about 1, with known values.
    spec : ConvSpec
        With ``input_shape``.
    rtol : float
        Relative width asked for.
    max_cells : int
        Budget of one search.
    fallback : callable
        Blocks -> an upper bound of the supremum of fixed cost, for where no search ends within its budget.
    deadline : float
        On the clock of `time.monotonic`; what is not begun by then is not tried.
    seed : int
        Of start vectors.
    """

    kernel: Array
    spec: ConvSpec
    rtol: float
    max_cells: int
    fallback: Callable[[Array], float]
    deadline: float = math.inf
    seed: int = 0

    @property
    def is_late(self) -> bool:
        """Whether the deadline has passed."""
        return time.monotonic() > self.deadline


@dataclass(frozen=True, eq=False)
class LayerBounds:
    """Two proven bounds of ``||A||``.

    Parameters
    ----------
    lower, upper : float
    u, v : arrays, shapes (1, outputs) and (1, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding.
    way : {"supremum", "ring", "matrix"}
        What the upper bound is of.
    cells, levels : int
        Of all searches.
    """

    lower: float
    upper: float
    u: Array
    v: Array
    way: Way
    cells: int = 0
    levels: int = 0

    def within(self, rtol: float) -> bool:
        """Whether the bounds are so close."""
        return self.upper <= self.lower * (1 + rtol)

    def and_also(self, other: LayerBounds) -> LayerBounds:
        """The better of both bounds."""
        low = self if self.lower >= other.lower else other
        high = self if self.upper <= other.upper else other
        cells, levels = self.cells + other.cells, self.levels + other.levels
        return LayerBounds(low.lower, high.upper, low.u, low.v, high.way, cells, levels)


def enclose_layer(problem: LayerProblem, *, ops: ArrayOps) -> LayerBounds:
    """Enclose the norm of a layer with at least one axis, at ``spec.input_shape``, whatever its geometry."""
    layer = _Layer(problem, ops=ops)
    if not layer.is_small:
        return layer.enclose()
    found = layer.by_matrix(np.arange(problem.spec.groups), 0.0)
    return found if found.within(problem.rtol) else found.and_also(layer.enclose(tried=True))


class _Layer:
    """The groups of one layer, and the ways to bound their norm."""

    def __init__(self, problem: LayerProblem, *, ops: ArrayOps) -> None:
        self.problem, self.ops, self.xp = problem, ops, ops.xp
        self.spec, self.rtol, self.groups = problem.spec, problem.rtol, problem.spec.groups
        self.single = of_one_group(problem.spec)
        kernel = problem.kernel
        self.parts = self.xp.reshape(kernel, (self.groups, kernel.shape[1] // self.groups, *kernel.shape[2:]))
        self.plan = min(plans(self.single), key=lambda plan: (plan.memory > ops.memory, plan.work))

    @property
    def is_small(self) -> bool:
        """Whether the layer's own matrix is less work than a search."""
        return self.plan.work * self.groups <= TUNING.at_once

    def enclose(self, *, tried: bool = False) -> LayerBounds:
        """Bounds by the supremum, then by rings, then by the layer's own matrix, unless that was tried before."""
        spec, rtol = self.spec, self.rtol
        search, whole = self._supremum()
        found = self._near(whole, TUNING.steps if rtol >= 1e-3 else TUNING.more)
        found = replace(found, cells=whole.cells, levels=whole.levels)
        if found.within(rtol) or found.upper == 0:
            return found
        rest = self._open_groups(search, found)
        work = self.plan.work * len(rest) if self.plan.memory <= self.ops.memory else math.inf
        fewest = _fewest(spec, search) if reads_zeros(spec) else None
        if fewest is not None and not self.problem.is_late:
            found = self._by_rings(search, whole, fewest, found, only_one=work <= TUNING.soon)
        if not found.within(rtol) and work > TUNING.soon and rtol >= 1e-3:
            found = found.and_also(self._near(whole, TUNING.more))
        if found.within(rtol) or tried or work > TUNING.work or self.problem.is_late:
            return found
        return found.and_also(self.by_matrix(rest, found.lower))

    def _supremum(self) -> tuple[Search, SearchResult]:
        """The supremum over all sizes, and the search it was found by."""
        problem, xp = self.problem, self.xp
        # The kernel is in torch's order already.
        everywhere = replace(self.spec, input_shape=None, layout=None)
        blocks = polyphase.to_blocks(problem.kernel, everywhere, xp=xp)
        constant = all(k == 1 for k in blocks.shape[3:])
        rtol = problem.rtol if constant or not reads_zeros(self.spec) else max(0.97 * problem.rtol, 1e-3)
        given = Problem(blocks, everywhere, rtol, problem.max_cells, lambda: problem.fallback(blocks), problem.deadline)
        return search_torus(given, grid_follows=not constant, ops=self.ops)

    def _near(self, whole: SearchResult, steps: int) -> LayerBounds:
        """From below near the wave of the supremum, which is the upper bound."""
        single, xp = self.single, self.xp
        kernel = self.parts[whole.block : whole.block + 1, ...]
        layer = Convolution(kernel, single, ops=self.ops)
        vectors = windowed_wave(kernel, single, whole.frequency.angles[0], ops=self.ops)
        steps = min(steps, TUNING.applied // (max(layer.shape) * self.groups))
        if steps > 0:
            # What is proven is a quotient of the vector, however it was found: float32 does for most of the way.
            trial = xp.astype(kernel, xp.float32) if self.rtol >= 1e-3 and steps <= TUNING.steps else kernel
            there, back = self._maps(Convolution(trial, single, ops=self.ops))
            plan, start = Plan(steps, self.problem.seed, min(1e-6, self.rtol / 100)), xp.astype(vectors, trial.dtype)
            size = vectors.shape[2]
            vectors, _ = top_vectors(lambda x: back(there(x)), trial, size, 1, plan, start=start, ops=self.ops)
            vectors = xp.astype(vectors, kernel.dtype)
        values, images = ritz_values_down(layer, vectors, single.transposed, ops=self.ops)
        u, v = (vectors, images) if single.transposed else (images, vectors)
        upper = host.mul_up(whole.upper, host.root_up(self.spec.padding_gain_sq))
        u, v = (self._in_layer(x[:, 0, :], whole.block) for x in (u, v))
        return LayerBounds(float(values[0, 0]), upper, u, v, "supremum")

    def _maps(self, layer: Convolution) -> tuple[LinearMap, LinearMap]:
        """From the large side to the small one, and back."""
        return (layer.adjoint, layer.apply) if self.single.transposed else (layer.apply, layer.adjoint)

    def _by_rings(
        self, search: Search, whole: SearchResult, fewest: tuple[int, ...], found: LayerBounds, *, only_one: bool
    ) -> LayerBounds:
        upper, cells, levels = bound_by_rings(
            search,
            whole,
            fewest,
            lower=found.lower,
            rtol=self.rtol,
            max_cells=self.problem.max_cells,
            only_one=only_one,
        )
        return replace(found, upper=upper, way="ring", cells=found.cells + cells, levels=found.levels + levels)

    def _open_groups(self, search: Search, found: LayerBounds) -> np.ndarray:
        """Groups whose norm is not proven to be below the layer's lower bound."""
        every, xp = np.arange(self.groups), self.xp
        if self.groups == 1 or not found.lower > 0:
            return every
        symbols = Symbol(search.blocks, coarse_grid(tuple(search.blocks.shape[3:])), ops=self.ops).matrices()
        norms = self.ops.to_numpy(xp.max(xp.linalg.svdvals(symbols), axis=(1, 2)))
        target = host.div_down(found.lower, host.root_up(self.spec.padding_gain_sq))
        lower = np.flatnonzero(norms < TUNING.below * target)
        if not len(lower):
            return every
        others = Search(arrays.rows(search.blocks, lower, ops=self.ops), ops=self.ops)
        proven = others.run(torus(search.blocks.shape[3:]), bound=target, max_cells=self.problem.max_cells)
        return np.setdiff1d(every, lower) if proven.upper <= target else every

    def by_matrix(self, groups: np.ndarray, lower: float) -> LayerBounds:
        """Bounds of the largest norm of some groups; the others' are no larger than ``lower``."""
        xp = self.xp
        kernels = arrays.rows(self.parts, groups, ops=self.ops)
        found = enclose_by_matrix(
            kernels, self.single, self.plan, rtol=self.rtol, lower=lower, seed=self.problem.seed, ops=self.ops
        )
        best = int(xp.argmax(found.lower))
        u, v = (self._in_layer(x[best : best + 1, :], int(groups[best])) for x in (found.u, found.v))
        upper = max(lower, float(xp.max(found.upper)))
        return LayerBounds(float(found.lower[best]), upper, u, v, "matrix")

    def _in_layer(self, x: Array, group: int) -> Array:
        """A vector (1, n) of one group, as one of the layer."""
        index = self.ops.from_numpy(np.asarray([group], dtype=np.int64), x)
        return self.xp.reshape(arrays.one_hot(x, index, self.groups, xp=self.xp), (1, -1))


def _fewest(spec: ConvSpec, search: Search) -> tuple[int, ...] | None:
    """Points of the shortest ring; one where the symbol does not move, None if that is everywhere."""
    kernel_shape = search.blocks.shape[3:]
    fewest = tuple(1 if k == 1 else n for n, k in zip(shortest(spec), kernel_shape, strict=True))
    return None if all(k == 1 for k in kernel_shape) else fewest
