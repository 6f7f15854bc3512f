"""Norms in a training log: right, harmless to the model, and in each trainer's own log."""

from __future__ import annotations

from typing import Any

import pytest

import specnorm
from specnorm.errors import MethodError

torch = pytest.importorskip("torch")
import specnorm_torch  # noqa: E402 (after the skip)


def small() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3, stride=2, padding=1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(27, 4)
    )


def enclosed(layer: Any) -> Any:
    geometry = specnorm_torch.geometry_of(layer)
    return specnorm.enclose(layer.weight.detach(), **geometry)


def right(found: dict[str, float], model: Any) -> None:
    """Against bounds by another method."""
    product = 1.0
    for name in ("0", "3"):
        truth = enclosed(model.get_submodule(name))
        assert truth.lower <= found[f"upper/{name}"] <= 1.2 * truth.upper
        assert 0.9 * truth.lower <= found[f"norm/{name}"]
        product *= found[f"upper/{name}"]
    assert found["upper/product"] == pytest.approx(product)


def test_norms_bounds_and_product_follow_the_model() -> None:
    model = small()
    monitor = specnorm_torch.NormMonitor(model, every=5)
    assert monitor(3) == {}
    for step in (0, 5, 10):
        right(monitor(step), model)
        with torch.no_grad():
            for x in model.parameters():
                x.mul_(1.3).add_(0.1 * torch.randn_like(x))
    assert set(specnorm_torch.NormMonitor(model, select=lambda name, _: name == "0", upper=False)(0)) == {
        "norm/0", "norm/product"
    }  # fmt: skip


def test_the_model_is_as_before() -> None:
    model = small().train()
    specnorm_torch.spectral_norm(model[0])
    torch.nn.utils.parametrizations.spectral_norm(model[3])
    before = {name: x.clone() for name, x in model.state_dict().items()}
    found = specnorm_torch.NormMonitor(model)(0)
    assert found["norm/0"] == pytest.approx(1, rel=1e-3)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_refusals() -> None:
    with pytest.raises(MethodError, match="no convolution or linear layer"):
        specnorm_torch.NormMonitor(torch.nn.ReLU())
    with pytest.raises(MethodError, match="positive number of steps"):
        specnorm_torch.NormMonitor(small(), 0)
