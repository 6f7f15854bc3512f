"""Published orthogonal layers: proven [m, M] beside what their authors claim; run by ``nox -s zoo``."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 - after the skip where torch is missing

import specnorm  # noqa: E402 - after the skip where torch is missing

pytestmark = [pytest.mark.nightly, pytest.mark.filterwarnings("ignore")]

LAYERS: dict[str, tuple[str, str, tuple[Any, ...], dict[str, Any], float]] = {
    # name: the module of orthogonium, the class, its arguments, and how far from an isometry it is at most
    "AOC": ("layers.conv.AOC", "AdaptiveOrthoConv2d", (8, 8, 3), {}, 1e-5),
    "AOC, more outputs": ("layers.conv.AOC", "AdaptiveOrthoConv2d", (8, 16, 3), {}, 1e-5),
    "AOC, fewer outputs": ("layers.conv.AOC", "AdaptiveOrthoConv2d", (16, 8, 3), {}, 1e-5),
    "AOC, stride": ("layers.conv.AOC", "AdaptiveOrthoConv2d", (8, 16, 4), {"stride": 2}, 1e-5),
    "AOC, groups": ("layers.conv.AOC", "AdaptiveOrthoConv2d", (16, 16, 3), {"groups": 4}, 1e-5),
    "BCOP": ("layers.conv.AOC", "FastBlockConv2d", (8, 8, 3), {}, 1e-5),
    "BCOP x RKO": ("layers.conv.AOC", "BcopRkoConv2d", (8, 16, 4), {"stride": 2}, 1e-5),
    "RKO": ("layers.conv.AOC", "RKOConv2d", (4, 16, 2), {"stride": 2}, 1e-5),
    # The exponential of a skew kernel by the first terms of its series, and cut to a few taps.
    "SOC": ("layers.conv.adaptiveSOC", "AdaptiveSOCConv2d", (8, 8, 3), {}, 0.05),
}


def published(name: str) -> tuple[Any, dict[str, Any]]:
    """The kernel that a layer computes with after some steps in training mode, and its geometry."""
    module, kind, words, options, _ = LAYERS[name]
    torch.manual_seed(0)
    layer = getattr(importlib.import_module(f"orthogonium.{module}"), kind)(*words, **options, padding=1)
    for _ in range(3):
        layer.train()(torch.randn(2, words[0], 8, 8))
    return layer.eval().weight.detach(), {"stride": tuple(layer.stride), "groups": layer.groups}


@pytest.mark.parametrize("name", LAYERS)
def test_both_singular_ends_of_published_layers_are_within_their_claim(name: str) -> None:
    kernel, geometry = published(name)
    claimed = LAYERS[name][-1]
    smallest = specnorm.enclose_smallest(kernel, **geometry)
    norm = specnorm.enclose(kernel, rtol=1e-6, **geometry)
    assert smallest.status.startswith("converged")
    assert float(smallest.lower) >= np.sqrt(1 - claimed)
    assert float(norm.upper) <= np.sqrt(1 + claimed)
    assert specnorm.is_isometry(kernel, claimed, **geometry)
    bound = float(specnorm.isometry_bound(kernel, **geometry))
    found = specnorm.enclose_isometry(kernel, **geometry)
    assert float(found.lower) <= bound
    if name == "SOC":
        assert not specnorm.is_isometry(kernel, claimed / 10, **geometry)  # not orthogonal, proven
    spectrum = specnorm.singular_values(kernel.double(), 8, **geometry)
    assert float(smallest.lower) <= float(spectrum[-1])
    assert float(norm.upper) >= float(spectrum[0])


def test_a_cayley_layer_is_orthogonal_at_its_size() -> None:
    """A Cayley layer is a convolution at one size only: there its answers to impulses are its kernel."""
    channels, size = 4, 6
    torch.manual_seed(0)
    layer = importlib.import_module("orthogonium.legacy.cayley_ortho_conv").Cayley(channels, channels, 3, bias=False)
    impulses = torch.zeros(channels, channels, size, size)
    impulses[range(channels), range(channels), 0, 0] = 1
    with torch.no_grad():
        kernel = layer.eval()(impulses).numpy().transpose(1, 0, 2, 3).copy()
    smallest, norm = (f(kernel, input_shape=size) for f in (specnorm.enclose_smallest, specnorm.enclose))
    assert float(smallest.lower) >= 1 - 2e-3
    assert float(norm.upper) <= 1 + 2e-3


def test_with_zero_padding_an_orthogonal_convolution_is_no_orthogonal_layer() -> None:
    """What the authors' own pages say of circular padding alone: borders cut taps off, and norms fall."""
    kernel, _ = published("AOC")
    layer = specnorm.enclose_smallest(kernel, 8, padding_mode="zeros")
    assert float(layer.upper) < 0.9
    everywhere = specnorm.enclose_smallest(kernel, padding_mode="zeros", padding=2)
    assert float(everywhere.lower) > 1 - 1e-5


def test_an_audit_has_both_ends_of_a_live_layer() -> None:
    module = importlib.import_module("orthogonium.layers.conv.AOC")
    torch.manual_seed(0)
    model = torch.nn.Sequential(module.AdaptiveOrthoConv2d(4, 4, 3, padding=1, padding_mode="circular"))
    model.train()(torch.randn(2, 4, 6, 6))
    (row,) = specnorm_torch.audit_module(model.eval(), (4, 6, 6), smallest=True, methods=["isometry"]).layers
    assert row.reason is None
    limits = {"smallest": (1 - 1e-5, 1.001), "condition": (1.0, 1.002), "isometry": (0.0, 1e-5)}
    for name, (least, most) in limits.items():
        value = row.values[name]
        assert isinstance(value, float)
        assert least < value < most
