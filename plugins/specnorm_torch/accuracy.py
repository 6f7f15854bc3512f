"""Certified accuracy of a classifier: the margins of its logits against proven constants of their differences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from specnorm_networks import CertifiedAccuracy, Graph, Measure, Method, margins, within
from specnorm_networks import certified_accuracy as of_graph
from specnorm_networks.certified.margins import of_executed
from specnorm_networks.certified.operators import Constant, Convolution, Matrix
from specnorm_networks.radii import executed
from torch import Tensor, nn

from specnorm.certified.interval import Interval
from specnorm.errors import MethodError
from specnorm_torch.baking import baked, computed
from specnorm_torch.modules import at_inference
from specnorm_torch.networks import module_of, network_graph

LOOKED_AT = 3
"""Samples whose logits in double precision are compared with those of the graph."""


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
    difference of these two logits (`specnorm_networks.margins`).

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
        (`specnorm_networks.certified_accuracy`): a second or two a sample and radius for small convolutional networks.
        The logits are computed anew then, with their rounding counted.
    budget : float, optional
        Seconds that a sample may take at each radius, with ``local``; None: a fixed number of steps.
    execution : {"float32", "float16", "bfloat16"}, optional
        How the model is executed, as after ``model.to(dtype)``, on inputs of that precision; None: real arithmetic.
        See `specnorm_networks.certified_accuracy`.
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
        together, alone = model(x[:batch]), model(x[:1])
    if not torch.allclose(alone, together[:1], rtol=1e-2, atol=1e-2 * float(alone.abs().max())):
        raise MethodError("the logits of a sample depend on the others of its batch; the constants are of one alone.")
    labels = y.cpu().numpy()
    inputs = x.detach().cpu().double().numpy()
    name = None if execution is None else _computed_constant(baked(model) if bake else model, graph)
    if name is not None:
        raise MethodError(
            f"execution={execution!r}: a constant of {name} is no parameter or buffer of the model, but computed when "
            "it is called, and rounded otherwise there. Give a model that holds it."
        )
    if not local and execution is None:
        logits = _in_double(model, graph, inputs, batch, measure)
        if logits is None:
            with at_inference(model):
                found = torch.cat([model(part) for part in torch.split(x, batch)])
            return CertifiedAccuracy.of(known, found.double().cpu().numpy(), labels, radii)
        return CertifiedAccuracy.of(known, logits, labels, radii)
    return of_graph(
        graph, inputs, labels, radii, local=local, budget=budget, execution=execution, measure=measure, known=known,
        progress=progress,
    )  # fmt: skip


def _in_double(model: nn.Module, graph: Graph, x: NDArray[np.float64], batch: int, measure: Measure) -> Interval | None:
    """Logits in double precision on the host, their rounding counted; None where that is not known."""
    try:
        roundings = executed(graph, "float64", measure)
        twin = baked(model).double().cpu()
        with at_inference(twin):
            logits = torch.cat([twin(part) for part in torch.split(torch.from_numpy(x), batch)])
    except (MethodError, TypeError, RuntimeError):
        return None
    if logits.dtype != torch.float64:
        return None
    found = of_executed(logits.numpy(), x, roundings.at(np.zeros_like(x[0])))
    # A model that computes constants when it is called has other ones in double precision.
    own = [roundings.at(sample).output for sample in x[:LOOKED_AT]]
    apart = [(found.low[k] > each.high[0]) | (found.high[k] < each.low[0]) for k, each in enumerate(own)]
    return None if np.any(apart) or not np.isfinite(found.low).all() else found


def _computed_constant(model: nn.Module, graph: Graph) -> str | None:
    """A node with numbers that the model does not hold; None: there is none."""
    held = {_sorted(x.detach().cpu().double().numpy()) for x in (*model.parameters(), *model.buffers())}
    for node in graph.nodes:
        operator = node.operator
        numbers: list[NDArray[np.float64]] = []
        if isinstance(operator, (Convolution, Matrix)):
            numbers = [operator.layer.kernel(), *([] if operator.bias is None else [operator.bias()[0]])]
        elif isinstance(operator, Constant):
            numbers = [operator.run()]
        if any(x.size > 1 and _sorted(x) not in held for x in numbers):
            return node.name
    return None


def _sorted(x: NDArray[np.float64]) -> bytes:
    return np.sort(x, axis=None).tobytes()
