"""Ranges of the values of a network while its inputs stay in a box: intervals, rounding counted.

The interval of a value is computed from the intervals of the values that its node reads. A value whose operator states
no rule can be anything. If the range of a function's input is known, its slopes lie between the smallest and the
largest derivative there: a ReLU that cannot switch has slope 0 or 1 (`with_slopes_on`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm import SpecnormError
from specnorm.errors import InternalError, MethodError
from specnorm.proof import (
    HypothesisError,
    Interval,
    anything,
    arithmetic,
    enclosing,
    visible,
)
from specnorm_networks.certified.graph import Graph, Node, check_graph
from specnorm_networks.certified.operators.base import (
    LinearMap,
    LowHigh,
    NoBoundError,
    NotRunError,
    Slopes,
)
from specnorm_networks.certified.subjects import Box, Region


@dataclass(frozen=True, eq=False)
class Ranges(Mapping[str, Interval]):
    """Intervals of a network's values, by name, while its inputs are in some regions."""

    _intervals: Mapping[str, Interval]
    _origin: Graph
    """`Graph.origin` of the network."""
    regions: frozenset[Region]
    """The inputs lie in all of these regions."""

    def check(self, graph: Graph) -> None:
        """Refuse a graph that is another network."""
        if graph.origin is not self._origin:
            raise HypothesisError("these are ranges of another network's values")

    def __getitem__(self, name: str) -> Interval:
        return self._intervals[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._intervals)

    def __len__(self) -> int:
        return len(self._intervals)


@arithmetic.on_host()
def ranges(graph: Graph, box: Box) -> Ranges:
    """Return the range of each value of known size, for inputs in a box.

    `MethodError` if the box does not fit the network's inputs.
    """
    check_shapes(graph, box.low, box.high)
    if any(not np.all(box.low[name] <= box.high[name]) for name in graph.inputs):
        raise MethodError("a box whose low ends are above its high ends, or not numbers.")
    intervals: dict[str, Interval] = {}
    for node in graph.nodes:
        if node.shape is None:
            continue
        interval = anything(node.shape)
        with consistent(node):
            if node.name in graph.inputs:
                interval = enclosing((box.low[node.name], box.high[node.name]))
            elif all(source in intervals for source in node.inputs):
                before = [intervals[name] for name in node.inputs]
                interval = image_of(graph, node, before, graph.linear_map(node))
        intervals[node.name] = interval
    return Ranges(intervals, graph.origin, graph.regions | {box.region})


def check_shapes(graph: Graph, *numbers: Mapping[str, NDArray[np.float64]]) -> None:
    """Refuse numbers for a network's inputs that do not have their shapes: `MethodError`."""
    for name in graph.inputs:
        shape = graph.by_name[name].shape
        shapes = [np.shape(arrays[name]) if name in arrays else None for arrays in numbers]
        if shape is None or any(given != shape for given in shapes):
            raise MethodError(
                f"Ranges of a network need numbers for its input {name} of shape {shape}; given are arrays of shape "
                f"{shapes[0]}."
            )


@contextlib.contextmanager
def consistent(node: Node) -> Iterator[None]:
    """Turn a contradiction between the rules for one node into an `InternalError`."""
    try:
        yield
    except HypothesisError as error:
        raise InternalError(
            f"What is known of {visible(node.name)} contradicts itself ({error}). No bound is given. If operator "
            f"{type(node.operator).__name__} is yours, look at what its `image`, `slopes` and `linear_map` "
            "promise; else please report the network."
        ) from error


def image_of(graph: Graph, node: Node, before: Sequence[Interval], linear: LinearMap | None) -> Interval:
    """Return the interval of a node's value, whose shape is known, for the intervals of its inputs.

    ``linear``: the node's linear map, if it has one.
    """
    image: Interval | LowHigh | None = None
    # Operators without a rule for intervals raise an error, or return None.
    with contextlib.suppress(SpecnormError, NoBoundError, NotRunError, OSError):
        image = node.operator.image(before, graph.place(node)) if linear is None else linear.image(before)
    everything = anything(node.shape or ())
    if image is None:
        return everything
    interval = enclosing(image)
    return interval if interval.shape == everything.shape else everything


def with_slopes_on(graph: Graph, intervals: Ranges) -> Graph:
    """Return the same network on a smaller region, where each function has the slopes on the range of its input.

    ``intervals``: ranges of the network's values on that region.
    """
    intervals.check(graph)
    nodes = []
    for node in graph.nodes:
        before = [intervals.get(name) for name in node.inputs]
        nodes.append(_with_slopes(node, before, intervals.regions))
    return graph._with_nodes(nodes, intervals.regions)


