"""Certified accuracy of a classifier: the margins of its logits against proven constants of their differences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from specnorm.errors import MethodError
from specnorm.networks import CertifiedAccuracy, Measure, Method, local_radii, margins
from specnorm_torch.baking import baked
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
        Look for the largest radius of each sample at which the constants on its own ball certify it
        (`specnorm.networks.local_radii`), with ``method`` (default: ``Multipliers(steps=20)``). Seconds a sample, for
        networks of up to some hundred units.

    Returns
    -------
    CertifiedAccuracy
        The constants are proven in real arithmetic; the logits are the model's own, whose rounding is not counted.

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
    graph = network_graph(baked(model) if bake else model, x[:1])
    model = module_of(graph)  # perhaps a copy with its kernels as they are now
    known = margins(graph, Measure(rtol), method=method)
    with at_inference(model):
        logits = torch.cat([model(part) for part in torch.split(x, batch)])
        alone = model(x[:1])
    if not torch.allclose(alone, logits[:1], rtol=1e-2, atol=1e-2 * float(alone.abs().max())):
        raise MethodError("the logits of a sample depend on the others of its batch; the constants are of one alone.")
    numbers, labels = logits.double().cpu().numpy(), y.cpu().numpy()
    radius = None
    if local:
        inputs = x.detach().cpu().double().numpy()
        radius = local_radii(graph, inputs, numbers, labels, known, Measure(rtol), method=method)
    return CertifiedAccuracy.of(known, numbers, labels, radii, radius)
