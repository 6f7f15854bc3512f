"""Prove Lipschitz constants of all values of a graph, node by node, from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

from specnorm import SpecnormError
from specnorm.errors import InternalError, MethodError
from specnorm.proof import Upper, arithmetic, finite, visible
from specnorm.proof import known as require_known
from specnorm.proof import least as least_claim_of
from specnorm_networks.certified import rules
from specnorm_networks.certified.attention import Factors, claim_of_attention, factors_of_attention
from specnorm_networks.certified.branches import claims_of_branches
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.kernels import Norms, PlacedLayer, checked_norm, checked_norm_of_stack
from specnorm_networks.certified.lengths import LazyLengths
from specnorm_networks.certified.operators.base import Affine, FloatArray, Known, NoBoundError, NotRunError, Place
from specnorm_networks.certified.ranges import LazyRanges
from specnorm_networks.certified.rules import Scope
from specnorm_networks.certified.subjects import Map

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """The bound of one node of a network.

    Parameters
    ----------
    name : str
        Name of the node's value.
    operator : str
        The framework's name of the operator.
    rule : str
        The rule that was applied.
    own : Upper or None
        The node's own Lipschitz constant, with respect to the only value that it reads and that is no fixed value of
        the network; None if it reads several.
    claim : Upper or None
        Constant of the map from the network's inputs to this value; None: unknown, here or for a value before.
    layer : str or None
        Name of the kernel, for a layer.
    """

    name: str
    operator: str
    rule: str
    own: Upper | None
    claim: Upper | None
    layer: str | None = None

    @property
    def factor(self) -> float | None:
        """The node's own Lipschitz constant, rounded up; None for nodes with several inputs."""
        return None if self.own is None else self.own.value

    @property
    def upper(self) -> float | Any:
        """Proven Lipschitz constant of the map from the network's inputs to this value; None: unknown."""
        return None if self.claim is None else self.claim.value


@dataclass(frozen=True)
class UnknownNode:
    """A node that has no bound.

    Parameters
    ----------
    name : str
        Name of the node's value.
    operator : str
        The framework's name of the operator.
    reason : str
        Why there is no bound.
    claim : Upper or None
        Constant of all inputs of the node together, with respect to the network's inputs: the bound up to there.
    """

    name: str
    operator: str
    reason: str
    claim: Upper | None = None

    @property
    def before(self) -> float:
        """Proven Lipschitz constant of all inputs of the node together; 0 if it has no inputs."""
        return 0.0 if self.claim is None else self.claim.value


@dataclass(frozen=True, eq=False)
class NetworkConstants:
    """The Lipschitz constants of all values of a network."""

    steps: Mapping[str, Step]
    """Lipschitz constants with respect to all inputs together, by value, in the order of computation."""
    unknown: tuple[UnknownNode, ...]
    """Nodes whose operators have no bound."""
    by_input: tuple[Mapping[str, Step], ...]
    """Lipschitz constants with respect to each input by itself, while the others stay the same."""
    claim: Upper | None
    """Constant of all outputs together; None if one is unknown."""


@arithmetic.on_host()
def propagate(
    graph: Graph,
    norms: Norms,
    values: LazyRanges,
    joint_constants: Mapping[str, Sequence[Upper]] | None = None,
) -> NetworkConstants:
    """Prove constants of all values of a graph.

    ``norms``: proves the norms of layers. ``values``: ranges of the graph's values. ``joint_constants``: Lipschitz
    constants of maps from an earlier value to a later one, for layers that were bounded together, by the name of the
    later value. They count where they are smaller.
    """
    if not graph.inputs:
        raise MethodError("the network has no input of floating numbers, so that it has no Lipschitz constant.")
    if not graph.outputs:
        raise MethodError("no output of the network is computed from its inputs.")
    scope = Scope(graph, values.regions)
    lengths = LazyLengths(graph, values, norms)
    factors = cache(lambda name: factors_of_attention(graph, graph.by_name[name], lengths))
    passes = [_Pass(scope, norms, name, joint_constants or {}, values, lengths, factors) for name in graph.inputs]
    steps: dict[str, Step] = {}
    for node in graph.nodes:
        steps[node.name] = _with_all_inputs(node, [one_pass.steps[node.name] for one_pass in passes], graph)
    claims = _all_or_none([steps[name].claim for name in graph.outputs])
    claim = None if claims is None else rules.of_values_together(claims, graph.outputs)
    unknown: dict[str, UnknownNode] = {}
    for one_pass in passes:
        unknown |= one_pass.unknown
    return NetworkConstants(steps, tuple(unknown.values()), tuple(one_pass.steps for one_pass in passes), claim)


