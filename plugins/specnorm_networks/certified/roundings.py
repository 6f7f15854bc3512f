"""How far the values of an executed network are from those of real arithmetic, while its input stays in a ball.

The input's entries are numbers of the precision that values are stored in. Sums are made in another precision that is
no narrower, in any order, with or without fused products; what is stored is rounded to nearest. In bfloat16 numbers
below the smallest normal one may be read and written as 0, as processors' own instructions do. With e the 2-norm of
the computed less the exact value at the same input, a layer A, b that is stored as A', b' has (Higham [1]_, section
3.1)

    e_out <= |A| e_in + gamma(n + 1) (||A'||x| + |b'|| + ||A'|| d) + |(A' - A) x + b' - b| + |A' - A| d + ...

where x is the value at the centre, and d = e_in + K_in rho bounds how far a computed input of the layer is from it, by
a proven constant K_in from the network's input. What is stored is rounded once more: a unit of its size, which is at
most |z| + K_out rho + e. Underflow is gradual; a value that may overflow has no bound.

.. [1] Higham, Accuracy and Stability of Numerical Algorithms, SIAM 2002.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from specnorm import KernelError
from specnorm.proof import HypothesisError, Interval, Upper, arithmetic, host, make_upper, rounding
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.kernels import Norms, norm_by
from specnorm_networks.certified.operators.base import FloatArray, LinearMap, NoBoundError, Operator, Place
from specnorm_networks.certified.operators.executed import BRAIN, DOUBLE, EXACT, HALF, SINGLE, Executed, Format
from specnorm_networks.certified.operators.joins import sup
from specnorm_networks.certified.operators.layers import Convolution, Matrix
from specnorm_networks.certified.operators.sources import Constant, Input
from specnorm_networks.certified.patterns import recognised
from specnorm_networks.certified.ranges import ranges
from specnorm_networks.certified.reading import spatial
from specnorm_networks.certified.regions import Ball
from specnorm_networks.certified.scope import Scope

__all__ = ["EXECUTIONS", "AtCentre", "Deviation", "Execution", "Roundings"]


@dataclass(frozen=True)
class Execution:
    """In which precision values and constants are stored, and in which sums are made."""

    stored: Format
    summed: Format
    flushed: float = 0.0
    """Numbers below may be read and written as 0."""

    def lost(self, format: Format) -> float:
        """The most that underflow takes from one number."""
        return max(format.smallest, self.flushed)


EXECUTIONS = {
    "float64": Execution(DOUBLE, DOUBLE),
    "float32": Execution(SINGLE, SINGLE),
    "float16": Execution(HALF, SINGLE),
    "bfloat16": Execution(BRAIN, SINGLE, BRAIN.normal),
}


@dataclass(frozen=True)
class Deviation:
    """What an `Upper` of this module bounds: the 2-norm of a computed value less the exact one, anywhere in a ball."""

    value: str
    execution: Execution
    radius: float

    def __str__(self) -> str:
        stored, summed = self.execution.stored.name, self.execution.summed.name
        return f"{self.value} as executed ({stored}, sums in {summed}) on a ball of radius {self.radius:.6g}"


@dataclass(frozen=True, eq=False)
class _Step:
    """A node, and what does not depend on the input."""

    node: Node
    executed: Executed
    place: Place
    reach: float
    """Constant from the network's input to the value."""
    before: float = 0.0
    """And to what it is computed from, where that is one value."""
    factor: float | None = None
    """Norm of a layer; None: `Operator.combine` says it."""
    absolute: float = 0.0
    """Norm of the map with absolute values of what is stored."""
    shift: float = 0.0
    """Norm of what storing changes in it."""

    @cached_property
    def root(self) -> float:
        """Of the number of entries, rounded up."""
        return host.root_up(math.prod(self.node.shape or ()))


@dataclass(frozen=True, eq=False)
class _Sizes:
    """Of a node at the centre: 2-norms and largest entries, rounded up."""

    sum: float = 0.0
    largest_sum: float = 0.0
    change: float = 0.0
    value: float = 0.0
    largest: float = 0.0


