"""Check that a graph computes what its model computes: both are executed, value by value, before anything is claimed.

Both compute in double precision, unless a model insists on another. Each node is executed on the model's own values of
its inputs, so that errors do not add up from node to node: the node's value may differ from the model's by `TOLERANCE`,
relative to the sizes of its terms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Mapping
from typing import TypeAlias

import numpy as np

from specnorm.errors import TranslationError
from specnorm.proof import visible
from specnorm_networks.certified.graph import Graph, Node
from specnorm_networks.certified.operators.base import FloatArray, NotRunError
from specnorm_networks.certified.subjects import Area, Inputs
from specnorm_networks.comparison.execution import Value, execute
from specnorm_networks.comparison.probes import Shapes, probes, samples
from specnorm_networks.model import UNITS, Checked, Computed, Model, NotExecutedError, equal_but_for_rounding, largest

KnownValues: TypeAlias = dict[str, tuple[Value, float]]
"""Values that are known while a graph is executed, each with its unit roundoff, by name."""
TOLERANCE = 2.0**-20
"""Largest relative difference of a value from the model's: files have numbers like 0.1 in single precision, rounded by
2^-24."""
ROUNDINGS = 2**6
"""Number of roundings of a model that insists on another precision than double, where these are more."""
TOLERANCE_OF_LARGEST = 2.0**-10
"""Share of the tolerance that is relative to the largest entry of a value: functions such as ``exp(x) - 1`` cancel."""
SMALLEST = 2.0**-126
"""Single precision's smallest normal number: what is smaller may be flushed to zero."""
SAMPLES = (2, 3, 16)
"""Sizes of the batches that are executed."""
DIFFERENT_SAMPLES = 3
"""Number of different samples in a batch; they are repeated in turn."""


def check(graph: Graph, read: Graph, region: Area | None = None) -> Checked:
    """Execute a graph beside its model, and compare all values.

    Parameters
    ----------
    graph : Graph
        The graph as it was translated from the model.
    read : Graph
        The same graph with recognized patterns; the bound will be proven of this one.
    region : Area, optional
        Region from which inputs are taken.

    Raises
    ------
    TranslationError
        If a value differs by more than rounding. The message names the first such node, both numbers and the operator.
    MethodError
        If a size of an input is open.
    """
    model = graph.model
    if model is None:
        return Checked()
    shapes = graph.input_shapes
    comparison = _Comparison()
    count = 0
    try:
        for inputs in probes(graph, shapes, region):
            model_values = model.values(inputs)
            comparison.compare(graph, inputs, model_values)
            comparison.compare(read, inputs, model_values, compared_graph=graph)
            count += 1
        batch_sizes = _batch_sizes(graph, model, shapes, region)
    except NotExecutedError as error:
        if model.file is None:
            return Checked(reason=str(error))
        return _checked_by_batches(graph, read, model, shapes, region, str(error))
    return Checked(
        inputs=count,
        values=len(comparison.compared),
        missed=_missed_values(read, comparison.compared, comparison.executed),
        difference=comparison.largest_difference,
        in_double=comparison.in_double,
        samples=batch_sizes,
    )


def _missed_values(graph: Graph, compared: set[str], executed: set[str]) -> tuple[str, ...]:
    """Return the names of values that the outputs depend on and that were not compared.

    A value that was executed also counts as compared if all its readers count as compared. The exceptions are outputs,
    and values without readers, unless the node is `derived`.
    """
    covered = set(compared)
    graph = graph.pruned()
    missed = []
    for node in reversed(graph.nodes):
        node_readers = [reader.name for reader in graph.readers[node.name]]
        is_inner = bool(node_readers) and node.name not in graph.outputs
        has_covered_readers = covered.issuperset(node_readers) and (is_inner or node.derived)
        is_covered_by_readers = node.name in executed and has_covered_readers
        is_source = node.is_input or node.is_constant  # these have nothing to compare
        if node.name in covered or is_source or is_covered_by_readers:
            covered.add(node.name)
        else:
            missed.append(node.name)
    return tuple(reversed(missed))


