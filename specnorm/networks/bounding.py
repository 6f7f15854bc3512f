"""A graph and its layers' norms -> a proven Lipschitz constant of the whole network, node by node."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from specnorm.certified import host
from specnorm.certified.network.affine_maps import Subnetwork
from specnorm.certified.network.boxes import Values, stated
from specnorm.certified.network.graph import Graph, Node
from specnorm.certified.network.linear_combinations import is_padded_layer, numbers_along, spatial
from specnorm.certified.network.operators.base import FloatArray, NoBoundError, Place, Pointwise
from specnorm.certified.network.operators.layers import Convolution, Matrices, Matrix
from specnorm.certified.network.operators.linear import Add, Pad, Scale
from specnorm.certified.network.operators.sources import Constant, Held, Input, Random
from specnorm.certified.network.patterns import recognised
from specnorm.certified.network.regions import Range
from specnorm.certified.network.segments import constant_up
from specnorm.certified.network.subnetworks import runs
from specnorm.errors import MethodError, SpecnormError
from specnorm.networks.answer import NetworkBound, RunBound, Step, UnknownNode
from specnorm.networks.certificate import Certificate, RunWeights, digest
from specnorm.networks.measuring import Measure
from specnorm.networks.methods import Method, Product
from specnorm.problem.spec import ConvSpec

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
    passes = [_Pass(graph, measure, name, {}, values) for name in graph.inputs]
    product = _result(graph, passes)
    found = [] if isinstance(method, Product) else _shorter(candidates(graph), measure, method, passes)
    if found:
        shortcuts = {run.end: run for run, _ in found}
        passes = [_Pass(graph, measure, name, shortcuts, values) for name in graph.inputs]
    whole = replace(_result(graph, passes), product=product.upper, runs=tuple(run for run, _ in found))
    if whole.upper is None or not math.isfinite(whole.upper):
        return whole
    weights = tuple(weights for _, weights in found)
    return replace(whole, certificate=Certificate(whole.upper, digest(graph), measure.rtol, weights))


def prepared(graph: Graph) -> Graph:
    """The network as `bound` reads it: patterns recognised, and without what no output needs."""
    return recognised(graph).pruned()


def unsorted(graph: Graph) -> Graph:
    """The same without sorting: of patterns, only functions of one number are recognised.

    Ranges and units read sorting as maxima and minima, which are ReLU of differences.
    """
    found = prepared(graph).by_name
    nodes = (found.get(node.name, node) for node in graph.nodes)
    kept = [new if isinstance(new.operator, Pointwise) else old for old, new in zip(graph.nodes, nodes, strict=True)]
    return replace(graph, nodes=tuple(kept)).pruned()


def _result(graph: Graph, passes: list[_Pass]) -> NetworkBound:
    by_name = {node.name: _combined([run.steps[node.name] for run in passes]) for node in graph.nodes}
    ends = [by_name[name] for name in graph.outputs]
    unknown = {u.name: u for run in passes for u in run.unknown.values()}
    return NetworkBound(
        _stacked([step.upper for step in ends]),
        _stacked([step.heuristic for step in ends]),
        {step.name: step.upper for step in ends},
        tuple(step for name, step in by_name.items() if name not in graph.constants),
        tuple(unknown.values()),
        {name: graph.by_name[name].shape for name in graph.inputs},
        input_ranges=stated(graph),
    )


def _shorter(
    candidates: Sequence[Subnetwork], measure: Measure, method: Method, passes: list[_Pass]
) -> list[tuple[RunBound, RunWeights]]:
    """Runs whose constant is less than the rules', and what proves it."""
    found = []
    useful = [(run, rules) for run in candidates if (rules := _by_rules(run, passes)) is not None]
    in_all = sum(len(run.links) for run, _ in useful)
    for run, product in useful:
        parts = method.parts(run)
        weights = method.weights(run, parts, len(run.links) / in_all)
        if weights is None:
            continue
        try:
            # The last value is weighed by what the search hopes for; with too little hope there is no proof.
            hoped = math.prod(link.factor for link in run.links) / float(np.min(weights[-1]))
            limit = HOPELESS if any(last - first == 1 for first, last in parts) else WORTHWHILE
            upper = _constant(run, parts, weights, measure) if hoped < limit * product else product
        except (SpecnormError, OSError, OverflowError):
            continue  # the rules say so where they meet it
        if upper < product:
            layers = tuple(tuple(n for link in run.links[a:b] for n in link.names) for a, b in parts)
            of = RunWeights(run.start, run.end, tuple(first for first, _ in parts), tuple(weights))
            found.append((RunBound(run.start, run.end, layers, product, upper), of))
    return found


