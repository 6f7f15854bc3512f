"""Low precision switched on around a call, on purpose; and what a call may not change: anything global."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers.cases import functions
from helpers.libraries import Lib, Unusable, opened

import specnorm
from specnorm.errors import KernelError
from specnorm.methods import Enclose

Function = Callable[[Any], Any]

FUNCTIONS = functions() | {
    "tn_bound, proven": specnorm.tn_bound,
    "enclose": lambda k: specnorm.measure(k, Enclose()).value,
}

every = pytest.mark.parametrize("name", FUNCTIONS)
SHAPE = (6, 5, 3, 3)


def kernel(dtype: str = "float32") -> np.ndarray:
    return np.random.RandomState(0).standard_normal(SHAPE).astype(dtype)


def exact(name: str) -> np.ndarray:
    return np.asarray(FUNCTIONS[name](kernel().astype("float64")))


# -- torch -------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def matmul_precision(torch: Any, value: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(value)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@every
@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_torch_autocast(torch: Any, name: str, dtype: str) -> None:
    """Autocast would run every float32 product in half precision; bit for bit it does nothing here."""
    plain = FUNCTIONS[name](torch.from_numpy(kernel()))
    with torch.autocast("cpu", dtype=getattr(torch, dtype)):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == getattr(torch, dtype), "autocast is on"
        inside = FUNCTIONS[name](torch.from_numpy(kernel()))
        assert torch.is_autocast_enabled("cpu"), "and stays on for the caller"
    assert inside.dtype == torch.float32
    assert torch.equal(inside, plain)


@every
@pytest.mark.sampled(2)
@pytest.mark.parametrize("precision", ["high", "medium"])
def test_torch_matmul_precision(torch: Any, name: str, precision: str) -> None:
    """Lowered for the whole process (TF32, bfloat16): computed in float64 or in NumPy, and no flag is touched."""
    untouched = FUNCTIONS[name](torch.from_numpy(kernel()))
    with matmul_precision(torch, precision):
        x = torch.from_numpy(kernel()).requires_grad_()
        value = FUNCTIONS[name](x)
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert torch.get_float32_matmul_precision() == precision
    assert value.dtype == gradient.dtype == torch.float32
    error = np.max(np.abs(value.detach().numpy() - exact(name)))
    rounded = error <= 4 * np.finfo("float32").eps * np.max(exact(name))
    assert rounded or torch.equal(value, untouched), "neither the float64 value, rounded, nor the one without lowering"


def torch_globals(torch: Any) -> dict[str, Any]:
    """Everything that a library could quietly change for the rest of the process."""
    return {
        "dtype": torch.get_default_dtype(), "device": str(torch.get_default_device()),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "matmul": torch.get_float32_matmul_precision(), "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(), "autocast": torch.is_autocast_enabled("cpu"),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "anomaly": torch.is_anomaly_enabled(),
        "random": torch.random.get_rng_state().tolist(),
        "compiler": {k: v for k, v in torch._dynamo.config.get_config_copy().items() if isinstance(v, (bool, int))},
    }  # fmt: skip


@every
def test_torch_globals_are_left_alone(torch: Any, name: str) -> None:
    before = torch_globals(torch)
    for mode in (contextlib.nullcontext, torch.no_grad, torch.inference_mode):
        with mode():
            FUNCTIONS[name](torch.from_numpy(kernel()))
    x = torch.from_numpy(kernel()).requires_grad_()
    FUNCTIONS[name](x).sum().backward()
    with pytest.raises(KernelError):
        FUNCTIONS[name](torch.full(SHAPE, float("nan")))
    assert torch_globals(torch) == before


# -- JAX ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def jax() -> Iterator[Any]:
    """JAX as it comes: float32 products are what a lower precision would spoil."""
    try:
        with opened("jax32"):
            yield pytest.importorskip("jax")
    except Unusable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(
    ("name", "precision"),
    [("tn_bound", "bfloat16"), ("conv_norm", "bfloat16"), ("gram_bound, every size", "tensorfloat32")],
)
@pytest.mark.sampled("conv_norm")
def test_jax_matmul_precision(jax: Any, name: str, precision: str) -> None:
    """The value is bit for bit the same, and the compiled products ask for the highest precision."""
    x = jax.numpy.asarray(kernel())
    plain = FUNCTIONS[name](x)
    with jax.default_matmul_precision(precision):
        inside = FUNCTIONS[name](x)
        compiled = jax.jit(FUNCTIONS[name])(x)
        gradient = jax.grad(lambda k: FUNCTIONS[name](k).sum())(x)
        texts = [str(jax.make_jaxpr(f)(x)) for f in (FUNCTIONS[name], jax.grad(lambda k: FUNCTIONS[name](k).sum()))]
    assert (inside == plain).all()
    assert abs(compiled - plain).max() <= 1e-5 * plain.max()
    expected = jax.grad(lambda k: FUNCTIONS[name](k).sum())(x)
    assert abs(gradient - expected).max() <= 1e-5 * abs(expected).max()
    products = [part for text in texts for part in text.split("dot_general[")[1:]]
    assert products
    assert not [part for part in products if "HIGHEST" not in part.partition("] ")[0]]


def jax_globals(jax: Any) -> dict[str, Any]:
    return dict(jax.config.values)


@pytest.mark.parametrize("name", ["tn_bound", "f4_bound", "conv_norm"])
@pytest.mark.sampled("tn_bound")
def test_jax_globals_are_left_alone(jax: Any, name: str) -> None:
    before, enabled = jax_globals(jax), jax.numpy.asarray(np.ones(1)).dtype
    x = jax.numpy.asarray(kernel())
    FUNCTIONS[name](x)
    jax.jit(jax.grad(lambda k: FUNCTIONS[name](k).sum()))(x)
    with pytest.raises(KernelError):
        FUNCTIONS[name](x * np.nan)
    assert jax_globals(jax) == before
    assert jax.numpy.asarray(np.ones(1)).dtype == enabled


# -- every library -----------------------------------------------------------------------------------------------
def numpy_globals() -> tuple[Any, ...]:
    _, key, *rest = np.random.get_state()  # noqa: NPY002 - the global state is what is looked at
    return np.geterr(), np.get_printoptions(), bytes(np.asarray(key)), rest


@every
def test_numpy_globals_are_left_alone(xp: Lib, name: str) -> None:
    """Error handling, printing and the legacy random state, which start vectors might be tempted to seed."""
    if xp.compiles and name not in ("tn_bound", "f4_bound"):
        pytest.skip("each compiles; two are enough")
    before = numpy_globals()
    x = xp.asarray(kernel())
    FUNCTIONS[name](x)
    assert numpy_globals() == before
