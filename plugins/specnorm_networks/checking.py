"""Check that a graph computes what its model computes: both are executed, value by value, before anything is claimed.

Each node is executed on the model's own values of its inputs, so that rounding errors do not add up from node to node:
the node's value may differ from the model's by `Operator.rounding`, and by no more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from specnorm.errors import MethodError
from specnorm.proof import TranslationError, visible
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import FloatArray, Linear, NotRunError
from specnorm_networks.certified.operators.formats import smallest
from specnorm_networks.certified.operators.sources import Constant, Input, Random, Unknown
from specnorm_networks.certified.regions import Ball, Box
from specnorm_networks.execution import UNIT_ROUNDOFF, Inputs, Value, execute, last_readers
from specnorm_networks.model import Computed, Model, NotExecutedError, equal_but_for_rounding
from specnorm_networks.probes import Shapes, near_constants, probes, samples, sizes

SIZES = "give the input shape (input_shape=, --input-shape; also by name, as NAME=1x3x32x32)"
SMALLEST = 2.0**-126
"""Single precision's smallest normal number: what is smaller may be flushed to zero."""
PRECISE = 2.0**-40
"""Unit roundoff that is allowed to functions in double precision."""
SMALL = 16
"""Largest number of entries of a constant near which operators are executed."""
SAMPLES = (2, 3, 16)
"""Numbers of samples that are executed together."""
DIFFERENT_SAMPLES = 3
"""How many of these samples are different."""


@dataclass(frozen=True)
class Checked:
    """What was compared.

    Parameters
    ----------
    inputs : int
        Inputs on which graph and model were executed; 0: nothing was compared.
    values : int
        Values of the graph that were compared.
    missed : tuple of str
        Values that were not: the model does not name them, or they cannot be computed here.
    difference : float
        Largest difference, as a part of what rounding may make.
    samples : tuple of int
        Numbers of samples together for which the outputs are those of each sample by itself.
    reason : str
        Why nothing was compared; empty for graphs made by hand.
    pairs : int
        Pairs of inputs by which the answer was attacked; see `attack`.
    reached : float
        Largest ratio of the outputs' distance to the inputs' that they reached, in float64.
    alone : int
        Operators that were compared one by one in double precision besides.
    """

    inputs: int = 0
    values: int = 0
    missed: tuple[str, ...] = ()
    difference: float = 0.0
    samples: tuple[int, ...] = ()
    reason: str = ""
    pairs: int = 0
    reached: float = 0.0
    alone: int = 0

    @property
    def complete(self) -> bool:
        """Whether every value that the outputs are computed from was compared."""
        return self.inputs > 0 and not self.missed

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    def __str__(self) -> str:
        """Say in a sentence what was compared."""
        if not self.inputs:
            return f"Not compared with the model: {self.reason or 'the graph was made by hand'}."
        missed = f", {len(self.missed)} could not be compared" if self.missed else ""
        together = ""
        if self.samples:
            *others, last = map(str, self.samples)
            numbers = f"{', '.join(others)} and {last}" if others else last
            together = f"; {numbers} samples together give what each gives by itself"
        return f"Compared with the model on {self.inputs} inputs: {self.values} values agree{missed}{together}."


def check(graph: Graph, read: Graph, region: Ball | Box | None = None) -> Checked:
    """Execute a graph beside its model, and compare all values.

    Parameters
    ----------
    graph : Graph
        The graph as it was translated.
    read : Graph
        The same with patterns recognised, for which the bound will hold.
    region : Ball or Box, optional
        Region of the inputs.

    Raises
    ------
    TranslationError
        If a value differs by more than rounding. The message names the first such node, both numbers and the operator.
    MethodError
        If a size of an input is open.
    """
    if graph.model is None:
        return Checked()
    shapes = sizes(graph)
    missing = [visible(name) for name in graph.inputs if name not in shapes]
    if missing:
        raise MethodError(f"not all sizes of {', '.join(missing)} are stated: {SIZES}.")
    try:
        return _compare_all(graph, read, graph.model, shapes, region)
    except NotExecutedError as error:
        return Checked(reason=str(error))


