"""Where each value of a network can lie while its inputs stay in a ball or a box: intervals, rounding counted.

On a ball the proven constants of the maps up to each value, and the rows of linear maps, give intervals, too; the
smaller ones count. What has no rule here can be anything. Where the ranges of a function's inputs are known, its slopes
lie between the smallest and the largest derivative there: a ReLU that cannot switch has slope 0 or 1 (`localised`).
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
    """Where a network's values lie while its inputs are in some regions, by their names."""

    _found: Mapping[str, Interval]
    _origin: Graph
    regions: frozenset[Region]

    def check(self, graph: Graph) -> None:
        """Refuse another network's values."""
        if graph.origin is not self._origin:
            raise HypothesisError("these are ranges of another network's values")

    def __getitem__(self, name: str) -> Interval:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


@arithmetic.on_host()
def ranges(
    graph: Graph, region: Ball | Box, constants: Mapping[str, Upper] | None = None, known: Ranges | None = None
) -> Ranges:
    """Range of each value of known size.

    ``region``: of the network's inputs. ``constants``: for a ball: proven Lipschitz constants, on it or everywhere, of
    the maps from all inputs to the values. ``known``: of the same values, on the region or a larger one: none is wider
    than these. `HypothesisError` if a constant or a range is another map's, another network's or another
    region's. `MethodError` if the region does not fit the network's inputs.
    """
    check_region(graph, region)
    regions = graph.regions | {region.region}
    if known is not None:
        known.check(graph)
        if not known.regions <= regions:
            raise HypothesisError("these are ranges on another region")
    exact, maps = dict[str, Interval](), dict[str, list[tuple[str, float]]]()
    if isinstance(region, Ball) and region.radius > 0:
        maps = _maps(graph, region, constants or {})
        exact = Walk(graph, Ball(region.centre, 0.0), {}, {}, {}).to_the_end()
    return Ranges(Walk(graph, region, exact, maps, known or {}).to_the_end(), graph.origin, regions)


def _maps(graph: Graph, region: Ball, constants: Mapping[str, Upper]) -> dict[str, list[tuple[str, float]]]:
    """The constants as numbers, each of which bounds what it is said to on that ball."""
    start, scope = ", ".join(graph.inputs), Scope(graph, frozenset({region.region}))
    for name, claim in constants.items():
        if not scope.holds(claim, start, name):
            raise HypothesisError(f"{claim.what} is no constant of {name} on {region.region}")
    return {name: [(start, claim.value)] for name, claim in constants.items()}


def check_region(graph: Graph, region: Ball | Box) -> None:
    """Refuse a region that does not fit the inputs of a network: `MethodError`."""
    shapes = {name: graph.by_name[name].shape for name in graph.inputs}
    given = [region.centre] if isinstance(region, Ball) else [region.low, region.high]
    for name, shape in shapes.items():
        found = [np.shape(each[name]) if name in each else None for each in given]
        if shape is None or any(each != shape for each in found):
            raise MethodError(
                f"Ranges of a network need numbers for its input {name} of shape {shape}; given are arrays of shape "
                f"{found[0]}."
            )
    if isinstance(region, Ball):
        if not (region.radius >= 0 and math.isfinite(region.radius)):
            raise MethodError(f"radius={region.radius!r}; expected a number of at least 0.")
        if not all(np.all(np.isfinite(each)) for each in region.centre.values()):
            raise MethodError("the centre of a ball has entries that are not finite.")
    elif any(not np.all(region.low[name] <= region.high[name]) for name in shapes):
        raise MethodError("a box whose low ends are above its high ends, or not numbers.")


@contextlib.contextmanager
def consistent(node: Node) -> Iterator[None]:
    """What is said of one node; `InternalError` where that contradicts itself."""
    try:
        yield
    except HypothesisError as error:
        raise InternalError(
            f"What is known of {visible(node.name)} contradicts itself ({error}). No bound is given. If operator "
            f"{type(node.operator).__name__} is yours, look at what its `image`, `slopes`, `affine` and `linear_map` "
            "promise; else please report the network."
        ) from error