# -- value by value ----------------------------------------------------------------------------------------------------
class _Comparison:
    """Compares every value of graphs with the model's, input by input."""

    def __init__(self) -> None:
        self.compared: set[str] = set()
        self.executed: set[str] = set()
        self.largest_difference = 0.0
        self.in_double = True

    def compare(
        self,
        graph: Graph,
        inputs: Inputs,
        model_values: Mapping[str, Computed],
        compared_graph: Graph | None = None,
    ) -> None:
        """Compare the values of a graph for one input.

        ``compared_graph`` is a graph whose values were compared for this input before. Nodes that it also has are not
        compared again.
        """
        nodes_before = {} if compared_graph is None else compared_graph.by_name
        coarsest_unit = max((theirs.unit for theirs in model_values.values()), default=UNITS["float64"])
        self.in_double &= coarsest_unit <= UNITS["float64"]
        known: KnownValues = {}
        unread_after = graph.last_readers()
        for number, node in enumerate(graph.nodes):
            theirs = model_values.get(node.name)
            was_compared = _is_same(node, nodes_before.get(node.name)) and model_values.keys() >= {*node.inputs}
            if node.is_input:
                if theirs is None and node.name in inputs:
                    known[node.name] = Value(inputs[node.name]), UNITS["float64"]
            elif theirs is None or not was_compared:
                self._execute_and_compare(node, theirs, known, graph.fixed_values, coarsest_unit)
            if theirs is not None:
                # Later nodes are computed from the model's value, if there is one.
                known[node.name] = Value(theirs.value), theirs.unit
            for name in unread_after.get(number, ()):
                known.pop(name, None)

    def _execute_and_compare(
        self,
        node: Node,
        theirs: Computed | None,
        known: KnownValues,
        constants: Container[str],
        coarsest_unit: float,
    ) -> None:
        """Compute a value from the model's values of its inputs, and compare it with the model's value.

        A value that the model does not give may be rounded as coarsely as any.
        """
        if not all(name in known for name in node.inputs):
            return
        inputs = [known[name][0] for name in node.inputs]
        own_unit = coarsest_unit if theirs is None else theirs.unit
        unit = max([own_unit, *(known[name][1] for name in node.inputs)])
        try:
            tolerance = max(TOLERANCE, ROUNDINGS * unit)
            ours = execute(node, inputs, tolerance)
        except NotRunError:
            return
        known[node.name] = ours, unit
        self.executed.add(node.name)
        if node.affine and np.isnan(ours.value).any():
            operands = [known[name][0].value for name in node.inputs if name not in constants]
            if operands and all(np.isfinite(operand).all() for operand in operands):
                raise TranslationError(
                    f"Value {visible(node.name)} ({visible(node.label)}) of the model contains NaN: "
                    "look for NaN or infinity in its weights and biases."
                )
        if theirs is None:
            return
        if node.shape not in (None, theirs.value.shape):
            raise _refusal(node, f"has shape {node.shape} in the graph, {theirs.value.shape} in the model")
        # Infinite inputs times zeros of a kernel are nan here; the model may skip these zeros.
        overflown = any(not np.isfinite(operand.value).all() for operand in inputs)
        difference = _difference(node, ours, theirs, tolerance, overflown)
        self.largest_difference = max(self.largest_difference, difference)
        if (np.isfinite(theirs.value) & np.isfinite(ours.error)).any() or not theirs.value.size:
            self.compared.add(node.name)


def _is_same(node: Node, other: Node | None) -> bool:
    return other is not None and node.operator is other.operator and node.inputs == other.inputs


def _difference(node: Node, ours: Value, theirs: Computed, tolerance: float, overflown: bool) -> float:
    """Return the largest difference of a value from the model's, divided by the allowed difference.

    Raises
    ------
    TranslationError
        If a difference is larger than is allowed.
    """
    if ours.value.shape != theirs.value.shape:
        raise _refusal(node, f"has shape {ours.value.shape} in the graph, {theirs.value.shape} in the model")
    with np.errstate(all="ignore"):
        allowed = np.asarray(ours.error) + tolerance * TOLERANCE_OF_LARGEST * largest(ours.value) + SMALLEST
        relative = _relative_difference(ours.value, theirs.value, allowed, overflown)
    worst = float(np.max(relative, initial=0.0))
    if worst > 1:
        entry = np.unravel_index(int(np.argmax(relative)), relative.shape)
        place = ", ".join(str(int(index)) for index in entry)
        our_number = float(ours.value[entry])
        their_number = float(theirs.value[entry])
        raise _refusal(
            node,
            f"is {our_number!r} at [{place}] in the graph and {their_number!r} in the model, {worst:.3g} times the "
            "allowed difference",
        )
    return worst


