"""The bound of torch modules holds: against gradient ascent on pairs of images, and against Jacobians of operators."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
import torch.nn.functional as F  # noqa: E402
from networks.torch_modules import Function, jacobian_norm, prepared, upper_of  # noqa: E402
from specnorm_networks import (  # noqa: E402
    Graph,
    Layer,
    Node,
    bound,
    network_bound,
)
from specnorm_networks.certified.operators import Convolution, Input, Pad  # noqa: E402
from specnorm_torch import spectral_norm  # noqa: E402
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
def test_bound_holds_and_is_not_absurd(name: str) -> None:
    make, shape, loose = NETWORKS[name]
    model = prepared(make())
    upper = upper_of(model, shape)
    reached = steepest(model, images(6, *shape))
    assert reached <= upper
    assert upper <= loose * reached, (upper, reached)


def test_heuristic_can_be_below_the_truth() -> None:
    """So it is shown as no bound: one convolution, whose reshaped norm is below what images reach."""
    model = nn.Conv2d(2, 2, 3, padding=1, bias=False).double()
    model.weight.data.fill_(1.0)
    found = network_bound(model, (2, 12, 12))
    assert found.heuristic is not None
    assert found.heuristic < steepest(model, images(4, 2, 12, 12), 150) <= upper_of(model, (2, 12, 12))


def test_linear_network_is_tight() -> None:
    """Known norm: matrices that share singular vectors, and maps of norm 1 between them."""
    q, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    model = nn.Sequential(*(nn.Linear(6, 6, bias=False).double() for _ in range(3)), nn.Flatten(), nn.Dropout())
    for at in range(3):
        model[at].weight.data = q @ torch.diag(torch.tensor([2.0 + at, 1, 1, 0.5, 0.1, 0], dtype=torch.float64)) @ q.T
    assert 24 <= upper_of(model, (6,), 1e-9) <= 24 * (1 + 1e-8)


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
def test_padding_and_its_convolution_are_one_layer(mode: Any) -> None:
    model = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode).double()
    exact = jacobian_norm(model, torch.randn(2, 6, 6, dtype=torch.float64))
    assert exact <= upper_of(model, (2, 6, 6)) <= exact * 1.01


def test_padding_and_convolutions_at_random() -> None:
    """Every padding mode and amount before every stride, dilation and group, at its size and at every size."""
    dice, seen = random.Random(0), 0
    while seen < 60:
        ndim, groups = dice.choice([1, 2]), dice.choice([1, 2])
        k, s, r, n = (
            tuple(dice.choice(some) for _ in range(ndim)) for some in ([1, 2, 3], [1, 2, 3], [1, 2], [4, 5, 6])
        )
        mode: Any = dice.choice(["circular", "reflect", "replicate", "zeros"])
        pads = tuple((dice.randint(0, 3), dice.randint(0, 3)) for _ in range(ndim))
        wide = [a + b + c for a, (b, c) in zip(n, pads, strict=True)]
        out = [(w - d * (j - 1) - 1) // step + 1 for w, j, step, d in zip(wide, k, s, r, strict=True)]
        if min(out) < 1:
            continue
        seen += 1
        kernel = torch.randn(2, 2 // groups, *k, dtype=torch.float64)
        size = 2 * math.prod(n)
        flat = [a for pair in reversed(pads) for a in pair]
        basis = F.pad(
            torch.eye(size, dtype=torch.float64).reshape(size, 2, *n), flat, {"zeros": "constant"}.get(mode, mode)
        )
        apply: Any = (F.conv1d, F.conv2d)[ndim - 1]
        exact = float(torch.linalg.matrix_norm(apply(basis, kernel, None, s, 0, r, groups).reshape(size, -1), 2))
        geometry = {"stride": s, "dilation": r, "groups": groups, "padding_mode": "zeros", "padding": ((0, 0),) * ndim}
        for known in (True, False):
            shapes = [(1, 2, *(z if known else map("n{}".format, z))) for z in (n, wide, out)]
            layer = Layer("k", lambda kernel=kernel: kernel, geometry, ndim)  # type: ignore[misc]
            x, pad = Node("x", Input(), (), shapes[0]), Node("p", Pad(mode, pads), ("x",), shapes[1])
            found = bound(Graph((x, pad, Node("y", Convolution(layer), ("p",), shapes[2])), ("y",)))
            assert found.upper is not None
            assert exact * (1 - 1e-12) <= found.upper, (mode, pads, k, s, r, n, groups, known)


def test_circular_stride_that_does_not_divide() -> None:
    """Then the norm can exceed the strided supremum: [1, 1] with stride 2 on 3 pixels has norm sqrt(3)."""
    model = nn.Conv1d(1, 1, 2, stride=2, padding="valid", bias=False).double()
    model.weight.data.fill_(1.0)
    padded = nn.Sequential(nn.CircularPad1d((0, 1)), model)
    exact = jacobian_norm(padded, torch.randn(1, 3, dtype=torch.float64))
    assert exact == pytest.approx(math.sqrt(3))
    assert upper_of(padded, (1, 3)) >= exact


def test_parametrised_weight_is_the_one_that_is_used() -> None:
    layer = spectral_norm(nn.Conv2d(3, 5, 3, padding=1), bound=0.5)
    layer.train()
    for _ in range(30):
        layer(torch.randn(1, 3, 8, 8))
    layer.eval()
    weight = layer.weight.detach()
    found = network_bound(nn.Sequential(layer, nn.ReLU()), (3, 8, 8))
    bounds = specnorm.enclose(weight, (8, 8), padding_mode="zeros")
    # At least as close as an enclosure to the usual tolerance.
    assert found.upper is not None
    assert float(bounds.lower) <= found.upper <= float(bounds.upper) * (1 + 1e-6)
    assert {step.layer for step in found.nodes if step.layer} == {"0.weight"}


def test_two_inputs_and_two_outputs() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
            return 3 * x + 4 * y, 12 * x[:, :1] + at

    found = network_bound(Two(), (torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.int64)))
    assert list(found.input_shapes) == ["x", "y"]
    assert sorted(value or 0.0 for value in found.outputs.values()) == pytest.approx([5, 12])
    assert found.upper == pytest.approx(13)


def test_mode_and_state_are_as_before() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {name: x.clone() for name, x in model.state_dict().items()}
    model[1].eval()
    network_bound(model, (1, 5, 5))
    assert model.training
    assert model[0].training
    assert not model[1].training
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


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

    with pytest.raises(MethodError, match=r"torch\.export cannot trace Function"):
        network_bound(Function(f), (2, 3))


def test_half_precision_weights() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).to(torch.bfloat16)
    exact = float(torch.linalg.matrix_norm(model[0].weight.detach().double(), 2))
    assert exact <= upper_of(model, (4,)) <= 1.01 * exact


class Scaled(nn.Module):
    """A product with a constant matrix, then batch normalisation of axis 1 or a product with a vector."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.matrix, self.norm, self.linear = nn.Parameter(torch.randn(5, 5)), nn.BatchNorm1d(5), nn.Linear(5, 5)
        self.scale = nn.Parameter(torch.tensor([5.0, 0.1, 1.0, 0.2, 3.0]))

    def forward(self, x: Tensor) -> Tensor:
        y = self.matrix @ x if "left" in self.kind else x @ self.matrix if "right" in self.kind else self.linear(x)
        if "rows" in self.kind:
            return y * self.scale[:, None]
        z: Tensor = y * self.scale if "columns" in self.kind else self.norm(y)
        return z


