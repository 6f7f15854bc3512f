"""Torch modules enter as ONNX: bounds that hold and are close, and nothing that the exporter changes unseen."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
torch = pytest.importorskip("torch", exc_type=ImportError)
from helpers.checks import present  # noqa: E402
from networks.torch_modules import Function, jacobian_norm, upper_of  # noqa: E402
from specnorm_networks import network_bound  # noqa: E402
from specnorm_networks.sources import torch_translations  # noqa: E402
from torch import nn  # noqa: E402

import specnorm  # noqa: E402
from specnorm.errors import MethodError, TranslationError  # noqa: E402


def applied(function: Any) -> nn.Module:
    return Function(lambda x, inner: function(inner, x), nn.Linear(4, 4))


NETWORKS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
        ),
        (3, 8, 8),
    ),
    "three axes, no bias": (lambda: nn.Conv3d(1, 2, 2, bias=False), (1, 3, 4, 4)),
    "three axes": (lambda: nn.Conv3d(2, 4, 2, stride=(1, 2, 1), padding=1, groups=2), (2, 3, 4, 4)),
    "a divisor": (lambda: nn.AvgPool2d(3, 2, 1, divisor_override=2), (2, 7, 7)),
    "means of three": (lambda: nn.AdaptiveAvgPool1d(2), (2, 5)),
    "stable sorting": (lambda: applied(lambda _, x: x.sort(dim=1, stable=True)[0]), (4,)),
    "exact pixels": (lambda: nn.Upsample(scale_factor=1.5, mode="nearest-exact"), (2, 5, 5)),
    "an orthogonal weight": (lambda: nn.utils.parametrizations.orthogonal(nn.Linear(8, 8)), (8,)),
    "functions": (lambda: nn.Sequential(nn.Softplus(2.0, 30.0), nn.Threshold(0.0, 0.0), nn.LogSigmoid()), (4,)),
    "in place": (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(True), nn.Linear(4, 4)), (4,)),
    "one sample alone": (lambda: applied(lambda inner, x: inner(x.view(1, 4))), (4,)),
    "a constant named as a method": (
        lambda: applied(lambda inner, x: inner(x) @ (2 * torch.ones(4, 4)).double().float()),
        (4,),
    ),
    "constants of float64": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4, eps=0.1), nn.SELU(), nn.ELU(0.3), nn.SELU()).double(),
        (4,),
    ),
    "sizes": (lambda: applied(lambda inner, x: inner(x.view(x.shape[0], 2, 2).flatten(1))), (4,)),
}


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.sampled("convolutions", "float64", "three axes, no bias")
def test_bounds_hold_and_are_close(name: str) -> None:
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = make().eval()
    found: Any = network_bound(model, shape)
    assert found.checked.complete
    points = torch.randn(20, *shape, dtype=next((p.dtype for p in model.parameters()), None))
    reached = max(jacobian_norm(model, x) for x in points)
    assert reached * (1 - 1e-5) <= found.upper <= 5 * reached


class WrittenMish(nn.Module):
    def forward(self, x: Any) -> Any:
        return x * torch.tanh(nn.functional.softplus(x))


ACTIVATIONS: dict[str, Any] = {name: getattr(nn, name) for name in nn.modules.activation.__all__} | {
    "Threshold": lambda: nn.Threshold(0.125, 0.125),
    "written Mish": WrittenMish,
} | {name: partial(getattr(nn, name), 1) for name in ("Softmax", "Softmin", "LogSoftmax")}  # fmt: skip
REFUSED = {"GLU": "product of two values", "Hardshrink": "step where an entry crosses a threshold"}


@pytest.mark.sampled("Softplus-float64")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS.keys() - {"MultiheadAttention"}))
def test_every_activation_has_a_bound_or_a_reason(name: str, dtype: Any) -> None:
    """One has a bound, or is refused for what it does."""
    torch.manual_seed(0)
    function = ACTIVATIONS[name]()
    model = nn.Sequential(nn.Linear(4, 6), function, nn.Linear(3 if name == "GLU" else 6, 4)).to(dtype).eval()
    shape = (2, 3, 4) if name == "Softmax2d" else (4,)
    found: Any = network_bound(model, shape, budget=5)
    if name in REFUSED:
        assert found.upper is None
        assert REFUSED[name] in found.unknown[0].reason
        return
    reached = max(jacobian_norm(model, x) for x in 3 * torch.randn(20, *shape, dtype=dtype))
    assert found.checked.complete
    assert reached * (1 - 1e-5) <= (found.upper or 0) <= 5 * reached


def test_an_argument_that_the_exporter_drops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """It writes an average over its window, whatever the divisor."""
    without = {key: write for key, write in torch_translations.table().items() if "avg_pool2d" not in str(key)}
    monkeypatch.setattr(torch_translations, "table", lambda: without)
    with pytest.raises(TranslationError, match="avg_pool2d"):
        network_bound(nn.AvgPool2d(2, divisor_override=3), (1, 4, 4))


def test_a_number_that_the_exporter_rounds_is_within_the_tolerance() -> None:
    """It writes 0.1 in single precision, of models in double precision too."""
    found = network_bound(applied(lambda inner, x: 0.1 * inner(x)).double(), (4,))
    assert found.upper is not None
    assert found.checked.complete


@pytest.mark.parametrize("name", ["clamp", "clip"])
@pytest.mark.sampled("clip")
def test_limits_may_be_an_int_and_a_float(name: str) -> None:
    found = network_bound(applied(lambda inner, x: inner(getattr(x, name)(0.1, 2))), (4,))
    assert found.upper is not None
    assert found.checked.complete


class ActNorm(nn.Module):
    """Takes its scale from the first input (Glow); a flag that is a buffer says whether it has seen one."""

    seen: Any

    def __init__(self, is_seen: Callable[[Any], bool], flag: Any) -> None:
        super().__init__()
        self.is_seen = is_seen
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", flag)

    def forward(self, x: Any) -> Any:
        if not self.is_seen(self.seen):
            with torch.no_grad():
                self.scale.copy_(1 / x.abs().amax(0))
                self.seen.fill_(1)
        return x * self.scale


FLAGS = {
    "Boolean": (bool, torch.tensor(False)),
    "item": (lambda seen: seen.item() == 1, torch.tensor(0, dtype=torch.uint8)),
    "one entry": (lambda seen: seen > 0, torch.tensor([0])),
}


@pytest.mark.parametrize("case", FLAGS)
@pytest.mark.sampled("item")
def test_a_layer_that_takes_its_scale_from_data_has_a_bound_after_it_has_seen_some(case: str) -> None:
    is_seen, flag = FLAGS[case]
    norm = ActNorm(is_seen, flag.clone())
    with pytest.raises(MethodError, match=r"changes its buffer seen from .* call the model once on data"):
        network_bound(norm, (3,))
    assert norm.seen == 0
    norm(torch.tensor([[0.5, 2.0, 4.0]]))
    upper = network_bound(norm, (3,)).upper
    assert upper is not None
    assert 2 <= upper < 2.0001
    assert norm.seen.dtype == flag.dtype
    assert norm.seen == 1


def test_a_flag_that_each_call_writes_is_a_state() -> None:
    class Counts(nn.Module):
        calls: Any

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.tensor(0))

        def forward(self, x: Any) -> Any:
            self.calls += 1
            return x * 2 if self.calls > 3 else x

    with pytest.raises(MethodError, match="a call changes its buffer calls from 0 to 1"):
        network_bound(Counts(), (3,))


def test_a_gradient_step_by_autograd_is_refused_and_the_advice_has_a_bound() -> None:
    """x - W^T dpsi(W x), where the slope of dpsi is at most 1/4."""

    class Step(nn.Module):
        def __init__(self, by_autograd: bool) -> None:
            super().__init__()
            self.by_autograd = by_autograd
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: Any) -> Any:
            if not self.by_autograd:
                dpsi = torch.sigmoid(self.conv(x))
                return x - nn.functional.conv_transpose2d(dpsi, self.conv.weight, padding=1)
            with torch.enable_grad():
                x = x.requires_grad_()
                return x - torch.autograd.grad(nn.functional.softplus(self.conv(x)).sum(), x)[0]

    autograd, written = Step(True), Step(False)
    written.load_state_dict(autograd.state_dict())
    x = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(autograd(x.clone()), written(x), atol=1e-6)
    with pytest.raises(MethodError, match=r"differentiates a convolution .*conv_transpose2d"):
        network_bound(autograd, (1, 5, 5))
    found = network_bound(written, (1, 5, 5), budget=None)
    slope = torch.autograd.functional.jacobian(written, x[:1]).reshape(25, 25)
    assert found.upper is not None
    assert float(torch.linalg.matrix_norm(slope, 2)) <= found.upper < 1.001


def test_the_exporters_reason_is_the_last_one() -> None:
    """ "Failed to convert the exported program to an ONNX model ... Next steps:" was all that was said."""
    distances = applied(lambda _, x: torch.cdist(x[None], x.new_ones(1, 3, 4))[0])
    with pytest.raises(MethodError, match=r"cannot export Function: .*No ONNX function .*aten\._cdist_forward"):
        network_bound(distances, (4,))


def test_a_negative_keeps_half_lines_and_joins_layers() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 6)
    last = nn.Linear(6, 5)
    norm = float(specnorm.matrix_norm(layer.weight.detach()))
    half_line = Function(lambda x, inner: torch.exp(-inner(x).abs()), layer)
    assert upper_of(half_line, (6,)) == pytest.approx(norm, rel=1e-5)
    found = network_bound(nn.Sequential(layer, nn.LogSigmoid(), last), (6,))
    assert present(found.upper) < 0.99 * present(found.product)


def test_a_table_read_by_an_integer_input_adds_a_constant() -> None:
    class Conditioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 4)
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Any, at: Any) -> Any:
            return self.layer(x + self.table(at))

    model = Conditioned()
    found = network_bound(model, (torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64)))
    norm = float(specnorm.matrix_norm(model.layer.weight.detach()))
    assert found.upper == pytest.approx(norm, rel=1e-5)
    assert found.checked.inputs


pytestmark = pytest.mark.usefixtures("seeded_torch")


class MadeAtFirst(nn.Module):
    """Twice its input, by a parameter and a tensor that it makes at its first call, as published Cayley layers do."""

    scale: Any
    ones: Any

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("scale", None)

    def forward(self, x: Any) -> Any:
        if self.scale is None:
            self.scale = nn.Parameter(torch.tensor(2.0))
            self.ones = torch.ones(x.shape[1:])
        return self.scale * self.ones * x


def test_what_a_first_call_makes_is_not_made_by_the_trace() -> None:
    """It is made by a call before it, has its numbers, and is gone afterwards."""
    model = nn.Sequential(MadeAtFirst())
    found = network_bound(model, (3, 4, 4))
    assert found.upper == pytest.approx(2.0)
    assert found.checked.complete
    assert dict(model[0].named_parameters()) == {}
    assert "ones" not in vars(model[0])
