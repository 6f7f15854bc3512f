"""One polyphase component of a layer at one size: what the attempts to bound its norm share, and each kind of bound.

A layer is the direct sum of its components, often of one alone (`at_size.proofs.components`).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size import layer_tuning
from specnorm.at_size.circulants import bound_by_circulant
from specnorm.at_size.groups import find_open_groups
from specnorm.at_size.own_matrix import enclose_by_matrix
from specnorm.at_size.proofs.block_tridiagonal import BlockPlan, plans
from specnorm.at_size.proofs.circulant import shortest
from specnorm.at_size.proofs.components import PolyphaseComponent, norm_of_groups, norm_of_restriction
from specnorm.at_size.wave_sum import WaveSum
from specnorm.backends import arrays
from specnorm.geometry.layer_map import Convolution
from specnorm.power.plane_wave import windowed_wave
from specnorm.power.proofs.ritz import quotients
from specnorm.proofs.found import BoundSource, Found, Witness
from specnorm.running.proofs import padding
from specnorm.running.search import Clock, Problem
from specnorm.supremum import tuning
from specnorm.symbols import lanczos

if TYPE_CHECKING:
    from specnorm.at_size.supremum import Supremum
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Lower, Upper


class ComponentBounds:
    """Each kind of bound of one component of a layer (`PolyphaseComponent`), and what the attempts share.

    Attributes
    ----------
    kernels : array, shape (groups, first, second, *kernel_shape)
        The layer's kernel by groups.
    group_spec : ConvSpec
        Geometry of one group.
    gram_plan : BlockPlan
        The form of one group's Gram matrix with the least work, of those that fit the memory if any does.
    proof_rtol : float
        Tolerance asked of a proof, so that the answer is within ``rtol`` after rounding.
    """

    def __init__(
        self,
        kernel: Array,
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
        self.proof_rtol = tuning.PROOF_SHARE * problem.rtol
        self.groups = problem.spec.groups
        self.group_spec = component.spec.of_group
        self.kernel = kernel
        self.kernels = self.xp.reshape(kernel, (self.groups, kernel.shape[1] // self.groups, *kernel.shape[2:]))
        self._open_groups: np.ndarray | None = None
        self._bound_of_others: Upper | None = None

    # -- what is affordable ------------------------------------------------------------------------------------------
    @cached_property
    def gram_plan(self) -> BlockPlan:
        """How the layer's own matrix is formed with the least work, in the memory if there is such a way."""
        return min(plans(self.group_spec), key=lambda plan: (plan.memory > self.ops.memory, plan.work))

    @property
    def is_small(self) -> bool:
        """Whether the layer's own matrix is less work than a search."""
        # The plan of many rows is not asked for: it takes a pass over the layer's pixels.
        may_be = fewest_rows(self.group_spec) / 3 <= layer_tuning.IMMEDIATE_WORK
        return may_be and self.gram_plan.work * self.groups <= layer_tuning.IMMEDIATE_WORK

    @property
    def points_of_shortest(self) -> tuple[int, ...] | None:
        """Points per axis of the shortest circulant whose compression the layer is; None if none is of use.

        Along an axis on which the symbol is constant it is 1 point, not the number that `shortest` returns.
        """
        if not self.spec.reads_zeros:
            return None
        taps = self.supremum.search.blocks.shape[3:]
        if all(k == 1 for k in taps):
            return None
        return tuple(1 if k == 1 else points for k, points in zip(taps, shortest(self.spec), strict=True))

    # -- the supremum over all sizes ---------------------------------------------------------------------------------
    def by_supremum(self, bounds: Found) -> Found:
        """The bounds with the supremum, if that is lower with the padding, and with the cost of its search."""
        result = self.supremum.result
        with_cost = replace(bounds, cells=bounds.cells + result.cells, levels=bounds.levels + result.levels)
        upper = None
        if result.upper is not None:
            kernels = self.ops.to_numpy(self.kernels) if padding.is_split_by_parity(self.spec) else None
            upper = padding.padded_norm(result.upper, self.spec, kernels)
        return with_cost.with_upper(upper, BoundSource.SUPREMUM)

    # -- groups ------------------------------------------------------------------------------------------------------
    def open_groups(self, bounds: Found) -> np.ndarray:
        """Numbers of the groups that may have the layer's norm; the first call searches for them, and keeps them."""
        if self._open_groups is None:
            # Padding that repeats pixels multiplies the norm of a symbol by up to sqrt(padding_gain_sq).
            target = bounds.lower.value / math.sqrt(self.spec.padding_gain_sq)
            self._open_groups, self._bound_of_others = find_open_groups(
                self.supremum.search.blocks,
                target,
                max_cells=self.problem.max_cells,
                clock=self.problem.clock,
                ops=self.ops,
            )
        return self._open_groups

    def matrix_work(self, bounds: Found) -> float:
        """Multiplications of a proof by the matrices of the open groups; infinite if one does not fit the memory.

        The first call searches for the open groups.
        """
        count = len(self.open_groups(bounds))
        if 8 * 6 * fewest_rows(self.group_spec) > self.ops.memory:  # the least memory and work of a plan
            return math.inf
        return self.gram_plan.work * count if self.gram_plan.memory <= self.ops.memory else math.inf

    # -- bounds ------------------------------------------------------------------------------------------------------
    def near_supremum(self) -> Found:
        """A lower bound by Lanczos steps from a plane wave at the supremum's frequency.

        The lower bound is the quotient of a sum of waves, if no vectors are needed. Otherwise it is the quotient of a
        vector: a sum of waves if that is affordable and good, else a wave under a window; then after Lanczos steps.
        """
        group = self.supremum.result.witness.block
        kernel = self.kernels[group : group + 1, ...]
        steps = layer_tuning.WAVE_STEPS if self._is_loose else layer_tuning.MOST_STEPS
        # A sum of waves may end after the deadline by half of the time that this bound may take.
        wave_sum_in_time = self.problem.clock.affords(self._wave_sum_work, late=layer_tuning.WAVE_TIME / 2)
        if wave_sum_in_time and self._needs_no_vectors(steps):
            return self._by_wave_sum(kernel, group)
        sums_waves = wave_sum_in_time and self._has_wave_sums and self._is_long
        if sums_waves and self._is_loose:
            # A sum of waves is as close without so few steps.
            steps = 0
        restriction = self._restricted(steps)
        group_spec = restriction.spec.of_group
        angles = self.supremum.result.witness.frequency.angles[0]
        if sums_waves:
            vectors = WaveSum(kernel, group_spec, angles, ops=self.ops).vector()
        else:
            vectors = windowed_wave(kernel, group_spec, angles, ops=self.ops)
        work_of_lanczos = 2 * steps * math.prod(axis.pixels for axis in restriction.axes) * math.prod(kernel.shape)
        if steps > 0 and not self.problem.clock.expired and self.problem.clock.affords(work_of_lanczos):
            vectors = self._after_lanczos(vectors, kernel, group_spec, steps)
        layer = Convolution(kernel, group_spec, budget=self._patch_memory, ops=self.ops)
        (lower,), images = quotients(layer, vectors, vectors_are_outputs=group_spec.transposed, ops=self.ops)
        # The vectors are outputs of a transposed layer, inputs of any other.
        if group_spec.transposed:
            u, v = vectors, images
        else:
            u, v = images, vectors
        return self.bounds_of_group(lower, None, layer, u[:, 0, :], v[:, 0, :], group=group, restriction=restriction)

    @property
    def _is_loose(self) -> bool:
        """Whether float32 and few Lanczos steps are enough for the tolerance."""
        return self.rtol >= layer_tuning.LOOSE_RTOL

    @property
    def _has_wave_sums(self) -> bool:
        """Whether `WaveSum` is defined for the layer: zero padding and no stride."""
        return self.spec.reads_zeros and set(self.spec.stride) == {1}

    @property
    def _wave_sum_work(self) -> float:
        """Multiplications of a `WaveSum`: the top singular vectors of the symbol at two angles per axis."""
        first, second, *kernel_shape = self.kernels.shape[1:]
        smaller = min(first, second)
        work_of_one = max(first, second) * smaller**2 + Clock.eigh_cost(smaller, is_complex=True)
        points = math.prod(2 if taps > 1 else 1 for taps in kernel_shape)
        return points * work_of_one

    @property
    def _is_long(self) -> bool:
        """Whether every axis with more than one tap has so many pixels that sums of waves are close."""
        axes = zip(self.component.axes, self.spec.kernel_shape, strict=True)
        return min((axis.pixels for axis, taps in axes if taps > 1), default=0) >= layer_tuning.WAVE_SUM_PIXELS

    @property
    def _patch_memory(self) -> int:
        """Bytes of the patches that may exist at once: a quarter, since they are copied once or twice."""
        return self.ops.memory // 4

    def _restricted(self, steps: int) -> PolyphaseComponent:
        """The component, or its restriction to as many pixels as the steps and the time limit allow."""
        channels = max(self.group_spec.group_channels)
        pixels_in_entries = layer_tuning.LANCZOS_ENTRIES / (max(steps, 1) * channels)
        seconds = layer_tuning.WAVE_TIME * self.problem.clock.seconds
        work_of_pixel = layer_tuning.WAVE_PASSES * math.prod(self.kernels.shape[1:])
        pixels_in_time = seconds / self.problem.clock.seconds_of(work_of_pixel)
        return self.component.restricted(min(pixels_in_entries, pixels_in_time))

    def _needs_no_vectors(self, steps: int) -> bool:
        """Whether the quotient of a sum of waves, which comes without a vector, is enough.

        That is so if the singular vectors are too large to be returned (`witness_shapes`), and if Lanczos would come no
        closer, on fewer pixels, or is not needed for so wide a tolerance.
        """
        if not self._has_wave_sums or witness_shapes(self.problem.spec) != ((0,), (0,)):
            return False
        is_restricted = self._restricted(steps) is not self.component
        return is_restricted or self._is_loose

    def _by_wave_sum(self, kernel: Array, group: int) -> Found:
        """A lower bound by the quotient of a sum of waves, without a pass over the layer's pixels."""
        angles = self.supremum.result.witness.frequency.angles[0]
        waves = WaveSum(kernel, self.group_spec, angles, ops=self.ops)
        quotient = waves.bound()
        no_vector = self.xp.zeros((1, 0), dtype=kernel.dtype, device=self.ops.device(kernel))

        def gradient() -> Array:
            return self._gradient_of_group(waves.gradient(quotient), group)

        # The quotient is that of the whole component, which is a restriction of itself.
        lower = norm_of_restriction(self.component, self.component, quotient)
        return Found(lower, None, Witness(u=no_vector, v=no_vector, gradient=gradient))

    def _after_lanczos(
        self,
        vectors: Array,
        kernel: Array,
        group_spec: ConvSpec,
        steps: int,
    ) -> Array:
        """Vectors (1, 1, size of the large side) after some Lanczos steps on one group's layer.

        The lower bound is a quotient of the vector, valid however the vector was computed: float32 is precise enough.
        """
        xp = self.xp
        kernel_used = xp.astype(kernel, xp.float32) if self._is_loose else kernel
        layer = Convolution(kernel_used, group_spec, budget=self._patch_memory, ops=self.ops)
        # From the large side to the small one, and back.
        gram = layer.gram(group_spec.transposed)
        least_gain = min(1e-6, self.rtol / 100)
        start = xp.astype(vectors, kernel_used.dtype)
        vectors, *_ = lanczos.top_vectors(
            gram, kernel_used, vectors.shape[2], 1, n_iter=steps, least_gain=least_gain, start=start, ops=self.ops
        )
        return xp.astype(vectors, kernel.dtype)

    def by_circulant(self, bounds: Found) -> Found:
        """The bounds with that of a circulant, if it is lower."""
        least_points = self.points_of_shortest
        if least_points is None:
            return bounds
        upper, cells, levels = bound_by_circulant(
            self.spec,
            self.supremum.search,
            self.supremum.result,
            least_points,
            lower=bounds.lower.value,
            rtol=self.rtol,
            max_cells=self.problem.max_cells,
        )
        with_cost = replace(bounds, cells=bounds.cells + cells, levels=bounds.levels + levels)
        return with_cost.with_upper(upper, BoundSource.CIRCULANT)

    def by_matrix(self, groups: np.ndarray, lower: float) -> Found:
        """Bounds of the component, by the own matrices of some groups.

        ``groups``: those that `open_groups` returned, whose bound of all others is taken with them, or all groups if it
        was not called. A group whose norm is below ``lower`` is only proven to be below it.
        """
        kernels = arrays.rows(self.kernels, groups, ops=self.ops)
        result = enclose_by_matrix(kernels, self.group_spec, self.gram_plan, rtol=self.rtol, lower=lower, ops=self.ops)
        proven = [bounds.upper for bounds in result if bounds.upper is not None]
        upper: Upper | None = None
        if len(proven) == len(groups):
            upper = norm_of_groups(self.spec, proven, self._bound_of_others)
        best = max(range(len(groups)), key=lambda j: result[j].lower.value)
        return self.bounds_of_group(
            result[best].lower,
            upper,
            Convolution(kernels[best : best + 1, ...], self.group_spec, ops=self.ops),
            result[best].witness.u,
            result[best].witness.v,
            group=int(groups[best]),
            restriction=self.component,
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
    ) -> Found:
        """Bounds of the whole layer from those of one group on a restriction, with its vectors and gradient.

        ``upper``: by the own matrix, if any. ``layer``: the restriction of that group. ``u``, ``v`` (1, outputs)
        and (1, inputs): singular vectors of the restriction.
        """

        def gradient() -> Array:
            of_group = layer.kernel_gradient(u[:, None, :], v[:, None, :])[:, 0, ...]
            return self._gradient_of_group(of_group, group)

        inputs, outputs = witness_shapes(self.problem.spec)
        input_places = [axis.pixel_positions for axis in restriction.axes]
        output_places = [axis.output_positions for axis in restriction.axes]
        if self.spec.transposed:
            input_places, output_places = output_places, input_places
        witness = Witness(
            u=self._placed(u, group, layer.shapes[1], outputs, output_places),
            v=self._placed(v, group, layer.shapes[0], inputs, input_places),
            gradient=gradient,
        )
        return Found(norm_of_restriction(self.component, restriction, lower), upper, witness, source=BoundSource.MATRIX)

    # -- vectors -----------------------------------------------------------------------------------------------------
    def _gradient_of_group(self, gradient: Array, group: int) -> Array:
        """Gradient of one group's kernel as that of the whole layer's; the other groups have zeros."""
        index = self.ops.from_numpy(np.asarray([group], dtype=np.int64), gradient)
        by_group = arrays.one_hot(gradient, index, self.groups, xp=self.xp)
        return self.xp.reshape(by_group, self.kernel.shape)

    def _placed(
        self,
        vector: Array,
        group: int,
        shape: tuple[int, ...],
        whole_shape: tuple[int, ...],
        places: list[tuple[int, int]],
    ) -> Array:
        """A vector (1, n) of one group's restriction as one of the whole layer.

        ``shape``, ``whole_shape``: channels and pixels of both. If the whole is too large to be returned, its shape is
        (0,), as is the result. ``places``: places of the restriction's pixels along each axis.
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


def witness_shapes(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the layer's input and output; (0,) for both if they are too large for vectors to be returned."""
    inputs, outputs = spec.shapes
    if math.prod(inputs) + math.prod(outputs) > layer_tuning.WITNESS_ENTRIES:
        return (0,), (0,)
    return inputs, outputs


def fewest_rows(spec: ConvSpec) -> int:
    """The smaller number of rows of the two Gram matrices of a layer of one group."""
    large, small = spec.sides
    first, second = spec.group_channels
    return min(second * math.prod(large), first * math.prod(small))
