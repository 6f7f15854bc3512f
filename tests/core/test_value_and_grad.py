"""`value_and_grad` on every library; that it agrees with NumPy's is what `specnorm.testing` checks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.libraries import Lib
from helpers.oracle import dense_smallest, sigma_star

import specnorm
from specnorm import ConvSpec
from specnorm.methods import METHODS, Completion, Gram, Isometry, Method, Power, Smallest, TensorNorm

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
"""Methods whose value lies up to their tolerance from the number whose gradient they have: rows of layers have some."""


def shapes(lib: Lib) -> list[tuple[int, ...]]:
    return [SHAPES[title] for title in (FEW if lib.name != "numpy" else SHAPES)]


# -- of every geometry -----------------------------------------------------------------------------------------------
POWER, AT = Power(least_gain=1e-13), {"input_shape": 6}
ISOMETRIES: list[tuple[Method, dict[str, Any]]] = [
    (Isometry(scale=scale, form=form), {}) for scale in (None, "best", 1.3) for form in ("bound", "lags")
]
ROWS: dict[tuple[int, ...], list[tuple[Method, dict[str, Any]]]] = {
    (4, 4, 3, 2): [
        (POWER, AT | {"padding_mode": "zeros", "stride": 2}),
        (POWER, AT | {"padding_mode": "reflect", "dilation": 2, "padding": 1}),
        (POWER, AT | {"padding_mode": "replicate", "padding": [(2, 0), (0, 3)]}),
        (POWER, AT | {"padding_mode": "zeros", "transposed": True, "stride": (2, 3), "padding": 1}),
        (POWER, AT | {"padding_mode": "circular", "groups": 2, "stride": 2}),
        (POWER, AT | {"padding_mode": "zeros", "layout": "HWIO"}),
        (Gram(n_iter=3), {"input_shape": (4, 6)}),
        (Completion(), {}),
    ],
    (30, 28, 3, 2): [(Gram(n_iter=3), {}), (Gram(n_iter=3), {"input_shape": (4, 6)})],
    (6, 4, 3, 2): [*ISOMETRIES, (Isometry(), {"stride": 2}), (Isometry(), {"groups": 2})],
    (4, 6, 2): [*ISOMETRIES, (Isometry(), {"transposed": True}), (Isometry(), {"input_shape": 2})],
    (3, 5, 3): [(Completion(), {"stride": 2}), (Smallest(), {"input_shape": 7})],
    (5, 7): [(Completion(), {})],
    (5, 2, 4): [(Smallest(), {"stride": 2, "input_shape": 6}), (Completion(), {"groups": 5})],
    (4, 2, 3): [(Smallest(), {"padding_mode": "zeros", "input_shape": 5})],
    (2, 2, 2, 2, 3): [(Completion(), {"dilation": 2})],
    (6, 2, 3, 3): [(Completion(), {"groups": 2, "transposed": True, "stride": 2})],
}  # fmt: skip
PATIENT = {"tn": TensorNorm(max_iter=2_000)}
"""One of these kernels takes the tensor norm's alternation 1300 rounds; before, the slope is not the gradient."""
PLAIN = [
    (PATIENT.get(name, METHODS[name]()), shape, geometry(name, shape))
    for name in NAMES if name not in APART for shape in SHAPES.values()
]  # fmt: skip
OF_LAYERS: dict[str, tuple[Method, tuple[int, ...], dict[str, Any]]] = {
    f"{method}-{shape}-{layer}": (method, shape, layer)
    for method, shape, layer in [*PLAIN, *((m, shape, layer) for shape, rows in ROWS.items() for m, layer in rows)]
}
"""A method, a shape, and the rest of a layer."""


def number_of(method: Method, layer: dict[str, Any], kernel: np.ndarray) -> float:
    """The number whose gradient a method has: of a method with a tolerance that is the oracle's."""
    plain = {name: x for name, x in layer.items() if name not in ("input_shape", "layout")}
    if isinstance(method, Completion):
        return sigma_star(kernel, rtol=1e-8, **plain).lo
    if isinstance(method, Smallest):
        return dense_smallest(kernel, layer["input_shape"], **plain).lo
    return float(specnorm.measure(kernel, method, **layer).value)


@pytest.mark.sampled(3, "numpy")
@pytest.mark.parametrize("case", OF_LAYERS)
def test_gradients_of_layers(xp: Lib, case: str) -> None:
    """Against central differences of the number, in the precision of the library."""
    method, shape, layer = OF_LAYERS[case]
    if xp.compiles and len(shape) != 3:
        pytest.skip("compiled for one axis alone")
    kernel, direction = 0.2 * np.random.RandomState(1).standard_normal((2, *shape))
    dtype = xp.dtypes[-1]
    gradient = xp.to_numpy(specnorm.value_and_grad(xp.asarray(kernel.astype(dtype)), method, **layer)[1])
    assert gradient.shape == kernel.shape
    ends = [number_of(method, layer, kernel + h * direction) for h in (-1e-5, 1e-5)]
    # The bound of a completion, and so its gradient, is up to 1 % larger; TN stops when its value stands still.
    close = {Completion: 2e-2, TensorNorm: 1e-4}.get(type(method), 1e-5)
    close = close if dtype == "float64" else max(close, 1e-3)
    assert float((gradient * direction).sum()) == pytest.approx((ends[1] - ends[0]) / 2e-5, rel=close, abs=close)


@every
def test_zero_kernel(xp: Lib, name: str) -> None:
    """Value 0 and gradient 0: a layer initialised to zero stays where it is. No zero kernel is near an isometry."""
    for shape in shapes(xp):
        x = xp.asarray(np.zeros(shape, dtype=xp.dtypes[-1]))
        value, gradient = specnorm.value_and_grad(x, METHODS[name](), **geometry(name, shape))
        assert xp.number(value) == 0.0 or name == "isometry"
        assert (xp.to_numpy(gradient) == 0.0).all()
