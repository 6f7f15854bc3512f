"""A small network read unit by unit, for LipSDP: every unit that may switch is a channel of one run.

With slopes in [a, b], ``z = a v + w`` and w a function of v with slopes in [0, b - a]. So the value before each
function is a sum of linear maps of the input and of the w before it, whose matrices are multiplied out: what cannot
switch is a part of them. LipSDP's form is the same for z and for w.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from specnorm import ConvSpec
from specnorm.proof import arithmetic, host
from specnorm_networks.certified.graph import Graph, Layer, Node
from specnorm_networks.certified.links import AffineMap, Filter, Subnetwork, Term
from specnorm_networks.certified.operators.base import FloatArray, LinearMap, NoBoundError, Place, Pointwise
from specnorm_networks.certified.operators.sources import Constant, Input
from specnorm_networks.certified.runs import blocks_of
from specnorm_networks.certified.scope import Scope

UNITS = 4096
"""Largest number of units that may switch."""
INPUTS = 4096
"""Largest number of entries of the input."""
ENTRIES = 2**24
"""Largest number of entries of a value's matrix."""


@dataclass(frozen=True, eq=False)
class _Sum:
    """A value as a linear map of the input's entries and of the units before it, without constants."""

    matrix: FloatArray
    """Coefficients, shape (numbers, *shape): one number for each entry of the input, then for each unit."""
    error: FloatArray
    """Errors of the coefficients, of the same shape."""


class _Units:
    """Reads a graph as links in which each unit is a channel.

    A function with slopes in [low, high] at an entry v is ``low v + w``; w, with slopes in [0, high - low], is a unit.
    """

    def __init__(self, graph: Graph) -> None:
        self.nodes = graph.by_name
        self.sums: dict[str, _Sum] = {}
        self.groups: list[range] = []
        """Numbers of the input's entries, and of the units of each function."""
        self.links: list[AffineMap] = []

    def read(self, node: Node) -> bool:
        """Read a node; return whether its value is a linear map of the input and functions with known slopes."""
        shape = node.shape
        operator = node.operator
        if shape is None or any(name not in self.sums for name in node.inputs):
            return False
        if self.count * math.prod(shape) > ENTRIES:
            return False
        before = [self.sums[name] for name in node.inputs]
        value: _Sum | None = None
        if isinstance(operator, Constant):
            value = _Sum(np.zeros((0, *shape)), np.zeros((0, *shape)))
        elif isinstance(operator, Pointwise):
            if operator.near is not None:
                value = self._split(node.name, before[0], *operator.near.ends)
        else:
            try:
                linear = operator.linear_map(Place(tuple(one.matrix.shape[1:] for one in before), shape))
            except NoBoundError:
                return False
            if linear is not None:
                value = self._linear(linear, before)
        if value is None or value.matrix.size > ENTRIES or value.matrix.shape[1:] != shape:
            return False
        self.sums[node.name] = value
        return True

    def start(self, node: Node) -> None:
        """Begin with the entries of the input."""
        shape = node.shape or ()
        count = math.prod(shape)
        self.groups.append(range(count))
        eye = np.eye(count).reshape(count, *shape)
        self.sums[node.name] = _Sum(eye, np.zeros_like(eye))

    @property
    def count(self) -> int:
        return self.groups[-1].stop

    def _wide(self, value: _Sum) -> _Sum:
        """Return a value with zeros for the units that came after it."""
        missing = self.count - len(value.matrix)
        zeros = np.zeros((missing, *value.matrix.shape[1:]))
        return _Sum(np.concatenate([value.matrix, zeros]), np.concatenate([value.error, zeros]))

    def _linear(self, linear: LinearMap, before: Sequence[_Sum]) -> _Sum:
        """Return the linear map of values; the constants that it adds do not matter."""
        wide = [self._wide(value) for value in before]
        error_of_inputs = linear.absolute([value.error for value in wide])
        error = error_of_inputs + linear.rounding_error([abs(value.matrix) for value in wide])
        matrix = linear.apply([value.matrix for value in wide])
        return _Sum(matrix, host.inflate(error, 2 * linear.roundings + 8))

    def _split(self, name: str, before: _Sum, low: FloatArray, high: FloatArray) -> _Sum | None:
        """Return ``low v + w``; a new link makes the units w of v."""
        if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
            return None
        plain = (low == 0) | (low == 1)
        matrix = low * before.matrix
        error = abs(low) * before.error + np.where(plain, 0.0, abs(matrix) * 2.0**-52 + 2.0**-1000)
        found = _Sum(matrix, np.where(plain, error, host.inflate(error, 4)))
        places = np.flatnonzero((high > low).reshape(-1))
        if not len(places):
            return found
        steep = host.next_up((high - low).reshape(-1)[places])
        steep = np.where(low.reshape(-1)[places] == 0, high.reshape(-1)[places], steep)
        self._link(name, before, places, np.zeros(len(places)), steep)
        first = self.count
        self.groups.append(range(first, first + len(places)))
        found = self._wide(found)
        found.matrix.reshape(self.count, -1)[first + np.arange(len(places)), places] = 1.0
        return found

    def _link(
        self,
        name: str,
        value: _Sum,
        places: NDArray[np.intp],
        low: FloatArray,
        high: FloatArray,
    ) -> None:
        flat = [each.reshape(len(each), -1)[:, places] for each in (value.matrix, value.error)]
        terms = []
        for number, group in enumerate(self.groups):
            matrix, error = (each[group.start : group.stop].T for each in flat)
            if not (matrix.any() or error.any()):
                continue
            # One for each source, of one name: names are for the answer alone.
            layer = Layer(name, partial(np.array, matrix), {}, 0, error=partial(np.array, error))
            spec = ConvSpec.of(matrix.shape)
            columns = range(len(group))
            terms.append(Term(number, columns, range(len(places)), (), Filter(layer, {}, spec, None), columns))
        self.links.append(AffineMap(tuple(terms), len(places), (low, high), name))

    def end(self, name: str) -> None:
        """The output as the last link."""
        value = self.sums[name]
        count = value.matrix[0].size
        self._link(name, value, np.arange(count), np.ones(count), np.ones(count))


