"""Enclosures: lower <= norm <= upper, both proven, by branch and bound over frequencies (`search`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from specnorm.certified.bound import as_array, known
from specnorm.certified.layer.circulant import padded_norm
from specnorm.clock import Clock
from specnorm.methods.base import Evaluation, Method, Needs, check_budget, check_count, check_rtol, weighted
from specnorm.problem import polyphase
from specnorm.problem.taps import shapes_of
from specnorm.result import BoundSource
from specnorm.search.constant import top_gradient, top_triples
from specnorm.search.enclosing import enclose_blocks
from specnorm.search.result import Problem, SearchResult

if TYPE_CHECKING:
    from specnorm.array_types import Array, Namespace
    from specnorm.certified.rounding import Rounds
    from specnorm.problem.spec import ConvSpec
    from specnorm.result import Kind
    from specnorm.search.layer import LayerBounds
    from specnorm.types import ArrayOps


@dataclass(frozen=True)
class Enclose(Method):
    """Proven interval around the norm: of the supremum over all sizes, or of the layer at one size.

    The value is the upper bound; the lower one is in the statistics.

    Parameters
    ----------
    rtol : float
        Relative width asked for. Where the budget does not hold it the interval is wider, and ``converged`` is False.
    max_cells : int
        Budget of one search for each group.
    budget : float, optional
        Seconds for one layer; what has not begun by then is not tried. At the end `FantasticFour` may follow, whose
        cost is fixed.
    """

    rtol: float = 1e-3
    max_cells: int = 100_000
    budget: float | None = None

    name: ClassVar[str] = "enclose"
    promise: ClassVar[Kind] = "upper"
    stats: ClassVar[Mapping[str, Rounds | None]] = {
        "lower": "down",
        **dict.fromkeys(("converged", "bound_source", "cells", "levels", "frequency", "u", "v")),
    }

    def __post_init__(self) -> None:
        check_rtol(self.rtol)
        check_count("max_cells", self.max_cells, least=1)
        check_budget(self.budget)

    def needs(self, spec: ConvSpec) -> Needs:
        """A search for all groups; of the layer itself at a size where symbols do not describe it."""
        symbols = spec.input_shape is None or spec.periodic
        return Needs(rounds="up", precision="wide", narrow_gradient=True, blocks=symbols, by_layer=True, searches=True)

    def check(self, spec: ConvSpec) -> None:
        if not self.needs(spec).blocks:
            shapes_of(spec)

    def forward(self, blocks: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        if not self.needs(spec).blocks:
            return self._at_size(blocks, spec, ops=ops)
        layers = polyphase.by_layers(blocks, spec.groups)
        limits = (spec, self.rtol, self.max_cells)
        found = [enclose_blocks(Problem(layer, *limits, Clock.of(self.budget)), ops=ops) for layer in layers]
        bounds = [f for f, _ in found]
        u, v, _, phase, group = top_triples(layers, [(f.block, f.frequency, f.vectors) for f in bounds], ops=ops)
        done = [done and spec.padding_gain_sq == 1 for _, done in found]
        frequencies = [f.frequency.angles[0] for f in bounds]
        stats = _columns(bounds, done, [0] * len(bounds), frequencies, like=blocks, ops=ops)
        claims = [(f.lower, padded_norm(known(f.upper), spec)) for f in bounds]
        return Evaluation(stats[-1], (*stats[:-1], u, v), (u, v, phase, group), claims)

    def _at_size(self, kernels: Array, spec: ConvSpec, *, ops: ArrayOps) -> Evaluation:
        xp = ops.xp
        found = enclose_layers(kernels, spec, self, ops=ops)
        # A witness of such a layer has no frequency.
        nowhere: list[tuple[float, ...]] = [()] * len(found)
        done = [x.within(self.rtol) for x in found]
        columns = _columns(
            found, done, [list(BoundSource).index(x.bound_source) for x in found], nowhere, like=kernels, ops=ops
        )
        u, v, gradient = (xp.concat([getattr(x, name) for x in found], axis=0) for name in ("u", "v", "gradient"))
        claims = [(x.lower, known(x.upper)) for x in found]
        return Evaluation(columns[-1], (*columns[:-1], u, v), (gradient,), claims)

    def pullback(
        self,
        residuals: tuple[Array, ...],
        cotangent: Array,
        spec: ConvSpec,
        *,
        xp: Namespace,
    ) -> Array:
        if not self.needs(spec).blocks:
            return weighted(residuals, cotangent, xp=xp)
        return top_gradient(residuals, cotangent, spec, xp=xp)


def enclose_layers(
    kernels: Array,
    spec: ConvSpec,
    method: Enclose,
    *,
    ops: ArrayOps,
) -> list[LayerBounds]:
    """Bounds of the norms of layers (b, *shape) at their size, one after another, each within a budget of its own."""
    # A fifth of what there is to import; for a size alone.
    from specnorm.search.layer import enclose_layer

    each = (kernels[j : j + 1, ...] for j in range(kernels.shape[0]))
    limits = (spec, method.rtol, method.max_cells)
    return [enclose_layer(Problem(kernel, *limits, Clock.of(method.budget)), ops=ops) for kernel in each]


def _columns(
    found: list[SearchResult] | list[LayerBounds],
    done: list[bool],
    sources: list[int],
    frequencies: list[Any],
    *,
    like: Array,
    ops: ArrayOps,
) -> tuple[Array, ...]:
    """Lower bounds, convergence, bound sources, cells, levels and frequencies of layers, and their upper bounds."""
    columns = (
        np.asarray(done, dtype=np.bool_),
        np.asarray(sources, dtype=np.int32),
        np.asarray([f.cells for f in found], dtype=np.int32),
        np.asarray([f.levels for f in found], dtype=np.int32),
        np.asarray(frequencies, dtype=np.float64),
    )
    lower = as_array([f.lower for f in found], like, ops=ops)
    upper = as_array([known(f.upper) for f in found], like, ops=ops)
    return lower, *(ops.from_numpy(column, like) for column in columns), upper
