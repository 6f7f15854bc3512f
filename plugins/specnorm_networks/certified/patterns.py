"""What networks write out by several operators and one operator class knows better: recognised by structure alone.

A pattern asks for the same values by name, the same axis and slices that cover it exactly. What it makes of a node
computes the node's value from the same values, and is executed and compared as any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, TypeAlias

import numpy as np

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.curves.finding import joined
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import FloatArray, Pointwise
from specnorm_networks.certified.operators.normalisation import Form, Normalise
from specnorm_networks.certified.permutations import settled

Nodes: TypeAlias = Mapping[str, Node]
"""By name."""
DEEPEST = 8
"""Nodes between a value and a multiple of it."""
INEXACT = 14
"""Roundings of factors that are not exact: a quotient by a root of a sum."""


def origin(name: str, nodes: Nodes) -> Node:
    """The node whose entries a value has, in their places."""
    node = nodes[name]
    while _keeps_places(node, nodes):
        node = nodes[node.inputs[0]]
    return node


def _keeps_places(node: Node, nodes: Nodes) -> bool:
    if isinstance(node.operator, ops.Identity):
        return True
    if node.shape is None or len(node.inputs) != 1 or nodes[node.inputs[0]].shape != node.shape:
        return False
    # A slice of step 1 that is as long as its input is the whole of it.
    whole = isinstance(node.operator, ops.Slice) and all(step == 1 for *_, step in node.operator.parts)
    return whole or isinstance(node.operator, ops.SameOrder)


@dataclass(frozen=True)
class Piece:
    """Consecutive entries along one axis of a value, or all of it."""

    source: str
    """Name of the value."""
    axis: int = 0
    start: int = 0
    stop: int = 0
    size: int = 0
    """How many entries the axis has; 0: all of the value."""


def piece(name: str, nodes: Nodes) -> Piece:
    """What a value is a piece of; of itself, if it is no such slice."""
    node = origin(name, nodes)
    source = origin(node.inputs[0], nodes) if isinstance(node.operator, ops.Slice) else node
    if isinstance(node.operator, ops.Slice) and source.shape is not None:
        cuts = []
        for axis, *part in node.operator.parts:
            size = source.shape[axis]
            first, last, step = slice(*part).indices(size)
            if not size or (first, last, step) != (0, size, 1):
                cuts.append((Piece(source.name, axis, first, last, size), step == 1 and first < last))
        if len(cuts) == 1 and cuts[0][1]:
            return cuts[0][0]
    return Piece(node.name)


def are_halves(first: Piece, second: Piece) -> bool:
    """Whether they are the first and the second half of one value along one axis."""
    half, odd = divmod(first.size, 2)
    halves = (replace(first, start=at, stop=at + half) for at in (0, half))
    return half > 0 and not odd and (first, second) == tuple(halves)


@dataclass(frozen=True, eq=False)
class Factor:
    """What a value is multiplied by."""

    values: FloatArray
    """Broadcasting against the value without making it larger; none is 0."""
    roundings: int = 0
    """Made in computing them."""


def factor_of(node: Node, nodes: Nodes) -> Factor | None:
    """By what a node multiplies its input, if that is all it does."""
    operator = node.operator
    if isinstance(operator, ops.Negative):
        return Factor(np.array(-1.0))
    if not isinstance(operator, ops.Scale) or operator.offset is not None or operator.values.dtype.kind != "f":
        return None
    keeps_shape = operator.values.ndim == 0 or (node.shape is not None and node.shape == nodes[node.inputs[0]].shape)
    known = keeps_shape and bool(np.all(np.isfinite(operator.values) & (operator.values != 0)))
    return Factor(operator.values, 0 if operator.exact else INEXACT) if known else None


def number_of(factors: Iterable[Factor]) -> Fraction | None:
    """The product of numbers; None where a factor is an array."""
    known = list(factors)
    if any(each.values.size != 1 for each in known):
        return None
    return math.prod((Fraction(each.values.item()) for each in known), start=Fraction(1))


def multiples(name: str, nodes: Nodes) -> dict[str, tuple[Factor, ...]]:
    """What a value is a multiple of, itself first: by name, and by which factors."""
    node = origin(name, nodes)
    found: dict[str, tuple[Factor, ...]] = {}
    factors: tuple[Factor, ...] = ()
    while True:
        found[node.name] = factors
        factor = factor_of(node, nodes)
        if factor is None or len(factors) == DEEPEST:
            return found
        node = origin(node.inputs[0], nodes)
        factors = (*factors, factor)


def nearest(*chains: Mapping[str, object]) -> str | None:
    """The first name of the first of several that is among all."""
    return next((name for name in chains[0] if all(name in chain for chain in chains[1:])), None)


JUMPS = "The jumps of its Householder activations, whose angles are rounded, are not counted."
Linear: TypeAlias = Mapping[Piece, FloatArray]
"""A sum of pieces of values: by what each is multiplied."""
Choice: TypeAlias = tuple[str, str, str]
"""Names: of what is compared with 0, of the value where it is not above, and of the other."""


def chosen(node: Node, nodes: Nodes) -> Node | None:
    """A choice between two linear maps by the sign of a third: leaky ReLU and Householder activations, written out.

    f(z) = A z where s.z <= 0, B z elsewhere. If both agree where s.z = 0, f is continuous, and linear on either side; a
    segment crosses the border once, so that |f(z) - f(z')| <= max(||A||, ||B||) |z - z'|.

    The angle of a Householder activation is a parameter, and its sine and cosine are computed: A and B then agree up to
    rounding alone. That jump is not counted, as the answer's note says.
    """
    if isinstance(node.operator, ops.Concat):
        return _reflection(node, node.operator, nodes)
    choice = _choice(node, nodes)
    return None if choice is None else _two_slopes(node, choice, nodes)


def _choice(node: Node, nodes: Nodes) -> Choice | None:
    operator = node.operator
    if isinstance(operator, ops.Choose):
        compared = _compared(node.inputs[0], nodes)
        if compared is None:
            return None
        name, kind = compared
        _, true, false = node.inputs
        return (name, true, false) if kind in ("le", "lt") else (name, false, true)
    if not isinstance(operator, ops.Add) or operator.weights != (1.0, 1.0) or operator.over != 1:
        return None
    sides: dict[str, tuple[str, str]] = {}
    for product in (origin(name, nodes) for name in node.inputs):
        if not isinstance(product.operator, ops.Product) or len(product.inputs) != 2:
            return None
        for value, gate in (product.inputs, product.inputs[::-1]):
            compared = _compared(gate, nodes)
            if compared is not None:
                sides[compared[1]] = compared[0], value
    for below, above in (("le", "gt"), ("lt", "ge")):
        if sides.keys() == {below, above} and sides[below][0] == sides[above][0]:
            return sides[below][0], sides[below][1], sides[above][1]
    return None


def _compared(name: str, nodes: Nodes) -> tuple[str, str] | None:
    """Which value is compared with 0, and how."""
    node = origin(name, nodes)
    if not isinstance(node.operator, ops.Compare) or node.operator.threshold != 0:
        return None
    return origin(node.inputs[0], nodes).name, node.operator.kind


def _two_slopes(node: Node, choice: Choice, nodes: Nodes) -> Node | None:
    chains = [multiples(name, nodes) for name in choice]
    name = nearest(*chains)
    if name is None or node.shape is None or nodes[name].shape != node.shape:
        return None
    factors = [chain[name] for chain in chains]
    sign, below, above = (np.asarray(math.prod((each.values for each in some), start=np.ones(()))) for some in factors)
    # A sign that is turned changes the sides.
    below, above = np.where(sign < 0, above, below), np.where(sign < 0, below, above)
    if not bool(np.all(np.isfinite(below) & np.isfinite(above) & (sign != 0))):
        return None
    roundings = max(sum(each.roundings for each in some) + max(len(some) - 1, 0) for some in factors)
    return replace(node, operator=ops.LeakyReLU(below, above, roundings), inputs=(name,))


def _reflection(node: Node, concat: ops.Concat, nodes: Nodes) -> Node | None:
    """Two choices by one sign, of linear maps of two halves, put together as these halves were."""
    if concat.new or len(node.inputs) != 2:
        return None
    one, other = (_choice(origin(name, nodes), nodes) for name in node.inputs)
    if one is None or other is None or one[0] != other[0]:
        return None
    found = [_linear(name, nodes) for name in (one[0], one[1], other[1], one[2], other[2])]
    parts = [part for part in found if part is not None]
    pieces = sorted({key for part in parts for key in part}, key=lambda each: each.start)
    if len(parts) < len(found) or len(pieces) != 2 or not are_halves(*pieces) or pieces[0].axis != concat.axis:
        return None
    source = nodes[pieces[0].source]
    axis = concat.axis
    half = pieces[0].stop
    rows = [_by_channel(part, pieces, len(source.shape or ()) - axis, half) for part in parts]
    known = [row for row in rows if row is not None]
    if len(known) < len(rows):
        return None
    sign = known[0]
    below = np.array(known[1:3])
    above = np.array(known[3:])
    reflection = ops.Reflection(axis, sign, below, above)
    return None if reflection.norm is None else replace(node, operator=reflection, inputs=(source.name,))


def _linear(name: str, nodes: Nodes, depth: int = 0) -> Linear | None:
    """A value as a sum of multiples of pieces, without constants; None where it is deeper than such activations go."""
    key = piece(name, nodes)
    node = origin(name, nodes)
    if depth > DEEPEST:
        return None
    if key.size:
        return {key: np.ones(())}
    factor = factor_of(node, nodes)
    if factor is not None:
        inner = _linear(node.inputs[0], nodes, depth + 1)
        exact = inner is not None and not factor.roundings
        return {each: value * factor.values for each, value in (inner or {}).items()} if exact else None
    if not isinstance(node.operator, ops.Add) or node.operator.over != 1:
        return {key: np.ones(())}
    found: dict[Piece, FloatArray] = {}
    for each, weight in zip(node.inputs, node.operator.weights, strict=True):
        part = _linear(each, nodes, depth + 1)
        if part is None or found.keys() & part.keys() or node.shape is None or nodes[each].shape != node.shape:
            return None  # what cancels would lose digits
        found |= {other: value * weight for other, value in part.items()}
    return found


def _by_channel(part: Linear, pieces: Sequence[Piece], behind: int, half: int) -> FloatArray | None:
    """By what two pieces are multiplied, a number for each entry along their axis: shape (2, half)."""
    found = np.zeros((2, half))
    for at, each in enumerate(pieces):
        values = part.get(each, np.zeros(()))
        along = values.shape[-behind] if values.ndim >= behind else 1
        if values.size != along or along not in (1, half):
            return None
        found[at] = values.reshape(-1)
    return found


def normalised(node: Node, nodes: Nodes, fresh: Callable[[str], str]) -> list[Node] | None:
    """The length of a value, and its quotient by a function of it; None where a node is no such quotient.

    That is x / max(|x|, eps), x / |x|, or x / sqrt(mean(x^2) + eps), as layer norm and RMS norm are
    exported; also as products with an inverse, and with max(mean(x^2) - mean(x)^2, 0) of an x whose mean is taken off.
    """
    found = _divided(node, nodes)
    if found is None:
        return None
    top, (source, axes, eps, form) = found
    if form == "variance":
        parts = _difference(origin(top, nodes), nodes)
        if parts is None or parts[0] is not origin(source, nodes) or not _is_mean(parts[1], source, axes, nodes):
            return None
        source = top
        form = "mean square"
    shape = nodes[source].shape
    if shape is None or node.shape != shape or origin(top, nodes).name != origin(source, nodes).name:
        return None
    ones = tuple(1 if axis in axes else n for axis, n in enumerate(shape))
    lengths = Node(fresh(f"{node.name}.length"), ops.Norm(axes, keep=True), (source,), ones, node.label, derived=True)
    return [lengths, replace(node, operator=ops.Normalise(axes, eps, form), inputs=(source, lengths.name))]


_Divisor = tuple[str, tuple[int, ...], float, Form | Literal["variance"]]
"""Whose length, along which axes, eps, and how both are one."""


def _divided(node: Node, nodes: Nodes) -> tuple[str, _Divisor] | None:
    """What is divided, and by what: a quotient, or a product with an inverse."""
    if len(node.inputs) != 2:
        return None
    if isinstance(node.operator, ops.Quotient):
        divisor = _length(_spread(node.inputs[1], nodes), nodes) or _root(_spread(node.inputs[1], nodes), nodes)
        return None if divisor is None else (node.inputs[0], divisor)
    for top, inverse in (node.inputs, node.inputs[::-1]) if isinstance(node.operator, ops.Product) else ():
        below = _spread(inverse, nodes)
        divisor = None
        if isinstance(below.operator, ops.Rsqrt):
            divisor = _mean_square(below.inputs[0], nodes)
        elif isinstance(below.operator, ops.Reciprocal) and below.operator.scale == 1:
            inner = origin(below.inputs[0], nodes)
            divisor = _length(inner, nodes) or _root(inner, nodes)
        if divisor is not None:
            return top, divisor
    return None


def _spread(name: str, nodes: Nodes) -> Node:
    """The node before values were broadcast to the quotient's shape, which has as many axes."""
    node = origin(name, nodes)
    while isinstance(node.operator, ops.Broadcast):
        before = nodes[node.inputs[0]]
        if before.shape is None or node.shape is None or len(before.shape) != len(node.shape):
            break
        node = origin(before.name, nodes)
    return node


def _length(node: Node, nodes: Nodes) -> _Divisor | None:
    """The 2-norm, not below eps."""
    eps = 0.0
    if isinstance(node.operator, ops.HardTanh) and node.operator.high == float("inf"):
        eps = node.operator.low
        node = origin(node.inputs[0], nodes)
    if not isinstance(node.operator, ops.Norm) or not node.operator.keep or not 0 <= eps < float("inf"):
        return None
    return node.inputs[0], tuple(sorted(node.operator.axes)), eps, "largest"


def _root(node: Node, nodes: Nodes) -> _Divisor | None:
    return _mean_square(node.inputs[0], nodes) if isinstance(node.operator, ops.Sqrt) else None


def _mean_square(name: str, nodes: Nodes) -> _Divisor | None:
    """The mean of squares, perhaps less the square of the mean and not below 0, and with eps added."""
    node = origin(name, nodes)
    eps = 0.0
    if (found := _added(node, nodes)) is not None:
        eps, inner = found
        node = origin(inner, nodes)
    if isinstance(node.operator, ops.ReLU):
        node = origin(node.inputs[0], nodes)
    form: Form | Literal["variance"] = "mean square"
    subtracted = _difference(node, nodes)
    if subtracted is not None:
        form = "variance"
        node = subtracted[0]
    squares = _averaged(node, nodes)
    source = None if squares is None else _squared(squares[0], nodes)
    if squares is None or source is None or not 0 <= eps < float("inf"):
        return None
    if subtracted is not None:
        mean = _squared(subtracted[1], nodes)
        if mean is None or not _is_mean(origin(mean, nodes), source, squares[1], nodes):
            return None
    return source, squares[1], eps, form


def _difference(node: Node, nodes: Nodes) -> tuple[Node, Node] | None:
    if not isinstance(node.operator, ops.Add) or node.operator.weights != (1.0, -1.0) or node.operator.over != 1:
        return None
    return origin(node.inputs[0], nodes), origin(node.inputs[1], nodes)


def _averaged(node: Node, nodes: Nodes) -> tuple[Node, tuple[int, ...]] | None:
    """Of what a node is the mean, and along which axes, which it keeps."""
    if not isinstance(node.operator, ops.Mean) or not node.operator.keep:
        return None
    return origin(node.inputs[0], nodes), tuple(sorted(node.operator.axes))


def _squared(node: Node, nodes: Nodes) -> str | None:
    """What a node squares."""
    twice = isinstance(node.operator, ops.Product) and len({origin(n, nodes).name for n in node.inputs}) == 1
    twice = twice or (isinstance(node.operator, ops.Power) and node.operator.exponent == 2)
    return node.inputs[0] if twice else None


def _is_mean(node: Node, of: str, axes: tuple[int, ...], nodes: Nodes) -> bool:
    return _averaged(node, nodes) == (origin(of, nodes), axes)


def _added(node: Node, nodes: Nodes) -> tuple[float, str] | None:
    """A number that is added to a value, and the value's name."""
    if not isinstance(node.operator, ops.Add) or node.operator.weights != (1.0, 1.0) or node.operator.over != 1:
        return None
    for name, other in (node.inputs, node.inputs[::-1]):
        constant = nodes[other]
        shape = nodes[other].shape
        if isinstance(constant.operator, ops.Constant) and shape is not None and nodes[name].shape == node.shape:
            value = constant.operator.run()
            if value.size == 1:
                return float(value.item()), name
    return None


def sorted_pieces(node: Node, nodes: Nodes, fresh: Callable[[str], str]) -> list[Node] | None:
    """A node that sorts, by one operator that does, and what puts its entries in their places; None: no such node."""
    operator = node.operator
    if isinstance(operator, ops.SameOrder):
        return _alone(_grouped(node, nodes))
    if not isinstance(operator, ops.Concat) or len(node.inputs) != 2:
        return None
    ends = [origin(name, nodes) for name in node.inputs]
    found = _halves(node, operator, ends, nodes, fresh) or _alone(_pairs(node, operator, ends, nodes))
    return found or _both_signs(node, operator, ends, nodes, fresh)


def _alone(node: Node | None) -> list[Node] | None:
    return None if node is None else [node]


def _joined(
    node: Node,
    concat: ops.Concat,
    operator: ops.GroupSort | ops.SignParts,
    source: str,
    nodes: Nodes,
    fresh: Callable[[str], str],
) -> list[Node] | None:
    """Both halves that an operator makes of a value along its axis, put where a node joins them.

    In their places, on another axis, or on an axis of their own.
    """
    axis = operator.axis
    if axis == concat.axis and not concat.new:
        return [replace(node, operator=operator, inputs=(source,))]
    half = nodes[node.inputs[0]].shape
    whole = node.shape
    if half is None or whole is None:
        return None
    # The axis of two is put where both halves are joined.
    split = (*half[:axis], 2, *half[axis:])
    order = [at for at in range(len(split)) if at != axis]
    order.insert(concat.axis, axis)
    steps: list[tuple[ops.Operator, tuple[int, ...]]] = [
        (operator, (*half[:axis], 2 * half[axis], *half[axis + 1 :])),
        (ops.Reshape(split), split),
        (ops.Permute(tuple(order)), tuple(split[at] for at in order)),
    ]
    made = list[Node]()
    for step, shape in steps:
        name = fresh(f"{node.name}.{type(step).__name__}")
        made.append(Node(name, step, (source,), shape, node.label, derived=True))
        source = name
    return [*made, replace(node, operator=ops.Reshape(whole), inputs=(source,))]


def _halves(
    node: Node,
    concat: ops.Concat,
    ends: list[Node],
    nodes: Nodes,
    fresh: Callable[[str], str],
) -> list[Node] | None:
    if {type(end.operator) for end in ends} != {ops.Maximum, ops.Minimum} or any(len(end.inputs) != 2 for end in ends):
        return None
    pairs = [sorted((piece(name, nodes) for name in end.inputs), key=lambda each: each.start) for end in ends]
    if pairs[0] != pairs[1] or not are_halves(*pairs[0]):
        return None
    half = pairs[0][0]
    operator = ops.GroupSort(half.axis, 2, "strided", isinstance(ends[0].operator, ops.Maximum))
    return _joined(node, concat, operator, half.source, nodes, fresh)


def _pairs(node: Node, concat: ops.Concat, ends: list[Node], nodes: Nodes) -> Node | None:
    """Largest and smallest along an axis of two entries, put where these were."""
    one, other = (end.operator for end in ends)
    if not isinstance(one, (ops.Largest, ops.Smallest)) or not isinstance(other, (ops.Largest, ops.Smallest)):
        return None
    along = one.axes == other.axes == (concat.axis,) and one.keep == other.keep != concat.new
    source, again = (origin(end.inputs[0], nodes) for end in ends)
    if type(one) is type(other) or not along or source.name != again.name:
        return None
    if source.shape is None or source.shape[concat.axis] != 2:
        return None
    return replace(node, operator=ops.Sort(concat.axis, isinstance(one, ops.Largest)), inputs=(source.name,))


def _both_signs(
    node: Node,
    concat: ops.Concat,
    ends: list[Node],
    nodes: Nodes,
    fresh: Callable[[str], str],
) -> list[Node] | None:
    """Positive and negative part: where x and y have one sign, one of both moves; else |x - y| = |x| + |y|."""
    if not all(isinstance(end.operator, ops.ReLU) for end in ends):
        return None
    chains = [multiples(end.inputs[0], nodes) for end in ends]
    name = nearest(*chains)
    if name is None or not nodes[name].shape:
        return None
    signs = [number_of(chain[name]) for chain in chains]
    if signs not in ([1, -1], [-1, 1]) or any(each.roundings for chain in chains for each in chain[name]):
        return None
    # A new axis behind the last one is made of that one.
    axis = min(concat.axis, len(nodes[name].shape or ()) - 1)
    return _joined(node, concat, ops.SignParts(axis, signs[0] == -1), name, nodes, fresh)


def _grouped(node: Node, nodes: Nodes) -> Node | None:
    """Sorting between two changes of the shape that put neighbours of an axis on one of their own, and back."""
    inner = origin(node.inputs[0], nodes)
    if not isinstance(inner.operator, ops.Sort) or inner.operator.first is not None or not inner.operator.axis:
        return None
    axis = inner.operator.axis
    split = origin(inner.inputs[0], nodes)
    if not isinstance(split.operator, ops.SameOrder):
        return None
    source = origin(split.inputs[0], nodes)
    before = source.shape
    between = split.shape
    if before is None or between is None or before != node.shape or len(between) != len(before) + 1:
        return None
    groups = between[axis - 1]
    count = between[axis]
    whole = before[axis - 1]
    if groups * count != whole:
        return None
    if (*between[: axis - 1], whole, *between[axis + 1 :]) != before:
        return None
    return replace(
        node, operator=ops.GroupSort(axis - 1, count, "consecutive", inner.operator.descending), inputs=(source.name,)
    )


def recognised(graph: Graph) -> Graph:
    """The same network, in which patterns are one node, of the name and shape of their last one.

    Nodes in no pattern's place are kept, those as well that no output needs any more.
    """
    graph = settled(graph)
    nodes = dict[str, Node]()
    for node in graph.nodes:
        one = chosen(node, nodes)
        several = _alone(one) or sorted_pieces(node, nodes, graph.fresh)
        several = several or normalised(node, nodes, graph.fresh) or [node]
        nodes.update({each.name: each for each in several})
    jumps = any(isinstance(node.operator, ops.Reflection) and node.operator.jump for node in nodes.values())
    found = graph._same([*nodes.values()], note=JUMPS if jumps and JUMPS not in graph.note else "")
    return found._same(joined(found))


def prepared(graph: Graph) -> Graph:
    """The network as `bound` reads it: patterns recognised, and without what no output needs."""
    return recognised(graph).pruned()


def unsorted(graph: Graph) -> Graph:
    """The same without sorting: of patterns, functions of one number and normalisation are recognised.

    Ranges and units read sorting as maxima and minima, which are ReLU of differences.
    """
    graph = settled(graph)
    found = prepared(graph).by_name
    kept = graph.by_name
    nodes: list[Node] = []
    for old in graph.nodes:
        new = found.get(old.name, old)
        lengths = [found[name] for name in new.inputs if name in found and name not in kept]
        if isinstance(new.operator, Normalise) and all(kept.keys() >= set(each.inputs) for each in lengths):
            nodes += [*lengths, new]
        else:
            nodes.append(new if isinstance(new.operator, Pointwise) else old)
    return graph._same(nodes).pruned()
