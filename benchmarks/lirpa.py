"""Bounds by auto_LiRPA 0.3, in a Python that has it: ``python lirpa.py NETWORK FILE`` prints a line of JSON.

The file has the network's state, and the centre and radius of a ball. This version, PyPI's newest, runs with torch
1.12, NumPy 1.26 and Python 3.10, and bounds outputs. So `digits.with_tangents` writes the Jacobian as outputs of a
network. The norm of the matrix of the largest absolute values is at least that of each Jacobian in the ball. Rounding
in float32 is not counted.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

import torch
from auto_LiRPA import BoundedModule, BoundedTensor
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks import digits


class Column(nn.Module):
    """A column of a network's Jacobian: the derivative along a tangent."""

    tangent: Tensor

    def __init__(self, network: nn.Module, tangent: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("tangent", tangent)

    def forward(self, x: Tensor) -> Tensor:
        return digits.with_tangents(self.network, x, self.tangent)[1].flatten(1)


@torch.no_grad()
def largest_norm(network: nn.Module, ball: PerturbationLpNorm, centre: Tensor) -> float:
    """Return the norm of the largest absolute values that the entries of Jacobians in a ball can have."""
    largest = []
    for tangent in torch.eye(centre.numel()).reshape(-1, 1, *centre.shape[1:]):
        bounded = BoundedModule(Column(network, tangent), centre, bound_opts={"conv_mode": "matrix"})
        low, high = bounded.compute_bounds((BoundedTensor(centre, ball),), method="CROWN")
        largest.append(torch.maximum(low.abs(), high.abs()))
    return float(torch.linalg.matrix_norm(torch.cat(largest).double(), 2))


def main(name: str, file: str) -> None:
    torch.set_num_threads(1)
    saved = torch.load(file)
    network = digits.MAKERS[name]().eval()
    digits.fold_batch_norms(network)
    network.load_state_dict(saved["state"])
    ball = PerturbationLpNorm(norm=2, eps=saved["radius"])
    begun = time.process_time()
    value = None
    with contextlib.suppress(TypeError):  # no derivative is written for one of its layers
        value = largest_norm(network, ball, saved["centre"])
    print(json.dumps({"value": value, "processor": time.process_time() - begun}))


if __name__ == "__main__":
    main(*sys.argv[1:])