def unlimited_ranges(graph: Graph) -> Ranges:
    """Return ranges without limits: each value of known size may be anything."""
    intervals = {node.name: anything(node.shape) for node in graph.nodes if node.shape is not None}
    return Ranges(intervals, graph.origin, frozenset())


def _with_slopes(node: Node, before: Sequence[Interval | None], regions: frozenset[Region]) -> Node:
    """Return a function of each entry with its slopes on the range of its input; other nodes as they are."""
    function = node.function
    input_range = next((interval for interval in before if interval is not None), None)
    if function is None or input_range is None:
        return node
    slopes = function.slopes(*input_range.ends)
    if slopes is None or slopes[0].shape != node.shape:
        return node
    if not all(np.isfinite(end).all() for end in slopes):
        return node
    with consistent(node):
        slopes_on_range = Slopes(*enclosing(slopes).ends, regions)
        return replace(node, operator=replace(function, slopes_on_range=slopes_on_range))


BoxEnd = float | NDArray[Any] | Mapping[str, Any]
"""Low or high end of a box: numbers for every input, or by the name of each input."""


def within(graph: Graph, low: BoxEnd, high: BoxEnd) -> Graph:
    """Return the same network on inputs whose entries lie between two numbers.

    Squares, exp, products of values and similar operators have a Lipschitz constant only on a box. Other rules do not
    use the box.

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
        If ``graph`` is not a Graph, an input has no range, or its ``low`` is above its ``high``.
    """
    check_graph("within", graph)
    nodes = [_with_box(node, low, high) if node.name in graph.inputs else node for node in graph.nodes]
    return graph._with_nodes(nodes)


def _with_box(node: Node, low: BoxEnd, high: BoxEnd) -> Node:
    """Return an input with a box; `MethodError` if the box does not fit it."""
    ends = []
    for end in (low, high):
        if isinstance(end, Mapping) and node.name not in end:
            raise MethodError(f"The box has no ends for the network's input {node.name}; expected one for each input.")
        numbers = end[node.name] if isinstance(end, Mapping) else end
        try:
            ends.append(np.array(numbers, dtype=np.float64))
        except (TypeError, ValueError):
            raise MethodError(f"The box of input {node.name} ends at {numbers!r:.80}, no numbers.") from None
    if not bool(np.all(ends[0] <= ends[1])):
        raise MethodError(
            f"The box of input {node.name} has a low end above its high end, or ends that are no numbers."
        )
    for end in ends:
        try:
            np.broadcast_to(end, node.shape or ())
        except ValueError as error:
            raise MethodError(
                f"The box of input {node.name} has an end of shape {end.shape}; the input has shape {node.shape}."
            ) from error
    return node.in_box(*ends)


def stated_boxes(graph: Graph) -> dict[str, tuple[float, float] | None]:
    """Return the low and high end of the box that `within` states for each input, by name.

    None for an input whose entries have different ends. Inputs without a box are left out.
    """
    boxes: dict[str, tuple[float, float] | None] = {}
    for name in graph.inputs:
        box = graph.by_name[name].box
        if box is not None:
            low, high = map(np.unique, box)
            is_one_box = len(low) == len(high) == 1
            boxes[name] = (float(low[0]), float(high[0])) if is_one_box else None
    return boxes


class LazyRanges:
    """Ranges of a network's values, computed when the first one is read.

    ``intervals``: ranges that were computed before. Default: ranges for inputs in the graph's box.
    """

    def __init__(self, graph: Graph, intervals: Ranges | None = None) -> None:
        self.graph = graph
        self._intervals = intervals
        self.regions = frozenset() if intervals is None else intervals.regions
        """Regions in which the ranges hold, besides the box that the graph states."""
        if intervals is not None:
            intervals.check(graph)

    @property
    def boxed(self) -> bool:
        """Whether the network's inputs are known to lie in a region, a box that the graph states or another one."""
        return bool(self.regions) or any(self.graph.by_name[name].box is not None for name in self.graph.inputs)

    def __getitem__(self, name: str) -> Interval | None:
        if self._intervals is None:
            self._intervals = ranges(self.graph, box_of(self.graph))
        return self._intervals.get(name)


def box_of(graph: Graph) -> Box:
    """Return the box that is stated for the inputs, infinite if none is, in their shapes."""
    low: dict[str, NDArray[np.float64]] = {}
    high: dict[str, NDArray[np.float64]] = {}
    everything = (np.array(-math.inf), np.array(math.inf))
    for name in graph.inputs:
        low_end, high_end = graph.by_name[name].box or everything
        low[name] = np.broadcast_to(low_end, graph.input_shapes[name])
        high[name] = np.broadcast_to(high_end, graph.input_shapes[name])
    return Box(low, high)
