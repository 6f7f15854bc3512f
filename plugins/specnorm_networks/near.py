"""A network's bound: everywhere, or on a ball around one input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import AnyArray, Clock, check_budget
from specnorm_networks.answer import COMPLETE, NetworkBound
from specnorm_networks.attack import attack
from specnorm_networks.bounding import bounded
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.linear_bounds import written_out
from specnorm_networks.certified.operators.base import Pointwise
from specnorm_networks.certified.operators.joins import Extreme
from specnorm_networks.certified.operators.layers import Convolution, Matrix
from specnorm_networks.certified.patterns import prepared, unsorted
from specnorm_networks.certified.ranges import Ranges, anywhere, box_of, localised, ranges, rises, stated
from specnorm_networks.certified.reading import runs
from specnorm_networks.certified.regions import Ball
from specnorm_networks.certified.units import unit_run
from specnorm_networks.checking import Checked
from specnorm_networks.checking import check as compared
from specnorm_networks.linear import ranges_by_lines, read
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method, Multipliers, Product

Centre: TypeAlias = AnyArray | Mapping[str, AnyArray]
ROUNDS = 3
"""How often ranges are computed, each time with the constants that the ones before give."""
HOPE = 1.5
"""By how much a search lowers the closed form's constant, at most, as a rule."""
ENTRIES = 8192
"""Of values of curved functions, up to which their ranges come from linear bounds."""


def bound(
    graph: Graph,
    measure: Measure | None = None,
    *,
    method: Method | None = None,
    radius: float | None = None,
    centre: Centre | None = None,
    check: bool = True,
    budget: float | None = 60.0,
) -> NetworkBound:
    """Bound the Lipschitz constant of a network.

    Each node's bound is for the map from one input of the network to that value: a factor times its input's bound, or a
    combination of its inputs' bounds (`operators`). Several inputs of the network: each alone, the others held, and the
    root of the sum of squares (Cauchy-Schwarz). Layers in a row are bounded together where ``method`` does so and that
    is less.

    Parameters
    ----------
    method : Product, Scaled or Multipliers, optional
        Default: ``Multipliers()``. None gives more than ``Product()``.
    radius : float, optional
        Bound the network on a ball instead: for all x and y within that 2-norm distance of ``centre``, all inputs
        together. Never more than without; there are up to three searches then, one of them without.
    centre : array, or mapping of str to array, optional
        The network's input, or each of them by name, in the graph's shapes.
    check : bool, default True
        Execute the graph beside the model that it was read from before anything is claimed, and attack the answer
        before it is given; ``found.checked`` says what was compared.
    budget : float, optional
        Seconds for searches and proofs, without the comparison; None: as long as they take. When they end, the best
        that was proven by then is given, ``found.status`` says so, and another run may give another number.

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
        raise MethodError(f"method={method!r} is none of Product(), Scaled() and Multipliers().")
    ball = None if radius is None and centre is None else _ball(graph, radius, centre)
    region = ball or (box_of(graph) if stated(graph) else None)
    read = prepared(graph)
    checked = compared(graph, read, region) if check else Checked(reason="check=False")
    ranges_of: Ranges | None = None
    measure = replace(measure or Measure(), clock=Clock.of(budget))
    if ball is None:
        answers = _everywhere(graph, measure, method)
        found = _smallest(answers)
        found = replace(found, others=tuple(run for each in answers if each is not found for run in each.runs))
    else:
        ranges_of = ranges_near(graph, ball, measure)
        found = _smallest([*_everywhere(graph, measure, method), *near(graph, ball, measure, method, ranges_of)])
    status = COMPLETE if not measure.clock.expired else f"budget: {budget:g} s ended; the best proven by then"
    if check:
        pairs, reached = attack(read, found, region, ranges_of or {})
        checked = replace(checked, pairs=pairs, reached=reached)
    file = None if graph.model is None else graph.model.file
    return replace(found, checked=checked, note=read.note, status=status, file=file)


def near(graph: Graph, ball: Ball, measure: Measure, method: Method, found: Ranges | None = None) -> list[NetworkBound]:
    """Bounds on a ball: with the slopes of each channel there, and of each unit where the network is small.

    Parameters
    ----------
    found : Ranges, optional
        From `ranges_near`, where it is known already.
    """
    found = ranges_near(graph, ball, measure) if found is None else found
    answers = [bounded(localised(prepared(graph), found), measure, method, None, found)]
    if not isinstance(method, Product):
        written = written_out(unsorted(graph))[-1]
        answers += _by_units(localised(written, ranges(written, ball, {}, found)), measure, method, found)
    return [replace(answer, radius=ball.radius) for answer in answers]


def _by_units(
    local: Graph, measure: Measure, method: Method, found: Ranges | None = None, limit: float | None = None
) -> list[NetworkBound]:
    """The bound of a graph that is written out and localised, by its units; none where these are too many.

    Sorting is norm-preserving for channels; for units it is ReLU of a difference. ``limit``: a bound that is
    known; units that begin far above are not worth a search.
    """
    run = None if measure.clock.expired else unit_run(local)
    if run is None or measure.clock.expired or not method.affordable(run):
        return []
    if limit is not None and not method.begins_at(run) < HOPE * limit:
        return []
    return [bounded(local, measure, method, run, found)]


def _everywhere(graph: Graph, measure: Measure, method: Method) -> list[NetworkBound]:
    """By channels, and by the units of a small network: what borders and pooling leave of channels."""
    by_channels = bounded(graph, measure, method)
    if isinstance(method, Product):
        return [by_channels]
    layers = [node.operator for node in prepared(graph).nodes if isinstance(node.operator, (Convolution, Matrix))]
    lacking = rises(graph) or _lacks_channels(graph, len(layers))
    if not (lacking or any(isinstance(layer, Convolution) for layer in layers)):
        return [by_channels]
    written = written_out(unsorted(graph))[-1]
    limit = None if lacking else by_channels.upper
    by_units = _by_units(localised(written, anywhere(written)), measure, method, limit=limit)
    return [by_channels, *(_with_steps_of(by_channels, found) for found in by_units)]


def _lacks_channels(graph: Graph, layers: int) -> bool:
    """Whether a run flattens channels, or one of so many layers is in no run of channels."""
    links = [link for run in runs(prepared(graph)) for link in run.links]
    read = sum(term.filter is not None for link in links for term in link.terms)
    return any(link.repeat > 1 for link in links) or read < layers


def _with_steps_of(by_channels: NetworkBound, by_units: NetworkBound) -> NetworkBound:
    """The bound by units, with the nodes of the graph as it was read and the product of its layers' norms."""
    own = {step.name: step for step in by_units.nodes}
    nodes = tuple(own.get(step.name, step) if step.name in by_units.ends else step for step in by_channels.nodes)
    known = math.inf if by_channels.product is None else by_channels.product
    shorter = tuple(replace(run, product=min(run.product, known)) for run in by_units.runs)
    return replace(by_units, nodes=nodes, product_claim=by_channels.product_claim, runs=shorter)


