"""Certified accuracy of a graph, sample by sample: by constants, by linear bounds on its ball, and by an attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.exported_file import OfExportedFile
from specnorm_networks.logit_margins import Margins, margins, of_logits
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method
from specnorm_networks.radii import Radii

Tell = Callable[[int, int], None]
"""Is called with the samples that are done, and their number."""


@dataclass(frozen=True, eq=False)
class CertifiedAccuracy(OfExportedFile):
    """How many samples of a set keep their label, whatever is added within a radius.

    Parameters
    ----------
    radii : array, shape (radii,)
        In the 2-norm of the network's input.
    radius : array, shape (samples,)
        Certified for each sample; 0 where the label is wrong.
    margins : Margins
    status : array of str, shape (radii, samples)
        "safe": the label is proven to stay; "unsafe": it is wrong, or an input of the ball changes it; else "open".
    changed : mapping of int to array
        By sample that is unsafe: an input that changes its label, within the least of the radii where one was found.
    """

    radii: FloatArray
    radius: FloatArray
    margins: Margins
    status: NDArray[np.str_]
    changed: Mapping[int, FloatArray] = field(default_factory=dict)

    @property
    def file(self) -> bytes | None:  # type: ignore[override]
        """The ONNX file that was exported from a live model, which the labels are of."""
        return self.margins.file

    @property
    def accuracy(self) -> FloatArray:
        """Share of samples that are classified rightly in the whole ball, shape (radii,); at radius 0 the accuracy."""
        safe = self.status == "safe"
        return np.asarray(safe.mean(axis=1) if self.radius.size else np.zeros(len(self.radii)))

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
        rows = [("radius", "certified")]
        rows += [(f"{r:.6g}", f"{a:.2%}") for r, a in zip(self.radii, self.accuracy, strict=True)]
        lines = [f"{r:>10}  {a:>9}" for r, a in rows]
        return "\n".join([*lines, self.margins.note] if self.margins.note else lines)


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
    known: Margins | None = None,
    progress: Tell | None = None,
) -> CertifiedAccuracy:
    """Share of samples whose label no change within a radius can move, in real arithmetic.

    Constants everywhere come first (`margins`). With ``local``, what they leave open is attacked, then bounded on its
    ball (`Radii`). Each sample is looked at alone: the numbers do not depend on the others.

    Parameters
    ----------
    graph : Graph
        Of a classifier: one input of one sample, and one output of shape (1, classes) that a matrix ends with, or
        a softmax behind it. Where a box is stated for its input (`within`), labels are certified
        in the box.
    x, y, radii, local, budget, margin, method, progress
        As for `live.certified_accuracy`. Where a sample is "unsafe", its label changes in real arithmetic.
    known : Margins, optional
        Of the network, in place of those by ``method``.

    Raises
    ------
    MethodError
        If the network does not end with a matrix or has no bound, or samples, labels, radii and margin do not fit.
    """
    asked = np.asarray(radii, dtype=np.float64).reshape(-1)
    measure = measure or Measure()
    if not (np.isfinite(asked).all() and (asked >= 0).all()):
        raise MethodError(f"radii={radii!r}; expected numbers of at least 0.")
    if not (math.isfinite(margin) and margin >= 0):
        raise MethodError(f"margin={margin!r}; expected a number of at least 0.")
    graph = of_logits(graph)
    known = margins(graph, measure, method=method) if known is None else known
    of = Radii(graph, known, measure, budget, margin)
    x = np.asarray(x, dtype=np.float64)
    y = np.asarray(y)
    if x.ndim < 1 or y.shape != x.shape[:1] or math.prod(x.shape[1:]) != math.prod(of.shape):
        raise MethodError(
            f"x of shape {x.shape} and y of shape {y.shape}; expected samples of shape {of.shape[1:]} along the first "
            "axis of both."
        )
    if y.size and (not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= of.classes):
        raise MethodError(f"labels from {y.min()} to {y.max()}; expected whole numbers 0..{of.classes - 1}.")
    radius = np.zeros(len(x))
    status = np.full((len(asked), len(x)), "open", dtype="<U6")
    changed: dict[int, FloatArray] = {}
    for at, (sample, label) in enumerate(zip(x, y, strict=True)):
        radius[at], status[:, at], found = _of_sample(of, sample.reshape(of.shape), int(label), asked, local)
        if found is not None:
            changed[at] = found
        if progress is not None:
            progress(at + 1, len(x))
    return CertifiedAccuracy(asked, radius, known, status, changed)


def _of_sample(
    of: Radii,
    x: FloatArray,
    label: int,
    asked: FloatArray,
    local: bool,
) -> tuple[float, NDArray[np.str_], FloatArray | None]:
    """Its radius, what is known at each of those asked, and an input that changes its label."""
    by_constants = of.by_constants(x, label)
    radius = float(by_constants)
    unsafe = math.inf
    example = None
    if not radius > 0:
        # Not even at the sample itself, unless rounding leaves that open.
        example = of.attacked(x, label, 0.0)
        unsafe = math.inf if example is None else 0.0
    status = np.full(len(asked), "open", dtype="<U6")
    failed = math.inf
    for number in np.argsort(asked, kind="stable"):
        r = float(asked[number])
        # Strictly less: at the radius by constants two logits may be equal.
        safe = r < by_constants.value or (r <= radius and radius > by_constants.value)
        if local and not safe and r < unsafe:
            found = of.attacked(x, label, r)
            if found is not None:
                unsafe = r
                example = found
            elif r < failed and radius > 0:
                proven = of.proven(x, label, r)
                safe = proven is not None
                radius, failed = (radius, r) if proven is None else (max(radius, proven.value), failed)
        status[number] = "safe" if safe else "unsafe" if r >= unsafe else "open"
    return radius, status, example
