"""A network's constant from what somebody states: values that are bounded together, their weights, numbers and cells.

What is known of a value z is a number c with ``|q (z - z')| <= c |x - x'|``, q one weight a channel or an entry. A part
that starts where that is known goes on from there; entry-wise functions, pooling and flattening between two parts keep
the weights. Every other value is bounded by the rules of `propagation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from specnorm.certified import arithmetic, host
from specnorm.certified.bound import Upper, _upper
from specnorm.certified.network import operators as ops
from specnorm.certified.network.affine_maps import Segment
from specnorm.certified.network.boxes import Values
from specnorm.certified.network.graph import Graph, Node
from specnorm.certified.network.linear_combinations import LinearCombination, flattened, keeps_channels
from specnorm.certified.network.model import NotExecutedError
from specnorm.certified.network.operators.base import FloatArray, NoBoundError, Place
from specnorm.certified.network.operators.sources import Constant, Input
from specnorm.certified.network.propagation import Constants, propagate
from specnorm.certified.network.reading import Reader
from specnorm.certified.network.rules import of_operator, unmoved
from specnorm.certified.network.scope import Map, Scope
from specnorm.certified.network.segments import constant_as_stated
from specnorm.certified.network.statements import forward_step
from specnorm.certified.network.subnetworks import run_of
from specnorm.certified.network.zonotopes import stated_units
from specnorm.errors import CertificateError
from specnorm.types import ArrayOps

F, REST = "f", "x - f(x)"
"""The network, or what it leaves of its input: also the name of that value."""


@dataclass(frozen=True, eq=False)
class Part:
    """Values that are bounded together.

    Parameters
    ----------
    start : str
        Name of the value that they are computed from.
    values : tuple of str
        Each an entry-wise function of a sum of linear maps of those before it.
    weights : tuple of array
        Of start and of each value: one number a channel.
    upper : float
        Of T's norm, or of K's largest eigenvalue.
    proof : mapping
        Of that: ``grid`` or ``tree``.
    units : bool
        Whether weights are one number an entry.
    """

    start: str
    values: tuple[str, ...]
    weights: tuple[FloatArray, ...]
    upper: float
    proof: Mapping[str, Any]
    units: bool = False


@dataclass(frozen=True, eq=False)
class _Known:
    """``|q (z - z')| <= claim |x - x'|`` for a value z and the one that ``claim`` starts from."""

    weights: FloatArray
    claim: Upper


def statement_of(graph: Graph, of: str) -> Graph:
    """The network, or ``x - f(x)``.

    Raises
    ------
    CertificateError, MethodError
        If there is no such statement, or not about this network.
    """
    if of == F:
        return graph
    if of != REST or REST in graph.by_name:
        raise CertificateError(f"a statement about {F} or {REST} was expected, not {of[:20]!r}")
    found = forward_step(graph)
    return replace(found, nodes=(*found.nodes[:-1], replace(found.nodes[-1], name=REST)), outputs=(REST,))


def digests_of(graph: Graph) -> dict[str, str]:
    """What the arrays of a graph's file are known by, by name.

    Raises
    ------
    CertificateError
        If it was not read from an ONNX file, or its arrays have none.
    """
    found = getattr(graph.model, "digests", None)
    if found is None:
        raise CertificateError("the network was not read from an ONNX file, whose names and bits a certificate states")
    try:
        return dict(found())
    except NotExecutedError as error:
        raise CertificateError(str(error)) from error


def segment_of(graph: Graph, start: str, values: Sequence[str], units: bool = False) -> Segment:
    """Links from one value to others, each computed from those before it alone; ``units``: with a channel an entry.

    Raises
    ------
    CertificateError
        If the graph has no such links.
    """
    nodes = graph.by_name
    if start not in nodes or not values or any(name not in nodes for name in values):
        raise CertificateError("a part names values that the network does not have")
    needed, waiting = {start}, [name for name in values if name != start]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        if isinstance(nodes[name].operator, Input):
            raise CertificateError(f"what is computed from {start} reads {name}, too")
        needed.add(name)
        waiting += nodes[name].inputs
    first = Node(start, Input(), (), nodes[start].shape, derived=True)
    kept = tuple(first if node.name == start else node for node in graph.nodes if node.name in needed)
    inner = Graph(kept, tuple(dict.fromkeys(values)))
    if units:
        found = stated_units(inner, start, values)
        if found is None:
            raise CertificateError(f"from {start} to {values[-1]} no statement can speak of each entry")
        return found
    reader = Reader(inner)
    # Channels are axis 1 throughout, as weights are carried from one part to the next.
    places = {value.node: number for number, value in enumerate(reader.values) if value.axis == 1}
    numbers = [places.get(name, -1) for name in (start, *values)]
    links = [reader.values[number].link for number in numbers]
    one_each = len(set(numbers)) == len(numbers) and min(numbers) >= 0 and links[0] is None
    known = [link is not None and link.end == name for link, name in zip(links[1:], values, strict=True)]
    before = [{*numbers[:at]} for at in range(1, len(numbers))]
    if not one_each or not all(known):
        raise CertificateError(f"from {start} to {values[-1]} are other layers and functions than are stated")
    if not all(link and set(link.sources) <= some for link, some in zip(links[1:], before, strict=True)):
        raise CertificateError(f"from {start} to {values[-1]} values are read that are not stated")
    return run_of(reader.values, numbers).part(0, len(values))


def constant_by_parts(graph: Graph, parts: Sequence[Part], *, ops: ArrayOps) -> Upper | None:
    """Lipschitz constant of a network, whose layers are bounded by parts alone; None where one is not.

    Raises
    ------
    CertificateError
        If the number of a part is not proven by its cells.
    """
    return _by_parts(graph, parts, ops)[0].claim


def constants_by_parts(graph: Graph, parts: Sequence[Part], *, ops: ArrayOps) -> list[Upper]:
    """Of maps between two values, all that parts make up; errors as of `constant_by_parts`."""
    found, known = _by_parts(graph, parts, ops)
    claims = [claim for step in found.steps.values() for claim in (step.alone, step.claim) if claim is not None]
    return [claim for claim in (*known, *claims) if isinstance(claim.what, Map) and math.isfinite(claim.value)]


@arithmetic.on_host()
def _by_parts(graph: Graph, parts: Sequence[Part], ops: ArrayOps) -> tuple[Constants, list[Upper]]:
    """By the rules, and by the parts themselves."""
    number = {node.name: at for at, node in enumerate(graph.nodes)}
    if any(name not in number for part in parts for name in (part.start, *part.values[-1:])):
        raise CertificateError("a part names values that the network does not have")
    known: dict[str, list[_Known]] = {}
    scope = Scope(graph)
    for part in sorted(parts, key=lambda part: number[part.values[-1]]):
        segment = segment_of(graph, part.start, part.values, part.units)
        constant = constant_as_stated(segment, part.weights, part.proof, part.upper, ops=ops)
        first, last = part.weights[0], part.weights[-1]
        begin = [_Known(np.ones(len(first)), unmoved(scope, part.start)), *_carried(scope, part.start, known)]
        fitting = [each for each in begin if len(each.weights) == len(first)]
        found = [_further(each, constant, first, last, part.values[-1]) for each in fitting]
        known.setdefault(part.values[-1], []).extend(found)
    norms: Any = _Unstated()
    shortcuts = {name: [_plain(each) for each in found] for name, found in known.items()}
    whole = propagate(graph, norms, Values(graph), shortcuts)
    return whole, [claim for found in shortcuts.values() for claim in found]


def _further(before: _Known, constant: Upper, first: FloatArray, last: FloatArray, end: str) -> _Known:
    """A part after what is known of its start."""
    more = host.next_up(float((first / before.weights).max()))
    value = host.mul_up(before.claim.value, more, constant.value)
    start = before.claim.what
    assert isinstance(start, Map)  # for the type checker: it is of `unmoved`, or made here
    return _Known(last, _upper(value, Map(start.start, end, start.about), constant.rule, before.claim, constant))


def _plain(known: _Known) -> Upper:
    """The same without weights."""
    value = host.div_up(known.claim.value, float(known.weights.min()))
    return _upper(value, known.claim.what, "the least weight", known.claim)


def _carried(scope: Scope, name: str, known: Mapping[str, Sequence[_Known]]) -> list[_Known]:
    """What is known of a value in weights, from what is known of those before it."""
    way: list[Node] = []
    nodes = scope.graph.by_name
    while name not in known:
        node = nodes[name]
        moving = [each for each in node.inputs if not isinstance(nodes[each].operator, Constant)]
        if len(moving) != 1 or len(node.inputs) != 1:
            return []
        way.append(node)
        name = moving[0]
    found = list(known[name])
    for node in reversed(way):
        found = [after for before in found for after in _after(scope, node, nodes[node.inputs[0]], before)]
    return found


def _after(scope: Scope, node: Node, source: Node, before: _Known) -> list[_Known]:
    """What treats each entry, or each channel, alike."""
    weights, operator, start = before.weights, node.operator, before.claim.what
    if not isinstance(start, Map) or source.shape is None or source.shape[1:2] != (len(weights),):
        return []
    if isinstance(operator, ops.Identity) or (isinstance(operator, ops.SameOrder) and node.shape == source.shape):
        factor = 1.0
    elif isinstance(operator, ops.SameOrder):
        repeat = flattened(node, source.shape, LinearCombination((), len(weights), 1))
        if repeat is None:
            return []
        weights, factor = np.repeat(weights, repeat), 1.0
    elif isinstance(operator, ops.Pointwise) or keeps_channels(operator, source.shape, node.shape):
        try:
            factor = of_operator(scope, node, [unmoved(scope, source.name)], Place((source.shape,), node.shape)).value
        except NoBoundError:
            return []
    else:
        return []
    value = host.mul_up(before.claim.value, factor)
    return [_Known(weights, _upper(value, Map(start.start, node.name, start.about), node.rule, before.claim))]


class _Unstated:
    """The norms of layers that no part bounds: none."""

    rtol = 1.0

    def __call__(self, *_: Any) -> NoReturn:
        raise CertificateError("no part that is stated bounds this layer")

    matrices = of_kernel = recurrent = __call__
