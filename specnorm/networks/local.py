"""A network near one input: functions with the slopes that they have there, and every unit by itself where it is small.

Where the ranges of a function's inputs are known, its slopes lie between the smallest and the largest derivative there:
a ReLU that cannot switch has slope 0 or 1. `localised` says so in the graph, and the channels' rules and runs see the
smallest and largest slope of each channel.

A small network is also read unit by unit: with slopes in [a, b], ``z = a v + w`` and w a function of v with slopes in
[0, b - a]. So the value before each function is a sum of linear maps of the input and of the w before it, whose
matrices are multiplied out: what cannot switch is a part of them. LipSDP's form is the same for z and for w.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.backends import backend_for
from specnorm.networks import curves
from specnorm.networks.graph import Graph, Layer, Node, concrete
from specnorm.networks.links import Filter, Link, Run, Term, Weights
from specnorm.networks.maps import linear_map
from specnorm.networks.pointwise import interval
from specnorm.networks.ranges import Range
from specnorm.networks.runs import blocks_of
from specnorm.networks.steep import JOINS, is_steep
from specnorm.proof import arithmetic, host
from specnorm.spec import ConvSpec

UNITS = 1024
"""Most entries of the input and units that may switch, together."""
ENTRIES = 2**23
"""Most entries of a value's matrices."""


def localised(graph: Graph, found: Mapping[str, Range]) -> Graph:
    """The same network with the slopes of each function on the range of its input.

    Parameters
    ----------
    graph : Graph
    found : mapping of str to Range
        Of its values.
    """
    return Graph(tuple(_sloped(node, found) for node in graph.nodes), graph.outputs)


def anywhere(graph: Graph) -> dict[str, Range]:
    """Ranges of values that may be anything."""
    shapes = {node.name: concrete(node.shape) for node in graph.nodes}
    wide = {name: np.full(shape, math.inf) for name, shape in shapes.items() if shape is not None}
    return {name: Range(-high, high) for name, high in wide.items()}


def rises(graph: Graph) -> bool:
    """Whether a function of the network has a smallest slope above 0."""
    curved = [dict(node.params) for node in graph.nodes if node.rule == "pointwise" and "slopes" not in node.params]
    known = [interval(str(params.pop("function")), **params) for params in curved if not is_steep("pointwise", params)]
    return any(ends is not None and ends[0] > 0 for ends in known)


def _sloped(node: Node, found: Mapping[str, Range]) -> Node:
    if node.rule == "extreme" and len(node.inputs) == 2 and node.params.get("choice") in ("max", "min"):
        return _of_difference(node, [found.get(name) for name in node.inputs])
    if node.rule in JOINS:
        known = [found.get(name) for name in node.inputs]
        ends = [(each.low, each.high) for each in known if each is not None]
        return replace(node, params={**node.params, "ranges": ends}) if len(ends) == len(known) else node
    before = found.get(node.inputs[0]) if node.rule == "pointwise" and len(node.inputs) == 1 else None
    if before is None or before.low.shape != concrete(node.shape):
        return node
    slopes = curves.slopes(node.params, before.low, before.high)
    return node if slopes is None else replace(node, params={**node.params, "slopes": slopes})


def _of_difference(node: Node, before: Sequence[Range | None]) -> Node:
    """Slopes of ReLU at the difference of two values, of which the node is the larger or the smaller one."""
    one, other = before
    if one is None or other is None or not one.low.shape == other.low.shape == concrete(node.shape):
        return node
    apart = host.below(one.low - other.high), host.above(one.high - other.low)
    return replace(node, params={**node.params, "slopes": curves.slopes({"function": "relu"}, *apart)})


@dataclass(frozen=True, eq=False)
class _Sum:
    """A value as a linear map of the input and the w so far; what is added is left out.

    Parameters
    ----------
    matrix : array, shape (numbers, *shape)
    error : array, shape (numbers, *shape)
        By how much each entry may be off.
    """

    matrix: Weights
    error: Weights


