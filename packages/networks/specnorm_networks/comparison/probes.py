"""Inputs on which a network is executed: random and structured ones, from fixed seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import numpy as np

from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.subjects import Area, Inputs

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes of a network's inputs, by name."""
_Make: TypeAlias = Callable[[tuple[int, ...]], FloatArray]
"""Function that returns numbers for an input of a shape."""
WORK = 2**27
"""Largest number of multiplications of all probes but the first, which is always executed."""
CALL = 2**14
"""Multiplications that take as long as the call of an operator: a network of 20,000 nodes is executed on one input."""
MOST_PROBES = 7
"""Largest number of inputs on which a network is executed, if one has enough entries."""
LEAST_ENTRIES = 64
"""Number of entries that smaller inputs have together: on a few entries, few numbers are tried."""


def probes(graph: Graph, shapes: Shapes, region: Area | None = None) -> Iterator[Inputs]:
    """Yield inputs at random and with structure, in a region if one is given; fewer for large networks."""
    entries = sum(map(math.prod, shapes.values()))
    most = max(MOST_PROBES, LEAST_ENTRIES // max(entries, 1))
    further = min(most - 1, WORK // max(_work(graph, shapes), 1))
    return itertools.islice(samples(shapes, region), 1 + further)


def samples(shapes: Shapes, region: Area | None = None) -> Iterator[Inputs]:
    """Yield inputs, moved into a region if one is given; there is always another one."""
    # The arrays of one input are of one kind.
    kinds = _kinds(np.random.default_rng(0))
    anywhere = ({name: make(shape) for name, shape in shapes.items()} for make in kinds)
    if region is None:
        yield from anywhere
        return
    corners: list[Inputs] = []
    for end in (-1.0, 1.0):
        corners.append({name: np.full(shape, end) for name, shape in shapes.items()})
    yield from map(region.around, itertools.chain(corners, anywhere))


def _work(graph: Graph, shapes: Shapes) -> int:
    """Estimate the multiplications of one execution: entries of values, times those that each is computed from."""
    total = 0
    largest_input = max((math.prod(shape) for shape in shapes.values()), default=1)
    for node in graph.nodes:
        if node.is_constant:
            continue
        entries = math.prod(node.shape or (largest_input,))
        total += CALL
        total += entries if node.layer is None else entries * math.prod(node.layer.load().shape[1:])
    return total


def _kinds(rng: np.random.Generator) -> Iterator[_Make]:
    """Yield functions that make inputs: noise, structured inputs, and then noise of random scales without end."""
    yield rng.standard_normal
    yield _one_pixel
    yield lambda shape: -abs(rng.standard_normal(shape))
    yield lambda shape: np.round(2 * rng.standard_normal(shape)) / 2  # many entries are equal
    yield lambda shape: np.full(shape, 0.75)
    yield lambda shape: 30 * rng.standard_normal(shape)
    yield np.zeros
    while True:
        yield _of_random_scale(rng)


def _of_random_scale(rng: np.random.Generator) -> _Make:
    scale = 4.0 ** rng.uniform(-3, 1)
    return lambda shape: scale * rng.standard_normal(shape)


def _one_pixel(shape: tuple[int, ...]) -> FloatArray:
    pixel = np.zeros(shape)
    if pixel.size:
        pixel.reshape(-1)[pixel.size // 2] = 1.0
    return pixel
