"""Ranges of the values of a network while its inputs stay in a ball or a box: intervals, rounding counted.

The interval of a value is computed from the intervals of the values that its node reads. On a ball there are two more
intervals, centred at the value for the ball's centre: one from Lipschitz constants of maps to the value, one from the
norms of the rows of a linear map. All three are intersected. A value whose operator states no rule can be anything. If
the range of a function's input is known, its slopes lie between the smallest and the largest derivative there: a ReLU
that cannot switch has slope 0 or 1 (`with_slopes_on`).
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
from specnorm.errors import MethodError
from specnorm.proof import (
    HypothesisError,
    InternalError,
    Interval,
    Upper,
    anything,
    arithmetic,
    around,
    enclosing,
    host,
    interval,
    visible,
)
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import (
    FloatArray,
    LinearMap,
    NoBoundError,
    NotRunError,
    Pointwise,
    Slopes,
)
from specnorm_networks.certified.operators.sources import Input
from specnorm_networks.certified.regions import Ball, Box, Region
from specnorm_networks.certified.scope import Scope


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
def ranges(
    graph: Graph,
    region: Ball | Box,
    constants: Mapping[str, Upper] | None = None,
    earlier: Ranges | None = None,
) -> Ranges:
    """Return the range of each value of known size.

    ``region``: where the network's inputs lie. ``constants``: proven Lipschitz constants of the maps from all inputs to
    values, on the region or everywhere; they are used if it is a ball. ``earlier``: ranges of the same values, on the
    region or a larger one; the returned ranges are not wider.

    `HypothesisError` if a constant or a range is another map's, another network's or another region's. `MethodError` if
    the region does not fit the network's inputs.
    """
    check_region(graph, region)
    regions = graph.regions | {region.region}
    if earlier is not None:
        earlier.check(graph)
        if not earlier.regions <= regions:
            raise HypothesisError("these are ranges on another region")
    at_centre = dict[str, Interval]()
    constants_to = dict[str, list[tuple[str, float]]]()
    if isinstance(region, Ball) and region.radius > 0:
        constants_to = _constants_as_numbers(graph, region, constants or {})
        centre_alone = Ball(region.centre, 0.0)
        at_centre = Walk(graph, centre_alone, at_centre={}, constants_to={}, known={}).to_the_end()
    walk = Walk(graph, region, at_centre=at_centre, constants_to=constants_to, known=earlier or {})
    intervals = walk.to_the_end()
    return Ranges(intervals, graph.origin, regions)


def _constants_as_numbers(
    graph: Graph,
    region: Ball,
    constants: Mapping[str, Upper],
) -> dict[str, list[tuple[str, float]]]:
    """Return for each value the Lipschitz constants of maps to it, each with the name of the map's start.

    The maps start at all inputs together; the name of that start consists of the inputs' names (`_name_of_inputs`).

    `HypothesisError` if a claim does not bound the map to its value on that ball.
    """
    start = _name_of_inputs(graph)
    scope = Scope(graph, frozenset({region.region}))
    for name, claim in constants.items():
        if not scope.holds(claim, start, name):
            raise HypothesisError(f"{claim.what} is no constant of {name} on {region.region}")
    return {name: [(start, claim.value)] for name, claim in constants.items()}


def _name_of_inputs(graph: Graph) -> str:
    """Return the name of all inputs together, as `Map.start` has it."""
    return ", ".join(graph.inputs)


def check_region(graph: Graph, region: Ball | Box) -> None:
    """Refuse a region that does not fit the inputs of a network: `MethodError`."""
    shapes = {name: graph.by_name[name].shape for name in graph.inputs}
    arrays_by_name = [region.centre] if isinstance(region, Ball) else [region.low, region.high]
    for name, shape in shapes.items():
        array_shapes = [np.shape(arrays[name]) if name in arrays else None for arrays in arrays_by_name]
        if shape is None or any(array_shape != shape for array_shape in array_shapes):
            raise MethodError(
                f"Ranges of a network need numbers for its input {name} of shape {shape}; given are arrays of shape "
                f"{array_shapes[0]}."
            )
    if isinstance(region, Ball):
        if not (region.radius >= 0 and math.isfinite(region.radius)):
            raise MethodError(f"radius={region.radius!r}; expected a number of at least 0.")
        if not all(np.all(np.isfinite(centre)) for centre in region.centre.values()):
            raise MethodError("the centre of a ball has entries that are not finite.")
    elif any(not np.all(region.low[name] <= region.high[name]) for name in shapes):
        raise MethodError("a box whose low ends are above its high ends, or not numbers.")


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


@dataclass(frozen=True, eq=False)
class Location:
    """Box and ball in which a value lies, while the network's inputs lie in a region."""

    centre: FloatArray
    """Centre of the ball: the value for the centre of the inputs' ball, as computed."""
    range: Interval
    """The box."""
    distance: float
    """Bound of the distance of the value v(x) for inputs x from the exact value v(c) for the centre c of their ball."""
    radius: float
    """Radius of the ball around ``centre``. It exceeds ``distance`` by at most the rounding error of ``centre``."""


