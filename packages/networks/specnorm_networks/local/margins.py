"""Bound the differences of logits, and the radii that their margins certify; the rules are in `certified.margins`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import and_

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm.proof import Clock, Interval, Upper, counted, known, number
from specnorm_networks import Graph, Multipliers, Node
from specnorm_networks.local.certified import margins as rules
from specnorm_networks.tools import (
    FloatArray,
    Measure,
    Method,
    Run,
    before_added_constants,
    bound,
    check_graph,
    constants,
    prepare,
    runs,
    statements_of,
)


@dataclass(frozen=True, eq=False)
class Margins:
    """Proven constants of the differences of logits.

    Parameters
    ----------
    differences : Interval
        Lipschitz constants of ``f_i - f_j``, shape (classes, classes).
    whole : float
        Lipschitz constant of all logits together.
    note : str
        Remarks: which values count as logits if the network ends with a softmax, and how the graph was compared.
    file : bytes or None
        The ONNX file that was exported from a live model.
    """

    differences: Interval
    whole: float
    note: str = ""
    file: bytes | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        """Return the largest constant in a line."""
        largest = number(float(self.upper.max(initial=0.0)), "upper")
        return f"Margins({counted(len(self.upper), 'class', 'classes')}, each difference of logits at most {largest})"

    @property
    def upper(self) -> FloatArray:
        """Constants of ``f_i - f_j``, shape (classes, classes); 0 on the diagonal."""
        return self.differences.high

    def radii(
        self,
        logits: NDArray[np.floating] | Interval,
        labels: NDArray[np.integer],
    ) -> FloatArray:
        """Return the radius around each sample in which the label cannot change; 0 if the label is not the sample's.

        Parameters
        ----------
        logits : array or Interval, shape (samples, classes)
            Numbers are taken as exact: the framework's rounding in them is not counted.
        labels : array, shape (samples,)

        Returns
        -------
        array, shape (samples,)
        """
        numbers = logits.low if isinstance(logits, Interval) else np.asarray(logits, dtype=np.float64)
        labels = np.asarray(labels)
        classes = len(self.upper)
        has_all_classes = numbers.ndim == 2 and numbers.shape[1] == classes
        if not has_all_classes or labels.shape != numbers.shape[:1]:
            raise MethodError(
                f"logits of shape {numbers.shape} and labels of shape {labels.shape}; expected (samples, {classes}) "
                "and (samples,)."
            )
        require_labels(labels, classes)
        if not np.isfinite(numbers).all():
            raise MethodError("logits that are not finite; there is no margin.")
        claims = rules.radii(logits if isinstance(logits, Interval) else numbers, labels, self.differences)
        return np.array([float(claim) for claim in claims])


def require_labels(labels: NDArray[np.integer], classes: int) -> None:
    """Refuse labels that are not the numbers of classes: `MethodError`."""
    if not labels.size:
        return
    are_whole = np.issubdtype(labels.dtype, np.integer)
    if not are_whole or labels.min() < 0 or labels.max() >= classes:
        raise MethodError(
            f"labels of dtype {labels.dtype} from {labels.min()} to {labels.max()}; expected integers from 0 to "
            f"{classes - 1}."
        )


def margins(
    graph: Graph,
    measure: Measure | None = None,
    *,
    method: Method | None = None,
) -> Margins:
    """Prove an upper bound on the Lipschitz constant of each difference of two logits.

    Parameters
    ----------
    graph : Graph
        A classifier with one input, and one output of shape (1, classes) from a final linear layer.
    measure : Measure, optional
        Proves bounds on the norms of layers.
    method : Product or Multipliers, optional
        Default: ``Multipliers()``.

    Raises
    ------
    MethodError
        If ``graph`` is not a Graph, or the network does not end with a linear layer or has no bound.
    """
    check_graph("margins", graph)
    if not isinstance(measure, Measure | None):
        raise MethodError(f"measure={measure!r:.80}; expected a Measure of specnorm_networks.tools, or None.")
    graph = prepare(before_softmax(graph))
    measure = measure or Measure()
    method = Multipliers() if method is None else method
    head = _head(graph)
    whole = bound(graph, measure, method=method)
    features = bound(replace(graph, outputs=head.inputs), measure, method=method)
    if whole.claim is None or features.claim is None:
        raise MethodError(f"The network has no bound: {whole.unknown[0].reason}.")
    assert head.layer is not None
    rows = head.layer.kernel()
    alpha = rules.constant_of_factor(head)  # claim about the number that multiplies the matrix
    differences = [
        rules.constants_by_network(whole.claim, len(rows)),
        rules.constants_of_differences(rows, np.ones(rows.shape[1]), features.claim, alpha),
    ]
    of_output = (run for run in runs(graph) if run.end == graph.outputs[0] and run.links[-1].single_layer is not None)
    run = next(of_output, None)
    if run is not None and len(run.links) > 1:
        claims = {step.name: step.claim for step in whole.nodes}
        weighted = _constants_by_weights(run, rows, measure, method, [known(claims[run.start]), alpha])
        if weighted is not None:
            differences.append(weighted)
    note = " ".join(filter(None, (whole.origin, graph.note)))
    return Margins(reduce(and_, differences), whole.claim.value, note, whole.file)


def before_softmax(graph: Graph) -> Graph:
    """Return the network without the softmax at its end: logits have the same order as their probabilities."""
    node = graph.by_name[graph.outputs[0]] if len(graph.outputs) == 1 else None
    last = None if node is None else node.known
    if node is None or last is None or len(node.shape or ()) != 2 or last.ordered_along != (1,):
        return graph
    name = type(node.operator).__name__
    note = f"The constants are of the values before {name}, which keeps their order."
    return replace(graph, outputs=node.inputs, note=note)


def _head(graph: Graph) -> Node:
    """Return the matrix at the end, which reads the features."""
    has_one_of_each = len(graph.outputs) == len(graph.inputs) == 1
    node = graph.by_name[graph.outputs[0]] if has_one_of_each else None
    if node is not None:
        node = before_added_constants(node, graph)
        has_two_axes = len(node.shape or ()) == 2
        matrix = node.affine
        if matrix is not None and matrix.is_layer and matrix.axis_of_outputs == -1 and has_two_axes:
            return node
    for other in graph.nodes:
        if other.is_unknown:  # no sizes of later values are known
            raise MethodError(f"The network has no bound: {other.reason}.")
    end = "several outputs" if node is None else node.label or type(node.operator).__name__
    raise MethodError(
        "Margins need a network with one input, and one output of shape (1, classes) from a final linear "
        f"layer; this one ends with {end}."
    )


def _constants_by_weights(
    run: Run,
    rows: FloatArray,
    measure: Measure,
    method: Method,
    before: Sequence[Upper],
) -> Interval | None:
    """Return constants (classes, classes) of the differences of logits, by weights of the features before the head.

    ``rows``: the head's matrix (classes, features). ``before``: claims about factors outside of the run. None if the
    head cannot be cut off the run, or if the search proposes no weights.
    """
    last = len(run.links) - 1
    head = run.links[-1].single_layer
    is_cut = last in run.cut_points and head is not None and head.scale is None
    if not is_cut or not isinstance(method, Multipliers):
        return None
    feature_parts = [(first, min(end, last)) for first, end in method.parts(run) if first < last]
    proposals = method.search(run, [*feature_parts, (last, last + 1)], 1.0, Clock())
    if not proposals:
        return None
    weights = proposals[0]
    part_constants = constants(run, statements_of(run, feature_parts, weights), measure)
    feature_weights = np.repeat(weights[last - 1], run.links[last - 1].repeat)
    return rules.constants_of_differences(rows, feature_weights, *before, *part_constants, *run.part(0, last).factors)
