"""The supremum of a layer over all sizes, searched as closely as the bounds at its size need it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from specnorm.certified.layer.circulant import reads_zeros
from specnorm.certified.layer.components import polyphase_components
from specnorm.clock import RATE
from specnorm.problem import polyphase
from specnorm.problem.taps import shapes_of
from specnorm.search import layer_tuning as knobs
from specnorm.search.enclosing import search_torus
from specnorm.search.result import Problem

if TYPE_CHECKING:
    from specnorm.array_types import Array
    from specnorm.certified.bound import Upper
    from specnorm.search.branch_and_bound import Search
    from specnorm.search.result import SearchResult
    from specnorm.types import ArrayOps


class Supremum:
    """The supremum over all sizes, and the search that encloses it, made when first asked for.

    Attributes
    ----------
    is_loose : bool
        Whether the supremum was searched with a wider tolerance than asked for. At this size the layer is likely to be
        so far below its supremum that a circulant has to be searched anyway, which needs only a bound of the supremum.
    """

    def __init__(self, problem: Problem, *, ops: ArrayOps) -> None:
        self._problem = problem
        self._ops = ops
        # The kernel is in torch's order already.
        self._spec_of_all_sizes = replace(problem.spec, input_shape=None, layout=None)
        self._result: tuple[Search, SearchResult] | None = None
        self.is_loose = False

    @property
    def search(self) -> Search:
        """The search that enclosed the supremum."""
        return self._searched()[0]

    @property
    def result(self) -> SearchResult:
        """The result of the search, only as close as the attempts that follow need it."""
        return self._searched()[1]

    def _searched(self) -> tuple[Search, SearchResult]:
        """The search and its result; it is made at the first call."""
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
        clock = problem.clock.before(min(self._seconds_of_wave(), knobs.TUNING.wave_time * problem.clock.seconds))
        return search_torus(
            Problem(self._blocks(), self._spec_of_all_sizes, rtol, problem.max_cells, clock),
            ops=self._ops,
        )

    def _seconds_of_wave(self) -> float:
        """Seconds of the lower bound near the supremum's wave, on all pixels of a group."""
        kernel = self._problem.kernel
        pixels = max(math.prod(shape[1:]) for shape in shapes_of(self._problem.spec))
        work = knobs.TUNING.wave_passes * math.prod(kernel.shape) / self._problem.spec.groups * pixels
        return work / RATE

    def _blocks(self) -> Array:
        """Blocks of the whole layer, as they are searched."""
        return polyphase.to_blocks(self._problem.kernel, self._spec_of_all_sizes, xp=self._ops.xp)

    def _tolerance(self) -> float:
        """Tolerance for the supremum: the layer's norm lies below its supremum by about `_estimated_distance`.

        If that exceeds rtol, the supremum cannot suffice: it is searched loosely. Otherwise it gets what the distance
        leaves of rtol, but never less than ``rtol * (1 - supremum_share)``. If the distance is above the share, the
        supremum is not expected to suffice, and is searched as if the distance were 0.
        """
        rtol = self._problem.rtol
        distance = self._estimated_distance()
        if distance > rtol:
            return max(rtol, knobs.TUNING.loose_rtol)
        largest_share = knobs.TUNING.supremum_share * rtol
        likely_distance = distance if distance < largest_share else 0.0
        return max(knobs.TUNING.proven_share * rtol - likely_distance, rtol - largest_share)

    def _estimated_distance(self) -> float:
        """How far the layer's norm is below the supremum, relatively, as its pixels and taps let expect.

        A wave under a sine window over n pixels is spread over frequencies by ``pi / n``. Taps that are spread evenly
        over a length of k - 1 have the variance ``(k - 1)**2 / 12``, and at a distance of d from its maximum their sum
        of phases is lower, relatively, by about half of the variance times ``d**2``: ``((k - 1) pi / n)**2 / 24``.
        """
        spec = self._problem.spec
        components = polyphase_components(spec)
        distances = []
        for j, taps in enumerate(spec.kernel_shape):
            pixels = max(1, min(component.axes[j].pixels for component in components))
            distances.append(((taps - 1) * math.pi / pixels) ** 2 / 24)
        return sum(distances)