class _Units:
    """Reads a localised graph unit by unit."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = {node.name: node for node in graph.nodes}
        self.sums: dict[str, _Sum] = {}
        self.groups: list[range] = []
        """Numbers of the input's entries, and of the w of each function."""
        self.links: list[Link] = []

    def read(self, node: Node) -> bool:
        """Whether a value is a linear map of the input and functions with known slopes."""
        shape = concrete(node.shape)
        names = node.inputs
        if node.params.get("pieces") and self.nodes[names[0]].params.get("split"):
            names = self.nodes[names[0]].inputs
        if shape is None or any(name not in self.sums for name in names):
            return False
        before = [self.sums[name] for name in names]
        found: _Sum | None = None
        if node.rule == "pointwise" and len(before) == 1:
            found = self._curved(node, before[0])
        elif node.rule == "extreme" and len(before) == 2 and node.params.get("slopes") is not None:
            found = self._extreme(node, before)
        elif node.params.get("pieces") is not None:
            axis, starts = node.params["pieces"]
            start = starts[node.params["piece"]]
            places = (slice(None),) * (axis + 1) + (slice(start, start + shape[axis]),)
            found = _Sum(before[0].matrix[places], before[0].error[places])
        else:
            found = self._linear(node, names, before)
        if found is None or found.matrix.size > ENTRIES or found.matrix.shape[1:] != shape:
            return False
        self.sums[node.name] = found
        return True

    def start(self, node: Node) -> None:
        """The input's entries."""
        shape = concrete(node.shape) or ()
        count = math.prod(shape)
        self.groups.append(range(count))
        eye = np.eye(count).reshape(count, *shape)
        self.sums[node.name] = _Sum(eye, np.zeros_like(eye))

    @property
    def count(self) -> int:
        return self.groups[-1].stop

    def _wide(self, each: _Sum) -> _Sum:
        """With zeros for the numbers that it does not know."""
        missing = self.count - len(each.matrix)
        pad = np.zeros((missing, *each.matrix.shape[1:]))
        return _Sum(np.concatenate([each.matrix, pad]), np.concatenate([each.error, pad]))

    def _linear(self, node: Node, names: Sequence[str], before: Sequence[_Sum]) -> _Sum | None:
        of = node
        if node.rule == "add" and node.params.get("shift"):
            # What is added makes no difference.
            of = replace(node, offset=_nothing)
        linear = linear_map(of, [self.nodes[name] for name in names])
        if linear is None:
            return None
        wide = [self._wide(each) for each in before]
        matrix, n = linear.apply([each.matrix for each in wide]), linear.roundings
        lost = [each.error + abs(each.matrix) * ((n + 4) * 2.0**-52 * bool(n)) for each in wide]
        error = linear.absolute(lost)
        return _Sum(matrix, host.raised(error, 2 * n + 8) + 2.0**-1000 * bool(n))

    def _curved(self, node: Node, before: _Sum) -> _Sum | None:
        ends = node.params.get("slopes")
        return None if ends is None else self._split(node.name, before, *ends)

    def _split(self, name: str, before: _Sum, low: Weights, high: Weights) -> _Sum | None:
        """``low v + w``; a new link makes w of v."""
        if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
            return None
        plain = (low == 0) | (low == 1)
        matrix = low * before.matrix
        error = abs(low) * before.error + np.where(plain, 0.0, abs(matrix) * 2.0**-52 + 2.0**-1000)
        found = _Sum(matrix, np.where(plain, error, host.raised(error, 4)))
        places = np.flatnonzero((high > low).reshape(-1))
        if not len(places):
            return found
        steep = host.above((high - low).reshape(-1)[places])
        steep = np.where(low.reshape(-1)[places] == 0, high.reshape(-1)[places], steep)
        self._link(name, before, places, np.zeros(len(places)), steep)
        first = self.count
        self.groups.append(range(first, first + len(places)))
        found = self._wide(found)
        found.matrix.reshape(self.count, -1)[first + np.arange(len(places)), places] = 1.0
        return found

    def _extreme(self, node: Node, before: Sequence[_Sum]) -> _Sum | None:
        """``max(u, v) = v + p (u - v)``, ``min(u, v) = u - p (u - v)``, p the slope of ReLU."""
        one, other = (self._wide(each) for each in before)
        apart = _less(one, other)
        positive = self._split(node.name, apart, *node.params["slopes"])
        if positive is None:
            return None
        one, other = self._wide(one), self._wide(other)
        if node.params.get("choice") == "max":
            return _less(other, _Sum(-positive.matrix, positive.error))
        return _less(one, positive)

    def _link(self, name: str, value: _Sum, places: NDArray[np.intp], low: Weights, high: Weights) -> None:
        flat = [each.reshape(len(each), -1)[:, places] for each in (value.matrix, value.error)]
        terms = []
        for number, group in enumerate(self.groups):
            matrix, error = (each[group.start : group.stop].T for each in flat)
            if not (matrix.any() or error.any()):
                continue
            # One for each source, of one name: names are for the answer alone.
            layer = Layer(name, partial(np.array, matrix), {}, 0, error=partial(np.array, error))
            spec, columns = ConvSpec.of(matrix.shape), range(len(group))
            terms.append(Term(number, columns, range(len(places)), (), Filter(layer, {}, spec, None), columns))
        self.links.append(Link(tuple(terms), len(places), (low, high), name))

    def end(self, name: str) -> None:
        """The output as the last link."""
        value = self.sums[name]
        count = value.matrix[0].size
        self._link(name, value, np.arange(count), np.ones(count), np.ones(count))


def _nothing() -> tuple[Weights, Weights]:
    return np.zeros(1), np.zeros(1)


def _less(one: _Sum, other: _Sum) -> _Sum:
    matrix = one.matrix - other.matrix
    return _Sum(matrix, host.raised(one.error + other.error + abs(matrix) * 2.0**-52, 4))


def unit_run(graph: Graph) -> Run | None:
    """A whole network as one run in which every unit that may switch is a channel.

    Parameters
    ----------
    graph : Graph
        From `localised`, with one input and one output.

    Returns
    -------
    Run or None
        None where the network is too large, or something in it has no slopes.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return None
    like: Any = np.zeros(1)
    with arithmetic.exact(like, backend=backend_for(like)):
        return _unit_run(graph)


def _unit_run(graph: Graph) -> Run | None:
    (start,), (end,) = graph.inputs, graph.outputs
    units = _Units(graph)
    first = units.nodes[start]
    whole = concrete(first.shape)
    if whole is None or math.prod(whole) > UNITS:
        return None
    units.start(first)
    needed = {end}
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
    for node in graph.nodes:
        if node.name in needed and node.rule != "input" and not node.params.get("split") and not units.read(node):
            return None
        if units.count > UNITS:
            return None
    units.end(end)
    links = tuple(units.links)
    if any(not link.terms for link in links):
        return None  # nothing moves: the rules say so
    return Run(start, math.prod(whole), links, tuple(blocks_of([link.sources for link in links])))
