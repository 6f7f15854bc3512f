"""Ranges of the values of a network while its inputs stay in a ball: intervals, rounding counted.

Besides the interval by the values that a node reads (`image_of`), there are two more, centred at the value for the
ball's centre: one from Lipschitz constants of maps to the value, one from the norms of the rows of a linear map. All
three are intersected.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm.proof import HypothesisError, Interval, Upper, anything, arithmetic, around, host, interval
from specnorm_networks import Graph, Node
from specnorm_networks.tools import (
    FloatArray,
    Inputs,
    LinearMap,
    Map,
    Ranges,
    Region,
    Scope,
    check_shapes,
    consistent,
    image_of,
    inside,
    length,
    moved,
)


def changed_by(graph: Graph, starts: Iterable[str], fixed: str = "") -> set[str]:
    """Return the names of some values, and of those that change with them, while the value ``fixed`` stays."""
    moved_names = {*starts} - {fixed}
    for node in graph.nodes:
        if node.name != fixed and not moved_names.isdisjoint(node.inputs):
            moved_names.add(node.name)
    return moved_names


@dataclass(frozen=True, eq=False)
class Ball:
    """All inputs together within a distance of a centre, in the 2-norm: a `tools.Area`.

    Parameters
    ----------
    centre : mapping of str to array
        Centre of each input of the network, in the input's shape.
    radius : float
        Radius of the ball of all inputs as one vector.
    """

    centre: Mapping[str, NDArray[np.float64]]
    radius: float

    @property
    def region(self) -> Region:
        """The ball as claims name it."""
        return Region.of(f"a ball of radius {float(self.radius)!r}", self.centre)

    def nearest(self, x: Inputs) -> Inputs:
        """Return inputs moved into the ball."""
        centre = {name: np.reshape(self.centre[name], value.shape) for name, value in x.items()}
        from_centre = {name: value - centre[name] for name, value in x.items()}
        radius = inside(self.radius)
        if length(from_centre) > radius:
            return moved(centre, from_centre, radius)
        return x

    def around(self, x: Inputs) -> Inputs:
        """Return inputs in the ball: the centre for 0, the border where numbers have a 2-norm of 1 or more."""
        inputs = {}
        for name, share in x.items():
            centre = np.reshape(self.centre[name], share.shape)
            inputs[name] = centre + self.radius * share
        return self.nearest(inputs)


@arithmetic.on_host()
def ranges(
    graph: Graph,
    ball: Ball,
    constants: Mapping[str, Upper] | None = None,
    earlier: Ranges | None = None,
) -> Ranges:
    """Return the range of each value of known size.

    ``ball``: where the network's inputs lie. ``constants``: proven Lipschitz constants of the maps from all inputs to
    values, on the ball or everywhere. ``earlier``: ranges of the same values, on the ball or a larger region; the
    returned ranges are not wider.

    `HypothesisError` if a constant or a range is another network's or another region's. `MethodError` if the ball does
    not fit the network's inputs.
    """
    check_ball(graph, ball)
    regions = graph.regions | {ball.region}
    if earlier is not None:
        earlier.check(graph)
        if not earlier.regions <= regions:
            raise HypothesisError("these are ranges on another region")
    at_centre = dict[str, Interval]()
    constants_to = dict[str, list[tuple[str, float]]]()
    if ball.radius > 0:
        constants_to = constants_to_values(graph, (constants or {}).values(), frozenset({ball.region}))
        centre_alone = Ball(ball.centre, 0.0)
        at_centre = Walk(graph, centre_alone, at_centre={}, constants_to={}, known={}).to_the_end()
    walk = Walk(graph, ball, at_centre=at_centre, constants_to=constants_to, known=earlier or {})
    return Ranges(walk.to_the_end(), graph.origin, regions)


def check_ball(graph: Graph, ball: Ball) -> None:
    """Refuse a ball that does not fit the inputs of a network: `MethodError`."""
    check_shapes(graph, ball.centre)
    if not (ball.radius >= 0 and math.isfinite(ball.radius)):
        raise MethodError(f"radius={ball.radius!r}; expected a number of at least 0.")
    if not all(np.all(np.isfinite(centre)) for centre in ball.centre.values()):
        raise MethodError("the centre of a ball has entries that are not finite.")


def constants_to_values(
    graph: Graph,
    claims: Iterable[Upper],
    regions: frozenset[Region] = frozenset(),
) -> dict[str, list[tuple[str, float]]]:
    """Return for each value the Lipschitz constants of maps to it, each with the name of the map's start.

    Maps whose end changes otherwise than through their start are left out. If a map starts at all inputs together, the
    name of its start consists of their names (`_name_of_inputs`).

    `HypothesisError` if a claim is not about a map of this network, on these regions or larger ones.
    """
    domain = Scope(graph, regions).domain
    changing = changed_by(graph, graph.inputs)

    @cache
    def changing_through(start: str) -> set[str]:
        """Return the values that change with a value, or with all inputs, and not otherwise."""
        if start in changing:
            return changing - {start} - changed_by(graph, graph.inputs, fixed=start)
        return changing if start == _name_of_inputs(graph) else set()

    constants: dict[str, list[tuple[str, float]]] = {}
    for claim in claims:
        if not isinstance(claim.what, Map) or not domain.includes(claim.what.domain):
            raise HypothesisError(f"{claim.what} is no map of this network on these regions")
        if claim.what.end in changing_through(claim.what.start):
            constants.setdefault(claim.what.end, []).append((claim.what.start, claim.value))
    return constants


def _name_of_inputs(graph: Graph) -> str:
    """Return the name of all inputs together, as `Map.start` has it."""
    return ", ".join(graph.inputs)


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
    """Locates values while inputs stay in a ball, in order, each from the locations of the values that it reads.

    ``at_centre``: intervals of the values for the centre; none if the radius is 0. ``constants_to``: for
    each value the Lipschitz constants of maps to it, each with the name of the map's start, which is a value or all
    inputs (`_name_of_inputs`). ``known``: intervals in which values are already known to lie.
    """

    def __init__(
        self,
        graph: Graph,
        ball: Ball,
        at_centre: Mapping[str, Interval],
        constants_to: Mapping[str, Sequence[tuple[str, float]]],
        known: Mapping[str, Interval],
    ) -> None:
        self.graph = graph
        self.ball = ball
        self.at_centre = at_centre
        self.constants_to = constants_to
        self.known = known
        self.changing = changed_by(graph, graph.inputs)
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
        return self.graph.linear_map(node)

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
            distance_of_start = self.ball.radius if is_all_inputs else self.locations[start].distance
            distance = min(distance, host.mul_up(constant, distance_of_start))
        with consistent(node):
            if name in self.graph.inputs:
                centre = np.array(self.ball.centre[name], dtype=np.float64)
                box = box & around(centre, np.full(centre.shape, float(self.ball.radius)))
                distance = self.ball.radius
            elif all(source in self.locations for source in node.inputs):
                box = box & self._image(node, shape)
            if name in self.at_centre:
                box = box & (self.at_centre[name] + interval.within(np.full(shape, distance)))
        self.locate(name, box, distance)

    def _image(self, node: Node, shape: tuple[int, ...]) -> Interval:
        """Return the interval of a node's value: by those of its inputs, and by the rows of a linear map."""
        linear = self.linear(node)
        ranges_of_inputs = [self.locations[name].range for name in node.inputs]
        image = image_of(self.graph, node, ranges_of_inputs, linear)
        changing = [name for name in node.inputs if name in self.changing]
        if len(changing) != 1 or node.name not in self.at_centre or linear is None or node.affine is None:
            return image
        # An entry changes by at most the norm of its row times the distance of the input.
        before = self.locations[node.inputs[0]].range.shape
        reach = host.next_up(node.affine.row_norms(before) * self.locations[changing[0]].distance)
        reach = np.where(np.isnan(reach), math.inf, reach)
        change = interval.within(np.broadcast_to(reach, shape))
        return image & (self.at_centre[node.name] + change)

    def locate(self, name: str, box: Interval, distance: float) -> None:
        """Note where a value lies: in a box, and in a ball no larger than the smallest around the box.

        ``distance``: as `Location.distance`; it is reduced if the box allows less.
        """
        if name not in self.at_centre:
            self.locations[name] = Location(box.middle()[0], box, distance, math.inf)
            return
        centre, half = self.at_centre[name].middle()
        centre_error = float(host.norm_up(half.reshape(-1)))
        to_high = host.next_up(box.high - centre)
        to_low = host.next_up(centre - box.low)
        to_farther_end = np.maximum(np.maximum(to_high, to_low), 0.0)
        radius_of_box = float(host.norm_up(to_farther_end.reshape(-1)))
        distance = min(distance, host.add_up(radius_of_box, centre_error))
        radius = min(radius_of_box, host.add_up(distance, centre_error))
        self.locations[name] = Location(centre, box, distance, math.inf if math.isnan(radius) else radius)
