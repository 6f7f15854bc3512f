"""The supremum of a layer over all sizes, searched as closely as the bounds at its size need it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from specnorm.at_size import layer_tuning
from specnorm.at_size.proofs.components import polyphase_components
from specnorm.geometry import polyphase
from specnorm.running.search import Problem
from specnorm.supremum.enclosing import search_torus

if TYPE_CHECKING:
    from specnorm.backends.array_types import Array
    from specnorm.backends.types import ArrayOps
    from specnorm.proofs.bound import Upper
    from specnorm.proofs.found import Found
    from specnorm.supremum.branch_and_bound import Search


class Supremum:
    """The supremum over all sizes, and the search that encloses it, run when either is first needed.

    Attributes
    ----------
    is_loose : bool
        Whether the supremum was searched with a wider tolerance than asked for; False before the search. At this size
        the layer is then likely to be so far below its supremum that a circulant has to be searched anyway, which needs
        only a bound of the supremum.
    """

    def __init__(self, kernel: Array, problem: Problem, *, ops: ArrayOps) -> None:
        self._kernel = kernel
        self._problem = problem
        self._ops = ops
        # The kernel is in torch's order already.
        self._spec_of_all_sizes = replace(problem.spec, input_shape=None, layout=None)
        self._search_and_result: tuple[Search, Found] | None = None
        self.is_loose = False

    @property
    def search(self) -> Search:
        """The search that encloses the supremum."""
        return self._run_once()[0]

    @property
    def result(self) -> Found:
        """Bounds of the supremum, only as close as the attempts that follow need them."""
        return self._run_once()[1]

    def _run_once(self) -> tuple[Search, Found]:
        if self._search_and_result is None:
            is_constant = all(taps == 1 for taps in self._blocks().shape[3:])
            rtol = self._problem.rtol
            if not is_constant and self._problem.spec.reads_zeros:
                rtol = self._tolerance()
            self.is_loose = rtol > self._problem.rtol
            self._search_and_result = self._search_to(rtol)
        return self._search_and_result

    def refine(self) -> Upper | None:
        """Search again, to the tolerance that was asked for; return the upper bound."""
        return self._search_to(self._problem.rtol)[1].upper

    def _search_to(self, rtol: float) -> tuple[Search, Found]:
        problem = self._problem
        # The lower bound at the layer's size follows, however the search ends: leave it its time.
        seconds_of_wave = min(self._seconds_of_wave(), layer_tuning.WAVE_TIME * problem.clock.seconds)
        clock = problem.clock.before(seconds_of_wave)
        of_all_sizes = replace(problem, spec=self._spec_of_all_sizes, rtol=rtol, clock=clock)
        return search_torus(self._blocks(), of_all_sizes, ops=self._ops)

    def _seconds_of_wave(self) -> float:
        """Seconds of the lower bound near the supremum's wave, on all pixels of a group."""
        pixels = max(math.prod(shape[1:]) for shape in self._problem.spec.shapes)
        work = layer_tuning.WAVE_PASSES * math.prod(self._kernel.shape) / self._problem.spec.groups * pixels
        return self._problem.clock.seconds_of(work)

    def _blocks(self) -> Array:
        """Blocks of the whole layer."""
        return polyphase.to_blocks(self._kernel, self._spec_of_all_sizes, xp=self._ops.xp)

    def _tolerance(self) -> float:
        """Tolerance for the supremum: the layer's norm lies below its supremum by about `_estimated_distance`.

        If that distance exceeds rtol, the supremum cannot suffice: it is searched loosely. Otherwise the tolerance is
        what the distance leaves of rtol, so that the supremum suffices. If the distance is above
        ``supremum_share * rtol``, that would be a long search for a supremum that is not expected to suffice: then it
        is searched as if the distance were 0.
        """
        rtol = self._problem.rtol
        distance = self._estimated_distance()
        if distance > rtol:
            return max(rtol, layer_tuning.SUPREMUM_RTOL)
        largest_share = layer_tuning.SUPREMUM_SHARE * rtol
        likely_distance = distance if distance < largest_share else 0.0
        return max(layer_tuning.PROVEN_SHARE * rtol - likely_distance, rtol - largest_share)

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
