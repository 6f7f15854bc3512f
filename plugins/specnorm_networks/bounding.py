"""A graph and its layers' norms -> a proven Lipschitz constant of the whole network, node by node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from specnorm import SpecnormError
from specnorm.errors import MethodError
from specnorm.proof import Upper
from specnorm_networks.answer import NetworkBound, RunBound, Weighted
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.patterns import prepared
from specnorm_networks.certified.propagation import Constants, propagate
from specnorm_networks.certified.ranges import Ranges, Values, stated
from specnorm_networks.certified.reading import Subnetwork, runs
from specnorm_networks.certified.segments import constant_of_run
from specnorm_networks.descent import proof_products
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method, Multipliers, Parts, Product, Scaled, hoped

MOST_WORK = 2**20
"""Uses of values that are followed for all inputs together: a graph of a few kilobytes has thousands of both."""
WORTHWHILE, HOPELESS = 0.97, 2.0
"""Of the product of a run: what a search must hope for before it is proven; the second where layers are bounded by
themselves, whose norms at their own size are below those that the search sees."""
DEAR, LOWER = 2**33, 0.995
"""Products that a proof takes from which another follows only for a hope that is so much lower than what is proven."""
NEAR_1, CLOSE = 0.05, 1e-4
"""Distance of a constant from 1 within which it is searched once more with four times the steps, and proven to a tenth
of the tolerance, or to the second number."""


def bounded(
    graph: Graph, measure: Measure, method: Method, run: Subnetwork | None = None, known: Ranges | None = None
) -> NetworkBound:
    """Bound the Lipschitz constant of a network with the slopes that the graph states; see `near.bound`.

    Parameters
    ----------
    run : Subnetwork, optional
        What may have a smaller constant than the rules', in place of all `runs` of the graph.
    known : Ranges, optional
        Where values lie, in place of the ranges on the graph's box.
    """
    graph = prepared(graph)
    work = len(graph.inputs) * sum(1 + len(node.inputs) for node in graph.nodes)
    if work > MOST_WORK:
        raise MethodError(
            f"Each of its {len(graph.inputs)} inputs is followed through {len(graph.nodes)} values: more than "
            f"{MOST_WORK} steps in all. Give a network with fewer inputs, or one with a single input that is split."
        )
    values = Values(graph, known)
    whole = _bounded(graph, measure, method, run, values)
    near_1 = whole.upper is not None and abs(whole.upper - 1) <= NEAR_1 and not measure.clock.expired
    if isinstance(method, (Scaled, Multipliers)) and near_1:
        closer = Measure(min(measure.rtol, max(measure.rtol / 10, CLOSE)), measure.known, measure.clock)
        again = _bounded(graph, closer, replace(method, steps=4 * method.steps), run, values)
        whole = min(whole, again, key=lambda each: math.inf if each.upper is None else each.upper)
    return whole


def _bounded(graph: Graph, measure: Measure, method: Method, run: Subnetwork | None, values: Values) -> NetworkBound:
    product = constants = propagate(graph, measure, values)
    found: list[RunBound] = []
    # An output that no rule reaches has no constant, whatever a search finds before it.
    hopeful = any(product.steps[name].claim is not None for name in graph.outputs)
    if hopeful and not isinstance(method, Product):
        found = _shorter(runs(graph) if run is None else [run], measure, method, product)
    if found:
        constants = propagate(graph, measure, values, {run.end: [run.claim] for run in found})
    return replace(_result(graph, constants), product_claim=product.claim, runs=tuple(found))


def _result(graph: Graph, found: Constants) -> NetworkBound:
    return NetworkBound(
        found.claim,
        {name: found.steps[name].claim for name in graph.outputs},
        tuple(step for name, step in found.steps.items() if name not in graph.constants),
        found.unknown,
        {name: graph.by_name[name].shape for name in graph.inputs},
        input_ranges=stated(graph),
    )


def _shorter(candidates: Sequence[Subnetwork], measure: Measure, method: Method, rules: Constants) -> list[RunBound]:
    """Runs whose constant is less than the rules'."""
    found: list[RunBound] = []
    useful = [(run, product) for run in candidates if (product := _by_rules(run, rules)) is not None]
    in_all = sum(len(run.links) for run, _ in useful)
    for run, product in useful:
        if measure.clock.expired:
            break
        share = len(run.links) / in_all
        parts = method.parts(run)
        best = _best(run, parts, method.search(run, parts, share, measure.clock), measure, product)
        through = _through_head(run, measure, method, share, None if best is None else best.weighted)
        if through is not None and through < (product if best is None else best.upper):
            names = (tuple(n for link in run.links for n in link.names),)
            found.append(RunBound(run.start, run.end, names, product, through, None if best is None else best.weighted))
        elif best is not None:
            found.append(best)
    return found


def _through_head(
    run: Subnetwork, measure: Measure, method: Method, share: float, known: Weighted | None
) -> Upper | None:
    """The constant of a run's last convolutions and of what reads their pixels together, and of what is before them.

    None: it has no head, or nothing was proven. ``known``: weights of its values, where it is cut before the head.
    """
    if not isinstance(method, Multipliers) or method.widest is not None or all(link.open for link in run.links[:-1]):
        return None
    from specnorm_networks.certified.heads import head_of
    from specnorm_networks.heads import bound_through_head  # for few

    starts, weights = (known.starts, known.weights) if known is not None else ((0,), ())
    for first in starts:
        head = head_of(run, [at for at in starts if at < first], weights[:first])
        found = None if head is None else bound_through_head(head, measure, method, share, weights)
        if found is not None:
            return found
    return None


def _best(
    run: Subnetwork, parts: Parts, proposed: Sequence[list[FloatArray]], measure: Measure, product: float
) -> RunBound | None:
    """The least that weights prove of the run's parts, and what proves it; None: it is no less than the product."""
    best, limit = None, product
    share = HOPELESS if any(last - first == 1 for first, last in parts) else WORTHWHILE
    lower = LOWER if proof_products(run, parts) > DEAR else 1.0
    for weights in proposed:
        if measure.clock.expired:
            break
        if not hoped(run, weights) < (share * product if best is None else lower * limit):
            continue  # too little to be proven
        try:
            claim = constant_of_run(run, [first for first, _ in parts], weights, measure)
        except (SpecnormError, OSError, OverflowError):
            continue  # the rules say so where they meet it
        if claim < limit:
            limit = claim.value
            layers = tuple(tuple(n for link in run.links[a:b] for n in link.names) for a, b in parts)
            of = Weighted(tuple(link.end for link in run.links), tuple(first for first, _ in parts), tuple(weights))
            best = RunBound(run.start, run.end, layers, product, claim, of)
    return best


def _by_rules(run: Subnetwork, known: Constants) -> float | None:
    """The run's constant by the rules; None where there is nothing to gain: held, or unknown before."""
    for steps in known.by_input:
        before, after = steps[run.start].upper, steps[run.end].upper
        if before and after:
            return after / before
    return None
