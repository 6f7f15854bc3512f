"""PyTorch: gradients against finite differences through every transformation and compiled; second derivatives raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.cases import functions

import specnorm
from specnorm.errors import MethodError, SecondDerivativeError
from specnorm.methods import SymbolNorm

torch: Any = pytest.importorskip("torch")

pytestmark = pytest.mark.usefixtures("fresh_torch")
Function = Callable[[Any], Any]

FUNCTIONS = functions(k=4)

SHAPE = (4, 3, 3, 2)
COMPILER = "aot_eager"
"""Traces the forward and the backward as the default compiler does, without generating code."""

every = pytest.mark.parametrize("name", FUNCTIONS)


def normal(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def kernel() -> Any:
    return normal(*SHAPE)


def scalar(name: str) -> Function:
    """The function, its values weighted by a cotangent that is neither 1 nor constant."""
    function = FUNCTIONS[name]

    def weighted(k: Any) -> Any:
        value = function(k)
        weights = torch.linspace(0.5, 1.7, value.numel(), dtype=value.dtype) * (-1.0) ** torch.arange(value.numel())
        return (value.reshape(-1) * weights).sum()

    return weighted


def expected_gradient(name: str, k: Any) -> Any:
    """Gradient of `scalar` by torch.autograd, itself held against finite differences below."""
    k = k.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scalar(name)(k), k)
    return gradient


BATCHED = 1e-6
"""A batch stops alternating when its slowest kernel has converged: TN's value, flat there, is known to 1e-13, its
vectors, and so its gradient, to about the root of that."""


def close(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert float((found - expected).abs().max()) <= rtol * float(expected.abs().max())
    assert float(expected.abs().max()) > 1e-3, "a zero gradient proves nothing"


def wanted_at(name: str, batch: Any) -> Any:
    return torch.stack([expected_gradient(name, k) for k in batch])


def compiled(function: Function) -> Function:
    wrapped: Function = torch.compile(function, fullgraph=True, backend=COMPILER)
    return wrapped


# -- first derivatives -------------------------------------------------------------------------------------------
@every
@pytest.mark.sampled("f4_bound", "grid_bound", "symbol_norm", "gram_bound, every size", "singular_values")
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
        "gradient penalty": penalty, "gradient penalty with another term": penalty_with_another_term,
        "backward twice": backward_twice,
        "grad of grad": lambda: func.grad(lambda k: func.grad(function)(k).square().sum())(x),
        "hessian": lambda: func.hessian(function)(x), "jacrev of jacrev": lambda: func.jacrev(func.jacrev(function))(x),
        "autograd's hessian": lambda: torch.autograd.functional.hessian(function, x),
        "vmap of grad of grad": lambda: func.vmap(func.grad(lambda k: func.grad(function)(k).square().sum()))(x[None]),
    }  # fmt: skip


@every
@pytest.mark.sampled(3)
def test_second_derivatives_raise(name: str) -> None:
    for way, ask in second_derivatives(name).items():
        # Torch's own refusal of forward mode comes first where there is some.
        errors = (RuntimeError, SecondDerivativeError) if way == "hessian" else SecondDerivativeError
        with pytest.raises(errors) as caught:
            pytest.fail(f"{way} of {name} gives {ask()}")
        if way != "hessian":
            assert "first order" in str(caught.value)


def transformed_each_way(look: Callable[[str, Any], Any], x: Any) -> None:
    """Look at what functions see under every transformation of torch.func, by name."""
    func = torch.func
    func.grad(lambda k: look("grad", k))(x)
    func.grad(lambda k: func.grad(lambda z: look("grad of grad", z))(k).sum())(x)
    func.jvp(lambda k: look("jvp", k), (x,), (x,))
    func.vmap(lambda k: look("vmap", k))(x)
    func.vmap(func.grad(lambda k: look("vmap of grad", k)))(x)
    func.grad(lambda k: func.vmap(lambda z: look("grad of vmap", z))(k).sum())(x)


def test_levels_of_differentiation_are_counted() -> None:
    """Each of torch.func's differentiations is one, and vmap is none."""
    from specnorm_torch.derivatives import _derivative_levels

    seen: dict[str, int] = {}

    def look(name: str, x: Any) -> Any:
        seen[name] = _derivative_levels()
        return x.square().sum()

    look("plain", kernel())
    transformed_each_way(look, kernel())
    torch.func.hessian(lambda k: look("hessian", k))(kernel())
    once = dict.fromkeys(("grad", "jvp", "vmap of grad", "grad of vmap"), 1)
    assert seen == {"plain": 0, "vmap": 0} | once | {"grad of grad": 2, "hessian": 2}


