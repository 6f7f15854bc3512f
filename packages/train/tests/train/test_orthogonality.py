"""Penalties that hold layers near isometries: what they sum and its gradient, under compilers too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import specnorm
from specnorm.errors import KernelError, MethodError
from specnorm.methods import Isometry


def net(torch: Any) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), torch.nn.ConvTranspose2d(8, 3, 4, stride=2),
        torch.nn.Linear(3, 5),
    )  # fmt: skip


@pytest.mark.parametrize("form", ["lags", "bound"])
def test_it_sums_what_the_functions_say(torch: Any, form: Any) -> None:
    from specnorm_torch import OrthogonalityPenalty

    model = net(torch)
    penalty = OrthogonalityPenalty(model, form=form, scale="best")
    geometries: dict[str, dict[str, Any]] = {
        "0": {}, "2": {"stride": 2, "groups": 2}, "3": {"stride": 2, "transposed": True}, "4": {}
    }  # fmt: skip
    method = Isometry(form=form, scale="best")
    penalty().backward()
    for name, value in penalty.values().items():
        weight = model.get_submodule(name).weight
        expected, gradient = specnorm.value_and_grad(weight.detach().numpy(), method, **geometries[name])
        assert float(value.detach()) == pytest.approx(float(expected), rel=1e-5)
        np.testing.assert_allclose(weight.grad, gradient, rtol=1e-3, atol=1e-4)
    assert float(penalty().detach()) == pytest.approx(
        sum(float(x.detach()) for x in penalty.values().values()), rel=1e-6
    )
    assert penalty.kind == ("upper" if form == "bound" else "estimate")
    assert list(penalty.parameters()) == []
    assert f"form={form!r}" in repr(penalty)


@pytest.mark.parametrize("form", ["lags", "bound"])
def test_it_sums_what_the_functions_say_under_jit_too(jax: Any, form: Any) -> None:
    from specnorm_jax.training import OrthogonalityPenalty

    random = np.random.RandomState(0)
    kernels = {"conv": random.standard_normal((3, 4, 5)), "dense": random.standard_normal((4, 2))}
    tree = {name: {"kernel": jax.numpy.asarray(x.astype("float32"))} for name, x in kernels.items()}
    penalty = OrthogonalityPenalty(form=form)
    method = Isometry(form=form)
    total = float(specnorm.measure(kernels["conv"], method, layout="WIO").value) + float(
        specnorm.measure(kernels["dense"], method, layout="IO").value
    )
    assert float(penalty(tree)) == pytest.approx(total, rel=1e-4)
    value, gradient = jax.jit(jax.value_and_grad(penalty))(tree)
    assert float(value) == pytest.approx(total, rel=1e-4)
    _, expected = specnorm.value_and_grad(kernels["conv"], method, layout="WIO")
    np.testing.assert_allclose(gradient["conv"]["kernel"], expected, rtol=1e-3, atol=1e-4)


def test_refusals(jax: Any) -> None:
    from specnorm_jax.training import OrthogonalityPenalty

    with pytest.raises(MethodError, match="form="):
        OrthogonalityPenalty(form="squares")  # type: ignore[arg-type]
    with pytest.raises(KernelError):
        OrthogonalityPenalty()({"bias": jax.numpy.ones(3)})
