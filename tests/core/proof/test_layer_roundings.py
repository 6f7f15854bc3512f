"""Roundings of a layer's own Gram matrix and of its residuals, as large as they may be: each allowance is needed.

Errors of real products are far below their worst case, so they are planted here: a product of n terms, all of one sign,
comes out gamma(n) too small, in units that real roundings vanish beside.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from helpers.libraries import OPS
from helpers.oracle import dense_matrix

from specnorm.at_size.proofs.block_tridiagonal import gram_blocks, plans
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


def coarse(ops: Any) -> Any:
    def matmul(a: Any, b: Any) -> Any:
        return np.matmul(a, b) * (1 - 0.99 * _gamma(a.shape[-1], UNIT))

    return Instead(ops, xp=Instead(ops.xp, matmul=matmul))


@dataclass(frozen=True)
class Cut:
    """A layer, and how its matrix is cut.

    Parameters
    ----------
    shape, size : tuple of int
        Of the kernel and of the input.
    padding : str
    axis : int
    wide : bool
    spare : int
        Roundings that are counted beyond those that happen.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]
    padding: str
    axis: int
    rows_are_outputs: bool
    spare: int


CUTS = {
    "long products": Cut((1, 60, 1, 1), (1, 1), "zeros", 0, True, 12),
    "many pairs of taps, each in blocks of its own": Cut((1, 1, 9), (9,), "zeros", 0, False, 75),
    "sums over the taps of another axis": Cut((1, 1, 1, 31), (1, 31), "replicate", 0, False, 10),
}


@pytest.mark.parametrize("name", CUTS)
def test_entries_of_the_gram_matrix_are_off_by_what_is_said_and_hardly_less(name: str) -> None:
    cut = CUTS[name]
    kernel: Any = np.ones((1, *cut.shape))
    pads = [(k // 2, k // 2) for k in cut.shape[2:]]
    geometry: dict[str, Any] = {"padding_mode": cut.padding, "padding": pads}
    spec = ConvSpec.of(cut.shape, input_shape=cut.size, **geometry)
    dense = dense_matrix(kernel[0], cut.size, **geometry)
    truth = np.sort((dense @ dense.T if cut.rows_are_outputs else dense.T @ dense).reshape(-1))
    plan = next(
        x for x in plans(spec) if x.axis == cut.axis and x.rows_are_outputs == cut.rows_are_outputs and x.blocks == 1
    )
    band, roundings = gram_blocks(kernel, spec, plan, ops=coarse(OPS))
    found = np.sort(np.asarray(band.diagonal).reshape(-1))
    off = 1 - float(np.min(found[truth > 0] / truth[truth > 0]))
    assert 0 < off <= rounding.gamma(roundings, UNIT)
    assert off > rounding.gamma(roundings - cut.spare, UNIT)


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
