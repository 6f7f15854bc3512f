"""Write maxima and sorted values as sums of functions of one entry, for Lemma 7.

For entries a and b, and r = Relu(b - a): max(a, b) = a + r and min(a, b) = b - r. With
these Relu(-a) = Relu(a) - a. The operators that compute these are added to the graph;
certificates use their names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import reduce

from specnorm_check.arithmetic import Refused, require
from specnorm_check.graphs import Graph, Node
from specnorm_check.rules import axes_of_windows

MAXIMA = {"Max", "MaxPool", "ReduceMax"}
MINIMA = {"Min", "ReduceMin"}
MADE = "made of "  # begins the names of added values
MOST_ENTRIES = 2**13  # of an input
MOST_SORTED = 8  # entries


def write_out_maxima(graph: Graph) -> None:
    """Add the operators that write out values of a graph, each before its value."""
    stated = graph.nodes
    is_free = not any(name.startswith(MADE) for name in (*stated, *graph.fixed))
    require(is_free, f"a value of the model is called {MADE!r}...")
    graph.nodes = {}
    writer = Writer(graph)
    for name, node in stated.items():
        graph.nodes[name] = node
        if node.op in {*MAXIMA, *MINIMA, "Relu", "TopK"} and name not in graph.fixed:
            with suppress(Refused):
                graph.written_out[name] = writer.written_out(name, node)
            graph.nodes[name] = graph.nodes.pop(name)  # now the last


class Writer:
    """Adds operators to a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.added: dict[str, str] = {}  # names of values by their operators

    def written_out(self, name: str, node: Node) -> str:
        """Return the name of a value that is equal to an operator's first output."""
        shape = self.graph.shape_of(node.inputs[0])
        require(math.prod(shape) <= MOST_ENTRIES, "maxima of many entries")
        if node.op == "Relu":
            before = self.graph.nodes[node.inputs[0]]
            require(before.op == "Neg", "a function of one entry")
            risen = self.add("Relu", before.inputs, shape)
            return self.add("Sub", [risen, *before.inputs], shape)
        if node.op in ("Max", "Min"):
            is_same = self.graph.have_shape(self.graph.changing_inputs(name), name)
            require(is_same, f"{node.op} broadcasts")
            return self.extreme(node.op, node.inputs)
        self.graph.require_fixed_inputs(node)
        if node.op == "MaxPool":
            return self.pooled(node)
        value = node.inputs[0]
        axes = [node.attributes.get("axis", -1)]
        if node.op != "TopK":
            axes = self.graph.axes_of(node)
        require(len(axes) == 1, "maxima along several axes")
        axis = axes[0] % len(shape)
        entries = [self.part(value, axis, i, i + 1, 1) for i in range(shape[axis])]
        after = self.graph.shape_of(name)
        if node.op != "TopK":
            return self.add("Reshape", [self.extreme(node.op, entries)], after)
        falls = bool(node.attributes.get("largest", 1))
        kept = self.in_order(entries, falls)[: after[axis]]
        return self.add("Concat", kept, after, axis=axis)

    def pooled(self, node: Node) -> str:
        """Return the maxima of windows, along one axis of pixels after the other."""
        value = node.inputs[0]
        windows = axes_of_windows(node, node.attributes["kernel_shape"])
        for axis, window in enumerate(windows, start=2):
            require(not window.padding_before + window.padding_after, "padded maxima")
            step = window.stride
            length = step * (window.outputs(self.graph.shape_of(value)[axis]) - 1)
            taps = []
            for tap in range(window.taps):
                first = window.dilation * tap
                taps.append(self.part(value, axis, first, first + length + 1, step))
            value = self.extreme(node.op, taps)
        return value

    def in_order(self, entries: Sequence[str], falls: bool) -> list[str]:
        """Return entries in falling or rising order, by comparing neighbors."""
        require(len(entries) <= MOST_SORTED, "many entries are sorted")
        found = list(entries)
        for last in range(len(found) - 1, 0, -1):
            for i in range(last):
                pair = self.largest_and_least(*found[i : i + 2])
                found[i : i + 2] = pair if falls else pair[::-1]
        return found

    def extreme(self, op: str, values: Iterable[str]) -> str:
        """Return the maximum or the minimum of values of one shape."""
        which = 0 if op in MAXIMA else 1
        return reduce(lambda a, b: self.largest_and_least(a, b)[which], values)

    def largest_and_least(self, a: str, b: str) -> list[str]:
        """Return max(a, b) and min(a, b), which share one function."""
        a, b = sorted((a, b))
        shape = max((self.graph.shapes.get(x, ()) for x in (a, b)), key=len)
        rise = self.add("Relu", [self.add("Sub", [b, a], shape)], shape)
        return [self.add("Add", [a, rise], shape), self.add("Sub", [b, rise], shape)]

    def part(self, value: str, axis: int, first: int, last: int, step: int) -> str:
        """Return every ``step``-th entry of an axis from ``first`` up to ``last``."""
        shape = list(self.graph.shape_of(value))
        shape[axis] = len(range(first, last, step))
        cut = {"axis": axis, "first": first, "last": last, "step": step}
        return self.add("Split", [value], tuple(shape), **cut)

    def add(self, op: str, inputs: list[str], shape: tuple[int, ...], **how: int) -> str:
        """Add an operator that is not there yet, and return the name of its value."""
        key = f"{op} {inputs} {how}"
        if key not in self.added:
            name = f"{MADE}{op} {len(self.graph.nodes)}"
            self.graph.nodes[name] = Node(op, inputs, how)
            self.graph.shapes[name] = shape
            self.added[key] = name
        return self.added[key]
