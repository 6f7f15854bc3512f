"""Fully connected networks: multipliers beside PyPI's eclipse-nn, and LipSDP's optimum where that is small."""

from __future__ import annotations

import contextlib
import io
import itertools
import time
from typing import Any
from unittest import mock

import numpy as np
import torch
from lipsdp import lipsdp
from specnorm_torch import network_bound, network_graph
from torch import nn

from bench.networks import OPTIMUM, RADII, SLOW
from specnorm.networks import Multipliers, bound

Row = dict[str, Any]


def dense_network(widths: tuple[int, ...], seed: int = 0) -> nn.Sequential:
    """Gaussian weights of variance 1/inputs and biases of 1/100, ReLU between, in float64."""
    generator, others = (torch.Generator().manual_seed(number) for number in (seed, seed + 1))
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layer = nn.Linear(inputs, outputs, dtype=torch.float64)
        layer.weight.data = torch.randn((outputs, inputs), generator=generator, dtype=torch.float64) / inputs**0.5
        layer.bias.data = torch.randn(outputs, generator=others, dtype=torch.float64) / 10
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def beside_others(widths: tuple[int, ...]) -> Row:
    """Values and processor seconds of each."""
    model = dense_network(widths)
    weights = [layer.weight.detach().numpy() for layer in model if isinstance(layer, nn.Linear)]
    graph = network_graph(model, widths[:1])
    bound(graph, method=Multipliers(steps=0))  # imports
    found: Row = {}
    used = time.process_time()
    answer = bound(graph)
    found["specnorm"] = {"value": answer.upper, "processor": time.process_time() - used, "by": repr(Multipliers())}
    found["product"] = {"value": answer.product}
    found["near"] = near_noise(model, widths[0])
    for method in ("ECLipsE_Fast", "ECLipsE"):
        found[method] = eclipse(model, method)
    if found["ECLipsE"]["fell_back"] and sum(widths[:-1]) <= SLOW:
        found["ECLipsE, Clarabel"] = eclipse(model, "ECLipsE", solver="CLARABEL")
    if sum(widths[:-1]) <= OPTIMUM:
        used = time.process_time()
        optimum = lipsdp(weights)
        found["LipSDP"] = {"value": optimum, "processor": time.process_time() - used}
    return found


def near_noise(model: nn.Sequential, inputs: int) -> list[Row]:
    """The norm of the Jacobian at one input, and constants on balls around it, each with its radius."""
    centre = torch.randn((1, inputs), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    differentiated: Any = torch.autograd.functional.jacobian
    jacobian = differentiated(model, centre)
    found: list[Row] = [
        {"radius": 0.0, "value": float(torch.linalg.matrix_norm(jacobian.reshape(-1, inputs), 2)), "processor": 0.0}
    ]
    for radius in RADII:
        used = time.process_time()
        answer = network_bound(model, centre, radius=radius)
        found.append({"radius": radius, "value": answer.upper, "processor": time.process_time() - used})
    return found


def eclipse(model: nn.Sequential, method: str, solver: str | None = None) -> Row:
    """Of eclipse-nn; ``fell_back``: its ECLipsE gave up a layer's program and told ECLipsE-Fast's value.

    With another solver than the SCS that it asks for, if one is given.
    """
    import cvxpy
    from eclipse_nn.LipConstEstimator import LipConstEstimator

    make: Any = LipConstEstimator
    given: Any = cvxpy.Problem.solve

    def solve(self: Any, **options: Any) -> Any:
        return given(self, **(options if solver is None else {"solver": solver}))

    heard = io.StringIO()
    with mock.patch.object(cvxpy.Problem, "solve", solve), contextlib.redirect_stdout(heard):
        make(model=dense_network((3, 4, 4, 2))).estimate(method)  # imports
        heard.truncate(0)
        estimator = make(model=model)
        used = time.process_time()
        value = float(np.real(estimator.estimate(method)))
        seconds = time.process_time() - used
    return {"value": value, "processor": seconds, "fell_back": "Falling back" in heard.getvalue()}
