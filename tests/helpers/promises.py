"""What each method promises, as the tests hold it to: the kind, the quantity, and how far off it may be at most."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import specnorm
from helpers.cases import Layer, Recipe, circular_layers
from helpers.libraries import Lib
from helpers.oracle import Truth, dense_norm, sigma_star
from specnorm.methods import (
    Completion,
    Enclose,
    ExactFFT,
    FantasticFour,
    Gram,
    Grid,
    Isometry,
    Method,
    Power,
    Reshaped,
    Smallest,
    SymbolNorm,
    TensorNorm,
    Unfoldings,
)


@dataclass(frozen=True)
class Promise:
    """One method and what holds for every kernel.

    Parameters
    ----------
    method : Method
    kind : {"upper", "lower", "exact"}
        What the value promises; for the tensor norm, what it is published as.
    about : {"supremum", "circle"}
        The norm over all sizes, or that of the circular layer at its input size.
    factor : callable
        Kernel shape -> theorem's worst ratio to that norm; below 1 for lower values.
    """

    method: Method
    kind: Literal["upper", "lower", "exact"]
    about: Literal["supremum", "circle"]
    factor: Callable[[tuple[int, ...]], float]

    def geometry(self, layer: Layer) -> dict[str, Any]:
        return {"input_shape": layer.input_shape} if self.about == "circle" else {}

    def truth(self, layer: Layer) -> Truth:
        if self.about == "circle":
            return dense_norm(layer.kernel, layer.input_shape)
        return sigma_star(layer.kernel, max_cells=4000)


def taps(shape: tuple[int, ...]) -> int:
    return math.prod(shape[2:])


def grid_factor(shape: tuple[int, ...]) -> float:
    """Ehlich and Zeller's factor for 10 (k - 1) points an axis."""
    return math.prod(1 / math.cos(math.pi / 20) for k in shape[2:] if k > 1)


PROMISES = {
    # TN <= F4 <= sqrt(taps) ||T|| and ||T|| <= sigma*, T the reshape to (cout, cin * taps). Where TN is too close to
    # the norm for a proof, the value is 1.001 TN.
    "tn": Promise(TensorNorm(), "upper", "supremum", lambda s: 1.001 * math.sqrt(taps(s))),
    "f4": Promise(FantasticFour(), "upper", "supremum", lambda s: math.sqrt(taps(s))),
    # Seven products, whose rounding is counted.
    "gram": Promise(Gram(), "upper", "circle", lambda s: 1.00001 * min(s[:2]) ** (1 / 2**7)),
    "grid": Promise(Grid(), "upper", "supremum", grid_factor),
    # Where the search stops: measured to be reached, not a theorem.
    "completion": Promise(Completion(), "upper", "supremum", lambda _: 1.0101),
    "fft": Promise(ExactFFT(), "exact", "circle", lambda _: 1.0),
    "enclose": Promise(Enclose(), "upper", "supremum", lambda _: 1.0011),
    # A quotient, and Lanczos from a random start: measured, not a theorem.
    "power": Promise(Power(), "lower", "circle", lambda _: 0.9999),
    # The best of a grid's points, refined: measured, not a theorem.
    "symbol": Promise(SymbolNorm(), "lower", "supremum", lambda _: 0.99),
    "reshaped": Promise(Reshaped(), "lower", "supremum", lambda s: 1 / math.sqrt(taps(s))),
}
"""By name in ``METHODS``; ``unfoldings`` has several values and a file of its own."""

SEVERAL = {"unfoldings": Unfoldings()}
OF_OTHER_NUMBERS = {"smallest": Smallest(), "isometry": Isometry()}
"""Methods whose values are no norms: `test_smallest.py` and `test_isometry.py` hold them to what they promise."""


def rounded(truth: Truth, recipe: Recipe, lib: Lib) -> Truth:
    """Allowance for rounding on both sides, for tightness alone.

    Relative in the result's precision; absolute in that of the computation (float64 where the library has it), on the
    scale of the sum of the absolute values of the taps; and a few of the smallest normal numbers.
    """
    absolute = np.abs(recipe.kernel.astype(np.float64))
    largest = float(np.max(absolute))
    size = largest * float(np.linalg.norm(np.sum(absolute / (largest or 1.0), axis=tuple(range(2, absolute.ndim)))))
    working = 2.0**-52 if lib.has_float64 else 2.0**-23
    slack = 1000 * working * size + 4 * float(np.finfo(recipe.dtype).smallest_normal) * (largest > 0)
    relative = 8 * recipe.eps
    return Truth(max(0.0, truth.lo * (1 - relative) - slack), truth.hi * (1 + relative) + slack)


def layers_for(lib: Lib, **options: Any) -> st.SearchStrategy[Layer]:
    """Circular layers as this library can take them: few shapes where each costs a compilation."""
    return circular_layers(few=lib.compiles, dtypes=lib.dtypes, **options)


def for_all(lib: Lib, layers: st.SearchStrategy[Layer], body: Callable[[Layer], None], share: float = 1.0) -> None:
    """Run a check on many layers: all of the profile's examples on NumPy, fewer on the others."""
    fraction = {"numpy": 1.0, "torch": 0.6, "strict": 0.15}.get(lib.name, 0.3)
    count = max(5, int(settings.default.max_examples * fraction * share))  # type: ignore[union-attr]

    @settings(max_examples=count)
    @given(layer=layers)
    def run(layer: Layer) -> None:
        body(layer)

    run()


def measured(lib: Lib, layer: Layer, method: Method, **geometry: Any) -> specnorm.Result:
    """A result whose value is a Python float, after checks that hold for every value.

    0-d, in the kernel's library, dtype and device.
    """
    kernel = lib.asarray(layer.kernel)
    result = specnorm.measure(kernel, method, **geometry)
    assert type(result.value) is type(kernel) or lib.name == "numpy"
    assert lib.dtype_name(result.value) == layer.recipe.dtype
    assert str(lib.backend.device(result.value)) == str(lib.backend.device(kernel))
    number = lib.number(result.value)
    return specnorm.Result(number, result.kind, result.method, result.spec, result.stats)
