"""Prove constants where branches meet: of a value with respect to the one value that all branches come from.

*By entries.* For changes dv of a value v, weights are carried back from v, node by node (`Operator.pulled`), so that

    |dv|^2 <= sum_u sum_j w_u[j] du[j]^2

over the values u that are reached. What two branches read of one value adds up at each entry: pieces that read disjoint
entries have the largest constant, and not the root of the sum of squares. Once a single value a is left, the constant
is the root of its largest weight.

*As one matrix.* Where all between a and v is linear, the constant is the norm of that map: of its matrix, in which
places that are all alike count once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""Largest number of nodes through which weights are carried back."""
LARGEST = 1024
"""Largest number of columns of a matrix, the entries of the value that it begins with."""
ENTRIES = 2**22
"""Largest number of entries of one value for all columns together."""
RTOL = 1e-6
"""Relative width to which the norm of a matrix is proven."""


class NodeBound(Protocol):
    """The proven constants of a node; `propagation.Step` is one."""

    @property
    def claim(self) -> Upper | None:
        """Constant of the map from the input of the network to the node's value."""

    @property
    def alone(self) -> Upper | None:
        """Constant of the node with respect to the value that it reads; None if it reads several."""


@dataclass(eq=False)
class Branches:
    """The values of one pass, in order, and their bounds so far.

    Parameters
    ----------
    scope : Scope
        Scope of the graph.
    steps : mapping of str to NodeBound
        Bounds of the nodes so far, with respect to one input of the network.
    norms : Norms
    """

    scope: Scope
    steps: Mapping[str, NodeBound]
    norms: Norms
    shortcuts: dict[str, Upper] = field(default_factory=dict)
    """Claims that branches gave where these were less than the node's own rule, by the node at the end."""
    _order: dict[str, int] = field(default_factory=dict)
    _moving: dict[str, FloatArray] = field(default_factory=dict)
    _shortcut_taken: bool = False
    """Whether a shortcut was or might have been taken in this walk."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Nodes of the graph by name."""
        return self.scope.graph.by_name

    def append(self, node: Node) -> None:
        """Add the next node in the order of computation."""
        self._order[node.name] = len(self._order)

    def claims(self, end: Node) -> Iterator[Upper]:
        """Prove constants of a value with respect to values that all of its branches come from.

        Where weights do not differ between entries, a shortcut may be less than the node's weights. Both are tried.
        """
        self._shortcut_taken = False
        yield from self._walk_back(end, by_shortcuts=True)
        if self._shortcut_taken:
            yield from self._walk_back(end, by_shortcuts=False)

    def _walk_back(self, end: Node, *, by_shortcuts: bool) -> Iterator[Upper]:
        """Carry weights back from a value; prove a constant wherever a single value is left.

        The norm of a linear map as a whole is proven once, in the walk with shortcuts.
        """
        if end.shape is None:
            return
        weights: dict[str, FloatArray] = {end.name: np.ones((1,) * len(end.shape))}
        premises: list[Upper] = []
        may_be_linear = by_shortcuts
        for count in range(FARTHEST):
            last = max(weights, key=self._order.__getitem__)
            if count > 0 and len(weights) == 1:
                claim = self._together(last, end.name, weights[last], premises)
                if claim is not None:
                    yield claim
                if may_be_linear:
                    claim = self._linear(last, end)
                    if claim is not None:
                        yield claim
                may_be_linear = False
                if weights[last].size == 1:
                    return
            before = self._weights_before(self.nodes[last], weights.pop(last), premises, by_shortcuts=by_shortcuts)
            if before is None:
                return
            for source, more in before:
                total = plus_up(weights[source], more) if source in weights else more
                weights[source] = _narrow(total)
            if not weights:
                return

    def _together(
        self,
        start: str,
        end: str,
        weights: FloatArray,
        premises: list[Upper],
    ) -> Upper | None:
        """Return the root of the largest weight as a claim; None if that is infinite."""
        largest = float(np.max(weights, initial=0.0))
        if not math.isfinite(largest):
            return None
        root = host.root_up(Fraction(largest))
        return make_upper(root, self.scope.map(start, end), "parts", *dict.fromkeys(premises))

    def _weights_before(
        self,
        node: Node,
        weights: FloatArray,
        premises: list[Upper],
        *,
        by_shortcuts: bool,
    ) -> list[tuple[str, FloatArray]] | None:
        """Return weights of the values that a node reads, for those of its own value; None if there are none.

        Claims that are used are appended to ``premises``.
        """
        claims = [self.steps[name].claim for name in node.inputs]
        if None in claims:
            return None  # an input may move however far
        step = self.steps.get(node.name)
        alone = None if step is None else step.alone
        shortcut = self.shortcuts.get(node.name)
        # A layer may have been bounded together with what is before it: it is not the node's own constant then.
        is_own = alone is None or alone.what in {self.scope.map(name, node.name) for name in node.inputs}
        may_take_shortcut = shortcut is not None and weights.size == 1
        self._shortcut_taken |= may_take_shortcut
        place = self._place(node)
        if is_own and not (may_take_shortcut and by_shortcuts):
            shares = [self._share(name) for name in node.inputs]
            try:
                pulled = node.operator.pulled(weights, shares, place)
            except (NoBoundError, ValueError, IndexError):  # shapes do not fit, or are not known
                pulled = None
            if pulled is not None:
                return self._of_moving_inputs(node, pulled)
        claim = alone or shortcut
        if claim is None or not isinstance(claim.what, Map):
            return None
        source = self.nodes[claim.what.start]
        if source.shape is None:
            return None
        premises.append(claim)
        separate_axes = node.operator.alike(place) if is_own and claim is alone else frozenset()
        mixed = _largest_of_mixed(weights, separate_axes)
        if mixed.ndim != len(source.shape):
            mixed = np.full((1,) * len(source.shape), mixed.max(initial=0.0))
        factor = np.asarray(claim.value)
        return [(source.name, times_up(mixed, factor, factor))]

    def _of_moving_inputs(self, node: Node, pulled: Sequence[FloatArray]) -> list[tuple[str, FloatArray]] | None:
        """Return the weights of those inputs that move; None if they do not have the inputs' axes."""
        pairs = []
        for name, weights in zip(node.inputs, pulled, strict=True):
            claim = self.steps[name].claim
            if claim is None or not claim.value:
                continue
            shape = self.nodes[name].shape
            if shape is None or len(shape) != weights.ndim:
                return None
            pairs.append((name, weights))
        return pairs

    def _place(self, node: Node) -> Place:
        return Place(tuple(self.nodes[name].shape for name in node.inputs), node.shape)

    # -- which entries move ------------------------------------------------------------------------------------------
    def _share(self, name: str) -> FloatArray:
        """Return roughly how far each entry of a value moves; 0 where it does not."""
        claim = self.steps[name].claim
        distance = 0.0 if claim is None else claim.value
        return np.where(self._moves(name), distance, 0.0)

    def _moves(self, name: str) -> FloatArray:
        """Return 1 for entries of a value that may move, 0 for others; axes along which all are alike have size 1."""
        if name not in self._moving:
            node = self.nodes[name]
            claim = self.steps[name].claim
            self._moving[name] = np.ones((1,) * len(node.shape or ()))
            if claim is not None and not claim.value:
                self._moving[name] = self._moving[name] * 0.0
            elif node.inputs and node.shape is not None:
                self._moving[name] = _narrow(self._moves_of_inputs(node))
        return self._moving[name]

    def _moves_of_inputs(self, node: Node) -> FloatArray:
        """Return which entries of a value may move, as the inputs do."""
        every = np.ones((1,) * len(node.shape or ()))
        place = self._place(node)
        if isinstance(node.operator, (Pointwise, Scale, Identity)) and place.before[0] == place.after:
            return self._moves(node.inputs[0])
        if not isinstance(node.operator, Linear) or not node.operator.moves:
            return every
        before = [self._moves(name) for name in node.inputs]
        for shape, moves in zip(place.before, before, strict=True):
            if shape is None or moves.ndim != len(shape):
                return every
        # One place is enough along axes that the operator treats alike, if all inputs are alike there.
        separate_axes = node.operator.alike(place)
        same = frozenset(axis for axis in separate_axes if all(moves.shape[axis] == 1 for moves in before))
        short_place = place.shortened(same)
        linear = _linear_at(node, short_place, same)
        sizes = short_place.sizes()
        if linear is None or sizes is None or sum(map(math.prod, sizes)) > ENTRIES:
            return every
        wide = [np.broadcast_to(moves, size)[None] for moves, size in zip(before, sizes, strict=True)]
        return np.asarray(linear.apply(wide)[0])

    # -- linear maps -------------------------------------------------------------------------------------------------
    def _linear(self, start: str, end: Node) -> Upper | None:
        """Prove the constant of all nodes between two values, if these are linear."""
        between = self._between(start, end)
        return None if between is None else self._matrix(start, between)

    def _between(self, start: str, end: Node) -> list[Node] | None:
        """Return all nodes between two values, in order; None if one is not linear, or if all only move entries."""
        needed = {end.name}
        waiting = [end.name]
        while waiting:
            for name in self.nodes[waiting.pop()].inputs:
                claim = self.steps[name].claim
                if name != start and name not in needed and (claim is None or claim.value):
                    needed.add(name)
                    waiting.append(name)
        between = sorted((self.nodes[name] for name in needed), key=lambda node: self._order[node.name])
        if any(type(node.operator).linear_map is Operator.linear_map for node in between):
            return None
        only_moves_entries = all(isinstance(node.operator, Linear) and node.operator.moves for node in between)
        return None if only_moves_entries else between  # weights are exact for maps that only move entries

    def _matrix(self, start: str, between: list[Node]) -> Upper | None:
        """Prove the norm of a linear map by its matrix, if that is small; places that are alike count once."""
        end = between[-1]
        same = frozenset.intersection(*(node.operator.alike(self._place(node)) for node in between))
        start_sizes = Place((self.nodes[start].shape,)).shortened(same).sizes()
        if not start_sizes:
            return None
        (start_shape,) = start_sizes
        columns = math.prod(start_shape)
        if not 0 < columns <= LARGEST:
            return None
        maps: list[LinearMap] = []
        for node in between:
            place = self._place(node).shortened(same)
            if place.sizes() is None or place.after is None:
                return None
            if not 0 < columns * math.prod(place.after) <= ENTRIES:
                return None
            linear = _linear_at(node, place, same)
            if linear is None:
                return None
            maps.append(linear)
        identity = np.eye(columns).reshape(columns, *start_shape)
        matrix = self._columns(start, identity, between, [linear.apply for linear in maps], same)
        magnitudes = self._columns(start, identity, between, [linear.absolute for linear in maps], same)
        if not np.isfinite(magnitudes).all():
            return None
        spec = ConvSpec.of(matrix.shape)
        norm = self.norms.of_kernel(matrix, RTOL)
        if not proves(norm, spec, matrix):
            raise HypothesisError(f"{norm.what} is not {spec}")
        # Roundings of all maps one after the other, and as much again for those of the magnitudes; and underflow.
        unit = sum(linear.roundings for linear in maps) * 2.0**-50
        error = host.mul_up(unit, float(host.norm_up(magnitudes.reshape(-1))))
        underflow = magnitudes.size * 2.0**-1000 if error else 0.0
        value = host.add_up(norm.value, error, underflow)
        return make_upper(value, self.scope.map(start, end.name), "linear", norm)

    def _columns(
        self,
        start: str,
        identity: FloatArray,
        between: list[Node],
        maps: Sequence[Callable[[Sequence[FloatArray]], FloatArray]],
        same: frozenset[int],
    ) -> FloatArray:
        """Return the matrix of several maps one after the other: the images of the columns of the identity."""
        columns = len(identity)
        values = {start: identity}
        for node, apply in zip(between, maps, strict=True):
            sizes = self._place(node).shortened(same).sizes() or []
            inputs = []
            for name, size in zip(node.inputs, sizes, strict=True):
                inputs.append(values[name] if name in values else np.zeros((columns, *size)))
            values[node.name] = apply(inputs)
        return values[between[-1].name].reshape(columns, -1).T.copy()


def _linear_at(node: Node, place: Place, same: frozenset[int]) -> LinearMap | None:
    return node.operator.shortened(same).linear_map(place) if place.sizes() is not None else None


def _largest_of_mixed(weights: FloatArray, separate_axes: frozenset[int]) -> FloatArray:
    """Return the largest weight of the entries that an operator mixes, along all but the separate axes."""
    mixed_axes = tuple(axis for axis in range(weights.ndim) if axis not in separate_axes)
    return np.asarray(weights.max(axis=mixed_axes, keepdims=True, initial=0.0))


def _narrow(weights: FloatArray) -> FloatArray:
    """Return weights with size 1 along axes on which all are equal; zeros if there are no entries."""
    if not weights.size:
        return np.zeros((1,) * weights.ndim)
    for axis in range(weights.ndim):
        if weights.shape[axis] > 1:
            first = weights.take([0], axis)
            weights = first if np.array_equal(np.broadcast_to(first, weights.shape), weights) else weights
    return weights
