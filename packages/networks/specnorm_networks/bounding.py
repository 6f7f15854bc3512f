"""Bound a whole network, node by node, from a graph and its layers' norms.

A *run* is a chain of layers and functions between two values (`certified.links`). Its *product* is its constant by the
rules of single nodes. A search *proposes* weights of the run's values. The *expected* constant is the one that the
search computes for these weights, before they are proven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from specnorm_check import Part

from specnorm import SpecnormError
from specnorm.errors import InternalError, MethodError
from specnorm_networks.answer import NetworkBound, RunBound
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.links import Link, Run
from specnorm_networks.certified.operators.base import NoBoundError
from specnorm_networks.certified.parts import constant_of_run, statements_of
from specnorm_networks.certified.patterns import prepare
from specnorm_networks.certified.propagation import NetworkConstants, propagate
from specnorm_networks.certified.ranges import LazyRanges, Ranges, stated_boxes
from specnorm_networks.certified.runs import runs
from specnorm_networks.descent.costs import proof_products
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method, Multipliers, expected_constant

MOST_WORK = 2**20
"""Largest number of uses of values times inputs: a graph of a few kilobytes may have thousands of both."""
WORTHWHILE = 0.97
"""A first proposal is proven only if its expected constant is below this share of the product."""
WORTHWHILE_AT_OWN_SIZE = 2.0
"""The same share for runs with a part of one layer. The search counts that layer's norm at every size, but the proof
its smaller norm at its own size. So a proof can gain although the search expects a loss."""
EXPENSIVE = 2**33
"""A proof of more multiplications than this number is expensive (`descent.costs.proof_products`)."""
WORTH_AN_EXPENSIVE_PROOF = 0.995
"""A further expensive proof is made only if the expected constant is below this share of the best proven constant."""
LATE = 0.1
"""Share of the time by which the proof of a search's first proposal may be late."""
LEFT_TO_SEARCH = 0.5
"""Share of the time that the norms of single layers leave to a search."""
NEAR_1 = 0.05
"""Distance of a constant from 1 within which the search is repeated with four times the steps and a finer tolerance."""
CLOSE = 1e-4
"""The finer tolerance is a tenth of the usual one, but not below this number."""


def bounded(
    graph: Graph,
    measure: Measure,
    method: Method,
    known: Ranges | None = None,
    *,
    has_whole: bool = False,
) -> NetworkBound:
    """Bound the Lipschitz constant of a network with the slopes that the graph states, as `near.bound` promises.

    Parameters
    ----------
    known : Ranges, optional
        Ranges of the values. Default: those on the box that the graph states.
    has_whole : bool
        Whether the network is bounded as a whole afterwards. Then runs that end on a finer grid than they have are left
        out: they take long, and the whole is hardly ever larger.
    """
    graph = prepare(graph)
    work = len(graph.inputs) * sum(1 + len(node.inputs) for node in graph.nodes)
    if work > MOST_WORK:
        raise MethodError(
            f"Each of its {len(graph.inputs)} inputs is followed through {len(graph.nodes)} values: more than "
            f"{MOST_WORK} steps in all. Give a network with fewer inputs, or one with a single input that is split."
        )
    values = LazyRanges(graph, known)
    answer = _bounded(graph, measure, method, values, has_whole)
    if isinstance(method, Multipliers) and abs(upper_of(answer) - 1) <= NEAR_1 and not measure.clock.expired:
        rtol = min(measure.rtol, max(measure.rtol / 10, CLOSE))
        finer = Measure(rtol, measure.known, measure.clock, cut=measure.cut)
        longer = replace(method, steps=4 * method.steps)
        second = _bounded(graph, finer, longer, values, has_whole)
        if upper_of(second) < upper_of(answer):
            return second
    return answer


def _is_on_own_grid(run: Run, graph: Graph) -> bool:
    """Whether the channels of a run's last value are those of its node, and not phases of its pixels."""
    last = run.links[-1]
    return last.width * last.repeat in (graph.by_name[run.end].shape or ())


def upper_of(answer: NetworkBound) -> float:
    """Return a network's constant; infinity if it is unknown."""
    return math.inf if answer.upper is None else answer.upper


def _bounded(
    graph: Graph,
    measure: Measure,
    method: Method,
    values: LazyRanges,
    has_whole: bool,
) -> NetworkBound:
    measure_for_rules = measure
    if isinstance(method, Multipliers):
        measure_for_rules = replace(measure, clock=measure.clock.before(LEFT_TO_SEARCH * measure.clock.left))
    begun = measure.clock.left
    by_rules = propagate(graph, measure_for_rules, values)
    seconds_of_rules = begun - measure.clock.left - measure_for_rules.seconds
    constants = by_rules
    improved_runs: list[RunBound] = []
    # An output that no rule reaches has no constant, whatever a search proves of the values before it.
    has_constant = any(by_rules.steps[name].claim is not None for name in graph.outputs)
    # The rules are applied once more to what a search has found, and to norms that were cut short.
    before_rules = replace(measure, clock=measure.clock.before(seconds_of_rules))
    if has_constant and isinstance(method, Multipliers) and not measure.clock.expired:
        candidates = [run for run in runs(graph) if not has_whole or _is_on_own_grid(run, graph)]
        improved_runs = _improved_runs(candidates, before_rules, method, by_rules)
        measure.clock.has_cut |= before_rules.clock.has_cut or before_rules.clock.expired
    has_cut_norms = measure_for_rules.clock.expired and not before_rules.clock.expired
    if improved_runs or has_cut_norms:
        claims_by_end = {run_bound.end: [run_bound.claim] for run_bound in improved_runs}
        norms = before_rules if has_cut_norms else measure_for_rules
        constants = propagate(graph, norms, values, claims_by_end)
    return NetworkBound(
        constants.claim,
        {name: constants.steps[name].claim for name in graph.outputs},
        tuple(step for name, step in constants.steps.items() if name not in graph.fixed_values),
        constants.unknown,
        graph.input_shapes,
        product_claim=by_rules.claim,
        runs=tuple(improved_runs),
        input_ranges=stated_boxes(graph),
    )


