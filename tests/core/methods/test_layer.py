"""Both bounds of a layer's norm at one size, for every geometry, against its dense matrix."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from helpers.cases import Layer, layers
from helpers.checks import peak
from helpers.libraries import Lib
from helpers.oracle import dense_matrix, dense_norm
from helpers.promises import for_all

import specnorm
from specnorm.at_size import layer as layer_module
from specnorm.at_size.component import ComponentBounds, fewest_rows
from specnorm.at_size.layer import enclose_layer
from specnorm.at_size.proofs import block_tridiagonal
from specnorm.at_size.proofs.block_tridiagonal import gram_blocks, plans
from specnorm.backends import load
from specnorm.backends.types import ArrayOps
from specnorm.errors import GeometryError
from specnorm.geometry.layer_map import Convolution
from specnorm.geometry.spec import ConvSpec
from specnorm.geometry.taps import Axis
from specnorm.methods import Power
from specnorm.proofs.bound import finite
from specnorm.proofs.found import Found
from specnorm.running.search import Problem


def bounds(lib: Lib | None, kernel: Any, sizes: Any, rtol: float = 1e-6, **geometry: Any) -> Found:
    backend = load("numpy") if lib is None else lib.backend
    given = kernel[None] if lib is None else lib.asarray(kernel[None])
    spec = ConvSpec.of(kernel.shape, input_shape=sizes, **geometry)
    return enclose_layer(given, Problem(spec, rtol, 10**5), ops=ArrayOps.of(backend, given))


def test_both_bounds_of_every_geometry(xp: Lib) -> None:
    if xp.compiles:
        pytest.skip("looks at values; JAX has it done in NumPy")

    def check(layer: Layer) -> None:
        kernel = layer.kernel.astype(np.float64)
        kernel = kernel / (np.max(np.abs(kernel)) or 1.0)
        try:
            found = bounds(xp, kernel, layer.input_shape, **layer.geometry)
        except GeometryError as refusal:
            if "does not divide" not in str(refusal):
                raise
            return
        truth = dense_norm(kernel, layer.input_shape, **layer.geometry)
        lower, upper = found.lower.value, finite(found.upper)
        assert lower <= truth.hi
        assert upper >= truth.lo
        assert lower <= upper
        # Taps that cancel: a norm of 0 is known to the root of a rounding of what cancelled.
        terms = dense_norm(np.abs(kernel), layer.input_shape, **layer.geometry).hi
        if truth.lo > 1e-4 * terms:
            assert upper <= lower * (1 + 1e-6)
            assert found.within(1e-6)
        assert upper <= truth.hi * (1 + 1e-6) + 1e-6 * terms
        matrix = dense_matrix(kernel, layer.input_shape, **layer.geometry)
        u, v = xp.to_numpy(found.witness.u)[0], xp.to_numpy(found.witness.v)[0]
        assert abs(float(u @ matrix @ v) - lower) <= 1e-7 * lower + 1e-12
        assert max(np.linalg.norm(u), np.linalg.norm(v)) <= 1 + 1e-12

    for_all(xp, layers(ndims=(1, 2, 3)), check, share=2.0)


# -- the layer's own matrix ------------------------------------------------------------------------------------------
def test_a_layer_takes_neither_a_gradient_nor_vectors_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 64 channels and n = 256 both took 331 MiB and 442 ms; n = 512 took 12 MiB and 16 ms."""
    kernel = np.random.default_rng(0).standard_normal((16, 16, 3, 3))
    value, gradient = specnorm.value_and_grad(kernel, Power(n_iter=30), input_shape=12, padding_mode="zeros")
    assert float(np.sum(gradient * kernel)) == pytest.approx(float(value), rel=1e-5)
    monkeypatch.setattr(Convolution, "kernel_gradient", None)
    assert specnorm.power_norm(kernel, 12, padding_mode="zeros", n_iter=30) == value
    assert specnorm.conv_norm(kernel, 12, padding_mode="zeros", rtol=1e-2) >= 0.99 * value
    tracemalloc.start()
    try:
        found = specnorm.enclose(kernel, 128, padding_mode="zeros")
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
    assert float(found.lower) >= float(value)
    assert found.witness[1].size == 0


