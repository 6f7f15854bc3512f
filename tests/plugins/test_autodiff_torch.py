"""PyTorch: gradients against finite differences through every transformation, and second derivatives that raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import specnorm

torch: Any = pytest.importorskip("torch")
from torch_functions import (  # noqa: E402 - after the skip where torch is missing
    BATCHED,
    FUNCTIONS,
    SHAPE,
    Function,
    close,
    every,
    expected_gradient,
    kernel,
    normal,
    scalar,
    wanted_at,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("fresh_torch")


# -- first derivatives -------------------------------------------------------------------------------------------


@every
@pytest.mark.sampled(3)
def test_gradcheck(name: str) -> None:
    """Torch's own: every entry of the Jacobian, every value of functions with several."""
    k = normal(2, 3, 2, 2, seed=5).requires_grad_()
    batched = name != "singular_values"  # a known gap, below
    assert torch.autograd.gradcheck(FUNCTIONS[name], k, eps=1e-6, atol=1e-5, rtol=1e-4, check_batched_grad=batched)


# -- torch.func --------------------------------------------------------------------------------------------------
@every
@pytest.mark.sampled(3)
def test_func_transformations(name: str) -> None:
    function, batch = scalar(name), normal(3, *SHAPE, seed=7)
    wanted = torch.stack([expected_gradient(name, k) for k in batch])
    close(torch.func.grad(function)(batch[0]), wanted[0])
    gradient, value = torch.func.grad_and_value(function)(batch[0])
    close(gradient, wanted[0])
    close(value, function(batch[0]))
    close(torch.func.vmap(function)(batch), torch.stack([function(k) for k in batch]))
    close(torch.func.vmap(torch.func.grad(function))(batch), wanted, BATCHED)
    close(torch.func.grad(lambda x: torch.func.vmap(function)(x).sum())(batch), wanted, BATCHED)
    moved = batch.movedim(0, 2)
    close(torch.func.vmap(torch.func.grad(function), in_dims=2)(moved), wanted, BATCHED)
    pairs = batch[None].expand(2, *batch.shape)
    close(torch.func.vmap(torch.func.vmap(torch.func.grad(function)))(pairs)[1], wanted, BATCHED)
    close(torch.func.vmap(torch.func.grad(lambda k: function(2 * k)))(batch), 2 * wanted_at(name, 2 * batch), BATCHED)
    jacobian = torch.func.jacrev(FUNCTIONS[name])(batch[0])
    assert jacobian.shape == (*FUNCTIONS[name](batch[0]).shape, *SHAPE)


# -- second derivatives ------------------------------------------------------------------------------------------
def second_derivatives(name: str) -> dict[str, Callable[[], Any]]:
    """Every way to ask for one, forward mode included, as calls that must raise."""
    function, x = scalar(name), kernel()

    def penalty() -> Any:
        k = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(k), k, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), k)

    def penalty_with_another_term() -> Any:
        """The trap: the other term has a second derivative, so something would come out."""
        k = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(function(k) + k.pow(3).sum(), k, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), k)

    def backward_twice() -> Any:
        k = x.clone().requires_grad_()
        function(k).backward(create_graph=True)
        k.grad.square().sum().backward()

    func = torch.func
    return {
        "gradient penalty": penalty,
        "gradient penalty with another term": penalty_with_another_term,
        "backward twice": backward_twice,
        "grad of grad": lambda: func.grad(lambda k: func.grad(function)(k).square().sum())(x),
        "hessian": lambda: func.hessian(function)(x),
        "jacrev of jacrev": lambda: func.jacrev(func.jacrev(function))(x),
        "autograd's hessian": lambda: torch.autograd.functional.hessian(function, x),
        "vmap of grad of grad": lambda: func.vmap(func.grad(lambda k: func.grad(function)(k).square().sum()))(x[None]),
    }


@every
@pytest.mark.sampled(3)
def test_second_derivatives_raise(name: str) -> None:
    for way, ask in second_derivatives(name).items():
        # Torch's own refusal of forward mode comes first where there is some.
        errors = (RuntimeError, specnorm.SecondDerivativeError) if way == "hessian" else specnorm.SecondDerivativeError
        with pytest.raises(errors) as caught:
            pytest.fail(f"{way} of {name} gives {ask()}")
        if way != "hessian":
            assert "first order" in str(caught.value)


@every
@pytest.mark.sampled(3)
def test_forward_mode_raises(name: str) -> None:
    """Not silently zero."""
    x, direction = kernel(), normal(*SHAPE, seed=1)
    ways: dict[str, Callable[[], Any]] = {
        "jvp": lambda: torch.func.jvp(scalar(name), (x,), (direction,)),
        "jacfwd": lambda: torch.func.jacfwd(scalar(name))(x),
        "linearize": lambda: torch.func.linearize(scalar(name), x)[1](direction),
        "dual numbers": lambda: dual(scalar(name), x, direction),
    }
    for way, ask in ways.items():
        with pytest.raises((RuntimeError, NotImplementedError, specnorm.SecondDerivativeError)):
            pytest.fail(f"{way} of {name} gives {ask()}")


def dual(function: Function, x: Any, direction: Any) -> Any:
    with torch.autograd.forward_ad.dual_level():
        result = function(torch.autograd.forward_ad.make_dual(x, direction))
        return torch.autograd.forward_ad.unpack_dual(result)


# -- kinds of tensors --------------------------------------------------------------------------------------------