def _improved_runs(
    candidates: Sequence[Run],
    measure: Measure,
    method: Multipliers,
    rules: NetworkConstants,
) -> list[RunBound]:
    """Return bounds of those runs whose constant as a whole is less than the one by the rules."""
    improved: list[RunBound] = []
    useful: list[tuple[Run, float]] = []
    for run in candidates:
        with suppress(NoBoundError):
            useful.append((run, _by_rules(run, rules)))
    total_links = sum(len(run.links) for run, _ in useful)
    for run, product in useful:
        if measure.clock.expired:
            measure.cut.searches[f"{_search_of(run)}, which was not begun"] = None
            continue
        share = len(run.links) / total_links  # of the method's seconds
        best = _by_parts(run, measure, method, share, product)
        with suppress(NoBoundError):
            through_head = _through_head(run, measure, method, share, product, best.statements if best else ())
            if best is None or through_head.upper < best.upper:
                best = through_head
        if best is not None:
            improved.append(best)
    return improved


def _through_head(
    run: Run,
    measure: Measure,
    method: Multipliers,
    share: float,
    product: float,
    statements: tuple[Part, ...],
) -> RunBound:
    """Prove the constant of a run by bounding its last convolutions together with the matrix that reads their pixels.

    ``statements``: those of the best bound by parts. The head's body begins at the first part from which a constant is
    proven. `NoBoundError` if the run has no head, or if nothing below ``product`` is proven.
    """
    # A link is direct if the next one reads its function's value as it is: without averages or a flatten between.
    has_no_head = all(link.ends_with_function for link in run.links[:-1])
    if has_no_head or method.widest is not None:
        raise NoBoundError("there is no head")
    # Imported late: few networks need them.
    from specnorm_networks.certified.heads import head_of
    from specnorm_networks.heads import bound_through_head

    for count in range(max(len(statements), 1)):
        with suppress(NoBoundError):
            head = head_of(run, statements[:count])
            claim = bound_through_head(head, measure, method, share)
            if claim < product:
                return RunBound(run.start, run.end, (_kernel_names(run.links),), product, claim, statements)
            break
    raise NoBoundError("no constant below the product was proven")


def _by_parts(
    run: Run,
    measure: Measure,
    method: Multipliers,
    share: float,
    product: float,
) -> RunBound | None:
    """Return the least constant of a run that proposed weights of its parts prove, below the product; else None."""
    best: RunBound | None = None
    parts = method.parts(run)
    has_cut_others = measure.clock.has_cut
    measure.clock.has_cut = False
    proposals = method.search(run, parts, share, measure.clock)
    if measure.clock.has_cut:
        in_parts = f", in {len(parts)} parts" if len(parts) > 1 else ""
        measure.cut.searches[f"{_search_of(run)}{in_parts}"] = None
    measure.clock.has_cut |= has_cut_others
    has_single_layer = any(last - first == 1 for first, last in parts)
    limit = (WORTHWHILE_AT_OWN_SIZE if has_single_layer else WORTHWHILE) * product
    worth = WORTH_AN_EXPENSIVE_PROOF if proof_products(run, parts) > EXPENSIVE else 1.0
    for weights in proposals:
        if measure.clock.expired and (best or not measure.clock.affords(proof_products(run, parts), LATE)):
            break
        if not expected_constant(run, weights) < limit:
            continue
        statements = statements_of(run, parts, weights)
        try:
            claim = constant_of_run(run, statements, measure)
        except InternalError:
            raise
        except (SpecnormError, OSError, OverflowError):
            continue  # a kernel cannot be measured; `propagate` has reported the reason
        if claim < (best.upper if best else product):
            layers = tuple(_kernel_names(run.links[first:last]) for first, last in parts)
            best = RunBound(run.start, run.end, layers, product, claim, statements)
            limit = worth * best.upper
    return best


def _search_of(run: Run) -> str:
    return f"the search for the layers from {run.start} to {run.end}"


def _kernel_names(links: Sequence[Link]) -> tuple[str, ...]:
    """Return the names of the kernels of some links."""
    return tuple(name for link in links for name in link.kernel_names)


def _by_rules(run: Run, rules: NetworkConstants) -> float:
    """Return a run's constant by the rules; `NoBoundError` if it, or that of the value before it, is 0 or unknown.

    It is the quotient of the constants of the values at its ends, from the first input for which both are known.
    """
    for steps in rules.by_input:
        before = steps[run.start].upper
        after = steps[run.end].upper
        if before and after:
            return after / before
    raise NoBoundError("a constant at an end of the run is 0 or unknown")
