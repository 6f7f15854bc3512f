"""A box in which a network's inputs are said to lie, and where its values lie then."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.certified.interval import Interval
from specnorm.errors import MethodError
from specnorm_networks.certified.graph import Graph, Node, concrete
from specnorm_networks.certified.operators.sources import Input
from specnorm_networks.certified.ranges import Ranges, ranges
from specnorm_networks.certified.regions import Box

Given = float | NDArray[Any] | Mapping[str, Any]


def within(graph: Graph, low: Given, high: Given) -> Graph:
    """The same network, of whose inputs every entry lies between two numbers.

    Constants of squares, exp, products of values and the like need that; those of the other rules do not depend on it.

    Parameters
    ----------
    low, high : float, array, or mapping of str to these
        For every input, or by its name. Arrays broadcast to its shape.

    Returns
    -------
    Graph
        Its bound holds for every two inputs in the box.

    Raises
    ------
    MethodError
        If an input has no numbers, or its low end is not below its high end.
    """
    nodes = (_boxed(node, low, high) if node.name in graph.inputs else node for node in graph.nodes)
    return graph._same([*nodes])


def _boxed(node: Node, low: Given, high: Given) -> Node:
    ends = []
    for each in (low, high):
        if isinstance(each, Mapping) and node.name not in each:
            raise MethodError(f"The box has no ends for the network's input {node.name}; expected one for each input.")
        ends.append(np.asarray(each[node.name] if isinstance(each, Mapping) else each, dtype=np.float64))
    if not all(map(_is_any, ends)) or not bool(np.all(ends[0] <= ends[1])):
        raise MethodError(
            f"The box of input {node.name} has a low end above its high end, or ends that are no numbers."
        )
    shape = concrete(node.shape)
    if shape is not None:
        for end in ends:
            try:
                np.broadcast_to(end, shape)
            except ValueError as error:
                raise MethodError(
                    f"The box of input {node.name} has an end of shape {end.shape}; the input has shape {shape}."
                ) from error
    return replace(node, operator=Input(low=ends[0], high=ends[1]))


def stated(graph: Graph) -> dict[str, tuple[float, float] | None]:
    """The box of each input that has one: the ends that all its entries have, None where they differ.

    Parameters
    ----------
    graph : Graph
        From `within`.
    """
    found: dict[str, tuple[float, float] | None] = {}
    for name, box in _inputs(graph):
        if box.low is not None and box.high is not None:
            low, high = np.unique(box.low), np.unique(box.high)
            found[name] = (float(low[0]), float(high[0])) if len(low) == len(high) == 1 else None
    return found


def _inputs(graph: Graph) -> Iterator[tuple[str, Input]]:
    for node in graph.nodes:
        if isinstance(node.operator, Input) and node.operator.moves:
            yield node.name, node.operator


def _is_any(end: NDArray[np.float64]) -> bool:
    return not bool(np.isnan(end).any())


class Values:
    """Where a network's values lie, looked at when somebody asks.

    Parameters
    ----------
    known : Ranges, optional
        Default: for inputs in the graph's box.
    """

    def __init__(self, graph: Graph, known: Ranges | None = None) -> None:
        self.graph, self._known = graph, known
        self.regions = frozenset() if known is None else known.regions
        """In which they lie there, besides the box that the graph states."""
        if known is not None:
            known.check(graph)

    def __getitem__(self, name: str) -> Interval | None:
        if self._known is None:
            box = box_of(self.graph)
            if box is None:
                return None
            self._known = ranges(self.graph, box)
        return self._known.get(name)


def region_of(graph: Graph) -> Box | None:
    """The box that is stated for the inputs, its ends broadcasting to their shapes; None where there is none."""
    ends = {name: box for name, box in _inputs(graph) if box.low is not None}
    if not ends:
        return None
    low = {name: np.asarray(-math.inf if box.low is None else box.low) for name, box in _inputs(graph)}
    high = {name: np.asarray(math.inf if box.high is None else box.high) for name, box in _inputs(graph)}
    return Box(low, high)


def box_of(graph: Graph) -> Box | None:
    """The box that inputs lie in, infinite where none is stated; None where their sizes are not known."""
    low: dict[str, NDArray[np.float64]] = {}
    high: dict[str, NDArray[np.float64]] = {}
    for name, box in _inputs(graph):
        shape = concrete(graph.by_name[name].shape)
        if shape is None:
            return None
        low[name] = np.broadcast_to(-math.inf if box.low is None else box.low, shape).astype(np.float64)
        high[name] = np.broadcast_to(math.inf if box.high is None else box.high, shape).astype(np.float64)
    return Box(low, high)
