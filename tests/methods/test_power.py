"""The layer itself from below: valid for every geometry, near the truth; products, seeds, gradients, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from checks import assert_tight, assert_valid
from libraries import Lib
from numpy.typing import NDArray
from oracle import Truth, all_singular_values, dense_matrix, dense_norm, finite_difference_gradient
from promises import for_all, rounded
from real_weights import real_layers
from strategies import FEW_LAYERS, Layer, Recipe, layers

import specnorm
from specnorm import GeometryError, MethodError, Power, PowerTopK
from specnorm.methods import power
from specnorm.runtime.execution import Execution
from specnorm.search.plane_wave import starting_wave as wave


def value_of(lib: Lib, layer: Layer, method: specnorm.Method) -> Any:
    """Value on the host, or None where circular padding does not fit the stride."""
    kernel = lib.asarray(layer.kernel)
    try:
        got = specnorm.measure(kernel, method, input_shape=layer.input_shape, **layer.geometry)
    except GeometryError as refusal:
        if "does not divide" not in str(refusal):
            raise
        return None
    assert got.kind == "lower"
    return lib.to_numpy(got.value)


def test_every_geometry(xp: Lib) -> None:
    if xp.compiles:
        pytest.skip("every geometry is a compilation; the circular ones are tested with every method")

    def check(layer: Layer) -> None:
        value = value_of(xp, layer, Power())
        if value is None:
            return
        truth = dense_norm(layer.kernel, layer.input_shape, **layer.geometry)
        assert_valid(float(value), "lower", truth)
        assert_tight(float(value), rounded(truth, layer.recipe, xp), 0.9999)

    for_all(xp, layers(), check, share=2.0)


@pytest.mark.parametrize("k", [1, 3, 1000])
@pytest.mark.widths
def test_every_singular_value_from_below(xp: Lib, k: int) -> None:
    """The j-th value never above the j-th singular value; equal to it but for what Lanczos leaves."""
    method = PowerTopK(k=k)

    def check(layer: Layer) -> None:
        value = value_of(xp, layer, method)
        if value is None:
            return
        exact = all_singular_values(layer.kernel, layer.input_shape, **layer.geometry)
        assert value.shape == (min(k, len(exact)),)
        assert (np.diff(value) <= 0).all()
        truth = dense_norm(layer.kernel, layer.input_shape, **layer.geometry)
        slack = truth.hi - truth.lo
        roomy = rounded(truth, layer.recipe, xp)
        below = max(1e-3 * truth.hi, 20 * (roomy.hi - roomy.lo), (layer.recipe.eps**0.5) * truth.hi)
        for got, expected in zip(value.tolist(), exact.tolist(), strict=False):
            assert got <= expected + slack
            assert got >= expected - below

    if xp.compiles:
        # Every shape with one count, every count with one shape.
        for shape, sizes in FEW_LAYERS if k == 3 else FEW_LAYERS[1:2]:
            check(Layer(Recipe(shape, dtype=xp.dtypes[-1], seed=2), sizes))
    else:
        for_all(xp, layers(max_matrix=60), check, share=0.6)


def test_a_bound_after_any_number_of_steps() -> None:
    kernel = Recipe((5, 4, 3, 3), seed=3).kernel
    for mode in ("circular", "zeros", "reflect", "replicate"):
        truth = dense_norm(kernel, 6, padding_mode=mode)
        values = []
        for n_iter in (1, 2, 3, 5, 10, 30, 100):
            value = specnorm.power_norm(kernel, 6, padding_mode=mode, n_iter=n_iter)
            assert_valid(value, "lower", truth)
            values.append(float(value))
        assert values[0] < 0.98 * truth.lo
        assert values[-1] >= (1 - 1e-8) * truth.lo


def test_clusters_and_repeated_values() -> None:
    """All singular values equal, and pairs of a circular layer: the block must find each as often as it is there."""
    q = np.linalg.qr(Recipe((6, 6), seed=1).kernel)[0][:, :, None]
    values = specnorm.measure(q, PowerTopK(k=5), input_shape=4).value
    np.testing.assert_allclose(values, 1.0, rtol=1e-12)
    kernel = Recipe((3, 3, 5), seed=1).kernel
    values = specnorm.measure(kernel, PowerTopK(k=6), input_shape=9).value
    np.testing.assert_allclose(values, all_singular_values(kernel, 9)[:6], rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet20", "dncnn25", "espnet", "meshnet3d", "rfb320"])
def test_published_layers_below_sigma_star(name: str) -> None:
    """With the layer's own stride, dilation, groups and zero padding at a size; float32 kernels."""
    for _, kernel, geometry in real_layers(name)[:4]:
        sizes = (8,) * (kernel.ndim - 2) if kernel.ndim < 5 else (5, 5, 5)
        if np.prod(sizes) * max(kernel.shape[:2]) > 1200:
            continue
        try:
            value = specnorm.power_norm(kernel, sizes, **geometry)
        except GeometryError:
            continue
        truth = dense_norm(kernel, sizes, **geometry)
        assert_valid(value, "lower", truth)
        assert_tight(value, Truth(truth.lo * (1 - 1e-6), truth.hi), 0.9999)