@dataclass(frozen=True, eq=False)
class Location:
    """Where a value lies: in a box, and around the value at the ball's centre."""

    centre: FloatArray
    range: Interval
    moves: float
    """How far the value is from the one at the ball's centre at most."""
    radius: float
    """How far it is from ``centre``."""


class Walk:
    """Where values lie while inputs stay in a region, each from where the ones before do: visited in order.

    ``exact``: ranges at a ball's centre. ``maps``: constants of maps by the value at the end, each with the one at its
    start, or the names of all inputs. ``stated``: where values lie besides.
    """

    def __init__(
        self, graph: Graph, region: Ball | Box, exact: Mapping[str, Interval],
        maps: Mapping[str, Sequence[tuple[str, float]]], stated: Mapping[str, Interval],
    ) -> None:  # fmt: skip
        self.graph, self.region, self.exact, self.maps, self.stated = graph, region, exact, maps, stated
        self.radius = region.radius if isinstance(region, Ball) else math.inf
        self.moving = graph.moved_by(graph.inputs)
        self.known: dict[str, Location] = {}

    def to_the_end(self) -> dict[str, Interval]:
        """Ranges of all values."""
        for node in self.graph.nodes:
            self.visit(node)
        return {name: location.range for name, location in self.known.items()}

    def linear(self, node: Node) -> LinearMap | None:
        """A node's linear map, if it has one."""
        return linear_map_of(self.graph, node)

    @arithmetic.on_host()
    def visit(self, node: Node) -> None:
        """By what an operator makes of where its inputs lie, by constants, and by what is stated."""
        name, shape = node.name, node.shape
        if shape is None:
            return
        found, moves = self.stated.get(name, anything(shape)), math.inf if name in self.moving else 0.0
        for start, constant in self.maps.get(name, ()):
            # Of all inputs together, of which one may be this value itself, or of a value before.
            whole = start not in self.known and start == ", ".join(self.graph.inputs)
            far = self.radius if whole else self.known[start].moves
            moves = min(moves, host.mul_up(constant, far))
        with consistent(node):
            if name in self.graph.inputs:
                found, moves = found & _of_input(name, self.region), self.radius
            elif all(each in self.known for each in node.inputs):
                found = found & self._image(node, shape)
            if name in self.exact:
                found = found & (self.exact[name] + interval.within(np.full(shape, moves)))
        self.locate(name, found, moves)

    def _image(self, node: Node, shape: tuple[int, ...]) -> Interval:
        """By intervals, and by the rows of a linear map of one value that moves."""
        linear, before = self.linear(node), [self.known[name].range for name in node.inputs]
        said: Interval | None = None
        with contextlib.suppress(SpecnormError, NoBoundError, NotRunError, OSError):  # the rules say so
            said = node.operator.image(before, self.graph.place(node)) if linear is None else linear.image(before)
        image = anything(shape) if said is None else enclosing(said)
        image = image if image.shape == shape else anything(shape)
        moving = [name for name in node.inputs if name in self.moving]
        if len(moving) != 1 or node.name not in self.exact or linear is None or linear.rows is None:
            return image
        # No entry moves further than its row lets it.
        reach = host.next_up((host.inflate(linear.rows, 2**24) + 2.0**-500) * self.known[moving[0]].moves)
        reach = np.broadcast_to(np.where(np.isnan(reach), math.inf, reach), shape)
        return image & (self.exact[node.name] + interval.within(reach))

    def locate(self, name: str, found: Interval, moves: float) -> None:
        """The smaller one of ball and box."""
        if name not in self.exact:
            self.known[name] = Location(found.middle()[0], found, moves, math.inf)
            return
        centre, half = self.exact[name].middle()
        off = float(host.norm_up(half.reshape(-1)))
        away = np.maximum(host.next_up(found.high - centre), host.next_up(centre - found.low))
        boxed = float(host.norm_up(np.maximum(away, 0.0).reshape(-1)))
        moves = min(moves, host.add_up(boxed, off))
        radius = min(boxed, host.add_up(moves, off))
        self.known[name] = Location(centre, found, moves, math.inf if math.isnan(radius) else radius)


