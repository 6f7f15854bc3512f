"""Values and constants near an input, of torch modules: what the front-end says of biases, padding and pieces is so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
import torch.nn.functional as F  # noqa: E402
from specnorm_networks import (  # noqa: E402
    network_bound,
    network_graph,
)
from specnorm_networks.certified.ranges import ranges  # noqa: E402
from specnorm_networks.certified.regions import Ball  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from specnorm.errors import MethodError  # noqa: E402


def pair(a: Tensor, b: Tensor) -> Tensor:
    y: Tensor = torch.cat([torch.maximum(a, b), torch.minimum(a, b)], 1)
    return y


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sums": lambda h: (1.5 - h) + 2 * torch.sub(h, torch.arange(6.0).double(), alpha=3),
    "division": lambda h: h / torch.arange(1, 7).double(),
    "addmm": lambda h: torch.addmm(torch.ones(6).double(), h.reshape(-1, 6), torch.eye(6).double(), beta=2, alpha=-3),
    "mean": lambda h: h.mean((2, 3)) + h.sum((1, 3), keepdim=True).flatten(1)[:, :4],
    "max_pool": lambda h: F.max_pool2d(h, 3, 2, 1),
    "max_pool ceil": lambda h: F.max_pool2d(h, 2, 2, ceil_mode=True),
    "avg_pool": lambda h: F.avg_pool2d(h, 3, 2, 1),
    "avg_pool inside": lambda h: F.avg_pool2d(h, 3, 2, 1, count_include_pad=False),
    "adaptive": lambda h: F.adaptive_avg_pool2d(h, (2, 4)),
    "pad": lambda h: F.pad(h, (1, 2, 0, 1)),
    "pad by ones": lambda h: F.pad(h, (1, 2, 0, 1), value=1.0),
    "reflect": lambda h: F.pad(h, (1, 2, 0, 1), mode="reflect"),
    "replicate": lambda h: F.pad(h, (1, 2, 0, 1), mode="replicate"),
    "circular": lambda h: F.pad(h, (1, 2, 0, 1), mode="circular"),
    "chunk": lambda h: pair(*h.chunk(2, 1)),
    "slices": lambda h: pair(h[:, ::2], h[:, 1::2]),
    "uneven split": lambda h: torch.split(h, [1, 2, 1], 1)[2] - torch.split(h, [1, 2, 1], 1)[0],
    "expand": lambda h: h[:, :1].expand(1, 4, 6, 6) + h,
    "functions": lambda h: torch.tanh(h) + torch.sigmoid(2 * h) - F.silu(h) + F.hardtanh(h) + F.leaky_relu(h, 0.3),
    "curved": lambda h: F.gelu(h) + F.mish(h) + F.hardswish(h) + F.prelu(h, torch.tensor([-0.2]).double()) + abs(h),
    "permute": lambda h: h.permute(0, 1, 3, 2) + h,
}


class Network(nn.Module):
    """All of `FUNCTIONS`, since tracing takes long."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.norm.running_mean = torch.tensor([0.3, -0.5, 0.1, 0.0])
        self.norm.running_var = torch.tensor([0.5, 2.0, 1.0, 1.0])
        with torch.no_grad():
            self.norm.bias.copy_(torch.tensor([0.1, 0.2, -0.7, 0.0]))
        self.double()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.norm(self.conv(x))
        return tuple(function(h) for function in FUNCTIONS.values())


def test_outputs_are_in_their_ranges() -> None:
    torch.manual_seed(0)
    model = Network().eval()
    x = torch.randn(1, 2, 6, 6).double()
    graph = network_graph(model, x)
    found = ranges(graph, Ball({graph.inputs[0]: x.numpy()}, 0.5))
    reached: list[tuple[Tensor, ...]] = []
    for seed in range(20):
        d = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).double()
        with torch.no_grad():
            reached.append(model(x + 0.5 * d / d.norm()))
    for at, name in enumerate(FUNCTIONS):
        low, high = found[graph.outputs[at]].low, found[graph.outputs[at]].high
        values = torch.stack([each[at] for each in reached]).numpy()
        assert (low - 1e-9 <= values.min(axis=0)).all(), name
        assert (values.max(axis=0) <= high + 1e-9).all(), name
        if name not in ("pad by ones", "permute"):
            assert (high - low).max() < 200, name


def test_radius_of_a_module() -> None:
    """The input is the centre; without one a radius is refused."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    x = torch.randn(1, 4).double()
    near, everywhere = network_bound(model, x, radius=1e-4), network_bound(model, x)
    jacobian = torch.autograd.functional.jacobian(model, x).reshape(2, 4)
    assert near.upper is not None
    assert everywhere.upper is not None
    assert near.upper < everywhere.upper
    assert near.upper == pytest.approx(float(torch.linalg.matrix_norm(jacobian, 2)), rel=1e-4)
    assert "within 0.0001 of the input given" in str(near)
    assert near.to_dict()["radius"] == 1e-4
    with pytest.raises(MethodError, match="needs the input"):
        network_bound(model, (4,), radius=0.1)
