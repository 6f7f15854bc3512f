"""A network read for linear bounds: its linear operators with their transposes, and maxima as functions of each entry.

``max(u, v) = v + relu(u - v)``: what `Operator.written_out` says stands in place of its operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from specnorm.certified import host
from specnorm.certified.bound import HypothesisError, Upper
from specnorm.certified.interval import Interval, enclosing
from specnorm.errors import MethodError, SpecnormError
from specnorm_networks.certified.graph import Graph, Node, concrete
from specnorm_networks.certified.operators.base import (
    Adjoint,
    FloatArray,
    LinearMap,
    NoBoundError,
    NotRunError,
    Place,
    Program,
    Sizes,
)
from specnorm_networks.certified.operators.broadcasting import AT_ONCE
from specnorm_networks.certified.operators.linear import Add
from specnorm_networks.certified.operators.sources import Input
from specnorm_networks.certified.scope import Map, Scope


def written_out(graph: Graph) -> list[Graph]:
    """The network itself, and step by step the same with operators written out, under the name of their last step."""
    found = [graph]
    while True:
        nodes: list[Node] = []
        for node in found[-1].nodes:
            before = [concrete(found[-1].by_name[name].shape) for name in node.inputs]
            known = [shape for shape in before if shape is not None]
            try:
                program = node.operator.written_out(known) if known and len(known) == len(before) else None
                nodes += [node] if program is None else _steps(found[-1], node, program, [np.zeros(n) for n in known])
            except (NoBoundError, NotRunError):
                nodes.append(node)
        if all(node is before for node, before in zip(nodes, found[-1].nodes, strict=False)):
            return found
        found.append(graph._same(nodes))


def _steps(graph: Graph, node: Node, program: Program, values: list[FloatArray]) -> list[Node]:
    names, steps = list(node.inputs), []
    for at, (operator, inputs) in enumerate(program):
        names.append(node.name if at + 1 == len(program) else graph.fresh(f"{node.name}, step {at}"))
        values.append(operator.run(*(values[number] for number in inputs)))
        taken = tuple(names[number] for number in inputs)
        steps.append(Node(names[-1], operator, taken, values[-1].shape, node.label, derived=True))
    if values[-1].shape != concrete(node.shape):
        raise NotRunError(f"{node.name}, written out, has shape {values[-1].shape}")
    return steps


# -- transposes --------------------------------------------------------------------------------------------------------
def transposed(linear: LinearMap, before: Sequence[Sizes]) -> tuple[Adjoint, int]:
    """Adjoint of a linear map and its roundings; where none is stated, by the places of entries, or by the matrix.

    Raises
    ------
    NoBoundError
        If that matrix has too many entries.
    """
    if linear.adjoint is not None:
        return linear.adjoint, linear.backward
    ends = np.cumsum([0, *(math.prod(shape) for shape in before)])
    count = int(ends[-1])
    if not linear.moves and count**2 > AT_ONCE:
        raise NoBoundError("its transpose has too many entries")
    numbers = np.arange(1.0, count + 1)[None] if linear.moves else np.eye(count)
    split = list(zip(ends, ends[1:], before, strict=False))
    found = _flat(linear.apply([numbers[:, a:b].reshape(len(numbers), *shape) for a, b, shape in split]))
    if linear.moves:
        back, roundings = _by_places(found[0], count)
    else:
        back, roundings = (lambda y: y @ found.T), found.shape[1]

    def adjoint(y: FloatArray) -> list[FloatArray]:
        x = back(_flat(y))
        return [x[:, a:b].reshape(len(x), *shape) for a, b, shape in split]

    return adjoint, roundings + linear.roundings + 2


def _flat(x: FloatArray) -> FloatArray:
    return x.reshape(len(x), math.prod(x.shape[1:]))


def _by_places(found: FloatArray, count: int) -> tuple[Callable[[FloatArray], FloatArray], int]:
    """From the number (from 1 on, 0 for none) of the entry that each of the value's is."""
    used = np.flatnonzero(found)
    places = found[used].astype(np.intp) - 1
    order = np.argsort(places, kind="stable")
    taken, starts = np.unique(places[order], return_index=True)
    kept = len(used) == count and np.array_equal(places, np.arange(count))

    def back(y: FloatArray) -> FloatArray:
        if kept:
            return y[:, used]
        x = np.zeros((len(y), count))
        if len(taken) == len(places):
            x[:, places] = y[:, used]
        elif len(taken):
            x[:, taken] = np.add.reduceat(y[:, used[order]], starts, axis=1)
        return x

    return back, int(np.diff([*starts, len(places)]).max(initial=0))


