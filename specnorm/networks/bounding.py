"""A graph and its layers' norms -> a proven Lipschitz constant of the whole network, node by node."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from specnorm.errors import SpecnormError
from specnorm.networks.answer import NetworkBound, RunBound, Step, UnknownNode
from specnorm.networks.boxes import Values, stated
from specnorm.networks.certificate import Certificate, RunWeights, digest
from specnorm.networks.graph import Graph, Node, concrete
from specnorm.networks.links import Run, Weights
from specnorm.networks.measuring import Measure
from specnorm.networks.methods import Method, Product
from specnorm.networks.rules import COMBINATIONS, FACTORS, UnknownRuleError, repeats
from specnorm.networks.runs import runs
from specnorm.networks.segments import constant_up
from specnorm.networks.sorts import with_sorts
from specnorm.networks.steep import HINT, is_steep
from specnorm.networks.steep import factors as steep
from specnorm.proof import host

WORTHWHILE, HOPELESS = 0.97, 2.0
"""Of the product of a run: what a search must hope for before it is proven; the second where layers are bounded by
themselves, whose norms at their own size are below those that the search sees."""


def bounded(
    graph: Graph, measure: Measure, method: Method, candidates: Callable[[Graph], Sequence[Run]] = runs
) -> NetworkBound:
    """Bound the Lipschitz constant of a network with the slopes that the graph states; see `near.bound`.

    Parameters
    ----------
    graph : Graph
    measure : Measure
    method : Method
    candidates : callable
        Gives runs that may have a smaller constant than the rules'.

    Returns
    -------
    NetworkBound
    """
    graph = prepared(graph)
    values = Values(graph)
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
    """The network as `bound` reads it: sorting found, and without what no output needs."""
    return with_sorts(graph).pruned()


def _result(graph: Graph, passes: list[_Pass]) -> NetworkBound:
    steps = [_combined([run.steps[node.name] for run in passes]) for node in graph.nodes]
    by_name = {step.name: step for step in steps}
    ends = [by_name[name] for name in graph.outputs]
    unknown = {u.name: u for run in passes for u in run.unknown.values()}
    return NetworkBound(
        _stacked([step.upper for step in ends]),
        _stacked([step.heuristic for step in ends]),
        {step.name: step.upper for step in ends},
        tuple(steps),
        tuple(unknown.values()),
        {node.name: node.shape for node in graph.nodes if node.rule == "input"},
        input_ranges=stated(graph),
    )


def _shorter(
    candidates: Sequence[Run], measure: Measure, method: Method, passes: list[_Pass]
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


def _by_rules(run: Run, passes: list[_Pass]) -> float | None:
    """The run's constant by the rules; None where there is nothing to gain: held, or unknown before."""
    for walk in passes:
        before, after = walk.steps[run.start].upper, walk.steps[run.end].upper
        if before and after:
            return host.div_up(after, before)
    return None


def _constant(run: Run, parts: list[tuple[int, int]], weights: list[Weights], measure: Measure) -> float:
    """Proven constant of a run, from its parts and what follows the functions in them."""
    total = [*(link.factor for link in run.links), *constants(run, parts, weights, measure)]
    # Weights of the last value are no part of the claim: divided by, whatever they are.
    return host.mul_up(*total, host.div_up(1.0, float(np.min(weights[-1]))))