@pytest.mark.parametrize("scaling", ["rows", "columns", "norm"])
@pytest.mark.parametrize("product", ["left", "right", "linear"])
def test_scaling_is_folded_along_the_layers_own_axis_only(product: str, scaling: str) -> None:
    """Square matrices, so that the wrong axis would fit as well."""
    model = prepared(Scaled(f"{product} {scaling}"))
    model.get_submodule("norm").get_buffer("running_var").copy_(torch.tensor([0.01, 5.0, 1.0, 0.5, 0.1]))
    exact = jacobian_norm(model, torch.randn(5, 5, dtype=torch.float64))
    assert exact * (1 - 1e-9) <= upper_of(model, (5, 5))


def test_computed_weights_of_one_module_are_two_kernels() -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(3))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(F.linear(x, self.weight * 1), self.weight * 7)

    found = network_bound(nn.Sequential(Computed()), (3,))
    assert found.upper == pytest.approx(7, rel=3e-3)
    assert len({step.layer for step in found.nodes if step.layer}) == 2


def test_one_value_as_two_outputs_counts_twice() -> None:
    class Twice(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = 3 * x
            return y, y

    assert network_bound(Twice(), (2,)).upper == pytest.approx(3 * math.sqrt(2))


class ScaledUnits(nn.Module):
    """x - 2 W diag(t) relu(W^T x + b): for t = 1 / (sums of |W^T W|), 1-Lipschitz (SLL, Araujo et al. 2023)."""

    def __init__(self, weight: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.weight, self.scales = nn.Parameter(weight), nn.Parameter(scales)
        self.bias = nn.Parameter(torch.linspace(-1, 1, len(weight), dtype=weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.scales * torch.relu(F.linear(x, self.weight) + self.bias)
        return x - 2 * F.linear(inner, self.weight.T)


@pytest.mark.parametrize("signs", [1.0, -1.0, 0.0])
def test_units_that_are_scaled_after_their_activation(signs: float) -> None:
    """Each unit's slopes are scaled with it: above every choice of units, and 1 where the theorem says so."""
    numbers = torch.Generator().manual_seed(0)
    weight = torch.randn(7, 9, generator=numbers, dtype=torch.float64)
    scales = 1 / (weight @ weight.T).abs().sum(1)
    scales *= signs or torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0, 1.0, -1.0])
    found = network_bound(ScaledUnits(weight, scales), (9,))
    assert found.upper is not None
    masks = np.array(list(itertools.product([0.0, 1.0], repeat=7)))
    w, t = weight.numpy(), scales.numpy()
    slopes = np.eye(9) - 2 * np.einsum("um,ku,un->kmn", w, masks * t, w)
    reached = float(np.linalg.norm(slopes, 2, axis=(1, 2)).max())
    assert reached * (1 - 1e-12) <= found.upper <= reached * (1.002 if signs else 1.2)
    if signs == 1.0:
        assert reached <= 1 + 1e-12
