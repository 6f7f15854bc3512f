"""Proven bounds of a layer's norm at one input size, any geometry: a list of attempts, from the cheapest.

From below by a sum of waves, or by Lanczos on the layer. From above by the first that comes close enough: the supremum
over all sizes, circulants (zero padding), a circulant without its highest waves, the layer's own Gram matrix. Small
layers have the last one done at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from specnorm.certified.bound import finite
from specnorm.certified.layer.circulant import reads_zeros
from specnorm.certified.layer.components import norms_of_parts, norms_of_patch, polyphase_components
from specnorm.problem.layer_map import Convolution
from specnorm.result import BoundSource
from specnorm.search.component import ComponentSearch, no_bounds
from specnorm.search.constant import SMALLEST, enclose_matrices
from specnorm.search.layer_bounds import TUNING, LayerBounds
from specnorm.search.supremum import Supremum

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.search.result import Problem
    from specnorm.types import ArrayOps


def enclose_layer(problem: Problem, *, ops: ArrayOps) -> LayerBounds:
    """Enclose the norm of a layer with at least one axis, at ``spec.input_shape``, whatever its geometry."""
    whole = Supremum(problem, ops=ops)
    components = polyphase_components(problem.spec)
    parts = [_enclose(ComponentSearch(problem, component, whole, TUNING, ops=ops)) for component in components]
    if not parts:
        zero = no_bounds(problem, problem.spec, TUNING, ops=ops)
        return replace(zero, upper=norms_of_parts(problem.spec, [])[1])
    return _direct_sum(problem.spec, parts)


def _enclose(layer: ComponentSearch) -> LayerBounds:
    """Each attempt in its order until the bounds are close enough; one that is not affordable changes nothing."""
    bounds = no_bounds(layer.problem, layer.spec, layer.tuning, ops=layer.ops)
    for attempt in ATTEMPTS:
        if bounds.within(layer.rtol):
            break
        bounds = attempt(layer, bounds)
    return bounds


def _direct_sum(spec: ConvSpec, parts: list[LayerBounds]) -> LayerBounds:
    """Bounds of a layer from those of its `polyphase_components`, at least one."""
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
    steps = layer.tuning.steps if layer.rtol >= 1e-3 else layer.tuning.more
    return layer.by_supremum(bounds.intersect(layer.near_supremum(steps, layer.tuning.applied)))


def best_circulant(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """The circulant that is farthest from the maximum of the torus; the other ones too, unless something follows."""
    if layer.fewest is None or layer.problem.clock.expired:
        return bounds
    return layer.by_circulants(bounds, only_one=layer.one_circulant)


def few_waves(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """A circulant of each open group without its few highest waves, which are met with the pixels."""
    return _deflation(layer, bounds, first=True)


def more_steps(layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
    """From below: more steps on the whole layer, if all of it fits, before more waves are taken out.

    In a restriction of a larger layer they come no closer than the waves on all of it.
    """
    tuning = layer.tuning
    fits = layer.size * tuning.closer <= tuning.again * tuning.applied
    if not (fits and layer.is_plain and layer.rtol >= 1e-3 and layer.deflated(bounds)):
        return bounds
    return bounds.intersect(layer.near_supremum(tuning.closer, tuning.again * tuning.applied))


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
    if layer.is_small or layer.problem.clock.expired or layer.work(bounds) > layer.tuning.work:
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
