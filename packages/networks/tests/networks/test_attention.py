"""Attention on tokens of bounded length: constants beside gradient ascents, lengths, what exporters write, refusals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.checks import present

torch = pytest.importorskip("torch")
from networks.attention_networks import Drawn, draw  # noqa: E402
from specnorm_networks import Product, network_bound, network_graph, within  # noqa: E402
from specnorm_networks.certified.lengths import LazyLengths  # noqa: E402
from specnorm_networks.certified.ranges import LazyRanges  # noqa: E402
from specnorm_networks.measuring import Measure  # noqa: E402
from specnorm_networks.tools import bound  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

RULE = "attention, tokens of bounded length"


def check_drawn(number: int, starts: int, steps: int) -> float:
    """Check the constant and the lengths of a network; return the share of the constant that is reached."""
    drawn = draw(number)
    graph = drawn.graph
    upper = present(bound(graph, Measure(1e-4), method=Product(), check=False).upper)
    reached = drawn.attack(starts, steps)
    assert reached <= upper * (1 + 1e-12), (number, reached, upper)
    lengths = LazyLengths(graph, LazyRanges(graph), Measure(1e-4))
    rng = np.random.default_rng(number)
    for size in (0.1, 10.0):
        inputs = {name: size * rng.standard_normal(shape) for name, shape in graph.input_shapes.items()}
        for name, value in graph.run(inputs).items():
            for axis, length in enumerate(lengths[name]):
                assert np.linalg.norm(value, axis=axis).max() <= length * (1 + 1e-12), (number, name, axis)
    return float(reached / upper)


def test_no_network_of_attention_stretches_more_than_its_constant() -> None:
    shares = [check_drawn(number, 2, 5) for number in range(1, 133, 11)]
    assert max(shares) > 0.8


@pytest.mark.nightly
def test_no_network_of_a_thousand_stretches_more_than_its_constant() -> None:
    shares = [check_drawn(number, 4, 20) for number in range(1000)]
    assert np.quantile(shares, 0.9) > 0.7


def formula(scores: float, values: float, n: int, *, causal: bool = False) -> float:
    """Of one head on the unit ball, with the norms of both matrices, as the method's page states it."""
    scores = 0.0 if n == 1 else scores  # the softmax of one score is 1
    limits = [1 / (1 + (k - 1) * math.exp(-2 * scores)) for k in (range(1, n + 1) if causal else [n] * n)]
    p = np.sort([*np.linspace(0, 1, 100_001), *limits])
    y = 1 + scores**2 * np.where(p < 0.5, 1, 4 * p * (1 - p))
    sigma = sum((p * y)[p <= limit].max() for limit in limits)
    nu = min(math.sqrt(sigma), (math.sqrt(1 + scores**2) + math.sqrt(n * (p * y)[p <= max(limits)].max())) / 2)
    return values * math.sqrt(scores**2 + 2 * scores * nu + sigma)


class Attention(nn.Module):
    """Attention on tokens in the unit ball, in one of the ways in which it is written."""

    def __init__(self, how: str, width: int = 8) -> None:
        super().__init__()
        self.how = how
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.module = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mask = torch.triu(torch.ones(6, 6, dtype=torch.bool), 1)

    def forward(self, x: Any) -> Any:
        z = x if self.how == "no norm" else x * torch.clamp(1 / (x.norm(dim=-1, keepdim=True) + 1e-6), max=1)
        if self.how == "module":
            return self.module(z, z, z, need_weights=False)[0]
        if self.how == "module, masked":
            return self.module(z, z, z, attn_mask=self.mask)[0]
        if self.how == "module, other keys":
            return self.module(z, z[:, :3], z[:, :3], need_weights=False)[0]
        if self.how == "written out":
            scores = (self.q(z) @ self.k(z).transpose(1, 2) / 8**0.5).masked_fill(self.mask, -math.inf)
            return torch.softmax(scores, -1) @ self.v(z)
        if self.how == "einsum":
            scores = torch.einsum("bnd,bmd->bnm", self.q(z), self.k(z))
            return torch.einsum("bnm,bmd->bnd", torch.softmax(scores, -1), self.v(z))
        q, k, v = (layer(z).unflatten(2, (2, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.how == "grouped":
            y = F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.how == "causal")
        return self.o(y.transpose(1, 2).flatten(2))


HOW = ("causal", "module, masked", "written out")
MORE = ("heads", "grouped", "module", "module, other keys", "einsum")


@pytest.mark.parametrize("how", [*HOW, *(pytest.param(how, marks=pytest.mark.nightly) for how in MORE)])
@pytest.mark.sampled(3)
def test_what_torch_exports_has_the_constant(how: str) -> None:
    torch.manual_seed(0)
    model = Attention(how).eval()
    found = network_bound(model, (6, 8), method=Product())
    assert RULE in {step.rule for step in found.nodes}
    model = model.double()
    reached = 0.0
    for seed in range(3):
        x = torch.randn(1, 6, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) / 8**0.5
        jacobian = torch.autograd.functional.jacobian(model, x).reshape(-1, x.numel())
        reached = max(reached, float(torch.linalg.matrix_norm(jacobian, 2)))
    assert 0.1 * present(found.upper) < reached <= present(found.upper)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("rho", "n"), [(1e-3, 5), (0.3, 5), (1.0, 5), (3.0, 5), (40.0, 5), (40.0, 1)])
def test_one_head_has_the_constant_of_the_formula(rho: float, n: int, causal: bool) -> None:
    rng = np.random.default_rng(0)
    scores, values = (np.linalg.qr(rng.standard_normal((4, 4)))[0] for _ in range(2))
    weights = {"q": rho * scores, "k": np.eye(4), "v": 2 * values, "scale": 1.0}
    weights |= {f"{part}0": np.zeros(4) for part in "qkv"}
    bias = np.where(np.tril(np.ones((1, 1, n, n))) > 0, 0.0, -math.inf) if causal else None
    drawn = Drawn(0, n, 4, 1, 1.0, weights, bias, is_cross=False, joins=False)
    found = bound(drawn.graph, Measure(1e-6), method=Product(), check=False)
    assert float(present(found.upper)) == pytest.approx(formula(rho, 2.0, n, causal=causal), rel=1e-6)


def test_tokens_of_a_function_with_a_constant_in_each_channel_have_a_length() -> None:
    torch.manual_seed(0)
    attention, shifts = Attention("module").module, torch.linspace(0, 9, 8)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: Any) -> Any:
            z = x * torch.clamp(1 / (x.norm(dim=-1, keepdim=True) + 1e-6), max=1)
            y = torch.tanh(z + shifts) * torch.sigmoid(z)
            return self.attention(y, y, y, need_weights=False)[0]

    model = Model().eval()
    upper = present(network_bound(model, (6, 8), method=Product()).upper)
    x = torch.randn(1, 6, 8, dtype=torch.float64) / 8**0.5
    jacobian = torch.autograd.functional.jacobian(model.double(), x).reshape(-1, x.numel())
    assert 0.01 * upper < float(torch.linalg.matrix_norm(jacobian, 2)) <= upper


def test_a_refusal_says_what_would_bound_the_tokens() -> None:
    model = Attention("no norm").eval()
    (unknown,) = network_bound(model, (6, 8), method=Product()).unknown
    assert "normalize the tokens" in unknown.reason
    assert "within(" in unknown.reason
    assert bound(within(network_graph(model, (6, 8)), -1, 1), method=Product()).upper is not None
