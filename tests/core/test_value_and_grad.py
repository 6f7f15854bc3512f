"""`value_and_grad` on every library; that it agrees with NumPy's is what `specnorm.testing` checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.libraries import Lib
from helpers.oracle import finite_difference_gradient

import specnorm
from specnorm import ConvSpec
from specnorm.methods import METHODS, Method, TensorNorm

WITH_SIZE = ("gram", "fft", "power")
"""Methods that want an input size."""

SHAPES: dict[str, tuple[int, ...]] = {
    "matrix": (3, 4), "1-D": (3, 2, 4), "1 x 1": (3, 2, 1, 1), "2-D": (4, 3, 3, 2), "3-D": (2, 3, 2, 1, 2),
}  # fmt: skip
FEW = ("matrix", "2-D")
"""Shapes for libraries where each costs a compilation."""


def geometry(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"input_shape": (5,) * (len(shape) - 2)} if name in WITH_SIZE else {}


NAMES = [name for name, cls in METHODS.items() if cls().needs(ConvSpec.of((2, 2))).value_shape == ()]
every = pytest.mark.parametrize("name", NAMES)


def kernel(shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
    return np.random.RandomState(3).standard_normal(shape).astype(dtype)


APART = ("enclose", "completion", "smallest")
"""Methods whose value lies up to their tolerance from the number whose gradient they have."""


def shapes(lib: Lib) -> list[tuple[int, ...]]:
    return [SHAPES[title] for title in (FEW if lib.name != "numpy" else SHAPES)]


@every
def test_against_finite_differences(xp: Lib, name: str) -> None:
    """Central differences of the value itself along random directions; float32 has no digits for that."""
    if not xp.has_float64:
        pytest.skip("float32 only: compared with NumPy by `check_backend`")
    if name in APART:
        pytest.skip("its value lies up to rtol from the number whose gradient this is")
    # One of these kernels takes the tensor norm's alternation 1300 rounds; before, the slope is not the gradient.
    patient = name == "tn" and not xp.compiles
    method: Method = TensorNorm(max_iter=2_000) if patient else METHODS[name]()
    for shape in shapes(xp):
        x, where = kernel(shape), geometry(name, shape)
        gradient = xp.to_numpy(specnorm.value_and_grad(xp.asarray(x), method, **where)[1])

        def value(k: np.ndarray, where: dict[str, Any] = where) -> float:
            return xp.number(specnorm.measure(xp.asarray(k), method, **where).value)

        for seed in range(3):
            direction = np.random.RandomState(seed).standard_normal(shape)
            slope = finite_difference_gradient(value, x, direction)
            rtol = 1e-4 if name == "tn" else 1e-5  # it stops when its value stands still: half the digits
            assert abs(np.sum(gradient * direction) - slope) <= rtol * np.linalg.norm(direction), shape


@every
def test_zero_kernel(xp: Lib, name: str) -> None:
    """Value 0 and gradient 0: a layer initialised to zero stays where it is. No zero kernel is near an isometry."""
    for shape in shapes(xp):
        x = xp.asarray(np.zeros(shape, dtype=xp.dtypes[-1]))
        value, gradient = specnorm.value_and_grad(x, METHODS[name](), **geometry(name, shape))
        assert xp.number(value) == 0.0 or name == "isometry"
        assert (xp.to_numpy(gradient) == 0.0).all()
