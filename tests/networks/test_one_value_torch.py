"""Functions of one value as torch users write them: of unrolled networks, of activations by hand, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch", exc_type=ImportError)
pytest.importorskip("onnxscript", exc_type=ImportError)
from specnorm_networks import network_bound  # noqa: E402
from torch import nn  # noqa: E402

F: Any = nn.functional
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "soft threshold": (lambda x: torch.sign(x) * F.relu(x.abs() - 0.3), 1.0),
    "ELU by a choice": (lambda x: torch.where(x > 0, x, torch.exp(x.clamp(max=0)) - 1), 1.0),
    "GELU by tanh": (lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3))), 1.12899307),
    "sine and cosine": (lambda x: torch.cat([torch.sin(x), torch.cos(x)], 1), 1.0),
    "both parts": (lambda x: torch.cat([torch.relu(x), x - torch.relu(x)], 1), 1.0),
}


class Function(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


@pytest.mark.sampled("soft", "sine")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_slope_of_the_whole(name: str) -> None:
    function, slope = FUNCTIONS[name]
    found = network_bound(Function(function), (5,))
    assert found.upper is not None
    assert slope * (1 - 1e-7) <= found.upper <= slope * (1 + 2e-6)
    assert found.checked is not None
    assert found.checked.complete
