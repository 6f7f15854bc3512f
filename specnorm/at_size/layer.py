"""Enclose the norm of a layer at one input size, whatever its geometry, by a list of attempts.

Lower bounds come from sums of plane waves and from Lanczos on the layer. Upper bounds come from the supremum over all
sizes, from a circulant (zero padding), and from the layer's Gram matrix.
`ATTEMPTS` lists them in the order in which they are made; the first that brings both bounds close enough is the last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from specnorm.at_size import layer_tuning
from specnorm.at_size.component import ComponentBounds, witness_shapes
from specnorm.at_size.proofs.components import norms_of_parts, norms_of_patch, polyphase_components
from specnorm.at_size.supremum import Supremum
from specnorm.geometry.layer_map import Convolution
from specnorm.proofs.bound import Lower
from specnorm.proofs.found import BoundSource, Found, Witness
from specnorm.supremum.one_tap import enclose_matrices
from specnorm.symbols.lanczos import DIRECT_SIZE

if TYPE_CHECKING:
    from specnorm.at_size.proofs.components import PolyphaseComponent
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.running.search import Problem


def enclose_layer(kernel: Array, problem: Problem, *, ops: ArrayOps) -> Found:
    """Enclose the norm of a layer with at least one axis, at ``spec.input_shape``, whatever its geometry.

    ``kernel`` (1, *shape): in torch's order.
    """
    components = polyphase_components(problem.spec)
    if not components:
        # No output reads a pixel: the layer is a sum of no parts, with the norm 0.
        _, upper_of_zero = norms_of_parts(problem.spec, [])
        return replace(_no_bounds(kernel, problem.spec, problem.spec, ops=ops), upper=upper_of_zero)
    bounds = [_no_bounds(kernel, problem.spec, component.spec, ops=ops) for component in components]
    tolerances = _tolerances(problem.rtol)
    for tolerance in tolerances:
        parts = _parts(kernel, replace(problem, rtol=tolerance), components, ops=ops)
        if tolerance != tolerances[-1] and all(part.is_small for part in parts):
            # Their matrices are factorized at once, to any tolerance.
            continue
        enough = max(tolerance, problem.rtol)
        bounds = [_enclose(part, known, enough) for part, known in zip(parts, bounds, strict=True)]
        result = _direct_sum(problem.spec, bounds)
        # Attempts that did not reach this tolerance would not reach a smaller one.
        if not result.within(enough) or problem.clock.expired:
            break
    return result


def _tolerances(rtol: float) -> list[float]:
    """Tolerances of the attempts of a call, descending: one above 1e-3, or fixed numbers from 1e-3 to its own.

    A call makes every attempt of a call with a larger tolerance of at most 1e-3.
    """
    if rtol > 1e-3:
        return [rtol]
    tolerances = []
    for digits in range(3, 17):
        tolerances.append(10.0**-digits)
        if tolerances[-1] <= rtol:
            break
    return tolerances


def _no_bounds(kernel: Array, layer: ConvSpec, spec: ConvSpec, *, ops: ArrayOps) -> Found:
    """Bounds of a layer with a kernel (1, *shape), or of one of its components, before any attempt."""
    inputs, outputs = witness_shapes(layer)

    def zeros(shape: tuple[int, ...]) -> Array:
        return ops.xp.zeros((1, math.prod(shape)), dtype=kernel.dtype, device=ops.device(kernel))

    witness = Witness(u=zeros(outputs), v=zeros(inputs), gradient=partial(ops.xp.zeros_like, kernel))
    # The source has no meaning: there is no upper bound.
    return Found(Lower.trivial(spec), None, witness, source=BoundSource.MATRIX)


def _parts(
    kernel: Array, problem: Problem, components: Sequence[PolyphaseComponent], *, ops: ArrayOps
) -> list[ComponentBounds]:
    """The components of a layer, which share a search of the supremum."""
    supremum = Supremum(kernel, problem, ops=ops)
    return [ComponentBounds(kernel, problem, component, supremum, ops=ops) for component in components]


def _enclose(part: ComponentBounds, bounds: Found, enough: float) -> Found:
    """Make each attempt in its order until the bounds are close enough, from those that are known."""
    for attempt in ATTEMPTS:
        if bounds.within(enough):
            break
        bounds = attempt(part, bounds)
    return bounds


def _direct_sum(spec: ConvSpec, parts: Sequence[Found]) -> Found:
    lower, upper = norms_of_parts(spec, [(part.lower, part.upper) for part in parts])
    highest_below = max(parts, key=lambda part: part.lower.value)
    highest_above = max(parts, key=lambda part: part.highest)
    return Found(
        lower,
        upper,
        highest_below.witness,
        source=highest_above.source,
        cells=max(part.cells for part in parts),
        levels=max(part.levels for part in parts),
    )


# -- attempts: each takes bounds and returns closer ones, or the same if it does not apply or would take too long ------
def one_patch(part: ComponentBounds, bounds: Found) -> Found:
    """Enclose a layer with a single output position (transposed: input position), which is a matrix of its taps."""
    axes = part.component.axes
    if not part.spec.reads_zeros or any(axis.outputs > 1 for axis in axes):
        return bounds
    first, second = part.kernels.shape[1:3]
    pixels = int(np.prod([axis.pixels for axis in axes]))
    if min(first, second * pixels) <= DIRECT_SIZE:
        # The matrix is so small that the other attempts take no longer than Lanczos.
        return bounds
    taps_read = tuple(slice(axis.before, axis.before + axis.pixels) for axis in axes)
    taps = part.kernels[(..., *taps_read)]
    matrix = part.xp.reshape(taps, (*taps.shape[:2], -1))
    result = enclose_matrices(matrix, part.rtol, ops=part.ops)
    if result.upper is None or not result.within(part.rtol):
        return bounds
    lower, upper = norms_of_patch(part.component, result.lower, result.upper)
    u, v = result.witness.u, result.witness.v
    if part.spec.transposed:
        u, v = v, u
    group = result.witness.block
    return part.bounds_of_group(
        lower,
        upper,
        Convolution(part.kernels[group : group + 1, ...], part.group_spec, ops=part.ops),
        u,
        v,
        group=group,
        restriction=part.component,
    )


def small_matrix(part: ComponentBounds, bounds: Found) -> Found:
    """Factorise the layer's Gram matrix at once, if that is less work than a search."""
    if not part.is_small:
        return bounds
    every_group = np.arange(part.groups)
    return bounds.intersect(part.by_matrix(every_group, bounds.lower.value))


def near_supremum(part: ComponentBounds, bounds: Found) -> Found:
    """Bound from above by the supremum over all sizes, from below by Lanczos from a wave near its frequency."""
    return part.by_supremum(bounds.intersect(part.near_supremum()))


def by_circulant(part: ComponentBounds, bounds: Found) -> Found:
    """Bound by the circulant whose frequencies are farthest from the maximum."""
    return bounds if part.problem.clock.expired else part.by_circulant(bounds)


def own_matrix(part: ComponentBounds, bounds: Found) -> Found:
    """Factorise the Gram matrices of the open groups, in some seconds, if `small_matrix` did not."""
    clock = part.problem.clock
    if part.is_small or clock.expired:
        return bounds
    work = part.matrix_work(bounds)
    if work > layer_tuning.LATE_WORK or not clock.affords(work):
        return bounds
    return bounds.intersect(part.by_matrix(part.open_groups(bounds), bounds.lower.value))


ATTEMPTS: tuple[Callable[[ComponentBounds, Found], Found], ...] = (
    one_patch,
    small_matrix,
    near_supremum,
    by_circulant,
    own_matrix,
)
"""The attempts, in the order in which they are made."""
