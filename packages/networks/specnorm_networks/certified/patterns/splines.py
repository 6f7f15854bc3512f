"""Linear splines with learned values at their knots: tables that are read at floor(y) and beside it.

Where y lies between two whole numbers, floor(y) is a constant, and so are the entries of tables that are read there.
What is left is linear in y, or no such spline. It is computed in rational numbers, so that lines that meet at a whole
number meet exactly. A clamp of y, or of floor(y), keeps the positions inside of the tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm_networks.certified import operators as ops
from specnorm_networks.certified.graph import Node
from specnorm_networks.certified.operators.splines import Floor, LinearSpline, Lookup, Truncated
from specnorm_networks.certified.patterns.structure import NoPattern, Structure, are_alike

MOST_NODES = 64
"""Largest number of nodes of a spline."""
MOST_LINES = 2**14
"""Largest number of lines of all functions together."""
LARGEST = 2.0**53
"""Numbers of splines are below this one."""
_STEPS = (ops.Add, ops.Scale, ops.Product, ops.Negative, Lookup, Truncated)
"""Operators of which splines are written, besides `Floor`."""
_rational: Any = np.frompyfunc(Fraction, 1, 1)


class _Lines(NamedTuple):
    """Functions of y between whole numbers k and k + 1.

    Parameters
    ----------
    start : array of Fraction
        Values at k. The first axis is that of k; the others broadcast against the value's.
    slope : array of Fraction
    """

    start: NDArray[Any]
    slope: NDArray[Any]

    def constant(self) -> NDArray[Any]:
        """Return the values of functions that are constant between whole numbers."""
        if self.slope.any():
            raise NoPattern
        return self.start

    def times(self, factor: Any) -> _Lines:
        """Return the product with rational numbers."""
        return _Lines(self.start * factor, self.slope * factor)


def as_spline(node: Node, structure: Structure) -> list[Node]:
    """Return the node in place of a sum that is a linear spline of one value y: that function of y.

    Also in place of a choice between two equal ones. It is one of the rules of `recognition.RULES`.
    """
    if isinstance(node.operator, ops.Choose):
        return [_choice(node, structure)]
    if not isinstance(node.operator, ops.Add):
        raise NoPattern
    floors = [found for found in _nodes_before(node, structure) if isinstance(found.operator, Floor)]
    arguments = {structure.input_of(floor).name for floor in floors}
    if len(arguments) != 1:
        raise NoPattern
    (clamped,) = arguments
    knots = _knots(node, structure, structure[clamped])
    for argument in (structure[clamped], *_without_clamp(structure[clamped], structure)):
        with suppress(NoPattern):
            return [_spline_of(node, structure, clamped, argument, knots)]
    raise NoPattern


def _without_clamp(clamped: Node, structure: Structure) -> Iterator[Node]:
    """Yield a factor times a value that stands for the same factor times the clamped value: splines extrapolate so.

    Where floor(y) stays at its ends, the function is that of the first or last line, as beyond the knots.
    """
    clamp = structure.input_of(clamped) if isinstance(clamped.operator, ops.Scale) else clamped
    if not isinstance(clamp.operator, ops.HardTanh):
        return
    if clamp is clamped:
        yield structure.input_of(clamp)
        return
    unclamped = replace(clamped, inputs=(structure.input_of(clamp).name,))
    for node in structure.values():
        if are_alike(replace(node, inputs=tuple(structure.origin(name).name for name in node.inputs)), unclamped):
            yield node
            return


class _Knots(NamedTuple):
    """The whole numbers from ``first`` to ``last`` at which lines begin."""

    first: int
    last: int
    ends_at_knot: bool = False
    """Whether y is clamped at the last one, so that no line of the clamped value is behind it."""
    is_floor_clamped: bool = False
    """Whether floor(y) is clamped in place of y, so that it is read through clamps alone."""


def _knots(node: Node, structure: Structure, clamped: Node) -> _Knots:
    """Return the knots of a spline of which floor is of the value ``clamped``."""
    try:
        lows, highs = _range_of(clamped, structure)
    except NoPattern:
        clamps = [found for found in _nodes_before(node, structure) if _clamps_floor(found, structure)]
        limits = [_limits(clamp, structure) for clamp in clamps]
        finite = [pair for pair in limits if math.isfinite(pair[1] - pair[0])]
        if not finite:
            raise
        low = min(low for low, _ in finite)
        high = max(high for _, high in finite)
        knots = _Knots(math.floor(low), math.ceil(high), is_floor_clamped=True)
    else:
        high = max(highs.flat)
        knots = _Knots(math.floor(min(lows.flat)), math.floor(high), ends_at_knot=high.denominator == 1)
    if not knots.last - knots.first < MOST_LINES:
        raise NoPattern
    return knots


def _limits(clamp: Node, structure: Structure) -> tuple[float, float]:
    """Return the least and the largest value of clamps one after the other, of which this is the last."""
    before = structure.input_of(clamp)
    ends = _limits(before, structure) if isinstance(before.operator, ops.HardTanh) else (-math.inf, math.inf)
    low, high = clamp.operator.run(np.array(ends)).tolist()
    return low, high


def _spline_of(node: Node, structure: Structure, clamped: str, argument: Node, knots: _Knots) -> Node:
    """Return a sum that is a linear spline of a value as that function; ``clamped`` is the value of which floor is."""
    if node.shape is None or argument.shape != node.shape:
        raise NoPattern
    count = knots.last - knots.first + 1
    axes = (count, *(1 for _ in node.shape))
    positions = _rational(knots.first + np.arange(float(count))).reshape(axes)
    lines = _Program(structure, clamped, argument, positions, knots.is_floor_clamped).lines_of(node)
    starts, slopes, _ = np.broadcast_arrays(*lines, positions)
    ends = starts + slopes
    if not np.all(starts[1:] == ends[:-1]):
        raise NoPattern
    ends_at_knot = knots.ends_at_knot and argument.name == clamped and count > 1
    values = starts if ends_at_knot else np.concatenate([starts, ends[-1:]])
    numbers = values.astype(np.float64)
    if not np.all(_rational(numbers) == values):
        raise NoPattern
    return replace(node, operator=LinearSpline(knots.first, numbers), inputs=(argument.name,))


def _choice(node: Node, structure: Structure) -> Node:
    """Return a choice between equal splines as the first: interpolations round alike from both knots so (lerp)."""
    first, second = (structure.origin(name) for name in node.inputs[1:])
    if not isinstance(first.operator, LinearSpline) or not are_alike(first, second) or first.shape != node.shape:
        raise NoPattern
    return replace(node, operator=ops.Identity(), inputs=(first.name,))


def _nodes_before(node: Node, structure: Structure) -> Iterator[Node]:
    """Yield the nodes back to floor(y) from which a node is computed."""
    seen: set[str] = set()
    waiting = [*node.inputs]
    while waiting:
        found = structure.origin(waiting.pop())
        if found.name in seen:
            continue
        seen.add(found.name)
        if len(seen) > MOST_NODES:
            raise NoPattern
        yield found
        if isinstance(found.operator, _STEPS) or _clamps_floor(found, structure):
            waiting += found.inputs


def _clamps_floor(node: Node, structure: Structure) -> bool:
    """Whether a node is a clamp of floor(y), or the last of several clamps."""
    if not isinstance(node.operator, ops.HardTanh):
        return False
    before = structure.input_of(node)
    return isinstance(before.operator, Floor) or _clamps_floor(before, structure)


def _range_of(node: Node, structure: Structure) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the ends of the range of a value that is computed by factors and summands from a clamped one."""
    operator = node.operator
    if isinstance(operator, ops.HardTanh):
        least, most = _limits(node, structure)
        return _rational_of([least]), _rational_of([most])
    number, summand = structure.sum_with_number(node)
    if summand is not node:
        low, high = _range_of(summand, structure)
        return low + _rational_of(number), high + _rational_of(number)
    if not isinstance(operator, ops.Scale):
        raise NoPattern
    factors, offset = _line_of(operator)
    ends = [factors * end + offset for end in _range_of(structure.input_of(node), structure)]
    return np.minimum(*ends), np.maximum(*ends)


