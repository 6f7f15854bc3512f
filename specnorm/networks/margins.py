"""How fast the difference of two logits can change, and the radius that a margin certifies.

``f_i - f_j = (w_i - w_j) h + const`` for the last layer's rows w and the features h, so that with weights q of the
features (`segments`) its constant is that of ``q h`` times ``|(w_i - w_j) / q|``: never above root of two times the
network's own, and less where rows are alike (Tsuzuku, Sato, Sugiyama, "Lipschitz-Margin Training", NeurIPS 2018, bound
it by the root of two).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from specnorm.certified import host
from specnorm.certified.network.affine_maps import Subnetwork
from specnorm.certified.network.graph import Graph
from specnorm.certified.network.kernels import ROUNDINGS
from specnorm.certified.network.operators.base import FloatArray
from specnorm.certified.network.operators.layers import Matrix
from specnorm.certified.network.subnetworks import runs
from specnorm.errors import MethodError
from specnorm.networks.bounding import constants, past_shifts, prepared
from specnorm.networks.measuring import Measure
from specnorm.networks.methods import Method, Multipliers
from specnorm.networks.near import bound


@dataclass(frozen=True, eq=False)
class Margins:
    """Proven constants of logits and of their differences.

    Parameters
    ----------
    upper : array, shape (classes, classes)
        Of ``f_i - f_j``; 0 on the diagonal.
    outputs : array, shape (classes,)
        Of each logit.
    whole : float
        Of all logits together.
    """

    upper: FloatArray
    outputs: FloatArray
    whole: float

    def radii(self, logits: NDArray[np.floating], labels: NDArray[np.integer]) -> FloatArray:
        """Radius of the ball around each sample in which the label cannot change, rounded down; 0 where it is wrong.

        Parameters
        ----------
        logits : array, shape (samples, classes)
            Taken as exact: what the framework rounded in them is not counted.
        labels : array, shape (samples,)

        Returns
        -------
        array, shape (samples,)
        """
        logits = np.asarray(logits, dtype=np.float64)
        labels = np.asarray(labels)
        classes = len(self.upper)
        if logits.ndim != 2 or logits.shape[1] != classes or labels.shape != logits.shape[:1]:
            raise MethodError(
                f"logits of shape {logits.shape} and labels of shape {labels.shape}; expected (samples, {classes}) and "
                "(samples,)."
            )
        if labels.size and (not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= classes):
            raise MethodError(f"labels from {labels.min()} to {labels.max()}; expected whole numbers 0..{classes - 1}.")
        if not np.isfinite(logits).all():
            raise MethodError("logits that are not finite; there is no margin.")
        own = np.take_along_axis(logits, labels[:, None], axis=1)
        margin = host.sub_down(own, logits)
        with np.errstate(divide="ignore", invalid="ignore"):
            radius = np.where(margin > 0, host.next_down(margin / self.upper[labels]), 0.0)
        radius[np.arange(len(labels)), labels] = np.inf
        found: FloatArray = np.min(radius, axis=1, initial=np.inf)
        return found


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
    """

    radii: FloatArray
    accuracy: FloatArray
    radius: FloatArray
    margins: Margins

    @classmethod
    def of(
        cls,
        known: Margins,
        logits: NDArray[np.floating],
        labels: NDArray[np.integer],
        radii: Sequence[float],
        radius: FloatArray | None = None,
    ) -> CertifiedAccuracy:
        """From the logits of samples; ``radius``: of each, where more is known than the margins give.

        Raises
        ------
        MethodError
            If shapes, labels or radii are none.
        """
        asked = np.asarray(radii, dtype=np.float64).reshape(-1)
        if not (np.isfinite(asked).all() and (asked >= 0).all()):
            raise MethodError(f"radii={radii!r}; expected numbers of at least 0.")
        radius = known.radii(logits, labels) if radius is None else radius
        # Strictly less: at the radius itself two logits may be equal.
        accuracy = [float(np.mean(radius > r)) if radius.size else 0.0 for r in asked]
        return cls(asked, np.asarray(accuracy), radius, known)

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
    if whole.upper is None or features.upper is None:
        raise MethodError(f"The network has no bound: {whole.unknown[0].reason}.")
    rows, alpha = head.layer.kernel(), abs(head.alpha)
    pairs, alone = _lengths(rows, np.ones(rows.shape[1]), host.mul_up(features.upper, alpha))
    run = next((run for run in runs(graph) if run.end == graph.outputs[0] and run.links[-1].alone is not None), None)
    before = {step.name: step.upper for step in whole.nodes}
    if run is not None and len(run.links) > 1:
        weighted = _weighted(run, rows, measure, method, host.mul_up(before[run.start] or 0.0, alpha))
        if weighted is not None:
            pairs, alone = np.minimum(pairs, weighted[0]), np.minimum(alone, weighted[1])
    most = host.mul_up(host.root_up(2), whole.upper)
    off = ~np.eye(len(rows), dtype=np.bool_)
    return Margins(np.where(off, np.minimum(pairs, most), 0.0), np.minimum(alone, whole.upper), whole.upper)


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
    run: Subnetwork, rows: FloatArray, measure: Measure, method: Method, before: float
) -> tuple[FloatArray, FloatArray] | None:
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
    return _lengths(rows, of_features, host.mul_up(before, *ahead, *factors))


def _lengths(rows: FloatArray, weights: FloatArray, constant: float) -> tuple[FloatArray, FloatArray]:
    """``constant |(w_i - w_j) / q|`` and ``constant |w_i / q|``, rounded up."""
    # Divided by a power of two, no entry that matters vanishes, whatever it is divided by or multiplied with.
    exponent = math.frexp(float(np.max(np.abs(rows), initial=0.0)))[1]
    wide = np.ldexp(rows, -exponent) / weights
    size = wide.shape[1]
    vanished = size * host.next_up(2.0**-1000 / float(np.min(weights, initial=1.0)))
    alone = host.inflate(host.norm_up(wide), ROUNDINGS) + vanished
    differences = np.stack([host.norm_up(wide - row) for row in wide])
    # Entries of both rows are off by a few roundings each, their difference by one.
    lost = ROUNDINGS * math.ulp(1.0) * (alone[:, None] + alone)
    each = (host.inflate(host.next_up(constant * x), 4) for x in (differences + lost, alone))
    pairs, alone = (host.next_up(np.ldexp(x, exponent)) for x in each)
    return pairs, alone