def _compare_all(
    graph: Graph,
    read: Graph,
    model: Model,
    shapes: Shapes,
    region: Ball | Box | None,
) -> Checked:
    comparison = _Comparison()
    count = 0
    for inputs in probes(graph, shapes, region):
        model_values = model.values(inputs)
        comparison.compare(graph, inputs, model_values)
        comparison.compare(read, inputs, model_values, compared_graph=graph)
        count += 1
    one_by_one = _OneByOne(graph)
    with suppress(NotExecutedError):
        model.alone(next(samples(shapes, region)), one_by_one)
    return Checked(
        count,
        len(comparison.compared),
        _missed_values(read, comparison.compared, comparison.executed),
        comparison.largest_difference,
        _numbers_of_samples(graph, model, shapes, region),
        alone=len(one_by_one.compared),
    )


def _missed_values(graph: Graph, compared: set[str], executed: set[str]) -> tuple[str, ...]:
    """Return the values that the outputs need, and that were not compared, neither themselves nor by their readers.

    A value counts as compared if it was executed and everything that is made of it was compared.
    """
    covered = set(compared)
    readers: dict[str, list[str]] = {}
    missed = []
    for node in reversed(graph.pruned().nodes):
        node_readers = readers.get(node.name, [])
        is_inner = bool(node_readers) and node.name not in graph.outputs
        covered_by_readers = covered.issuperset(node_readers) and (is_inner or node.derived)
        needs_nothing = isinstance(node.operator, Input | Constant)
        if node.name in covered or needs_nothing or (node.name in executed and covered_by_readers):
            covered.add(node.name)
        else:
            missed.append(node.name)
        for name in node.inputs:
            readers.setdefault(name, []).append(node.name)
    return tuple(reversed(missed))


# -- value by value ----------------------------------------------------------------------------------------------------
class _Comparison:
    """Compares every value of graphs with the model's, input by input."""

    def __init__(self) -> None:
        self.compared: set[str] = set()
        self.executed: set[str] = set()
        self.largest_difference = 0.0

    def compare(
        self,
        graph: Graph,
        inputs: Inputs,
        model_values: Mapping[str, Computed],
        compared_graph: Graph | None = None,
    ) -> None:
        """Compare the values of a graph for one input.

        ``compared_graph``: all its values were compared for this input; nodes that are the same there are left out.
        """
        nodes_before = {} if compared_graph is None else compared_graph.by_name
        state = _State({}, {})
        unread_after = last_readers(graph)
        for number, node in enumerate(graph.nodes):
            theirs = model_values.get(node.name)
            if isinstance(node.operator, Input):
                if theirs is not None:
                    state.set(node.name, Value(theirs.value), theirs.unit)
                elif node.name in inputs:
                    state.set(node.name, Value(inputs[node.name]), UNIT_ROUNDOFF)
            elif (
                theirs is not None
                and _is_same(node, nodes_before.get(node.name))
                and model_values.keys() >= {*node.inputs}
            ):
                state.set(node.name, Value(theirs.value), theirs.unit)
            else:
                self._execute_and_compare(node, theirs, state)
            for name in unread_after.get(number, ()):
                state.values.pop(name, None)

    def _execute_and_compare(self, node: Node, theirs: Computed | None, state: _State) -> None:
        """Compute one value from the model's, compare it with the model's own, and go on with the latter."""
        if all(name in state.values for name in node.inputs):
            unit = max([*(state.units[name] for name in node.inputs), theirs.unit if theirs else UNIT_ROUNDOFF])
            inputs = [state.values[name] for name in node.inputs]
            ours = None
            with suppress(NotRunError):
                ours = execute(node, inputs, unit)
            state.units[node.name] = unit
            if ours is not None:
                state.values[node.name] = ours
                self.executed.add(node.name)
            if ours is not None and theirs is not None:
                if node.shape not in (None, theirs.value.shape):
                    raise _refusal(node, f"has shape {node.shape} in the graph, {theirs.value.shape} in the model")
                # Of infinities a map with zeros makes what is no number.
                overflown = any(not np.isfinite(one.value).all() for one in inputs)
                difference = _difference(node, ours, [theirs], unit, overflown)
                self.largest_difference = max(self.largest_difference, difference)
                self.compared.add(node.name)
        if theirs is not None:
            state.set(node.name, Value(theirs.value), theirs.unit)


