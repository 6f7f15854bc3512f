"""Stride, dilation and groups reduce a layer to blocks: with an adjoint, alike in every library and layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import Layer, Recipe, layers
from checks import assert_exact
from hypothesis import given
from libraries import Lib
from oracle import all_singular_values, dense_norm, sigma_star

import specnorm
from specnorm import ConvSpec
from specnorm.problem.polyphase import from_blocks, to_blocks


# -- blocks ------------------------------------------------------------------------------------------------------
@given(layer=layers(dtypes=("float64",)))
def test_reduction_to_blocks_has_its_adjoint(layer: Layer) -> None:
    """<to_blocks(x), y> = <x, from_blocks(y)>, and from_blocks gives the kernel back, bit by bit."""
    kernel: Any = layer.kernel[None] / (10.0**layer.recipe.scale)
    geometry = {k: v for k, v in layer.geometry.items() if k not in ("padding", "padding_mode")}
    spec = ConvSpec.of(kernel.shape[1:], **geometry)
    numpy: Any = np
    blocks: Any = to_blocks(kernel, spec, xp=numpy)
    assert blocks.shape == (spec.groups, *spec.block_shape)
    np.testing.assert_array_equal(from_blocks(blocks, spec, xp=numpy), kernel)
    other: Any = Recipe(blocks.shape, seed=5).kernel
    one, two = float(np.sum(blocks * other)), float(np.sum(kernel * from_blocks(other, spec, xp=numpy)))
    assert abs(one - two) <= 1e-12 * float(np.sum(np.abs(blocks * other)))


@pytest.mark.sampled("numpy", "strict", "torch")
def test_every_library_folds_alike(xp: Lib) -> None:
    """Everything at once, compiled where the library compiles; values and statistics of three groups."""
    kernel = Recipe((6, 2, 3, 4), dtype=xp.dtypes[-1], seed=3).kernel
    options: dict[str, Any] = TRACED
    truth = sigma_star(kernel, **options)
    for method in (specnorm.FantasticFour(), specnorm.Grid(), specnorm.Enclose(), specnorm.TensorNorm()):
        got = specnorm.measure(xp.asarray(kernel), method, **options)
        assert got.kind == "upper"
        assert truth.lo <= xp.number(got.value) <= truth.hi * 4
    at_size = dense_norm(kernel, (4, 2), **options)
    assert xp.number(specnorm.gram_bound(xp.asarray(kernel), (4, 2), **options)) >= at_size.lo
    rtol = 1e-9 if xp.has_float64 else 1e-4
    assert_exact(xp.number(specnorm.conv_norm(xp.asarray(kernel), (4, 2), **options)), at_size, rtol)
    spectrum = xp.to_numpy(specnorm.singular_values(xp.asarray(kernel), (4, 2), k=20, **options))
    np.testing.assert_allclose(spectrum, all_singular_values(kernel, (4, 2), **options)[:20], rtol=10 * rtol)


TRACED: dict[str, Any] = {"stride": (2, 3), "dilation": (2, 1), "groups": 3, "transposed": True}
