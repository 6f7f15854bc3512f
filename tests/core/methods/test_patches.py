"""Layers whose outputs read a patch each and no padding: one matrix, whatever the padding mode and the size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.cases import Recipe, recipes
from helpers.oracle import all_singular_values, dense_matrix
from hypothesis import given
from hypothesis import strategies as st

import specnorm


@st.composite
def patched(draw: st.DrawFn) -> tuple[Recipe, tuple[int, ...], dict[str, Any]]:
    """A kernel no wider than its stride, without padding, at a size that the stride need not divide."""
    ndim = draw(st.integers(1, 2))
    groups, transposed = draw(st.integers(1, 2)), draw(st.booleans())
    stride = tuple(draw(st.integers(1, 3)) for _ in range(ndim))
    dilation = tuple(draw(st.integers(1, 2)) for _ in range(ndim))
    taps = [draw(st.integers(1, (s - 1) // r + 1)) for s, r in zip(stride, dilation, strict=True)]
    shape = (groups * draw(st.integers(1, 4)), draw(st.integers(1, 3)), *taps)
    recipe = draw(recipes(shape=st.just(shape), dtypes=("float64",), scaled=False))
    reach = [r * (k - 1) + 1 for r, k in zip(dilation, taps, strict=True)]
    size = tuple(draw(st.integers(1 if transposed else n, n + 4)) for n in reach)
    modes = ("zeros",) if transposed else ("zeros", "reflect", "replicate")
    geometry = {"stride": stride, "dilation": dilation, "groups": groups, "transposed": transposed, "padding": 0}
    return recipe, size, {**geometry, "padding_mode": draw(st.sampled_from(modes))}


@given(drawn=patched())
def test_all_singular_values_are_those_of_the_layer(drawn: tuple[Recipe, tuple[int, ...], dict[str, Any]]) -> None:
    recipe, size, geometry = drawn
    truth = all_singular_values(recipe.kernel, size, **geometry)
    found = specnorm.singular_values(recipe.kernel, size, **geometry)
    assert found.shape == (min(dense_matrix(recipe.kernel, size, **geometry).shape),)
    np.testing.assert_allclose(found, truth, atol=1e-12 * max(1.0, float(truth[0])))
    few = min(3, len(truth))
    largest = specnorm.singular_values(recipe.kernel, size, k=few, **geometry)
    np.testing.assert_allclose(largest, truth[:few], atol=1e-12 * max(1.0, float(truth[0])))


@pytest.mark.usefixtures("seeded_torch")
def test_values_of_pixels_that_no_tap_reads_have_no_gradient(torch: Any) -> None:
    """27 of 75 values are 0: more than a patch has values, so their slopes would be counted as those of a copy."""
    layer = torch.nn.Conv2d(3, 64, 2, 2, bias=False).double()
    found = specnorm.singular_values(layer, 5)
    assert (found.shape, int((found == 0).sum())) == ((75,), 27)
    found.sum().backward()
    slope, layer.weight.grad = layer.weight.grad, None
    (4 * torch.linalg.svdvals(layer.weight.reshape(64, 12)).sum()).backward()
    torch.testing.assert_close(slope, layer.weight.grad)
