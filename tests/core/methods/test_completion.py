"""Completion: whatever kernel H it is given, the bound is never below the norm; searched H bring it close."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.cases import Layer, Recipe
from helpers.libraries import Lib
from helpers.nightly import NIGHTLY
from helpers.oracle import sigma_star
from helpers.promises import for_all, layers_for
from numpy.typing import NDArray

import specnorm
from specnorm.completion import search
from specnorm.errors import MixedBackends

HOSTILE: dict[str, Any] = {
    "zeros": lambda h: 0 * h, "huge": lambda h: np.full_like(h, np.finfo(h.dtype).max / 4),
    "tiny": lambda h: np.full_like(h, np.finfo(h.dtype).smallest_subnormal),
    "nan": lambda h: np.where(h > 0, np.nan, h), "infinite": lambda h: np.where(h > 0, np.inf, h),
    "random": lambda h: h * 10, "one row": lambda h: h * (np.arange(h.shape[1]) == 0).reshape(-1, *(1,) * (h.ndim - 2)),
}  # fmt: skip


def drawn(shape: tuple[int, ...], recipe: Recipe, seed: int) -> NDArray[Any]:
    return np.random.RandomState(seed).standard_normal(shape).astype(recipe.dtype)


def completion_shape(recipe: Recipe) -> tuple[int, ...]:
    return (1, *search.completion_shape(recipe.shape))


@pytest.mark.parametrize("n_iter", [0, 3])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_start_makes_the_bound_false(xp: Lib, n_iter: int) -> None:
    """At the front door, from H of another layer, zeros or no numbers; traced where the library has tracers."""
    if xp.compiles and n_iter == 0:
        pytest.skip("a search of no products is compiled for the gradient's test alone")

    def bound(kernel: Any, start: Any) -> Any:
        return specnorm.completion_bound(kernel, start=start, n_iter=n_iter)

    def check(layer: Layer) -> None:
        recipe = layer.recipe
        h = drawn(completion_shape(recipe), recipe, recipe.seed)
        starts = [xp.asarray(spoil(h).astype(recipe.dtype)) for spoil in HOSTILE.values()]
        kernel, truth = xp.asarray(layer.kernel), sigma_star(layer.kernel, max_cells=3000)
        call = bound
        if xp.compiles:
            import jax

            call = jax.jit(bound)
        for start in starts:
            assert xp.number(call(kernel, start)) >= truth.lo
        if xp.name == "torch":
            import torch

            found = torch.vmap(bound)(torch.stack([kernel] * len(starts)), torch.stack(starts))
            assert min(xp.to_numpy(found)) >= truth.lo

    # JAX takes subnormal numbers for zero. Nightly some 20,000 starts in all: seven H a layer.
    for_all(xp, layers_for(xp, scaled=not xp.compiles), check, share=0.7 if NIGHTLY else 0.3)


def test_a_completion_is_a_start_for_the_kernel_that_has_moved() -> None:
    """And a NamedTuple, so a tree of arrays: fewer products than from random numbers."""
    kernel = Recipe((16, 16, 3, 3), seed=1).kernel
    moved = kernel + 1e-3 * Recipe((16, 16, 3, 3), seed=2).kernel
    h, bound = specnorm.complete(kernel)
    assert h.shape == (1, 64, 16, 3, 3)
    truth = sigma_star(moved, max_cells=3000)
    near, far = (float(specnorm.completion_bound(moved, start=x, n_iter=10)) for x in (h, None))
    assert truth.lo <= near <= 1.02 * truth.hi < far
    assert float(bound) <= 1.0101 * sigma_star(kernel, max_cells=3000).hi


def test_a_start_of_another_library_is_refused(torch: Any) -> None:
    with pytest.raises(MixedBackends):
        specnorm.complete(Recipe((4, 3, 3, 2)).kernel, start=torch.zeros(1, 12, 3, 3, 2))


@pytest.mark.parametrize(("dtype", "entry"), [("float32", 1e38), ("float64", 1e307)])
def test_a_norm_that_overflows_has_an_infinite_bound(xp: Lib, dtype: str, entry: float) -> None:
    """It was NaN: the product with the gradient overflows too."""
    if dtype not in xp.dtypes:
        pytest.skip(f"{dtype} is not among the dtypes of {xp.name}")
    kernel = xp.asarray(np.full((8, 8, 3), entry, dtype=dtype))
    assert float(specnorm.completion_bound(kernel, n_iter=5)) == np.inf