class Walk:
    """Locates values while inputs stay in a region, in order, each from the locations of the values that it reads.

    ``at_centre``: intervals of the values for the centre of a ball; none if the region is a box. ``constants_to``: for
    each value the Lipschitz constants of maps to it, each with the name of the map's start, which is a value or all
    inputs (`_name_of_inputs`). ``known``: intervals in which values are already known to lie.
    """

    def __init__(
        self,
        graph: Graph,
        region: Ball | Box,
        at_centre: Mapping[str, Interval],
        constants_to: Mapping[str, Sequence[tuple[str, float]]],
        known: Mapping[str, Interval],
    ) -> None:
        self.graph = graph
        self.region = region
        self.at_centre = at_centre
        self.constants_to = constants_to
        self.known = known
        self.radius = region.radius if isinstance(region, Ball) else math.inf
        self.changing = graph.changed_by(graph.inputs)
        """Names of the values that change with the inputs."""
        self.locations: dict[str, Location] = {}
        """Locations of the values that were visited."""

    def to_the_end(self) -> dict[str, Interval]:
        """Visit all nodes; return the intervals of their values."""
        for node in self.graph.nodes:
            self.visit(node)
        return {name: location.range for name, location in self.locations.items()}

    def linear(self, node: Node) -> LinearMap | None:
        """Return a node's linear map, if it has one."""
        return linear_map_of(self.graph, node)

    @arithmetic.on_host()
    def visit(self, node: Node) -> None:
        """Locate a node's value: by its operator, by Lipschitz constants, and by the interval that is known already."""
        name = node.name
        shape = node.shape
        if shape is None:
            return
        box = self.known.get(name, anything(shape))
        distance = math.inf if name in self.changing else 0.0
        for start, constant in self.constants_to.get(name, ()):
            # The start is an earlier value, or all inputs together. If the network has a single input, the name of all
            # inputs is that input's name, and this value may be the input itself.
            is_all_inputs = start not in self.locations and start == _name_of_inputs(self.graph)
            distance_of_start = self.radius if is_all_inputs else self.locations[start].distance
            distance = min(distance, host.mul_up(constant, distance_of_start))
        with consistent(node):
            if name in self.graph.inputs:
                box = box & _interval_of_input(name, self.region)
                distance = self.radius
            elif all(source in self.locations for source in node.inputs):
                box = box & self._image(node, shape)
            if name in self.at_centre:
                box = box & (self.at_centre[name] + interval.within(np.full(shape, distance)))
        self.locate(name, box, distance)

    def _image(self, node: Node, shape: tuple[int, ...]) -> Interval:
        """Return the interval of a node's value: by those of its inputs, and by the rows of a linear map."""
        linear = self.linear(node)
        before = [self.locations[name].range for name in node.inputs]
        image = anything(shape)
        # Operators without a rule for intervals raise an error, or return None.
        with contextlib.suppress(SpecnormError, NoBoundError, NotRunError, OSError):
            by_operator = (
                node.operator.image(before, self.graph.place(node)) if linear is None else linear.image(before)
            )
            if by_operator is not None:
                image = enclosing(by_operator)
        if image.shape != shape:
            image = anything(shape)
        changing = [name for name in node.inputs if name in self.changing]
        if len(changing) != 1 or node.name not in self.at_centre or linear is None or linear.rows is None:
            return image
        # An entry changes by at most the norm of its row times the distance of the input. Norms of rows are stated
        # rounded up; the allowance also covers a user's map whose norms are rounded sums of up to 2^24 squares.
        rows = host.inflate(linear.rows, 2**24) + 2.0**-500
        reach = host.next_up(rows * self.locations[changing[0]].distance)
        reach = np.broadcast_to(np.where(np.isnan(reach), math.inf, reach), shape)
        return image & (self.at_centre[node.name] + interval.within(reach))

    def locate(self, name: str, box: Interval, distance: float) -> None:
        """Note where a value lies: in a box, and in a ball no larger than the smallest around the box.

        ``distance``: as `Location.distance`; it is reduced if the box allows less.
        """
        if name not in self.at_centre:
            self.locations[name] = Location(box.middle()[0], box, distance, math.inf)
            return
        centre, half = self.at_centre[name].middle()
        centre_error = float(host.norm_up(half.reshape(-1)))
        to_ends = np.maximum(host.next_up(box.high - centre), host.next_up(centre - box.low))
        radius_of_box = float(host.norm_up(np.maximum(to_ends, 0.0).reshape(-1)))
        distance = min(distance, host.add_up(radius_of_box, centre_error))
        radius = min(radius_of_box, host.add_up(distance, centre_error))
        self.locations[name] = Location(centre, box, distance, math.inf if math.isnan(radius) else radius)


