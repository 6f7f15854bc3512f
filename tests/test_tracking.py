"""How closely a state follows TN while a kernel moves as in training: NumPy, which runs the same code as the others."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import oracle
import pytest
from specnorm_numpy import NumpyBackend

import specnorm

TN = specnorm.TensorNorm(certified=False)
FIRST_STEPS = Path(__file__).parent / "data" / "first_steps" / "kernels.npz"


@pytest.fixture(params=[True, False], ids=["effort where it is needed", "the same at every step"])
def _sees(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on the CPU, and as on a GPU that Python drives: there no step waits for a number."""
    monkeypatch.setattr(NumpyBackend, "asynchronous", lambda *_: not request.param)


def normal(*shape: int, seed: int) -> Any:
    return np.random.RandomState(seed).standard_normal(shape).astype("float32")


@pytest.mark.usefixtures("_sees")
def test_a_new_direction_is_seen_at_once() -> None:
    """As in the first steps of training at a high rate: one direction grows in a kernel of noise, and overtakes it.

    A state without sample frequencies notices some steps later, and is 18 to 26 % below by then in each of the six.
    """
    for seed in range(6):
        (noise, before), *grown = growing(seed)
        state = specnorm.init_tracking(noise, TN)
        for kernel, anew in grown:
            value, state = specnorm.track(kernel, TN, state)
            assert float(value) > 0.995 * anew
        assert float(value) > 1.5 * before


@functools.cache
def growing(seed: int) -> list[tuple[Any, float]]:
    """Noise and then kernels in which a direction grows, with TN of each computed anew."""
    noise = normal(64, 64, 3, 3, seed=seed)
    u, v, where = (normal(*n, seed=10 * (j + 1) + seed) for j, n in enumerate(((64,), (64,), (3, 3))))
    direction = np.einsum("o,i,kl->oikl", u, v, 1 + 0.25 * where)
    direction /= np.linalg.norm(direction)
    before = float(specnorm.tn_bound(noise, certified=False))
    sizes = np.linspace(0, 0.7, 15, dtype="float32")
    kernels = [noise, *(noise + size * np.float32(before) * direction for size in sizes)]
    return [(kernel, float(specnorm.tn_bound(kernel, certified=False))) for kernel in kernels]


@pytest.mark.parametrize("layer", ["3.body.3", "8.body.0", "11.body.3"])
@pytest.mark.usefixtures("_sees")
def test_the_first_steps_of_a_real_run_are_followed_within_one_percent(layer: str) -> None:
    """16, 32 and 64 channels of a ResNet-20, SGD at rate 0.1: noise in which a maximum overtakes the others."""
    first, *moved = np.load(FIRST_STEPS)[layer].astype("float32")
    state = specnorm.init_tracking(first, TN)
    for kernel, best in zip(moved, best_of_first_steps(layer), strict=True):
        value, state = specnorm.track(kernel, TN, state)
        assert 0.99 * best < float(value) < 1.01 * best


@functools.cache
def best_of_first_steps(layer: str) -> list[float]:
    """TN after each step, by the oracle."""
    kernels = np.load(FIRST_STEPS)[layer][1:].astype("float64")
    return [float(oracle.tensor_norm_best(kernel, starts=20, sweeps=80).max()) for kernel in kernels]


def test_a_kernel_that_stands_still_costs_little() -> None:
    """And one that moves more: else the tests above would say nothing of the price. Calls are counted, not seconds."""
    kernel = np.load(FIRST_STEPS)["3.body.3"][0].astype("float32")
    state = specnorm.init_tracking(kernel, TN)
    for _ in range(3):
        _, state = specnorm.track(kernel, TN, state)
    still = calls(lambda: specnorm.track(kernel, TN, state))
    moved = calls(lambda: specnorm.track(normal(16, 16, 3, 3, seed=1), TN, state))
    assert moved > 2.5 * still


def calls(function: Callable[[], Any]) -> int:
    """How many calls of functions a call makes."""
    count = 0

    def counted(_: FrameType, event: str, __: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count


def test_a_matrix_whose_lower_singular_values_overtake() -> None:
    """No free iterate stands there, and subspaces that had converged would have forgotten them."""
    u, v = (np.linalg.qr(normal(n, 5, seed=n).astype("float64"))[0] for n in (40, 12))
    state = None
    for t in np.linspace(0, 1, 40):
        sizes = np.asarray([1.0, 0.9, 0.8, 0.5 + t, 0.1 + 2 * t])
        matrix = (u * sizes) @ v.T
        state = specnorm.init_tracking(matrix, TN) if state is None else state
        value, state = specnorm.track(matrix, TN, state)
        assert float(value) == pytest.approx(sizes.max(), rel=1e-2)


def test_a_kernel_of_rank_one_is_followed() -> None:
    """What the vectors of a block keep of one another is rounding then."""
    u, v, k = normal(8, seed=0), normal(6, seed=1), normal(3, 3, seed=2)
    state = None
    for t in np.linspace(0, 1, 20, dtype="float32"):
        kernel = np.einsum("o,i,kl->oikl", u + t * u[::-1], v, k + t * k[::-1])
        state = specnorm.init_tracking(kernel, TN) if state is None else state
        value, state = specnorm.track(kernel, TN, state)
        assert all(np.isfinite(x).all() for x in state.values())
        best = oracle.tensor_norm_best(kernel.astype("float64"), starts=6, sweeps=60).max()
        assert float(value) == pytest.approx(best, rel=1e-3)
