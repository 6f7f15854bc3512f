"""A torch module with other weights is not exported again, and what else differs is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers.checks import present

torch = pytest.importorskip("torch", exc_type=ImportError)
pytest.importorskip("onnxscript")
from specnorm_networks import Product, network_bound  # noqa: E402
from specnorm_networks.sources import torch_kept  # noqa: E402
from torch import nn  # noqa: E402

FACTOR = {"of all": 1.0}


class Net(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.first, self.last, self.factor = nn.Linear(4, 6), nn.Linear(6, 6), factor

    def forward(self, x: Any) -> Any:
        return self.factor * FACTOR["of all"] * self.last(torch.relu(self.first(x)))


def bound(model: Any) -> float:
    return float(present(network_bound(model, (4,), method=Product()).upper))


def norms(model: Any) -> float:
    weights = [layer.weight.detach().double().numpy() for layer in (model.first, model.last)]
    return float(np.prod([np.linalg.norm(weight, 2) for weight in weights]))


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    torch_kept.forget()
    yield
    torch_kept.forget()


def test_a_module_with_other_weights_is_not_exported_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither another module nor the same one after a step, and the file has the new weights."""
    bound(Net())
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("exported again"))
    model = Net()
    for _ in range(2):
        assert norms(model) <= bound(model) <= norms(model) * 1.01
        found = network_bound(model, (4,), method=Product())
        assert found.checked.complete
        assert found.model is not None
        model.last.weight.data *= 2


def test_a_module_that_differs_otherwise_is_exported_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """By an attribute, a tied weight, a hook, or by what no attribute shows: a variable that it reads."""
    bound(Net())
    other = Net(factor=3.0)
    assert 3 * norms(other) <= bound(other) <= 3 * norms(other) * 1.01
    layer = nn.Linear(4, 4)
    bound(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)))
    square = nn.Sequential(layer, nn.Linear(4, 4))
    square[1].weight = layer.weight
    assert bound(square) >= 0.99 * np.linalg.norm(layer.weight.detach().numpy(), 2) ** 2
    hooked = Net()
    hooked.last.register_forward_hook(lambda _, __, value: 5 * value)
    assert 5 * norms(hooked) <= bound(hooked)
    monkeypatch.setitem(FACTOR, "of all", 7.0)
    last = Net()
    assert 7 * norms(last) <= bound(last) <= 7 * norms(last) * 1.01


def test_weights_that_are_computed_are_not_kept() -> None:
    for _ in range(2):
        model = Net()
        nn.utils.parametrizations.spectral_norm(model.last)
        assert bound(model) >= 0.9 * np.linalg.norm(model.first.weight.detach().numpy(), 2)
    assert not torch_kept._kept
