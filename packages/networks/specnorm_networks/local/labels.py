"""Certified accuracy of a network of any framework, file or graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specnorm.errors import MethodError
from specnorm_networks import Graph, network_graph, within
from specnorm_networks.local.accuracy import CertifiedAccuracy
from specnorm_networks.local.accuracy import certified_accuracy as of_graph
from specnorm_networks.tools import Measure, Method, Source, numbers


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
    bound on the Lipschitz constant of the difference of these two logits (`specnorm_networks.margins`).

    Parameters
    ----------
    source : torch module, JAX function, Flax NNX, Equinox or Keras 3 model, path, ModelProto, or Graph
        A classifier that ends with a linear layer.
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
        Amount by which the label's logit has to exceed every other logit in the whole ball. Twice the largest
        logit error of a runtime certifies the runtime's labels too.
    input_range : (float, float), optional
        Range of the input's entries. Labels are certified only for inputs in this range.
    norm : float, default 2
        The norm of the radii; only 2 is supported. An error says which radii in the 2-norm cover another norm's.
    progress : callable, optional
        Called after each sample with (number of finished samples, number of samples).

    Returns
    -------
    CertifiedAccuracy
        Proven in real arithmetic. The rounding errors of the logits computed here are included.

    Raises
    ------
    MethodError
        If the model does not end with a linear layer, has no bound, mixes the samples of a batch, or samples and
        labels do not fit.
    """
    if not (hasattr(x, "shape") or isinstance(x, list | tuple)):
        raise MethodError(
            f"x is of type {type(x).__name__}; expected an array of samples along the first axis, and their labels as "
            "y. Join the batches of a DataLoader: x, y = (torch.cat(parts) for parts in zip(*loader))."
        )
    inputs = numbers(x).astype(np.float64)
    labels = numbers(y)
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
    if norm != 2:
        raise MethodError(f"norm={norm!r}: the radii are in the 2-norm. {_radii_that_cover(norm, inputs[0].size)}")
    graph = source if isinstance(source, Graph) else network_graph(source, inputs.shape[1:])
    if input_range is not None:
        graph = within(graph, *input_range)
        low, high = input_range
        axes_of_sample = tuple(range(1, inputs.ndim))
        is_outside = ((inputs < low) | (inputs > high)).any(axis=axes_of_sample)
        if is_outside.any():
            raise MethodError(f"sample {int(is_outside.argmax())} of x lies outside of input_range={input_range!r}.")
    return of_graph(
        graph, inputs, labels, radii, local=local, budget=budget, margin=margin, method=method,
        measure=Measure(rtol), progress=progress,
    )  # fmt: skip


def _radii_that_cover(norm: object, entries: int) -> str:
    """Advice on the radii in the 2-norm whose balls contain those of another norm, for inputs of so many entries."""
    if norm in (math.inf, "inf"):
        return (
            f"A ball of radius r in the maximum norm, for inputs of {entries} entries, lies in one of radius "
            f"r * {entries}**0.5 in the 2-norm: give radii=[r * {entries}**0.5]."
        )
    if norm == 1:
        return "A ball in the 1-norm lies in the one of the same radius in the 2-norm: leave norm out."
    return "Leave norm out."
