"""Constants of the differences of logits, and radii that margins certify; the rules are in `certified`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import and_

import numpy as np
from numpy.typing import NDArray

from specnorm import MethodError
from specnorm.proof import Interval, Lower, Upper, known
from specnorm_networks.certified import margins as rules
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.certified.operators.layers import Matrix
from specnorm_networks.certified.patterns import prepared
from specnorm_networks.certified.propagation import past_shifts
from specnorm_networks.certified.reading import Subnetwork, runs
from specnorm_networks.certified.segments import constants
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method, Multipliers
from specnorm_networks.near import bound


@dataclass(frozen=True, eq=False)
class Margins:
    """Proven constants of logits and of their differences.

    Parameters
    ----------
    differences : Interval
        Of ``f_i - f_j``, shape (classes, classes).
    logits : Interval
        Of each logit, shape (classes,).
    whole : float
        Of all logits together.
    """

    differences: Interval
    logits: Interval
    whole: float

    @property
    def upper(self) -> FloatArray:
        """Of ``f_i - f_j``, shape (classes, classes); 0 on the diagonal."""
        return self.differences.high

    @property
    def outputs(self) -> FloatArray:
        """Of each logit, shape (classes,)."""
        return self.logits.high

    def radii(self, logits: NDArray[np.floating] | Interval, labels: NDArray[np.integer]) -> FloatArray:
        """Radius of the ball around each sample in which the label cannot change, rounded down; 0 where it is wrong.

        Parameters
        ----------
        logits : array or Interval, shape (samples, classes)
            Numbers are taken as exact: what the framework rounded in them is not counted.
        labels : array, shape (samples,)

        Returns
        -------
        array, shape (samples,)
        """
        return np.array([float(radius) for radius in self.proven(logits, labels)])

    def proven(self, logits: NDArray[np.floating] | Interval, labels: NDArray[np.integer]) -> list[Lower]:
        """`radii`, as claims."""
        numbers = logits.low if isinstance(logits, Interval) else np.asarray(logits, dtype=np.float64)
        labels = np.asarray(labels)
        classes = len(self.upper)
        if numbers.ndim != 2 or numbers.shape[1] != classes or labels.shape != numbers.shape[:1]:
            raise MethodError(
                f"logits of shape {numbers.shape} and labels of shape {labels.shape}; expected (samples, {classes}) "
                "and (samples,)."
            )
        if labels.size and (not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes):
            raise MethodError(f"labels from {labels.min()} to {labels.max()}; expected whole numbers 0..{classes - 1}.")
        if not np.isfinite(numbers).all():
            raise MethodError("logits that are not finite; there is no margin.")
        return rules.radii(logits if isinstance(logits, Interval) else numbers, labels, self.differences)


def _wrong(logits: NDArray[np.floating] | Interval, labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Whether another logit is the largest; of intervals, for sure."""
    if not isinstance(logits, Interval):
        return np.asarray(logits.argmax(axis=1) != labels)
    return np.asarray(logits.low.max(axis=1) > np.take_along_axis(logits.high, labels[:, None], axis=1)[:, 0])


@dataclass(frozen=True, eq=False)
class CertifiedAccuracy:
    """How many samples of a set keep their label, whatever is added within a radius.

    Parameters
    ----------
    radii : array, shape (radii,)
        In the 2-norm of the network's input.
    accuracy : array, shape (radii,)
        Share of samples that are classified rightly in the whole ball; at radius 0 the accuracy.
    radius : array, shape (samples,)
        Certified for each sample; 0 where the label is wrong.
    status : array of str, shape (radii, samples)
        "safe": the label is proven to stay; "unsafe": it is wrong, or an input of the ball changes it; else "open".
    changed : mapping of int to array
        By sample that is unsafe: an input that changes its label, within the least of the radii where one was found.
    counted : bool
        Whether the rounding of the logits is counted; else they were taken as exact.
    """

    radii: FloatArray
    accuracy: FloatArray
    radius: FloatArray
    margins: Margins
    status: NDArray[np.str_]
    changed: Mapping[int, FloatArray] = field(default_factory=dict)
    counted: bool = True

    @classmethod
    def of(
        cls,
        known: Margins,
        logits: NDArray[np.floating] | Interval,
        labels: NDArray[np.integer],
        radii: Sequence[float],
    ) -> CertifiedAccuracy:
        """From the logits of samples, by constants alone; of numbers, rounding is not counted.

        Raises
        ------
        MethodError
            If shapes, labels or radii are none.
        """
        asked, radius = radii_of(radii), known.radii(logits, labels)
        # Strictly less: at the radius itself two logits may be equal.
        safe = radius > asked[:, None]
        wrong = (radius == 0) & _wrong(logits, np.asarray(labels))
        found = cls.told(known, asked, radius, np.where(safe, "safe", np.where(wrong, "unsafe", "open")))
        return replace(found, counted=isinstance(logits, Interval))

    @classmethod
    def told(
        cls,
        known: Margins,
        radii: FloatArray,
        radius: FloatArray,
        status: NDArray[np.str_],
        changed: Mapping[int, FloatArray] | None = None,
    ) -> CertifiedAccuracy:
        """From what is known of each sample at each radius."""
        share = np.mean(status == "safe", axis=1) if radius.size else np.zeros(len(radii))
        return cls(radii, np.asarray(share, dtype=np.float64), radius, known, status, changed or {})

    def curve(self) -> tuple[FloatArray, FloatArray]:
        """Radii at which the certified accuracy falls, ascending from 0, and what it is from each on."""
        falls = np.unique(np.concatenate([[0.0], self.radius[np.isfinite(self.radius)]]))
        ranks = np.searchsorted(np.sort(self.radius), falls, side="right")
        return falls, 1.0 - ranks / max(1, len(self.radius)) if len(self.radius) else np.zeros(len(falls))

    def to_csv(self) -> str:
        """Lines of ``radius,certified``, the numbers to the last digit."""
        rows = (f"{float(r)!r},{float(a)!r}" for r, a in zip(self.radii, self.accuracy, strict=True))
        return "\n".join(["radius,certified", *rows, ""])

    def __str__(self) -> str:
        """Table of radii and shares."""
        rows = [
            ("radius", "certified"),
            *((f"{r:.6g}", f"{a:.2%}") for r, a in zip(self.radii, self.accuracy, strict=True)),
        ]
        return "\n".join(f"{r:>10}  {a:>9}" for r, a in rows)