def test_compiled_second_derivatives_raise() -> None:
    """Dynamo drops the guard; without the count the gradient of a gradient is 0."""
    function, func = scalar("matrix_norm"), torch.func
    twice = compiled(func.grad(lambda k: func.grad(function)(k).square().sum()))
    with pytest.raises(Exception, match="SecondDerivativeError"):
        pytest.fail(f"the gradient of a gradient is {twice(kernel())}")


@every
@pytest.mark.sampled(3)
def test_forward_mode_raises(name: str) -> None:
    """Not silently zero, nor in words of autograd (`You must implement the jvp function`)."""
    x, direction = kernel(), normal(*SHAPE, seed=1)
    ways: dict[str, Callable[[], Any]] = {
        "jvp": lambda: torch.func.jvp(scalar(name), (x,), (direction,)),
        "jacfwd": lambda: torch.func.jacfwd(scalar(name))(x),
        "linearize": lambda: torch.func.linearize(scalar(name), x)[1](direction),
        "dual numbers": lambda: dual(scalar(name), x, direction),
    }
    for way, ask in ways.items():
        with pytest.raises(MethodError, match=r"forward mode .* use torch\.func\.jacrev"):
            pytest.fail(f"{way} of {name} gives {ask()}")


def dual(function: Function, x: Any, direction: Any) -> Any:
    with torch.autograd.forward_ad.dual_level():
        result = function(torch.autograd.forward_ad.make_dual(x, direction))
        return torch.autograd.forward_ad.unpack_dual(result)


# -- the compiler ------------------------------------------------------------------------------------------------
@every
@pytest.mark.sampled("gram_bound")
def test_second_derivatives_raise_where_the_compiler_leaves_autograd_to_torch(name: str) -> None:
    """With "eager" what is traced runs operator by operator: the other term alone was differentiated, silently."""
    function = FUNCTIONS[name]

    def with_another_term(k: Any) -> Any:
        return (function(k) * k.square().sum()).sum()

    k = kernel().requires_grad_()
    (expected,) = torch.autograd.grad(with_another_term(k), k)
    value = torch.compile(with_another_term, backend="eager")(k)
    (gradient,) = torch.autograd.grad(value, k, create_graph=True)
    torch.testing.assert_close(gradient.detach(), expected)
    with pytest.raises(SecondDerivativeError):
        pytest.fail(f"{name} gives {torch.autograd.grad(gradient.square().sum(), k)}")


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
@pytest.mark.sampled(2)
def test_compiled_vmap_of_a_tracked_norm_has_its_gradient(compiler: str) -> None:
    """A mapped training step of three kernels that share one state: value and gradient are those of the plain code."""
    kernels = torch.stack([kernel(), 2 * kernel(), -kernel()])
    state = specnorm.init_tracking(kernel(), SymbolNorm())

    def sum_of_norms(k: Any) -> Any:
        return torch.func.vmap(lambda one: specnorm.track(one, SymbolNorm(), state)[0])(k).sum()

    plain = kernels.clone().requires_grad_()
    expected = sum_of_norms(plain)
    expected.backward()
    traced = kernels.clone().requires_grad_()
    value = torch.compile(sum_of_norms, backend=compiler, fullgraph=True)(traced)
    value.backward()
    close(value.detach(), expected.detach(), 1e-12)
    close(traced.grad, plain.grad, 1e-12)
    assert float(expected.detach()) > 3  # no sum of zeros


@every
@pytest.mark.sampled("tn_bound")
def test_compiled_value_and_gradient(name: str) -> None:
    k = kernel().requires_grad_()
    value = compiled(FUNCTIONS[name])(k)
    close(value.detach(), FUNCTIONS[name](kernel()), 1e-12)
    weighted = compiled(scalar(name))(k)
    close(torch.autograd.grad(weighted, k)[0], expected_gradient(name, k))


@every
@pytest.mark.sampled("singular_values")
def test_fake_tensors_and_meta(name: str) -> None:
    """Shapes without values: what shape inference and deferred initialisation ask for."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        value = FUNCTIONS[name](torch.empty(*SHAPE))
        assert value.dtype == torch.float32
        assert value.shape == FUNCTIONS[name](kernel().new_empty(0).new_zeros(SHAPE)).shape
