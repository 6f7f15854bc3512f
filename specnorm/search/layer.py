"""Proven bounds of a layer's norm at one input size, any geometry: a list of attempts, from the cheapest.

From below by a sum of waves, or by Lanczos on the layer. From above by the first that comes close enough: the supremum
over all sizes, circulants (zero padding), a circulant without its highest waves, the layer's own Gram matrix. Small
layers have the last one done at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from specnorm.certified.bound import finite
from specnorm.certified.layer.circulant import reads_zeros
from specnorm.certified.layer.components import norms_of_parts, norms_of_patch, polyphase_components
from specnorm.problem.layer_map import Convolution
from specnorm.result import BoundSource
from specnorm.search.component import ComponentSearch, no_bounds
from specnorm.search.constant import SMALLEST, enclose_matrices
from specnorm.search.layer_bounds import TUNING, LayerBounds, LayerProblem
from specnorm.search.supremum import Supremum

if TYPE_CHECKING:
    from specnorm.problem.spec import ConvSpec
    from specnorm.types import ArrayOps


class Attempt(Protocol):
    """One way to bounds that are closer: asked whether it is affordable, and only then run."""

    def affordable(self, layer: ComponentSearch, bounds: LayerBounds) -> bool:
        """Whether it can be run, and is worth its time with what is known."""

    def run(self, layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
        """The better of what was known and what it proves."""


def enclose_layer(problem: LayerProblem, *, ops: ArrayOps) -> LayerBounds:
    """Enclose the norm of a layer with at least one axis, at ``spec.input_shape``, whatever its geometry."""
    whole = Supremum(problem, ops=ops)
    components = polyphase_components(problem.spec)
    parts = [_enclose(ComponentSearch(problem, component, whole, TUNING, ops=ops)) for component in components]
    if not parts:
        zero = no_bounds(problem, problem.spec, TUNING, ops=ops)
        return replace(zero, upper=norms_of_parts(problem.spec, [])[1])
    return _direct_sum(problem.spec, parts)


def _enclose(layer: ComponentSearch) -> LayerBounds:
    """Each attempt that is affordable, in their order, until the bounds are close enough."""
    bounds = no_bounds(layer.problem, layer.spec, layer.tuning, ops=layer.ops)
    for attempt in ATTEMPTS:
        if bounds.within(layer.rtol):
            break
        if attempt.affordable(layer, bounds):
            bounds = attempt.run(layer, bounds)
    return bounds


def _direct_sum(spec: ConvSpec, parts: list[LayerBounds]) -> LayerBounds:
    """Bounds of a layer from those of its `polyphase_components`, at least one."""
    low, high = max(parts, key=lambda x: x.lower.value), max(parts, key=lambda x: finite(x.upper))
    cells, levels = (max(getattr(x, name) for x in parts) for name in ("cells", "levels"))
    lower, upper = norms_of_parts(spec, [(x.lower, x.upper) for x in parts])
    return LayerBounds(lower, upper, low.u, low.v, low.gradient, high.bound_source, cells, levels)


@dataclass(frozen=True)
class Patch:
    """Of a layer with one output (transposed: input) an axis: the matrix of the taps that it reads."""

    def affordable(self, layer: ComponentSearch, bounds: LayerBounds) -> bool:
        """Where that is what the layer is, and no small matrix."""
        if not reads_zeros(layer.spec) or any(x.outputs > 1 for x in layer.component.parts):
            return False
        first, second = layer.parts.shape[1:3]
        return min(first, second * int(np.prod([x.pixels for x in layer.component.parts]))) >= SMALLEST

    def run(self, layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
        """By the matrices of all groups."""
        taps = layer.parts[(..., *(slice(x.before, x.before + x.pixels) for x in layer.component.parts))]
        matrix = layer.xp.reshape(taps, (*taps.shape[:2], -1))
        found = enclose_matrices(matrix, layer.rtol, ops=layer.ops)
        if found.upper is None or not found.within(layer.rtol):
            return bounds
        one = Convolution(layer.parts[found.index : found.index + 1, ...], layer.single, ops=layer.ops)
        u, v = (found.v, found.u) if layer.spec.transposed else (found.u, found.v)
        lower, upper = norms_of_patch(layer.component, found.lower, found.upper)
        return layer.bounds_of(lower, upper, one, u, v, found.index, layer.component, BoundSource.MATRIX)


@dataclass(frozen=True)
class SmallMatrix:
    """The layer's own matrix, at once."""

    def affordable(self, layer: ComponentSearch, bounds: LayerBounds) -> bool:
        """Where that is less work than a search."""
        return layer.is_small

    def run(self, layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
        """Of all groups."""
        return bounds.intersect(layer.by_matrix(np.arange(layer.groups), bounds.lower.value))


@dataclass(frozen=True)
class NearSupremum:
    """From above the supremum over all sizes; from below a wave near its frequency."""

    def affordable(self, layer: ComponentSearch, bounds: LayerBounds) -> bool:
        """Always."""
        return True

    def run(self, layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
        """In few steps, unless closer bounds are asked for."""
        steps = layer.tuning.steps if layer.rtol >= 1e-3 else layer.tuning.more
        return layer.by_supremum(bounds.intersect(layer.near_supremum(steps, layer.tuning.applied)))


@dataclass(frozen=True)
class BestCirculant:
    """The circulant that is farthest from the maximum of the torus; the other ones too, unless something follows."""

    def affordable(self, layer: ComponentSearch, bounds: LayerBounds) -> bool:
        """Where the layer is a compression of circulants."""
        return layer.fewest is not None and not layer.problem.expired

    def run(self, layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
        """Search it."""
        return layer.by_circulants(bounds, only_one=layer.one_circulant)


@dataclass(frozen=True)
class Deflation:
    """A circulant without its highest waves, which are met with the pixels.

    Parameters
    ----------
    first : bool
        Take out few waves, and prove nothing wider.
    """

    first: bool

    def affordable(self, layer: ComponentSearch, bounds: LayerBounds) -> bool:
        """Without stride."""
        tried = not self.first and layer.rtol < 1e-3
        return layer.is_plain and not tried and bool(layer.deflated(bounds))

    def run(self, layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
        """Of each open group."""
        limits = (bounds.lower.value, layer.closeness, layer.problem.deadline)
        return layer.lowered(bounds, [x.upper(*limits, first=self.first) for x in layer.deflated(bounds)])


@dataclass(frozen=True)
class MoreSteps:
    """From below: more steps on the whole layer, before more waves are taken out."""

    def affordable(self, layer: ComponentSearch, bounds: LayerBounds) -> bool:
        """Where all of it fits: in a restriction of a larger layer they come no closer than the waves on all of it."""
        fits = layer.size * layer.tuning.closer <= layer.tuning.again * layer.tuning.applied
        return fits and layer.is_plain and layer.rtol >= 1e-3 and bool(layer.deflated(bounds))

    def run(self, layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
        """Near the wave of the supremum."""
        applied = layer.tuning.again * layer.tuning.applied
        return bounds.intersect(layer.near_supremum(layer.tuning.closer, applied))


@dataclass(frozen=True)
class OwnMatrix:
    """The layer's own matrix, where nothing else came close enough."""

    def affordable(self, layer: ComponentSearch, bounds: LayerBounds) -> bool:
        """In some seconds, if it was not tried at once."""
        return not layer.is_small and not layer.problem.expired and layer.work(bounds) <= layer.tuning.work

    def run(self, layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
        """Of the open groups."""
        return bounds.intersect(layer.by_matrix(layer.open_groups(bounds), bounds.lower.value))


@dataclass(frozen=True)
class RefinedSupremum:
    """The supremum as closely as was asked for."""

    def affordable(self, layer: ComponentSearch, bounds: LayerBounds) -> bool:
        """Where it is known less closely, since a circulant was to follow."""
        return layer.supremum.is_loose and not layer.problem.expired

    def run(self, layer: ComponentSearch, bounds: LayerBounds) -> LayerBounds:
        """Search it again."""
        return bounds.with_upper(layer.padded(layer.supremum.refine()), BoundSource.SUPREMUM)


ATTEMPTS: tuple[Attempt, ...] = (
    Patch(),
    SmallMatrix(),
    NearSupremum(),
    BestCirculant(),
    Deflation(first=True),
    MoreSteps(),
    Deflation(first=True),
    Deflation(first=False),
    OwnMatrix(),
    RefinedSupremum(),
)
"""In this order, each if it is affordable, until the bounds are close enough."""
