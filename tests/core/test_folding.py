"""Batch normalisation folded into a kernel: the same layer as both one after the other, and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.cases import Recipe
from helpers.libraries import Lib
from helpers.oracle import dense_matrix, finite_difference_gradient
from numpy.typing import NDArray

import specnorm

SHAPES = {"plain": ((4, 3, 3, 2), 1, 4), "grouped": ((6, 2, 3, 2), 3, 6), "depthwise": ((4, 1, 3, 2), 4, 4)}
"""Kernel shape (transposed: the same), groups, output channels if not transposed."""


def statistics(cout: int, dtype: str) -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.RandomState(0)
    return random.standard_normal(cout).astype(dtype), random.uniform(0, 2, size=cout).astype(dtype)


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("layout", [None, "HWIO"])
def test_folded_is_both_one_after_the_other(xp: Lib, case: str, transposed: bool, layout: Any) -> None:
    shape, groups, cout = SHAPES[case]
    if transposed:
        cout = shape[1] * groups
    dtype = xp.dtypes[-1]
    kernel = Recipe(shape, dtype=dtype, seed=1).kernel
    gamma, variance = statistics(cout, dtype)
    stored = kernel if layout is None else np.transpose(kernel, (2, 3, 1, 0))
    folded = specnorm.fold_batch_norm(
        xp.asarray(stored), xp.asarray(gamma), xp.asarray(variance), 1e-3,
        groups=groups, transposed=transposed, layout=layout,
    )  # fmt: skip
    assert type(folded) is type(xp.asarray(stored))
    assert xp.dtype_name(folded) == dtype
    host = xp.to_numpy(folded)
    assert host.shape == stored.shape
    host = host if layout is None else np.transpose(host, (3, 2, 0, 1))
    options: dict[str, Any] = {"groups": groups, "transposed": transposed, "padding_mode": "zeros", "padding": 1}
    layer = dense_matrix(kernel, (4, 4), **options)
    scale = (gamma / np.sqrt(variance + np.asarray(1e-3, dtype=dtype))).astype(np.float64)
    both = np.repeat(scale, len(layer) // cout)[:, None] * layer
    np.testing.assert_allclose(dense_matrix(host, (4, 4), **options), both, rtol=1e-5, atol=1e-6)


def test_gradients_by_finite_differences(torch: Any) -> None:
    kernel = Recipe((4, 3, 3), seed=1).kernel
    gamma, variance = statistics(4, "float64")

    def norm(k: NDArray[Any], g: NDArray[Any], v: NDArray[Any]) -> float:
        return float(specnorm.grid_bound(specnorm.fold_batch_norm(k, g, v, 1e-2)))

    leaves = [torch.tensor(x, requires_grad=True) for x in (kernel, gamma, variance)]
    specnorm.grid_bound(specnorm.fold_batch_norm(leaves[0], leaves[1], leaves[2], 1e-2)).backward()
    arguments = [kernel, gamma, variance]
    for j, leaf in enumerate(leaves):
        direction = Recipe(arguments[j].shape, seed=j).kernel

        def along(x: NDArray[Any], j: int = j) -> float:
            return norm(*(x if i == j else y for i, y in enumerate(arguments)))

        expected = finite_difference_gradient(along, arguments[j], direction)
        assert abs(float(np.sum(leaf.grad.numpy() * direction)) - expected) < 1e-5
