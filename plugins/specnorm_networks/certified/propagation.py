"""Lipschitz constants of all values of a graph, node by node, from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from specnorm import ConvSpec, SpecnormError
from specnorm.errors import MethodError
from specnorm.proof import Interval, Upper, arithmetic, finite, known, least
from specnorm_networks.certified import rules
from specnorm_networks.certified.branches import Branches
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.kernels import Norms, norm_by, norm_of_stack_by
from specnorm_networks.certified.operators.base import NoBoundError, Place
from specnorm_networks.certified.operators.layers import Convolution, Matrices, Matrix
from specnorm_networks.certified.operators.linear import Add, Pad, Scale
from specnorm_networks.certified.operators.normalisation import Normalise
from specnorm_networks.certified.operators.reductions import Norm
from specnorm_networks.certified.operators.sources import Constant, Held, Input, Random
from specnorm_networks.certified.ranges import Values
from specnorm_networks.certified.reading import is_padded_layer, numbers_along, spatial
from specnorm_networks.certified.scope import Map, Scope

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One node of a network.

    Parameters
    ----------
    name, operator, rule : str
        The value, what the framework calls the operator, and the rule that was applied.
    alone : Upper or None
        Of this node alone; None for nodes with several inputs.
    claim : Upper or None
        Of the map from the network's inputs to this value; None: unknown from here or before.
    layer : str or None
        Name of the kernel, for a layer.
    """

    name: str
    operator: str
    rule: str
    alone: Upper | None
    claim: Upper | None
    layer: str | None = None

    @property
    def factor(self) -> float | None:
        """Lipschitz constant of this node alone, rounded up; None for nodes with several inputs."""
        return None if self.alone is None else self.alone.value

    @property
    def upper(self) -> float | None:
        """Proven Lipschitz constant of the map from the network's inputs to this value; None: unknown."""
        return None if self.claim is None else self.claim.value


@dataclass(frozen=True)
class UnknownNode:
    """Where the bound ends.

    Parameters
    ----------
    claim : Upper or None
        Of all of its inputs together: the bound up to there.
    """

    name: str
    operator: str
    reason: str
    claim: Upper | None = None

    @property
    def before(self) -> float:
        """Proven Lipschitz constant of all of its inputs together; 0 where it has none."""
        return 0.0 if self.claim is None else self.claim.value


@dataclass(frozen=True, eq=False)
class Constants:
    """Of a network's values."""

    steps: Mapping[str, Step]
    """With respect to all inputs together, in the order of computation."""
    unknown: tuple[UnknownNode, ...]
    by_input: tuple[Mapping[str, Step], ...]
    """With respect to each input alone, the others held."""
    claim: Upper | None
    """Of all outputs together; None if one is unknown."""


@arithmetic.on_host()
def propagate(
    graph: Graph, norms: Norms, values: Values, shortcuts: Mapping[str, Sequence[Upper]] | None = None
) -> Constants:
    """Constants of all values of a graph.

    ``values``: where they lie. ``shortcuts``: by the value at the end of some layers: constants of these together,
    used where they are less.
    """
    if not graph.inputs:
        raise MethodError("the network has no input of floating numbers, so that it has no Lipschitz constant.")
    if not graph.outputs:
        raise MethodError("no output of the network is computed from its inputs.")
    scope = Scope(graph, values.regions)
    passes = [_Pass(scope, norms, name, shortcuts or {}, values) for name in graph.inputs]
    steps = {node.name: _combined(node, [run.steps[node.name] for run in passes], graph) for node in graph.nodes}
    ends = [steps[name] for name in graph.outputs]
    claims = _all([step.claim for step in ends])
    claim = None if claims is None else rules.of_all_outputs(claims, graph.outputs)
    unknown = {u.name: u for run in passes for u in run.unknown.values()}
    return Constants(steps, tuple(unknown.values()), tuple(run.steps for run in passes), claim)


