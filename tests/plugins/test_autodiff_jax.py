"""JAX: gradients against finite differences through every transformation, and second derivatives that raise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers.cases import functions
from helpers.libraries import opened

import specnorm
from specnorm.errors import KernelError, SecondDerivativeError
from specnorm.methods import ExactFFT, Grid, SymbolNorm

jax: Any = pytest.importorskip("jax")
jnp = jax.numpy

Function = Callable[[Any], Any]

FUNCTIONS = functions(5, k=4)
SHAPE = (3, 2, 3)

every = pytest.mark.parametrize("name", FUNCTIONS)


@pytest.fixture
def x64() -> Iterator[None]:
    """64-bit values, as finite differences need them."""
    with opened("jax"):
        yield


plain = pytest.mark.usefixtures("jax32")


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> Any:
    return jnp.asarray(np.random.RandomState(seed).standard_normal(shape).astype(dtype))


def wide(*shape: int, seed: int = 0) -> Any:
    return normal(*shape, seed=seed, dtype="float64")


def scalar(name: str) -> Function:
    """The function, its values weighted by a cotangent that is neither 1 nor constant."""
    function = FUNCTIONS[name]

    def weighted(k: Any) -> Any:
        value = function(k).reshape(-1)
        weights = np.linspace(0.5, 1.7, value.size) * (-1.0) ** np.arange(value.size)
        return (value * weights.astype(str(value.dtype))).sum()

    return weighted


def close(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.max(np.abs(found - expected)) <= rtol * np.max(np.abs(expected))
    assert np.max(np.abs(expected)) > 1e-3, "a zero gradient proves nothing"


# -- first derivatives -------------------------------------------------------------------------------------------
@every
@pytest.mark.usefixtures("x64")
@pytest.mark.sampled("tn_bound")
def test_compiled_and_batched(name: str) -> None:
    """What a training step is made of. A layer initialised to zero has the value and the gradient zero, and no NaN."""
    function, batch = scalar(name), wide(3, *SHAPE, seed=7)
    gradient = jax.grad(function)
    wanted = jnp.stack([gradient(k) for k in batch])
    compiled = jax.jit(jax.value_and_grad(function))
    value, again = compiled(batch[0])
    close(value, function(batch[0]), 1e-8)
    close(again, wanted[0], 1e-6)
    close(jax.jit(jax.vmap(gradient))(batch), wanted, 1e-6)
    value, slope = compiled(jnp.zeros(SHAPE))
    assert value == 0
    # Of several singular values at a tie, any orthonormal basis makes a subgradient.
    assert jnp.all(slope == 0 if name != "singular_values" else jnp.isfinite(slope))


# -- under jit ---------------------------------------------------------------------------------------------------
@every
@plain
@pytest.mark.sampled("f4_bound", "matrix_norm", "tn_bound")
def test_non_finite_kernel(name: str) -> None:
    """Refused where values are known; under jit, where nothing can be refused, the value is NaN and never a number."""
    compiled = jax.jit(FUNCTIONS[name])
    for bad in ("nan", "inf"):
        k = normal(*SHAPE).at[1, 0, 1].set(float(bad))
        for call in (FUNCTIONS[name], jax.grad(scalar(name))):
            with pytest.raises(KernelError, match="non-finite"):
                call(k)
        value = np.asarray(compiled(k))
        stack = name == "matrix_norm"
        assert np.isnan(value[1] if stack else value).all()
        assert np.isnan(value).all() or stack


@plain
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_concrete_arrays_on_the_cpu_are_computed_in_numpy(dtype: str) -> None:
    """Bit for bit, values, gradients and training steps; so nothing is compiled."""
    kernel = normal(4, 3, 3, 3).astype(dtype)
    host = np.asarray(kernel.astype("float32"))
    for method, size in ((Grid(), None), (SymbolNorm(), None), (ExactFFT(), 6)):
        found = jax.value_and_grad(lambda k: specnorm.measure(k, method, input_shape=size).value)(kernel)  # noqa: B023
        at_once = specnorm.value_and_grad(kernel, method, input_shape=size)
        expected = specnorm.value_and_grad(host, method, input_shape=size)
        for value, gradient in (found, at_once):
            assert (value.shape, value.dtype, value.devices()) == ((), "float32", kernel.devices())
            assert float(value) == float(expected[0]), method
            assert gradient.dtype == kernel.dtype
            np.testing.assert_array_equal(gradient, jnp.asarray(expected[1]).astype(dtype))
    state = specnorm.init_tracking(kernel, SymbolNorm())
    stepped, _ = specnorm.track(2 * kernel, SymbolNorm(), state)
    expected_value, _ = specnorm.track(2 * host, SymbolNorm(), {name: np.asarray(x) for name, x in state.items()})
    assert float(stepped) == float(expected_value)


@plain
def test_result_is_a_pytree() -> None:
    k = normal(*SHAPE)
    result = specnorm.measure(k, Grid())
    leaves = jax.tree_util.tree_leaves(result)
    assert len(leaves) == 2, "the value and its lower bound"
    doubled = jax.tree_util.tree_map(lambda a: 2 * a, result)
    assert isinstance(doubled, specnorm.Result)
    assert doubled.value == 2 * result.value
    assert (doubled.kind, doubled.method, doubled.spec) == (result.kind, result.method, result.spec)
    assert doubled.stats.keys() == result.stats.keys()


TRAP = "compiled grad of grad with another term"


# -- second derivatives ------------------------------------------------------------------------------------------
def second_derivatives(function: Function, x: Any) -> dict[str, Callable[[], Any]]:
    """Every way to ask for one, forward mode included, as calls that must raise."""

    def penalty(k: Any) -> Any:
        return (jax.grad(function)(k) ** 2).sum()

    return {
        "compiled grad of grad": lambda: jax.jit(jax.grad(penalty))(x),
        TRAP: lambda: jax.jit(jax.grad(lambda k: penalty(k) + (k**3).sum()))(x),
        "compiled hessian": lambda: jax.jit(jax.hessian(function))(x),
        "compiled jvp": lambda: jax.jit(lambda k: jax.jvp(function, (k,), (k,)))(x),
        "jvp": lambda: jax.jvp(function, (x,), (x,)), "grad of grad": lambda: jax.grad(penalty)(x),
        "grad of compiled grad": lambda: jax.grad(lambda k: (jax.jit(jax.grad(function))(k) ** 2).sum())(x),
        "vmap of grad of grad": lambda: jax.vmap(jax.grad(penalty))(x[None]),
        "grad of vmap of grad": lambda: jax.grad(lambda k: (jax.vmap(jax.grad(function))(k[None]) ** 2).sum())(x),
        "hessian": lambda: jax.hessian(function)(x), "jacrev of jacrev": lambda: jax.jacrev(jax.jacrev(function))(x),
        "jacfwd of grad": lambda: jax.jacfwd(jax.grad(function))(x),
        "linearize": lambda: jax.linearize(function, x)[1](x),
    }  # fmt: skip


WAYS = tuple(second_derivatives(abs, None))


@pytest.mark.usefixtures("x64")
@pytest.mark.sampled("tn_bound", f"f4_bound-{TRAP}", "f4_bound-jvp", "f4_bound-compiled hessian", "f4_bound-vmap")
@pytest.mark.parametrize(
    ("name", "way"),
    # One rule serves every function: of the others, the trap and forward mode, which end while they are traced.
    [(name, way) for name in FUNCTIONS for way in (WAYS if name == "f4_bound" else (TRAP, "jvp"))],
)
def test_second_derivatives_raise(name: str, way: str) -> None:
    """Never zero, never a number with a term missing."""
    with pytest.raises((SecondDerivativeError, TypeError)) as caught:
        pytest.fail(f"{way} of {name} gives {second_derivatives(scalar(name), wide(*SHAPE))[way]()}")
    if isinstance(caught.value, SecondDerivativeError):
        assert "first order" in str(caught.value)
    else:
        # JAX's own refusal of forward mode through a reverse-mode rule.
        assert "forward-mode" in str(caught.value) or "jvp" in str(caught.value), f"{way}: {caught.value}"
