"""Operators that only move entries: each of theirs is one of an input, or is fixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from specnorm_check.arithmetic import Array, require
from specnorm_check.graphs import Graph, Node
from specnorm_check.rules import SAME_ENTRIES
from specnorm_check.statements import plain

MOVES = {
    *SAME_ENTRIES,
    "Concat",
    "Expand",
    "Gather",
    "Pad",
    "Slice",
    "Split",
    "Transpose",
}


def moved(
    graph: Graph, name: str, arrays: Mapping[str, Array], further: int = 0
) -> Array:
    """Return what an operator of `MOVES` makes of arrays; fixed entries are 0.

    ``arrays`` has one for each value that changes. Its first axes are those of the value,
    and all arrays have the same ``further`` axes behind them.
    """
    node = graph.nodes[name]
    if node.op == "Concat":
        return joined(graph, node, arrays, further)
    changes_first_alone = node.inputs[0] in arrays and graph.has_fixed_inputs(node)
    require(changes_first_alone, f"{node.op} stands in a branch")
    before = arrays[node.inputs[0]]
    rank = before.ndim - further
    if node.op in SAME_ENTRIES:
        require(graph.keeps_entry_count(name), f"{node.op} of another size")
        return before.reshape(*graph.shape_of(name), *before.shape[rank:])
    if node.op == "Transpose":
        axes = node.attributes.get("perm", range(rank)[::-1])
        return before.transpose(*axes, *range(rank, before.ndim))
    if node.op == "Expand":
        shape = graph.shape_of(name)
        more = [1] * (len(shape) - rank)
        last = before.shape[rank:]
        return np.broadcast_to(before.reshape(*more, *before.shape), (*shape, *last))
    if node.op == "Gather":
        axis = node.attributes.get("axis", 0) % rank
        return np.take(before, graph.arrays[node.inputs[1]], axis)
    changed = padded if node.op == "Pad" else sliced
    after = changed(graph, node, before, rank)
    # A value without entries has no shape in the graph.
    is_as_inferred = after.size == 0 or after.shape[:rank] == graph.shape_of(name)
    require(is_as_inferred, f"onnx infers another shape of {plain(name)}")
    return after


def joined(graph: Graph, node: Node, arrays: Mapping[str, Array], further: int) -> Array:
    """Return arrays that are joined."""
    last_axes = next(arrays[name].shape for name in node.inputs if name in arrays)
    rank = len(last_axes) - further
    parts: list[Array] = []
    for name in node.inputs:
        if name in graph.fixed:
            is_array = name in graph.arrays
            shape = graph.arrays[name].shape if is_array else graph.shape_of(name)
            parts.append(np.zeros((*shape, *last_axes[rank:]), np.int64))
        else:
            parts.append(arrays[name])
    return np.concatenate(parts, node.attributes["axis"] % rank)


def padded(graph: Graph, node: Node, before: Array, rank: int) -> Array:
    """Return an array with zeros where a Pad adds constants, and cut where it cuts."""
    ends = graph.arrays[node.inputs[1]].reshape(2, -1).T.tolist()
    axes = range(rank)
    if len(node.inputs) > 3:
        axes = graph.arrays[node.inputs[3]].tolist()
    added = [(0, 0)] * before.ndim
    kept = [slice(None)] * before.ndim
    for axis, (first, last) in zip(axes, ends, strict=True):
        added[axis % rank] = (max(first, 0), max(last, 0))
        kept[axis % rank] = slice(max(-first, 0), min(last, 0) or None)
    return np.pad(before, added)[tuple(kept)]


def sliced(graph: Graph, node: Node, before: Array, rank: int) -> Array:
    """Return the part of an array that a Slice or Split takes."""
    parts = [slice(None)] * before.ndim
    for axis, part in slices_of(graph, node):
        parts[axis % rank] = part
    return before[tuple(parts)]


def slices_of(graph: Graph, node: Node) -> Iterator[tuple[int, slice]]:
    """Yield the axes of a Slice or Split, each with what is taken of it."""
    if node.op == "Split":
        taken = node.attributes
        yield taken["axis"], slice(taken["first"], taken["last"])
        return
    arrays = [graph.arrays[name].tolist() for name in node.inputs[1:] if name]
    has_all = len(arrays) == len(node.inputs) - 1 and len(arrays) > 1
    require(has_all, "such a Slice stands in a branch")
    starts, ends = arrays[:2]
    axes = arrays[2] if len(arrays) > 2 else range(len(starts))
    steps = arrays[3] if len(arrays) > 3 else [1] * len(starts)
    for axis, first, last, step in zip(axes, starts, ends, steps, strict=True):
        yield axis, slice(first, last, step)
