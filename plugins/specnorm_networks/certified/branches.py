"""Where branches meet: a value with respect to the one value that all of them are computed from.

*By entries.* For changes dv of a value v, weights go back from v, node by node (`Operator.pulled`), so that

    |dv|^2 <= sum_u sum_j w_u[j] du[j]^2

over the values u that are left. What two branches read of one value adds up at each entry: pieces that read disjoint
entries have the largest constant, and not the root of the sum of squares. Where one value a is left, the constant is
the root of its largest weight.

*As one matrix.* Where all between a and v is linear, the constant is the norm of that map: of its matrix, in which
places that are all alike count once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import numpy as np

from specnorm import ConvSpec
from specnorm.proof import HypothesisError, Upper, host, make_upper
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.kernels import Norms, proves
from specnorm_networks.certified.operators import Identity, Pointwise, Scale
from specnorm_networks.certified.operators.base import (
    FloatArray,
    Linear,
    LinearMap,
    NoBoundError,
    Operator,
    Place,
    plus_up,
    times_up,
)
from specnorm_networks.certified.scope import Map, Scope

FARTHEST = 512
"""Nodes that weights go back."""
LARGEST = 1024
ENTRIES = 2**22
"""Entries on the smaller side of a matrix, and of a value for each entry of the other."""
RTOL = 1e-6
"""Relative width to which the norm of a matrix is proven."""


class Known(Protocol):
    """What is known of a node: of its value with respect to an input of the network, and of it alone."""

    @property
    def claim(self) -> Upper | None:
        """Of the map from the input of the network."""

    @property
    def alone(self) -> Upper | None:
        """Of the node, from what it reads; None for several."""


@dataclass(eq=False)
class Branches:
    """The values of one pass, and what is known of them so far.

    Parameters
    ----------
    scope : Scope
        Of the graph.
    steps : mapping of str to Known
        Of the nodes so far, with respect to one input of the network.
    """

    scope: Scope
    steps: Mapping[str, Known]
    norms: Norms
    met: dict[str, Upper] = field(default_factory=dict)
    """What was found where it was less than the node's own rule."""
    _order: dict[str, int] = field(default_factory=dict)
    _moving: dict[str, FloatArray] = field(default_factory=dict)
    _jumped: bool = False

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Of the graph, by name."""
        return self.scope.graph.by_name

    def seen(self, node: Node) -> None:
        """To be called of each node in order."""
        self._order[node.name] = len(self._order)

    def claims(self, end: Node) -> Iterator[Upper]:
        """Constants of a value with respect to values that all of its branches come from."""
        for by_met in (True, False):
            self._jumped = False
            yield from self._walked(end, by_met=by_met)
            if not self._jumped:
                return

    def _walked(self, end: Node, *, by_met: bool) -> Iterator[Upper]:
        """The same, with what was met before as one step where it may be less than entry by entry, or never."""
        if end.shape is None:
            return
        weights: dict[str, FloatArray] = {end.name: np.ones((1,) * len(end.shape))}
        used: list[Upper] = []
        tried = not by_met
        for count in range(FARTHEST):
            name = max(weights, key=self._order.__getitem__)
            if count and len(weights) == 1:
                if (found := self._together(name, end.name, weights[name], used)) is not None:
                    yield found
                if (found := None if tried else self._linear(name, end)) is not None:
                    yield found
                tried = True
                if weights[name].size == 1:
                    return
            before = self._back(self.nodes[name], weights.pop(name), used, by_met=by_met)
            if before is None:
                return
            for source, each in before:
                weights[source] = _narrow(plus_up(weights[source], each) if source in weights else each)
            if not weights:
                return

    def _together(
        self,
        start: str,
        end: str,
        weights: FloatArray,
        used: list[Upper],
    ) -> Upper | None:
        largest = float(np.max(weights, initial=0.0))
        if not math.isfinite(largest):
            return None
        return make_upper(host.root_up(Fraction(largest)), self.scope.map(start, end), "parts", *dict.fromkeys(used))

    def _back(
        self,
        node: Node,
        weights: FloatArray,
        used: list[Upper],
        *,
        by_met: bool,
    ) -> list[tuple[str, FloatArray]] | None:
        """Weights of what a node is computed from, for those of its value."""
        known = [self.steps[name].claim for name in node.inputs]
        if None in known:
            return None  # it may move however far
        moves = [bool(claim and claim.value) for claim in known]
        step = self.steps.get(node.name)
        met = self.met.get(node.name)
        alone = None if step is None else step.alone
        place = self._place(node)
        # A layer may have been taken together with what is before it.
        direct = alone is None or alone.what in {self.scope.map(name, node.name) for name in node.inputs}
        jumps = met is not None and weights.size == 1
        self._jumped |= jumps
        if direct and not (jumps and by_met):
            try:
                found = node.operator.pulled(weights, [self._share(name) for name in node.inputs], place)
            except (NoBoundError, ValueError, IndexError):  # shapes do not fit, or are not known
                found = None
            if found is not None:
                pairs = [(name, each) for name, each, moving in zip(node.inputs, found, moves, strict=True) if moving]
                shapes = [self.nodes[name].shape for name, _ in pairs]
                fits = all(s is not None and len(s) == each.ndim for s, (_, each) in zip(shapes, pairs, strict=True))
                return pairs if fits else None
        claim = alone or met
        source = self.nodes[claim.what.start] if claim is not None and isinstance(claim.what, Map) else None
        if claim is None or source is None or source.shape is None:
            return None
        used.append(claim)
        mixed = _mixed(weights, node.operator.alike(place) if direct and claim is alone else frozenset())
        if mixed.ndim != len(source.shape):
            mixed = np.full((1,) * len(source.shape), mixed.max(initial=0.0))
        factor = np.asarray(claim.value)
        return [(source.name, times_up(mixed, factor, factor))]

    def _place(self, node: Node) -> Place:
        return Place(tuple(self.nodes[name].shape for name in node.inputs), node.shape)

    # -- which entries move ------------------------------------------------------------------------------------------
    def _share(self, name: str) -> FloatArray:
        """About how far the entries of a value move; 0 where they do not."""
        claim = self.steps[name].claim
        far = 0.0 if claim is None else claim.value
        return np.where(self._moves(name), far, 0.0)

    def _moves(self, name: str) -> FloatArray:
        """Which entries of a value may move: 1, others 0; with its axes, of size 1 where all are alike."""
        if name not in self._moving:
            node = self.nodes[name]
            claim = self.steps[name].claim
            self._moving[name] = np.ones((1,) * len(node.shape or ()))
            if claim is not None and not claim.value:
                self._moving[name] = self._moving[name] * 0.0
            elif node.inputs and node.shape is not None:
                self._moving[name] = _narrow(self._moved(node))
        return self._moving[name]

    def _moved(self, node: Node) -> FloatArray:
        every = np.ones((1,) * len(node.shape or ()))
        place = self._place(node)
        if isinstance(node.operator, (Pointwise, Scale, Identity)) and place.before[0] == place.after:
            return self._moves(node.inputs[0])
        if not isinstance(node.operator, Linear) or not node.operator.moves:
            return every
        before = [self._moves(name) for name in node.inputs]
        if any(shape is None or each.ndim != len(shape) for shape, each in zip(place.before, before, strict=True)):
            return every
        alike = node.operator.alike(place)
        same = frozenset(axis for axis in alike if all(each.shape[axis] == 1 for each in before))
        linear = _linear_at(node, place.shortened(same), same)
        sizes = place.shortened(same).sizes()
        if linear is None or sizes is None or sum(map(math.prod, sizes)) > ENTRIES:
            return every
        return np.asarray(linear.apply([np.broadcast_to(x, n)[None] for x, n in zip(before, sizes, strict=True)])[0])

    # -- linear maps -------------------------------------------------------------------------------------------------
    def _linear(self, start: str, end: Node) -> Upper | None:
        """The constant of all between two values, if that is linear."""
        between = self._between(start, end)
        return None if between is None else self._matrix(start, between)

    def _between(self, start: str, end: Node) -> list[Node] | None:
        """All linear nodes that lie between two values, in order; None if one is not linear."""
        needed = {end.name}
        waiting = [end.name]
        while waiting:
            for name in self.nodes[waiting.pop()].inputs:
                claim = self.steps[name].claim
                if name != start and name not in needed and (claim is None or claim.value):
                    needed.add(name)
                    waiting.append(name)
        found = sorted((self.nodes[name] for name in needed), key=lambda node: self._order[node.name])
        if any(type(node.operator).linear_map is Operator.linear_map for node in found):
            return None
        moves = all(isinstance(node.operator, Linear) and node.operator.moves for node in found)
        return None if moves else found  # of what only moves entries the weights say as much

    def _matrix(self, start: str, between: list[Node]) -> Upper | None:
        """The norm of the map's matrix, where that is small; places that are alike count once."""
        end = between[-1]
        same = frozenset.intersection(*(node.operator.alike(self._place(node)) for node in between))
        cut = Place((self.nodes[start].shape,)).shortened(same).sizes()
        if not cut:
            return None
        count = math.prod(cut[0])
        if not 0 < count <= LARGEST:
            return None
        maps: list[LinearMap] = []
        for node in between:
            at = self._place(node).shortened(same)
            size = at.after
            if at.sizes() is None or size is None or not 0 < count * math.prod(size) <= ENTRIES:
                return None
            linear = _linear_at(node, at, same)
            if linear is None:
                return None
            maps.append(linear)
        both = []
        for absolute in (False, True):
            values = {start: np.eye(count).reshape(count, *cut[0])}
            for node, linear in zip(between, maps, strict=True):
                given = [
                    values[name] if name in values else np.zeros((count, *size))
                    for name, size in zip(node.inputs, self._place(node).shortened(same).sizes() or [], strict=True)
                ]
                values[node.name] = (linear.absolute if absolute else linear.apply)(given)
            both.append(values[end.name].reshape(count, -1).T.copy())
        matrix, sizes = both
        if not np.isfinite(sizes).all():
            return None
        spec = ConvSpec.of(matrix.shape)
        norm = self.norms.of_kernel(matrix, RTOL)
        if not proves(norm, spec, matrix):
            raise HypothesisError(f"{norm.what} is not {spec}")
        # Roundings of all maps one after the other, and as much again for those of the sizes; and underflow.
        lost = host.mul_up(sum(linear.roundings for linear in maps) * 2.0**-50, float(host.norm_up(sizes.reshape(-1))))
        value = host.add_up(norm.value, lost, sizes.size * 2.0**-1000 if lost else 0.0)
        return make_upper(value, self.scope.map(start, end.name), "linear", norm)


def _linear_at(node: Node, place: Place, same: frozenset[int]) -> LinearMap | None:
    return node.operator.shortened(same).linear_map(place) if place.sizes() is not None else None


def _mixed(weights: FloatArray, alike: frozenset[int]) -> FloatArray:
    """The largest weight of the entries that an operator mixes."""
    mixed = tuple(axis for axis in range(weights.ndim) if axis not in alike)
    return np.asarray(weights.max(axis=mixed, keepdims=True, initial=0.0))


def _narrow(weights: FloatArray) -> FloatArray:
    """The same with size 1 along axes on which all are alike; zeros for those of no entries."""
    if not weights.size:
        return np.zeros((1,) * weights.ndim)
    for axis in range(weights.ndim):
        if weights.shape[axis] > 1:
            first = weights.take([0], axis)
            weights = first if np.array_equal(np.broadcast_to(first, weights.shape), weights) else weights
    return weights