class _Pass:
    """Bounds of all nodes with respect to one input of the network."""

    def __init__(
        self, scope: Scope, norms: Norms, wrt: str, shortcuts: Mapping[str, Sequence[Upper]], values: Values
    ) -> None:
        self.scope, graph = scope, scope.graph
        self.nodes, self.constants = graph.by_name, graph.constants
        self.values, self.norms, self.wrt = values, norms, wrt
        self.steps: dict[str, Step] = {}
        self.unknown: dict[str, UnknownNode] = {}
        self.branches = Branches(scope, self.steps, norms)
        for node in graph.nodes:
            self.branches.seen(node)
            self.steps[node.name] = self._met(node, self._step(node))
            self.steps[node.name] = self._shortened(self.steps[node.name], shortcuts.get(node.name, ()))

    def _met(self, node: Node, step: Step) -> Step:
        """A node where branches meet, which may all come from one value."""
        moving = [name for name in node.inputs if self.steps[name].upper]
        if len(moving) < 2 or step.claim is None or not step.claim.value:
            return step
        found = step.claim
        try:
            for each in self.branches.claims(node):
                claim = rules.along(each, known(self.steps[rules.way_of(each).start].claim))
                if claim.value < found.value:
                    found, self.branches.met[node.name] = claim, each
        except (SpecnormError, OSError, OverflowError):
            pass  # the node's own rule has a bound
        if found is step.claim:
            return step
        return replace(step, rule=found.rule, claim=found)

    def _shortened(self, step: Step, together: Sequence[Upper]) -> Step:
        """A node at the end of layers that are bounded together."""
        found = [] if step.claim is None else [step.claim]
        for claim in together:
            before = self.steps.get(claim.what.start) if isinstance(claim.what, Map) else None
            if before is not None and before.claim is not None:
                found.append(rules.along(claim, before.claim))
        return replace(step, claim=least(*found)) if found else step

    def _step(self, node: Node) -> Step:
        before = [self.steps[name] for name in node.inputs]
        uppers = _all([step.claim for step in before])
        if node.name == self.wrt:
            return _shown(node, node.rule, None, rules.unmoved(self.scope, node.name))
        if uppers is None:
            return _shown(node, node.rule, None, None)
        held = isinstance(node.operator, (Input, Constant, Held))
        held = held or (bool(before) and not isinstance(node.operator, Random))
        if held and not any(upper.value for upper in uppers):
            return _shown(node, node.rule, None, rules.held(self.scope, self.wrt, node, uppers))
        try:
            return self._known(node, uppers)
        except (NoBoundError, SpecnormError, OSError, OverflowError) as error:
            up_to_here = rules.of_inputs(self.scope, self.wrt, node, uppers)
            self.unknown[node.name] = UnknownNode(node.name, label(node), str(error), up_to_here)
        return _shown(node, "unknown", None, None)

    def _known(self, node: Node, uppers: list[Upper]) -> Step:
        operator = node.operator
        if isinstance(operator, (Convolution, Matrix)):
            return self._layer(node, operator, None, node)
        if isinstance(operator, Scale):
            layer = past_shifts(self.nodes[node.inputs[0]], self.nodes)
            scale = _by_channel(operator, layer)
            if scale is not None and isinstance(layer.operator, (Convolution, Matrix)):
                return self._layer(layer, layer.operator, scale, node)
        shapes = tuple(self.nodes[each].shape for each in node.inputs)
        place = Place(shapes, node.shape, partial(self._ranges, node), self.values.boxed)
        moving = [name for name in node.inputs if name not in self.constants]
        if isinstance(operator, Matrices):
            factor = rules.of_layer(
                self.scope, moving[0], node, node, norm_of_stack_by(self.norms, operator.layer), node.rule
            )
        elif len(moving) == 1:
            inputs = [
                rules.unmoved(self.scope, name)
                if name in moving
                else rules.held(self.scope, moving[0], self.nodes[name], [])
                for name in node.inputs
            ]
            factor = rules.of_operator(self.scope, node, inputs, place)
        else:
            if isinstance(operator, Normalise):
                self._must_be_lengths(node, operator)
            found = rules.of_operator(self.scope, node, uppers, place)
            return _shown(node, node.rule, None, found)
        at = node.inputs.index(moving[0])
        name = operator.layer.name if isinstance(operator, Matrices) else None
        return _shown(node, node.rule, factor, rules.along(factor, uppers[at]), name)

    def _must_be_lengths(self, node: Node, operator: Normalise) -> None:
        """What `Normalise` says of its second input is true of the norm of the first alone."""
        lengths = self.nodes[node.inputs[-1]]
        wanted = (Norm, tuple(sorted(operator.axes)), True, node.inputs[:1])
        given = lengths.operator
        of = (type(given), tuple(sorted(getattr(given, "axes", ()))), getattr(given, "keep", False), lengths.inputs)
        if of != wanted or len(node.inputs) != 2:
            raise NoBoundError("it divides by a value that is not the length of what is divided")

    def _ranges(self, node: Node) -> tuple[Interval | None, ...]:
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
        norm = norm_by(self.norms, layer, geometry, spatial(source.shape, node.shape, layer.spatial), scale)
        before = self.steps[source.name]
        factor = rules.of_layer(self.scope, source.name, shown, node, norm, rule)
        return _shown(shown, rule, factor, rules.along(factor, known(before.claim)), layer.name)


def _shown(node: Node, rule: str, alone: Upper | None, claim: Upper | None, layer: str | None = None) -> Step:
    return Step(node.name, label(node), rule, alone, claim, layer)


def label(node: Node) -> str:
    """What the framework calls the operator."""
    return node.label or type(node.operator).__name__


def past_shifts(node: Node, nodes: Mapping[str, Node]) -> Node:
    """The node before constants were added to its value.

    ``nodes``: by name.
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
    if not isinstance(operator, (Convolution, Matrix)):
        return None
    left = isinstance(operator, Matrix) and operator.side == "left"
    values = numbers_along(scale.values, -1 - operator.layer.spatial - left, 0)
    count = ConvSpec.of(tuple(operator.layer.stored().shape), **operator.layer.geometry).cout
    return values if values is not None and len(values) == count and bool(np.all(np.isfinite(values))) else None


def _combined(node: Node, steps: list[Step], graph: Graph) -> Step:
    """One node's steps, each with respect to one input of the network."""
    first = steps[0]
    if len(steps) == 1:
        return first
    factors = [step.alone for step in steps if step.alone is not None]
    rule = next((step.rule for step in steps if step.upper != 0.0), first.rule)
    claims = _all([step.claim for step in steps])
    claim = None if claims is None else rules.of_all_inputs(node.name, claims, graph.inputs)
    alone = max(factors, key=finite, default=None)
    return _shown(node, rule, alone, claim, first.layer)


def _all(values: Sequence[T | None]) -> list[T] | None:
    found = [value for value in values if value is not None]
    return found if len(found) == len(values) else None
