"""What proofs take for granted of processor and library is looked at; flags and modes of the user's do no harm."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers.cases import PUBLIC
from helpers.oracle import dense_norm, sigma_star
from helpers.processes import python
from numpy.typing import NDArray
from specnorm_numpy import NumpyBackend

import specnorm
from specnorm import robustness
from specnorm.errors import BackendError
from specnorm.methods import Enclose, FantasticFour, SymbolNorm
from specnorm.proofs.rounding import flushes
from specnorm.running.program import program_for

MEASURES: dict[str, Callable[[Any], Any]] = PUBLIC | {
    "enclose at a size": lambda k: specnorm.enclose(k, 6, padding_mode="zeros").upper,
    "gram at every size": specnorm.gram_bound,
    "conv_norm at every size": specnorm.conv_norm,
    "step": lambda k: specnorm.track(k, SymbolNorm(), specnorm.init_tracking(k, SymbolNorm()))[0],
    "certified_radius": lambda k: robustness.certified_radius(1e-300, k, 1e-300),
    "curvature_bound": lambda k: robustness.curvature_bound(1e-30, k[:, :, 0, 0], 0, 1, activation="tanh"),
}


def graded(dtype: str = "float64") -> NDArray[Any]:
    kernel = np.random.default_rng(5).standard_normal((4, 5, 3, 3))
    kernel[2] *= 1e-30
    kernel[3, :, 0] *= 1e-36 if dtype == "float32" else 1e-300
    return kernel.astype(dtype)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MEASURES)
def test_a_users_error_state_changes_nothing(name: str, dtype: str, library: str) -> None:
    """With every floating-point flag an error, each function answers as without."""
    if library == "torch" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    kernel: Any = graded(dtype)
    if library == "torch":
        kernel = importlib.import_module("torch").from_numpy(kernel)
    expected = MEASURES[name](kernel)
    with np.errstate(all="raise"):
        found = MEASURES[name](kernel)
    assert np.array_equal(np.asarray(found), np.asarray(expected))


class Lenient(NumpyBackend):
    """A library without NaN: every factorisation completes."""

    def cholesky_ok(self, a: Any) -> Any:
        return np.ones(a.shape[:-2], dtype=np.bool_)


class BlindToNaN(NumpyBackend):
    """One that finds negative pivots alone."""

    def cholesky_ok(self, a: Any) -> Any:
        return super().cholesky_ok(np.nan_to_num(a, posinf=1.0))


@pytest.mark.parametrize("cls", [Lenient, BlindToNaN])
@pytest.mark.parametrize("method", [FantasticFour(), Enclose()])
def test_a_library_whose_factorisations_cannot_fail_proves_nothing(cls: type[NumpyBackend], method: Any) -> None:
    kernel = graded()
    plan = program_for(method, kernel.shape, "float64", ())
    with pytest.raises(BackendError, match="succeeds for matrices that have none"):
        plan.forward(kernel, backend=cls())


FAST_MATH = """
import numpy as np, specnorm, jax
kernel = jax.numpy.asarray(np.random.default_rng(0).standard_normal((3, 3, 3)).astype("float32"))
for function in (jax.jit(specnorm.grid_bound), jax.jit(specnorm.f4_bound)):
    try:
        print(float(function(kernel)) > 0)
    except specnorm.errors.BackendError as error:
        print("refused" if "XLA_FLAGS" in str(error) else error)
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
@pytest.mark.parametrize(("honest", "said"), [("false", "refused"), ("true", "True")])
@pytest.mark.sampled("refused")
def test_a_compiler_without_nan_is_refused(honest: str, said: str) -> None:
    """XLA's fast-math flags take NaN for impossible: a factorisation that fails then looks complete."""
    fast = "true" if honest == "false" else "false"
    flags = f"--xla_cpu_enable_fast_math={fast} --xla_cpu_fast_math_honor_nans={honest}"
    flags += f" --xla_cpu_fast_math_honor_infs={honest}"
    assert python(FAST_MATH, PYTHONWARNINGS="ignore", JAX_PLATFORMS="cpu", XLA_FLAGS=flags).split() == [said, said]


