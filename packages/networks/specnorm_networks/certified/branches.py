"""Prove the constant of a value in which branches from one value meet again.

*Branches that move entries*, or apply functions to each of them, such as halves of the channels of which one goes
through ReLU: every entry of the value is a function of one entry of the start. The constant is the root of the largest
sum of squared constants of the functions of one entry.

*Linear branches*, such as x - mean(x): the constant is the norm of their matrix. Axes along which all nodes are one
function, applied at each position (`Operator.alike`), have size 1 in both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from specnorm import ConvSpec
from specnorm.proof import HypothesisError, Upper, host, make_upper
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.kernels import Norms, bounds_norm_of
from specnorm_networks.certified.operators.base import (
    UNDERFLOW,
    Apply,
    FloatArray,
    Linear,
    LinearMap,
    Operator,
    Place,
    Pointwise,
)
from specnorm_networks.certified.operators.linear import Scale
from specnorm_networks.certified.scope import Scope

MOST_NODES = 512
"""Largest number of nodes between both values."""
MOST_COLUMNS = 1024
"""Largest number of columns of a matrix, which are the entries of the value at its start."""
MOST_ENTRIES = 2**22
"""Largest number of entries of one value, with all columns of the matrix together."""
RTOL = 1e-6
"""Relative width to which the norm of a matrix is proven."""


def constant_of_branches(
    scope: Scope,
    end: Node,
    is_fixed: Callable[[str], bool],
    norms: Norms,
) -> Upper | None:
    """Prove the constant of a value with respect to the nearest value from which all of its branches come.

    ``is_fixed``: whether a value, by its name, stays the same for all inputs. Returns None if a node between both
    values is neither linear nor a function of each entry, if a shape is unknown, or if the matrix is large.
    """
    between: list[Node] = []
    waiting = {end.name}
    while not between or len(waiting) > 1:
        last = scope.graph.by_name[max(waiting, key=scope.graph.positions.__getitem__)]
        before = {name for name in last.inputs if not is_fixed(name)}
        has_rule = _is_linear(last) or _is_entrywise(last)
        if not has_rule or not before or len(between) == MOST_NODES:
            return None
        between.append(last)
        waiting = waiting - {last.name} | before
    (start,) = waiting
    between.reverse()
    is_entrywise = all(map(_is_entrywise, between))
    if not is_entrywise and not all(map(_is_linear, between)):
        return None
    branches = _branches(scope, start, between)
    if branches is None:
        return None
    what = scope.map(start, end.name)
    if is_entrywise:
        return make_upper(branches.root_of_largest_square_sum(), what, "entries")
    if not branches.has_small_matrix:
        return None
    matrix, magnitudes, roundings = branches.matrix()
    if not np.isfinite(magnitudes).all():
        return None
    spec = ConvSpec.of(matrix.shape)
    norm = norms.of_kernel(matrix, RTOL)
    if not bounds_norm_of(norm, spec, matrix):
        raise HypothesisError(f"{norm.what} is not {spec}")
    # Roundings of all maps, one after the other, are relative to the magnitudes. 2^-50 is 8 times the unit roundoff
    # 2^-53, which covers the roundings of the magnitudes, too. Entries may also underflow.
    frobenius_norm = float(host.norm_up(magnitudes.reshape(-1)))
    error = host.mul_up(roundings * 2.0**-50, frobenius_norm)
    underflow = magnitudes.size * 2.0**-1000 if error else 0.0
    return make_upper(host.add_up(norm.value, error, underflow), what, "linear", norm)


def _is_linear(node: Node) -> bool:
    return type(node.operator).linear_map is not Operator.linear_map


def _is_entrywise(node: Node) -> bool:
    """Whether each entry of a value is a function of one entry of one input, or 0."""
    operator = node.operator
    return isinstance(operator, Pointwise | Scale) or (isinstance(operator, Linear) and operator.only_moves_entries)


@dataclass(frozen=True, eq=False)
class _Branches:
    """The nodes between two values, with size 1 along the axes along which all of them are alike."""

    start: str
    start_shape: tuple[int, ...]
    nodes: list[Node]
    """In the order of computation."""
    places: list[Place]
    """Places of the nodes, all of known shapes."""
    maps: list[LinearMap | None]
    """Maps of the nodes; None of functions of each entry."""

    @property
    def has_small_matrix(self) -> bool:
        """Whether the matrix, and the values for all of its columns, have few entries."""
        columns = math.prod(self.start_shape)
        largest = max(math.prod(place.after or ()) for place in self.places)
        return columns <= MOST_COLUMNS and columns * largest <= MOST_ENTRIES

    def matrix(self) -> tuple[FloatArray, FloatArray, int]:
        """Return the matrix of linear nodes, the same of absolute values, and the number of roundings."""
        columns = math.prod(self.start_shape)
        identity = np.eye(columns).reshape(columns, *self.start_shape)
        maps = [linear for linear in self.maps if linear is not None]
        matrix = self._values(identity, [linear.apply for linear in maps])
        magnitudes = self._values(identity, [linear.absolute for linear in maps])
        return matrix.T.copy(), magnitudes.T.copy(), sum(linear.roundings for linear in maps)

    def root_of_largest_square_sum(self) -> float:
        """Return the root of the largest sum of squares of the constants of the functions of one entry of the start."""
        count = math.prod(self.start_shape)
        numbers = np.arange(1.0, count + 1).reshape(self.start_shape)  # 0 is the number of no entry
        steps = zip(self.nodes, self.places, self.maps, strict=True)
        maps = [_map_of_constants(*step) for step in steps]
        moved, constants = self._values(np.stack([numbers, np.ones(self.start_shape)]), maps)
        sums = np.bincount(moved.astype(np.intp), np.square(constants), count + 1)[1:]
        largest_sum = float(host.inflate(sums, len(moved) + 1).max(initial=0.0))
        return host.sqrt_up(largest_sum)

    def _values(self, batch: FloatArray, maps: Sequence[Apply]) -> FloatArray:
        """Return the last value for a batch of the first one, shape (batch, entries).

        ``maps``: for each node its map. Values that do not depend on the first one are 0.
        """
        values = {self.start: batch}
        for node, place, apply in zip(self.nodes, self.places, maps, strict=True):
            inputs = []
            for name, shape in zip(node.inputs, place.known_shapes() or (), strict=True):
                inputs.append(values[name] if name in values else np.zeros((len(batch), *shape)))
            values[node.name] = apply(inputs)
        return values[self.nodes[-1].name].reshape(len(batch), -1)


def _map_of_constants(node: Node, place: Place, linear: LinearMap | None) -> Apply:
    """Return the map of a batch of two: the numbers of the entries, and the constants of their functions."""
    if linear is None:
        constant = node.operator.lipschitz(place)

        def multiply_bounds(x: Sequence[FloatArray]) -> FloatArray:
            numbers, constants = x[0]
            if constant != 1:
                constants = host.next_up(constants * constant)
            return np.stack([numbers, constants])

        return multiply_bounds
    return partial(_scaled_constants, linear) if isinstance(node.operator, Scale) else linear.apply


def _scaled_constants(linear: LinearMap, x: Sequence[FloatArray]) -> FloatArray:
    """Return numbers of entries and constants, shape (2, *shape of the value), after a multiplication of each entry."""
    numbers, constants = x[0]
    (products,) = linear.absolute([constants[None]])
    scaled = host.inflate(products, linear.roundings + 4) + UNDERFLOW
    return np.stack([np.broadcast_to(numbers, scaled.shape), scaled])


def _branches(scope: Scope, start: str, nodes: list[Node]) -> _Branches | None:
    """Return the nodes between two values, with the axes along which all are alike shortened; None without shapes."""
    places = [scope.graph.place(node) for node in nodes]
    start_place = Place((scope.graph.by_name[start].shape,))
    short_axes = frozenset(range(len(nodes[-1].shape or ())))
    for node, place in zip(nodes, places, strict=True):
        if not isinstance(node.operator, Pointwise):  # of a function of each entry, its constant counts alone
            short_axes &= node.operator.alike(place)
    start_shapes = start_place.shortened(short_axes).known_shapes()
    short_places = [place.shortened(short_axes) for place in places]
    if not start_shapes or not math.prod(start_shapes[0]):
        return None
    maps: list[LinearMap | None] = []
    for node, place, short_place in zip(nodes, places, short_places, strict=True):
        after = short_place.after
        if short_place.known_shapes() is None or not after or not 0 < math.prod(after) <= MOST_ENTRIES:
            return None
        maps.append(node.operator.map_at_one_position(place, short_axes))
        if maps[-1] is None and not isinstance(node.operator, Pointwise):
            return None
    return _Branches(start, start_shapes[0], nodes, short_places, maps)
