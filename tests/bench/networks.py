"""What whole networks' bounds are worth: product, scaled, multipliers, and what inputs reach; dense ones beside others.

``python -m bench networks`` measures each in a process of its own, into docs/benchmarks/networks.jsonl. Lines that are
there are kept but for those measured anew. Processor time is of the call; the graph is made before.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from lipsdp import lipsdp
from specnorm_networks import Method, Multipliers, Product, Scaled, bound, network_bound, network_graph
from torch import nn

from bench import facts
from bench.facts import Row
from bench.networks_models import NETWORKS, reached

METHODS = ("product", "scaled", "multipliers", "below")
DENSE = ((10, 20, 20, 5), (20, 40, 40, 40, 10), (20, 40, 40, 40, 40, 40, 10), (30, 60, 60, 60, 60, 60, 60, 60, 60, 10))
"""Widths of the fully connected networks, with LipSDP's optimum where that takes no minutes."""
RADII = (0.01, 0.1, 1.0)
"""Of the balls around one input on which they are bounded, too."""
SLOW, OPTIMUM = 150, 60
"""Neurons and inputs beyond which eclipse-nn's programs take minutes by Clarabel, and up to which LipSDP is solved."""


def run(only: Sequence[str], limit: int, out: Path) -> None:
    about = facts.about("numpy", "torch", "eclipse-nn", "clarabel")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    every = [*itertools.product(NETWORKS, METHODS), *(("-".join(map(str, widths)), "dense") for widths in DENSE)]
    for name, method in every:
        if not only or name in only:
            *_, last = facts.apart(["-m", "bench.networks", name, method], limit, environment)
            found = {"ended": last.removeprefix("error: ")} if last.startswith("error: ") else json.loads(last)
            row = {"network": name, "method": method, **found, "limit": limit, **about}
            old = [it for it in facts.read(out) if (it["network"], it["method"]) != (name, method)]
            facts.write(out, [*old, row])
            print(name, method, last.strip()[:160], flush=True)


# -- in a process of its own -----------------------------------------------------------------------------------------
def peak() -> int:
    """Bytes of memory that this process had at most, so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def one(name: str, method: str) -> Row:
    """Of a published network."""
    network = NETWORKS[name]
    function, graph = network.made()
    before, used = peak(), time.process_time()
    if method == "below":
        found = reached(function, network.shape, network.steps)
    else:
        methods: dict[str, Method] = {"product": Product(), "scaled": Scaled(), "multipliers": network.best}
        answer = bound(graph, method=methods[method], budget=None)
        found = {"value": answer.upper, "by": repr(methods[method])}
    return {**found, "processor": time.process_time() - used, "before": before, "peak": peak()}


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


def dense(widths: tuple[int, ...]) -> Row:
    """Values and processor seconds of multipliers, PyPI's eclipse-nn, and LipSDP's optimum where that is small."""
    model = dense_network(widths)
    graph = network_graph(model, widths[:1])
    bound(graph, method=Multipliers(steps=0))  # imports
    used = time.process_time()
    answer = bound(graph)
    found: Row = {"specnorm": {"value": answer.upper, "processor": time.process_time() - used}}
    found |= {"product": {"value": answer.product}, "near": near_noise(model, widths[0])}
    found |= {method: eclipse(model, method) for method in ("ECLipsE_Fast", "ECLipsE")}
    if found["ECLipsE"]["fell_back"] and sum(widths[:-1]) <= SLOW:
        found["ECLipsE, Clarabel"] = eclipse(model, "ECLipsE", solver="CLARABEL")
    if sum(widths[:-1]) <= OPTIMUM:
        used = time.process_time()
        optimum = lipsdp([layer.weight.detach().numpy() for layer in model if isinstance(layer, nn.Linear)])
        found["LipSDP"] = {"value": optimum, "processor": time.process_time() - used}
    return found


def near_noise(model: nn.Sequential, inputs: int) -> list[Row]:
    """The norm of the Jacobian at one input, and constants on balls around it, each with its radius."""
    centre = torch.randn((1, inputs), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    differentiated: Any = torch.autograd.functional.jacobian
    jacobian = differentiated(model, centre).reshape(-1, inputs)
    found: list[Row] = [{"radius": 0.0, "value": float(torch.linalg.matrix_norm(jacobian, 2)), "processor": 0.0}]
    for radius in RADII:
        used = time.process_time()
        value = network_bound(model, centre, radius=radius).upper
        found.append({"radius": radius, "value": value, "processor": time.process_time() - used})
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


if __name__ == "__main__":
    network, how = sys.argv[1:]
    print(json.dumps(dense(tuple(map(int, network.split("-")))) if how == "dense" else one(network, how)))
