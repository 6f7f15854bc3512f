"""PyTorch's compiler: values and gradients without a graph break, derivatives it must not get wrong, operators."""

from __future__ import annotations

from typing import Any

import pytest

import specnorm

torch: Any = pytest.importorskip("torch")
from torch_functions import (  # noqa: E402 - after the skip where torch is missing
    FUNCTIONS,
    SHAPE,
    close,
    compiled,
    every,
    expected_gradient,
    kernel,
    normal,
    scalar,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("fresh_torch")


@every
@pytest.mark.sampled("matrix_norm")
def test_compiled_value_and_gradient(name: str) -> None:
    """Without a graph break."""
    k = kernel().requires_grad_()
    value = compiled(FUNCTIONS[name])(k)
    close(value.detach(), FUNCTIONS[name](kernel()), 1e-12)
    weighted = compiled(scalar(name))(k)
    close(torch.autograd.grad(weighted, k)[0], expected_gradient(name, k))


def test_compiled_training_step() -> None:
    """A layer, a penalty on its kernel and an optimizer, in float32, against the same step without compilation."""

    def step(compile_it: bool) -> Any:
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 4, 3)

        def loss(x: Any) -> Any:
            return layer(x).square().mean() + 0.1 * specnorm.tn_bound(layer.weight, certified=False)

        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        run = compiled(loss) if compile_it else loss
        for _ in range(3):
            optimizer.zero_grad()
            run(torch.ones(2, 3, 6, 6)).backward()
            optimizer.step()
        return layer.weight.detach()

    close(step(True), step(False), 1e-5)


@pytest.mark.nightly
def test_default_compiler_smoke() -> None:
    """One function through inductor, which generates code."""
    k = kernel().requires_grad_()
    value = compiled(lambda x: scalar("f4_bound")(x) ** 2, "inductor")(k)
    (found,) = torch.autograd.grad(value, k)
    close(found, 2 * scalar("f4_bound")(kernel()) * expected_gradient("f4_bound", kernel()))


@pytest.mark.parametrize("need", ["value", "residuals", "jacobian"])
@pytest.mark.nightly
def test_operator_is_well_formed(need: str) -> None:
    """Schema, shapes without values, and compilation, by torch's own checker."""
    specnorm.tn_bound(kernel())  # registers the operator and the program
    plan = specnorm.runtime.program.program_for(specnorm.TensorNorm(), SHAPE, "torch.float64", ())
    for x in (kernel(), normal(3, *SHAPE)):
        results = torch.library.opcheck(
            torch.ops.specnorm.evaluate.default,
            (x, plan.key, need),
            test_utils=("test_schema", "test_faketensor", "test_aot_dispatch_static"),
        )
        assert set(results.values()) == {"SUCCESS"}


@every
@pytest.mark.sampled("singular_values")
def test_fake_tensors_and_meta(name: str) -> None:
    """Shapes without values: what shape inference and deferred initialisation ask for."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        value = FUNCTIONS[name](torch.empty(*SHAPE))
        assert value.dtype == torch.float32
        assert value.shape == FUNCTIONS[name](kernel().new_empty(0).new_zeros(SHAPE)).shape
