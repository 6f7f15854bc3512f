"""Bound a whole network by one inequality: search multipliers of its channels and units, and prove the best."""

from __future__ import annotations

import math
from contextlib import suppress

import numpy as np

from specnorm.proof import Upper
from specnorm_networks.answer import RunBound
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.inequality import Inequality, constant_of_inequality
from specnorm_networks.certified.operators.base import NoBoundError
from specnorm_networks.certified.units import coefficients_of, unit_run
from specnorm_networks.descent.inequality import Proposal, proposals, work_of
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Multipliers

SHARE = 0.9
"""Share of the time in which reading, a start and a proof have to be affordable."""
HOPE = 3.0
"""Largest factor by which a search is expected to lower the constant of its start."""
PROOF = 3
"""Evaluations of the inequality that take about as long as its proof."""
READING = 700
"""Multiplications that take about as long as one coefficient of a value in a sum of inputs and units."""
MARGINS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
"""Relative margins above the searched constant that are tried by a proof, in order."""


class Search:
    """A search of multipliers, which begins before layers are bounded by other rules and ends after that.

    Parameters
    ----------
    graph : Graph
        As for `units.unit_run`.

    Raises
    ------
    NoBoundError
        If the graph is too large for the time, or no multipliers are found.
    """

    def __init__(self, graph: Graph, measure: Measure, method: Multipliers) -> None:
        self.graph = graph
        self.measure = measure
        clock = measure.clock
        self._require(READING * coefficients_of(graph))
        self.inequality = Inequality(unit_run(graph))
        if not self.inequality.units:
            raise NoBoundError("a linear network: the norm of its matrix is known otherwise")
        work = work_of(self.inequality)
        self._require((1 + PROOF) * work)
        self.clock = clock.before(PROOF * clock.seconds_of(work))
        """Ends when a proof has to begin."""
        self.proposals = proposals(self.inequality, method.steps, self.clock)
        start = self._next()
        if start is None:
            raise NoBoundError("no multipliers were found")
        self.best = start

    def _require(self, work: float) -> None:
        """Raise `NoBoundError` if work takes more than a share of the time, and note that something is left out."""
        clock = self.measure.clock
        if not clock.affords(work / SHARE):
            clock.has_cut = True
            self.measure.cut.searches["the inequality of the whole network, which was not begun"] = None
            raise NoBoundError("a search takes too long")

    def _next(self) -> Proposal | None:
        with np.errstate(all="ignore"):
            return next(self.proposals, None)

    def bound(self, limit: float, aim: float = 0.0) -> RunBound:
        """Search to the end, or until a constant of at most ``aim`` is found, and prove the constant of the network.

        ``limit``: a proven constant. `NoBoundError` if the search is not expected to get below it, or does not.
        """
        if not self.best.constant < HOPE * limit:
            raise NoBoundError("a search begins far above a proven constant")
        while self.best.constant > aim and (proposal := self._next()) is not None:
            self.best = proposal
        if self.clock.expired:
            self.measure.clock.has_cut = True
            self.measure.cut.searches["the search for the whole network"] = None
        if not self.best.constant < limit:
            raise NoBoundError("a search ended above a proven constant")
        claim = _proven(self.inequality, self.best)
        run = self.inequality.run
        layers = tuple(dict.fromkeys(node.layer.name for node in self.graph.nodes if node.layer is not None))
        multipliers = self.best.multipliers
        if self.best.is_transposed:
            multipliers = claim.value**2 / multipliers
        ends = [link.end for link in run.links[:-1]]
        by_function = {end: multipliers[units] for end, units in zip(ends, self.inequality.values, strict=True)}
        return RunBound(run.start, run.end, (layers,), math.inf, claim, multipliers=by_function)


def _proven(inequality: Inequality, proposal: Proposal) -> Upper:
    """Prove the constant of a proposal, enlarged by the least margin that suffices."""
    for margin in MARGINS:
        constant = proposal.constant * (1 + margin)
        with suppress(NoBoundError):
            return constant_of_inequality(
                inequality, proposal.multipliers, constant, is_transposed=proposal.is_transposed
            )
    raise NoBoundError("no margin proves the inequality")


def has_branches(graph: Graph) -> bool:
    """Whether a node reads two values that change with the input, or one of them twice.

    Layers in a row are bounded together by other rules.
    """
    changes = set(graph.inputs)
    for node in graph.nodes:
        reads = [name for name in node.inputs if name in changes]
        if len(reads) > 1:
            return True
        if reads:
            changes.add(node.name)
    return False
