"""A layer with zero padding is the direct sum of smaller ones without dilation, entry by entry; dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("flint", reason="the layers' ball arithmetic: pip install python-flint")

from core.soundness.layers import Layer, layer
from helpers.oracle import dense_matrix

from specnorm.at_size.proofs import components
from specnorm.at_size.proofs.components import PolyphaseComponent
from specnorm.geometry.spec import ConvSpec

LAYERS = 150


def matrix_of(kernel: NDArray[np.float64], sub: PolyphaseComponent) -> NDArray[np.float64]:
    spec: Any = sub.spec
    return dense_matrix(
        kernel, spec.input_shape, stride=spec.stride, dilation=spec.dilation, groups=spec.groups,
        transposed=spec.transposed, padding_mode="zeros", padding=spec.padding,
    )  # fmt: skip


def norm(matrix: NDArray[np.float64]) -> float:
    return float(np.linalg.svd(matrix, compute_uv=False)[0])


def scaled(drawn: Layer) -> NDArray[np.float64]:
    kernel = np.asarray(drawn.kernel, dtype=np.float64)
    return kernel / (float(np.max(np.abs(kernel))) or 1.0)


def parts_of(drawn: Layer) -> list[PolyphaseComponent]:
    return components.polyphase_components(
        ConvSpec.of(drawn.kernel.shape, input_shape=drawn.input_shape, **drawn.geometry)
    )


def wrong(count: int = LAYERS) -> list[str]:
    """The first layer whose norm is not the largest of its parts'."""
    for index in range(count):
        drawn = layer(index, largest=120)
        kernel = scaled(drawn)
        truth = norm(dense_matrix(kernel, drawn.input_shape, **drawn.geometry))
        largest = max((norm(matrix_of(kernel, sub)) for sub in parts_of(drawn)), default=0.0)
        if abs(truth - largest) > 1e-12 * truth:
            return [f"{drawn}: {truth}, its parts {largest}"]
    return []


def test_the_norm_is_the_largest_of_the_parts() -> None:
    assert wrong() == []


# -- without one of the conditions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "replicate", "circular"])
def test_the_corner_of_a_layer_that_repeats_pixels_is_a_submatrix(mode: Any) -> None:
    found = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ndim = int(rng.integers(1, 3))
        kernel = rng.standard_normal((2, 1, *rng.integers(1, 4, ndim)))
        stride, dilation = (tuple(map(int, rng.integers(1, 3, ndim))) for _ in range(2))
        padding = tuple(tuple(map(int, pads)) for pads in rng.integers(0, 4, (ndim, 2)))
        sizes = tuple(int(n) * s for n, s in zip(rng.integers(4, 8, ndim), stride, strict=True))
        geometry: dict[str, Any] = {"stride": stride, "dilation": dilation, "padding_mode": mode, "padding": padding}
        spec = ConvSpec.of(kernel.shape, input_shape=sizes, **geometry)
        if spec.reads_zeros:
            continue
        (whole,) = components.polyphase_components(spec)
        corner = whole.restricted(6)
        if corner is whole:
            continue
        found += 1
        assert corner.is_corner_of(whole)
        axes = zip(corner.axes, whole.axes, strict=True)
        assert [(ours, theirs) for ours, theirs in axes if not components.contains(theirs, ours)] == []
        pixels = [np.arange(a.pixel_positions[0], a.pixel_positions[0] + a.pixels) for a in corner.axes]
        outputs = [np.arange(a.output_positions[0], a.output_positions[0] + a.outputs) for a in corner.axes]
        matrix = dense_matrix(kernel, sizes, **geometry)
        matrix = matrix.reshape(2, *(a.outputs for a in whole.axes), *sizes)[np.ix_(np.arange(2), *outputs, *pixels)]
        own = corner.spec
        np.testing.assert_array_equal(
            matrix.reshape(2 * int(np.prod([len(x) for x in outputs])), -1),
            dense_matrix(
                kernel, own.input_shape or (), stride=own.stride, dilation=own.dilation, padding_mode=own.padding_mode,
                padding=own.padding,
            ),
        )  # fmt: skip
    assert found > 20
