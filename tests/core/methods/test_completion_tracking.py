"""Completion along a training run: the value is an upper bound at every step, whatever became of the state."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from helpers.libraries import Lib
from helpers.oracle import finite_difference_gradient, sigma_star
from numpy.typing import NDArray

import specnorm
from specnorm.completion import search
from specnorm.methods import Completion

METHOD = Completion(every=2)
LAYERS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((4, 3, 3, 2), {}),
    ((3, 5), {}),
    ((1, 1, 3, 3), {}),
    ((4, 2, 5), {"groups": 2, "stride": 2}),
    ((4, 2, 3), {"groups": 2, "transposed": True, "stride": 2}),
]


def normal(*shape: int, seed: int = 0, dtype: str = "float64") -> NDArray[Any]:
    return np.random.RandomState(seed).standard_normal(shape).astype(dtype)


def lowest(kernel: NDArray[Any], **layer: Any) -> float:
    """A number that no bound may be below."""
    return sigma_star(kernel, rtol=1e-6, max_cells=3000, **layer).lo


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("shape", "layer"), LAYERS, ids=str)
def test_every_step_is_a_bound(shape: tuple[int, ...], layer: dict[str, Any], dtype: str) -> None:
    """And close once the kernel stands still; steps without a sweep change nothing."""
    kernel = normal(*shape, dtype=dtype)
    state = specnorm.init_tracking(kernel, METHOD, **layer)
    for step in range(24):
        kernel = (kernel + (step < 12) * 0.02 * normal(*shape, seed=step + 1)).astype(dtype)
        held, same = specnorm.track(kernel, METHOD, state, sweeps=0, **layer)
        value, state = specnorm.track(kernel, METHOD, state, **layer)
        truth = lowest(kernel, **layer)
        assert held >= truth
        assert value >= truth
        assert set(same) == set(state)
    assert value <= 1.05 * truth


@pytest.mark.parametrize("scale", [1e-25, 1e-3, 1e3, 1e25])
def test_a_kernel_may_change_its_scale(scale: float) -> None:
    """H is kept beside a power of two: a kernel of another scale is bounded at once, and closely after some steps."""
    kernel = normal(4, 4, 3, 3, dtype="float32")
    state = specnorm.init_tracking(kernel, METHOD)
    scaled = (kernel * scale).astype("float32")
    truth = lowest(scaled)
    for _ in range(120):
        value, state = specnorm.track(scaled, METHOD, state)
        assert value >= truth
    assert value <= 1.05 * truth


@pytest.mark.parametrize("name", ["zeros", "nan", "huge", "float16", "bfloat16", "other"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_state_that_was_damaged_makes_no_bound_false(name: str) -> None:
    """H of no use, or stored in half precision, as a cast of the model does."""
    kernel = normal(4, 4, 3, 3, dtype="float32")
    state = specnorm.init_tracking(kernel, METHOD)

    def shorter(x: NDArray[Any], bits: int) -> NDArray[Any]:
        mantissa, exponent = np.frexp(x)
        return np.asarray(np.ldexp(np.rint(mantissa * 2.0**bits) / 2.0**bits, exponent), dtype=x.dtype)

    damage: dict[str, Any] = {
        "zeros": lambda x: 0 * x,
        "nan": lambda x: np.full_like(x, np.nan),
        "huge": lambda x: np.full_like(x, 1e30),
        "float16": lambda x: shorter(x, 11),
        "bfloat16": lambda x: shorter(x, 8),
    }
    if name == "other":
        state = specnorm.init_tracking(normal(4, 4, 3, 3, seed=1, dtype="float32"), METHOD)
    else:
        state = {**state, "completion": damage[name](state["completion"])}
    truth = lowest(kernel)
    for _ in range(4):
        value, state = specnorm.track(kernel, METHOD, state)
        assert value >= truth


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nothing_in_a_state_is_believed(seed: int) -> None:
    """Whatever a state's arrays hold: stored lags of H gave a bound of 1.449 for a norm of 2."""
    random = np.random.default_rng(seed)
    kernel = normal(3, 4, 3, seed=seed)
    state = specnorm.init_tracking(kernel, METHOD)
    forged = {name: random.choice([0.0, 0.3, 1.0, 2.0, 1e3]) * np.ones_like(x) for name, x in state.items()}
    for sweeps in (0, 1):
        assert float(specnorm.track(kernel, METHOD, forged, sweeps=sweeps)[0]) >= lowest(kernel)