def linear_map_of(graph: Graph, node: Node) -> LinearMap | None:
    """Return a node's linear map for the sizes of its inputs; None if it has none, or if sizes are unknown."""
    place = graph.place(node)
    if not place.known_shapes() or node.shape is None:
        return None
    try:
        return node.operator.linear_map(place)
    except (NoBoundError, NotRunError, SpecnormError, OSError):  # the rules refuse such a node, with the reason
        return None


def _interval_of_input(name: str, region: Ball | Box) -> Interval:
    """Return the interval of an input: of the box, or of the box around the ball."""
    if isinstance(region, Box):
        return enclosing((region.low[name], region.high[name]))
    centre = np.array(region.centre[name], dtype=np.float64)
    return around(centre, np.full(centre.shape, float(region.radius)))


def with_slopes_on(graph: Graph, intervals: Ranges) -> Graph:
    """Return the same network on a smaller region, where each function has the slopes on the range of its input.

    ``intervals``: ranges of the network's values on that region.
    """
    intervals.check(graph)
    nodes = [
        _with_slopes(node, [intervals.get(name) for name in node.inputs], intervals.regions) for node in graph.nodes
    ]
    return graph._with_nodes(nodes, intervals.regions)


def unlimited_ranges(graph: Graph) -> Ranges:
    """Return ranges without limits: each value of known size may be anything."""
    intervals = {node.name: anything(node.shape) for node in graph.nodes if node.shape is not None}
    return Ranges(intervals, graph.origin, frozenset())


def has_function_with_positive_slopes(graph: Graph) -> bool:
    """Whether some function of each entry has only positive slopes on the whole line.

    Functions whose slopes are already those on a range do not count.
    """
    functions = [node.operator for node in graph.nodes if isinstance(node.operator, Pointwise)]
    extents = [function.extent() for function in functions if function.slopes_on_range is None]
    return any(extent is not None and extent[0] > 0 for extent in extents)


