"""Rules of inference for Lipschitz constants in 2-norms: of one node, along a way, of branches, of all inputs together.

Each takes and gives claims. What a claim bounds says between which values a map is, and a rule looks at that: no factor
is applied to another value than its own, no branch of a sum is left out.
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
    """A value with respect to itself."""
    return make_upper(1.0, scope.map(name, name), "itself")


def held(scope: Scope, start: str, node: Node, inputs: Sequence[Upper]) -> Upper:
    """A value that another does not move: a constant, another input, or what is computed from such."""
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
    """A function of each entry, by its slopes in all channels."""
    scope.check(node)
    found = node.operator.by_channel(axis, width) if isinstance(node.operator, Pointwise) else None
    if found is None:
        raise HypothesisError(f"{node.name} is no function of each entry, of {width} channels with known slopes")
    steepest = max(abs(float(found[0].min())), abs(float(found[1].max())))
    return make_upper(steepest, (node.name, scope.about), "its largest slope")


def of_operator(scope: Scope, node: Node, inputs: Sequence[Upper], place: Place) -> Upper:
    """A node's value with respect to what its inputs are bounded by, as its operator says.

    ``inputs``: of each of the node's inputs, in order, with respect to one value; 0 where it does not depend on that.
    `NoBoundError` if the operator has no constant here, or what it gives is none.
    """
    scope.check(node)
    start = way_of(inputs[0]).start if inputs else ""
    if not _follow(scope, node, inputs, start):
        raise HypothesisError(f"{node.name} is computed from {node.inputs}: {[str(claim.what) for claim in inputs]}")
    found = node.operator.combine([claim.value for claim in inputs], place)
    if not found >= 0:
        raise NoBoundError(f"its operator {type(node.operator).__name__} gives {found!r}, which is no constant")
    return make_upper(float(found), scope.map(start, node.name), node.rule, *inputs)


@dataclass(frozen=True, eq=False)
class Average:
    """Averages of the pixels of each channel."""

    factor: Upper
    """Its constant."""
    run: Callable[[Any], Any]
    """Of samples with one channel each, (n, 1, *before)."""
    before: tuple[int, ...]
    """Pixels, an axis."""

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """From pixels to averages."""
        count = math.prod(self.before)
        found = np.asarray(self.run(np.eye(count).reshape(count, 1, *self.before)), dtype=np.float64)
        return found.reshape(count, -1).T


def followed(factor: Upper, by: Upper) -> Upper:
    """What follows the function of a link, and one more."""
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
    """A layer from what it reads to itself, or to the normalisation after it, from the norm of both.

    ``source``: what the layer reads, before padding. ``node``: the last of what the norm speaks of.
    """
    scope.check(node, layer)
    alpha = abs(layer.operator.alpha) if isinstance(layer.operator, Matrix) else 1.0
    said = rule if alpha == 1 else f"{rule}, times {number(alpha, 'upper')}"
    return make_upper(host.mul_up(alpha, norm.value), scope.map(source, node.name), said, norm)


def along(factor: Upper, before: Upper) -> Upper:
    """One map after another: constants multiply."""
    first = way_of(before)
    second = way_of(factor)
    if first.end != second.start or first.about != second.about:
        raise HypothesisError(f"{second} does not follow {first}")
    found = host.mul_up(factor.value, before.value)
    return make_upper(found, Map(first.start, second.end, first.about), factor.rule, factor, before)


def of_all_inputs(value: str, claims: Sequence[Upper], inputs: Sequence[str]) -> Upper:
    """A value with respect to all inputs together, each alone known: root of the sum of squares (Cauchy-Schwarz)."""
    ways = [way_of(claim) for claim in claims]
    abouts = {way.about for way in ways}
    if len(abouts) != 1 or [(way.start, way.end) for way in ways] != [(name, value) for name in inputs]:
        raise HypothesisError(f"{value} depends on {list(inputs)}: {[str(claim.what) for claim in claims]}")
    return _together(claims, Map(", ".join(inputs), value, *abouts), IN_ALL)


def of_all_outputs(claims: Sequence[Upper], outputs: Sequence[str]) -> Upper:
    """All outputs together, one behind the other: root of the sum of squares."""
    starts = {(way_of(claim).start, way_of(claim).about) for claim in claims}
    if [way_of(claim).end for claim in claims] != list(outputs) or len(starts) != 1:
        raise HypothesisError(f"the outputs are {list(outputs)}: {[str(claim.what) for claim in claims]}")
    ((start, about),) = starts
    what = Map(start, ", ".join(outputs), about)
    return _together(claims, what, "outputs together: root of the sum of squares")


def of_inputs(scope: Scope, start: str, node: Node, inputs: Sequence[Upper]) -> Upper:
    """All inputs of a node together: root of the sum of squares."""
    if not _follow(scope, node, inputs, start):
        raise HypothesisError(f"{node.name} is computed from {node.inputs}: {[str(claim.what) for claim in inputs]}")
    found = host.hypot_up(*(claim.value for claim in inputs))
    return make_upper(found, scope.map(start, ", ".join(node.inputs)), "root of the sum of squares", *inputs)


def _together(claims: Sequence[Upper], what: Map, rule: str) -> Upper:
    if len(claims) == 1:
        return claims[0]
    return make_upper(host.hypot_up(*(claim.value for claim in claims)), what, rule, *claims)


def premises_first(
    claims: Iterable[Upper],
    rests_on: Callable[[Upper], Iterable[Upper]],
) -> list[Upper]:
    """Claims and all that they rest on, each behind what it rests on itself."""
    found: dict[int, Upper] = {}
    waiting = [(claim, False) for claim in claims]
    while waiting:
        claim, done = waiting.pop()
        if done:
            found[id(claim)] = claim
        elif id(claim) not in found:
            waiting += [(claim, True), *((part, False) for part in rests_on(claim))]
    return list(found.values())


def _follow(scope: Scope, node: Node, inputs: Sequence[Upper], start: str) -> bool:
    """Whether claims are of a node's inputs, each in its place, with respect to one value."""
    return [way_of(claim) for claim in inputs] == [scope.map(start, name) for name in node.inputs]


def way_of(claim: Upper) -> Map:
    """Between which values of a network a claim is."""
    if not isinstance(claim.what, Map):
        raise HypothesisError(f"{claim.what} is no map between values of a network")
    return claim.what