def test_the_gradient_holds_h_fixed() -> None:
    """Against differences of steps without a sweep, whose state stands."""
    kernel, direction = normal(4, 3, 3, 2), normal(4, 3, 3, 2, seed=1)
    torch = pytest.importorskip("torch")
    for k in (kernel, kernel[:1, :1]):
        state = specnorm.init_tracking(k, METHOD)
        moved = k * 1.01

        def bound(x: NDArray[Any], state: Any = state) -> float:
            return float(specnorm.track(x, METHOD, state, sweeps=0)[0])

        x = torch.from_numpy(moved.copy()).requires_grad_()
        value, _ = specnorm.track(x, METHOD, {n: torch.from_numpy(y) for n, y in state.items()}, sweeps=0)
        value.backward()
        along = direction[: k.shape[0], : k.shape[1]]
        expected = finite_difference_gradient(bound, moved, along, h=1e-6)
        assert float(np.sum(x.grad.numpy() * along)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.libraries
def test_every_library_takes_the_same_steps(xp: Lib) -> None:
    kernel, way = normal(4, 3, 3, 2), normal(4, 3, 3, 2, seed=1)
    dtype = xp.dtypes[-1]
    x = xp.asarray(kernel.astype(dtype))
    state, reference = specnorm.init_tracking(x, METHOD), specnorm.init_tracking(kernel, METHOD)
    step = specnorm.track
    if xp.compiles:
        import jax

        step = jax.jit(specnorm.track, static_argnums=1)
    for j in range(3):
        moved = kernel + 0.01 * j * way
        value, state = step(xp.asarray(moved.astype(dtype)), METHOD, state)
        expected, reference = specnorm.track(moved, METHOD, reference)
        assert xp.number(value) >= lowest(moved.astype(dtype))
        assert xp.number(value) == pytest.approx(float(expected), rel=1e-2)
        assert xp.dtype_name(value) == dtype
        assert {xp.dtype_name(y) for y in state.values()} == {dtype}
    assert pickle.loads(pickle.dumps(reference)).keys() == state.keys()


def test_weights_under_the_constraint_are_proven_at_every_step() -> None:
    torch = pytest.importorskip("torch")
    from specnorm_torch import spectral_norm

    torch.manual_seed(1)
    layer = spectral_norm(torch.nn.Conv2d(4, 4, 3), method=Completion())
    raw = layer.parametrizations.weight.original
    worst = 1.0
    for step in range(60):
        with torch.no_grad():
            raw += (0.002 if step < 40 else 0.3) * torch.randn_like(raw)
        norm = specnorm.enclose(layer.weight.detach(), rtol=1e-5)
        # The weight is divided by the bound and rounded to its own precision once more.
        assert float(norm.lower) <= 1 + 1e-6
        worst = min(worst, float(norm.lower)) if step < 40 else worst
    assert worst > 0.8


def test_mending_brings_an_unchanged_kernel_closer() -> None:
    """To what the lags are near already: another multiple of the identity would take more than a short step."""
    kernel = normal(16, 16, 3, 3, dtype="float32")
    method = Completion(every=1)
    state = specnorm.init_tracking(kernel, method)
    first = float(specnorm.track(kernel, method, state, sweeps=0)[0])
    for _ in range(4):
        value, state = specnorm.track(kernel, method, state)
        assert float(value) <= first * (1 + 1e-3)


def test_a_search_that_is_cut_short_begins_near_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for large layers: a bound from the first step on, mended by the next ones; from random numbers it is twice."""
    kernel = normal(32, 32, 3, 3, dtype="float32")
    method = Completion(every=1)
    monkeypatch.setattr(search, "products_in_time", lambda _: 10)
    with pytest.warns(UserWarning, match=r"32 channels .* SymbolNorm\(\).*rescale_"):
        state = specnorm.init_tracking(kernel, method)
    norm = specnorm.enclose(kernel)
    first = float(specnorm.track(kernel, method, state, sweeps=0)[0])
    assert float(norm.lower) <= first <= 1.2 * float(norm.upper)
    assert float(specnorm.measure(kernel, Completion(n_iter=10)).value) > 1.4 * float(norm.upper)
    for _ in range(5):
        value, state = specnorm.track(kernel, method, state)
        assert float(norm.lower) <= float(value)
    assert float(value) <= 1.05 * float(norm.upper)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 4), (3, 3, 1, 3), (2, 2, 3, 1, 2), (1, 1, 3, 3)], ids=str)
def test_a_search_that_is_cut_short_bounds_every_shape(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = normal(*shape)
    method = Completion()
    monkeypatch.setattr(search, "products_in_time", lambda _: 3)
    with pytest.warns(UserWarning, match="is slow for"):
        state = specnorm.init_tracking(kernel, method)
    assert lowest(kernel) <= float(specnorm.track(kernel, method, state, sweeps=0)[0]) < np.inf


def test_a_search_of_given_length_is_not_said_to_be_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is cut short if the caller says how many products are made: the warning would be untrue."""
    monkeypatch.setattr(search, "products_in_time", lambda _: 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        specnorm.init_tracking(normal(5, 3, 3), Completion(n_iter=60))


def test_products_in_time() -> None:
    """All up to 128 channels of 3x3; some 30 at 256, about 5 s; and some at any width."""
    assert search.products_in_time((64, 64, 3, 3)) == search.PRODUCTS
    assert search.products_in_time((128, 128, 3, 3)) > 150
    assert 20 <= search.products_in_time((256, 256, 3, 3)) <= 40
    assert search.products_in_time((2048, 2048, 3, 3)) == 10
    assert search.products_in_time((2048, 64, 3, 3)) == search.PRODUCTS