def ranges_near(graph: Graph, ball: Ball, measure: Measure) -> Ranges:
    """Ranges of all values on a ball; the constants up to each value make them smaller, and they the constants."""
    whole, plain = prepared(graph), unsorted(graph)
    constants = bounded(whole, measure, Product()).constants
    found = ranges(plain, ball, constants)
    lines = _by_lines(graph, ball, measure)
    found = found if lines is None else ranges(plain, ball, constants, lines)
    for _ in range(ROUNDS - 1):
        constants = bounded(localised(whole, found), measure, Product(), known=found).constants
        found = ranges(plain, ball, constants, found)
    return found


def _by_lines(graph: Graph, ball: Ball, measure: Measure) -> Ranges | None:
    """By linear bounds; None for several inputs, or more than `ENTRIES` entries of curved functions."""
    curved = [node.shape for node in graph.nodes if isinstance(node.operator, (Pointwise, Extreme))]
    if len(graph.inputs) != 1 or sum(math.prod(shape or (ENTRIES,)) for shape in curved) > ENTRIES:
        return None
    try:
        return ranges_by_lines(read(graph, measure), ball)
    except MethodError:  # sizes that are not known, or a centre outside of the stated box
        return None


def _smallest(answers: list[NetworkBound]) -> NetworkBound:
    return min(answers, key=lambda answer: math.inf if answer.upper is None else answer.upper)


def _ball(graph: Graph, radius: float | None, centre: Centre | None) -> Ball:
    if radius is None or centre is None:
        raise MethodError(
            f"radius={radius!r} and {'no' if centre is None else 'a'} centre: a bound near an input needs both."
        )
    if not isinstance(centre, Mapping):
        if len(graph.inputs) != 1:
            raise MethodError(f"The network has {len(graph.inputs)} inputs: give the centre of each by name.")
        centre = {graph.inputs[0]: centre}
    return Ball({name: np.array(x, dtype=np.float64) for name, x in centre.items()}, float(radius))