class _Pass:
    """Bounds of all nodes with respect to one input of the network, called ``wrt``."""

    def __init__(
        self,
        scope: Scope,
        norms: Norms,
        wrt: str,
        joint_constants: Mapping[str, Sequence[Upper]],
        values: LazyRanges,
        lengths: LazyLengths,
        factors_of_attention: Callable[[str], Factors],
    ) -> None:
        self.scope = scope
        self.nodes = scope.graph.by_name
        self.fixed_values = scope.graph.fixed_values
        self.values = values
        self.norms = norms
        self.lengths = lengths
        self.factors_of_attention = factors_of_attention
        self.wrt = wrt
        self.steps: dict[str, Step] = {}
        self.unknown: dict[str, UnknownNode] = {}
        self.constants: dict[str, Sequence[Upper]] = {}
        """Constants of maps to a value from an earlier one, by the value's name."""
        for node in scope.graph.nodes:
            own_step = self._step(node)
            self.constants[node.name] = () if own_step.own is None else (own_step.own,)
            own_step = self._step_by_tokens(node, own_step)
            step = self._step_by_branches(node, own_step)
            self.steps[node.name] = self._step_by_joint_constants(step, joint_constants.get(node.name, ()))

    def _step(self, node: Node) -> Step:
        """Return a node's bound by the rule of its operator."""
        claims = _all_or_none([self.steps[name].claim for name in node.inputs])
        if node.name == self.wrt:
            return _step_of(node, node.rule, None, rules.identity(self.scope, node.name))
        if claims is None:
            return _step_of(node, node.rule, None, None)
        if self._is_deterministic(node) and not any(claim.value for claim in claims):
            return _step_of(node, node.rule, None, rules.unchanged(self.scope, self.wrt, node, claims))
        try:
            return self._step_by_rule(node, claims)
        except InternalError:
            raise
        except (NoBoundError, SpecnormError, OSError, OverflowError) as error:
            up_to_inputs = rules.of_values_together(claims, node.inputs) if claims else None
            reason = self._unread_constant(node) or str(error)
            self.unknown[node.name] = UnknownNode(node.name, label(node), reason, up_to_inputs)
        return _step_of(node, "unknown", None, None)

    def _unread_constant(self, node: Node) -> str:
        """Return which constant of a node has numbers that are not known, and why; empty if there is none."""
        names = [name for name in node.inputs if self._is_fixed(name)]
        while names:
            source = self.nodes[names.pop()]
            if source.is_fixed and not source.is_constant:
                return f"it reads the constant {visible(source.name)}, whose numbers are not known: {source.reason}"
            names += source.inputs
        return ""

    def _is_deterministic(self, node: Node) -> bool:
        """Whether a node's value is unchanged when the values that it reads are unchanged.

        True for inputs of the network other than ``wrt``, and for fixed values. False for random operators, and for
        other operators without inputs.
        """
        if node.is_input or node.is_fixed:
            return True
        return bool(node.inputs) and not node.is_random

    def _step_by_tokens(self, node: Node, step: Step) -> Step:
        """Return a smaller bound of attention by the tokens of its queries, keys and values; else the given one."""
        if not node.is_attention:
            return step
        with suppress(NoBoundError, NotRunError, SpecnormError, OSError, OverflowError):
            factors = self.factors_of_attention(node.name)
            claims = _all_or_none([self.steps[name].claim for name in (factors.queries_from, factors.keys_from)])
            claim = None if claims is None else claim_of_attention(self.scope, node, factors, claims)
            if claim is not None and (step.claim is None or claim.value < step.claim.value):
                self.unknown.pop(node.name, None)
                return replace(step, rule=claim.rule, claim=claim)
        return step

    def _step_by_branches(self, node: Node, step: Step) -> Step:
        """Return a smaller bound of a node and nodes before it, together; the given one if there is none."""
        if step.claim is None or not step.claim.value:
            return step
        least_claim = step.claim
        of_branches: list[Upper] = []
        try:
            for claim_of_branches in claims_of_branches(self.scope, node, self._is_fixed, self.constants, self.norms):
                start = rules.map_of_claim(claim_of_branches).start
                claim = rules.composed(claim_of_branches, require_known(self.steps[start].claim))
                if claim.value < least_claim.value:
                    least_claim = claim
                    of_branches = [claim_of_branches]
        except InternalError:
            raise
        except (NoBoundError, SpecnormError, OSError, OverflowError):
            pass  # a kernel cannot be loaded or measured: the rules of its own node say why
        if least_claim is step.claim:
            return step
        self.constants[node.name] = of_branches
        return replace(step, rule=least_claim.rule, claim=least_claim)

    def _is_fixed(self, name: str) -> bool:
        """Whether a value, by its name, stays the same for all inputs."""
        claim = self.steps[name].claim
        return claim is not None and not claim.value

    def _step_by_joint_constants(self, step: Step, joint_constants: Sequence[Upper]) -> Step:
        """Return the smallest of a node's bound and its bounds by layers that were bounded together and end there.

        ``joint_constants``: as in `propagate`.
        """
        claims = [] if step.claim is None else [step.claim]
        for joint_constant in joint_constants:
            before = self.steps.get(joint_constant.what.start) if isinstance(joint_constant.what, Map) else None
            if before is not None and before.claim is not None:
                claims.append(rules.composed(joint_constant, before.claim))
        return replace(step, claim=least_claim_of(*claims)) if claims else step

    # -- rules of operators ------------------------------------------------------------------------------------------
    def _step_by_rule(self, node: Node, claims: list[Upper]) -> Step:
        """Return a node's bound by its operator's rule.

        ``claims``: constants of the node's inputs, with respect to the network's input.
        """
        match node.operator:
            case Affine(is_layer=True):
                return self._step_of_layer(node, None, node)
            case Affine(is_diagonal=True) as diagonal:
                layer = before_added_constants(self.nodes[node.inputs[0]], self.scope.graph)
                scale = _by_output_channel(diagonal, layer)
                if scale is not None:
                    return self._step_of_layer(layer, scale, node)
            case Known() as known:
                known.require_inputs([self.nodes[name] for name in node.inputs])
        sources = [name for name in node.inputs if name not in self.fixed_values]
        if node.layer is not None:
            norm = checked_norm_of_stack(self.norms, node.layer)
            factor = rules.of_layer(self.scope, sources[0], node, node, norm, node.rule)
            return self._step_of_factor(node, factor, sources[0], claims, node.layer.name)
        if len(sources) == 1:
            factor = rules.of_operator(self.scope, node, self._with_respect_to(sources[0], node), self._place(node))
            return self._step_of_factor(node, factor, sources[0], claims)
        return _step_of(node, node.rule, None, rules.of_operator(self.scope, node, claims, self._place(node)))

    def _place(self, node: Node) -> Place:
        place = self.scope.graph.place(node)
        return replace(
            place,
            ranges=lambda: tuple(self.values[name] for name in node.inputs),
            boxed=self.values.boxed,
            lengths=lambda: tuple(self.lengths[name] for name in node.inputs),
        )

    def _with_respect_to(self, source: str, node: Node) -> list[Upper]:
        """Return claims of a node's inputs with respect to one of them: 1 of itself, and 0 of fixed values."""
        claims = []
        for name in node.inputs:
            if name == source:
                claims.append(rules.identity(self.scope, name))
            else:
                claims.append(rules.unchanged(self.scope, source, self.nodes[name], []))
        return claims

    def _step_of_factor(
        self,
        node: Node,
        factor: Upper,
        source: str,
        claims: list[Upper],
        layer: str | None = None,
    ) -> Step:
        """Return the bound of a node from its own constant ``factor`` with respect to one of its inputs, ``source``."""
        before = claims[node.inputs.index(source)]
        return _step_of(node, node.rule, factor, rules.composed(factor, before), layer)

    def _step_of_layer(self, node: Node, scale: FloatArray | None, end: Node) -> Step:
        """Return the bound of a layer, with padding before and batch normalization after it as one map.

        ``node``: the layer's node. ``end``: the node of the normalization, whose factors are ``scale``; ``node`` itself
        if there is no normalization.
        """
        layer = node.layer
        assert layer is not None
        source, placed_layer = self.scope.graph.placed_layer(node, layer)
        rule = "layer" if scale is None else "layer, scaled"
        if source.name != node.inputs[0]:
            rule = f"{rule}, padded"
        norm = checked_norm(self.norms, placed_layer, scale)
        factor = rules.of_layer(self.scope, source.name, end, node, norm, rule)
        before = require_known(self.steps[source.name].claim)
        return _step_of(end, rule, factor, rules.composed(factor, before), layer.name)


