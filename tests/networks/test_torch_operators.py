"""Each torch operator's constant: exact for linear ones, close for others, and unknown ones are named."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
import torch.nn.functional as F  # noqa: E402
from networks.torch_modules import Function, jacobian_norm, upper_of  # noqa: E402
from specnorm_networks import network_bound  # noqa: E402
from torch import Tensor, nn  # noqa: E402

pytestmark = pytest.mark.usefixtures("seeded_torch")


K = torch.tensor([[[[1.0, -2.0], [0.5, 3.0]]]], dtype=torch.float64)
M = torch.tensor([[1.0, 2.0], [-1.0, 0.5], [0.0, 3.0]], dtype=torch.float64)
MASK = torch.arange(7) % 2 == 0
LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "avg_pool 3/2": lambda x: F.avg_pool2d(x, 3, 2),
    "avg_pool 3/1 padded": lambda x: F.avg_pool2d(x, 3, 1, 1),
    "avg_pool without padding": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "avg_pool ceil": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "avg_pool ceil padded": lambda x: F.avg_pool2d(x, (3, 4), (2, 3), 1, ceil_mode=True),
    "avg_pool divisor": lambda x: F.avg_pool2d(x, 2, 2, divisor_override=3),
    "adaptive": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "global": lambda x: F.adaptive_avg_pool2d(x, 1),
    "mean": lambda x: x.mean((1, 2, 3)),
    "mean of axes": lambda x: x.mean((1, 3)),
    "sum": lambda x: x.sum(-1),
    "bilinear": lambda x: F.interpolate(x, scale_factor=3, mode="bilinear"),
    "bilinear to a size": lambda x: F.interpolate(x, size=(9, 3), mode="bilinear"),
    "bilinear with corners": lambda x: F.interpolate(x, scale_factor=3, mode="bilinear", align_corners=True),
    "nearest": lambda x: F.interpolate(x, scale_factor=(2, 3)),
    "nearest to a size": lambda x: F.interpolate(x, size=(10, 4)),
    "nearest exact": lambda x: F.interpolate(x, size=(10, 4), mode="nearest-exact"),
    "reflect": lambda x: F.pad(x, (2, 1, 3, 0), mode="reflect"),
    "replicate": lambda x: F.pad(x, (2, 1, 3, 0), mode="replicate"),
    "circular": lambda x: F.pad(x, (2, 1, 3, 0), mode="circular"),
    "zeros": lambda x: F.pad(x, (2, 1, -1, 0)),
    "scalar": lambda x: 0.3 * x / 7 - 2,
    "vector": lambda x: x * torch.arange(7, dtype=x.dtype),
    "division": lambda x: x / torch.arange(1, 8, dtype=x.dtype),
    "convolution": lambda x: F.conv2d(x.reshape(-1, 1, 6, 7), K.to(x), padding="same"),
    "transposed": lambda x: F.conv_transpose2d(x.reshape(-1, 1, 6, 7), K.to(x), stride=3, output_padding=2),
    "index": lambda x: x[..., [0, 0, 0, 3, 2]],
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 5, -1),
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "repeat_interleave": lambda x: x.repeat_interleave(3, 2),
    "unfold": lambda x: x.unfold(2, 3, 1),
    "matmul": lambda x: x[..., :2] @ M.T.to(x),
    "matmul from the left": lambda x: M.to(x) @ x[:, :, :2],
    "addmm": lambda x: torch.addmm(torch.ones(3, dtype=x.dtype), x.reshape(-1, 2), M.T.to(x)),
    "masked": lambda x: torch.where(MASK, x, 0.0) + 1,
    "flip": lambda x: x.flip(1).transpose(1, 2).unbind(1)[0],
    "split": lambda x: torch.split(x, [2, 4], 2)[1],
    "alpha": lambda x: torch.add(x, x.flip(3), alpha=0.0),
    "in place": lambda x: (x * 2).mul_(3).add_(1),
    "cat with constants": lambda x: torch.cat([x, torch.ones_like(x)], 1),
}
"""Linear operators whose constant should be exact. Input 1x2x6x7."""


class Many(nn.Module):
    """Every function of the same input, so that they are traced at once."""

    def __init__(self, functions: list[Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(f(x) for f in self.functions)


def bounds_of(functions: dict[str, Callable[[Tensor], Tensor]], rtol: float) -> dict[str, float | None]:
    found = network_bound(Many(list(functions.values())), torch.zeros(1, 2, 6, 7, dtype=torch.float64), rtol=rtol)
    assert found.unknown == (), found.unknown
    return dict(zip(functions, found.outputs.values(), strict=True))


@pytest.fixture(scope="module")
def linear_bounds() -> dict[str, float | None]:
    return bounds_of(LINEAR, 1e-6)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operator_is_exact(name: str, linear_bounds: dict[str, float]) -> None:
    exact = jacobian_norm(LINEAR[name], torch.randn(2, 6, 7, dtype=torch.float64))
    upper = linear_bounds[name]
    assert exact * (1 - 1e-12) <= upper <= exact * (1 + 3e-6), (upper, exact)


def sliced_in_place(x: Tensor) -> Tensor:
    y = 1 * x
    y[:, :1].mul_(2)
    return y


OTHERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "relu": (F.relu, 1.001),
    "hardtanh": (F.hardtanh, 1.001),
    "leaky": (lambda x: F.leaky_relu(x, -3.0), 1.001),
    "elu": (lambda x: F.elu(x, 2.5), 1.2),
    "selu": (F.selu, 1.2),
    "celu": (lambda x: F.celu(x, 0.3), 1.001),
    "sigmoid": (torch.sigmoid, 1.1),
    "tanh": (torch.tanh, 1.1),
    "gelu": (F.gelu, 1.1),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), 1.1),
    "silu": (F.silu, 1.1),
    "silu written out": (lambda x: x * torch.sigmoid(x), 1.1),
    "mish": (F.mish, 1.1),
    "hardswish": (F.hardswish, 1.1),
    "hardsigmoid": (F.hardsigmoid, 1.001),
    "softplus": (F.softplus, 1.2),
    "softmax": (lambda x: F.softmax(x, 1), 1.5),
    "clamp": (lambda x: x.clamp(-1, 2), 1.001),
    "max pool 3/1": (lambda x: F.max_pool2d(x, 3, 1), 3.1),
    "max pool 2/2": (lambda x: F.max_pool2d(x, 2), 1.001),
    "max pool dilated": (lambda x: F.max_pool2d(x, 3, 2, 1, 2), 3.1),
    "adaptive max": (lambda x: F.adaptive_max_pool2d(x, (4, 5)), 2.9),
    "maximum": (lambda x: torch.maximum(x, 0.5 * x.flip(3)), 1.5),
    "amax": (lambda x: x.amax((2, 3)), 1.001),
    "max": (lambda x: x.max(1).values, 1.001),
    "norm": (lambda x: x.norm(dim=1), 1.001),
    "residual": (lambda x: x + F.relu(x), 1.1),
    "sliced in place": (sliced_in_place, 1.5),
}
"""Operators with a kink or a curve, and by how much the bound may exceed the Jacobians at random points."""


@pytest.fixture(scope="module")
def other_bounds() -> dict[str, float | None]:
    return bounds_of({name: f for name, (f, _) in OTHERS.items()}, 1e-3)


@pytest.mark.parametrize("name", OTHERS)
def test_operator_is_bounded(name: str, other_bounds: dict[str, float]) -> None:
    f, loose = OTHERS[name]
    points = 3 * torch.randn(12, 2, 6, 7, dtype=torch.float64)
    reached = max(jacobian_norm(f, x) for x in points)
    upper = other_bounds[name]
    assert reached * (1 - 1e-12) <= upper <= loose * reached, (upper, reached)


def test_max_pool_factor_is_attained() -> None:
    x = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    y = x.clone()
    y[0, 0, 2, 2] = 1.0
    upper = upper_of(Function(lambda z: F.max_pool2d(z, 3, 1)), x)
    assert float((F.max_pool2d(y, 3, 1) - F.max_pool2d(x, 3, 1)).norm()) == pytest.approx(upper, rel=1e-12)


UNKNOWN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "product": (lambda x: x * x.flip(1), "mul"),
    "division": (lambda x: x / (x.abs() + 1), "div"),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), "scaled_dot_product_attention"),
    "layer norm without eps": (lambda x: F.layer_norm(x, (7,), eps=0.0), "layer_norm"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True), "batch"),
    "exp": (lambda x: x.exp(), "exp"),
    "steps": (lambda x: (x > 0).to(x.dtype) * 1.0, "gt"),
    "threshold": (lambda x: F.threshold(x, 0.5, 0.0), "threshold"),
    "active dropout": (lambda x: F.dropout(x, 0.5, training=True), "dropout"),
    "bicubic": (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), "upsample_bicubic2d"),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_operator_is_named_and_gives_no_number(name: str) -> None:
    f, operator = UNKNOWN[name]
    found = network_bound(Function(lambda x: torch.relu(f(2 * x))), (2, 6, 7))
    assert found.upper is None
    assert found.heuristic is None
    assert any(operator in u.operator for u in found.unknown), found.unknown
    assert found.unknown[0].before >= 2
    assert operator in str(found)


def test_recurrent_layers_are_refused_by_name() -> None:
    """In one piece or as cells; they draw no numbers."""

    class All(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList((nn.RNN(2, 3), nn.GRU(2, 3), nn.LSTM(2, 3), nn.LSTMCell(2, 3)))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            found = tuple(layer(x) for layer in self.layers)
            return tuple(each[0] if isinstance(each, tuple) else each for each in found)

    found = network_bound(All(), (2,))
    assert len(found.unknown) == 4
    assert all("recurrent layers" in node.reason for node in found.unknown)
