"""Rules of inference for Lipschitz constants in 2-norms: of one node, of paths, of branches, of all inputs.

Each rule takes claims and returns one. A claim says between which values its map is, and each rule checks that: no
factor is applied to another value than its own, no branch of a sum is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specnorm.proof import HypothesisError, Upper, host, make_upper, number
from specnorm_networks.certified.operators.base import NoBoundError, Place, Pointwise
from specnorm_networks.certified.operators.layers import Matrix
from specnorm_networks.certified.operators.sources import Constant, Held, Input, Random
from specnorm_networks.certified.scope import Map, Scope

if TYPE_CHECKING:
    from specnorm_networks.certified.graph import Node


IN_ALL = "inputs together: root of the sum of squares"
NOTHING = make_upper(1.0, "the identity", "it moves nothing")


def unmoved(scope: Scope, name: str) -> Upper:
    """Return the constant of a value with respect to itself: 1."""
    return make_upper(1.0, scope.map(name, name), "itself")


def held(scope: Scope, start: str, node: Node, inputs: Sequence[Upper]) -> Upper:
    """Return the constant of a value that another one does not move: 0.

    That is a constant, another input, or a value that is computed from such values alone.
    """
    scope.check(node)
    apart = isinstance(node.operator, Constant | Held) or (isinstance(node.operator, Input) and node.name != start)
    if not apart and not (
        node.inputs and not isinstance(node.operator, Random) and _follow(scope, node, inputs, start)
    ):
        raise HypothesisError(f"{node.name} is not known to be held by {start}")
    if not apart and any(claim.value for claim in inputs):
        raise HypothesisError(f"{start} moves what {node.name} is computed from")
    return make_upper(0.0, scope.map(start, node.name), "does not depend on it")


def of_slopes(scope: Scope, node: Node, axis: int, width: int) -> Upper:
    """Return the constant of a function of each entry: its largest absolute slope in any channel."""
    scope.check(node)
    slopes = node.operator.by_channel(axis, width) if isinstance(node.operator, Pointwise) else None
    if slopes is None:
        raise HypothesisError(f"{node.name} is no function of each entry, of {width} channels with known slopes")
    low, high = slopes
    steepest = max(abs(float(low.min())), abs(float(high.max())))
    return make_upper(steepest, (node.name, scope.about), "its largest slope")


def of_operator(scope: Scope, node: Node, inputs: Sequence[Upper], place: Place) -> Upper:
    """Return the constant of a node's value by the rule of its operator.

    ``inputs``: constants of the node's inputs, in order, with respect to one value; 0 where an input does not depend on
    that. `NoBoundError` if the operator has no constant here, or returns none.
    """
    scope.check(node)
    start = way_of(inputs[0]).start if inputs else ""
    if not _follow(scope, node, inputs, start):
        raise HypothesisError(f"{node.name} is computed from {node.inputs}: {[str(claim.what) for claim in inputs]}")
    constant = node.operator.combine([claim.value for claim in inputs], place)
    if not constant >= 0:
        raise NoBoundError(f"its operator {type(node.operator).__name__} gives {constant!r}, which is no constant")
    return make_upper(float(constant), scope.map(start, node.name), node.rule, *inputs)


@dataclass(frozen=True, eq=False)
class Average:
    """Averages of the pixels of each channel."""

    factor: Upper
    """The constant of the averages."""
    run: Callable[[Any], Any]
    """Computes them for samples with one channel each, (n, 1, *before)."""
    before: tuple[int, ...]
    """Pixels, one number an axis."""

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """Matrix from pixels to averages."""
        count = math.prod(self.before)
        pixels = np.eye(count).reshape(count, 1, *self.before)
        averages = np.asarray(self.run(pixels), dtype=np.float64)
        return averages.reshape(count, -1).T


def followed(factor: Upper, by: Upper) -> Upper:
    """Return the constant of one map after another, both of which follow the function of a link."""
    if factor is NOTHING:
        return by
    return make_upper(host.mul_up(factor.value, by.value), f"{factor.what} times {by.what}", "product", factor, by)


def of_layer(
    scope: Scope,
    source: str,
    node: Node,
    layer: Node,
    norm: Upper,
    rule: str,
) -> Upper:
    """Return the constant of a layer from its norm; with padding before it and normalisation after it, if any.

    ``source``: the value that the layer reads, before padding. ``node``: the layer, or the normalisation after it.
    ``norm``: of all of these as one map.
    """
    scope.check(node, layer)
    alpha = abs(layer.operator.alpha) if isinstance(layer.operator, Matrix) else 1.0
    if alpha != 1:
        rule = f"{rule}, times {number(alpha, 'upper')}"
    return make_upper(host.mul_up(alpha, norm.value), scope.map(source, node.name), rule, norm)


def along(factor: Upper, before: Upper) -> Upper:
    """Return the constant of one map after another: the product."""
    first = way_of(before)
    second = way_of(factor)
    if first.end != second.start or first.about != second.about:
        raise HypothesisError(f"{second} does not follow {first}")
    product = host.mul_up(factor.value, before.value)
    return make_upper(product, Map(first.start, second.end, first.about), factor.rule, factor, before)


def of_all_inputs(value: str, claims: Sequence[Upper], inputs: Sequence[str]) -> Upper:
    """Return the constant of a value with respect to all inputs together: root of the sum of squares (Cauchy-Schwarz).

    ``claims``: constants with respect to each input alone.
    """
    maps = [way_of(claim) for claim in claims]
    scopes = {one.about for one in maps}
    if len(scopes) != 1 or [(one.start, one.end) for one in maps] != [(name, value) for name in inputs]:
        raise HypothesisError(f"{value} depends on {list(inputs)}: {[str(claim.what) for claim in claims]}")
    return _together(claims, Map(", ".join(inputs), value, *scopes), IN_ALL)


def of_all_outputs(claims: Sequence[Upper], outputs: Sequence[str]) -> Upper:
    """Return the constant of all outputs together, as one vector: root of the sum of squares."""
    starts = {(way_of(claim).start, way_of(claim).about) for claim in claims}
    if [way_of(claim).end for claim in claims] != list(outputs) or len(starts) != 1:
        raise HypothesisError(f"the outputs are {list(outputs)}: {[str(claim.what) for claim in claims]}")
    ((start, about),) = starts
    what = Map(start, ", ".join(outputs), about)
    return _together(claims, what, "outputs together: root of the sum of squares")


def of_inputs(scope: Scope, start: str, node: Node, inputs: Sequence[Upper]) -> Upper:
    """Return the constant of all inputs of a node together: root of the sum of squares."""
    if not _follow(scope, node, inputs, start):
        raise HypothesisError(f"{node.name} is computed from {node.inputs}: {[str(claim.what) for claim in inputs]}")
    root = host.hypot_up(*(claim.value for claim in inputs))
    return make_upper(root, scope.map(start, ", ".join(node.inputs)), "root of the sum of squares", *inputs)


def _together(claims: Sequence[Upper], what: Map, rule: str) -> Upper:
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
    return [way_of(claim) for claim in inputs] == [scope.map(start, name) for name in node.inputs]


def way_of(claim: Upper) -> Map:
    """Return the map between values of a network of which a claim is the constant."""
    if not isinstance(claim.what, Map):
        raise HypothesisError(f"{claim.what} is no map between values of a network")
    return claim.what
