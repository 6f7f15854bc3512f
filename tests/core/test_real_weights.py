"""What must hold on published networks: every dense convolution of ``tests/data`` (CI: a sample), and the audit of the
ResNet-20.
"""

from __future__ import annotations

import pytest
from checks import assert_encloses
from nightly import sample
from oracle import sigma_star
from real_weights import real_layers

import specnorm


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
