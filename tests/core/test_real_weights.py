"""What must hold on published networks: every dense convolution of ``tests/data`` (CI: a sample), and the audit of the
ResNet-20.
"""

from __future__ import annotations

import numpy as np
import pytest
from checks import assert_encloses
from nightly import sample
from numpy.typing import NDArray
from oracle import sigma_star, tensor_norm_best
from real_weights import real_layers

import specnorm


def dense(model: str) -> list[tuple[str, NDArray[np.float32]]]:
    """Full convolutions, grouped and pointwise ones left out, as one dense kernel each."""
    return [(name, kernel) for name, kernel, geometry in real_layers(model) if geometry["groups"] == 1]


@pytest.mark.parametrize("model", ["resnet20", "espnet", "mini_xception"])
def test_layers_as_they_are_used(model: str) -> None:
    """Every strided, dilated, grouped or transposed layer with its own geometry and zero padding."""
    for name, kernel, geometry in sample(real_layers(model), 2):
        folded = {key: geometry[key] for key in ("stride", "dilation", "groups", "transposed")}
        if folded["groups"] == 1 and not folded["transposed"] and set(folded["stride"] + folded["dilation"]) <= {1}:
            continue
        truth = sigma_star(kernel, **folded, rtol=1e-4)
        for bound in (specnorm.f4_bound, specnorm.grid_bound, specnorm.tn_bound):
            assert truth.lo <= float(bound(kernel, **geometry)), name
        found = specnorm.enclose(kernel, **geometry)
        assert_encloses(found.lower, found.upper, truth)
        assert float(found.upper) <= 1.0011 * truth.hi, name


@pytest.mark.nightly
def test_random_starts_fall_below_the_norm() -> None:
    """The trap this library exists for, on the layers that show it: one random start, and the "bound" is none."""
    below, worst, layers = 0, 1.0, dense("resnet20") + dense("espnet")
    for _, kernel in layers:
        truth = sigma_star(kernel)
        least = float(np.min(tensor_norm_best(kernel, starts=4, sweeps=100)))
        below += least < truth.lo * (1 - 1e-6)
        worst = min(worst, least / truth.lo)
    assert below >= len(layers) // 10
    assert worst < 0.95