def _step_of(node: Node, rule: str, own: Upper | None, claim: Upper | None, layer: str | None = None) -> Step:
    return Step(node.name, label(node), rule, own, claim, layer)


def label(node: Node) -> str:
    """Return the framework's name of a node's operator."""
    return node.label or type(node.operator).__name__


def before_added_constants(node: Node, graph: Graph) -> Node:
    """Follow a node back through additions of fixed values; return the node where they began.

    It is the node itself if that adds none.
    """
    while node.shape is not None:
        summands = graph.summands_that_change(node)
        if len(summands) != 1:
            break
        ((before, weight),) = summands
        if weight != 1 or before.shape != node.shape:
            break
        node = before
    return node


def _by_output_channel(diagonal: Affine, before: Node) -> FloatArray | None:
    """Return the factors of a diagonal operator as one number for each output channel of the layer before it.

    None if it stays outside of the layer, and after other nodes.
    """
    if before.layer is None or before.affine is None:
        return None
    values = diagonal.factors_along(before.affine.axis_of_outputs)
    count = PlacedLayer(before.layer, before.layer.geometry).spec.cout
    return None if values is None or len(values) != count else values


def _with_all_inputs(node: Node, steps: list[Step], graph: Graph) -> Step:
    """Return a node's bound with respect to all inputs together, from its steps with respect to each of them."""
    first = steps[0]
    if len(steps) == 1:
        return first
    # The rule is that of an input on which the value depends.
    rule = next((step.rule for step in steps if step.upper != 0.0), first.rule)
    own_constants = [step.own for step in steps if step.own is not None]
    own = max(own_constants, key=finite, default=None)
    claims = _all_or_none([step.claim for step in steps])
    claim = None if claims is None else rules.of_all_inputs(node.name, claims, graph.inputs)
    return _step_of(node, rule, own, claim, first.layer)


def _all_or_none(values: Sequence[T | None]) -> list[T] | None:
    """Return all values; None if one of them is None."""
    present = [value for value in values if value is not None]
    return present if len(present) == len(values) else None
