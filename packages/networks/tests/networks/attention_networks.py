"""Draw networks of softmax attention on clipped tokens, and attack their constants by gradient ascent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from networks.written_networks import Written
from specnorm_networks import Graph
from specnorm_networks.certified import operators as ops

BALL = ops.Normalise((2,), 0.0, "length", floor=1.0)
PLUS = ops.Add((1.0, 1.0))
MASKS = ("none", "causal", "drawn", "biases", "numbers", "one key")
WEIGHTS = ("normal", "rank one", "opposed", "swapped", "half precision")


@dataclass
class Drawn:
    """Attention of some heads, with its weights, and the same as a graph."""

    number: int
    tokens: int
    size: int
    heads: int
    radius: float
    weights: dict[str, Any]
    bias: Any
    is_cross: bool
    joins: bool

    @property
    def graph(self) -> Graph:
        """The network: tokens that are clipped to a ball, heads of attention, and maybe a matrix for all of them."""
        n, heads, size = self.tokens, self.heads, len(self.weights["v"]) // self.heads
        net = Written((1, n, self.size), **({"y": (1, n + 1, self.size)} if self.is_cross else {}))
        length = ops.Norm((2,), keep=True)
        tokens = [net.scaled(self.radius, net(BALL, name, net(length, name))) for name in list(net.values)]
        parts = []
        for part in "qkv":
            value = net.matrix(self.weights[part], tokens[0 if part == "q" else -1])
            value = net(PLUS, value, net.constant(self.weights[f"{part}0"]))
            split = net(ops.Reshape((1, net.values[value].shape[1], heads, len(self.weights[part]) // heads)), value)
            parts.append(net(ops.Permute((0, 2, 1, 3)), split))
        bias = None if self.bias is None else (lambda: self.bias)
        value = net(ops.Attention(self.weights["scale"], bias), *parts)
        if self.joins:
            joined = net(ops.Reshape((1, n, heads * size)), net(ops.Permute((0, 2, 1, 3)), value))
            value = net.matrix(self.weights["o"], joined)
        return net.graph(value)

    def run(self, x: Any) -> Any:
        """Return the network's value at tokens (tokens, size), those of keys and values after those of queries."""
        n, h = self.tokens, self.heads
        weights = {key: torch.as_tensor(np.asarray(value, np.float64)) for key, value in self.weights.items()}
        sources = {"q": x[:n], "k": x[n:] if self.is_cross else x, "v": x[n:] if self.is_cross else x}
        q, k, v = ((sources[p] @ weights[p].T + weights[f"{p}0"]).unflatten(1, (h, -1)).transpose(0, 1) for p in "qkv")
        scores = weights["scale"] * (q @ k.transpose(1, 2))
        if self.bias is not None:
            scores = scores + torch.as_tensor(self.bias)[0]
        y = torch.softmax(scores, 2) @ v
        return y.transpose(0, 1).flatten(1) @ weights["o"].T if self.joins else y

    def start(self, which: int) -> Any:
        """Return tokens to begin an ascent with: drawn, all equal, at opposite ends, or one against all others."""
        generator = torch.Generator().manual_seed(1000 * self.number + which)
        n = 2 * self.tokens + 1 if self.is_cross else self.tokens
        x = torch.randn(n, self.size, dtype=torch.float64, generator=generator)
        if which % 4 == 1:
            x = x[:1] + 1e-3 * x
        elif which % 4:
            query, key = (torch.as_tensor(np.asarray(self.weights[part], np.float64)) for part in "qk")
            scores = query.T @ key
            signs = torch.where(torch.arange(n) % (2 if which % 4 == 2 else n) == 0, 1.0, -1.0)
            x = signs[:, None] * torch.linalg.svd(scores)[2][0] + 0.1 * x
        return _into_ball(x * self.radius, self.radius)

    def attack(self, starts: int, steps: int) -> float:
        """Return the largest norm of the network's Jacobian that is found, at inputs in the unit ball."""
        best = 0.0
        for which in range(starts):
            x = self.start(which).requires_grad_(True)
            optimizer = torch.optim.Adam([x], 0.05 * self.radius)
            for _ in range(steps):
                jacobian = torch.func.jacrev(self.run)(_into_ball(x, self.radius))
                norm = torch.linalg.matrix_norm(jacobian.reshape(-1, x.numel()), 2)
                best = max(best, float(norm.detach()))
                optimizer.zero_grad()
                (-norm).backward()
                optimizer.step()
        return best * self.radius


