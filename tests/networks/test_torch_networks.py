"""Torch modules whose bounds are close because of what is read as one layer, and modules that change or look."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", exc_type=ImportError)
from networks.torch_modules import jacobian_norm, prepared, upper_of  # noqa: E402
from specnorm_networks import network_bound  # noqa: E402
from torch import nn  # noqa: E402

import specnorm  # noqa: E402
from specnorm.errors import MethodError  # noqa: E402

pytestmark = pytest.mark.usefixtures("seeded_torch")


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
