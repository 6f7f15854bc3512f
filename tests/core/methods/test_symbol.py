"""The norm from below: near the supremum, attained, followed while a kernel changes, and refused at a size."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from helpers.checks import peak
from helpers.libraries import Lib
from helpers.oracle import sigma_star
from numpy.typing import NDArray

import specnorm
from specnorm.backends import backend_for
from specnorm.backends.types import ArrayOps
from specnorm.methods import SymbolNorm
from specnorm.running.stepping import stepped_program
from specnorm.training import moving_points


def crossing_frequencies(weight: float) -> NDArray[Any]:
    """Two channels with one tap pair each: |1 + e^{i theta}| and |1 - e^{i theta}|, whose maxima are far apart."""
    kernel = np.zeros((2, 2, 2))
    kernel[0, 0] = [1.0, 1.0]
    kernel[1, 1] = [weight, -weight]
    return kernel


def crossing_vectors(weight: float) -> NDArray[Any]:
    """Two singular vectors of every frequency, whose values cross at weight 1."""
    random = np.random.RandomState(0)
    left, right = (np.linalg.qr(random.standard_normal((8, 8)))[0] for _ in range(2))
    values = np.full(8, 0.1)
    values[:2] = 1.0, weight
    kernel = np.zeros((8, 8, 3, 3))
    kernel[:, :, 1, 1] = left @ np.diag(values) @ right
    return kernel


def between_points(weight: float) -> NDArray[Any]:
    """A scalar kernel whose maximum lies at any frequency: here one third of a step of most grids, times a weight."""
    theta = 2 * np.pi / 36
    taps = np.arange(3)
    wave = np.cos(theta * (taps - 1))
    return np.asarray(weight * np.multiply.outer(wave, wave)[None, None])


_MOVED = moving_points._Cells._moved
CASES = {"frequencies": crossing_frequencies, "vectors": crossing_vectors, "between points": between_points}


@pytest.mark.parametrize(("case", "vectors"), [*((x, 2) for x in CASES), ("vectors", 3)])
def test_a_step_sees_what_overtakes(xp: Lib, case: str, vectors: int) -> None:
    """The kernel changes by a tenth a step; another maximum becomes the highest on the way."""
    method = SymbolNorm(vectors=vectors)
    make = CASES[case]
    state = specnorm.init_tracking(xp.asarray(make(0.7).astype(xp.dtypes[0])), method)
    for weight in np.arange(0.75, 1.4, 0.1):
        kernel = make(float(weight)).astype(xp.dtypes[0])
        value, state = specnorm.track(xp.asarray(kernel), method, state)
        truth = sigma_star(kernel)
        assert 0.99 * truth.lo <= xp.number(value) <= truth.hi * (1 + 1e-5)


def follower(kernel: np.ndarray, method: SymbolNorm | None = None, **geometry: Any) -> Any:
    """Return a function that follows kernels of one layer, as a constraint does."""
    backend = backend_for(kernel)
    program = stepped_program(method or SymbolNorm(), kernel.shape, str(kernel.dtype), tuple(geometry.items()))
    state = program.init(kernel[None], backend=backend) if program.state_shapes() else ()

    def follow(kernel: np.ndarray, sweeps: int | None = None) -> float:
        nonlocal state
        followed: Any = program.follow(kernel[None], state, sweeps=sweeps, backend=backend)
        state = followed.state
        return float(followed.value[0])

    return follow


def test_a_maximum_that_comes_after_another_one_left_is_seen() -> None:
    """One maximum passes many cells, each of which follows it to its edge; then another one rises where it was."""
    taps = np.arange(8)

    def moved(angle: float, weight: float) -> NDArray[Any]:
        kernel = np.zeros((2, 2, 8))
        kernel[0, 0], kernel[1, 1] = np.cos(angle * taps), weight * np.cos(0.9 * taps)
        return kernel

    follow = follower(moved(0.9, 0.3))
    ways = [(0.9 + 0.02 * j, 0.3) for j in range(60)] + [(2.1, 0.3 + 0.03 * j) for j in range(40)]
    for way in ways:
        value, truth = follow(moved(*way)), sigma_star(moved(*way))
        assert 0.99 * truth.lo <= value <= truth.hi * (1 + 1e-12)


def test_close_singular_values_converge() -> None:
    """Forty of them between 0.9 and 1, where as many power steps without momentum end at 0.9992."""
    random = np.random.RandomState(0)
    left, right = (np.linalg.qr(random.standard_normal((40, 40)))[0] for _ in range(2))
    taps = np.multiply.outer([0.3, 0.5, 0.2], [0.2, 0.5, 0.3])
    kernel = np.multiply.outer(left @ np.diag(np.linspace(0.9, 1, 40)) @ right, taps)
    assert 1 - 1e-4 <= float(specnorm.symbol_norm(kernel)) <= 1


def test_a_step_holds_few_copies_of_a_kernel() -> None:
    """Of a strided layer, whose blocks are a copy."""
    kernel = np.random.RandomState(0).standard_normal((1024, 64, 4, 4)).astype(np.float32)
    follow = follower(kernel, stride=2)
    follow(kernel)
    assert peak(lambda: follow(kernel, 0)) < 3 * kernel.nbytes


def test_a_kernel_that_jumped_takes_more_steps() -> None:
    """In chunks of points, too, which have the same result."""
    kernels = np.random.RandomState(1).standard_normal((2, 16, 12, 3, 3))
    found = []
    for memory in (ArrayOps.memory, 2**18):
        follow = follower(kernels[0])
        with (
            mock.patch.object(ArrayOps, "memory", memory),
            mock.patch.object(moving_points._Cells, "_moved", autospec=True, side_effect=_MOVED) as move,
        ):
            counts = []
            of_ways = (kernels[0] + way * kernels[1] for way in (0.005, 0.04))
            for kernel in (kernels[0], 3 * kernels[0], *of_ways, kernels[1]):
                before = move.call_count
                found.append(follow(kernel))
                counts.append(move.call_count - before)
        # The first sketch is far from every kernel.
        chunks = counts[2]
        assert (chunks > 1) == (memory == 2**18)
        assert counts == [12 * chunks, 0, chunks, counts[3], 12 * chunks]
        assert 2 * chunks <= counts[3] <= 6 * chunks
    assert found[:5] == pytest.approx(found[5:], rel=1e-12)


@pytest.mark.parametrize(
    ("shape", "geometry"),
    [((8, 3, 3, 3), {}), ((6, 4, 5, 5), {"stride": 2}), ((6, 2, 3, 3), {"groups": 3}),
     ((4, 3, 4, 4), {"transposed": True, "stride": 2}), ((5, 4, 7), {"dilation": 2, "stride": 3}), ((40, 36), {}),
     ((9, 5), {}), ((1, 30), {}), ((12, 1, 3, 3), {"groups": 12})],
    ids=str,
)  # fmt: skip
def test_a_pass_attains_its_value(shape: tuple[int, ...], geometry: dict[str, Any]) -> None:
    """Below the oracle's norm, also with vectors of another kernel. A kernel of any scale is followed alike."""
    random = np.random.RandomState(3)
    kernel = random.standard_normal(shape)
    follow = follower(kernel, **geometry)
    for step in range(4):
        # After a step of some length, one step alone; after the others, as many as are due.
        kernel = kernel + (0.5 if step == 2 else 1e-3) * random.standard_normal(shape)
        scale = 2.0 ** (10 * (step - 2))
        value = follow(scale * kernel, 0 if step == 2 else None)
        truth = sigma_star(kernel, **geometry)
        assert value / scale <= truth.hi * (1 + 1e-12)
        assert value / scale >= (0.5 if step == 2 else 0.99) * truth.lo


