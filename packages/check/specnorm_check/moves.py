"""Operators that only move entries: each of theirs is one of an input, or is fixed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from specnorm_check.arithmetic import Array, entries_at, require
from specnorm_check.graphs import Graph, Node
from specnorm_check.statements import plain

SAME_ENTRIES = {"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"}
"""Operators whose entries are those of their input, in the same order."""
OF_SEVERAL = {"Concat", "Where"}
MOVES = {
    *SAME_ENTRIES,
    *OF_SEVERAL,
    "DepthToSpace",
    "Expand",
    "Gather",
    "GatherND",
    "Pad",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Tile",
    "Transpose",
    "Trilu",
}
PADDING = {
    b"constant": "constant",
    b"edge": "edge",
    b"reflect": "reflect",
    b"wrap": "wrap",
}
MOST_MOVED = 2**26  # entries


def copies_of(graph: Graph, name: str) -> dict[str, int]:
    """Return for each value that an operator moves how often it has an entry at most."""
    first = 1
    numbers: dict[str, Array] = {}
    for source in dict.fromkeys(graph.changing_inputs(name)):
        numbers[source] = numbered(graph.shape_of(source), first)
        first += numbers[source].size
    size = math.prod(graph.shape_of(name))
    require(first + size < MOST_MOVED, "too many entries are moved")
    counts = np.bincount(moved(graph, name, numbers).reshape(-1), minlength=first)
    return {source: int(counts[each].max()) for source, each in numbers.items()}


def numbered(shape: tuple[int, ...], first: int) -> Array:
    """Return numbers of the entries of a value, from the first one on."""
    return np.arange(first, first + math.prod(shape)).reshape(shape)


def moved(
    graph: Graph, name: str, arrays: Mapping[str, Array], further: int = 0
) -> Array:
    """Return what an operator of `MOVES` makes of arrays; fixed entries are 0.

    ``arrays`` has one for each value that changes. Its first axes are those of the value,
    and all arrays have the same ``further`` axes behind them.
    """
    node = graph.nodes[name]
    if node.op in OF_SEVERAL:
        after = joined(graph, node, arrays, further)
    else:
        changes_first_alone = node.inputs[0] in arrays and graph.has_fixed_inputs(node)
        require(changes_first_alone, f"{node.op} stands in a branch")
        before = arrays[node.inputs[0]]
        after = moved_alone(graph, name, before, before.ndim - further)
    shape = after.shape[: after.ndim - further]
    # A value without entries has no shape in the graph.
    inferred = graph.shapes.get(name)
    is_as_inferred = shape == inferred or (after.size == 0 and inferred is None)
    require(is_as_inferred, f"onnx infers another shape of {plain(name)}")
    return after


def moved_alone(graph: Graph, name: str, before: Array, rank: int) -> Array:
    """Return what an operator makes of an array whose first axes are its input's."""
    node = graph.nodes[name]
    last = before.shape[rank:]
    if node.op in SAME_ENTRIES:
        shape = graph.shape_of(name)
        is_same = math.prod(shape) == math.prod(before.shape[:rank])
        require(is_same, f"{node.op} of another size")
        return before.reshape((*shape, *last))
    if node.op == "Transpose":
        axes = node.attributes.get("perm", range(rank)[::-1])
        return before.transpose(*axes, *range(rank, before.ndim))
    if node.op == "Expand":
        shape = graph.shape_of(name)
        more = [1] * (len(shape) - rank)
        return np.broadcast_to(before.reshape(*more, *before.shape), (*shape, *last))
    if node.op == "Gather":
        axis = node.attributes.get("axis", 0) % rank
        whole = [slice(None)] * axis
        return entries_at(before, *whole, graph.arrays[node.inputs[1]])
    if node.op == "GatherND":
        require(not node.attributes.get("batch_dims"), "such a GatherND has no rule")
        places = np.moveaxis(graph.arrays[node.inputs[1]], -1, 0)
        return entries_at(before, *places)
    if node.op == "Tile":
        repeats = graph.arrays[node.inputs[1]].tolist()
        return np.tile(before, (*repeats, *[1] * len(last)))
    if node.op == "Trilu":
        k = int(graph.arrays[node.inputs[1]].item()) if node.inputs[1:] else 0
        keep = np.triu if node.attributes.get("upper", 1) else np.tril
        shape = before.shape[rank - 2 : rank]
        kept = keep(np.ones(shape, before.dtype), k)
        return before * kept.reshape(*shape, *[1] * len(last))
    if node.op in ("DepthToSpace", "SpaceToDepth"):
        return between_channels_and_pixels(node, before)
    changed = padded if node.op == "Pad" else sliced
    return changed(graph, node, before, rank)