def _relative_difference(ours: FloatArray, theirs: FloatArray, allowed: FloatArray, overflown: bool) -> FloatArray:
    """Return the differences of the entries, divided by the allowed ones.

    An entry is not compared (its difference is 0) in three cases: the model's value is not finite, ours is infinite, or
    ours is nan and ``overflown``. If ours is nan in another case, the difference is infinite.
    """
    relative = np.asarray(abs(ours - theirs) / allowed)
    is_unexplained_nan = np.isnan(ours) & (not overflown)
    counts = np.isfinite(theirs) & (np.isfinite(ours) | is_unexplained_nan)
    relative[~counts] = 0.0
    relative[np.isnan(relative)] = math.inf
    return relative


def _refusal(node: Node, predicate: str) -> TranslationError:
    """Return the error that a value of the graph differs; ``predicate`` says in which way."""
    label = node.label or type(node.operator).__name__
    return TranslationError(
        f"The network is not read as it computes: value {visible(node.name)} ({visible(label)}, read as "
        f"{type(node.operator).__name__}) {predicate}. No bound is given. Please report the operator and its "
        "arguments."
    )


# -- several samples ---------------------------------------------------------------------------------------------------
def _batch_sizes(
    graph: Graph,
    model: Model,
    shapes: Shapes,
    region: Area | None,
) -> tuple[int, ...]:
    """Return the sizes of batches whose outputs are those of each sample by itself.

    A framework sums in another order for several samples, so outputs may differ by the root of the unit roundoff.
    """
    unknown = _unknown_values(graph)

    def outputs_alone(sample: Inputs) -> dict[str, FloatArray]:
        values = model.values(sample)
        return {name: values[name].value for name in graph.outputs if name in values and name not in unknown}

    return _agreeing_batches(graph, model, shapes, region, outputs_alone)


def _checked_by_batches(
    graph: Graph,
    read: Graph,
    model: Model,
    shapes: Shapes,
    region: Area | None,
    reason: str,
) -> Checked:
    """Compare the outputs of a live model that does not run on one sample: batches with the graph's samples.

    ``reason``: why it does not run on one. `TranslationError` if it runs on no batch either.
    """
    agreeing = _agreeing_batches(graph, model, shapes, region, graph.run)
    if not agreeing:
        raise TranslationError(f"No bound is given, since no part of the model could be executed: {reason}.")
    missed = tuple(node.name for node in read.pruned().nodes if not (node.is_input or node.is_constant))
    return Checked(inputs=DIFFERENT_SAMPLES, missed=missed, samples=agreeing, reason="")


def _agreeing_batches(
    graph: Graph,
    model: Model,
    shapes: Shapes,
    region: Area | None,
    outputs_alone: Callable[[Inputs], Mapping[str, FloatArray]],
) -> tuple[int, ...]:
    """Return the sizes of batches that the model runs on, and whose outputs are those of each sample by itself.

    ``outputs_alone``: returns the outputs for one sample, by name, among other values.
    """
    if any(not shape or shape[0] != 1 for shape in shapes.values()):
        return ()
    inputs = list(itertools.islice(samples(shapes, region), DIFFERENT_SAMPLES))
    agreeing = []
    alone: list[Mapping[str, FloatArray]] = []
    for count in SAMPLES:
        order = [number % DIFFERENT_SAMPLES for number in range(count)]
        joined = {name: np.concatenate([inputs[number][name] for number in order]) for name in shapes}
        together = model.several(joined)
        if together is None:
            continue
        alone = alone or [outputs_alone(sample) for sample in inputs]
        names = [name for name in graph.outputs if name in together and name in alone[0]]
        for name in names:
            _require_alike(graph.by_name[name], together[name], [alone[number][name] for number in order])
        if names:
            agreeing.append(count)
    return tuple(agreeing)


def _unknown_values(graph: Graph) -> set[str]:
    """Return the names of values without a bound: those of unknown or random operators, and all that read them."""
    unknown: set[str] = set()
    for node in graph.nodes:
        if node.is_unknown or node.is_random or not unknown.isdisjoint(node.inputs):
            unknown.add(node.name)
    return unknown


def _require_alike(node: Node, together: Computed, alone: list[FloatArray]) -> None:
    """Refuse an output of a batch that is not the joined outputs of its samples, along any axis: `TranslationError`."""
    for axis in range(alone[0].ndim):
        joined = Computed(np.concatenate(alone, axis), together.unit)
        if equal_but_for_rounding(together, joined):
            return
    if not np.isfinite(together.value).all():
        raise TranslationError(
            f"The model's output {visible(node.name)} contains NaN or infinity at a random input: look for them in its "
            "weights."
        )
    raise TranslationError(
        f"The model gives another output for {len(alone)} samples together than for each by itself "
        f"({visible(node.name)}): a bound for one sample does not hold for several. Give an input with the intended "
        "number of samples."
    )
