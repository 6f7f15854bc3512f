"""Certified accuracy of a classifier: the margins of its logits against proven constants of their differences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from specnorm.certified.interval import Interval
from specnorm.certified.network.margins import of_executed
from specnorm.errors import MethodError
from specnorm.networks import CertifiedAccuracy, Graph, Measure, Method, margins, within
from specnorm.networks import certified_accuracy as of_graph
from specnorm.networks.radii import executed
from specnorm_torch.baking import baked, computed
from specnorm_torch.modules import at_inference
from specnorm_torch.networks import module_of, network_graph


def certified_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    radii: Sequence[float],
    *,
    rtol: float = 1e-3,
    bake: bool = False,
    method: Method | None = None,
    batch: int = 256,
    local: bool = False,
    budget: float | None = None,
    execution: str | None = None,
    input_range: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CertifiedAccuracy:
    """Share of samples whose label no change within a radius can move.

    A sample is certified at r if ``f_y(x) - f_j(x) > r L_yj`` for all j, with L_yj the proven constant of the
    difference of these two logits (`specnorm.networks.margins`).

    Parameters
    ----------
    model : Module
        A classifier that ends with a linear layer; run in ``eval()``, its mode is as before.
    x : Tensor, shape (samples, ...)
        Inputs, as the model takes them: radii are distances between such.
    y : Tensor, shape (samples,)
        Labels, whole numbers.
    radii : sequence of float
        In the 2-norm.
    rtol, bake, method
        As for `network_bound`. The logits are of the copy, where the bound is of one.
    batch : int, default 256
        Samples at a time.
    local : bool, default False
        Attack and bound each sample on its own ball where the constants everywhere leave it open
        (`specnorm.networks.certified_accuracy`): a second or two a sample and radius for small convolutional networks.
        The logits are computed anew then, with their rounding counted.
    budget : float, optional
        Seconds that a sample may take at each radius, with ``local``; None: a fixed number of steps.
    execution : {"float32", "float16", "bfloat16"}, optional
        How the model is executed, as after ``model.to(dtype)``, on inputs of that precision; None: real arithmetic.
        See `specnorm.networks.certified_accuracy`.
    input_range : (float, float), optional
        Between which all entries of inputs lie: nothing is said of others.
    progress : callable, optional
        ``progress(samples that are done, all)``, with ``local``.

    Returns
    -------
    CertifiedAccuracy
        Proven in real arithmetic, or as executed. The logits' rounding is counted, unless ``counted`` is false: without
        ``local``, where it is not known what an operator rounds, they are the model's own and taken as exact.

    Raises
    ------
    MethodError
        If the model does not end with a linear layer, has no bound, mixes the samples of a batch, or samples and
        labels do not fit.
    """
    if x.ndim < 2 or y.shape != x.shape[:1] or not len(x):
        raise MethodError(
            f"x of shape {tuple(x.shape)} and y of shape {tuple(y.shape)}; expected samples along the first axis of "
            "both, at least one."
        )
    if execution is not None and not bake and any(map(computed, model.modules())):
        raise MethodError(
            f"execution={execution!r}: kernels that are computed before each call are rounded otherwise there. Give "
            "bake=True, and execute the baked model (specnorm_torch.bake_)."
        )
    graph = network_graph(baked(model) if bake else model, x[:1])
    model = module_of(graph)  # perhaps a copy with its kernels as they are now
    graph = graph if input_range is None else within(graph, *input_range)
    measure = Measure(rtol)
    known = margins(graph, measure, method=method)
    with at_inference(model):
        logits = torch.cat([model(part) for part in torch.split(x, batch)])
        alone = model(x[:1])
    if not torch.allclose(alone, logits[:1], rtol=1e-2, atol=1e-2 * float(alone.abs().max())):
        raise MethodError("the logits of a sample depend on the others of its batch; the constants are of one alone.")
    numbers, labels = logits.double().cpu().numpy(), y.cpu().numpy()
    inputs = x.detach().cpu().double().numpy()
    if not local and execution is None:
        of = _in_double(model, graph, x, batch, measure)
        return CertifiedAccuracy.of(known, numbers if of is None else of, labels, radii)
    return of_graph(
        graph, inputs, labels, radii, local=local, budget=budget, execution=execution, measure=measure, known=known,
        progress=progress,
    )  # fmt: skip


def _in_double(model: nn.Module, graph: Graph, x: Tensor, batch: int, measure: Measure) -> Interval | None:
    """Logits in double precision on the host, their rounding counted; None where that is not known."""
    try:
        at = executed(graph, "float64", measure).at(np.zeros(x[:1].shape))
        twin = copy.deepcopy(model).double().cpu()
        with at_inference(twin):
            parts = [twin(part.detach().cpu().double()) for part in torch.split(x, batch)]
    except (MethodError, TypeError, RuntimeError):
        return None
    logits = torch.cat(parts)
    if logits.dtype != torch.float64:
        return None
    return of_executed(logits.numpy(), x.detach().cpu().double().numpy(), at)