class Roundings:
    """A network's roundings, as far as they do not depend on the input.

    ``graph``: as the model computes it, of one input and one output, of known sizes. Patterns are recognised where
    what they are written out of rounds nothing. ``norms``: proves norms of layers. ``constants``: proven constants
    from the input to values, everywhere. `NoBoundError` if an operator's roundings are not known, or a constant is
    missing; the message names the node.
    """

    @arithmetic.on_host()
    def __init__(self, graph: Graph, execution: Execution, norms: Norms, constants: Mapping[str, Upper]) -> None:
        if len(graph.inputs) != 1 or len(graph.outputs) != 1:
            raise NoBoundError("roundings are counted for networks with one input and one output")
        self.execution, self.input, self.output = execution, graph.inputs[0], graph.outputs[0]
        self.graph = self._read(graph.pruned())
        self.steps: list[_Step] = []
        scope = Scope(graph)
        reach: dict[str, float] = {}
        for node in self.graph.nodes:
            reach[node.name] = self._reach(node, scope, constants)
            self.steps.append(self._step(node, norms, reach))

    def _read(self, graph: Graph) -> Graph:
        """With patterns in place of nodes that round nothing; else as it is."""
        better = recognised(graph).pruned()
        same = {node.name for node in better.nodes if graph.by_name.get(node.name, node).operator is node.operator}
        try:
            exact = all(self._executed(graph, node).exact for node in graph.nodes if node.name not in same)
        except NoBoundError:
            exact = False
        return better if exact else graph

    def _executed(self, graph: Graph, node: Node) -> Executed:
        if isinstance(node.operator, Constant) or node.name == self.input:
            return EXACT
        if node.shape is None:
            raise NoBoundError(f"{node.name} ({node.label or type(node.operator).__name__}): its size is not known")
        try:
            return node.operator.executed(graph.place(node), self.execution.stored)
        except NoBoundError as error:
            raise NoBoundError(f"{node.name} ({node.label or type(node.operator).__name__}): {error}") from error

    def _reach(self, node: Node, scope: Scope, constants: Mapping[str, Upper]) -> float:
        if node.name == self.input:
            return 1.0
        if isinstance(node.operator, Input):
            raise NoBoundError(f"{node.name}: an input that is held")
        if all(name in self.graph.constants for name in node.inputs):
            return 0.0
        claim = constants.get(node.name)
        if claim is None or not math.isfinite(claim.value):
            raise NoBoundError(f"{node.name}: no Lipschitz constant of it is known")
        if not scope.holds(claim, self.input, node.name):
            raise HypothesisError(f"{claim.what} for {node.name} by {self.input}")
        return claim.value

    def _step(self, node: Node, norms: Norms, reach: Mapping[str, float]) -> _Step:
        executed, operator, place = self._executed(self.graph, node), node.operator, self.graph.place(node)
        ends = reach[node.name], reach[node.inputs[0]] if len(node.inputs) == 1 else math.inf
        if not isinstance(operator, (Convolution, Matrix)):
            return _Step(node, executed, place, *ends)
        factor = self._norm(node, operator, norms)
        assert isinstance(executed.stored, (Convolution, Matrix))  # for the type checker
        absolute = self._norm(node, executed.stored, norms, absolute=True)
        shift = 0.0
        if isinstance(executed.change, (Convolution, Matrix)):
            shift = self._norm(node, executed.change, norms)
        return _Step(node, executed, place, *ends, factor, absolute, shift)

    def _norm(self, node: Node, operator: Convolution | Matrix, norms: Norms, *, absolute: bool = False) -> float:
        """Of a layer at its size, or of the same with absolute values."""
        kernel = abs(operator.layer.kernel()) if absolute else operator.layer.kernel()
        if not kernel.any():
            return 0.0
        layer = operator.layer
        if absolute:
            layer = type(layer)(f"|{layer.name}|", lambda: kernel, layer.geometry, layer.spatial)
        sizes = spatial(self.graph.by_name[node.inputs[0]].shape, node.shape, layer.spatial)
        return norm_by(norms, layer, dict(layer.geometry), sizes, None).value

    def at(self, centre: FloatArray) -> AtCentre:
        """The same around an input, in its shape or another one of that size."""
        return AtCentre(self, centre)


