"""Prove the constant of a value in which branches from one value, the start, meet again.

*Linear branches*, such as x - mean(x): the constant is the norm of their matrix. Axes along which all nodes are one
function, applied at each position (`Affine.alike`), have size 1 in it. Linear maps in a row, such as a running mean
(sums, then a scale), are one matrix as well if the product of their norms says more.

*Branches through layers and functions*, such as halves of the channels of which one moves the other (`blocks`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from specnorm import ConvSpec
from specnorm.proof import HypothesisError, Upper, host, make_upper
from specnorm_networks.certified.blocks import claims_of_blocks
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.kernels import Norms, bounds_norm_of
from specnorm_networks.certified.operators.base import Apply, FloatArray, LinearMap, Place
from specnorm_networks.certified.rules import Scope

MOST_NODES = 512
"""Largest number of nodes between both values."""
MOST_COLUMNS = 1024
"""Largest number of columns of a matrix, which are the entries of the value at its start."""
MOST_ENTRIES = 2**22
"""Largest number of entries of one value, with all columns of the matrix together."""
RTOL = 1e-6
"""Relative width to which the norm of a matrix is proven."""


def claims_of_branches(
    scope: Scope,
    end: Node,
    is_fixed: Callable[[str], bool],
    constants: Mapping[str, Sequence[Upper]],
    norms: Norms,
) -> Iterator[Upper]:
    """Prove constants of a value with respect to values from which all of its branches come, or earlier ones.

    ``is_fixed``: whether a value, by its name, stays the same for all inputs. ``constants``: constants of maps to a
    value from an earlier one, by its name.
    """
    has_branches = sum(not is_fixed(name) for name in end.inputs) > 1
    if has_branches:
        yield from claims_of_blocks(scope, end, is_fixed, constants)
    is_end_of_maps = not _goes_on(scope, end)
    if not (has_branches or is_end_of_maps):
        return
    parts = _linear_parts(scope, end, is_fixed)
    nearest = parts[:1] if has_branches else []
    farthest = parts[1:][-1:] if is_end_of_maps else []
    for start, between in nearest + [part for part in farthest if _stretches_unevenly(part[1])]:
        claim = _constant_of_linear_part(scope, start, between, norms)
        if claim is not None:
            yield claim


def _goes_on(scope: Scope, node: Node) -> bool:
    """Whether a node only moves entries, or a linear map follows it in which it is a step between two others."""
    reader = scope.graph.only_reader(node.name)
    if node.only_moves_entries:
        return True
    if reader is None or reader.is_layer or reader.only_moves_entries:
        return False
    return reader.affine is not None and scope.graph.fixed_values.issuperset({*reader.inputs} - {node.name})


def _linear_parts(scope: Scope, end: Node, is_fixed: Callable[[str], bool]) -> list[tuple[str, Sequence[Node]]]:
    """Return the nearest and the farthest value from which all branches of a value come by linear nodes.

    Each has with it the nodes between, in the order of computation. There may be one such value, or none.
    """
    parts: list[tuple[str, int]] = []
    between: list[Node] = []
    waiting = {end.name}
    while len(between) < MOST_NODES:
        last = scope.graph.by_name[max(waiting, key=scope.graph.positions.__getitem__)]
        before = {name for name in last.inputs if not is_fixed(name)}
        # Behind the nearest value, layers have rules of their own, which fold scales into their kernels.
        if last.affine is None or not before or (parts and last.is_layer):
            break
        between.append(last)
        waiting = waiting - {last.name} | before
        if len(waiting) == 1:
            (start,) = waiting
            parts = [*parts[:1], (start, len(between))]
    return [(start, between[:count][::-1]) for start, count in parts]


def _stretches_unevenly(nodes: Sequence[Node]) -> bool:
    """Whether nodes stretch some vectors more than others, by more than one map."""
    maps = [node.affine for node in nodes if node.affine is not None and not node.only_moves_entries]
    return len(maps) > 1 and any(affine.stretches_unevenly for affine in maps)


def _constant_of_linear_part(scope: Scope, start: str, between: Sequence[Node], norms: Norms) -> Upper | None:
    """Prove the norm of the matrix of linear nodes; None if a shape is unknown, or if the matrix is large."""
    branches = _branches(scope, start, between)
    if branches is None or not branches.has_small_matrix:
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
    return make_upper(host.add_up(norm.value, error, underflow), scope.map(start, between[-1].name), "linear", norm)


@dataclass(frozen=True, eq=False)
class _Branches:
    """The nodes between two values, with size 1 along the axes along which all of them are alike."""

    start: str
    start_shape: tuple[int, ...]
    nodes: Sequence[Node]
    """In the order of computation."""
    places: list[Place]
    """Places of the nodes, all of known shapes."""
    maps: list[LinearMap]

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
        matrix = self._values(identity, [linear.apply for linear in self.maps])
        magnitudes = self._values(identity, [linear.absolute for linear in self.maps])
        return matrix.T.copy(), magnitudes.T.copy(), sum(linear.roundings for linear in self.maps)

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


def _branches(scope: Scope, start: str, nodes: Sequence[Node]) -> _Branches | None:
    """Return the nodes between two values, with the axes along which all are alike shortened; None without shapes."""
    places = [scope.graph.place(node) for node in nodes]
    start_place = Place((scope.graph.by_name[start].shape,))
    operators = [node.affine for node in nodes if node.affine is not None]
    alike_axes = [operator.alike(place) for operator, place in zip(operators, places, strict=True)]
    short_axes = frozenset(alike_axes[0]).intersection(*alike_axes[1:])
    start_shapes = start_place.shortened(short_axes).known_shapes()
    short_places = [place.shortened(short_axes) for place in places]
    if not start_shapes or not math.prod(start_shapes[0]):
        return None
    maps: list[LinearMap] = []
    for operator, place, short_place in zip(operators, places, short_places, strict=True):
        after = short_place.after
        if short_place.known_shapes() is None or after is None or math.prod(after) > MOST_ENTRIES:
            return None
        linear = operator.map_at_one_position(place, short_axes)
        if linear is None:
            return None
        maps.append(linear)
    return _Branches(start, start_shapes[0], nodes, short_places, maps)