def _by_rules(run: Subnetwork, passes: list[_Pass]) -> float | None:
    """The run's constant by the rules; None where there is nothing to gain: held, or unknown before."""
    for walk in passes:
        before, after = walk.steps[run.start].upper, walk.steps[run.end].upper
        if before and after:
            return host.div_up(after, before)
    return None


def _constant(run: Subnetwork, parts: list[tuple[int, int]], weights: list[FloatArray], measure: Measure) -> float:
    """Proven constant of a run, from its parts and what follows the functions in them."""
    total = [*(link.factor for link in run.links), *constants(run, parts, weights, measure)]
    # Weights of the last value are no part of the claim: divided by, whatever they are.
    return host.mul_up(*total, host.div_up(1.0, float(np.min(weights[-1]))))


def constants(
    run: Subnetwork, parts: Sequence[tuple[int, int]], weights: Sequence[FloatArray], measure: Measure
) -> list[float]:
    """Proven constants of parts of a run, each in the weights of the values that it begins and ends with."""
    values, found = [np.ones(run.width), *weights], []
    for first, last in parts:
        before = values[first] if first == 0 else np.repeat(values[first], run.links[first - 1].repeat)
        found.append(constant_up(run.part(first, last), [before, *values[first + 1 : last + 1]], measure))
    return found


class _Pass:
    """Bounds of all nodes with respect to one input of the network."""

    def __init__(
        self, graph: Graph, measure: Measure, wrt: str, shortcuts: Mapping[str, RunBound], values: Values
    ) -> None:
        self.nodes, self.constants = graph.by_name, graph.constants
        self.values = values
        self.measure = measure
        self.steps: dict[str, Step] = {}
        self.unknown: dict[str, UnknownNode] = {}
        for node in graph.nodes:
            if isinstance(node.operator, Input):
                one = float(node.name == wrt)
                self.steps[node.name] = Step(node.name, _label(node), node.rule, None, one, one)
            else:
                self.steps[node.name] = self._shortened(self._step(node), shortcuts.get(node.name))

    def _shortened(self, step: Step, run: RunBound | None) -> Step:
        """A node at the end of layers that are bounded together."""
        before = None if run is None else self.steps[run.start].upper
        if run is None or before is None or step.upper is None:
            return step
        upper = host.mul_up(run.upper, before)
        return replace(step, upper=upper) if upper < step.upper else step

    def _step(self, node: Node) -> Step:
        before = [self.steps[name] for name in node.inputs]
        uppers = [step.upper for step in before if step.upper is not None]
        heuristics = [step.heuristic for step in before if step.heuristic is not None]
        if len(uppers) < len(before) or len(heuristics) < len(before):
            return Step(node.name, _label(node), node.rule, None, None, None)
        held = isinstance(node.operator, (Constant, Held)) or (bool(before) and not isinstance(node.operator, Random))
        if held and not any(uppers):
            return Step(node.name, _label(node), node.rule, None, 0.0, 0.0)
        try:
            return self._known(node, uppers, heuristics)
        except (NoBoundError, SpecnormError, OSError, OverflowError) as error:
            self.unknown[node.name] = UnknownNode(node.name, _label(node), str(error), host.hypot_up(*uppers))
        return Step(node.name, _label(node), "unknown", None, None, None)

    def _known(self, node: Node, uppers: list[float], heuristics: list[float]) -> Step:
        operator, name = node.operator, None
        if isinstance(operator, (Convolution, Matrix)):
            return self._layer(node, operator, None, node)
        if isinstance(operator, Scale):
            layer = past_shifts(self.nodes[node.inputs[0]], self.nodes)
            scale = _by_channel(operator, layer)
            if scale is not None and isinstance(layer.operator, (Convolution, Matrix)):
                return self._layer(layer, layer.operator, scale, node)
        place = Place(tuple(self.nodes[each].shape for each in node.inputs), node.shape, partial(self._ranges, node))
        moving = [each not in self.constants for each in node.inputs]
        if isinstance(operator, Matrices):
            factor, name = self.measure.matrices(operator.layer), operator.layer.name
        elif sum(moving) == 1:
            factor = operator.combine([float(each) for each in moving], place)
        else:
            both = (operator.combine(uppers, place), operator.combine(heuristics, place))
            return Step(node.name, _label(node), node.rule, None, *both)
        upper, heuristic = (host.mul_up(factor, each[moving.index(True)]) for each in (uppers, heuristics))
        return Step(node.name, _label(node), node.rule, factor, upper, heuristic, name)

    def _ranges(self, node: Node) -> tuple[Range | None, ...]:
        return tuple(self.values[name] for name in node.inputs)

    def _layer(self, node: Node, operator: Convolution | Matrix, scale: Any, shown: Node) -> Step:
        """Bound of a layer, with padding before and batch normalisation after it as one map."""
        layer, geometry = operator.layer, dict(operator.layer.geometry)
        source = self.nodes[node.inputs[0]]
        rule = "layer, scaled" if scale is not None else "layer"
        if isinstance(source.operator, Pad) and is_padded_layer(node, source, self.nodes[source.inputs[0]]):
            geometry |= {"padding_mode": source.operator.mode, "padding": source.operator.pads}
            source = self.nodes[source.inputs[0]]
            rule = f"{rule}, padded"
        norm = self.measure(layer, geometry, spatial(source.shape, node.shape, layer.spatial), scale)
        before = self.steps[source.name]
        alpha = abs(operator.alpha) if isinstance(operator, Matrix) else 1.0
        factor = host.mul_up(alpha, norm.upper)
        upper = host.mul_up(factor, before.upper or 0.0)
        heuristic = host.mul_up(alpha, norm.heuristic, before.heuristic or 0.0)
        return Step(shown.name, _label(shown), rule, factor, upper, heuristic, layer.name)


