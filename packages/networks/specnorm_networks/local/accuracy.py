"""Certified accuracy of a network of any framework, file or graph, sample by sample.

Lipschitz constants, or linear bounds on a sample's ball, prove that its label stays; an attack shows that it changes.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm.proof import check_flag, check_number
from specnorm_networks import Graph, network_graph, within
from specnorm_networks.local.margins import Margins, before_softmax, margins, require_labels
from specnorm_networks.local.radii import Radii
from specnorm_networks.tools import (
    AnswerWithFile,
    FloatArray,
    Measure,
    Method,
    Source,
    check_progress,
    html_table,
    numbers,
)


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
    source: Source,
    x: Any,
    y: Any,
    radii: Sequence[float] | NDArray[np.floating],
    *,
    rtol: float = 1e-3,
    method: Method | None = None,
    local: bool = False,
    budget: float | None = None,
    margin: float = 0.0,
    input_range: tuple[float, float] | None = None,
    norm: float = 2,
    progress: Callable[[int, int], None] | None = None,
) -> CertifiedAccuracy:
    """Certify for each sample that no change of the input up to a radius changes its label.

    A sample with the label y is certified at r if ``f_y(x) - f_j(x) > r L_yj`` for all j, where L_yj is a proven upper
    bound on the Lipschitz constant of the difference of these two logits (`specnorm_networks.margins`). Samples are
    independent: the answer for one does not depend on the others.

    Parameters
    ----------
    source : torch module, JAX function, Flax NNX, Equinox or Keras 3 model, path, ModelProto, or Graph
        A classifier with one input that ends with a linear layer, or a softmax after one. If a graph states a box for
        its input (`within`), labels are certified in the box.
    x : array, shape (samples, ...)
        Inputs in the form that the model takes; radii are distances between such inputs. Join the batches of a
        ``DataLoader`` first.
    y : array, shape (samples,)
        Labels, whole numbers.
    radii : sequence of float
        Radii of the balls around the samples, in the 2-norm.
    rtol, method
        As for `network_bound`.
    local : bool, default False
        If constants that hold for all inputs cannot decide a sample, attack it and bound the network on its ball. For
        small convolutional networks, this takes a second or two per sample and radius.
    budget : float, optional
        With ``local``, time limit in seconds for each sample and radius; None: a fixed number of steps.
    margin : float, default 0.0
        Amount by which the label's logit has to exceed every other logit in the whole ball; before a softmax at the
        network's end. Twice the largest error of these logits in a runtime certifies the runtime's labels too.
    input_range : (float, float), optional
        Range of the input's entries. Labels are certified only for inputs in this range.
    norm : float, default 2
        The norm of the radii; only 2 is supported. An error says which radii in the 2-norm cover another norm's.
    progress : callable, optional
        Called after each sample with (number of finished samples, number of samples).

    Returns
    -------
    CertifiedAccuracy
        Proven in real arithmetic, in which the label of an "unsafe" sample changes, too. The rounding errors of the
        logits computed here are included.

    Raises
    ------
    MethodError
        If the model does not end with a linear layer, has no bound, mixes the samples of a batch, or samples and
        labels do not fit.
    """
    check_progress(progress, "done, total")
    check_flag("local", local)
    inputs, labels = _samples(x, y)
    radii_asked = _numbers_of("radii", radii)
    if not (np.isfinite(radii_asked).all() and (radii_asked >= 0).all()):
        raise MethodError(f"radii={radii!r:.80}; expected numbers of at least 0.")
    if not (math.isfinite(check_number("margin", margin)) and margin >= 0):
        raise MethodError(f"margin={margin!r}; expected a number of at least 0.")
    if np.ndim(norm) or norm != 2:
        raise MethodError(f"norm={norm!r}: the radii are in the 2-norm. {_radii_that_cover(norm, inputs[0].size)}")
    graph = source if isinstance(source, Graph) else network_graph(source, inputs.shape[1:])
    if input_range is not None:
        ends = _numbers_of("input_range", input_range)
        if len(ends) != 2:
            raise MethodError(f"input_range={input_range!r:.80}; expected two numbers, such as (0.0, 1.0).")
        low, high = map(float, ends)
        graph = within(graph, low, high)
        axes_of_sample = tuple(range(1, inputs.ndim))
        is_outside = ((inputs < low) | (inputs > high)).any(axis=axes_of_sample)
        if is_outside.any():
            raise MethodError(f"sample {int(is_outside.argmax())} of x lies outside of input_range={input_range!r}.")
    graph = before_softmax(graph)
    measure = Measure(rtol)
    margins_everywhere = margins(graph, measure, method=method)
    # It certifies and attacks one sample at a time.
    classifier = Radii(graph, margins_everywhere, measure, budget, margin)
    if classifier.classes < 2:
        raise MethodError("the network has one output; certified labels need two or more.")
    if inputs[0].size != math.prod(classifier.shape):
        raise MethodError(f"x of shape {inputs.shape}; expected samples of shape {classifier.shape[1:]}.")
    require_labels(labels, classifier.classes)
    radius = np.zeros(len(inputs))
    status = np.full((len(radii_asked), len(inputs)), "open", dtype="<U6")
    changed: dict[int, FloatArray] = {}
    for number, (sample, label) in enumerate(zip(inputs, labels, strict=True)):
        answer = _certify_sample(classifier, sample.reshape(classifier.shape), int(label), radii_asked, local)
        radius[number] = answer.radius
        status[:, number] = answer.status
        if answer.counterexample is not None:
            changed[number] = answer.counterexample
        if progress is not None:
            progress(number + 1, len(inputs))
    return CertifiedAccuracy(radii_asked, radius, margins_everywhere, status, changed)


def _samples(x: Any, y: Any) -> tuple[FloatArray, NDArray[np.integer]]:
    """Return samples and labels of any framework as NumPy's arrays; refuse what is no such pair: `MethodError`."""
    if not (hasattr(x, "shape") or isinstance(x, list | tuple)):
        raise MethodError(
            f"x is of type {type(x).__name__}; expected an array of samples along the first axis, and their labels as "
            "y. Join the batches of a DataLoader: x, y = (torch.cat(parts) for parts in zip(*loader))."
        )
    try:
        given, labels = numbers(x), numbers(y)
    except ValueError:
        raise MethodError("x and y are lists of lists of different lengths; expected arrays.") from None
    if given.dtype.kind not in "fiub" or given.dtype.itemsize > 8:
        raise MethodError(f"x has dtype {given.dtype}; expected real numbers of at most 64 bits.")
    inputs = given.astype(np.float64)
    if labels.ndim != 1:
        raise MethodError(f"y of shape {labels.shape}; expected one whole number for each sample.")
    if inputs.ndim < 2 or labels.shape != inputs.shape[:1] or not len(inputs):
        raise MethodError(
            f"x of shape {inputs.shape} and y of shape {labels.shape}; expected samples along the first axis of both, "
            "at least one."
        )
    if labels.dtype.kind not in "iu":
        raise MethodError(f"y has dtype {labels.dtype}; expected whole numbers, such as y.astype(int).")
    is_finite = np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)
    if not is_finite.all():
        raise MethodError(f"sample {int(is_finite.argmin())} of x has entries that are not finite.")
    if given.dtype.kind in "iu" and np.abs(inputs).max() >= 2**53:
        raise MethodError(f"x has integers up to {np.abs(inputs).max():g}; expected less than 2**53, as float64 holds.")
    return inputs, labels


def _numbers_of(name: str, given: Any) -> FloatArray:
    """Return numbers as one array; refuse what is none: `MethodError`."""
    try:
        return np.asarray(numbers(given), dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise MethodError(f"{name}={given!r:.80}; expected numbers.") from None


def _radii_that_cover(norm: object, entries: int) -> str:
    """Advice on the radii in the 2-norm whose balls contain those of another norm, for inputs of so many entries."""
    if not isinstance(norm, Real | str):
        return "Leave norm out."
    if norm in (math.inf, "inf"):
        return (
            f"A ball of radius r in the maximum norm, for inputs of {entries} entries, lies in one of radius "
            f"r * {entries}**0.5 in the 2-norm: give radii=[r * {entries}**0.5]."
        )
    if norm == 1:
        return "A ball in the 1-norm lies in the one of the same radius in the 2-norm: leave norm out."
    return "Leave norm out."


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