def constants(run: Run, parts: Sequence[tuple[int, int]], weights: Sequence[Weights], measure: Measure) -> list[float]:
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
        self.nodes = {node.name: node for node in graph.nodes}
        self.values = values
        self.measure = measure
        self.steps: dict[str, Step] = {}
        self.unknown: dict[str, UnknownNode] = {}
        for node in graph.nodes:
            if node.rule == "input":
                one = float(node.name == wrt)
                self.steps[node.name] = Step(node.name, node.operator, node.rule, None, one, one)
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
            return Step(node.name, node.operator, node.rule, None, None, None)
        if not any(uppers) and node.rule != "random" and (before or node.rule == "held"):
            return Step(node.name, node.operator, node.rule, None, 0.0, 0.0)  # held, whatever it is
        try:
            return self._known(node, uppers, heuristics)
        except (UnknownRuleError, SpecnormError, OSError, OverflowError) as error:
            reason = str(error)
        self.unknown[node.name] = UnknownNode(node.name, node.operator, reason, host.hypot_up(*uppers))
        return Step(node.name, node.operator, "unknown", None, None, None)

    def _known(self, node: Node, uppers: list[float], heuristics: list[float]) -> Step:
        sources = [self.nodes[name] for name in node.inputs]
        if is_steep(node.rule, node.params) and node.params.get("slopes") is None:
            return self._steep(node, sources, uppers, heuristics)
        if node.rule in COMBINATIONS:
            combine = COMBINATIONS[node.rule]
            both = (combine(node, sources, uppers), combine(node, sources, heuristics))
            whole = self.steps.get(str(node.params.get("of")))
            if whole is not None and whole.upper is not None and whole.heuristic is not None:
                # Positive and negative part of one value.
                both = (min(both[0], whole.upper), min(both[1], whole.heuristic))
            return Step(node.name, node.operator, node.rule, None, *both)
        if node.rule == "layer":
            return self._layer(node, None, node)
        if node.rule == "matrices" and node.layer is not None:
            factor = self.measure.matrices(node.layer)
            both = (host.mul_up(factor, uppers[0]), host.mul_up(factor, heuristics[0]))
            return Step(node.name, node.operator, node.rule, factor, *both, node.layer.name)
        if node.rule == "random":
            raise UnknownRuleError("it draws random numbers, so that the network is no function of its inputs")
        if len(sources) != 1 or node.rule not in FACTORS:
            reason = node.params.get("reason", "this operator has no Lipschitz constant that is known here")
            raise UnknownRuleError(str(reason))
        (source,) = sources
        if node.rule == "scale":
            layer = self._past_shifts(source)
            channels = _by_channel(node, layer)
            if channels is not None:
                return self._layer(layer, channels, node)
        factor = FACTORS[node.rule](node, source)
        both = (host.mul_up(factor, uppers[0]), host.mul_up(factor, heuristics[0]))
        return Step(node.name, node.operator, node.rule, factor, *both)

    def _steep(self, node: Node, sources: list[Node], uppers: list[float], heuristics: list[float]) -> Step:
        """What has a constant where its inputs lie in a range."""
        ends = node.params.get("ranges")  # near one input
        if ends is None:
            known = [self.values[source.name] for source in sources]
            ends = [(each.low, each.high) for each in known if each is not None]
        wide = [host.root_up(repeats(source.shape, node.shape)) for source in sources]
        factors = steep(node.rule, node.params, ends) if len(ends) == len(sources) else [math.inf] * len(sources)
        factors = [host.mul_up(factor, more) for factor, more in zip(factors, wide, strict=True)]
        if any(upper and not math.isfinite(factor) for factor, upper in zip(factors, uppers, strict=True)):
            raise UnknownRuleError(f"{node.params.get('reason', 'its slope has no bound')}; {HINT}")
        both = [
            host.add_up(*(host.mul_up(f, u) for f, u in zip(factors, before, strict=True) if u))
            for before in (uppers, heuristics)
        ]
        return Step(node.name, node.operator, node.rule, factors[0] if len(factors) == 1 else None, both[0], both[1])

    def _past_shifts(self, node: Node) -> Node:
        """The node before constants were added."""
        while node.params.get("shift") and self.nodes[node.inputs[0]].shape == node.shape:
            node = self.nodes[node.inputs[0]]
        return node

    def _is_one_layer(self, node: Node, padded: Node) -> bool:
        """Whether padding is of the axes of a convolution, and no further than a layer's own padding goes."""
        assert node.layer is not None  # for the type checker; the caller looked
        pads, before = padded.params["pads"], self.nodes[padded.inputs[0]].shape
        if padded.params["mode"] == "reflect":
            sizes = concrete(_last(before, len(pads)))
            if sizes is None or any(max(pair) >= n for pair, n in zip(pads, sizes, strict=True)):
                return False
        return len(pads) == node.layer.spatial

    def _layer(self, node: Node, scale: Any, shown: Node) -> Step:
        """Bound of a layer, with padding before and batch normalisation after it as one map."""
        if node.layer is None:
            raise UnknownRuleError("its kernel is not known")
        geometry = dict(node.layer.geometry)
        source = self.nodes[node.inputs[0]]
        rule = "layer, scaled" if scale is not None else "layer"
        pads = source.params.get("pads")
        padding = geometry.get("padding", ())
        unpadded = not isinstance(padding, str) and not any(sum(pair) for pair in padding)
        if pads is not None and unpadded and not geometry.get("transposed") and self._is_one_layer(node, source):
            geometry |= {"padding_mode": source.params["mode"], "padding": pads}
            source = self.nodes[source.inputs[0]]
            rule = f"{rule}, padded"
        norm = self.measure(node.layer, geometry, _spatial_sizes(node, source), scale)
        before = self.steps[source.name]
        alpha = abs(float(node.params.get("alpha", 1.0)))
        factor = host.mul_up(alpha, norm.upper)
        upper = host.mul_up(factor, before.upper or 0.0)
        heuristic = host.mul_up(alpha, norm.heuristic, before.heuristic or 0.0)
        return Step(shown.name, shown.operator, rule, factor, upper, heuristic, node.layer.name)


def _spatial_sizes(node: Node, source: Node) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    spatial = node.layer.spatial if node.layer is not None else 0
    before, after = concrete(_last(source.shape, spatial)), concrete(_last(node.shape, spatial))
    return None if before is None or after is None else (before, after)


def _last(shape: Any, count: int) -> Any:
    return None if shape is None else shape[len(shape) - count :]


def _by_channel(node: Node, layer: Node) -> Any:
    """One number an output channel of a layer, if the node multiplies by such; None otherwise."""
    values, axis = np.asarray(node.params["values"], dtype=np.float64), node.params.get("channel")
    if layer.rule != "layer" or layer.layer is None or axis is None or not layer.params.get("foldable", True):
        return None
    if node.shape is None:
        # Batch normalisation has its channels on axis 1, as a convolution of samples does.
        fits = axis == 1 and layer.layer.spatial > 0
    else:
        fits = axis == len(node.shape) - 1 - layer.layer.spatial
    return values if fits and values.ndim == 1 and bool(np.all(np.isfinite(values))) else None


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
