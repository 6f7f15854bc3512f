"""Two proven bounds of the norm of a layer at one size, with their witness."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from specnorm.at_size import layer_tuning
from specnorm.geometry.taps import shapes_of
from specnorm.proofs.bound import greatest, least, trivial_lower
from specnorm.running.result import BoundSource
from specnorm.running.search import Bounds

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.geometry.spec import ConvSpec
    from specnorm.proofs.bound import Upper


@dataclass(frozen=True, eq=False)
class LayerBounds(Bounds):
    """Two proven bounds of ``||A||``.

    Parameters
    ----------
    u, v : arrays, shapes (1, outputs) and (1, inputs)
        Unit vectors with ``<u, A v>`` equal to ``lower`` but for rounding; empty if they are too large.
    gradient : callable
        Returns the gradient of ``<u, A v>`` with respect to the kernel, shape (1, *shape).
    bound_source : BoundSource
        Source of the upper bound; without a meaning if there is none.
    cells, levels : int
        Totals of searches in turn; the largest of parts that were searched side by side.
    """

    u: Array
    v: Array
    gradient: Callable[[], Array]
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


def no_bounds(kernel: Array, layer: ConvSpec, spec: ConvSpec, *, ops: ArrayOps) -> LayerBounds:
    """Bounds of a layer with a kernel (1, *shape), or of one of its components, before any attempt."""
    inputs, outputs = witness_shapes(layer)

    def zeros(shape: tuple[int, ...]) -> Array:
        return ops.xp.zeros((1, math.prod(shape)), dtype=kernel.dtype, device=ops.device(kernel))

    return LayerBounds(
        lower=trivial_lower(spec),
        upper=None,
        u=zeros(outputs),
        v=zeros(inputs),
        gradient=partial(ops.xp.zeros_like, kernel),
        bound_source=BoundSource.MATRIX,  # without a meaning: there is no upper bound
    )


def witness_shapes(spec: ConvSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the layer's input and output; (0,) for both if they are too large for vectors to be returned."""
    inputs, outputs = shapes_of(spec)
    if math.prod(inputs) + math.prod(outputs) > layer_tuning.TUNING.witness_entries:
        return (0,), (0,)
    return inputs, outputs