def between_channels_and_pixels(node: Node, before: Array) -> Array:
    """Return what DepthToSpace or SpaceToDepth makes of an array of four axes, or more.

    DCR and CRD are ONNX's two orders of the channels: the block's rows and columns come
    before the channels that remain, or after them.
    """
    n, c, h, w, *last = before.shape
    size = node.attributes["blocksize"]
    if node.op == "SpaceToDepth":
        split = before.reshape(n, c, h // size, size, w // size, size, *last)
        order = (0, 3, 5, 1, 2, 4)
        shape = (n, c * size**2, h // size, w // size)
    else:
        is_crd = node.attributes.get("mode", b"DCR") == b"CRD"
        channels = (c // size**2, size, size) if is_crd else (size, size, c // size**2)
        split = before.reshape(n, *channels, h, w, *last)
        order = (0, 1, 4, 2, 5, 3) if is_crd else (0, 3, 4, 1, 5, 2)
        shape = (n, c // size**2, h * size, w * size)
    turned = split.transpose(*order, *range(6, split.ndim))
    return turned.reshape(*shape, *last)


def joined(graph: Graph, node: Node, arrays: Mapping[str, Array], further: int) -> Array:
    """Return arrays that a Concat joins, or from which a Where takes entries."""
    last_axes = next(arrays[name].shape for name in node.inputs if name in arrays)
    rank = len(last_axes) - further
    last = last_axes[rank:]
    parts = [
        np.zeros((*graph.shape_of(x), *last), int) if x in graph.fixed else arrays[x]
        for x in node.inputs[node.op == "Where" :]
    ]
    if node.op == "Concat":
        return np.concatenate(parts, node.attributes["axis"] % rank)
    require(node.inputs[0] in graph.arrays, "a Where whose condition is computed")
    mask = graph.arrays[node.inputs[0]]
    return np.where(mask.reshape(*mask.shape, *[1] * further), *parts)


def padded(graph: Graph, node: Node, before: Array, rank: int) -> Array:
    """Return an array with zeros where a Pad adds constants, and cut where it cuts.

    Other modes add copies of entries: of the edge, mirrored at it, or from the other end.
    """
    ends = graph.arrays[node.inputs[1]].reshape(2, -1).T.tolist()
    axes: Sequence[int] = range(rank)
    if len(node.inputs) > 3:
        axes = graph.arrays[node.inputs[3]].tolist()
    added = [(0, 0)] * before.ndim
    kept = [slice(None)] * before.ndim
    for axis, (first, last) in zip(axes, ends, strict=True):
        added[axis % rank] = (max(first, 0), max(last, 0))
        kept[axis % rank] = slice(max(-first, 0), min(last, 0) or None)
    mode = PADDING[node.attributes.get("mode", b"constant")]
    if mode != "constant":
        most = [size - (mode == "reflect") for size in before.shape]
        is_short = all(max(pads) <= n for pads, n in zip(added, most, strict=True))
        require(is_short or mode == "edge", "padding that copies entries twice")
        require(graph.arrays[node.inputs[1]].min(initial=0) >= 0, "padding that cuts")
    return np.pad(before, added, mode)[tuple(kept)]  # type: ignore[call-overload,no-any-return]


def sliced(graph: Graph, node: Node, before: Array, rank: int) -> Array:
    """Return the part of an array that a Slice or Split takes."""
    taken = node.attributes
    cuts = [[taken.get(x, 1)] for x in ("axis", "first", "last", "step")]
    if node.op == "Slice":
        given = [graph.arrays[x].tolist() if x else [] for x in node.inputs[1:]]
        require(len(given) > 1, "such a Slice stands in a branch")
        starts, ends, axes, steps = [*given, [], []][:4]
        cuts = [axes or [*range(len(starts))], starts, ends, steps or [1] * len(starts)]
    parts = {axis % rank: slice(*cut) for axis, *cut in zip(*cuts, strict=True)}
    require(len(parts) == len(cuts[0]), "a Slice cuts an axis twice")
    return before[tuple(parts.get(axis, slice(None)) for axis in range(rank))]