# -- what is read once a network ---------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class LinearOperator:
    """Its map, and the transpose of that with its roundings."""

    map: LinearMap
    adjoint: Adjoint
    roundings: int


class Network:
    """A graph of one input, read for linear bounds; the same for every region.

    Parameters
    ----------
    graph : Graph
        Of known sizes.
    constants : iterable of Upper
        Proven constants of maps between two values (`scope.Map`), everywhere.

    Raises
    ------
    MethodError
        If the graph has several inputs, or a value whose size is not known or 0.
    """

    def __init__(self, graph: Graph, constants: Iterable[Upper] = ()) -> None:
        shapes = [concrete(graph.by_name[name].shape) for name in graph.inputs]
        sizes = [concrete(node.shape) for node in graph.nodes]
        if len(shapes) != 1 or shapes[0] is None or any(size is None or 0 in size for size in sizes):
            raise MethodError("Linear bounds need a network with one input, and values of known sizes above 0.")
        self.graph, self.input, self.nodes = graph, graph.inputs[0], graph.by_name
        self.shape: Sizes = shapes[0]
        self.linear = {n.name: found for n in graph.nodes if (found := self._read(n)) is not None}
        self.moving: set[str] = set()
        self.readers: dict[str, list[str]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node.name)
            if node.name == self.input or any(name in self.moving for name in node.inputs):
                self.moving.add(node.name)
        self.constants: dict[str, list[tuple[str, float]]] = {}
        for node in graph.nodes:
            apart = self._difference(node)
            if apart is not None:
                self.constants[node.name] = [apart]
        about = Scope(graph).about
        for claim in constants:
            if not isinstance(claim.what, Map) or not about.includes(claim.what.about):
                raise HypothesisError(f"{claim.what} is no map between values of this network")
            if self._passes(claim.what):
                self.constants.setdefault(claim.what.end, []).append((claim.what.start, claim.value))

    @property
    def box(self) -> Interval:
        """The box that is stated for the input."""
        stated = self.nodes[self.input].operator
        assert isinstance(stated, Input)  # for the type checker: `Graph.inputs` are such
        low = np.broadcast_to(-math.inf if stated.low is None else stated.low, self.shape)
        return enclosing((low, np.broadcast_to(math.inf if stated.high is None else stated.high, self.shape)))

    def _read(self, node: Node) -> LinearOperator | None:
        before = [concrete(self.nodes[name].shape) for name in node.inputs]
        known = [shape for shape in before if shape is not None]
        if not known or len(known) < len(before) or concrete(node.shape) is None:
            return None
        try:
            found = node.operator.linear_map(Place(tuple(known), node.shape))
            return None if found is None else LinearOperator(found, *transposed(found, known))
        except (NoBoundError, NotRunError, SpecnormError, OSError):
            return None

    def _difference(self, node: Node) -> tuple[str, float] | None:
        """Of a sum of entries of one value: the root of the largest row sum times the largest column sum (Schur)."""
        sources = [self.nodes[name] for name in node.inputs if name in self.linear and self.linear[name].map.moves]
        names = {name for source in sources for name in source.inputs}
        if not isinstance(node.operator, Add) or len(sources) < len(node.inputs) or len(names) != 1 or not sources:
            return None
        (name,) = names
        if name not in self.moving or self.linear.get(node.name) is None:
            return None
        down, over = np.zeros((1, *(concrete(self.nodes[name].shape) or ()))), 1.0 / node.operator.over
        for source, weight in zip(sources, node.operator.weights, strict=True):
            ones = np.full((1, *(concrete(source.shape) or ())), abs(weight) * over)
            down = down + self.linear[source.name].adjoint(ones)[0]
        across = sum(map(abs, node.operator.weights)) * over
        return name, host.sqrt_up(host.inflate(float(np.max(down, initial=0.0)) * across, 2**24))

    def _passes(self, what: Map) -> bool:
        """Whether nothing of the input reaches the end of a map but through its start: all else is held then."""
        reached = {self.input} - {what.start}
        for node in self.graph.nodes:
            if node.name not in (self.input, what.start) and any(name in reached for name in node.inputs):
                reached.add(node.name)
        moving = what.start in self.moving and what.end in self.moving - {what.start}
        return moving and what.end not in reached
