"""A network executed in float64, with a first-order bound of each value's rounding; inputs to execute it on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from specnorm.certified import host
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import FloatArray, NotRunError, Operator, Place
from specnorm_networks.certified.operators.sources import Constant, Input
from specnorm_networks.certified.regions import Ball, Box
from specnorm_networks.certified.shapes import Shape, concrete

Inputs: TypeAlias = dict[str, FloatArray]
_Make: TypeAlias = Callable[[tuple[int, ...]], FloatArray]
"""Gives numbers for an input of a shape."""
UNIT = 2.0**-53
OPEN = (8, 16, 32, 64, 224)
"""Sizes tried for open axes; symbols beyond the first get the next whole numbers, so that no two are equal."""
WORK = 2**27
"""Multiplications of the probes together, beyond the first."""
HELD = 2**24
"""Most entries of values that are held at once; there is an error beside each."""
MOST = 7
"""Probes at most."""
FAR = 1e3
"""In place of infinity, where a box has no end."""
LARGE = 1e30
"""Constants beyond are infinite."""
SCALES = 4
MIXED = 16
"""Inputs of one operator: of sizes, and of constants, at most."""
SLACK = 2**24
"""Roundings that lengths are taken to have."""


@dataclass(frozen=True, eq=False)
class Value:
    """A value, and by how much each entry may differ from the exact one of the same graph (to first order)."""

    value: FloatArray
    error: FloatArray | float = 0.0


def executed(node: Node, inputs: Sequence[Value], unit: float = UNIT) -> Value:
    """One node's value, and its error: what the operator rounds, and what it makes of its inputs' errors.

    Raises
    ------
    NotRunError
        If the operator cannot be executed here.
    """
    values = [each.value for each in inputs]
    with np.errstate(all="ignore"):
        try:
            found = node.operator.run(*values)
        except (ValueError, IndexError, TypeError, MemoryError) as error:
            raise NotRunError(f"{type(error).__name__}: {error}") from error
        lost = node.operator.rounding(values, found, unit)
        if any(np.any(each.error) for each in inputs):
            lost = lost + _moved(node.operator, inputs, found)
    return Value(found, lost)


def _moved(operator: Operator, inputs: Sequence[Value], found: FloatArray) -> FloatArray | float:
    """By how much a value moves while its inputs move by their errors."""
    wide = [np.broadcast_to(np.asarray(each.error, dtype=np.float64), each.value.shape) for each in inputs]
    linear = operator.linear_map(Place(tuple(each.value.shape for each in inputs), found.shape))
    if linear is not None:
        moved: FloatArray = linear.absolute([each[None] for each in wide])[0]
        return moved
    total: FloatArray | float = 0.0
    for sign in (1, -1):
        there = operator.run(*(each.value + sign * error for each, error in zip(inputs, wide, strict=True)))
        total = total + 2 * abs(there - found)
    return total


def run_with_errors(graph: Graph, inputs: Mapping[str, FloatArray]) -> Iterator[tuple[str, Value | None]]:
    """Every value in turn; None if it cannot be computed here, or more than `HELD` entries would be held."""
    last = last_readers(graph)
    found: dict[str, Value] = {}
    held = 0
    for at, node in enumerate(graph.nodes):
        value = None
        if isinstance(node.operator, Input):
            if node.name in inputs:
                value = Value(np.asarray(inputs[node.name], dtype=np.float64))
        elif all(name in found for name in node.inputs) and held + math.prod(concrete(node.shape) or ()) <= HELD:
            with suppress(NotRunError):
                value = executed(node, [found[name] for name in node.inputs])
        if value is not None:
            found[node.name] = value
            held += value.value.size
        for name in last.get(at, ()):
            held -= found.pop(name).value.size if name in found else 0
        yield node.name, value


def last_readers(graph: Graph) -> dict[int, list[str]]:
    """Values that no node after one of a number reads, by the numbers."""
    last = {name: at for at, node in enumerate(graph.nodes) for name in (node.name, *node.inputs)}
    found: dict[int, list[str]] = {}
    for name, at in last.items():
        found.setdefault(at, []).append(name)
    return found


# -- how far values are apart ------------------------------------------------------------------------------------------
def moved_up(one: Inputs, other: Inputs) -> float:
    """Distance of all inputs together, at most."""
    return host.inflate(math.sqrt(sum(float(np.square(one[name] - other[name]).sum()) for name in one)), SLACK)


def apart_down(one: Value, other: Value) -> float:
    """Distance of two values at least, whatever rounding made; 0 where they are no numbers."""
    with np.errstate(all="ignore"):
        apart: FloatArray = abs(one.value - other.value) - host.inflate(np.asarray(one.error + other.error), SLACK)
        length = host.lowered(float(np.linalg.norm(np.where(np.isfinite(apart), np.maximum(apart, 0.0), 0.0))), SLACK)
    return length if math.isfinite(length) else 0.0


def inside(radius: float) -> float:
    """A distance of the centre that stays in a ball, however it is computed."""
    return host.lowered(radius, SLACK)


# -- inputs to execute a network on ------------------------------------------------------------------------------------
def sizes(graph: Graph) -> Iterator[dict[str, tuple[int, ...]]]:
    """Shapes of the inputs that move, with sizes for open axes; several where an axis is open."""
    shapes = {node.name: node.shape for node in graph.nodes if node.name in graph.inputs}
    if any(shape is None for shape in shapes.values()):
        return
    known: dict[str, Shape] = {name: shape for name, shape in shapes.items() if shape is not None}
    symbols = list(dict.fromkeys(n for shape in known.values() for n in shape if isinstance(n, str)))
    for first in OPEN if symbols else OPEN[:1]:
        place = {symbol: first + number for number, symbol in enumerate(symbols)}
        yield {name: tuple(place[n] if isinstance(n, str) else n for n in shape) for name, shape in known.items()}


def probes(graph: Graph, shapes: Mapping[str, tuple[int, ...]], region: Ball | Box | None = None) -> Iterator[Inputs]:
    """Inputs at random and with structure, in a region if one is given; fewer for large networks. Always the same."""
    count = 1 + min(MOST - 1, WORK // max(_work(graph, shapes), 1))
    return itertools.islice(samples(shapes, region), count)


def samples(shapes: Mapping[str, tuple[int, ...]], region: Ball | Box | None = None) -> Iterator[Inputs]:
    """The same without end."""
    rng = np.random.default_rng(0)
    found: Iterator[Inputs]
    if region is None:
        found = ({name: make(shape) for name, shape in shapes.items()} for make in _anywhere(rng))
    elif isinstance(region, Ball):
        found = _in_ball(region, rng)
    else:
        found = _in_box(region, shapes, rng)
    for inputs in found:
        yield {name: np.asarray(inputs[name]).reshape(shape) for name, shape in shapes.items()}


def _work(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiplications of one execution, roughly: entries of values times those that each is computed from."""
    total = 0
    most = max((math.prod(shape) for shape in shapes.values()), default=1)
    for node in graph.nodes:
        kernel = getattr(getattr(node.operator, "layer", None), "load", None)
        entries = math.prod(n if isinstance(n, int) else 8 for n in node.shape or (most,))
        fan = 1 if kernel is None else math.prod(kernel().shape[1:])
        total += 0 if isinstance(node.operator, Constant) else entries * fan
    return total


