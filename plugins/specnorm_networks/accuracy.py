"""Certified accuracy of a graph, sample by sample: by constants, by linear bounds on its ball, and by an attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from specnorm import MethodError
from specnorm_networks.certified.graph import Graph
from specnorm_networks.certified.operators.base import FloatArray
from specnorm_networks.logit_margins import CertifiedAccuracy, Margins, margins, radii_of
from specnorm_networks.measuring import Measure
from specnorm_networks.methods import Method
from specnorm_networks.radii import Radii

Tell = Callable[[int, int], None]
"""Is called with the samples that are done, and their number."""


def certified_accuracy(
    graph: Graph,
    x: NDArray[np.floating],
    y: NDArray[np.integer],
    radii: Sequence[float],
    *,
    local: bool = False,
    budget: float | None = None,
    execution: str | None = None,
    method: Method | None = None,
    measure: Measure | None = None,
    known: Margins | None = None,
    progress: Tell | None = None,
) -> CertifiedAccuracy:
    """Share of samples whose label no change within a radius can move, in real arithmetic or as executed.

    Constants everywhere come first (`margins`). With ``local``, what they leave open is attacked, then bounded on its
    ball (`Radii`). Each sample is looked at alone: the numbers do not depend on the others.

    Parameters
    ----------
    graph : Graph
        Of a classifier: one input of one sample, and one output of shape (1, classes) that a matrix ends with. Where a
        box is stated for its input (`within`), labels are certified in the box.
    x : array, shape (samples, ...)
    y : array of int, shape (samples,)
    radii : sequence of float
        In the 2-norm.
    local : bool, default False
        Look at what constants everywhere leave open.
    budget : float, optional
        Seconds that a sample may take at each radius; None: a fixed number of steps.
    execution : {"float32", "float16", "bfloat16"}, optional
        How the network is executed: what is stored in that precision, and summed in float32 in any order, has the label
        for every input in the ball whose entries are numbers of that precision. None: real arithmetic. Where a sample
        is "unsafe", its label changes in real arithmetic.
    method : Product, Scaled or Multipliers, optional
        For the constants everywhere; default: ``Multipliers()``.
    known : Margins, optional
        Of the network, in place of those by ``method``.
    progress : callable, optional
        ``progress(samples that are done, all)``.

    Raises
    ------
    MethodError
        If the network does not end with a matrix or has no bound, or samples, labels and radii do not fit, or what an
        operator rounds where it is executed is not known.
    """
    asked, measure = radii_of(radii), measure or Measure()
    known = margins(graph, measure, method=method) if known is None else known
    of = Radii(graph, known, measure, budget, execution)
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y)
    if x.ndim < 1 or y.shape != x.shape[:1] or math.prod(x.shape[1:]) != math.prod(of.shape):
        raise MethodError(
            f"x of shape {x.shape} and y of shape {y.shape}; expected samples of shape {of.shape[1:]} along the first "
            "axis of both."
        )
    if y.size and (not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= of.classes):
        raise MethodError(f"labels from {y.min()} to {y.max()}; expected whole numbers 0..{of.classes - 1}.")
    radius, status = np.zeros(len(x)), np.full((len(asked), len(x)), "open", dtype="<U6")
    changed: dict[int, FloatArray] = {}
    for at, (sample, label) in enumerate(zip(x, y, strict=True)):
        radius[at], status[:, at], found = _of_sample(of, sample.reshape(of.shape), int(label), asked, local)
        if found is not None:
            changed[at] = found
        if progress is not None:
            progress(at + 1, len(x))
    return CertifiedAccuracy.told(known, asked, radius, status, changed)


def _of_sample(
    of: Radii, x: FloatArray, label: int, asked: FloatArray, local: bool
) -> tuple[float, NDArray[np.str_], FloatArray | None]:
    """Its radius, what is known at each of those asked, and an input that changes its label."""
    by_constants = of.by_constants(x, label)
    radius, unsafe, example = float(by_constants), math.inf, None
    if not radius > 0:
        # Not even at the sample itself, unless rounding leaves that open.
        example = of.attacked(x, label, 0.0)
        unsafe = math.inf if example is None else 0.0
    status = np.full(len(asked), "open", dtype="<U6")
    failed = math.inf if local else -math.inf
    for number in np.argsort(asked, kind="stable"):
        r = float(asked[number])
        # Strictly less: at the radius by constants two logits may be equal.
        safe = r < by_constants.value or (r <= radius and radius > by_constants.value)
        if not safe and r < failed and r < unsafe and radius > 0:
            found = of.attacked(x, label, r)
            if found is not None:
                unsafe, example = r, found
            else:
                proven = of.proven(x, label, r)
                failed = r if proven is None else failed
                radius, safe = (radius, False) if proven is None else (max(radius, proven.value), True)
        elif local and not safe and r < unsafe:
            found = of.attacked(x, label, r)
            unsafe, example = (unsafe, example) if found is None else (r, found)
        status[number] = "safe" if safe else "unsafe" if r >= unsafe else "open"
    return radius, status, example
