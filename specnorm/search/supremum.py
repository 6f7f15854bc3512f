"""The supremum over all sizes of a layer that runs at one: how closely it is searched for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from specnorm.certified.layer.circulant import reads_zeros
from specnorm.certified.layer.components import polyphase_components
from specnorm.problem import polyphase
from specnorm.search.enclosing import search_torus
from specnorm.search.result import Problem

if TYPE_CHECKING:
    from specnorm.certified.bound import Upper
    from specnorm.search.branch_and_bound import Search
    from specnorm.search.result import SearchResult
    from specnorm.types import Array, ArrayOps


@dataclass(frozen=True, eq=False)
class SupremumTuning:
    """How closely the supremum is searched for. It decides on time alone.

    Parameters
    ----------
    near : float
        Part of the tolerance that the layer may be below the supremum, as most are, for that to be enough.
    loose : float
        Tolerance where the layer will be farther below. Wider ones leave the circulant more frequencies than they save.
    """

    near: float = 0.3
    loose: float = 0.01


TUNING = SupremumTuning()


class Supremum:
    """The supremum over all sizes, and the search it was found by, once they are asked for.

    Attributes
    ----------
    is_loose : bool
        Whether it is known less closely than was asked for: at this size the layer will be far below it, and a
        circulant that is searched anyway needs no more than a bound.
    """

    def __init__(self, problem: Problem, *, ops: ArrayOps) -> None:
        self._problem, self._ops = problem, ops
        # The kernel is in torch's order already.
        self._everywhere = replace(problem.spec, input_shape=None, layout=None)
        self._found: tuple[Search, SearchResult] | None = None
        self.is_loose = False

    def __call__(self) -> tuple[Search, SearchResult]:
        """As closely as what follows needs it."""
        if self._found is None:
            problem, blocks = self._problem, self.blocks()
            constant = all(k == 1 for k in blocks.shape[3:])
            rtol = problem.rtol if constant or not reads_zeros(problem.spec) else self._tolerance()
            self.is_loose = rtol > problem.rtol
            self._found = self._search(rtol, grid_follows=not constant)
        return self._found

    def refine(self) -> Upper | None:
        """To the tolerance that was asked for."""
        return self._search(self._problem.rtol, grid_follows=False)[1].upper

    def _search(self, rtol: float, *, grid_follows: bool) -> tuple[Search, SearchResult]:
        problem, blocks = self._problem, self.blocks()
        given = Problem(blocks, self._everywhere, rtol, problem.max_cells, problem.clock)
        return search_torus(given, grid_follows=grid_follows, ops=self._ops)

    def blocks(self) -> Array:
        """Of the whole layer, as they are searched."""
        return polyphase.to_blocks(self._problem.kernel, self._everywhere, xp=self._ops.xp)

    def _tolerance(self) -> float:
        """So that the supremum of a large layer needs nothing after it, if the layer is as near as most."""
        spec, rtol = self._problem.spec, self._problem.rtol
        parts = [x for component in polyphase_components(spec) for x in component.parts]
        apart = sum(
            ((k - 1) * math.pi / max(1, min(x.pixels for x in parts[j :: spec.ndim]))) ** 2 / 24
            for j, k in enumerate(spec.kernel_shape)
        )
        if apart > rtol:
            return max(rtol, TUNING.loose)
        near = apart if apart < TUNING.near * rtol else 0.0
        return max(0.97 * rtol - near, (1 - TUNING.near) * 1e-3)
