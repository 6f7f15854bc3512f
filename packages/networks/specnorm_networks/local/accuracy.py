"""Certified accuracy of a graph, sample by sample.

Lipschitz constants, or linear bounds on a sample's ball, prove that its label stays; an attack shows that it changes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm_networks import Graph
from specnorm_networks.local.margins import Margins, before_softmax, margins, require_labels
from specnorm_networks.local.radii import Radii
from specnorm_networks.tools import AnswerWithFile, FloatArray, Measure, Method, html_table

Progress = Callable[[int, int], None]
"""Called after each sample with (number of samples that are done, number of all samples)."""


@dataclass(frozen=True, eq=False, repr=False)
class CertifiedAccuracy(AnswerWithFile):
    """Which samples of a set keep their label under every change of the input up to a radius.

    Parameters
    ----------
    radii : array, shape (radii,)
        Radii that were asked for, in the 2-norm of the network's input.
    radius : array, shape (samples,)
        Largest radius that is proven for each sample; 0 if not even its own label is proven to be right.
    margins : Margins
        Constants of the differences of logits that were used.
    status : array of str, shape (radii, samples)
        "safe": the label is proven to stay. "unsafe": the label is wrong, or an input in the ball has another one.
        "open": neither is shown.
    changed : mapping of int to array
        For unsafe samples, by their number: an input with another label, in the smallest ball in which one was found.
    """

    radii: FloatArray
    radius: FloatArray
    margins: Margins
    status: NDArray[np.str_]
    changed: Mapping[int, FloatArray] = field(default_factory=dict)

    @property
    def file(self) -> bytes | None:  # type: ignore[override]
        """The ONNX file that was exported from a live model, and whose labels these are."""
        return self.margins.file

    @property
    def accuracy(self) -> FloatArray:
        """Share of samples that are proven to keep the right label at each radius, shape (radii,)."""
        if not self.radius.size:
            return np.zeros(len(self.radii))
        is_safe = self.status == "safe"
        return np.asarray(is_safe.mean(axis=1))

    def to_csv(self) -> str:
        """Return lines of ``radius,certified`` with all digits of the numbers."""
        lines = ["radius,certified"]
        for radius, share in zip(self.radii, self.accuracy, strict=True):
            lines.append(f"{float(radius)!r},{float(share)!r}")
        return "\n".join([*lines, ""])

    def _rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("radius", "certified")]
        for radius, share in zip(self.radii, self.accuracy, strict=True):
            rows.append((f"{radius:.6g}", f"{share:.2%}"))
        return rows

    def __str__(self) -> str:
        """Return a table of radii and certified accuracies."""
        lines = [f"{radius:>10}  {share:>9}" for radius, share in self._rows()]
        return "\n".join(filter(None, [*lines, self.margins.note]))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._rows()) + f"<p>{html.escape(self.margins.note)}</p>"


def certified_accuracy(
    graph: Graph,
    x: NDArray[np.floating],
    y: NDArray[np.integer],
    radii: Sequence[float] | NDArray[np.floating],
    *,
    local: bool = False,
    budget: float | None = None,
    margin: float = 0.0,
    method: Method | None = None,
    measure: Measure | None = None,
    margins_everywhere: Margins | None = None,
    progress: Progress | None = None,
) -> CertifiedAccuracy:
    """Certify for each sample that no change of the input up to a radius changes its label, in real arithmetic.

    Constants that hold everywhere come first (`margins`). With ``local``, a sample that they leave open is attacked,
    and then bounded on its ball (`Radii`). Samples are independent: the answer for one does not depend on the others.

    Parameters
    ----------
    graph : Graph
        A classifier with one input, for one sample, and one output of shape (1, classes), computed by a matrix or by a
        softmax after a matrix. If the graph states a box for its input (`within`), labels are certified in the box.
    x, y, radii, local, budget, margin, method, progress
        As for `live.certified_accuracy`. If a sample is "unsafe", its label changes in real arithmetic.
    margins_everywhere : Margins, optional
        Constants of the network that were computed before. Default: those by ``method``.

    Raises
    ------
    MethodError
        If the network does not end with a matrix or has no bound, or samples, labels, radii and margin do not fit.
    """
    radii_asked = np.asarray(radii, dtype=np.float64).reshape(-1)
    measure = measure or Measure()
    if not (np.isfinite(radii_asked).all() and (radii_asked >= 0).all()):
        raise MethodError(f"radii={radii!r}; expected numbers of at least 0.")
    if not (math.isfinite(margin) and margin >= 0):
        raise MethodError(f"margin={margin!r}; expected a number of at least 0.")
    graph = before_softmax(graph)
    if margins_everywhere is None:
        margins_everywhere = margins(graph, measure, method=method)
    # It certifies and attacks one sample at a time.
    classifier = Radii(graph, margins_everywhere, measure, budget, margin)
    if classifier.classes < 2:
        raise MethodError("the network has one output; certified labels need two or more.")
    x = np.asarray(x, dtype=np.float64)
    y = np.asarray(y)
    has_label_of_each = x.ndim >= 1 and y.shape == x.shape[:1]
    has_size_of_input = math.prod(x.shape[1:]) == math.prod(classifier.shape)
    if not has_label_of_each or not has_size_of_input:
        raise MethodError(
            f"x of shape {x.shape} and y of shape {y.shape}; expected samples of shape {classifier.shape[1:]} along "
            "the first axis of both."
        )
    require_labels(y, classifier.classes)
    radius = np.zeros(len(x))
    status = np.full((len(radii_asked), len(x)), "open", dtype="<U6")
    changed: dict[int, FloatArray] = {}
    for number, (sample, label) in enumerate(zip(x, y, strict=True)):
        answer = _certify_sample(classifier, sample.reshape(classifier.shape), int(label), radii_asked, local)
        radius[number] = answer.radius
        status[:, number] = answer.status
        if answer.counterexample is not None:
            changed[number] = answer.counterexample
        if progress is not None:
            progress(number + 1, len(x))
    return CertifiedAccuracy(radii_asked, radius, margins_everywhere, status, changed)


class _SampleAnswer(NamedTuple):
    """What is shown of one sample; fields as those of `CertifiedAccuracy`."""

    radius: float
    status: NDArray[np.str_]
    counterexample: FloatArray | None


def _certify_sample(
    classifier: Radii,
    x: FloatArray,
    label: int,
    radii_asked: FloatArray,
    local: bool,
) -> _SampleAnswer:
    """Return the proven radius of a sample, its status at each radius, and an input that changes its label."""
    by_constants = classifier.by_constants(x, label)
    proven_radius = float(by_constants)
    smallest_unsafe = math.inf
    counterexample = None
    if not proven_radius > 0:
        # The sample itself has another label, unless rounding leaves that open.
        counterexample = classifier.attacked(x, label, 0.0)
        if counterexample is not None:
            smallest_unsafe = 0.0
    status = np.full(len(radii_asked), "open", dtype="<U6")
    smallest_unproven = math.inf
    for number in np.argsort(radii_asked, kind="stable"):
        r = float(radii_asked[number])
        # Strictly less: at the radius by constants two logits may be equal. A proof on a ball holds on its border, too.
        is_safe_by_constants = r < by_constants.value
        is_safe_by_ball = r <= proven_radius and proven_radius > by_constants.value
        is_safe = is_safe_by_constants or is_safe_by_ball
        if local and not is_safe and r < smallest_unsafe:
            changed_input = classifier.attacked(x, label, r)
            if changed_input is not None:
                smallest_unsafe = r
                counterexample = changed_input
            elif r < smallest_unproven and proven_radius > 0:
                claim = classifier.proven(x, label, r)
                if claim is None:
                    smallest_unproven = r
                else:
                    is_safe = True
                    proven_radius = max(proven_radius, claim.value)
        if is_safe:
            status[number] = "safe"
        elif r >= smallest_unsafe:
            status[number] = "unsafe"
    return _SampleAnswer(proven_radius, status, counterexample)