def _anywhere(rng: np.random.Generator) -> Iterator[_Make]:
    yield rng.standard_normal
    yield _one_pixel
    yield lambda shape: -abs(rng.standard_normal(shape))
    yield lambda shape: np.round(2 * rng.standard_normal(shape)) / 2  # ties
    yield lambda shape: np.full(shape, 0.75)
    yield lambda shape: 30 * rng.standard_normal(shape)
    yield np.zeros
    while True:
        yield _scaled(rng)


def _scaled(rng: np.random.Generator) -> _Make:
    scale = 4.0 ** rng.uniform(-3, 1)
    return lambda shape: scale * rng.standard_normal(shape)


def beside(
    shapes: Mapping[str, tuple[int, ...]], numbers: Sequence[float], rng: np.random.Generator, *, linear: bool
) -> Iterator[Inputs]:
    """Inputs of one operator: at random, of sizes that its constants have, and at and beside each of these."""
    yield {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    if linear:
        return
    finite = sorted({abs(c) for c in numbers if 0 < abs(c) < LARGE})
    # Squares are compared with what is added to them.
    for scale in [30.0, *(math.sqrt(c) for c in finite if c < 0.5)][:SCALES]:
        yield {name: scale * rng.standard_normal(shape) for name, shape in shapes.items()}
    near = [b for c in finite for b in (c, c - np.spacing(c), c + np.spacing(c), c / 2, 1.5 * c)]
    points = rng.permutation([0.0, *near, *(-b for b in near)])
    most = max(map(math.prod, shapes.values()), default=0)
    for at in range(0, min(len(points), MIXED * most), max(most, 1)):
        yield {name: np.resize(np.roll(points, -at), shape) for name, shape in shapes.items()}


def _one_pixel(shape: tuple[int, ...]) -> FloatArray:
    found = np.zeros(shape)
    if found.size:
        found.reshape(-1)[found.size // 2] = 1.0
    return found


def _in_ball(region: Ball, rng: np.random.Generator) -> Iterator[Inputs]:
    """The centre, then points at random: all inputs together lie in the ball."""
    yield dict(region.centre)
    while True:
        away = {name: rng.standard_normal(centre.shape) for name, centre in region.centre.items()}
        length = math.sqrt(sum(float(np.square(each).sum()) for each in away.values())) or 1.0
        share = inside(region.radius) * rng.uniform(0, 1) / length
        yield {name: centre + share * away[name] for name, centre in region.centre.items()}


def _in_box(region: Box, shapes: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> Iterator[Inputs]:
    """Both corners, then points at random; what is infinite counts as `FAR`."""
    low, high = (
        {name: np.broadcast_to(np.clip(ends[name], -FAR, FAR), shape) for name, shape in shapes.items()}
        for ends in (region.low, region.high)
    )
    yield low
    yield high
    while True:
        yield {name: rng.uniform(low[name], high[name]) for name in low}