@dataclass
class _State:
    """Values that are known while a graph is executed, and the unit roundoff of each."""

    values: dict[str, Value]
    units: dict[str, float]

    def set(self, name: str, value: Value, unit: float) -> None:
        self.values[name] = value
        self.units[name] = unit


def _is_same(node: Node, other: Node | None) -> bool:
    return other is not None and node.operator is other.operator and node.inputs == other.inputs


def _difference(node: Node, ours: Value, theirs: Sequence[Computed], unit: float, overflown: bool) -> float:
    """Return the largest difference of a value from the nearest of the model's, as a part of what rounding may make.

    Raises
    ------
    TranslationError
        If it is more.
    """
    if any(ours.value.shape != one.value.shape for one in theirs):
        raise _refusal(node, f"has shape {ours.value.shape} in the graph, {theirs[0].value.shape} in the model")
    with np.errstate(all="ignore"):
        # Functions of subnormal numbers have no relative errors.
        allowed = 2 * np.asarray(ours.error) + max(SMALLEST, 16 * smallest(unit))
        relative = [_relative_difference(ours.value, one.value, allowed, overflown) for one in theirs]
        least = np.min(relative, axis=0)
    worst = float(np.max(least, initial=0.0))
    if worst > 1:
        at = np.unravel_index(int(np.argmax(least)), least.shape)
        place = ", ".join(str(int(index)) for index in at)
        our_number = float(ours.value[at])
        their_number = float(theirs[0].value[at])
        raise _refusal(
            node,
            f"is {our_number!r} at [{place}] in the graph and {their_number!r} in the model, {worst:.3g} times what "
            "rounding can make",
        )
    return worst


def _relative_difference(ours: FloatArray, theirs: FloatArray, allowed: FloatArray, overflown: bool) -> FloatArray:
    """Return differences as parts of what is allowed.

    What overflows in the model's precision does not count, nor what is no number in both.
    """
    relative = np.asarray(abs(ours - theirs) / allowed)
    is_number_here = np.isfinite(ours) | (np.isnan(ours) & (not overflown))
    counts = np.isfinite(theirs) & is_number_here
    relative[~counts] = 0.0
    relative[np.isnan(relative)] = math.inf
    return relative


def _refusal(node: Node, what: str) -> TranslationError:
    label = node.label or type(node.operator).__name__
    return TranslationError(
        f"The network is not read as it computes: value {visible(node.name)} ({visible(label)}, read as "
        f"{type(node.operator).__name__}) {what}. No bound is given. Please report the operator and its arguments."
    )


# -- operator by operator ----------------------------------------------------------------------------------------------
class _OneByOne:
    """Compares operators one by one, on inputs that are made for each: a `model.Trial`."""

    def __init__(self, graph: Graph) -> None:
        self.nodes = graph.by_name
        self.order = {node.name: number for number, node in enumerate(graph.nodes)}
        self.rng = np.random.default_rng(0)
        self.compared: set[str] = set()

    def __call__(
        self,
        name: str,
        values: Mapping[str, FloatArray],
        free: set[str],
        numbers: Sequence[float],
        run: Callable[[Mapping[str, FloatArray]], Sequence[Computed]],
    ) -> None:
        """Compare one operator with the nodes that it was translated to.

        ``values``: of its inputs. ``free``: names of those that may have other values. ``numbers``: its constants.
        ``run``: executes it.
        """
        nodes = self._nodes_between(values, name)
        # What the graph does not name is a constant there.
        shapes = {source: values[source].shape for source in free if source in self.nodes}
        if not nodes or not shapes:
            return
        linear = all(isinstance(node.operator, Linear | Constant) for node in nodes)
        numbers_of_nodes = itertools.chain.from_iterable(map(_constants_of, nodes))
        for made in near_constants(shapes, [*numbers, *numbers_of_nodes], self.rng, linear=linear):
            inputs = {**values, **made}
            try:
                theirs = run(inputs)
            except Exception:  # no input of this operator
                continue
            self._compare(nodes, inputs, theirs)

    def _nodes_between(self, values: Mapping[str, FloatArray], name: str) -> list[Node]:
        """Return the nodes between some values and another one, in order; none if other values of the model are."""
        between: dict[str, Node] = {}
        waiting = [name]
        while waiting:
            node = self.nodes.get(waiting.pop())
            if node is None or isinstance(node.operator, Input | Unknown | Random):
                return []
            if not isinstance(node.operator, Constant) and not node.name.startswith(name):
                return []
            between[node.name] = node
            waiting += [source for source in node.inputs if source not in values and source not in between]
        return sorted(between.values(), key=lambda node: self.order[node.name])

    def _compare(self, nodes: list[Node], inputs: Mapping[str, FloatArray], theirs: Sequence[Computed]) -> None:
        values = {name: Value(np.asarray(value)) for name, value in inputs.items()}
        unit = max(PRECISE, *(one.unit for one in theirs))
        try:
            for node in nodes:
                values[node.name] = execute(node, [values[name] for name in node.inputs], unit)
        except NotRunError:
            return
        last = nodes[-1]
        _difference(last, values[last.name], theirs, unit, overflown=False)
        self.compared.add(last.name)