def test_what_is_known_of_an_axis_part_by_part_is_what_its_table_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands that are too narrow would lose couplings; plans that are left out must have been too large."""
    monkeypatch.setattr("specnorm.geometry.taps.PART", 3)
    random = np.random.default_rng(0)
    for _ in range(300):
        pixels, taps, stride, dilation = (int(random.integers(1, top)) for top in (12, 5, 4, 4))
        before, after = (int(n) for n in random.integers(-1, 4, 2))
        outputs = (pixels + before + after - dilation * (taps - 1) - 1) // stride + 1
        mode = random.choice(["zeros", "circular", "reflect", "symmetric", "replicate"])
        if outputs < 1 or (mode == "reflect" and max(before, after) >= pixels) or max(before, after) > pixels:
            continue
        axis = Axis(pixels, outputs, taps, stride, dilation, before, str(mode))
        reads = (axis.table[:, :, None] == np.arange(pixels)).any(0)  # (outputs, pixels)
        assert np.array_equal(np.concatenate([part for _, part in axis.parts_of_table()], axis=1), axis.table)
        if mode == "zeros":
            assert np.array_equal(axis.reads_pixel, (axis.table < pixels).any(1))
        for rows_are_outputs, rows in ((False, reads.T), (True, reads)):
            lines = np.argwhere(rows.astype(int) @ rows.T.astype(int))
            assert block_tridiagonal._bandwidth(axis, rows_are_outputs) == max(
                (abs(i - j) for i, j in lines.tolist()), default=0
            )
        spec = ConvSpec.of((3, 2, taps), input_shape=(pixels,), padding=taps // 2, padding_mode="zeros")
        for plan in plans(spec):
            assert fewest_rows(spec) / 3 <= plan.work
            assert 8 * 6 * fewest_rows(spec) <= plan.memory


@pytest.mark.parametrize("mode", ["zeros", "symmetric"])
def test_a_long_axis_takes_few_bytes_a_pixel(mode: Any) -> None:
    """It took 391 with zeros and 263 with the others: tables of what each tap reads, and waves at every tap."""
    kernel = np.random.default_rng(0).standard_normal((1, 1, 5))
    assert peak(lambda: specnorm.enclose(kernel, 10**6, padding_mode=mode)) < 100 * 10**6


@pytest.mark.parametrize(
    ("taps", "size", "mode", "stride"),
    [(3, 4000, "symmetric", 1), (9, 600, "reflect", 1), (9, 600, "zeros", 2), (3, (20, 20), "symmetric", 1)],
)
def test_a_matrix_takes_the_memory_that_its_plan_says(taps: int, size: Any, mode: Any, stride: int) -> None:
    """A layer of 1e5 pixels took 1.26 GB, and its plan said a tenth."""
    shape = (2, 2, *[taps] * (1 if isinstance(size, int) else 2))
    spec = ConvSpec.of(shape, padding_mode=mode, padding="same", stride=stride, input_shape=size)
    kernels: Any = np.random.default_rng(0).standard_normal((1, *shape))
    ops = ArrayOps.of(load("numpy"), kernels)
    for plan in plans(spec)[:2]:
        assert peak(lambda: gram_blocks(kernels, spec, plan, ops=ops)) < plan.memory  # noqa: B023


def test_attempts_begin_at_the_tolerance_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts for 1e-2 began at 1e-3, and took ten times as long."""
    made: list[float] = []

    class Watched(ComponentBounds):
        def near_supremum(self, *args: Any, **options: Any) -> Any:
            made.append(self.rtol)
            return super().near_supremum(*args, **options)

    monkeypatch.setattr(layer_module, "ComponentBounds", Watched)
    kernel = np.random.default_rng(0).standard_normal((16, 16, 3, 3)).astype(np.float32)
    begun = {}
    for rtol in (0.5, 1e-2, 5e-3, 2e-3, 1e-4):
        made.clear()
        specnorm.enclose(kernel, 40, rtol=rtol, padding_mode="zeros", padding=1)
        begun[rtol] = made[0], min(made)
    assert begun == {0.5: (0.5, 0.5), 1e-2: (1e-2, 1e-2), 5e-3: (5e-3, 5e-3), 2e-3: (2e-3, 2e-3), 1e-4: (1e-3, 1e-4)}
    monkeypatch.setattr(layer_module, "ATTEMPTS", (layer_module.near_supremum,))
    made.clear()
    specnorm.enclose(kernel, 16, rtol=1e-3, padding_mode="zeros", padding=1)
    assert made == [1e-3]


@pytest.mark.parametrize("seed", range(3))
def test_a_tighter_tolerance_is_never_wider(seed: int) -> None:
    """It starts with the attempts of a looser one: 1e-4 gave up to 1.4e-2 where 1e-3 gave 1e-3."""
    kernel = np.random.default_rng(seed).standard_normal((16, 16, 3, 3)).astype(np.float32)
    geometries: tuple[dict[str, Any], ...] = ({"padding": 1}, {"padding": 1, "stride": 2}, {"padding": 0})
    width = math.inf
    for rtol in (0.5, 0.1, 5e-2, 1e-2, 5e-3, 2e-3, 1e-3, 3e-4, 1e-4, 1e-5):
        found = specnorm.enclose(kernel, 48, rtol=rtol, padding_mode="zeros", **geometries[seed])
        assert float(found.upper) - float(found.lower) <= width
        width = float(found.upper) - float(found.lower)
    assert width <= 1.1e-3 * float(found.upper)
