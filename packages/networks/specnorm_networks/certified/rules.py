"""Rules of inference for Lipschitz constants in 2-norms: of one node, of paths, of branches, of all inputs.

Each rule takes claims and returns one. A claim says between which values its map is, and each rule checks that: no
factor is applied to another value than its own, no branch of a sum is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from specnorm.proof import HypothesisError, Upper, host, make_upper
from specnorm.proof import number as format_number
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import NoBoundError, Place
from specnorm_networks.certified.subjects import Domain, Map, Region, digest_of_bits, digest_of_operator

INPUTS_TOGETHER = "inputs together: root of the sum of squares"


@dataclass(frozen=True, eq=False)
class Scope:
    """A graph to which rules are applied, and the subject of the claims that they make."""

    graph: Graph
    regions: frozenset[Region] = frozenset()
    """Regions of the ranges that rules may use, besides those of the graph."""
    domain: Domain = field(init=False)

    def __post_init__(self) -> None:
        domain = Domain(digest_of(self.graph), self.graph.regions | self.regions)
        object.__setattr__(self, "domain", domain)

    def map(self, start: str, end: str) -> Map:
        """Return the map between two values; several values are named together, joined by ", "."""
        return Map(start, end, self.domain)

    def holds(self, claim: Upper, start: str, end: str) -> bool:
        """Whether a claim is about the map between two values of this network, on these regions or larger ones."""
        what = claim.what
        if not isinstance(what, Map):
            return False
        return (what.start, what.end) == (start, end) and self.domain.includes(what.domain)

    def check(self, *nodes: Node) -> None:
        """Refuse nodes of other graphs, even if they have the names of nodes of this one."""
        for node in nodes:
            if self.graph.by_name.get(node.name) is not node:
                raise HypothesisError(f"{node.name} is no node of this graph")


def digest_of(graph: Graph) -> str:
    """Return the SHA-256 digest of the original network, before any rewriting; computed anew at each call."""
    nodes = []
    for node in graph.origin.nodes:
        nodes.append((node.name, digest_of_operator(node.operator), node.inputs, node.shape))
    return digest_of_bits((nodes, graph.origin.outputs))


def identity(scope: Scope, name: str) -> Upper:
    """Return the constant of a value with respect to itself: 1."""
    return make_upper(1.0, scope.map(name, name), "itself")


def unchanged(scope: Scope, start: str, node: Node, inputs: Sequence[Upper]) -> Upper:
    """Return the constant of a value that does not change with the value ``start``: 0.

    Such a value is a fixed value, another input, or computed from such values alone.

    ``inputs``: constants of the node's inputs with respect to ``start``.
    """
    scope.check(node)
    is_other_input = node.is_input and node.name != start
    if not (node.is_fixed or is_other_input):
        is_computed = bool(node.inputs) and not node.is_random
        if not is_computed or not _follow(scope, node, inputs, start):
            raise HypothesisError(f"{node.name} is not known to stay unchanged while {start} changes")
        if any(claim.value for claim in inputs):
            raise HypothesisError(f"{start} changes what {node.name} is computed from")
    return make_upper(0.0, scope.map(start, node.name), "does not depend on it")


def of_slopes(scope: Scope, node: Node, axis: int, width: int) -> Upper:
    """Return the constant of a function of each entry: its largest absolute slope in any channel."""
    scope.check(node)
    if node.function is None:
        raise HypothesisError(f"{node.name} is not a function of each entry")
    low, high = node.function.by_channel(axis, width)
    largest_slope = max(abs(float(low.min())), abs(float(high.max())))
    return make_upper(largest_slope, (node.name, scope.domain), "its largest slope")


def of_operator(scope: Scope, node: Node, inputs: Sequence[Upper], place: Place) -> Upper:
    """Return the constant of a node's value by the rule of its operator.

    ``inputs``: constants of the node's inputs, in order, with respect to one value; 0 if an input does not depend on
    that value. `NoBoundError` if the operator has no constant here, or returns a number that is none.
    """
    scope.check(node)
    start = map_of_claim(inputs[0]).start if inputs else ""
    if not _follow(scope, node, inputs, start):
        raise HypothesisError(f"{node.name} is computed from {node.inputs}: {[str(claim.what) for claim in inputs]}")
    constant = node.operator.combine([claim.value for claim in inputs], place)
    if not constant >= 0:  # negative, or NaN
        raise NoBoundError(f"its operator {type(node.operator).__name__} gives {constant!r}, which is no constant")
    return make_upper(float(constant), scope.map(start, node.name), node.rule, *inputs)


def of_layer(
    scope: Scope,
    source: str,
    node: Node,
    layer: Node,
    norm: Upper,
    rule: str,
) -> Upper:
    """Return the constant of a layer, with padding before and normalization after it if there are any, from its norm.

    ``source``: the value that is read, before padding. ``node``: the node at the end, of the layer or of the
    normalization after it. ``layer``: the layer's node. ``norm``: norm of padding, layer and normalization as one map,
    without the factor `Matrix.alpha`.
    """
    scope.check(node, layer)
    alpha = 1.0 if layer.affine is None else abs(layer.affine.factor_of_layer)
    if alpha != 1:
        rule = f"{rule}, times {format_number(alpha, 'upper')}"
    return make_upper(host.mul_up(alpha, norm.value), scope.map(source, node.name), rule, norm)


def composed(factor: Upper, before: Upper) -> Upper:
    """Return the constant of one map after another: the product.

    ``before``: constant of the map to some value. ``factor``: constant of a map from there.
    """
    first = map_of_claim(before)
    second = map_of_claim(factor)
    if first.end != second.start or first.domain != second.domain:
        raise HypothesisError(f"{second} does not follow {first}")
    product = host.mul_up(factor.value, before.value)
    return make_upper(product, Map(first.start, second.end, first.domain), factor.rule, factor, before)


def of_all_inputs(value: str, claims: Sequence[Upper], inputs: Sequence[str]) -> Upper:
    """Return the constant of a value with respect to all inputs together: root of the sum of squares (Cauchy-Schwarz).

    ``claims``: constants with respect to each input alone.
    """
    maps = [map_of_claim(claim) for claim in claims]
    scopes = {a_map.domain for a_map in maps}
    stated = [(a_map.start, a_map.end) for a_map in maps]
    if len(scopes) != 1 or stated != [(name, value) for name in inputs]:
        raise HypothesisError(f"{value} depends on {list(inputs)}: {[str(claim.what) for claim in claims]}")
    return _together(claims, Map(", ".join(inputs), value, *scopes), INPUTS_TOGETHER)


def of_values_together(claims: Sequence[Upper], values: Sequence[str]) -> Upper:
    """Return the constant of several values together, as one vector: root of the sum of squares."""
    starts = {(map_of_claim(claim).start, map_of_claim(claim).domain) for claim in claims}
    if [map_of_claim(claim).end for claim in claims] != list(values) or len(starts) != 1:
        raise HypothesisError(f"the values are {list(values)}: {[str(claim.what) for claim in claims]}")
    ((start, domain),) = starts
    what = Map(start, ", ".join(values), domain)
    return _together(claims, what, "values together: root of the sum of squares")


def _together(claims: Sequence[Upper], what: Map, rule: str) -> Upper:
    """Return the root of the sum of squares of constants; the only constant if there is one."""
    if len(claims) == 1:
        return claims[0]
    return make_upper(host.hypot_up(*(claim.value for claim in claims)), what, rule, *claims)


def premises_first(
    claims: Iterable[Upper],
    rests_on: Callable[[Upper], Iterable[Upper]],
) -> list[Upper]:
    """Return claims and all their premises, each after its own premises.

    ``rests_on``: returns the premises of a claim.
    """
    ordered: dict[int, Upper] = {}
    waiting = [(claim, False) for claim in claims]
    while waiting:
        claim, premises_are_done = waiting.pop()
        if premises_are_done:
            ordered[id(claim)] = claim
        elif id(claim) not in ordered:
            waiting += [(claim, True), *((premise, False) for premise in rests_on(claim))]
    return list(ordered.values())


def _follow(scope: Scope, node: Node, inputs: Sequence[Upper], start: str) -> bool:
    """Whether claims are constants of a node's inputs, in order, with respect to one value."""
    return [map_of_claim(claim) for claim in inputs] == [scope.map(start, name) for name in node.inputs]


def map_of_claim(claim: Upper) -> Map:
    """Return the map between values of a network whose constant a claim bounds."""
    if not isinstance(claim.what, Map):
        raise HypothesisError(f"{claim.what} is not a map between values of a network")
    return claim.what