class AtCentre:
    """A network's values at one input, in real arithmetic, and its roundings around it."""

    @arithmetic.on_host()
    def __init__(self, roundings: Roundings, centre: FloatArray) -> None:
        self.roundings = roundings
        graph = roundings.graph
        x = np.asarray(centre, dtype=np.float64).reshape(graph.by_name[roundings.input].shape or ())
        self.exact = ranges(graph, Ball({roundings.input: x}, 0.0))
        self.sizes = [self._sizes(step) for step in roundings.steps]

    @property
    def output(self) -> Interval:
        """Of the output, its rounding here counted."""
        return self.exact[self.roundings.output]

    def _sizes(self, step: _Step) -> _Sizes:
        node, executed = step.node, step.executed
        value = self.exact[node.name].magnitude()
        if isinstance(node.operator, Constant):
            return _Sizes(value=_norm(_lost(value, self.roundings.execution.stored)), largest=sup(value))
        if executed.exact:
            return _Sizes(value=_norm(value), largest=sup(value))
        place, total, change = step.place, np.zeros(()), np.zeros(())
        if executed.sums:
            linear = _linear(executed.stored or node.operator, place)
            total = linear.magnitude([self.exact[name].magnitude() for name in node.inputs])
        if executed.change is not None:
            change = _linear(executed.change, place).image([self.exact[name] for name in node.inputs]).magnitude()
        return _Sizes(_norm(total), sup(total), _norm(change), _norm(value), sup(value))

    @arithmetic.on_host()
    def error(self, radius: float) -> Upper | None:
        """Of the output, for inputs in the ball of that radius; None where a value may overflow."""
        errors: dict[str, float] = {}
        for step, sizes in zip(self.roundings.steps, self.sizes, strict=True):
            found = self._error(step, sizes, errors, radius)
            if not math.isfinite(found):
                return None
            errors[step.node.name] = found
        output, execution = self.roundings.output, self.roundings.execution
        what = Deviation(output, execution, float(radius))
        return make_upper(errors[output], what, "roundings of every node, carried on")

    def _error(self, step: _Step, sizes: _Sizes, errors: Mapping[str, float], radius: float) -> float:
        """Of one node; infinite where it may overflow."""
        node, executed, execution = step.node, step.executed, self.roundings.execution
        if node.name == self.roundings.input:
            return 0.0
        if isinstance(node.operator, Constant):
            return sizes.value if sizes.largest <= execution.stored.largest else math.inf
        before = [errors[name] for name in node.inputs]
        if execution.flushed and not executed.exact:
            sizes_before = [math.prod(shape or ()) for shape in step.place.before]
            unread = [host.mul_up(execution.flushed, host.root_up(n)) for n in sizes_before]
            before = [host.add_up(*pair) for pair in zip(before, unread, strict=True)]
        if step.factor is None:
            found = node.operator.combine(before, step.place)
        else:
            found = host.mul_up(step.factor, before[0])
        if executed.sums:
            # How far a computed input is from the one at the centre.
            away = host.add_up(before[0], host.mul_up(step.before, radius))
            absolute = step.absolute if step.factor is not None else node.operator.combine([1.0], step.place)
            moved, within = host.mul_up(absolute, away), execution.stored if executed.narrow else execution.summed
            summed = host.mul_up(_gamma(executed.sums, within), host.add_up(sizes.sum, moved))
            changed = host.add_up(sizes.change, host.mul_up(step.shift, away))
            tiny = host.mul_up(step.root, 2.0 * (executed.sums + 1) * execution.lost(within))
            found = host.add_up(found, summed, changed, tiny)
            on_the_way = host.mul_up(2.0 * executed.growth, host.add_up(sizes.largest_sum, moved))
            if not on_the_way < within.largest:
                return math.inf
        if executed.stores:
            moved = host.add_up(host.mul_up(step.reach, radius), found)
            times = _gamma(executed.stores, execution.stored)
            tiny = host.mul_up(step.root, 2.0 * executed.stores * execution.lost(execution.stored))
            on_the_way = host.mul_up(1.0625 * executed.growth, host.add_up(sizes.largest, moved, tiny))
            if not on_the_way < execution.stored.largest:
                return math.inf
            found = host.add_up(found, host.mul_up(times, host.add_up(sizes.value, moved)), tiny)
        return found


def _gamma(count: int, format: Format) -> float:
    """Of so many roundings, rounded up; infinite where they leave no bound."""
    try:
        return host.inflate(rounding.gamma(count, format.unit), 4)
    except KernelError:
        return math.inf


def _linear(operator: Operator, place: Place) -> LinearMap:
    found = operator.linear_map(place)
    if found is None:
        raise NoBoundError("a layer whose map is not known at its size")
    return found


def _lost(value: FloatArray, format: Format) -> FloatArray:
    """What storing constants changes at most, in one rounding or two."""
    changed = host.inflate(value * (4 * format.unit), 4) + format.smallest
    return np.where(format.stored(value) == value, 0.0, changed)


def _norm(x: FloatArray) -> float:
    found = float(host.norm_up(x.reshape(-1)))
    return math.inf if math.isnan(found) else found
