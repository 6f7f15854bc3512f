"""The supremum of a layer over all sizes, searched as closely as the bounds at its size need it."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from specnorm.at_size import layer_tuning
from specnorm.geometry import polyphase
from specnorm.running.search import Problem
from specnorm.supremum.enclosing import search_torus

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.found import Found
    from specnorm.supremum.branch_and_bound import Search


class Supremum:
    """The supremum over all sizes, and the search that encloses it, run when either is first needed.

    It is searched to half of the tolerance, since the other half suffices for the norm of a large layer; but to no less
    than half of `layer_tuning.LOOSE_RTOL`.
    """

    def __init__(self, kernel: Array, problem: Problem, *, ops: ArrayOps) -> None:
        self._kernel = kernel
        self._problem = problem
        self._ops = ops
        # The kernel is in torch's order already.
        self._spec_of_all_sizes = replace(problem.spec, input_shape=None, layout=None)

    @property
    def search(self) -> Search:
        """The search that encloses the supremum."""
        return self._search_and_result[0]

    @property
    def result(self) -> Found:
        """Bounds of the supremum."""
        return self._search_and_result[1]

    @functools.cached_property
    def _search_and_result(self) -> tuple[Search, Found]:
        problem = self._problem
        # The lower bound at the layer's size follows, however the search ends: leave it its time.
        seconds_of_wave = min(self._seconds_of_wave(), layer_tuning.WAVE_TIME * problem.clock.seconds)
        clock = problem.clock.before(seconds_of_wave)
        blocks = polyphase.to_blocks(self._kernel, self._spec_of_all_sizes, xp=self._ops.xp)
        # Closer bounds of it seldom are closer ones of the layer, whose own matrix may be a thousandth of the work.
        rtol = max(problem.rtol, layer_tuning.LOOSE_RTOL) / 2
        of_all_sizes = replace(problem, spec=self._spec_of_all_sizes, rtol=rtol, clock=clock)
        return search_torus(blocks, of_all_sizes, ops=self._ops)

    def _seconds_of_wave(self) -> float:
        """Seconds of the lower bound near the supremum's wave, on all pixels of a group."""
        pixels = max(math.prod(shape[1:]) for shape in self._problem.spec.shapes)
        work = layer_tuning.WAVE_PASSES * math.prod(self._kernel.shape) / self._problem.spec.groups * pixels
        return self._problem.clock.seconds_of(work)