def linear_map_of(graph: Graph, node: Node) -> LinearMap | None:
    """A node's linear map at its place; None where it has none, or sizes are not known."""
    place = graph.place(node)
    if not place.sizes() or node.shape is None:
        return None
    try:
        return node.operator.linear_map(place)
    except (NoBoundError, NotRunError, SpecnormError, OSError):  # the rules say so where they meet them
        return None


def _of_input(name: str, region: Ball | Box) -> Interval:
    """Of the whole box, or of the box around the ball."""
    if isinstance(region, Box):
        return enclosing((region.low[name], region.high[name]))
    centre = np.array(region.centre[name], dtype=np.float64)
    return around(centre, np.full(centre.shape, float(region.radius)))


def localised(graph: Graph, found: Ranges) -> Graph:
    """The same network with the slopes of each function on the range of its input: on the region of the ranges alone.

    ``found``: of its values.
    """
    found.check(graph)
    nodes = [_sloped(node, [found.get(n) for n in node.inputs], found.regions) for node in graph.nodes]
    return graph._same(nodes, found.regions)


def anywhere(graph: Graph) -> Ranges:
    """Ranges of values that may be anything."""
    shapes = {node.name: node.shape for node in graph.nodes}
    known = {name: anything(shape) for name, shape in shapes.items() if shape is not None}
    return Ranges(known, graph.origin, frozenset())


def rises(graph: Graph) -> bool:
    """Whether a function of the network has a smallest slope above 0."""
    curved = [node.operator for node in graph.nodes if isinstance(node.operator, Pointwise)]
    ends = [operator.extent() for operator in curved if operator.near is None]
    return any(each is not None and each[0] > 0 for each in ends)


def _sloped(node: Node, before: Sequence[Interval | None], regions: frozenset[Region]) -> Node:
    operator, known = node.operator, [each for each in before if each is not None]
    if not isinstance(operator, Pointwise) or not known:
        return node
    slopes = operator.slopes(*known[0].ends)
    if slopes is None or slopes[0].shape != node.shape or not all(np.isfinite(end).all() for end in slopes):
        return node
    with consistent(node):
        return replace(node, operator=replace(operator, near=Slopes(*enclosing(slopes).ends, regions)))


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
        ends.append(np.array(each[node.name] if isinstance(each, Mapping) else each, dtype=np.float64))
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


def stated(graph: Graph) -> dict[str, tuple[float, float] | None]:
    """The box of each input that has one: the ends that all its entries have, None where they differ.

    ``graph``: from `within`.
    """
    found: dict[str, tuple[float, float] | None] = {}
    for name, operator in _inputs(graph):
        if operator.box is not None:
            low, high = map(np.unique, operator.box)
            found[name] = (float(low[0]), float(high[0])) if len(low) == len(high) == 1 else None
    return found


def _inputs(graph: Graph) -> Iterator[tuple[str, Input]]:
    for node in graph.nodes:
        if isinstance(node.operator, Input) and node.operator.moves:
            yield node.name, node.operator


class Values:
    """Where a network's values lie, looked at when somebody asks.

    ``known``: default: for inputs in the graph's box.
    """

    def __init__(self, graph: Graph, known: Ranges | None = None) -> None:
        self.graph, self._known = graph, known
        self.regions = frozenset() if known is None else known.regions
        """In which they lie there, besides the box that the graph states."""
        if known is not None:
            known.check(graph)

    @property
    def boxed(self) -> bool:
        """Whether inputs are known to lie in a region."""
        return bool(self.regions) or any(operator.box is not None for _, operator in _inputs(self.graph))

    def __getitem__(self, name: str) -> Interval | None:
        if self._known is None:
            if any(self.graph.by_name[name].shape is None for name in self.graph.inputs):
                return None
            self._known = ranges(self.graph, box_of(self.graph))
        return self._known.get(name)


def box_of(graph: Graph) -> Box:
    """The box that is stated for the inputs, infinite where none is; in their shapes where these are known."""
    ends: tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]] = {}, {}
    anywhere = np.array(-math.inf), np.array(math.inf)
    for name, operator in _inputs(graph):
        shape = graph.by_name[name].shape
        for found, numbers in zip(ends, operator.box or anywhere, strict=True):
            found[name] = numbers if shape is None else np.broadcast_to(numbers, shape)
    return Box(*ends)