def _constants_of(node: Node) -> Iterator[float]:
    """Yield the numbers in the fields of an operator, without large arrays."""
    for _, value in node.operator.named():
        with suppress(TypeError, ValueError):  # no number
            numbers = np.asarray(value, dtype=np.float64)
            if numbers.size <= SMALL:
                yield from numbers.reshape(-1).tolist()


# -- several samples ---------------------------------------------------------------------------------------------------
def _numbers_of_samples(
    graph: Graph,
    model: Model,
    shapes: Shapes,
    region: Ball | Box | None,
) -> tuple[int, ...]:
    """Return the numbers of samples together for which outputs are those of each sample by itself.

    Outputs of deep networks for several samples are summed in other orders: the root of the unit roundoff is allowed.
    """
    if any(not shape or shape[0] != 1 for shape in shapes.values()):
        return ()
    agreeing = []
    nodes = graph.by_name
    unknown = _unknown_values(graph)
    inputs = list(itertools.islice(samples(shapes, region), DIFFERENT_SAMPLES))
    outputs_alone: list[dict[str, Computed]] = []
    for count in SAMPLES:
        order = [number % DIFFERENT_SAMPLES for number in range(count)]
        joined = {name: np.concatenate([inputs[number][name] for number in order]) for name in shapes}
        outputs_together = model.several(joined)
        if outputs_together is None:
            continue
        if not outputs_alone:
            outputs_alone = [_outputs(graph, model.values(sample)) for sample in inputs]
        agrees = []
        for name in graph.outputs:
            if name in outputs_together and name not in unknown:
                alone = [outputs_alone[number][name] for number in order]
                agrees.append(_is_alike(nodes[name], outputs_together[name], alone, count))
        if agrees and all(agrees):
            agreeing.append(count)
    return tuple(agreeing)


def _outputs(graph: Graph, values: Mapping[str, Computed]) -> dict[str, Computed]:
    return {name: values[name] for name in graph.outputs if name in values}


def _unknown_values(graph: Graph) -> set[str]:
    """Return the values that have no bound whatever the inputs are, of one sample or of several."""
    unknown: set[str] = set()
    for node in graph.nodes:
        if isinstance(node.operator, Unknown | Random) or not unknown.isdisjoint(node.inputs):
            unknown.add(node.name)
    return unknown


def _is_alike(node: Node, together: Computed, alone: list[Computed], count: int) -> bool:
    """Whether an output for several samples is the outputs for each, joined along any axis.

    Raises
    ------
    TranslationError
        If it is not.
    """
    for axis in range(alone[0].value.ndim):
        joined = Computed(np.concatenate([one.value for one in alone], axis), together.unit)
        if equal_but_for_rounding(together, joined):
            return True
    raise TranslationError(
        f"The model gives another output for {count} samples together than for each by itself ({visible(node.name)}): "
        "a bound for one sample says nothing of several. Give an input with the number of samples that is meant."
    )