def _into_ball(x: Any, radius: float) -> Any:
    return x * torch.clamp(radius * (1 - 1e-12) / x.norm(dim=1, keepdim=True).clamp(min=1e-300), max=1)


def draw(number: int) -> Drawn:
    """Return the network of a number."""
    rng = np.random.default_rng(number)
    n, d, heads = int(rng.integers(1, 6)), int(rng.integers(1, 5)), int(rng.integers(1, 4))
    radius = float(2.0 ** rng.integers(-3, 4))
    size, value_size = (int(rng.integers(1, 4)) for _ in range(2))
    weights: dict[str, Any] = {
        "q": rng.standard_normal((heads * size, d)),
        "k": rng.standard_normal((heads * size, d)),
        "v": rng.standard_normal((heads * value_size, d)),
        "o": rng.standard_normal((int(rng.integers(1, 5)), heads * value_size)),
        "scale": float(rng.choice([1.0, -1.0, 0.5, 1 / math.sqrt(size)])),
    }
    kind = WEIGHTS[number % len(WEIGHTS)]
    if kind == "rank one":
        weights["q"], weights["k"] = (w[:, :1] * w[:1] for w in (weights["q"], weights["k"]))
    elif kind == "opposed":
        weights["q"] = -weights["k"]
    elif kind == "swapped" and d > 1:
        weights["q"] = weights["k"][:, ::-1].copy()
    elif kind == "half precision":
        weights |= {part: weights[part].astype(np.float16) for part in "qkvo"}
    # The norm of the scores' matrix times the squared radius, rho, is between 1e-3 and 1e3.
    rho = float(10.0 ** rng.uniform(-3, 3 if number % 3 == 0 else 0.8))
    for _ in range(2):
        now = np.linalg.norm(weights["q"].astype(np.float64).T @ weights["k"].astype(np.float64), 2) * radius**2
        factor = np.asarray(math.sqrt(rho / max(now * abs(weights["scale"]), 1e-9)), weights["q"].dtype)
        weights["q"], weights["k"] = weights["q"] * factor, weights["k"] * factor
    has_constants = number % 4 == 1
    for part in "qkv":
        weights[f"{part}0"] = rng.standard_normal(len(weights[part])) * has_constants
    is_cross = number % 7 == 3
    keys = n + is_cross
    bias = {
        "none": lambda: None,
        "causal": lambda: np.where(np.tril(np.ones((n, keys), bool)), 0.0, -math.inf),
        "drawn": lambda: np.where(rng.random((heads, n, keys)) < 0.6, 0.0, -math.inf),
        "biases": lambda: 2 * rng.standard_normal((heads, n, keys)),
        "numbers": lambda: np.where(np.tril(np.ones((n, keys), bool)), 0.0, -1e9),
        "one key": lambda: np.where(np.arange(keys) == 0, 0.0, -math.inf)[None],
    }[MASKS[number % len(MASKS)]]()  # type: ignore[no-untyped-call]
    if bias is not None:
        bias = np.broadcast_to(bias, (1, heads, n, keys)).copy()
        bias[..., 0] = np.where(np.isinf(bias).all(axis=-1), 0.0, bias[..., 0])
    return Drawn(number, n, d, heads, radius, weights, bias, is_cross, joins=number % 2 == 0)