def radii_of(radii: Sequence[float]) -> FloatArray:
    """As an array; `MethodError` where they are none."""
    asked = np.asarray(radii, dtype=np.float64).reshape(-1)
    if not (np.isfinite(asked).all() and (asked >= 0).all()):
        raise MethodError(f"radii={radii!r}; expected numbers of at least 0.")
    return asked


def margins(graph: Graph, measure: Measure | None = None, *, method: Method | None = None) -> Margins:
    """Bound each logit, and each difference of two.

    Parameters
    ----------
    graph : Graph
        Of a classifier: one input, one output of shape (1, classes) that a matrix ends with.
    method : Product, Scaled or Multipliers, optional
        Default: ``Multipliers()``.

    Raises
    ------
    MethodError
        If the network does not end with a matrix, or has no bound.
    """
    graph, measure = prepared(graph), measure or Measure()
    method = Multipliers() if method is None else method
    inputs, head = _head(graph)
    whole = bound(graph, measure, method=method)
    features = bound(replace(graph, outputs=inputs), measure, method=method)
    if whole.claim is None or features.claim is None:
        raise MethodError(f"The network has no bound: {whole.unknown[0].reason}.")
    rows, alpha = head.layer.kernel(), rules.before_rows(head)
    found = [
        rules.of_network(whole.claim, len(rows)),
        rules.of_rows(rows, np.ones(rows.shape[1]), features.claim, alpha),
    ]
    run = next((run for run in runs(graph) if run.end == graph.outputs[0] and run.links[-1].alone is not None), None)
    before = {step.name: step.claim for step in whole.nodes}
    if run is not None and len(run.links) > 1:
        weighted = _weighted(run, rows, measure, method, [known(before[run.start]), alpha])
        found += [] if weighted is None else [weighted]
    pairs, alone = (reduce(and_, each) for each in zip(*found, strict=True))
    return Margins(pairs, alone, whole.claim.value)


def _head(graph: Graph) -> tuple[tuple[str, ...], Matrix]:
    """The features' name, and the matrix."""
    node = graph.by_name[graph.outputs[0]] if len(graph.outputs) == len(graph.inputs) == 1 else None
    if node is not None:
        node = past_shifts(node, graph.by_name)
        if isinstance(node.operator, Matrix) and node.operator.side == "right" and len(node.shape or ()) == 2:
            return node.inputs, node.operator
    raise MethodError(
        "Margins need a network with one input and one output that a matrix ends with, of shape (1, classes); this one "
        f"ends with {'several outputs' if node is None else node.label or type(node.operator).__name__}."
    )


def _weighted(
    run: Subnetwork, rows: FloatArray, measure: Measure, method: Method, before: Sequence[Upper]
) -> tuple[Interval, Interval] | None:
    """Through the weights of the features; None where the last layer is not cut off, or no weights are found."""
    last, head = len(run.links) - 1, run.links[-1].alone
    if last not in run.blocks or head is None or head.scale is not None:
        return None
    parts = [(first, min(end, last)) for first, end in method.parts(run) if first < last] + [(last, last + 1)]
    weights = method.weights(run, parts, 1.0)
    if weights is None:
        return None
    ahead = constants(run, parts[:-1], weights, measure)
    factors = [link.factor for link in run.links[:-1]]
    of_features = np.repeat(weights[last - 1], run.links[last - 1].repeat)
    return rules.of_rows(rows, of_features, *before, *ahead, *factors)