def _units_of(node: Node) -> int:
    """Return the number of entries of a function that may switch."""
    slopes = node.operator.near if isinstance(node.operator, Pointwise) else None
    return 0 if slopes is None else int(np.count_nonzero(slopes.high > slopes.low))


@arithmetic.on_host()
def unit_run(graph: Graph) -> Subnetwork | None:
    """Return a whole network as one run in which every unit that may switch is a channel.

    ``graph``: written out and `with_slopes_on`, with one input and one output. None where the network is too large, or
    something in it has no slopes.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        return None
    (start,) = graph.inputs
    (end,) = graph.outputs
    units = _Units(graph)
    first = units.nodes[start]
    whole = first.shape
    if whole is None or math.prod(whole) > INPUTS:
        return None
    units.start(first)
    nodes = graph.pruned().nodes
    if sum(map(_units_of, nodes)) > UNITS:
        return None
    last = {name: at for at, node in enumerate(nodes) for name in node.inputs}
    for at, node in enumerate(nodes):
        if not isinstance(node.operator, Input) and not (units.read(node) and units.count <= math.prod(whole) + UNITS):
            return None
        for name in node.inputs:
            if last[name] == at:  # nothing reads it any more
                units.sums.pop(name, None)
    units.end(end)
    links = tuple(units.links)
    if any(not link.terms for link in links):
        return None  # nothing moves: the rules say so
    run = Subnetwork(start, math.prod(whole), links, tuple(blocks_of([link.sources for link in links])))
    return run._speaking_of(Scope(graph).about)