ROUNDING = """
import ctypes, ctypes.util, sys
import numpy as np, specnorm
# Modules that are imported in another mode have other numbers for their literals, which shall not be kept.
sys.dont_write_bytecode = True
library = ctypes.CDLL(ctypes.util.find_library("m"))
kernel = np.random.default_rng(0).standard_normal((3, 3, 3))
for mode in map(int, sys.argv[1:]) if sys.argv[1:] else (0x400, 0x800, 0xC00, 0):
    assert library.fesetround(mode) == 0
    try:
        found = specnorm.enclose(kernel)
        word = "proven"
    except specnorm.errors.BackendError as error:
        word = "refused" if "round to nearest" in str(error) else str(error)
    library.fesetround(0)
    print(word)
"""


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="numbers of x86's modes")
def test_other_rounding_is_refused() -> None:
    """Down, up, towards zero; and to nearest again."""
    assert python(ROUNDING).split() == ["refused", "refused", "refused", "proven"]


@pytest.fixture
def flushing() -> Iterator[None]:
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("flushing")
def test_what_would_be_flushed_is_refused(dtype: str, library: str) -> None:
    """A kernel of subnormal numbers had the bound 0; one near them lost entries."""
    assert flushes()
    tiny = float(np.finfo(dtype).smallest_normal)
    for largest in (2.0**-5, 2.0**40):
        kernel: Any = np.full((2, 2, 3), 1.0, dtype=dtype)
        # Made of bits, since a product would be flushed.
        bits = np.uint32 if dtype == "float32" else np.uint64
        kernel[:] = tiny * 2.0**40 if largest > 1 else kernel
        if largest < 1:
            kernel = np.full((2, 2, 3), 7, dtype=bits).view(dtype)
        if library == "torch":
            kernel = importlib.import_module("torch").from_numpy(kernel)
        for name in ("enclose", "f4_bound", "grid_bound", "gram_bound", "power_norm", "tn_bound", "certify"):
            with pytest.raises(BackendError, match="treats them as zero in this thread"):
                MEASURES[name](kernel)


@pytest.fixture
def wide_and_off() -> Iterator[tuple[Any, list[Any]]]:
    """JAX, and float64 kernels of a time when 64-bit values were enabled."""
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    try:
        jax.config.update("jax_enable_x64", True)
        rng = np.random.default_rng(3)
        kernels = [jax.numpy.asarray(rng.standard_normal((4, 4, 3))) for _ in range(12)]
        jax.config.update("jax_enable_x64", False)
        yield jax, kernels
    finally:
        jax.config.update("jax_enable_x64", before)


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64:UserWarning")
def test_float64_kernels_without_64_bit_values_are_rounded_outward(wide_and_off: tuple[Any, list[Any]]) -> None:
    """The bounds arrive in float32; to nearest, half of them were on the wrong side."""
    jax, kernels = wide_and_off
    for x in kernels:
        kernel = np.array(x)
        assert kernel.dtype == np.float64
        truth, there = sigma_star(kernel, rtol=1e-9), dense_norm(kernel, 5)
        found = specnorm.enclose(x, rtol=1e-9)
        assert float(found.lower) <= truth.hi
        assert truth.lo <= float(found.upper)
        assert truth.lo <= min(float(f(x)) for f in (specnorm.grid_bound, specnorm.f4_bound, specnorm.tn_bound))
        assert float(specnorm.power_norm(x, 5)) <= there.hi
        assert float(specnorm.grid_bound(x)) <= float(specnorm.grid_bound(kernel)) * (1 + 1e-6)
        for shrunk in (specnorm.rescale(x), specnorm.gram_rescaling(x)):
            assert sigma_star(np.asarray(shrunk, dtype=np.float64)).lo <= 1
    with pytest.raises(BackendError, match="Enable 64-bit values"):
        jax.jit(specnorm.grid_bound)(kernels[0])
