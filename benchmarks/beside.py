"""Bounds by others of small networks that are trained on digits, and what inputs reach."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import digits
from benchmarks.facts import Row

RADIUS = 0.1
"""Radius of the ball around a test image on which networks are bounded."""
PYTHON = "LIRPA_PYTHON"
"""Variable with the path of a Python in which auto_LiRPA runs, for `lirpa`."""
ROUNDS = 40
SIZES = 3.0, 1.0, 0.3, 0.1


def centre() -> Tensor:
    """Return the image around which networks are bounded, as a batch of one."""
    return digits.images()[2][:1]


@torch.no_grad()
def eclipse_fast(weights: Sequence[Tensor]) -> float:
    """Return the constant of a chain of matrices with ReLU between by the closed form of ECLipsE-Fast.

    Written from the formulas of Xu and Sivaranjani (2024); rounding is not counted. The PyPI package eclipse-nn has the
    same with inverses and eigenvalues of matrices that are not symmetric, and needs cvxpy.
    """
    inverse_of_root = torch.eye(weights[0].shape[1], dtype=torch.float64)
    for weight in weights[:-1]:
        scaled = weight @ inverse_of_root
        gram = scaled @ scaled.T
        multiplier = 2 / torch.linalg.eigvalsh(gram)[-1]
        left = multiplier * torch.eye(len(gram), dtype=torch.float64) - multiplier**2 / 4 * gram
        inverse_of_root = torch.linalg.inv(torch.linalg.cholesky(left)).T
    return float(torch.linalg.matrix_norm(weights[-1] @ inverse_of_root, 2))


def reached(model: nn.Module, radius: float | None = None) -> float:
    """Return the largest norm of a Jacobian that a search finds: a lower bound, in the precision of the model.

    It begins at the test images, or at `centre` if there is a radius, and moves the best point at random.
    """
    generator = torch.Generator().manual_seed(0)
    images = digits.images()[2]
    points = centre() if radius is not None else images
    best, value = points[:1], 0.0
    for step in range(ROUNDS):
        norms = jacobian_norms(model, points)
        at = int(norms.argmax())
        if float(norms[at]) > value:
            best, value = points[at : at + 1], float(norms[at])
        moves = SIZES[step % len(SIZES)] * torch.randn((64, *best.shape[1:]), generator=generator)
        points = best + (moves if radius is None else radius * moves)
        if radius is not None:
            away = points - centre()
            length = away.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            points = centre() + away * (radius / length).clamp(max=1)
    return value


def jacobian_norms(model: nn.Module, points: Tensor) -> Tensor:
    """Return the norms of a network's Jacobians at points of a batch."""
    x = points.clone().requires_grad_()
    outputs = model(x).flatten(1).sum(0)
    rows = [torch.autograd.grad(output, x, retain_graph=True)[0].flatten(1) for output in outputs]
    norms: Tensor = torch.linalg.matrix_norm(torch.stack(rows, 1), 2)
    return norms


def lirpa(name: str, model: nn.Module) -> Row:
    """Return a bound by auto_LiRPA near `centre`; its value is None if it has none."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.pt"
        torch.save({"state": model.state_dict(), "centre": centre(), "radius": RADIUS}, file)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [environment[PYTHON], str(Path(__file__).with_name("lirpa.py")), name, str(file)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row
