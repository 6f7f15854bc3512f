"""Both ends of a layer's norm at one size, for every geometry, against its dense matrix."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from libraries import Lib
from oracle import dense_matrix, dense_norm, sigma_star
from promises import for_all
from strategies import Layer, Recipe, layers

import specnorm
from specnorm import GeometryError
from specnorm.backends import load
from specnorm.linalg.block_lanczos import Plan
from specnorm.runtime.execution import Execution
from specnorm.search.layer import LayerBounds, enclose_layer
from specnorm.spec import ConvSpec


def ends(lib: Lib | None, kernel: Any, sizes: Any, **options: Any) -> LayerBounds:
    geometry = {k: v for k, v in options.items() if k not in ("rtol", "dense", "supremum")}
    rest = {k: v for k, v in options.items() if k not in geometry}
    backend = load("numpy") if lib is None else lib.backend
    given = kernel[None] if lib is None else lib.asarray(kernel[None])
    spec = ConvSpec.of(kernel.shape, input_shape=sizes, **geometry)
    return enclose_layer(given, spec, ops=Execution.of(backend, given), **{"rtol": 1e-6, **rest})


def test_both_ends_of_every_geometry(xp: Lib) -> None:
    if xp.compiles:
        pytest.skip("looks at values; JAX has it done in NumPy")

    def check(layer: Layer) -> None:
        kernel = layer.kernel.astype(np.float64)
        kernel = kernel / (np.max(np.abs(kernel)) or 1.0)
        try:
            found = ends(xp, kernel, layer.input_shape, **layer.geometry)
        except GeometryError as refusal:
            if "does not divide" not in str(refusal):
                raise
            return
        truth = dense_norm(kernel, layer.input_shape, **layer.geometry)
        lower, upper = (float(xp.to_numpy(x)[0]) for x in (found.lower, found.upper))
        assert lower <= truth.hi
        assert upper >= truth.lo
        assert lower <= upper
        # Taps that cancel: a norm of 0 is known to the root of a rounding of what cancelled.
        terms = dense_norm(np.abs(kernel), layer.input_shape, **layer.geometry).hi
        if truth.lo > 1e-4 * terms:
            assert upper <= lower * (1 + 1e-6)
            assert found.converged
        assert upper <= truth.hi * (1 + 1e-6) + 1e-6 * terms
        matrix = dense_matrix(kernel, layer.input_shape, **layer.geometry)
        u, v = xp.to_numpy(found.u)[0], xp.to_numpy(found.v)[0]
        assert abs(float(u @ matrix @ v) - lower) <= 1e-7 * lower + 1e-12
        assert max(np.linalg.norm(u), np.linalg.norm(v)) <= 1 + 1e-12

    for_all(xp, layers(), check, share=2.0)


def test_an_unconverged_start_is_made_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Lanczos stopped too early the proof fails, and the eigenvector of the matrix takes over."""
    import specnorm.search.layer as module

    monkeypatch.setattr(module, "Plan", lambda _, seed, rtol: Plan(1, seed, rtol))
    kernel = Recipe((3, 3, 3, 3), seed=2).kernel
    found = ends(None, kernel, 6, padding_mode="reflect", rtol=1e-8)
    truth = dense_norm(kernel, 6, padding_mode="reflect")
    assert found.converged
    assert truth.lo * (1 - 1e-8) <= float(found.lower[0]) <= truth.hi
    assert truth.lo <= float(found.upper[0]) <= truth.hi * (1 + 2e-8)


def test_beyond_the_dense_size_the_supremum_is_the_upper_end() -> None:
    kernel = Recipe((3, 3, 3, 3), seed=2).kernel
    upper = specnorm.enclose(kernel, rtol=1e-6).upper
    for mode in ("zeros", "reflect", "replicate"):
        found = ends(None, kernel, 12, padding_mode=mode, dense=10, supremum=np.asarray(upper)[None])
        truth = dense_norm(kernel, 12, padding_mode=mode)
        assert float(found.lower[0]) <= truth.hi
        factor = 1 if mode == "zeros" else 2
        assert truth.lo <= float(found.upper[0]) <= factor * float(upper) * (1 + 1e-12)
        assert not found.converged
    assert float(ends(None, kernel, 12, dense=10).upper[0]) > 1e300


@pytest.mark.parametrize("mode", ["circular", "zeros", "reflect", "replicate"])
def test_padding_factor(mode: str) -> None:
    """The norm of the padding matrix, written out; 3 copies where two reflected borders overlap."""
    for n in range(1, 12):
        for before in range(4):
            for after in range(4):
                if mode == "reflect" and max(before, after) >= n:
                    continue
                spec = ConvSpec.of((1, 1, 1), input_shape=n, padding_mode=mode, padding=[(before, after)])
                matrix = dense_matrix(np.ones((1, 1, 1)), n, padding_mode=mode, padding=[(before, after)])  # type: ignore[arg-type]
                truth = float(np.linalg.norm(matrix, 2))
                assert truth * (1 - 1e-12) <= math.sqrt(spec.padding_gain_sq) <= truth * (1 + 1e-12)
    assert ConvSpec.of((1, 1, 3, 3), input_shape=4, padding_mode="reflect").padding_gain_sq == 4


def test_padding_factor_bounds_every_layer() -> None:
    """Against sigma*, circular padding by any amount included."""
    for seed, (mode, padding, n) in enumerate(
        [("circular", "same", 4), ("circular", [(4, 3)], 4), ("circular", 0, 6), ("reflect", 2, 5), ("replicate", 3, 2)]
    ):
        for stride in (1, 2):
            kernel = Recipe((2, 2, 3), seed=seed).kernel
            if mode == "circular" and n % stride:
                continue
            geometry: Any = {"stride": stride, "padding_mode": mode, "padding": padding}
            factor = math.sqrt(ConvSpec.of(kernel.shape, input_shape=n, **geometry).padding_gain_sq)
            assert dense_norm(kernel, n, **geometry).lo <= sigma_star(kernel, stride=stride).hi * factor
    assert math.sqrt(ConvSpec.of((1, 1, 3, 3), input_shape=4).padding_gain_sq) == 1


def test_ones_with_zero_padding_to_the_last_digits() -> None:
    one_axis = np.eye(8) + np.eye(8, k=1) + np.eye(8, k=-1)
    truth = float(np.linalg.norm(one_axis, 2)) ** 2
    found = ends(None, np.ones((1, 1, 3, 3)), 8, padding_mode="zeros", rtol=1e-10)
    assert float(found.lower[0]) <= truth * (1 + 1e-13)
    assert truth * (1 - 1e-13) <= float(found.upper[0]) <= truth * (1 + 2e-10)