@pytest.mark.parametrize("taps", [(), (3, 3)])
@pytest.mark.parametrize("channels", [4, 16])
def test_parts_that_are_not_coupled_are_seen(channels: int, taps: tuple[int, ...]) -> None:
    """A sparse layer: products with the vectors of one part are zero in the others, which grow by 2 % a step."""
    parts = np.eye(channels)[(...,) + (None,) * len(taps)]
    base = parts * (1 + np.random.RandomState(0).standard_normal(taps) / 4)
    truth = sigma_star(base)
    sizes = np.linspace(0.3, 0.5, channels)
    sizes[:2] = 1.0, 0.9
    method = SymbolNorm()
    kernel = base * sizes.reshape(-1, *(1,) * (base.ndim - 1))
    state = specnorm.init_tracking(kernel, method)
    for step in range(140):
        kernel[2] *= 1.02 if step > 60 else 1.0
        value, state = specnorm.track(kernel, method, state)
        wanted = max(1.0, float(np.abs(kernel[2]).max() / np.abs(base[2]).max())) * truth.lo
        assert value > 0.85 * wanted
    assert value > 0.999 * wanted


@pytest.mark.parametrize("first", [6.5, 8.0, 20.0])
@pytest.mark.parametrize("channels", [32, 64, 100])
def test_a_part_that_outgrew_the_rest(channels: int, first: float) -> None:
    """An entry alone in its row and column: the filter leaves 1e-24 of other parts, whose squares are 0 in float32.

    Vectors were longer than 1 then, and values up to 1e5 times the norm.
    """
    kernel = np.diag(np.linspace(1, 0.3, channels).astype(np.float32))
    kernel[0, 0] = first
    assert float(specnorm.symbol_norm(kernel)) == pytest.approx(first, rel=1e-6)
    state = specnorm.init_tracking(kernel, SymbolNorm())
    for _ in range(20):
        value, state = specnorm.track(kernel, SymbolNorm(), state)
        assert float(value) == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 3)])
