"""A graph and its layers' norms -> a proven Lipschitz constant of the whole network, node by node."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from specnorm.certified.network.affine_maps import Subnetwork
from specnorm.certified.network.boxes import Values, stated
from specnorm.certified.network.graph import Graph, Node
from specnorm.certified.network.operators.base import Pointwise
from specnorm.certified.network.operators.normalisation import Normalise
from specnorm.certified.network.patterns import recognised
from specnorm.certified.network.propagation import Constants, propagate
from specnorm.certified.network.regions import Range
from specnorm.certified.network.segments import constant_of_run
from specnorm.certified.network.subnetworks import runs
from specnorm.errors import MethodError, SpecnormError
from specnorm.networks.answer import NetworkBound, RunBound
from specnorm.networks.certificate import Certificate, RunWeights, digest
from specnorm.networks.measuring import Measure
from specnorm.networks.methods import Method, Product

MOST_WORK = 2**20
"""Uses of values that are followed for all inputs together: a graph of a few kilobytes has thousands of both."""
WORTHWHILE, HOPELESS = 0.97, 2.0
"""Of the product of a run: what a search must hope for before it is proven; the second where layers are bounded by
themselves, whose norms at their own size are below those that the search sees."""


def bounded(
    graph: Graph,
    measure: Measure,
    method: Method,
    candidates: Callable[[Graph], Sequence[Subnetwork]] = runs,
    known: Mapping[str, Range] | None = None,
) -> NetworkBound:
    """Bound the Lipschitz constant of a network with the slopes that the graph states; see `near.bound`.

    Parameters
    ----------
    candidates : callable
        Gives runs that may have a smaller constant than the rules'.
    known : mapping of str to Range, optional
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
    product = constants = propagate(graph, measure, values)
    found = [] if isinstance(method, Product) else _shorter(candidates(graph), measure, method, product)
    if found:
        constants = propagate(graph, measure, values, {run.end: run.claim for run, _ in found})
    whole = _result(graph, constants)
    whole = replace(whole, product_claim=product.claim, runs=tuple(run for run, _ in found))
    if whole.upper is None or not math.isfinite(whole.upper):
        return whole
    weights = tuple(weights for _, weights in found)
    return replace(whole, certificate=Certificate(whole.upper, digest(graph), measure.rtol, weights))


def prepared(graph: Graph) -> Graph:
    """The network as `bound` reads it: patterns recognised, and without what no output needs."""
    return recognised(graph).pruned()


def unsorted(graph: Graph) -> Graph:
    """The same without sorting: of patterns, functions of one number and normalisation are recognised.

    Ranges and units read sorting as maxima and minima, which are ReLU of differences.
    """
    found, kept = prepared(graph).by_name, {node.name: node for node in graph.nodes}
    nodes: list[Node] = []
    for old in graph.nodes:
        new = found.get(old.name, old)
        lengths = [found[name] for name in new.inputs if name in found and name not in kept]
        if isinstance(new.operator, Normalise) and all(kept.keys() >= set(each.inputs) for each in lengths):
            nodes += [*lengths, new]
        else:
            nodes.append(new if isinstance(new.operator, Pointwise) else old)
    return replace(graph, nodes=tuple(nodes)).pruned()


def _result(graph: Graph, found: Constants) -> NetworkBound:
    return NetworkBound(
        found.claim,
        found.heuristic,
        {name: found.steps[name].claim for name in graph.outputs},
        tuple(step for name, step in found.steps.items() if name not in graph.constants),
        found.unknown,
        {name: graph.by_name[name].shape for name in graph.inputs},
        input_ranges=stated(graph),
    )


def _shorter(
    candidates: Sequence[Subnetwork], measure: Measure, method: Method, rules: Constants
) -> list[tuple[RunBound, RunWeights]]:
    """Runs whose constant is less than the rules', and what proves it."""
    found = []
    useful = [(run, product) for run in candidates if (product := _by_rules(run, rules)) is not None]
    in_all = sum(len(run.links) for run, _ in useful)
    for run, product in useful:
        parts = method.parts(run)
        weights = method.weights(run, parts, len(run.links) / in_all)
        if weights is None:
            continue
        try:
            # The last value is weighed by what the search hopes for; with too little hope there is no proof.
            hoped = math.prod(link.factor.value for link in run.links) / float(np.min(weights[-1]))
            limit = HOPELESS if any(last - first == 1 for first, last in parts) else WORTHWHILE
            if not hoped < limit * product:
                continue
            claim = constant_of_run(run, [first for first, _ in parts], weights, measure)
        except (SpecnormError, OSError, OverflowError):
            continue  # the rules say so where they meet it
        if claim < product:
            layers = tuple(tuple(n for link in run.links[a:b] for n in link.names) for a, b in parts)
            of = RunWeights(run.start, run.end, tuple(first for first, _ in parts), tuple(weights))
            found.append((RunBound(run.start, run.end, layers, product, claim), of))
    return found


def _by_rules(run: Subnetwork, known: Constants) -> float | None:
    """The run's constant by the rules; None where there is nothing to gain: held, or unknown before."""
    for steps in known.by_input:
        before, after = steps[run.start].upper, steps[run.end].upper
        if before and after:
            return after / before
    return None