def _with_slopes(node: Node, before: Sequence[Interval | None], regions: frozenset[Region]) -> Node:
    """Return a function of each entry with its slopes on the range of its input; other nodes as they are."""
    operator = node.operator
    input_range = next((interval for interval in before if interval is not None), None)
    if not isinstance(operator, Pointwise) or input_range is None:
        return node
    slopes = operator.slopes(*input_range.ends)
    if slopes is None or slopes[0].shape != node.shape or not all(np.isfinite(end).all() for end in slopes):
        return node
    with consistent(node):
        return replace(node, operator=replace(operator, slopes_on_range=Slopes(*enclosing(slopes).ends, regions)))


BoxEnd = float | NDArray[Any] | Mapping[str, Any]
"""Low or high end of a box: numbers for every input, or by the name of each input."""


def within(graph: Graph, low: BoxEnd, high: BoxEnd) -> Graph:
    """Return the same network on inputs whose entries lie between two numbers.

    Squares, exp, products of values and the like have a constant only on a box. Other rules do not use the box.

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
    nodes = [_with_box(node, low, high) if node.name in graph.inputs else node for node in graph.nodes]
    return graph._with_nodes(nodes)


def _with_box(node: Node, low: BoxEnd, high: BoxEnd) -> Node:
    """Return an input with a box; `MethodError` if the box does not fit it."""
    ends = []
    for end in (low, high):
        if isinstance(end, Mapping) and node.name not in end:
            raise MethodError(f"The box has no ends for the network's input {node.name}; expected one for each input.")
        ends.append(np.array(end[node.name] if isinstance(end, Mapping) else end, dtype=np.float64))
    if not bool(np.all(ends[0] <= ends[1])):
        raise MethodError(
            f"The box of input {node.name} has a low end above its high end, or ends that are no numbers."
        )
    shape = node.shape
    if shape is not None:
        for end in ends:
            try:
                np.broadcast_to(end, shape)
            except ValueError as error:
                raise MethodError(
                    f"The box of input {node.name} has an end of shape {end.shape}; the input has shape {shape}."
                ) from error
    return replace(node, operator=Input(low=ends[0], high=ends[1]))


def stated_boxes(graph: Graph) -> dict[str, tuple[float, float] | None]:
    """Return the low and high end of the box that `within` states for each input, by name.

    None for an input whose entries have different ends. Inputs without a box are left out.
    """
    boxes: dict[str, tuple[float, float] | None] = {}
    for name, operator in _inputs(graph):
        if operator.box is not None:
            low, high = map(np.unique, operator.box)
            boxes[name] = (float(low[0]), float(high[0])) if len(low) == len(high) == 1 else None
    return boxes


def _inputs(graph: Graph) -> Iterator[tuple[str, Input]]:
    """Yield the name and the operator of each input that can change (`Input.may_change`)."""
    for node in graph.nodes:
        if isinstance(node.operator, Input) and node.operator.may_change:
            yield node.name, node.operator


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
        return bool(self.regions) or any(operator.box is not None for _, operator in _inputs(self.graph))

    def __getitem__(self, name: str) -> Interval | None:
        if self._intervals is None:
            if any(self.graph.by_name[source].shape is None for source in self.graph.inputs):
                return None
            self._intervals = ranges(self.graph, box_of(self.graph))
        return self._intervals.get(name)


def box_of(graph: Graph) -> Box:
    """Return the box that is stated for the inputs, infinite if none is; in their shapes if these are known."""
    low: dict[str, NDArray[np.float64]] = {}
    high: dict[str, NDArray[np.float64]] = {}
    everything = (np.array(-math.inf), np.array(math.inf))
    for name, operator in _inputs(graph):
        shape = graph.by_name[name].shape
        low_end, high_end = operator.box or everything
        low[name] = low_end if shape is None else np.broadcast_to(low_end, shape)
        high[name] = high_end if shape is None else np.broadcast_to(high_end, shape)
    return Box(low, high)