@pytest.mark.parametrize("entry", [0.0, 1e30, np.inf, np.nan])
def test_a_state_of_wrong_vectors_begins_anew(entry: float, shape: tuple[int, ...]) -> None:
    """The vectors of a matrix were only compared with zero: infinite ones made a weight NaN."""
    kernel = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    state = specnorm.init_tracking(kernel, SymbolNorm())
    wrong = {name: np.full_like(x, entry) for name, x in state.items()}
    with np.errstate(all="ignore"):
        value, _ = specnorm.track(kernel, SymbolNorm(), wrong, sweeps=16)
    assert value == pytest.approx(float(specnorm.symbol_norm(kernel)), rel=1e-2)


@pytest.mark.parametrize("shape", [(45, 37), (18, 40), (52, 67), (6, 8, 2, 2)])
def test_two_vectors_of_one_direction_are_not_counted_twice(shape: tuple[int, ...]) -> None:
    """The filter makes the vectors of a constant matrix parallel, and rounding errors leave them so."""
    kernel = np.full(shape, 0.3, dtype=np.float32)
    method = SymbolNorm()
    geometry: dict[str, Any] = {"stride": 2} if len(shape) == 4 else {}
    state = specnorm.init_tracking(kernel, method, **geometry)
    for _ in range(2):
        value, state = specnorm.track(kernel, method, state, **geometry)
        assert float(value) == pytest.approx(0.3 * np.sqrt(kernel.size), rel=1e-5)


def test_the_highest_group_of_a_depthwise_layer(xp: Lib) -> None:
    """The group of the norm is lower on a coarse grid than others: its maximum lies between the points."""
    taps = np.arange(7) - 3
    between = np.cos(np.pi / 7 * taps)
    on_points = np.ones(7)
    kernel = np.stack([0.99 * np.outer(on_points, on_points), np.outer(between, between) * 49 / 4.0**2] * 20)[:, None]
    kernel = kernel.astype(xp.dtypes[0])
    enclosure = specnorm.enclose(kernel, groups=40, rtol=1e-5)
    value = xp.number(specnorm.symbol_norm(xp.asarray(kernel), groups=40))
    assert float(enclosure.lower) * (1 - 1e-4) <= value <= float(enclosure.upper)
    state = specnorm.init_tracking(xp.asarray(kernel), SymbolNorm(), groups=40)
    followed, _ = specnorm.track(xp.asarray(kernel), SymbolNorm(), state, groups=40)
    assert float(enclosure.lower) * (1 - 1e-3) <= xp.number(followed) <= float(enclosure.upper) * (1 + 1e-5)


@pytest.mark.parametrize("groups", [1, 96])
def test_a_gradient_of_a_depthwise_layer_is_that_of_its_highest_group(groups: int) -> None:
    kernel = np.random.RandomState(4).standard_normal((groups, 1, 5, 3))
    value, gradient = specnorm.value_and_grad(kernel, SymbolNorm(), groups=groups)
    assert np.sum(gradient * kernel) == pytest.approx(float(value), rel=1e-5)
    assert np.count_nonzero(np.abs(gradient).max(axis=(1, 2, 3))) == 1
    direction = np.random.RandomState(5).standard_normal(kernel.shape)
    step = 1e-5
    ends = [float(specnorm.enclose(kernel + t * direction, groups=groups, rtol=1e-9).lower) for t in (step, -step)]
    assert np.sum(gradient * direction) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-3)


@pytest.mark.parametrize(("points", "vectors"), [(1, 2), (2, 2), (3, 1), (None, 1), (None, 3), (None, 4)])
def test_any_number_of_points_and_vectors_is_followed(points: int | None, vectors: int) -> None:
    """A value is attained with few of them, too, and near the norm on the usual grid."""
    kernel = np.random.RandomState(0).standard_normal((6, 5, 3, 3))
    follow = follower(kernel, SymbolNorm(points, vectors))
    for step in range(10):
        kernel += 0.01 * np.random.RandomState(step).standard_normal(kernel.shape)
        value, truth = follow(kernel), sigma_star(kernel)
        assert (0.99 if points is None else 0.5) * truth.lo <= value <= truth.hi * (1 + 1e-12)
