"""Answer what the constant of a network is: compare graph and model, search, prove, and attack the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    stated_boxes,
    unlimited_ranges,
    with_slopes_on,
)
from specnorm_networks.certified.units import entries_of_input
from specnorm_networks.comparison.attack import attack
from specnorm_networks.comparison.checking import check as compare
from specnorm_networks.inequality import Search
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method, Multipliers, Product
from specnorm_networks.model import Checked
from specnorm_networks.progress import Progress, stage

Centre: TypeAlias = AnyArray | Mapping[str, AnyArray]


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
    method : Product or Multipliers, optional
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
        raise MethodError(f"method={method!r} is not Product() or Multipliers().")
    balls = None if radius is None and centre is None else extensions.balls
    ball = None if balls is None else balls.ball_of(graph, radius, centre)
    region = ball or (box_of(graph) if stated_boxes(graph) else None)
    read = prepare(graph)
    checked = Checked(reason="check=False")
    if check:
        with keep_linear_maps(), stage(progress, "comparison with the model"):
            checked = compare(graph, read, region)
    measure = replace(measure or Measure(), clock=Clock.of(budget))
    if isinstance(method, Multipliers):
        method = method.limited(budget, progress)
    with stage(progress, "search and proof"):
        ranges_on_ball = None if balls is None else balls.ranges_near(graph, ball, measure)
        answers = [by_channels_and_units(read, lambda: _with_units(read), measure, method)]
        if balls is not None:
            answers.append(balls.near(graph, ball, measure, method, ranges_on_ball))
    answer = min(answers, key=upper_of)
    others = tuple(run for other in answers if other is not answer for run in other.runs)
    is_complete = not (measure.clock.has_cut or measure.clock.expired)
    cut = f" in {measure.cut}" if str(measure.cut) else ""
    status = COMPLETE if is_complete else f"budget: {budget:g} s ended{cut}; the best proven by then"
    if check:
        with keep_linear_maps(), stage(progress, "attack on the bound"):
            pairs, reached = attack(read, answer, region, ranges_on_ball, measure.clock)
        checked = replace(checked, pairs=pairs, reached=reached)
    file = None if graph.model is None else graph.model.file
    return replace(answer, checked=checked, note=read.note, status=status, file=file, others=others)


def by_channels_and_units(
    graph: Graph,
    written: Callable[[], Graph],
    measure: Measure,
    method: Method,
    known: Ranges | None = None,
) -> NetworkBound:
    """Bound a network by its channels, and a small one by the inequality of its units.

    Channels that are entries say no more than units. Neither do those of a network whose search for units is short,
    unless it ended early: then only the rules of single nodes are beside the inequality.

    Parameters
    ----------
    written : callable
        Returns the graph in which maxima and sorting are written out as ReLU of differences, with the slopes of each
        unit.
    known : Ranges, optional
        Ranges of the values of ``graph``.
    """
    search: Search | None = None
    if isinstance(method, Multipliers) and method.takes_whole:
        with suppress(NoBoundError):
            entries_of_input(graph)  # a large network takes seconds to write out
            search = Search(written(), measure, method)
    if search is None:
        return bounded(graph, measure, method, known)
    has_pixels = any(node.layer is not None and node.layer.spatial for node in graph.nodes)
    of_channels = method if has_pixels and search.is_long else Product()
    # The proof of what the search begins with has its time, however short the budget is.
    limited = replace(measure, clock=search.clock_of_others)
    answer = bounded(graph, limited, of_channels, known, has_whole=True)
    measure.clock.has_cut |= limited.clock.has_cut or limited.clock.expired
    with suppress(NoBoundError):
        answer = _with_whole(answer, search.bound(answer))
        if not search.is_cut:
            return answer
    return answer if of_channels is method else min(answer, bounded(graph, measure, method, known), key=upper_of)


def _with_units(graph: Graph) -> Graph:
    written = written_out(graph)[-1]
    return with_slopes_on(written, unlimited_ranges(written))


def _with_whole(answer: NetworkBound, whole: RunBound) -> NetworkBound:
    """Return an answer with the smaller bound of the network as a whole."""
    claim = answer.claim
    if claim is None or claim.what != whole.claim.what or not whole.upper < claim.value:
        raise NoBoundError("not a smaller bound of the same network")
    nodes = tuple(replace(step, claim=whole.claim) if step.name == whole.end else step for step in answer.nodes)
    whole = replace(whole, product=answer.product)
    return replace(answer, claim=whole.claim, ends={whole.end: whole.claim}, nodes=nodes, runs=(*answer.runs, whole))
