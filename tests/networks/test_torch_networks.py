"""The bound of torch modules holds: against gradient ascent on pairs of images, and against Jacobians of operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
import torch.nn.functional as F  # noqa: E402
from networks.torch_modules import Function, jacobian_norm, prepared, upper_of  # noqa: E402
from specnorm_networks import (  # noqa: E402
    network_bound,
)
from torch import Tensor, nn  # noqa: E402

import specnorm  # noqa: E402
from specnorm.errors import MethodError  # noqa: E402

pytestmark = pytest.mark.usefixtures("seeded_torch")


def images(count: int, *shape: int) -> Tensor:
    """Pictures with edges and smooth parts, float64."""
    grids = torch.meshgrid(*(torch.linspace(0, 3, n, dtype=torch.float64) for n in shape[1:]), indexing="ij")
    waves = torch.randn(count, shape[0], len(grids), *(1 for _ in grids), dtype=torch.float64)
    smooth = torch.stack(grids)[None, None].mul(waves).sum(2)
    pictures: Tensor = torch.sin(smooth) + (smooth > 0.5) + 0.05 * torch.randn(count, *shape, dtype=torch.float64)
    return pictures


def steepest(f: Callable[[Tensor], Tensor], x: Tensor, steps: int = 60) -> float:
    """Largest |f(x) - f(y)| / |x - y| found by gradient ascent on both, starting from images."""
    x = x.clone().requires_grad_()
    d = (0.1 * torch.randn_like(x)).requires_grad_()
    ascent = torch.optim.Adam([x, d], lr=0.05)
    best = 0.0
    for _ in range(steps):
        rise = (f(x + d) - f(x)).flatten(1).norm(dim=1)
        ratio = rise / d.flatten(1).norm(dim=1)
        best = max(best, float(ratio.detach().max()))
        ascent.zero_grad()
        (-ratio.sum()).backward()
        ascent.step()
    return best


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.left, self.right = nn.Conv2d(6, 6, 3, 1, 1), nn.Conv2d(6, 6, 1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.norm(self.right(F.relu(self.left(x)))) + x)
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=2, dilation=2), nn.Conv2d(3, 2, 1)
        self.c = nn.Conv2d(9, 4, 3, padding=1, padding_mode="reflect", groups=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([F.gelu(self.a(x)), torch.sigmoid(self.b(x)), x], 1)
        return F.silu(self.c(F.max_pool2d(x, 3, 2, 1))).flatten(1)


class UpAndDown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="circular")
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1)
        self.slope = nn.PReLU(init=1.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.slope(self.up(F.avg_pool2d(self.down(x), 3, 1, 1, count_include_pad=False)))
        y = (
            F.interpolate(y[:, :, ::2], scale_factor=2, mode="bilinear")
            - 0.5 * F.interpolate(x, scale_factor=2)[:, :, ::2]
        )
        return F.leaky_relu(F.pixel_unshuffle(y, 2), 0.2)


class Signal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.point = nn.Conv1d(2, 6, 5, stride=2, groups=2), nn.Conv1d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(F.elu(self.conv(F.pad(x, (2, 1)))), 4, 1)
        x = F.hardswish(self.point(x))
        y: Tensor = torch.log_softmax(torch.flatten(F.adaptive_max_pool1d(x, 3), 1), 1)
        return y


NETWORKS = {
    "residual": (Residual, (3, 12, 12), 14),
    "concatenated": (Concatenated, (3, 10, 10), 5),
    "up-and-down": (UpAndDown, (2, 8, 8), 6),
    "signal": (Signal, (2, 17), 40),
}
"""Module, shape of an input, and by how much at most the bound may exceed what ascent finds."""


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.sampled("residual", "signal", "concatenated")
def test_bound_holds_and_is_not_absurd(name: str) -> None:
    make, shape, loose = NETWORKS[name]
    model = prepared(make())
    upper = upper_of(model, shape)
    reached = steepest(model, images(6, *shape))
    assert reached <= upper
    assert upper <= loose * reached, (upper, reached)


# -- modules -------------------------------------------------------------------------------------------------------
def test_batch_norm_is_folded() -> None:
    """The folded bound is that of the folded kernel, below the product of the two norms."""
    conv, norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
    model = prepared(nn.Sequential(conv, norm))
    upper = upper_of(model, (2, 6, 6), 1e-6)
    exact = jacobian_norm(model, torch.randn(2, 6, 6, dtype=torch.float64))
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    apart = float(specnorm.conv_norm(conv.weight.detach())) * float(scale.abs().max())
    assert exact <= upper <= exact * (1 + 1e-5) < apart


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
@pytest.mark.sampled("reflect")
def test_padding_and_its_convolution_are_one_layer(mode: Any) -> None:
    model = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode).double()
    exact = jacobian_norm(model, torch.randn(2, 6, 6, dtype=torch.float64))
    assert exact <= upper_of(model, (2, 6, 6)) <= exact * 1.01


class MadeAtFirst(nn.Module):
    """Twice its input, by a parameter and a tensor that it makes at its first call, as published Cayley layers do."""

    scale: Any
    ones: Any

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("scale", None)

    def forward(self, x: Any) -> Any:
        if self.scale is None:
            self.scale, self.ones = nn.Parameter(torch.tensor(2.0)), torch.ones(x.shape[1:])
        return self.scale * self.ones * x


def test_what_a_first_call_makes_is_not_made_by_the_trace() -> None:
    model = nn.Sequential(MadeAtFirst())
    with pytest.raises(MethodError, match=r"0\.ones, 0\.scale at its first call"):
        network_bound(model, (3, 4, 4))
    assert dict(model[0].named_parameters()) == {}
    assert "ones" not in vars(model[0])
    model(torch.ones(1, 3, 4, 4))
    assert network_bound(model, (3, 4, 4)).upper == pytest.approx(2.0)


def test_control_flow_on_values_is_refused_with_advice() -> None:
    def f(x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(MethodError, match="cannot export Function"):
        network_bound(Function(f), (2, 3))
