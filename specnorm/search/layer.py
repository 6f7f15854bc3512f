"""Enclose the norm of a layer at one input size, whatever its geometry, by a list of attempts.

Lower bounds come from sums of plane waves and from Lanczos on the layer. Upper bounds come from the supremum over all
sizes, from circulants (zero padding), from a circulant without its highest waves, and from the layer's Gram matrix.
`ATTEMPTS` lists them in the order in which they are made; the first that brings both bounds close enough is the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

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
from specnorm.clock import RATE
from specnorm.numerics import costs
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
    from specnorm.problem.frequencies import Frequencies
    from specnorm.problem.spec import ConvSpec
    from specnorm.search.result import SearchResult
    from specnorm.types import ArrayOps


@dataclass(frozen=True, eq=False)
class LayerBounds(Bounds):
    """Two proven bounds of ``||A||``.

    Parameters
    ----------
    u, v : arrays, shapes (1, outputs) and (1, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding; empty where they are too large.
    gradient : array, shape (1, *shape)
        Gradient of ``<u, A v>`` with respect to the kernel.
    bound_source : BoundSource
        What proved the upper bound.
    cells, levels : int
        Of all searches in turn; of parts that were searched side by side, the largest.
    """

    u: Array
    v: Array
    gradient: Array
    bound_source: BoundSource
    cells: int = 0
    levels: int = 0

    def intersect(self, other: LayerBounds) -> LayerBounds:
        """The larger lower and the smaller upper bound of two pairs for one layer."""
        closer_below = self if greatest(self.lower, other.lower) is self.lower else other
        closer_above = self.with_upper(other.upper, other.bound_source)
        return LayerBounds(
            lower=closer_below.lower,
            upper=closer_above.upper,
            u=closer_below.u,
            v=closer_below.v,
            gradient=closer_below.gradient,
            bound_source=closer_above.bound_source,
            cells=self.cells + other.cells,
            levels=self.levels + other.levels,
        )

    def with_upper(self, upper: Upper | None, source: BoundSource) -> LayerBounds:
        """These bounds with another upper bound, if that is lower."""
        proven = [bound for bound in (self.upper, upper) if bound is not None]
        if not proven or least(*proven) is self.upper:
            return self
        return replace(self, upper=upper, bound_source=source)


class LayerTuning(NamedTuple):
    """Effort for a layer at its size. It decides on time and on how wide the interval is, never on what is proven.

    A *matrix proof* is a factorisation of the layer's Gram matrix; its work is counted in multiplications.
    """

    immediate_work: float = 3e6
    """Work of a matrix proof up to which nothing else is tried, since a search takes longer."""
    soon_work: float = 2e9
    """Work of a matrix proof up to which it follows the first circulant: less than a second."""
    late_work: float = 3e10
    """Work of a matrix proof up to which it is tried where nothing else came close enough: some seconds."""
    wave_time: float = 0.2
    """Part of the time limit that the lower bound near the supremum's wave may take; the search leaves it. A layer that
    would take longer is restricted to fewer pixels."""
    wave_passes: float = 4.0
    """Products with the layer that this bound takes without Lanczos: a wave's image, its quotient, and the kernel's
    gradient, with the copies."""
    deflation_work: float = 2e8
    """Work of a matrix proof from which a circulant is deflated first."""
    deflation_groups: int = 12
    """Most groups whose circulants are deflated."""
    deflation_rtol: float = 1e-4
    """Smallest tolerance for which a circulant is deflated: below, too many waves would have to be taken out."""
    wave_steps: int = 4
    """Lanczos steps from a plane wave at the best frequency. The wave alone is within 1e-4 to 4e-3 of the norm on
    trained layers at 32 pixels an axis, after four steps within 1e-6 to 4e-4, after eight within 1e-7 to 1e-4."""
    wave_sum_pixels: int = 24
    """Pixels an axis from which a sum of waves takes the place of those four steps: it is as close."""
    closer_steps: int = 10
    """Lanczos steps of the second attempt, where few waves taken out of a circulant are not enough."""
    most_steps: int = 48
    """Lanczos steps where the tolerance is tight."""
    lanczos_entries: float = 2.0**21
    """Most pixels times channels times steps. Of a larger layer a restriction to fewer pixels is taken; it loses the
    less the larger it is, by the square of its inverse size."""
    closer_factor: float = 2.0
    """How many times `lanczos_entries` the second attempt may have."""
    witness_entries: int = 2**23
    """Inputs and outputs up to which the singular vectors are returned."""
    supremum_share: float = 0.3
    """Part of the tolerance that a layer may be below its supremum, as most are, for the supremum to be enough."""
    loose_rtol: float = 0.01
    """Tolerance of the supremum where the layer is farther below. Wider ones leave the circulant more frequencies than
    they save."""
    lower_group: float = 0.97
    """Part of the layer's norm up to which an estimate of a group's norm counts as lower."""
    lower_group_tries: int = 6
    """How often a proof that some groups are lower is tried, each time with one group less."""
    matrix_steps: int = 400
    """Lanczos steps on a layer's own matrix: its proof is tried near the lower bound, and fails unless that has
    converged."""
    matrix_retry_steps: int = 1600
    """Lanczos steps after a matrix proof that failed, where the matrix has several blocks."""
    matrix_retry_rtols: tuple[float, ...] = (0.5, 2.0, 8.0, 32.0)
    """Tolerances, as multiples of the one asked for, that are tried after a matrix proof that failed."""


TUNING = LayerTuning()
_DEFAULT_RTOL = 1e-3
"""Tolerance from which float32 and few Lanczos steps are enough."""
_FEW_TAPS = 32
"""Taps up to which the norms of scalar symbols are estimated on a grid twice as fine."""


def enclose_layer(problem: Problem, *, ops: ArrayOps) -> LayerBounds:
    """Enclose the norm of a layer with at least one axis, at ``spec.input_shape``, whatever its geometry."""
    supremum = Supremum(problem, ops=ops)
    components = polyphase_components(problem.spec)
    parts = [_enclose(ComponentSearch(problem, component, supremum, ops=ops)) for component in components]
    if not parts:
        zero = no_bounds(problem, problem.spec, ops=ops)
        return replace(zero, upper=norms_of_parts(problem.spec, [])[1])
    return _direct_sum(problem.spec, parts)


def _enclose(layer: ComponentSearch) -> LayerBounds:
    """Make each attempt in its order until the bounds are close enough."""
    bounds = no_bounds(layer.problem, layer.spec, ops=layer.ops)
    for attempt in ATTEMPTS:
        if bounds.within(layer.rtol):
            break
        bounds = attempt(layer, bounds)
    return bounds


def _direct_sum(spec: ConvSpec, parts: list[LayerBounds]) -> LayerBounds:
    """Bounds of a layer that is the direct sum of parts: its norm is the largest of theirs."""
    lower, upper = norms_of_parts(spec, [(part.lower, part.upper) for part in parts])
    highest_below = max(parts, key=lambda part: part.lower.value)
    highest_above = max(parts, key=lambda part: finite(part.upper))
    return LayerBounds(
        lower=lower,
        upper=upper,
        u=highest_below.u,
        v=highest_below.v,
        gradient=highest_below.gradient,
        bound_source=highest_above.bound_source,
        cells=max(part.cells for part in parts),
        levels=max(part.levels for part in parts),
    )


# -- attempts: each takes bounds and returns closer ones, or the same if it does not apply or would take too long ------
def patch(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """Enclose a layer with one output (transposed: input) an axis, which is the matrix of the taps that it reads."""
    axes = layer.component.axes
    if not reads_zeros(layer.spec) or any(axis.outputs > 1 for axis in axes):
        return bounds
    first, second = layer.kernels.shape[1:3]
    pixels = int(np.prod([axis.pixels for axis in axes]))
    if min(first, second * pixels) < SMALLEST:
        return bounds
    taps_read = tuple(slice(axis.before, axis.before + axis.pixels) for axis in axes)
    taps = layer.kernels[(..., *taps_read)]
    matrix = layer.xp.reshape(taps, (*taps.shape[:2], -1))
    result = enclose_matrices(matrix, layer.rtol, ops=layer.ops)
    if result.upper is None or not result.within(layer.rtol):
        return bounds
    lower, upper = norms_of_patch(layer.component, result.lower, result.upper)
    if layer.spec.transposed:
        u, v = result.v, result.u
    else:
        u, v = result.u, result.v
    group = result.index
    return layer.bounds_of_group(
        lower,
        upper,
        Convolution(layer.kernels[group : group + 1, ...], layer.single, ops=layer.ops),
        u,
        v,
        group=group,
        restriction=layer.component,
        source=BoundSource.MATRIX,
    )


def small_matrix(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """Factorise the layer's Gram matrix at once, where that is less work than a search."""
    if not layer.is_small:
        return bounds
    every_group = np.arange(layer.groups)
    return bounds.intersect(layer.by_matrix(every_group, bounds.lower.value))


def near_supremum(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """Bound from above by the supremum over all sizes, from below by Lanczos from a wave near its frequency."""
    steps = TUNING.wave_steps if layer.rtol >= _DEFAULT_RTOL else TUNING.most_steps
    return layer.by_supremum(bounds.intersect(layer.near_supremum(steps, TUNING.lanczos_entries)))


def best_circulant(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """Bound by the circulant whose frequencies are farthest from the maximum.

    Where no other attempt will come close enough, the circulant's own norm is a bound, too.
    """
    if layer.shortest_circulant is None or layer.problem.clock.expired:
        return bounds
    return layer.by_circulant(bounds, only_one=layer.one_circulant)


def few_waves(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """Deflate a circulant of each open group by its few highest waves; these are factorised on the layer's pixels."""
    return _deflation(layer, bounds, few=True)


def more_steps(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """Raise the lower bound by more Lanczos steps on the whole layer, before more waves are taken out.

    In a restriction of a larger layer, more steps come no closer than the sum of waves on all of it.
    """
    most_entries = TUNING.closer_factor * TUNING.lanczos_entries
    fits = layer.size * TUNING.closer_steps <= most_entries
    applies = fits and layer.can_be_deflated and layer.rtol >= _DEFAULT_RTOL
    if not applies or not layer.deflated_circulants(bounds):
        return bounds
    return bounds.intersect(layer.near_supremum(TUNING.closer_steps, most_entries))


def many_waves(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """Deflate as in `few_waves`, by as many waves as it takes, and for wider bounds if need be."""
    if layer.rtol < _DEFAULT_RTOL:
        return bounds
    return _deflation(layer, bounds, few=False)


def _deflation(layer: ComponentSearch, bounds: LayerBounds, *, few: bool) -> LayerBounds:
    if not layer.can_be_deflated:
        return bounds
    circulants = layer.deflated_circulants(bounds)
    if not circulants:
        return bounds
    lower, rtol, clock = bounds.lower.value, layer.proof_rtol, layer.problem.clock
    uppers = [circulant.upper(lower, rtol, clock, few=few) for circulant in circulants]
    return layer.with_uppers_of_open_groups(bounds, uppers)


def own_matrix(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """Factorise the Gram matrices of the open groups, in some seconds, if `small_matrix` did not."""
    clock = layer.problem.clock
    affordable = min(TUNING.late_work, RATE * max(clock.left, 0.0))
    if layer.is_small or clock.expired or layer.matrix_work(bounds) > affordable:
        return bounds
    return bounds.intersect(layer.by_matrix(layer.open_groups(bounds).numbers, bounds.lower.value))


def refined_supremum(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """Search the supremum to the tolerance asked for, where it was searched loosely since a circulant was to follow."""
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
    few_waves,  # again: its target is the lower bound, which `more_steps` has raised
    many_waves,
    own_matrix,
    refined_supremum,
)
"""The attempts in their order."""


class OpenGroups(NamedTuple):
    """Groups of a layer that may have its norm, and a proof that the others have not.

    Parameters
    ----------
    numbers : integer array
        Numbers of the groups that are not proven to be lower.
    others : Upper or None
        Bound of the supremum of all other groups; None if there are none.
    """

    numbers: np.ndarray
    others: Upper | None


class ComponentSearch:
    """One component of a layer (`PolyphaseComponent`), and what the attempts to bound its norm share.

    Attributes
    ----------
    kernels : array, shape (groups, first, second, *kernel_shape)
        The layer's kernel by groups.
    single : ConvSpec
        Geometry of one group.
    plan : BlockPlan
        The cheapest form of one group's Gram matrix.
    proof_rtol : float
        Tolerance asked of a proof, so that the answer is within ``rtol`` after rounding.
    """

    def __init__(
        self,
        problem: Problem,
        component: PolyphaseComponent,
        supremum: Supremum,
        *,
        ops: ArrayOps,
    ) -> None:
        self.problem = problem
        self.component = component
        self.supremum = supremum
        self.ops = ops
        self.xp = ops.xp
        self.spec = component.spec
        self.rtol = problem.rtol
        self.proof_rtol = knobs.TUNING.share * problem.rtol
        self.groups = problem.spec.groups
        self.single = of_one_group(component.spec)
        kernel = problem.kernel
        self.kernels = self.xp.reshape(kernel, (self.groups, kernel.shape[1] // self.groups, *kernel.shape[2:]))
        self.plan = min(plans(self.single), key=lambda plan: (plan.memory > ops.memory, plan.work))
        self._open_groups: OpenGroups | None = None
        self._deflated_circulants: list[DeflatedCirculant] | None = None

    # -- what is affordable ------------------------------------------------------------------------------------------
    @property
    def is_small(self) -> bool:
        """Whether the layer's own matrix is less work than a search."""
        return self.plan.work * self.groups <= TUNING.immediate_work

    @property
    def can_be_deflated(self) -> bool:
        """Whether circulants can be deflated: no stride, and no tolerance for which too many waves would go."""
        return set(self.spec.stride) == {1} and self.rtol >= TUNING.deflation_rtol

    @property
    def one_circulant(self) -> bool:
        """Whether another attempt will come close enough where the best circulant does not."""
        matrix_follows = self._matrix_fits and self.plan.work * self.groups <= TUNING.soon_work
        return self.can_be_deflated or matrix_follows

    @property
    def _matrix_fits(self) -> bool:
        """Whether one group's Gram matrix fits the memory budget."""
        return self.plan.memory <= self.ops.memory

    @property
    def size(self) -> int:
        """Pixels times channels of one group."""
        return max(self.single.stored_channels) * math.prod(axis.pixels for axis in self.component.axes)

    @property
    def shortest_circulant(self) -> tuple[int, ...] | None:
        """Points of the shortest circulant; None if there is none of use."""
        if not reads_zeros(self.spec):
            return None
        return fewest_points(self.spec, self.torus_search)

    # -- the supremum over all sizes ---------------------------------------------------------------------------------
    @property
    def torus_search(self) -> Search:
        """The search that enclosed the supremum."""
        return self.supremum()[0]

    @property
    def torus_result(self) -> SearchResult:
        """What it proved about the supremum."""
        return self.supremum()[1]

    def padded(self, supremum: Upper | None) -> Upper | None:
        """A bound of the layer from one of the supremum."""
        return None if supremum is None else padded_norm(supremum, self.spec)

    def by_supremum(self, bounds: LayerBounds) -> LayerBounds:
        """The bounds with the supremum, if that is lower, and with the cost of its search."""
        result = self.torus_result
        with_cost = replace(bounds, cells=bounds.cells + result.cells, levels=bounds.levels + result.levels)
        return with_cost.with_upper(self.padded(result.upper), BoundSource.SUPREMUM)

    # -- groups ------------------------------------------------------------------------------------------------------
    def open_groups(self, bounds: LayerBounds) -> OpenGroups:
        """Groups that were not proven to be below the layer when this was first asked."""
        if self._open_groups is None:
            # Of padding that repeats pixels, a group's norm may be larger than that of its symbol.
            target = bounds.lower.value / math.sqrt(self.spec.padding_gain_sq)
            self._open_groups = find_open_groups(
                self.torus_search.blocks,
                target,
                max_cells=self.problem.max_cells,
                clock=self.problem.clock,
                ops=self.ops,
            )
        return self._open_groups

    def matrix_work(self, bounds: LayerBounds) -> float:
        """Multiplications of a proof by the matrices of the open groups; infinite if one does not fit the memory."""
        count = len(self.open_groups(bounds).numbers)
        return self.plan.work * count if self._matrix_fits else math.inf

    def deflates(self, bounds: LayerBounds) -> bool:
        """Whether a circulant of each open group is deflated before the layer's own matrix is tried."""
        few_groups = len(self.open_groups(bounds).numbers) <= TUNING.deflation_groups
        dear_matrix = self.matrix_work(bounds) > TUNING.deflation_work
        return few_groups and dear_matrix and self.shortest_circulant is not None

    def deflated_circulants(self, bounds: LayerBounds) -> list[DeflatedCirculant]:
        """The circulant of each open group, ready to be deflated; empty where that is not to be done."""
        if self.problem.clock.expired or not self.deflates(bounds):
            return []
        if self._deflated_circulants is None:
            self._deflated_circulants = self._circulants_of(self.open_groups(bounds).numbers)
        return self._deflated_circulants

    def _circulants_of(self, groups: np.ndarray) -> list[DeflatedCirculant]:
        fewest = shortest(self.single)
        circulant = away_from(self.torus_result, fewest, self.spec.kernel_shape)
        is_too_short = any(points < least for points, least in zip(circulant.points, fewest, strict=True))
        supremum = self.torus_result.upper
        if is_too_short or supremum is None:
            return []
        return [
            DeflatedCirculant(
                self.kernels[group : group + 1, ...],
                self.single,
                circulant,
                supremum,
                self.torus_search,
                group,
                clock=self.problem.clock,
                ops=self.ops,
            )
            for group in groups.tolist()
        ]

    def with_uppers_of_open_groups(self, bounds: LayerBounds, uppers: list[Upper | None]) -> LayerBounds:
        """The bounds with the largest of upper bounds of the open groups, if each has one and that is lower."""
        proven = [upper for upper in uppers if upper is not None]
        if len(proven) < len(uppers) or self._open_groups is None:
            return bounds
        upper = norm_of_groups(self.spec, proven, self._open_groups.others)
        return bounds.with_upper(upper, BoundSource.CIRCULANT)

    # -- bounds ------------------------------------------------------------------------------------------------------
    def near_supremum(self, steps: int, most_entries: float) -> LayerBounds:
        """Bound from below near the wave of the supremum, and from above by the supremum.

        Parameters
        ----------
        steps : int
            Lanczos steps from the wave.
        most_entries : float
            Most pixels times channels times steps; a larger layer is restricted to fewer pixels.
        """
        group = self.torus_result.block
        kernel = self.kernels[group : group + 1, ...]
        wave_sum_in_time = self.problem.clock.affords(self._wave_sum_work, TUNING.wave_time / 2)
        if wave_sum_in_time and self._needs_no_vectors(steps, most_entries):
            return self._by_wave_sum(kernel, group)
        sums_waves = wave_sum_in_time and self._has_wave_sums and self._least_pixels >= TUNING.wave_sum_pixels
        if sums_waves and steps == TUNING.wave_steps:
            steps = 0
        restriction = self._restricted(steps, most_entries)
        single = of_one_group(restriction.spec)
        angles = self.torus_result.frequency.angles[0]
        if sums_waves:
            vectors = WaveSum(kernel, single, angles, ops=self.ops).vector()
        else:
            vectors = windowed_wave(kernel, single, angles, ops=self.ops)
        work_of_lanczos = 2 * steps * math.prod(axis.pixels for axis in restriction.axes) * math.prod(kernel.shape)
        if steps > 0 and not self.problem.clock.expired and self.problem.clock.affords(work_of_lanczos):
            vectors = self._after_lanczos(vectors, kernel, single, steps)
        layer = Convolution(kernel, single, budget=self._patch_memory, ops=self.ops)
        (lower,), images = quotients(layer, vectors, single.transposed, ops=self.ops)
        if single.transposed:
            u, v = vectors, images
        else:
            u, v = images, vectors
        return self.bounds_of_group(
            lower,
            self.padded(self.torus_result.upper),
            layer,
            u[:, 0, :],
            v[:, 0, :],
            group=group,
            restriction=restriction,
            source=BoundSource.SUPREMUM,
        )

    @property
    def _has_wave_sums(self) -> bool:
        """Whether `WaveSum` is defined for the layer: zero padding and no stride."""
        return reads_zeros(self.spec) and set(self.spec.stride) == {1}

    @property
    def _wave_sum_work(self) -> float:
        """Multiplications of a `WaveSum`: the top singular vectors of the symbol at two angles an axis."""
        first, second, *kernel_shape = self.kernels.shape[1:]
        smaller = min(first, second)
        work_of_one = max(first, second) * smaller**2 + costs.eigh_work(smaller, is_complex=True)
        points = math.prod(2 if taps > 1 else 1 for taps in kernel_shape)
        return points * work_of_one

    @property
    def _least_pixels(self) -> int:
        """Pixels of the shortest axis with more than one tap; 0 if there is none."""
        axes = zip(self.component.axes, self.spec.kernel_shape, strict=True)
        return min((axis.pixels for axis, taps in axes if taps > 1), default=0)

    @property
    def _patch_memory(self) -> int:
        """Bytes of patches at once: they are copied once or twice on the way."""
        return self.ops.memory // 4

    def _restricted(self, steps: int, most_entries: float) -> PolyphaseComponent:
        """The component, or a restriction of it that so many steps on so many entries, and the time limit, allow."""
        channels = max(self.single.stored_channels)
        pixels = most_entries / (max(steps, 1) * channels)
        time_limit = self.problem.clock.seconds
        work_of_pixel = TUNING.wave_passes * math.prod(self.kernels.shape[1:])
        return self.component.restricted(min(pixels, TUNING.wave_time * time_limit * RATE / work_of_pixel))

    def _needs_no_vectors(self, steps: int, most_entries: float) -> bool:
        """Whether a quotient of a sum of waves, which is no vector, is as good as Lanczos, and no vector is wanted."""
        if not self._has_wave_sums or witness_shapes(self.problem.spec) != ((0,), (0,)):
            return False
        return self.rtol >= _DEFAULT_RTOL or self._restricted(steps, most_entries) is not self.component

    def _by_wave_sum(self, kernel: Array, group: int) -> LayerBounds:
        """Bounds by the supremum and by the quotient of a sum of waves, without a pass over the layer's pixels."""
        angles = self.torus_result.frequency.angles[0]
        quotient, gradient = WaveSum(kernel, self.single, angles, ops=self.ops).bound()
        no_vector = self.xp.zeros((1, 0), dtype=kernel.dtype, device=self.ops.device(kernel))
        return LayerBounds(
            lower=norm_of_restriction(self.component, self.component, quotient),
            upper=self.padded(self.torus_result.upper),
            u=no_vector,
            v=no_vector,
            gradient=self._gradient_of_group(gradient, group),
            bound_source=BoundSource.SUPREMUM,
        )

    def _after_lanczos(
        self,
        vectors: Array,
        kernel: Array,
        single: ConvSpec,
        steps: int,
    ) -> Array:
        """Vectors (1, 1, size of the large side) after some Lanczos steps on one group's layer.

        What is proven is a quotient of the vector, however it was computed: float32 does for most of the way.
        """
        xp = self.xp
        if self.rtol >= _DEFAULT_RTOL and steps <= TUNING.closer_steps:
            kernel_used = xp.astype(kernel, xp.float32)
        else:
            kernel_used = kernel
        layer = Convolution(kernel_used, single, budget=self._patch_memory, ops=self.ops)
        # From the large side to the small one, and back.
        if single.transposed:
            gram = composed(layer.adjoint, layer.apply)
        else:
            gram = composed(layer.apply, layer.adjoint)
        plan = Plan(steps, 0, min(1e-6, self.rtol / 100))
        start = xp.astype(vectors, kernel_used.dtype)
        vectors, _ = top_vectors(gram, kernel_used, vectors.shape[2], 1, plan, start=start, ops=self.ops)
        return xp.astype(vectors, kernel.dtype)

    def by_circulant(self, bounds: LayerBounds, *, only_one: bool) -> LayerBounds:
        """The bounds with that of a circulant, if it is lower."""
        fewest = self.shortest_circulant
        if fewest is None:
            return bounds
        upper, cells, levels = bound_by_circulant(
            self.spec,
            self.torus_search,
            self.torus_result,
            fewest,
            lower=bounds.lower.value,
            rtol=self.rtol,
            max_cells=self.problem.max_cells,
            only_one=only_one,
        )
        with_cost = replace(bounds, cells=bounds.cells + cells, levels=bounds.levels + levels)
        return with_cost.with_upper(upper, BoundSource.CIRCULANT)

    def by_matrix(self, groups: np.ndarray, lower: float) -> LayerBounds:
        """Bounds of the largest norm of some groups, the open ones or all, by their own matrices.

        Of a group below ``lower`` no more is proven than that.
        """
        kernels = arrays.rows(self.kernels, groups, ops=self.ops)
        result = enclose_by_matrix(kernels, self.single, self.plan, rtol=self.rtol, lower=lower, ops=self.ops)
        proven = [upper for upper in result.upper if upper is not None]
        upper: Upper | None = None
        if len(proven) == len(groups):
            others = None if self._open_groups is None else self._open_groups.others
            upper = norm_of_groups(self.spec, proven, others)
        best = max(range(len(groups)), key=lambda j: result.lower[j].value)
        return self.bounds_of_group(
            result.lower[best],
            upper,
            Convolution(kernels[best : best + 1, ...], self.single, ops=self.ops),
            result.u[best : best + 1, :],
            result.v[best : best + 1, :],
            group=int(groups[best]),
            restriction=self.component,
            source=BoundSource.MATRIX,
        )

    def bounds_of_group(
        self,
        lower: Lower,
        upper: Upper | None,
        layer: Convolution,
        u: Array,
        v: Array,
        *,
        group: int,
        restriction: PolyphaseComponent,
        source: BoundSource,
    ) -> LayerBounds:
        """Bounds of the whole layer from those of one group on a restriction, with its vectors and gradient.

        Parameters
        ----------
        layer : Convolution
            The restriction of that group.
        u, v : arrays, shapes (1, outputs) and (1, inputs)
            Singular vectors of the restriction.
        """
        gradient = layer.kernel_gradient(u[:, None, :], v[:, None, :])[:, 0, ...]
        inputs, outputs = witness_shapes(self.problem.spec)
        input_places = [axis.pixel for axis in restriction.axes]
        output_places = [axis.output for axis in restriction.axes]
        if self.spec.transposed:
            input_places, output_places = output_places, input_places
        return LayerBounds(
            lower=norm_of_restriction(self.component, restriction, lower),
            upper=upper,
            u=self._placed(u, group, layer.shapes[1], outputs, output_places),
            v=self._placed(v, group, layer.shapes[0], inputs, input_places),
            gradient=self._gradient_of_group(gradient, group),
            bound_source=source,
        )

    # -- vectors -----------------------------------------------------------------------------------------------------
    def _gradient_of_group(self, gradient: Array, group: int) -> Array:
        """Gradient of one group's kernel as that of the whole layer's; the other groups have zeros."""
        index = self.ops.from_numpy(np.asarray([group], dtype=np.int64), gradient)
        by_group = arrays.one_hot(gradient, index, self.groups, xp=self.xp)
        return self.xp.reshape(by_group, self.problem.kernel.shape)

    def _placed(
        self,
        vector: Array,
        group: int,
        shape: tuple[int, ...],
        whole_shape: tuple[int, ...],
        places: list[tuple[int, int]],
    ) -> Array:
        """A vector (1, n) of one group's restriction as one of the whole layer.

        Parameters
        ----------
        shape, whole_shape : tuple of int
            Channels and pixels of both; (0,) where the whole is too large to be returned: then it is empty.
        places : list of (first, step)
            Where the restriction's pixels are along each axis.
        """
        if whole_shape == (0,):
            return vector[:, :0]
        channels = slice(group * shape[0], (group + 1) * shape[0])
        pixels = []
        for (first, step), count in zip(places, shape[1:], strict=True):
            pixels.append(slice(first, first + step * (count - 1) + 1, step))
        whole = self.xp.zeros(whole_shape, dtype=vector.dtype, device=self.ops.device(vector))
        whole[(channels, *pixels)] = self.xp.reshape(vector, shape)
        return self.xp.reshape(whole, (1, -1))


def fewest_points(spec: ConvSpec, search: Search) -> tuple[int, ...] | None:
    """Points of the shortest circulant: 1 along axes where the symbol is constant, None if all axes are such."""
    kernel_shape = search.blocks.shape[3:]
    if all(taps == 1 for taps in kernel_shape):
        return None
    return tuple(1 if taps == 1 else points for points, taps in zip(shortest(spec), kernel_shape, strict=True))


def no_bounds(problem: Problem, spec: ConvSpec, *, ops: ArrayOps) -> LayerBounds:
    """Bounds of a layer, or of one of its components, before any attempt."""
    kernel = problem.kernel
    inputs, outputs = witness_shapes(problem.spec)

    def zeros(shape: tuple[int, ...]) -> Array:
        return ops.xp.zeros((1, math.prod(shape)), dtype=kernel.dtype, device=ops.device(kernel))

    return LayerBounds(
        lower=nothing(spec),
        upper=None,
        u=zeros(outputs),
        v=zeros(inputs),
        gradient=ops.xp.zeros_like(kernel),
        bound_source=BoundSource.MATRIX,
    )


def witness_shapes(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the layer's input and output; (0,) where they are too large for their vectors to be returned."""
    inputs, outputs = shapes_of(spec)
    if math.prod(inputs) + math.prod(outputs) > TUNING.witness_entries:
        return (0,), (0,)
    return inputs, outputs


class Supremum:
    """The supremum over all sizes, and the search that encloses it, made when first asked for.

    Attributes
    ----------
    is_loose : bool
        Whether the tolerance was wider than asked for: at this size the layer will be far below its supremum, and the
        circulant that is searched anyway needs no more than a bound.
    """

    def __init__(self, problem: Problem, *, ops: ArrayOps) -> None:
        self._problem = problem
        self._ops = ops
        # The kernel is in torch's order already.
        self._spec_of_all_sizes = replace(problem.spec, input_shape=None, layout=None)
        self._result: tuple[Search, SearchResult] | None = None
        self.is_loose = False

    def __call__(self) -> tuple[Search, SearchResult]:
        """The search and its result, only as close as the attempts that follow need it."""
        if self._result is None:
            is_constant = all(taps == 1 for taps in self._blocks().shape[3:])
            rtol = self._problem.rtol
            if not is_constant and reads_zeros(self._problem.spec):
                rtol = self._tolerance()
            self.is_loose = rtol > self._problem.rtol
            self._result = self._search(rtol)
        return self._result

    def refine(self) -> Upper | None:
        """Search to the tolerance that was asked for."""
        return self._search(self._problem.rtol)[1].upper

    def _search(self, rtol: float) -> tuple[Search, SearchResult]:
        problem = self._problem
        # The lower bound at the size follows, however the search ends.
        clock = problem.clock.before(min(self._seconds_of_wave(), TUNING.wave_time * problem.clock.seconds))
        return search_torus(
            Problem(self._blocks(), self._spec_of_all_sizes, rtol, problem.max_cells, clock),
            ops=self._ops,
        )

    def _seconds_of_wave(self) -> float:
        """Seconds of the lower bound near the supremum's wave, on all pixels of a group."""
        kernel = self._problem.kernel
        pixels = max(math.prod(shape[1:]) for shape in shapes_of(self._problem.spec))
        work = TUNING.wave_passes * math.prod(kernel.shape) / self._problem.spec.groups * pixels
        return work / RATE

    def _blocks(self) -> Array:
        """Blocks of the whole layer, as they are searched."""
        return polyphase.to_blocks(self._problem.kernel, self._spec_of_all_sizes, xp=self._ops.xp)

    def _tolerance(self) -> float:
        """Tolerance with which the supremum of a large layer is enough by itself, if the layer is as near as most."""
        rtol = self._problem.rtol
        below = self._estimated_distance()
        if below > rtol:
            return max(rtol, TUNING.loose_rtol)
        likely_distance = below if below < TUNING.supremum_share * rtol else 0.0
        return max(0.97 * rtol - likely_distance, (1 - TUNING.supremum_share) * _DEFAULT_RTOL)

    def _estimated_distance(self) -> float:
        """How far the layer's norm is below the supremum, relatively, as its pixels and taps let expect.

        A wave under a sine window over n pixels is spread over frequencies by ``pi / n``. Of k taps, the symbol's norm
        that far from its maximum is lower by about ``((k - 1) pi / n)**2 / 24``.
        """
        spec = self._problem.spec
        components = polyphase_components(spec)
        distances = []
        for j, taps in enumerate(spec.kernel_shape):
            pixels = max(1, min(component.axes[j].pixels for component in components))
            distances.append(((taps - 1) * math.pi / pixels) ** 2 / 24)
        return sum(distances)


def find_open_groups(
    blocks: Array,
    bound: float,
    *,
    max_cells: int,
    clock: Clock,
    ops: ArrayOps,
) -> OpenGroups:
    """Find the groups whose supremum over all frequencies is not proven to be at most a bound.

    Parameters
    ----------
    blocks : array, shape (groups, m, p, *kernel_shape)
        Scaled to about 1.
    max_cells : int
        Budget of each search.
    clock : Clock
        Ends the searches.
    """
    every_group = np.arange(blocks.shape[0])
    if len(every_group) == 1 or not bound > 0:
        return OpenGroups(every_group, None)
    estimates = _estimated_norms(blocks, ops=ops)
    lower_groups = np.flatnonzero(estimates < TUNING.lower_group * bound)
    for _ in range(TUNING.lower_group_tries):
        if not len(lower_groups):
            break
        search = Search(arrays.rows(blocks, lower_groups, ops=ops), clock=clock, ops=ops)
        result = search.run(torus(tuple(blocks.shape[3:])), bound=bound, max_cells=max_cells)
        if result.upper is not None and result.upper <= bound:
            return OpenGroups(np.setdiff1d(every_group, lower_groups), result.upper)
        if result.lower <= bound:
            break
        # One of them is not lower after all.
        lower_groups = np.delete(lower_groups, result.block)
    return OpenGroups(every_group, None)


def _estimated_norms(blocks: Array, *, ops: ArrayOps) -> np.ndarray:
    """Largest norms of blocks (groups, m, p, *kernel_shape) on a coarse grid, shape (groups,)."""
    xp = ops.xp
    kernel_shape = tuple(blocks.shape[3:])
    if min(blocks.shape[1:3]) > 1:
        symbols = Symbol(blocks, coarse_grid(kernel_shape), ops=ops).matrices()
        return ops.to_numpy(xp.max(xp.linalg.svdvals(symbols), axis=(1, 2)))
    # Scalar symbols: there is nothing to factorise, and a grid twice as fine costs next to nothing.
    grid: Frequencies = coarse_grid(kernel_shape)
    if math.prod(kernel_shape) <= _FEW_TAPS:
        grid = half_grid([1 if taps == 1 else 4 * taps for taps in kernel_shape])
    symbols = Symbol(blocks, grid, ops=ops).matrices()
    return ops.to_numpy(xp.max(xp.linalg.vector_norm(symbols, axis=(2, 3)), axis=1))


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
    kernels: Array,
    spec: ConvSpec,
    plan: BlockPlan,
    *,
    rtol: float,
    lower: float = 0.0,
    ops: ArrayOps,
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
        Lower bound of the whole layer's norm. Of a group below it no more is proven than that.
    """
    xp = ops.xp
    step = max(1, ops.memory // plan.memory)
    chunks: list[GroupBounds] = []
    for start in range(0, kernels.shape[0], step):
        stop = min(start + step, kernels.shape[0])
        chunk = _MatrixEnclosure(kernels[start:stop, ...], spec, plan, ops=ops).enclose(rtol, lower)
        chunks.append(chunk)
        lower = max(lower, *(bound.value for bound in chunk.lower))
    return GroupBounds(
        lower=[bound for chunk in chunks for bound in chunk.lower],
        upper=[bound for chunk in chunks for bound in chunk.upper],
        u=xp.concat([chunk.u for chunk in chunks], axis=0),
        v=xp.concat([chunk.v for chunk in chunks], axis=0),
    )


class _MatrixEnclosure:
    """Bounds of the norms of a stack of layers of one group: Lanczos from below, a factorisation from above."""

    def __init__(
        self,
        kernels: Array,
        spec: ConvSpec,
        plan: BlockPlan,
        *,
        ops: ArrayOps,
    ) -> None:
        self.kernels = kernels
        self.spec = spec
        self.plan = plan
        self.ops = ops
        self.xp = ops.xp
        self.layer = Convolution(kernels, spec, ops=ops)
        # Whether the vectors are outputs of the layer: a transposed layer's inputs are the small side.
        self.of_outputs = plan.wide != spec.transposed
        self.gram: LinearMap
        if self.of_outputs:
            self.gram = composed(self.layer.adjoint, self.layer.apply)
        else:
            self.gram = composed(self.layer.apply, self.layer.adjoint)

    def enclose(self, rtol: float, lower: float) -> GroupBounds:
        """Enclose each norm, or prove that it is below ``lower``."""
        vectors = self._lanczos(TUNING.matrix_steps, rtol, None)
        lowers, images = quotients(self.layer, vectors, self.of_outputs, ops=self.ops)
        gram = LayerGram(self.layer, self.plan, ops=self.ops)
        uppers = gram.norms_near(self._targets(lowers, lower, 0.5 * rtol))
        if not self._within(uppers, lowers, lower, rtol):
            vectors, images, lowers = self._closer_below(gram, vectors, images, lowers, rtol)
            uppers = self._closer_above(gram, uppers, lowers, lower, rtol)
        uppers = gram.or_zero(uppers)
        if self.of_outputs:
            u, v = vectors, images
        else:
            u, v = images, vectors
        return GroupBounds(lowers, uppers, u[:, 0, :], v[:, 0, :])

    def _closer_below(
        self,
        gram: LayerGram,
        vectors: Array,
        images: Array,
        lowers: list[Lower],
        rtol: float,
    ) -> tuple[Array, Array, list[Lower]]:
        """Vectors, images and lower bounds, where an eigenvalue routine or more Lanczos steps give higher ones."""
        if self.plan.blocks == 1:
            _, top = arrays.top_eigenpair(gram.matrix.diagonal[:, 0, :, :], xp=self.xp)
            other_vectors = to_layer(top[:, None, :], self.spec, self.plan, xp=self.xp)
        else:
            other_vectors = self._lanczos(TUNING.matrix_retry_steps, rtol, vectors)
        other_lowers, other_images = quotients(self.layer, other_vectors, self.of_outputs, ops=self.ops)
        is_higher = [other > bound for other, bound in zip(other_lowers, lowers, strict=True)]
        chosen = self.ops.from_numpy(np.asarray(is_higher), vectors)[:, None, None]
        return (
            self.xp.where(chosen, other_vectors, vectors),
            self.xp.where(chosen, other_images, images),
            [greatest(bound, other) for bound, other in zip(lowers, other_lowers, strict=True)],
        )

    def _closer_above(
        self,
        gram: LayerGram,
        uppers: list[Upper | None],
        lowers: list[Lower],
        lower: float,
        rtol: float,
    ) -> list[Upper | None]:
        """Upper bounds after proofs with wider and wider tolerances, and one near the computed eigenvalues."""
        for multiple in TUNING.matrix_retry_rtols:
            if self._within(uppers, lowers, lower, rtol):
                break
            wider = gram.norms_near(self._targets(lowers, lower, multiple * rtol))
            uppers = _smaller_of_each(uppers, wider)
        if self.plan.blocks == 1:
            near_eigenvalues = gram.norms_near(_limits_near_eigenvalues(gram, ops=self.ops))
            uppers = _smaller_of_each(uppers, near_eigenvalues)
        return uppers

    def _lanczos(self, steps: int, rtol: float, start: Array | None) -> Array:
        """Top singular vectors of the smaller side, as far as some steps come, shape (b, 1, size)."""
        size = self.layer.shape[0 if self.of_outputs else 1]
        plan = Plan(steps, 0, min(1e-6, rtol / 100))
        vectors, _ = top_vectors(self.gram, self.kernels, size, 1, plan, start=start, ops=self.ops)
        return vectors

    def _targets(self, lowers: list[Lower], lower: float, rtol: float) -> np.ndarray:
        """What each norm is to be proven to be at most."""
        return np.asarray([max(bound.value, lower) * (1 + rtol) for bound in lowers])

    def _within(
        self,
        uppers: list[Upper | None],
        lowers: list[Lower],
        lower: float,
        rtol: float,
    ) -> bool:
        """Whether every norm is proven to be at most its target."""
        values = np.asarray([finite(upper) for upper in uppers])
        return bool(np.all(values <= self._targets(lowers, lower, rtol)))


def _smaller_of_each(some: list[Upper | None], others: list[Upper | None]) -> list[Upper | None]:
    """The smaller of two bounds of each norm, of which either may be missing."""
    return [other if bound is None else least(bound, other) for bound, other in zip(some, others, strict=True)]


def _limits_near_eigenvalues(gram: LayerGram, *, ops: ArrayOps) -> np.ndarray:
    """Limits (b,) as close as a factorisation comes to the computed eigenvalues of Gram matrices in one block.

    They help where quotients are lost in the roundings of taps that cancel.
    """
    xp = ops.xp
    matrices = gram.matrix.diagonal[:, 0, :, :]
    size = matrices.shape[-1]
    eigenvalues, _ = arrays.top_eigenpair(matrices, xp=xp)
    # Allowance for the proof itself, as in `norms.matrix_norm_up`, and for the error of the matrix.
    allowance = 1 + 2 * size * norms.cholesky_loss(size, gram.matrix.diagonal, xp=xp)
    limits_sq = xp.maximum(eigenvalues, xp.zeros_like(eigenvalues)) * allowance + gram.error
    unit = float(xp.finfo(gram.error.dtype).eps) / 2
    return np.asarray(ops.to_numpy(xp.sqrt(limits_sq) * (1 + 32 * unit)))
