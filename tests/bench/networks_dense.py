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
from specnorm_torch import network_graph
from torch import nn

from bench.networks import OPTIMUM, RADII, SLOW
from specnorm.networks import Graph, Multipliers, bound

Row = dict[str, Any]


def dense_network(widths: tuple[int, ...], seed: int = 0) -> nn.Sequential:
    """Gaussian weights of variance 1/inputs, ReLU between, in float64."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layer = nn.Linear(inputs, outputs, dtype=torch.float64)
        layer.weight.data = torch.randn((outputs, inputs), generator=generator, dtype=torch.float64) / inputs**0.5
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
    found["near"] = near_noise(graph, widths[0])
    for method in ("ECLipsE_Fast", "ECLipsE"):
        found[method] = eclipse(model, method)
    if found["ECLipsE"]["fell_back"] and sum(widths[:-1]) <= SLOW:
        found["ECLipsE, Clarabel"] = eclipse(model, "ECLipsE", solver="CLARABEL")
    if sum(widths[:-1]) <= OPTIMUM:
        used = time.process_time()
        optimum = lipsdp(weights)
        found["LipSDP"] = {"value": optimum, "processor": time.process_time() - used}
    return found


def near_noise(graph: Graph, inputs: int) -> list[Row]:
    """Constants on balls around one input, each with its radius."""
    centre = np.random.default_rng(0).normal(size=(1, inputs))
    found = []
    for radius in RADII:
        used = time.process_time()
        answer = bound(graph, radius=radius, centre=centre)
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
