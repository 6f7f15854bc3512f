"""A box in which a network's inputs are said to lie, and where its values lie then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm.networks.graph import Graph, Node, concrete
from specnorm.networks.ranges import ranges
from specnorm.networks.regions import Box, Range

Given = float | NDArray[Any] | Mapping[str, Any]


def within(graph: Graph, low: Given, high: Given) -> Graph:
    """The same network, of whose inputs every entry lies between two numbers.

    Constants of squares, exp, products of values and the like need that; those of the other rules do not depend on it.

    Parameters
    ----------
    graph : Graph
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
    return Graph(tuple(_boxed(n, low, high) if n.rule == "input" else n for n in graph.nodes), graph.outputs)


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
    return replace(node, params={**node.params, "low": ends[0], "high": ends[1]})


def stated(graph: Graph) -> dict[str, tuple[float, float] | None]:
    """The box of each input that has one: the ends that all its entries have, None where they differ.

    Parameters
    ----------
    graph : Graph
        From `within`.
    """
    found: dict[str, tuple[float, float] | None] = {}
    for node in graph.nodes:
        if node.rule == "input" and "low" in node.params:
            low, high = (np.unique(node.params[end]) for end in ("low", "high"))
            found[node.name] = (float(low[0]), float(high[0])) if len(low) == len(high) == 1 else None
    return found


def _is_any(end: NDArray[np.float64]) -> bool:
    return not bool(np.isnan(end).any())


class Values:
    """Where a network's values lie for inputs in its box, looked at when somebody asks.

    Parameters
    ----------
    graph : Graph
    """

    def __init__(self, graph: Graph) -> None:
        # Slopes near an input are not those in the box.
        plain = [replace(n, params={k: v for k, v in n.params.items() if k != "slopes"}) for n in graph.nodes]
        self.graph = Graph(tuple(plain), graph.outputs)
        self._known: dict[str, Range] | None = None

    def __getitem__(self, name: str) -> Range | None:
        if self._known is None:
            self._known = self._found()
        return self._known.get(name)

    def _found(self) -> dict[str, Range]:
        low: dict[str, NDArray[np.float64]] = {}
        high: dict[str, NDArray[np.float64]] = {}
        for node in self.graph.nodes:
            shape = concrete(node.shape)
            if node.rule != "input":
                continue
            if shape is None:
                return {}  # the rules ask for sizes
            for ends, key, side in ((low, "low", -math.inf), (high, "high", math.inf)):
                ends[node.name] = np.broadcast_to(node.params.get(key, side), shape).astype(np.float64)
        return ranges(self.graph, Box(low, high))