def _label(node: Node) -> str:
    return node.label or type(node.operator).__name__


def past_shifts(node: Node, nodes: Mapping[str, Node]) -> Node:
    """The node before constants were added to its value.

    Parameters
    ----------
    nodes : mapping of str to Node
        By name.
    """
    while isinstance(node.operator, Add) and node.operator.over == 1 and node.shape is not None:
        terms = zip(node.inputs, node.operator.weights, strict=True)
        moving = [(nodes[name], weight) for name, weight in terms if not isinstance(nodes[name].operator, Constant)]
        if len(moving) != 1 or moving[0][1] != 1 or moving[0][0].shape != node.shape:
            break
        node = moving[0][0]
    return node


def _by_channel(scale: Scale, layer: Node) -> Any:
    """One number an output channel of a layer, if the values are such; None otherwise."""
    operator = layer.operator
    if not isinstance(operator, (Convolution, Matrix)) or (isinstance(operator, Convolution) and not operator.sized):
        return None
    left = isinstance(operator, Matrix) and operator.side == "left"
    values = numbers_along(scale.values, -1 - operator.layer.spatial - left, 0)
    shape = tuple(operator.layer.load().shape)
    count = ConvSpec.of(shape[::-1] if operator.layer.transposed else shape, **operator.layer.geometry).cout
    return values if values is not None and len(values) == count and bool(np.all(np.isfinite(values))) else None


def _combined(steps: list[Step]) -> Step:
    """One node's steps, each with respect to one input of the network."""
    first = steps[0]
    if len(steps) == 1:
        return first
    factors = [step.factor for step in steps if step.factor is not None]
    known = next((step.rule for step in steps if step.upper != 0.0), first.rule)
    return Step(
        first.name, first.operator, known, max(factors, default=None),
        _stacked([s.upper for s in steps]), _stacked([s.heuristic for s in steps]), first.layer,
    )  # fmt: skip


def _stacked(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return host.hypot_up(*known) if len(known) == len(values) and known else None
