"""Prove the constant of a value in which branches from one value, the start, meet again.

*Linear branches*, such as x - mean(x): the constant is the norm of their matrix. Axes along which all nodes are one
function, applied at each position (`Affine.alike`), have size 1 in it. Linear maps in a row, such as a running mean
(sums, then a scale), are one matrix as well if the product of their norms says more.

*Branches through layers and functions*, such as halves of the channels of which one moves the other (`blocks`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from specnorm import ConvSpec
from specnorm.proof import HypothesisError, Upper, host, make_upper
from specnorm_networks.certified.blocks import claims_of_blocks
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.kernels import Norms, bounds_norm_of
from specnorm_networks.certified.operators.base import Place
from specnorm_networks.certified.rules import Scope
from specnorm_networks.certified.units import Sum, image_of

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
    value = _sum_of(scope, start, between)
    if value is None or not np.isfinite(value.error).all():
        return None
    matrix = value.matrix.reshape(len(value.matrix), -1).T.copy()
    spec = ConvSpec.of(matrix.shape)
    norm = norms.of_kernel(matrix, RTOL)
    if not bounds_norm_of(norm, spec, matrix):
        raise HypothesisError(f"{norm.what} is not {spec}")
    error = float(host.norm_up(value.error.reshape(-1)))
    return make_upper(host.add_up(norm.value, error), scope.map(start, between[-1].name), "linear", norm)


def _sum_of(scope: Scope, start: str, nodes: Sequence[Node]) -> Sum | None:
    """Return the last of some linear nodes by the entries of the start, with size 1 along the axes where all are alike.

    ``nodes``: in the order of computation. None as for `_constant_of_linear_part`.
    """
    graph = scope.graph
    operators = [node.affine for node in nodes if node.affine is not None]
    places = [graph.place(node) for node in nodes]
    axes = frozenset.intersection(*(frozenset(each.alike(at)) for each, at in zip(operators, places, strict=True)))
    places_at_one = [place.shortened(axes) for place in places]
    (start_shape,) = Place((graph.by_name[start].shape,)).shortened(axes).before
    columns = 0 if start_shape is None else math.prod(start_shape)
    largest = max(math.inf if place.after is None else math.prod(place.after) for place in places_at_one)
    if start_shape is None or not 0 < columns <= MOST_COLUMNS or columns * largest > MOST_ENTRIES:
        return None
    sums = {start: Sum.identity(start_shape)}
    for node, operator, place, place_at_one in zip(nodes, operators, places, places_at_one, strict=True):
        linear = operator.map_at_one_position(place, axes)
        shapes = place_at_one.known_shapes()
        if linear is None or shapes is None:
            return None
        inputs = zip(node.inputs, shapes, strict=True)
        before = [sums[name] if name in sums else Sum.constant(shape) for name, shape in inputs]
        sums[node.name] = image_of(linear, before, place_at_one.after or ())
    return sums[nodes[-1].name].rows(np.arange(columns))