def test_rises_with_the_input_towards_sigma_star() -> None:
    kernel = Recipe((4, 4, 3, 3), seed=6).kernel
    values = [float(specnorm.power_norm(kernel, n, padding_mode="zeros")) for n in (2, 4, 8, 16, 32)]
    assert values == sorted(values)
    supremum = float(specnorm.conv_norm(kernel))
    assert 0.98 * supremum < values[-1] < supremum


def test_products_are_counted_and_few() -> None:
    kernel = Recipe((8, 8, 3, 3), seed=6).kernel
    found = specnorm.measure(kernel, Power(), input_shape=16, padding_mode="zeros")
    assert 0 < int(found.stats["products"]) <= 201
    assert int(specnorm.measure(kernel, Power(n_iter=5), input_shape=16).stats["products"]) == 11
    truth = dense_norm(kernel, 16, padding_mode="zeros")
    # The plain power method, with as many products.
    matrix, v = dense_matrix(kernel, 16, padding_mode="zeros"), Recipe((2048,), seed=1).kernel
    for _ in range(int(found.stats["products"]) // 2):
        v = matrix.T @ (matrix @ v)
        v /= np.linalg.norm(v)
    plain = float(np.linalg.norm(matrix @ v))
    assert truth.lo - float(found.value) < 1e-3 * (truth.lo - plain)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ritz_values_of_any_vectors_are_bounds(dtype: str) -> None:
    """Neither orthogonal, nor normalised, nor independent: what is proven assumes nothing about the vectors."""
    from specnorm.backends import load
    from specnorm.certified.layer.own_matrix import ritz_down

    backend = load("numpy")
    for seed in range(60):
        random = np.random.RandomState(seed)
        m, n, k = random.randint(1, 40), random.randint(1, 40), random.randint(1, 5)
        a = (random.standard_normal((m, n)) * 10.0 ** random.uniform(-3, 0, (1, n))).astype(dtype)
        exact = np.concatenate([np.linalg.svd(a.astype(np.float64), compute_uv=False), np.zeros(k)])
        top = np.linalg.svd(a)[2][:k].astype(dtype)
        start: Any = np.concatenate([top, np.zeros((max(0, k - len(top)), n), dtype=dtype)])
        mixed = random.standard_normal((k, k)).astype(dtype) @ start
        for x in (start, mixed, np.repeat(start[:1], k, axis=0), start + 1e-4 * random.standard_normal((k, n))):
            rows: Any = x.astype(dtype)[None]
            images, terms = rows @ a.T, np.abs(rows) @ np.abs(a).T
            got: Any = ritz_down(images, terms, rows, n + 2, ops=Execution.of(backend, rows))[0]
            assert (got.astype(np.float64) <= exact[:k] * (1 + 1e-14)).all()
        if k <= min(m, n):
            sharp = ritz_down(start[None] @ a.T, np.abs(start[None]) @ np.abs(a).T, start[None], n + 2,
                              ops=Execution.of(backend, a))[0]  # fmt: skip
            assert sharp[0] >= exact[0] * (1 - (1e-3 if dtype == "float32" else 1e-11))


@pytest.mark.parametrize(
    "geometry",
    [
        {"padding_mode": "zeros", "stride": 2},
        {"padding_mode": "reflect", "dilation": 2, "padding": 1},
        {"padding_mode": "replicate", "padding": [(2, 0), (0, 3)]},
        {"padding_mode": "zeros", "transposed": True, "stride": (2, 3), "padding": 1},
        {"padding_mode": "circular", "groups": 2, "stride": 2},
        {"padding_mode": "zeros", "layout": "HWIO"},
    ],
    ids=str,
)
def test_gradients(geometry: dict[str, Any]) -> None:
    kernel = Recipe((4, 4, 3, 2), seed=8).kernel
    for method in (Power(rtol=1e-13), PowerTopK(k=3, rtol=1e-13, n_iter=400)):
        weights = np.array([0.7, -0.2, 1.1])[: 1 if isinstance(method, Power) else 3]

        def total(k: NDArray[Any], method: Any = method, weights: Any = weights) -> float:
            return float(np.sum(weights * specnorm.measure(k, method, input_shape=6, **geometry).value))

        from specnorm.backends import backend_for
        from specnorm.runtime.table import program_for

        backend = backend_for(kernel)
        plan = program_for(method, kernel.shape, "float64", (("input_shape", 6), *geometry.items()))
        _, _, residuals = plan.forward(kernel, backend=backend)
        cotangent = weights if plan.value_shape else weights[0]
        gradient = plan.pullback(residuals, np.asarray(cotangent), backend=backend)
        assert gradient.shape == kernel.shape
        direction = Recipe(kernel.shape, seed=4).kernel
        expected = finite_difference_gradient(total, kernel, direction, h=1e-5)
        assert abs(float(np.sum(gradient * direction)) - expected) <= 1e-5 * np.linalg.norm(direction)


def test_under_a_tracer() -> None:
    """Static shapes: the same number under jit and under the compiler."""
    kernel = Recipe((4, 3, 3, 3), seed=6).kernel
    plain = float(specnorm.power_norm(kernel, 7, padding_mode="reflect"))
    jax = pytest.importorskip("jax")
    traced = jax.jit(lambda k: specnorm.power_norm(k, 7, padding_mode="reflect"))(jax.numpy.asarray(kernel))
    assert abs(float(traced) / plain - 1) < 1e-6
    torch = pytest.importorskip("torch")
    compiled = torch.compile(lambda k: specnorm.power_norm(k, 7, padding_mode="reflect"), backend="eager")
    assert abs(float(compiled(torch.from_numpy(kernel))) / plain - 1) < 1e-6


def test_refusals() -> None:
    kernel = np.ones((2, 2, 3))
    with pytest.raises(GeometryError, match=r"needs input_shape.*conv_norm"):
        specnorm.power_norm(kernel, None)  # type: ignore[arg-type]
    with pytest.raises(GeometryError, match="no output"):
        specnorm.power_norm(kernel, 2, padding_mode="zeros", padding=0)
    wrong: list[dict[str, Any]] = [{"n_iter": 0}, {"n_iter": 2.5}, {"seed": -1}, {"rtol": 0.0}, {"rtol": "a"}]
    for values in wrong:
        with pytest.raises(MethodError, match=next(iter(values))):
            Power(**values)
    with pytest.raises(MethodError, match="k=0"):
        PowerTopK(k=0)


def test_a_run_ends_where_the_residuals_tell_that_a_restart_gains_nothing() -> None:
    """One direction far above the others: 24 steps converge, and no restart has to show it."""
    state = np.random.RandomState(0)
    kernel = np.multiply.outer(np.outer(state.standard_normal(8), state.standard_normal(8)), np.ones((3, 3)))
    found = specnorm.measure(kernel, Power(), input_shape=6)
    assert int(found.stats["products"]) <= 2 * 24 + 1
    assert_tight(float(found.value), dense_norm(kernel, 6), 1 - 1e-9)


ZEROS = {"padding_mode": "zeros"}
LARGE: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "zeros": ((8, 8, 3, 3), {"input_shape": 24, "padding_mode": "zeros"}),
    "wide": ((8, 12, 3, 3), {"input_shape": 24, "padding_mode": "zeros"}),
    "strided": ((16, 6, 3, 3), {"input_shape": 36, "stride": 2, "padding_mode": "zeros", "padding": 1}),
    "transposed": ((6, 8, 4, 4), {"input_shape": 28, "stride": 2, "padding": 1, "transposed": True, **ZEROS}),
    "transposed, wide": ((12, 5, 3, 3), {"input_shape": 30, "padding": 1, "transposed": True, **ZEROS}),
    "dilated, reflected": ((8, 8, 3, 3), {"input_shape": 24, "dilation": 2, "padding_mode": "reflect", "padding": 2}),
    "circular": ((9, 9, 5), {"input_shape": 512, "padding_mode": "circular"}),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_layers_start_from_waves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fewer products than from random vectors, and as high; a wrong start is no bound's end."""
    shape, at = LARGE[name]
    kernel = Recipe(shape, dtype="float32", seed=3).kernel
    upper = float(specnorm.enclose(kernel, rtol=1e-2, **at).upper)
    found = specnorm.measure(kernel, specnorm.Power(), **at)
    few = specnorm.measure(kernel, specnorm.Power(n_iter=2), **at)
    other = specnorm.measure(kernel, specnorm.Power(seed=5), **at)
    starts: list[Any] = []

    def nowhere(*args: Any, **options: Any) -> Any:
        starts.append(wave(*args, **options))
        return 0 * starts[-1]

    monkeypatch.setattr(power, "_LARGE", 10**9)
    before = specnorm.measure(kernel, specnorm.Power(), **at)
    early = specnorm.measure(kernel, specnorm.Power(n_iter=2), **at)
    monkeypatch.setattr(power, "_LARGE", 1)
    monkeypatch.setattr("specnorm.search.plane_wave.starting_wave", nowhere)
    astray = specnorm.measure(kernel, specnorm.Power(), **at)
    assert starts
    assert max(float(x.value) for x in (found, few, before, astray)) <= upper
    assert float(found.value) >= float(before.value) * (1 - 2e-5)
    assert float(found.value) == pytest.approx(float(other.value), rel=5e-5)
    assert float(few.value) > float(early.value)
    # A reflected border lifts the norm above the symbol's, and what attains it is no wave.
    assert float(few.value) > (0.8 if "reflect" in name else 0.95) * float(found.value)
