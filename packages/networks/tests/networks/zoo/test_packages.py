"""The layer classes of orthogonium, deel-torchlip and timm themselves: CI takes some, ``nox -s zoo`` all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")
import specnorm_networks  # noqa: E402 - after the skip where torch is missing
import specnorm_torch  # noqa: E402 - after the skip where torch is missing
from networks.zoo.no_torchvision import without_torchvision  # noqa: E402
from networks.zoo.test_zoo import PROVEN, norm_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("_torchvision")
_torchvision = pytest.fixture(scope="module")(without_torchvision)
REFUSED = "refused"
MOVING = "moving"
"""Its parametrisation moves in ``eval()`` too: proven of a copy whose kernel is fixed."""
CASES: dict[str, tuple[str, str, Callable[[Any], Any], tuple[int, ...], str]] = {
    # name: the package, the module, the layer, its input, what the audit says of it
    "AOC": ("orthogonium", ".layers.conv.AOC", lambda m: m.AdaptiveOrthoConv2d(4, 4, 3, padding=1), (4, 6, 6), MOVING),
    "AOC, stride": (
        "orthogonium", ".layers.conv.AOC", lambda m: m.AdaptiveOrthoConv2d(4, 8, 4, stride=2, padding=1), (4, 6, 6),
        MOVING,
    ),
    "AOL": ("orthogonium", ".layers.conv.AOL", lambda m: m.AOLConv2D(3, 4, 3, padding=1), (3, 5, 5), PROVEN),
    "SOC": (
        "orthogonium", ".layers.conv.adaptiveSOC", lambda m: m.AdaptiveSOCConv2d(4, 4, 3, padding=1), (4, 6, 6), PROVEN
    ),
    "Cayley": ("orthogonium", ".legacy.cayley_ortho_conv", lambda m: m.Cayley(4, 4, 3), (4, 6, 6), PROVEN),
    "OrthoLinear": ("orthogonium", ".layers", lambda m: m.OrthoLinear(6, 4), (6,), PROVEN),
    "UnitNormLinear": ("orthogonium", ".layers", lambda m: m.UnitNormLinear(6, 4), (6,), PROVEN),
    "SLL, dense": ("orthogonium", ".layers.conv.SLL", lambda m: m.SDPBasedLipschitzDense(5, 5, 7), (5,), REFUSED),
    "SLL, block": ("orthogonium", ".layers.conv.SLL", lambda m: m.SDPBasedLipschitzResBlock(3, 4), (3, 5, 5), REFUSED),
    "SpectralConv2d": (
        "deel.torchlip", "", lambda m: m.SpectralConv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 5, 5), PROVEN
    ),
    "SpectralLinear": ("deel.torchlip", "", lambda m: m.SpectralLinear(6, 4), (6,), PROVEN),
    "FrobeniusLinear": ("deel.torchlip", "", lambda m: m.FrobeniusLinear(6, 4), (6,), PROVEN),
    "FrobeniusConv2d": ("deel.torchlip", "", lambda m: m.FrobeniusConv2d(3, 4, 3, padding=1), (3, 5, 5), PROVEN),
    "StdConv2d": ("timm", ".layers", lambda m: m.StdConv2d(3, 4, 3, padding=1), (3, 5, 5), PROVEN),
    "StdConv2dSame": ("timm", ".layers", lambda m: m.StdConv2dSame(3, 4, 7, stride=2), (3, 8, 8), PROVEN),
    "ScaledStdConv2d": ("timm", ".layers", lambda m: m.ScaledStdConv2d(3, 4, 3), (3, 5, 5), PROVEN),
    "Conv2dSame": ("timm", ".layers", lambda m: m.Conv2dSame(3, 4, 7, stride=2), (3, 8, 8), PROVEN),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.sampled("AOL", "SLL, dense")
def test_the_norm_is_proven_or_the_row_says_why_not(case: str) -> None:
    package, module, make, shape, wanted = CASES[case]
    torch.manual_seed(0)
    # Orthogonium computes its kernels in float32 whatever is asked; the oracle then has that precision.
    dtype = torch.float32 if package == "orthogonium" else torch.float64
    layer = make(pytest.importorskip(package + module)).to(dtype)
    layer.train()(torch.randn(2, *shape, dtype=dtype))  # some of them set up their buffers in training
    model = torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.LazyLinear(2, dtype=dtype)).eval()
    model(torch.zeros(1, *shape, dtype=dtype))
    if wanted == MOVING:
        moving: Any = specnorm_torch.audit_module(model, shape).layers[0]
        assert "changes its kernel at every call" in str(moving.note)
        model = specnorm_torch.baked(model)
        wanted = PROVEN
        # Another call's kernel, in float32.
        assert specnorm_torch.audit_module(model, shape).layers[0].upper == pytest.approx(moving.upper, rel=1e-6)
    report = specnorm_torch.audit_module(model, shape)
    report = replace(report, layers=report.layers[:-1])
    if wanted == PROVEN:
        row: Any = report.layers[0]
        assert len(report.layers) == 1
        assert row.reason is None
        norm = norm_of(model[0], shape, dtype)
        slack = 1e-12 if dtype == torch.float64 else 1e-5
        assert row.lower * (1 - slack) <= norm <= row.upper * (1 + slack)
    else:
        assert [row for row in report.layers if not (row.reason is not None and row.upper is None)] == []
        assert report.layers or report.unmeasured


ACTIVATIONS: dict[str, tuple[str, str, Callable[[Any], Any], tuple[int, ...], float]] = {
    # name: the package, the module, the activation, its input, its constant
    "GroupSort2": ("deel.torchlip", "", lambda m: m.GroupSort2(), (6, 3, 3), 1.0),
    "GroupSort": ("deel.torchlip", "", lambda m: m.GroupSort(3), (6,), 1.0),
    "FullSort": ("deel.torchlip", "", lambda m: m.FullSort(), (6, 3, 3), 1.0),
    "MaxMin, both signs": ("deel.torchlip", "", lambda m: m.MaxMin(), (4,), 1.0),
    "HouseHolder": (
        "deel.torchlip", "", lambda m: m.HouseHolder(6, theta_initializer="normal"), (6, 3, 3), 1.0,
    ),
    "MaxMin": ("orthogonium", ".layers.custom_activations", lambda m: m.MaxMin(), (6, 3, 3), 1.0),
    "HouseHolder, halved": (
        "orthogonium", ".layers.custom_activations", lambda m: m.HouseHolder(6), (6, 3, 3), 0.5**0.5,
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ACTIVATIONS)
@pytest.mark.sampled("GroupSort2")
def test_activations_have_their_norm(case: str) -> None:
    package, module, make, shape, wanted = ACTIVATIONS[case]
    torch.manual_seed(0)
    found = specnorm_networks.network_bound(make(pytest.importorskip(package + module)), shape)
    assert found.upper == pytest.approx(wanted, rel=1e-7)
