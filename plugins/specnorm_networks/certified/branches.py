"""Prove the constant of a value at which branches meet, with respect to the one value from which all branches come.

*By entries.* For changes dv of a value v, weights are carried back from v, node by node
(`Operator.carry_weights_back`), so that

    |dv|^2 <= sum_u sum_j w_u[j] du[j]^2

over the values u that the walk has reached. If two branches read the same value u, their weights add up entry by entry.
So branches that read disjoint entries have the larger one of their constants, not the root of the sum of squares. Once
a single value is left, the constant is the root of its largest weight.

*As one matrix.* If all nodes between that value and v are linear, the constant is the norm of their matrix. Axes along
which they all are one function, applied at each position (`Operator.alike`), have size 1 in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

import numpy as np

from specnorm import ConvSpec
from specnorm.proof import HypothesisError, Upper, host, make_upper
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.kernels import Norms, bounds_norm_of
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

MOST_NODES = 512
"""Largest number of nodes through which weights are carried back."""
MOST_COLUMNS = 1024
"""Largest number of columns of a matrix, which are the entries of the value at its start."""
MOST_ENTRIES = 2**22
"""Largest number of entries of one value, with all columns of the matrix together."""
RTOL = 1e-6
"""Relative width to which the norm of a matrix is proven."""


class NodeBound(Protocol):
    """The proven constants of a node; `propagation.Step` is one."""

    @property
    def claim(self) -> Upper | None:
        """Lipschitz constant of the map from the input of the network to the node's value."""

    @property
    def own(self) -> Upper | None:
        """The node's own Lipschitz constant, with respect to the value that it reads; None if it reads several."""


