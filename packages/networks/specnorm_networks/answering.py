"""Answer what the constant of a network is: compare graph and model, search, prove, and attack the answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

from specnorm.errors import MethodError
from specnorm.proof import AnyArray, Clock, check_budget
from specnorm_networks import extensions
from specnorm_networks.answer import COMPLETE, NetworkBound, RunBound
from specnorm_networks.bounding import bounded, upper_of
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.base import NoBoundError, keep_linear_maps
from specnorm_networks.certified.patterns import prepare
from specnorm_networks.certified.patterns.writing_out import written_out
from specnorm_networks.certified.ranges import (
    Ranges,
    box_of,
    has_function_with_positive_slopes,
    stated_boxes,
    unlimited_ranges,
    with_slopes_on,
)
from specnorm_networks.certified.runs import runs
from specnorm_networks.certified.units import unit_run
from specnorm_networks.comparison.attack import attack
from specnorm_networks.comparison.checking import check as compare
from specnorm_networks.inequality import Search, has_branches
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method, Multipliers, Product, Searching
from specnorm_networks.model import Checked
from specnorm_networks.progress import Progress, stage

Centre: TypeAlias = AnyArray | Mapping[str, AnyArray]
HOPE = 1.5
"""Largest factor by which a search is expected to lower the constant of the closed form."""
SHARE = 0.5
"""Share of the seconds that a search by units may take where a bound by channels is known: it may be in vain."""


@Clock.counting_work()
def bound(
    graph: Graph,
    measure: Measure | None = None,
    *,
    method: Method | None = None,
    radius: float | None = None,
    centre: Centre | None = None,
    check: bool = True,
    budget: float | None = 60.0,
    progress: Progress | None = None,
) -> NetworkBound:
    """Bound the Lipschitz constant of a network.

    Each node's bound is for the map from one input of the network to that value: a factor times its input's bound, or a
    combination of its inputs' bounds (`operators`). If the network has several inputs, each is bounded alone while the
    others stay, and the root of the sum of squares (Cauchy-Schwarz) holds for all. Layers in a row are bounded together
    if ``method`` does so and that is less.

    Parameters
    ----------
    measure : Measure, optional
        Proves bounds on the norms of layers.
    method : Product, Scaled or Multipliers, optional
        Default: ``Multipliers()``. No method returns more than ``Product()``.
    radius : float, optional
        Bound the network on a ball instead: for all x and y within that 2-norm distance of ``centre``, all inputs
        together. The bound is never larger than the one everywhere. There are up to three searches then, one of them
        everywhere.
    centre : array, or mapping of str to array, optional
        The network's input, or each of them by name, in the graph's shapes.
    check : bool, default True
        Execute the graph beside the model that it was read from before anything is claimed, and attack the answer
        before it is returned; ``checked`` says what was compared.
    budget : float, optional
        Seconds for searches and proofs; the comparison is not counted. On a busy machine they are those of its
        processors, so that the answer is that of an idle one. When they end, the best bound proven so far is returned,
        ``status`` says so, and another run may return another number. A step that has begun is finished. Layers that
        were not measured by then take a tenth of the seconds, or half a second. The method's own ``seconds`` are no
        more than these. None means no limit.
    progress : callable, optional
        See `live.network_bound`.

    Raises
    ------
    TranslationError
        If the graph does not compute what the model computes.
    InternalError
        If an execution contradicts what was proven.
    MethodError
        If radius and centre are not given together, or do not fit the network.
    """
    check_budget(budget)
    method = Multipliers() if method is None else method
    if not isinstance(method, Method):
        raise MethodError(f"method={method!r} is not Product(), Scaled() or Multipliers().")
    balls = None if radius is None and centre is None else extensions.balls
    ball = None if balls is None else balls.ball_of(graph, radius, centre)
    region = ball or (box_of(graph) if stated_boxes(graph) else None)
    read = prepare(graph)
    checked = Checked(reason="check=False")
    if check:
        with keep_linear_maps(), stage(progress, "comparison with the model"):
            checked = compare(graph, read, region)
    measure = replace(measure or Measure(), clock=Clock.of(budget))
    if isinstance(method, Searching):
        method = method.limited(budget, progress)
    with stage(progress, "search and proof"):
        ranges_on_ball = None if balls is None else balls.ranges_near(graph, ball, measure)
        answers = _everywhere(graph, read, measure, method)
        if balls is not None:
            answers += balls.near(graph, ball, measure, method, ranges_on_ball)
    answer = min(answers, key=upper_of)
    others = tuple(run for other in answers if other is not answer for run in other.runs)
    is_complete = not (measure.clock.has_cut or measure.clock.expired)
    status = COMPLETE if is_complete else f"budget: {budget:g} s ended{_in(measure)}; the best proven by then"
    if check:
        with keep_linear_maps(), stage(progress, "attack on the bound"):
            pairs, reached = attack(read, answer, region, ranges_on_ball, measure.clock)
        checked = replace(checked, pairs=pairs, reached=reached)
    file = None if graph.model is None else graph.model.file
    return replace(answer, checked=checked, note=read.note, status=status, file=file, others=others)


def _in(measure: Measure) -> str:
    """Return in words what the clock of a measure cut, if it is known."""
    cut = str(measure.cut)
    return f" in {cut}" if cut else ""


def bound_as_a_whole(graph: Graph, seconds: float, aim: float = 0.0) -> RunBound:
    """Bound a network by the inequality of all its units, whether it has branches or not, until ``aim`` is reached.

    Raises
    ------
    NoBoundError
        If it is too large for the time.
    """
    written = _with_slopes(written_out(prepare(graph))[-1])
    return Search(written, Measure(clock=Clock.of(seconds)), Multipliers()).bound(math.inf, aim)


def bound_by_units(
    graph: Graph,
    measure: Measure,
    method: Method,
    intervals: Ranges | None = None,
    limit: float = math.inf,
) -> NetworkBound:
    """Bound a graph by its units, the single entries of values.

    Parameters
    ----------
    graph : Graph
        Graph in which maxima and sorting are written out as ReLU of differences, with the slopes of each unit.
    intervals : Ranges, optional
        Ranges of the values.
    limit : float, optional
        A proven bound. If the search would begin far above it, there is no search.

    Raises
    ------
    NoBoundError
        If there are too many units, or no search of them is worth its time.
    """
    if measure.clock.expired or not isinstance(method, Searching):
        raise NoBoundError("no time is left, or the method searches no weights")
    run = unit_run(graph)
    if not method.affordable(run, 1.0 if limit == math.inf else SHARE):
        raise NoBoundError("a search of its units takes too long")
    if limit < math.inf and not method.begins_at(run) < HOPE * limit:
        raise NoBoundError("a search of its units begins far above a proven bound")
    return bounded(graph, measure, method, run, intervals)


def _everywhere(graph: Graph, prepared: Graph, measure: Measure, method: Method) -> list[NetworkBound]:
    """Bound a network by its channels, and a small network by its units as well if that may be less.

    Units may give less if there are convolutions: weights of channels ignore borders and pooling. If channels cannot
    describe the network at all, units are searched whatever the bound by channels is.
    """
    if isinstance(method, Product):
        return [bounded(prepared, measure, method)]
    search: Search | None = None
    if isinstance(method, Multipliers) and method.widest is None:
        written = written_out(prepared)[-1]
        with suppress(NoBoundError):
            search = Search(_with_slopes(written), measure, method) if has_branches(written) else None
    # The proof of what the search begins with has its time, however short the budget is.
    clock = measure.clock if search is None else search.clock
    by_channels = bounded(prepared, replace(measure, clock=clock), method)
    measure.clock.has_cut |= clock.has_cut or clock.expired
    if search is not None:
        with suppress(NoBoundError):
            by_channels = _with_whole(by_channels, search.bound(upper_of(by_channels)))
    if measure.clock.expired:
        return [by_channels]
    layers = [node for node in prepared.nodes if node.is_layer]
    channels_are_not_enough = has_function_with_positive_slopes(graph) or _lacks_channels(prepared, len(layers))
    # Channels of these are not units: those of sorting keep only that it moves no two vectors further apart.
    units_know_more = any(node.operator.units_say_more for node in prepared.nodes)
    if not channels_are_not_enough and not units_know_more:
        return [by_channels]
    limit = math.inf if channels_are_not_enough and search is None else upper_of(by_channels)
    answers = [by_channels]
    with suppress(NoBoundError):
        by_units = bound_by_units(_with_slopes(written_out(prepared)[-1]), measure, method, limit=limit)
        answers.append(_with_steps_of(by_channels, by_units))
    return answers


def _with_slopes(graph: Graph) -> Graph:
    """Return the same network with the slopes that its functions have anywhere."""
    return with_slopes_on(graph, unlimited_ranges(graph))


def _with_whole(by_channels: NetworkBound, whole: RunBound) -> NetworkBound:
    """Return an answer with the smaller bound of the network as a whole."""
    claim = by_channels.claim
    if claim is None or claim.what != whole.claim.what or not whole.upper < claim.value:
        raise NoBoundError("not a smaller bound of the same network")
    nodes = tuple(replace(step, claim=whole.claim) if step.name == whole.end else step for step in by_channels.nodes)
    whole = replace(whole, product=by_channels.product)
    return replace(
        by_channels, claim=whole.claim, ends={whole.end: whole.claim}, nodes=nodes, runs=(*by_channels.runs, whole)
    )


def _lacks_channels(graph: Graph, layers: int) -> bool:
    """Whether a run flattens channels, or not all of the network's ``layers`` layers are in runs."""
    layers_in_runs = 0
    for run in runs(graph):
        for link in run.links:
            if link.repeat > 1:
                return True
            layers_in_runs += sum(term.placed_layer is not None for term in link.terms)
    return layers_in_runs < layers


def _with_steps_of(by_channels: NetworkBound, by_units: NetworkBound) -> NetworkBound:
    """Return the bound by units with the nodes and the product of the bound by channels.

    The nodes of the first are those of a graph with maxima written out, which the user has never seen.
    """
    unit_steps = {step.name: step for step in by_units.nodes}
    nodes = []
    for step in by_channels.nodes:
        is_output = step.name in by_units.ends
        nodes.append(unit_steps.get(step.name, step) if is_output else step)
    product = math.inf if by_channels.product is None else by_channels.product
    unit_runs = tuple(replace(run, product=min(run.product, product)) for run in by_units.runs)
    return replace(by_units, nodes=tuple(nodes), product_claim=by_channels.product_claim, runs=unit_runs)
