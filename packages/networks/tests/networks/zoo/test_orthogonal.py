"""Published orthogonal layers: proven [m, M] beside what their authors claim; run by ``nox -s zoo``."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

torch: Any = pytest.importorskip("torch")

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
