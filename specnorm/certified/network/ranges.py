"""Where each value of a network can lie while its inputs stay in a ball or a box, rounding counted.

A value is a zonotope [1]_ where that is small enough: ``centre + G s``, plus at most ``spread`` an entry, for the
input's own change s (in the ball, or each entry of a box in [-1, 1]) and further numbers in [-1, 1], one for each entry
of a function that is not linear there. Otherwise it is an interval an entry. Of a ball the proven constants of the maps
up to each value give intervals, too, and the smaller ones count. What has no rule here can be anything.

.. [1] Singh, Gehr, Mirman, Pueschel, Vechev, "Fast and Effective Robustness Certification", NeurIPS 2018.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass

import numpy as np

from specnorm.certified import arithmetic, host
from specnorm.certified.bound import HypothesisError, Upper
from specnorm.certified.interval import Interval, anything, around, enclosing, within
from specnorm.certified.network.graph import Graph, Node, concrete
from specnorm.certified.network.operators.base import FloatArray, LinearMap, NoBoundError, NotRunError, Place, Pointwise
from specnorm.certified.network.operators.joins import Maximum, Minimum
from specnorm.certified.network.operators.linear import Add
from specnorm.certified.network.operators.piecewise import ReLU
from specnorm.certified.network.regions import Ball, Box, Region
from specnorm.certified.network.rules import must_be_claims
from specnorm.certified.network.scope import Scope
from specnorm.errors import InternalError, MethodError, SpecnormError
from specnorm.text import visible

__all__ = ["Ball", "Box", "Range", "Ranges", "ranges"]
Range = Interval
"""Where the entries of one value lie."""
LARGEST = 2**23
"""Most entries of G; larger zonotopes become intervals."""
_MAKER = object()


@dataclass(frozen=True, eq=False)
class _Zone:
    centre: FloatArray
    spread: FloatArray
    generators: FloatArray


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
def ranges(graph: Graph, region: Ball | Box, constants: Mapping[str, Upper] | None = None) -> Ranges:
    """Range of each value of known size.

    Parameters
    ----------
    region : Ball or Box
        Of the network's inputs.
    constants : mapping of str to Upper, optional
        For a ball: proven Lipschitz constants, on it or everywhere, of the maps from all inputs to the values.

    Raises
    ------
    HypothesisError, TypeError
        If a constant is another map's, another network's or another region's, or a number.
    MethodError
        If the region does not fit the network's inputs.
    """
    shapes = {name: concrete(graph.by_name[name].shape) for name in graph.inputs}
    _check(shapes, region)
    known, reach = None, {}
    if isinstance(region, Ball) and constants is not None:
        reach = _reach(graph, region, constants)
        known = _Walk(graph, Ball(region.centre, 0.0), None, {}).ranges
    found = _Walk(graph, region, known, reach).ranges
    return Ranges(found, graph.origin, graph.regions | {region.region}, _MAKER)


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
        at_centre: Mapping[str, Interval] | None,
        constants: Mapping[str, float],
    ) -> None:
        self.nodes, self.fixed = graph.by_name, graph.constants
        self.radius = region.radius if isinstance(region, Ball) else 1.0
        self.at_centre, self.constants = at_centre, constants
        self.ranges: dict[str, Interval] = {}
        self.zones: dict[str, _Zone] = {}
        self.count, self.ball = 0, 0
        """Generators so far, and how many of them, the first ones, are the entries of the ball."""
        self._start(graph, region)
        waiting = Counter(name for node in graph.nodes for name in node.inputs)
        for node in graph.nodes:
            if node.name not in graph.inputs:
                with consistent(node):
                    self._visit(node)
            for name in node.inputs:
                waiting[name] -= 1
                if not waiting[name]:
                    self.zones.pop(name, None)

    def _start(self, graph: Graph, region: Ball | Box) -> None:
        inputs = [self.nodes[name] for name in graph.inputs]
        sizes = [math.prod(concrete(node.shape) or ()) for node in inputs]
        whole = sum(sizes)
        small = whole * max(sizes, default=0) <= LARGEST
        # Before anything is kept: what is a ball's is measured with its radius.
        self.count = whole if small and self.radius > 0 else 0
        self.ball = self.count if isinstance(region, Ball) else 0
        at = 0
        for node, size in zip(inputs, sizes, strict=True):
            shape = concrete(node.shape) or ()
            if isinstance(region, Ball):
                centre, half = np.array(region.centre[node.name], dtype=np.float64), np.full(shape, self.radius)
                rest = np.zeros(shape)
            else:
                stated = enclosing((region.low[node.name], region.high[node.name]))
                centre, half = stated.middle()
                rest = np.where(np.isfinite(half), 0.0, math.inf)
            generators = np.zeros((0, *shape))
            if small and self.radius > 0:
                generators = np.zeros((whole, size))
                scale = (
                    np.ones(size) if isinstance(region, Ball) else np.where(np.isfinite(half), half, 0.0).reshape(-1)
                )
                generators[at + np.arange(size), np.arange(size)] = scale
                generators, half = generators.reshape(whole, *shape), rest
            at += size
            self._keep(node.name, _Zone(centre, half, generators), None)
            if isinstance(region, Box):
                self.ranges[node.name] &= stated

    # -- one node ----------------------------------------------------------------------------------------------------
    def _visit(self, node: Node) -> None:
        shape = concrete(node.shape)
        if shape is None:
            return
        zone, image, linear = _interval(anything(shape)), None, None
        if all(name in self.zones for name in node.inputs):
            place = Place(tuple(self.zones[name].centre.shape for name in node.inputs), shape)
            try:
                linear = node.operator.linear_map(place)
                zone, image = self._known(node, linear, place)
            except (SpecnormError, NoBoundError, NotRunError, OSError):  # the rules say so
                linear = None
        if zone.centre.shape != shape or (image is not None and image.shape != shape):
            zone, image, linear = _interval(anything(shape)), None, None
        self._keep(node.name, zone, image)
        self._nearer(node, linear)

    def _known(self, node: Node, linear: LinearMap | None, place: Place) -> tuple[_Zone, Interval | None]:
        operator = node.operator
        zones, known = [self.zones[name] for name in node.inputs], [self.ranges[name] for name in node.inputs]
        if linear is not None:
            return self._through(linear, zones), None
        said = operator.image(known, place)
        image = None if said is None else enclosing(said)
        if isinstance(operator, Pointwise) and len(zones[0].generators):
            line = operator.affine(known[0].low, known[0].high)
            if line is not None:
                return self._along(zones[0], *line), image
        if isinstance(operator, (Maximum, Minimum)) and len(zones) == 2 and any(len(zone.generators) for zone in zones):
            zone = self._extreme(isinstance(operator, Maximum), place, zones, known)
            if zone is not None:
                return zone, image
        return _interval(anything(concrete(place.after) or ()) if image is None else image), image

    def _keep(self, name: str, zone: _Zone, image: Interval | None) -> None:
        """A value's zone and range; an image that is known besides makes an interval smaller."""
        lost = ~np.isfinite(zone.centre) | np.isnan(zone.spread) | ~np.isfinite(zone.generators).all(axis=0)
        if lost.any():
            zone = _Zone(
                np.where(lost, 0.0, zone.centre), np.where(lost, math.inf, zone.spread),
                np.where(lost, 0.0, zone.generators),
            )  # fmt: skip
        if zone.generators.size > LARGEST:
            zone = _Zone(zone.centre, self._half(zone), zone.generators[:0])
        self.zones[name], self.ranges[name] = zone, self._range(zone)
        if image is not None:
            self._shrink(name, image)

    def _shrink(self, name: str, image: Interval) -> None:
        self.ranges[name] &= image
        zone, (centre, half) = self.zones[name], self.ranges[name].middle()
        # An interval where there is no zonotope, or none that is bounded.
        lost = np.isinf(zone.spread) if len(zone.generators) else np.full(half.shape, True)
        near = np.where(lost, centre, zone.centre), np.where(lost, half, zone.spread)
        self.zones[name] = _Zone(*near, np.where(lost, 0.0, zone.generators))

    def _nearer(self, node: Node, linear: LinearMap | None) -> None:
        """By constants: no entry moves further than the value, nor than its row of the last map lets it."""
        if self.at_centre is None or node.name not in self.at_centre:
            return
        here = self.at_centre[node.name]
        reach: FloatArray = np.full(here.low.shape, math.inf)
        own = self.constants.get(node.name)
        moving = [name for name in node.inputs if name not in self.fixed]
        before = self.constants.get(moving[0]) if len(moving) == 1 else None
        if own is not None:
            reach = np.minimum(reach, host.mul_up(own, self.radius))
        if before is not None and linear is not None and linear.rows is not None:
            rows = host.inflate(linear.rows, 2**24) + 2.0**-500
            reach = np.minimum(reach, host.next_up(rows * host.mul_up(before, self.radius)))
        if np.isfinite(reach).any():
            self._shrink(node.name, here + within(reach))

    # -- zonotopes ---------------------------------------------------------------------------------------------------
    def _half(self, zone: _Zone) -> FloatArray:
        """How far the entries are from the centre at most."""
        if not len(zone.generators):
            return zone.spread
        ball, rest = zone.generators[: self.ball], zone.generators[self.ball :]
        total = zone.spread + abs(rest).sum(axis=0)
        if len(ball):
            # Squares may underflow.
            total = total + self.radius * (np.sqrt(np.square(ball).sum(axis=0)) + 2.0**-500)
        return host.inflate(total, len(zone.generators) + 16)

    def _range(self, zone: _Zone) -> Interval:
        return around(zone.centre, self._half(zone))

    def _size(self, zone: _Zone) -> FloatArray:
        """Absolute values of all terms, added: what rounding errors refer to."""
        ball, rest = zone.generators[: self.ball], zone.generators[self.ball :]
        total = abs(zone.centre) + abs(rest).sum(axis=0) + self.radius * abs(ball).sum(axis=0)
        return host.inflate(total, len(zone.generators) + 16)

    def _through(self, linear: LinearMap, zones: Sequence[_Zone]) -> _Zone:
        copies = max(len(zone.generators) for zone in zones)
        # Numbers that a zone does not have are 0 in it.
        wide = [np.zeros((copies, *zone.centre.shape)) for zone in zones]
        for each, zone in zip(wide, zones, strict=True):
            each[: len(zone.generators)] = zone.generators
        centre = linear.apply([zone.centre[None] for zone in zones])[0]
        generators = linear.apply(wide) if copies else np.zeros((0, *centre.shape))
        finite = [np.isfinite(zone.spread) for zone in zones]
        spread = linear.absolute([np.where(ok, z.spread, 0.0)[None] for ok, z in zip(finite, zones, strict=True)])[0]
        n = linear.roundings
        if n:
            size = linear.absolute([self._size(zone)[None] for zone in zones])[0]
            spread = host.inflate(spread + size * ((n + 4) * 2.0**-52), 2 * n + 8) + 2.0**-1000
        if not all(ok.all() for ok in finite):
            lost = linear.absolute([np.where(ok, 0.0, 1.0)[None] for ok in finite])[0]
            spread = np.where(lost > 0, math.inf, spread)
        if linear.offset is not None:
            added, off = (np.asarray(each, dtype=np.float64) for each in linear.offset())
            centre = centre + added
            spread = host.inflate(spread + off + abs(centre) * 2.0**-52, 4)
        return _Zone(np.array(centre), np.array(spread), np.array(generators))

    def _along(self, zone: _Zone, slope: FloatArray, middle: FloatArray, half: FloatArray) -> _Zone:
        """``slope v + middle``, and a new number for each entry that is off by up to ``half``."""
        if not (half >= 0).all():
            raise HypothesisError("a line that a function is nearer to than 0")
        centre = slope * zone.centre + middle
        size = abs(slope) * self._size(zone) + abs(middle)
        plain = (half == 0) & (middle == 0) & ((slope == 0) | (slope == 1))
        spread = abs(slope) * np.where(slope == 0, 0.0, zone.spread) + np.where(plain, 0.0, size * 2.0**-50)
        spread = np.where(plain, spread, host.inflate(spread, 8) + 2.0**-1000)
        places = np.flatnonzero((half > 0).reshape(-1))
        room = (self.count + len(places)) * half.size <= LARGEST
        if not room:
            return _Zone(centre, host.next_up(spread + half), slope * zone.generators)
        whole = np.zeros((self.count + len(places), half.size))
        whole[: len(zone.generators)] = (slope * zone.generators).reshape(len(zone.generators), half.size)
        finite = np.isfinite(half.reshape(-1)[places])
        whole[self.count + np.arange(len(places)), places] = np.where(finite, half.reshape(-1)[places], 0.0)
        self.count += len(places)
        return _Zone(centre, np.where(np.isfinite(half), spread, math.inf), whole.reshape(len(whole), *half.shape))

    def _extreme(self, larger: bool, place: Place, zones: Sequence[_Zone], known: Sequence[Interval]) -> _Zone | None:
        """``max(u, v) = v + relu(u - v)``, ``min(u, v) = u - relu(u - v)``."""
        less = Add((1.0, -1.0))
        minus = less.linear_map(place)
        of = Place((place.before[1 if larger else 0], place.after), place.after)
        joined = (Add((1.0, 1.0)) if larger else less).linear_map(of)
        if minus is None or joined is None:
            return None
        apart = self._through(minus, zones)
        line = ReLU().affine(*(self._range(apart) & (known[0] - known[1])).ends)
        assert line is not None  # for the type checker: ReLU has one
        return self._through(joined, [zones[1 if larger else 0], self._along(apart, *line)])


def _interval(image: Interval) -> _Zone:
    """A zonotope of no generators."""
    return _Zone(*image.middle(), np.zeros((0, *image.shape)))