@dataclass(eq=False)
class Branches:
    """The nodes of one pass through a graph, in order, and their bounds so far.

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
    constants_of_branches: dict[str, Upper] = field(default_factory=dict)
    """Constants that were proven here and are smaller than by the node's own rule, by the node where branches meet."""
    _order: dict[str, int] = field(default_factory=dict)
    """Position of each node in the order of computation."""
    _masks: dict[str, FloatArray] = field(default_factory=dict)
    """For each value 1 at the entries that may change, 0 at others (`_mask`)."""
    _met_branch_constant: bool = False
    """Whether the last walk came to a node with two ways back: by a constant of branches, and by its own weights."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Nodes of the graph by name."""
        return self.scope.graph.by_name

    def append(self, node: Node) -> None:
        """Add the next node in the order of computation."""
        self._order[node.name] = len(self._order)

    def claims(self, end: Node) -> Iterator[Upper]:
        """Prove constants of a value with respect to values from which all of its branches come.

        Where branches met at an earlier node and all entries of that node have one weight, there are two ways back: by
        the constant of those branches (`constants_of_branches`), and by the node's own weights. Both are tried.
        """
        self._met_branch_constant = False
        yield from self._walk_back(end, by_branch_constants=True)
        if self._met_branch_constant:
            yield from self._walk_back(end, by_branch_constants=False)

    def _walk_back(self, end: Node, *, by_branch_constants: bool) -> Iterator[Upper]:
        """Carry weights back from a value; prove a constant at each step that leaves a single value.

        The norm of the nodes as one linear map is proven once, in the walk by constants of branches.
        """
        if end.shape is None:
            return
        weights: dict[str, FloatArray] = {end.name: np.ones((1,) * len(end.shape))}
        premises: list[Upper] = []
        may_be_linear = by_branch_constants
        for step in range(MOST_NODES):
            last = max(weights, key=self._order.__getitem__)
            if step > 0 and len(weights) == 1:
                claim = self._constant_by_weights(last, end.name, weights[last], premises)
                if claim is not None:
                    yield claim
                if may_be_linear:
                    claim = self._constant_of_linear_nodes(last, end)
                    if claim is not None:
                        yield claim
                may_be_linear = False
                if weights[last].size == 1:
                    return  # further back, the product of the nodes' constants is as good as weights
            before = self._weights_before(
                self.nodes[last], weights.pop(last), premises, by_branch_constants=by_branch_constants
            )
            if before is None:
                return
            _add_weights(weights, before)
            if not weights:
                return

    def _constant_by_weights(
        self,
        start: str,
        end: str,
        weights: FloatArray,
        premises: list[Upper],
    ) -> Upper | None:
        """Return the root of the largest weight of the value ``start`` as a claim; None if it is infinite.

        ``premises``: claims on which the weights rest.
        """
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
        by_branch_constants: bool,
    ) -> list[tuple[str, FloatArray]] | None:
        """Return weights of the values that a node reads, from those of its own value, by their names.

        None if no rule gives such weights. Claims on which the weights rest are appended to ``premises``.
        """
        if any(self.steps[name].claim is None for name in node.inputs):
            return None  # there is no bound of how far an input changes
        step = self.steps.get(node.name)
        own = None if step is None else step.own
        branch_constant = self.constants_of_branches.get(node.name)
        # If the constant of a layer includes the padding before it, its map starts before the padding, at no input of
        # this node.
        is_own = own is None or own.what in {self.scope.map(name, node.name) for name in node.inputs}
        may_take_branch_constant = branch_constant is not None and weights.size == 1
        self._met_branch_constant |= may_take_branch_constant
        place = self._place(node)
        if is_own and not (may_take_branch_constant and by_branch_constants):
            rough_changes = [self._rough_change(name) for name in node.inputs]
            try:
                weights_before = node.operator.carry_weights_back(weights, rough_changes, place)
            except (NoBoundError, ValueError, IndexError):  # the shapes do not fit, or are unknown
                weights_before = None
            if weights_before is not None:
                return self._weights_of_changing_inputs(node, weights_before)
        # Without weights of its own, the node counts by its constant, or by that of branches: a constant L changes a
        # weight w of the value to L^2 w. Along axes that the operator mixes, the largest weight stands for all.
        claim = own or branch_constant
        if claim is None or not isinstance(claim.what, Map):
            return None
        source = self.nodes[claim.what.start]
        if source.shape is None:
            return None
        premises.append(claim)
        separate_axes = node.operator.alike(place) if is_own and claim is own else frozenset()
        largest = _largest_of_mixed(weights, separate_axes)
        if largest.ndim != len(source.shape):
            largest = np.full((1,) * len(source.shape), largest.max(initial=0.0))
        constant = np.asarray(claim.value)
        return [(source.name, times_up(largest, constant, constant))]

    def _weights_of_changing_inputs(
        self,
        node: Node,
        weights_before: Sequence[FloatArray],
    ) -> list[tuple[str, FloatArray]] | None:
        """Return the weights of those inputs that can change, by name; None if they do not have the inputs' axes."""
        pairs = []
        for name, weights in zip(node.inputs, weights_before, strict=True):
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

    # -- which entries can change ------------------------------------------------------------------------------------
    def _rough_change(self, name: str) -> FloatArray:
        """Return roughly how far each entry of a value can change; 0 for entries that cannot."""
        claim = self.steps[name].claim
        constant = 0.0 if claim is None else claim.value
        return np.where(self._mask(name), constant, 0.0)

    def _mask(self, name: str) -> FloatArray:
        """Return 1 for entries of a value that may change, 0 for others; axes along which all are equal have size 1."""
        if name not in self._masks:
            self._masks[name] = self._new_mask(self.nodes[name])
        return self._masks[name]

    def _new_mask(self, node: Node) -> FloatArray:
        every_entry = np.ones((1,) * len(node.shape or ()))
        claim = self.steps[node.name].claim
        if claim is not None and claim.value == 0:
            return np.zeros_like(every_entry)
        if not node.inputs or node.shape is None:
            return every_entry
        mask = self._mask_from_inputs(node)
        return every_entry if mask is None else _narrow(mask)

    def _mask_from_inputs(self, node: Node) -> FloatArray | None:
        """Return which entries of a value may change if those of its inputs do; None if that is unknown."""
        place = self._place(node)
        if isinstance(node.operator, (Pointwise, Scale, Identity)) and place.before[0] == place.after:
            return self._mask(node.inputs[0])
        if not isinstance(node.operator, Linear) or not node.operator.only_moves_entries:
            return None
        masks = [self._mask(name) for name in node.inputs]
        for shape, mask in zip(place.before, masks, strict=True):
            if shape is None or mask.ndim != len(shape):
                return None
        # Along the axes of `Operator.alike`, one position stands for all if all masks are equal along them.
        separate_axes = node.operator.alike(place)
        short_axes = frozenset(axis for axis in separate_axes if all(mask.shape[axis] == 1 for mask in masks))
        short_place = place.shortened(short_axes)
        linear = _linear_at(node, short_place, short_axes)
        sizes = short_place.known_shapes()
        if linear is None or sizes is None or sum(map(math.prod, sizes)) > MOST_ENTRIES:
            return None
        full_masks = [np.broadcast_to(mask, size)[None] for mask, size in zip(masks, sizes, strict=True)]
        return np.asarray(linear.apply(full_masks)[0])

    # -- linear maps -------------------------------------------------------------------------------------------------
    def _constant_of_linear_nodes(self, start: str, end: Node) -> Upper | None:
        """Prove the constant of all nodes between two values, if they are linear and their matrix is small."""
        between = self._linear_nodes_between(start, end)
        return None if between is None else self._norm_of_matrix(start, between)

    def _linear_nodes_between(self, start: str, end: Node) -> list[Node] | None:
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
        are_moves = all(isinstance(node.operator, Linear) and node.operator.only_moves_entries for node in between)
        return None if are_moves else between  # weights are exact for maps that only move entries

    def _norm_of_matrix(self, start: str, between: list[Node]) -> Upper | None:
        """Prove the norm of several linear nodes by their matrix; None if it is large, or a map or shape is unknown."""
        end = between[-1]
        # Along axes that are in `Operator.alike` of all nodes, the matrix is block diagonal, with equal blocks.
        short_axes = frozenset.intersection(*(node.operator.alike(self._place(node)) for node in between))
        start_sizes = Place((self.nodes[start].shape,)).shortened(short_axes).known_shapes()
        if not start_sizes:
            return None
        (start_shape,) = start_sizes
        columns = math.prod(start_shape)
        if not 0 < columns <= MOST_COLUMNS:
            return None
        maps: list[LinearMap] = []
        for node in between:
            place = self._place(node).shortened(short_axes)
            if place.known_shapes() is None or place.after is None:
                return None
            if not 0 < columns * math.prod(place.after) <= MOST_ENTRIES:
                return None
            linear = _linear_at(node, place, short_axes)
            if linear is None:
                return None
            maps.append(linear)
        identity = np.eye(columns).reshape(columns, *start_shape)
        matrix = self._columns(start, identity, between, [linear.apply for linear in maps], short_axes)
        magnitudes = self._columns(start, identity, between, [linear.absolute for linear in maps], short_axes)
        if not np.isfinite(magnitudes).all():
            return None
        spec = ConvSpec.of(matrix.shape)
        norm = self.norms.of_kernel(matrix, RTOL)
        if not bounds_norm_of(norm, spec, matrix):
            raise HypothesisError(f"{norm.what} is not {spec}")
        # Roundings of all maps, one after the other, are relative to the magnitudes. 2^-50 is 8 times the unit roundoff
        # 2^-53, which covers the roundings of the magnitudes, too. Entries may also underflow.
        relative = sum(linear.roundings for linear in maps) * 2.0**-50
        error = host.mul_up(relative, float(host.norm_up(magnitudes.reshape(-1))))
        underflow = magnitudes.size * 2.0**-1000 if error else 0.0
        value = host.add_up(norm.value, error, underflow)
        return make_upper(value, self.scope.map(start, end.name), "linear", norm)

    def _columns(
        self,
        start: str,
        identity: FloatArray,
        between: list[Node],
        maps: Sequence[Callable[[Sequence[FloatArray]], FloatArray]],
        short_axes: frozenset[int],
    ) -> FloatArray:
        """Return the matrix of several maps, one after the other: the images of the columns of the identity.

        Values that do not depend on the value ``start`` are 0.
        """
        columns = len(identity)
        values = {start: identity}
        for node, apply in zip(between, maps, strict=True):
            sizes = self._place(node).shortened(short_axes).known_shapes() or []
            inputs = []
            for name, size in zip(node.inputs, sizes, strict=True):
                inputs.append(values[name] if name in values else np.zeros((columns, *size)))
            values[node.name] = apply(inputs)
        return values[between[-1].name].reshape(columns, -1).T.copy()


