"""Roundings of residuals, as large as they may be: each allowance is needed.

Errors of real products are far below their worst case, so they are planted here: a product of n terms, all of one sign,
comes out gamma(n) too small, in units that real roundings vanish beside.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from helpers.libraries import OPS

from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec
from specnorm.power.proofs.ritz import residuals_up
from specnorm.proofs import rounding

UNIT = 2.0**-24
_gamma = rounding.gamma


class Instead:
    def __init__(self, whole: Any, **others: Any) -> None:
        self._whole = whole
        self.__dict__.update(others)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._whole, name)


# -- residuals -------------------------------------------------------------------------------------------------------
def too_close_by_products() -> bool:
    """Whether a number is said to be nearer to the only singular value than it is, for products that come out small."""
    kernel: Any = np.ones((1, 1, 300, 1), dtype=np.float32)
    spec = ConvSpec.of(kernel.shape[1:], input_shape=(1,), padding_mode="zeros", padding=0)
    layer = Convolution(kernel, spec, ops=OPS)
    apply: Any = layer.apply
    adjoint: Any = layer.adjoint
    # One entry of A v, and one of A* u, is a sum of as many terms as there are roundings; the other is exact.
    small = [1 - 0.99 * _gamma(n, UNIT) for n in layer.roundings]
    layer.apply = lambda x: np.float32(small[0]) * apply(x)  # type: ignore[method-assign]
    layer.adjoint = lambda y: np.float32(small[0]) * adjoint(y)  # type: ignore[method-assign]
    u: Any = np.ones((1, 1, 1), dtype=np.float32)
    v: Any = np.full((1, 1, 300), 1 / math.sqrt(300), dtype=np.float32)
    s: Any = np.full((1, 1), math.sqrt(300) * small[0], dtype=np.float32)
    return float(residuals_up(layer, u, v, s, ops=OPS)[0, 0]) < math.sqrt(300) - float(s[0, 0])


def too_close_by_lengths() -> bool:
    """The same of a layer that is nearly zero, at vectors of many entries."""
    for count, (value, number) in itertools.product((1, 300), np.random.RandomState(0).uniform(0.5, 1, (30, 2))):
        kernel: Any = np.full((1, 1, count, 1), 1e-30, dtype=np.float32)
        spec = ConvSpec.of(kernel.shape[1:], input_shape=(1,), padding_mode="zeros", padding=0)
        u: Any = np.full((1, 1, 1), value, dtype=np.float32)
        v: Any = np.full((1, 1, count), value, dtype=np.float32)
        s: Any = np.full((1, 1), number, dtype=np.float32)
        layer = Convolution(kernel, spec, ops=OPS)
        if residuals_up(layer, u, v, s, ops=OPS)[0, 0] < s[0, 0]:
            return True
    return False


@pytest.mark.parametrize(("entry", "distance"), [(10.0, math.inf), (0.0, 1.0)])
def test_vectors_of_zeros_tell_nothing_of_a_layer_that_is_not_zero(entry: float, distance: float) -> None:
    """The only singular value is 10: the number 1 is 9 away, which 1 would not bound."""
    kernel: Any = np.full((1, 1, 1, 1), entry, dtype=np.float32)
    spec = ConvSpec.of(kernel.shape[1:], input_shape=(1,), padding_mode="zeros", padding=0)
    zeros: Any = np.zeros((1, 1, 1), dtype=np.float32)
    one: Any = np.ones((1, 1), dtype=np.float32)
    found = float(residuals_up(Convolution(kernel, spec, ops=OPS), zeros, zeros, one, ops=OPS)[0, 0])
    assert distance <= found <= distance * (1 + 1e-6)


def test_residuals_are_no_less_than_the_distance() -> None:
    """Either of two allowances covers usual errors of the other; `roundings` has the same without that for products."""
    assert not too_close_by_lengths()
    assert not too_close_by_products()