def _line_of(scale: ops.Scale) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return factors and offset as rational numbers; `NoPattern` if they are not exact."""
    offset, error = scale.offset() if scale.offset else (np.zeros(()), np.zeros(()))
    if np.any(error):
        raise NoPattern
    if scale.divisors is not None:
        divisors = _rational_of(scale.divisors)
        if not np.all(divisors):
            raise NoPattern
        return 1 / divisors, _rational_of(offset)
    if not scale.exact:
        raise NoPattern
    return _rational_of(scale.values), _rational_of(offset)


class _Program:
    """The functions of y that values are, by name."""

    def __init__(
        self,
        structure: Structure,
        clamped: str,
        argument: Node,
        knots: NDArray[Any],
        is_floor_clamped: bool,
    ) -> None:
        self.structure = structure
        self.clamped = clamped
        self.argument = argument
        self.knots = knots
        self.is_floor_clamped = is_floor_clamped
        self.zeros = 0 * knots
        self.known = {argument.name: _Lines(knots, self.zeros + 1)}

    def lines(self, name: str) -> _Lines:
        """Return the lines of a value; `NoPattern` if it is no line between whole numbers."""
        node = self.structure.origin(name)
        if node.name not in self.known:
            lines = self.lines_of(node)
            if np.broadcast(*lines).size > MOST_LINES:
                raise NoPattern
            self.known[node.name] = lines
        return self.known[node.name]

    def lines_of(self, node: Node) -> _Lines:
        """Return the lines of the value of an operator, from those of its inputs."""
        if are_alike(node, self.argument):
            return self.known[self.argument.name]
        match node.operator:
            case Floor() if self.structure.input_of(node).name == self.clamped and not self.is_floor_clamped:
                return _Lines(self.knots, self.zeros)
            case ops.Constant() as constant:
                return _Lines(_rational_of(constant.run()), self.zeros)
            case Truncated():
                return _Lines(_whole(self._constant(node.inputs[0])), self.zeros)
            case Lookup(table=table) if table.ndim == 1:
                positions = _whole(self._constant(node.inputs[0]))
                if positions.min() < 0 or positions.max() >= len(table):
                    raise NoPattern
                return _Lines(_rational_of(table)[positions.astype(np.intp)], self.zeros)
            case ops.Negative():
                return self.lines(node.inputs[0]).times(Fraction(-1))
            case ops.Scale() as scale:
                factors, offset = _line_of(scale)
                product = self.lines(node.inputs[0]).times(factors)
                return _Lines(product.start + offset, product.slope)
            case ops.HardTanh():
                return _Lines(self._clamped_floor(node), self.zeros)
            case ops.Add() as add:
                total = _Lines(self.zeros, self.zeros)
                for name, weight in zip(node.inputs, add.weights, strict=True):
                    summand = self.lines(name).times(Fraction(weight))
                    total = _Lines(total.start + summand.start, total.slope + summand.slope)
                return total
            case ops.Product():
                x, y = map(self.lines, node.inputs)
                if x.slope.any():
                    return x.times(y.constant())
                return y.times(x.start)
        raise NoPattern

    def _clamped_floor(self, node: Node) -> NDArray[Any]:
        """Return the values of a clamp of floor(y) at the knots, and so beyond them if only its clamps are read."""
        if not _clamps_floor(node, self.structure):
            raise NoPattern
        low, high = _limits(node, self.structure)
        if self.is_floor_clamped and not math.isfinite(high - low):
            raise NoPattern
        values = self.knots.astype(np.float64)
        return _rational_of(np.minimum(np.maximum(values, low), high))

    def _constant(self, name: str) -> NDArray[Any]:
        return self.lines(name).constant()


def _rational_of(numbers: Any) -> NDArray[Any]:
    """Return floating numbers as the rational numbers that they are."""
    array = np.asarray(numbers, dtype=np.float64)
    # Larger whole numbers may have been rounded to float64.
    if array.size > MOST_LINES or not np.all(abs(array) < LARGEST):
        raise NoPattern
    return np.asarray(_rational(array), dtype=object)


def _whole(numbers: NDArray[Any]) -> NDArray[Any]:
    """Return numbers that are whole."""
    if any(x.denominator != 1 for x in numbers.flat):
        raise NoPattern
    return numbers