def _linear_at(node: Node, place: Place, short_axes: frozenset[int]) -> LinearMap | None:
    """Return a node's linear map at a place with size 1 along some axes; None if it has none, or sizes are unknown."""
    if place.known_shapes() is None:
        return None
    return node.operator.shortened(short_axes).linear_map(place)


def _largest_of_mixed(weights: FloatArray, separate_axes: frozenset[int]) -> FloatArray:
    """Return the largest of the weights along all axes but the separate ones: of the entries that an operator mixes."""
    mixed_axes = tuple(axis for axis in range(weights.ndim) if axis not in separate_axes)
    return np.asarray(weights.max(axis=mixed_axes, keepdims=True, initial=0.0))


def _add_weights(weights: dict[str, FloatArray], more: Iterable[tuple[str, FloatArray]]) -> None:
    """Add weights of values to those that the values have already."""
    for name, summand in more:
        total = plus_up(weights[name], summand) if name in weights else summand
        weights[name] = _narrow(total)


def _narrow(weights: FloatArray) -> FloatArray:
    """Return weights with size 1 along axes on which all are equal; a single 0 if there are no entries."""
    if not weights.size:
        return np.zeros((1,) * weights.ndim)
    for axis in range(weights.ndim):
        if weights.shape[axis] > 1:
            first = weights.take([0], axis)
            if np.array_equal(np.broadcast_to(first, weights.shape), weights):
                weights = first
    return weights
