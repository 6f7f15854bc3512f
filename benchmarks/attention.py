"""Constants of softmax attention on the unit ball: by an ascent, by `network_bound`, and by published formulas."""

from __future__ import annotations

import itertools
import math
import sys
from functools import partial
from typing import Any

import numpy as np
import torch
from specnorm_networks import Graph, Layer, Node, Product, network_bound, operators
from torch import Tensor

from benchmarks.page import table

TOKENS = (2, 16, 1024)
SCORES = (0.1, 0.5, 1.0, 2.0, 4.0)
MOST_ATTACKED = 16
"""Largest number of tokens for which the norm of the Jacobian is ascended."""


def graph(n: int, rho: float) -> Graph:
    """Return one head of norm 1, whose scores have a matrix of norm ``rho``, on tokens in the unit ball."""
    shape = (1, n, 4)
    query = operators.Matrix(Layer("q", partial(np.multiply, rho, np.eye(4)), {}, 0))
    ball = operators.Normalise((2,), 0.0, "length", floor=1.0)
    nodes = (
        Node("x", operators.Input(), (), shape),
        Node("length", operators.Norm((2,), keep=True), ("x",), (1, n, 1)),
        Node("z", ball, ("x", "length"), shape),
        Node("q", query, ("z",), shape),
        Node("y", operators.Attention(1.0), ("q", "z", "z"), shape),
    )
    return Graph(nodes, ("y",))


def castin(n: int, rho: float) -> float:
    """Return the bound of Castin, Ablin and Peyré (2024, the form with the root of n) for values of norm 1."""
    return math.sqrt(3) * math.sqrt(rho**2 * (4 * n + 1) + n)


def rule_by_rule(n: int, rho: float) -> float:
    """Return the bound by the product rule: the weights have a norm of at most root(n), a softmax the constant 1/2."""
    return math.sqrt(n) + rho * n


def reached(n: int, rho: float, size: int = 3) -> float:
    """Return the largest norm of the Jacobian that an ascent over tokens and weights finds."""

    def attention(x: Tensor, scores: Tensor, values: Tensor) -> Tensor:
        return torch.softmax(x @ scores @ x.T, 1) @ x @ values.T

    best = 0.0
    for start in range(3):
        torch.manual_seed(start)
        scores, x = 0.05 * rho * torch.randn(size, size).double(), 0.1 * torch.randn(n, size).double()
        if start < 2:  # one token against all others
            x[:, 0] -= 1
            x[0, 0] += 2
            scores[0, 0] += rho * (-1) ** start
        else:  # pairs of opposite tokens, whose scores are 0
            x[:, 0] += torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)
            scores[0, 1] = scores[1, 0] = rho
        parameters: Any = [each.requires_grad_() for each in (x, scores, torch.eye(size).double())]
        optimizer = torch.optim.Adam(parameters, 0.03)
        for _ in range(60):
            tokens, *matrices = parameters
            a, v = (each / torch.linalg.matrix_norm(each, 2) for each in matrices)
            inside = tokens / tokens.norm(dim=1, keepdim=True).clamp(min=1)
            jacobian = torch.func.jacrev(attention)(inside, rho * a, v)
            norm = torch.linalg.matrix_norm(jacobian.reshape(n * size, n * size), 2)
            best = max(best, float(norm.detach()))
            optimizer.zero_grad()
            (-norm).backward()
            optimizer.step()
    return best


def lines() -> str:
    """Return a table with a line for each number of tokens and norm of the scores' matrix; bounds are rounded up."""
    found = []
    for n, rho in itertools.product(TOKENS, SCORES):
        upper = network_bound(graph(n, rho), method=Product()).upper
        bounds = (f"{math.ceil(100 * x) / 100:g}" for x in (upper, castin(n, rho), rule_by_rule(n, rho)))
        attained = f"{math.floor(100 * reached(n, rho)) / 100:g}" if n <= MOST_ATTACKED else ""
        found.append([f"{n}", f"{rho:g}", attained, *bounds])
    return table(["tokens", "norm", "an ascent reaches", "specnorm", "Castin et al. 2024", "rule by rule"], found)


if __name__ == "__main__":
    sys.stdout.write(f"{lines()}\n")
