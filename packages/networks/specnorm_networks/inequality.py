"""Bound a whole network by one inequality: search multipliers of its channels and units, and prove the best."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np
from specnorm_check import Units

from specnorm.proof import Upper
from specnorm_networks.answer import NetworkBound, RunBound
from specnorm_networks.bounding import upper_of
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.inequality import Inequality, constant_of_inequality
from specnorm_networks.certified.operators.base import FloatArray, NoBoundError
from specnorm_networks.certified.units import coefficients_of, inequality_of
from specnorm_networks.descent.costs import RATE
from specnorm_networks.descent.inequality import Proposal, proposals, work_of
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Multipliers

SHARE = 0.9
"""Share of the time in which reading, a start and a proof have to be affordable."""
HOPE = 3.0
"""Largest factor by which a search is expected to lower the constant of its start."""
START = 1
PROOF = 2
"""Evaluations of the inequality that take about as long as the start of a search, and a proof."""
NEWTON_SHARE = 1 / 4
"""Newton steps are made if the expected ones take no larger share of the seconds."""
NEWTON_WORK = 1e10
"""And if they make no more multiplications: other steps are nearly as good for larger networks, in a tenth of the time.
"""
LONG = RATE / 5
"""Multiplications of an evaluation from which a search takes longer than one of channels, about."""
READING = 700
"""Multiplications that take about as long as one coefficient of a value in a sum of inputs and units."""
MARGINS = (1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""Relative margins above the searched constant that are tried by a proof, in order."""
LARGE = 1000
"""Side of an inequality's matrix from which a proof begins with the second margin: rounding takes the first one."""


class Search:
    """A search of multipliers, which begins after layers are bounded by other rules.

    Parameters
    ----------
    graph : Graph
        As for `units.inequality_of`.

    Raises
    ------
    NoBoundError
        If the graph is too large for the time.
    """

    def __init__(self, graph: Graph, measure: Measure, method: Multipliers) -> None:
        self.graph = graph
        self.measure = measure
        self.method = method
        clock = measure.clock
        self._require(READING * coefficients_of(graph))
        self.inequality = inequality_of(graph)
        work = work_of(self.inequality)
        self._require((START + PROOF) * work)
        self.is_long = work > LONG
        """Whether the search begins with multipliers of channels by which a constant is proven."""
        self.clock = clock.before(PROOF * clock.seconds_of(work))
        """Ends when a proof has to begin."""
        self.clock_of_others = clock.before((START + PROOF) * clock.seconds_of(work))
        """Ends when the search has to begin."""
        self.is_cut = False
        """Whether the number of steps, or the clock, has ended the steps of one kind."""

    def bound(self, answer: NetworkBound) -> RunBound:
        """Search to the end, and prove the constant of the network.

        ``answer``: another bound of the network. If it bounds all layers together, the search begins with its
        multipliers. `NoBoundError` if the search is not expected to get below it, or does not.
        """
        method = self.method
        ends = self.inequality.map
        limit = upper_of(answer)
        first = None
        for run in answer.runs:
            if (run.start, run.end) == (ends.start, ends.end):
                first = self._multipliers_of(run)

        def tell(steps_made: int, most: int) -> None:
            self.is_cut |= steps_made >= most
            if method.progress is not None:
                method.progress(steps_made, most, f"{ends.start} to {ends.end}")

        newton_work = min(NEWTON_SHARE * method.seconds * RATE, NEWTON_WORK)
        found = proposals(self.inequality, method.steps, self.clock, newton_work, tell, limit, first)
        with np.errstate(all="ignore"):
            best = next(found, None)
            if best is None or not best.constant < HOPE * limit:
                raise NoBoundError("a search finds no multipliers, or begins far above a proven constant")
            for better in found:
                best = better
        if self.clock.expired:
            self.is_cut = True
            self.measure.clock.has_cut = True
            self.measure.cut.searches["the search for the whole network"] = None
        if not best.constant < limit:
            raise NoBoundError("a search ended above a proven constant")
        claim = _proven(self.inequality, best)
        layers = tuple(dict.fromkeys(node.layer.name for node in self.graph.nodes if node.layer is not None))
        multipliers = best.multipliers * (claim.value / best.constant)
        if best.is_transposed:
            multipliers = claim.value**2 / multipliers
        values = (ends.start, *(function.name for function in self.inequality.functions), ends.end)
        roots = [np.sqrt(multipliers[units]) for units in self.inequality.values]
        statement = Units(values, (np.array([claim.value]), *roots, np.ones(1)))
        return RunBound(ends.start, ends.end, (layers,), math.inf, claim, (statement,))

    def _multipliers_of(self, run: RunBound) -> FloatArray | None:
        """Return multipliers of all units from those of a run's channels; None if it lacks some, or there are none.

        A channel's inequality counts once with its multiplier, a unit's twice.
        """
        roots = {
            name: root for part in run.statements for name, root in zip(part.values, part.multipliers, strict=True)
        }
        of_functions = []
        for function in self.inequality.functions:
            of_channels = roots.get(function.name)
            if of_channels is None or not np.max(function.channels, initial=-1) < len(of_channels):
                return None
            of_functions.append(of_channels[function.channels])
        return run.upper**2 / 2 * np.concatenate(of_functions) ** 2 if of_functions else None

    def _require(self, work: float) -> None:
        """Raise `NoBoundError` if work takes more than a share of the time, and note that something is left out."""
        clock = self.measure.clock
        if not clock.affords(work / SHARE):
            clock.has_cut = True
            self.measure.cut.searches["the inequality of the whole network, which was not begun"] = None
            raise NoBoundError("a search takes too long")


def _proven(inequality: Inequality, proposal: Proposal) -> Upper:
    """Prove the constant of a proposal, enlarged by the least margin that suffices."""
    side = inequality.units + min(inequality.inputs, inequality.outputs)
    for margin in MARGINS[1:] if side >= LARGE else MARGINS:
        factor = 1 + margin
        # If multipliers grow half as much as the square of the constant, the form grows by parts of both ends.
        multipliers = proposal.multipliers * factor
        with suppress(NoBoundError):
            return constant_of_inequality(
                inequality, multipliers, proposal.constant * factor, is_transposed=proposal.is_transposed
            )
    raise NoBoundError("no margin proves the inequality")
