"""Where each value of a network can lie while its inputs stay in a ball or a box: intervals, rounding counted.

On a ball the proven constants of the maps up to each value give intervals, too, and `by_rule` gives linear bounds; the
smaller ones count. What has no rule here can be anything.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass

import numpy as np

from specnorm.certified import arithmetic, host
from specnorm.certified.bound import HypothesisError, Upper
from specnorm.certified.interval import Interval, anything, around, enclosing, within
from specnorm.errors import InternalError, MethodError, SpecnormError
from specnorm.text import visible
from specnorm_networks.certified.graph import Graph, Node, concrete
from specnorm_networks.certified.operators.base import FloatArray, LinearMap, NoBoundError, NotRunError, Place
from specnorm_networks.certified.regions import Ball, Box, Region
from specnorm_networks.certified.rules import must_be_claims
from specnorm_networks.certified.scope import Scope

__all__ = ["Ball", "Box", "Range", "Ranges", "ranges"]
Range = Interval
"""Where the entries of one value lie."""
_MAKER = object()


@dataclass(frozen=True, eq=False)
class Ranges(Mapping[str, Interval]):
    """Where a network's values lie while its inputs are in some regions, by their names: made by `ranges` alone."""

    _found: Mapping[str, Interval]
    _origin: Graph
    regions: frozenset[Region]
    maker: InitVar[object] = None

    def __post_init__(self, maker: object) -> None:
        if maker is not _MAKER:
            raise TypeError("Ranges: where the values of a network lie is found by specnorm's `ranges` alone")

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
    graph: Graph,
    region: Ball | Box,
    constants: Mapping[str, Upper] | None = None,
    known: Ranges | None = None,
) -> Ranges:
    """Range of each value of known size.

    Parameters
    ----------
    region : Ball or Box
        Of the network's inputs.
    constants : mapping of str to Upper, optional
        For a ball: proven Lipschitz constants, on it or everywhere, of the maps from all inputs to the values.
    known : Ranges, optional
        Of the same values, on the region or a larger one: none is wider than these.

    Raises
    ------
    HypothesisError, TypeError
        If a constant or a range is another map's, another network's or another region's, or a number.
    MethodError
        If the region does not fit the network's inputs.
    """
    shapes = {name: concrete(graph.by_name[name].shape) for name in graph.inputs}
    _check(shapes, region)
    regions = graph.regions | {region.region}
    if known is not None:
        known.check(graph)
        if not known.regions <= regions:
            raise HypothesisError("these are ranges on another region")
    at_centre: Mapping[str, Interval] = {}
    reach = dict.fromkeys(graph.inputs, 1.0)
    if isinstance(region, Ball) and region.radius > 0:
        reach |= _reach(graph, region, constants or {})
        at_centre = _Walk(graph, Ball(region.centre, 0.0), {}, {}, {}).ranges
    return Ranges(_Walk(graph, region, at_centre, reach, known or {}).ranges, graph.origin, regions, _MAKER)


def _reach(graph: Graph, region: Ball, constants: Mapping[str, Upper]) -> dict[str, float]:
    """The constants as numbers, each of which bounds what it is said to on that ball."""
    must_be_claims(*constants.values())
    start, scope = ", ".join(graph.inputs), Scope(graph, frozenset({region.region}))
    for name, claim in constants.items():
        if not scope.holds(claim, start, name):
            raise HypothesisError(f"{claim.what} is no constant of {name} on {region.region}")
    return {name: claim.value for name, claim in constants.items()}


def _check(shapes: Mapping[str, tuple[int, ...] | None], region: Ball | Box) -> None:
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


class _Walk:
    """Ranges of all nodes, in order."""

    def __init__(
        self,
        graph: Graph,
        region: Ball | Box,
        at_centre: Mapping[str, Interval],
        constants: Mapping[str, float],
        known: Mapping[str, Interval],
    ) -> None:
        self.fixed, self.at_centre, self.constants, self.known = graph.constants, at_centre, constants, known
        self.radius = region.radius if isinstance(region, Ball) else math.inf
        self.ranges: dict[str, Interval] = {}
        for node in graph.nodes:
            shape = concrete(node.shape)
            if shape is None:
                continue
            with consistent(node):
                if node.name in graph.inputs:
                    self.ranges[node.name] = _of_input(node.name, region) & known.get(node.name, anything(shape))
                elif all(name in self.ranges for name in node.inputs):
                    self.ranges[node.name] = self._of(node, shape)
                else:
                    self.ranges[node.name] = anything(shape)

    def _of(self, node: Node, shape: tuple[int, ...]) -> Interval:
        """By what its operator makes of its inputs' ranges, by constants, and by what else is known."""
        before = [self.ranges[name] for name in node.inputs]
        place, linear, image = Place(tuple(each.shape for each in before), shape), None, None
        try:
            linear = node.operator.linear_map(place)
            said = linear.image(before) if linear is not None else node.operator.image(before, place)
            image = None if said is None else enclosing(said)
        except (SpecnormError, NoBoundError, NotRunError, OSError):  # the rules say so
            linear = None
        if image is None or image.shape != shape:
            return anything(shape) & self.known.get(node.name, anything(shape))
        if node.name in self.at_centre:
            image &= self.at_centre[node.name] + within(self._reach(node, linear, shape))
        return image & self.known.get(node.name, anything(shape))

    def _reach(self, node: Node, linear: LinearMap | None, shape: tuple[int, ...]) -> FloatArray:
        """No entry moves further than the value, nor than its row of the last map lets it."""
        reach: FloatArray = np.full(shape, math.inf)
        own = self.constants.get(node.name)
        moving = [name for name in node.inputs if name not in self.fixed]
        before = self.constants.get(moving[0]) if len(moving) == 1 else None
        if own is not None:
            reach = np.minimum(reach, host.mul_up(own, self.radius))
        if before is not None and linear is not None and linear.rows is not None:
            rows = host.inflate(linear.rows, 2**24) + 2.0**-500
            reach = np.minimum(reach, host.next_up(rows * host.mul_up(before, self.radius)))
        return reach


def _of_input(name: str, region: Ball | Box) -> Interval:
    """Of the whole box, or of the box around the ball."""
    if isinstance(region, Box):
        return enclosing((region.low[name], region.high[name]))
    centre = np.array(region.centre[name], dtype=np.float64)
    return around(centre, np.full(centre.shape, float(region.radius)))
