"""Directions of `lmo`: norm within the bound by an oracle that shares no code, close to it, on every library."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.cases import FAMILIES, Layer, layers
from helpers.libraries import OPS, Lib, opened
from helpers.oracle import dense_norm, sigma_star, values_on_grid
from helpers.promises import for_all

import specnorm
from specnorm.ball.proofs import directions as proof
from specnorm.ball.steps import lmo_many, shrinkage_of_step, updates_in_ball
from specnorm.errors import GeometryError, KernelError, MethodError
from specnorm.geometry.spec import ConvSpec

ATTACKS: dict[str, Callable[[Any, tuple[int, ...]], Any]] = {
    **FAMILIES,
    "smooth over the taps": lambda random, shape: (
        random.standard_normal(shape[:2] + (1,) * (len(shape) - 2)) + 0.01 * random.standard_normal(shape)
    ),
    "equal taps": lambda random, shape: np.broadcast_to(
        random.standard_normal(shape[:2] + (1,) * (len(shape) - 2)), shape
    ),
    "one tap": lambda random, shape: (
        random.standard_normal(shape) * (np.arange(math.prod(shape[2:])) == 0).reshape(shape[2:])
    ),
    "subnormal": lambda random, shape: random.standard_normal(shape) * 1e-40,
    "huge": lambda random, shape: random.standard_normal(shape) * 1e37,
    "tiny": lambda random, shape: random.standard_normal(shape) * 1e-30,
    "spread widely": lambda random, shape: random.standard_normal(shape) * 10.0 ** random.uniform(-37, 0, size=shape),
    "dead channels": lambda random, shape: (
        random.standard_normal(shape) * (np.arange(shape[0]) % 2).reshape((-1,) + (1,) * (len(shape) - 1))
    ),
    "signs": lambda random, shape: np.sign(random.standard_normal(shape)),
}
SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((6, 4, 3, 3), 1), ((3, 8, 3, 3), 1), ((5, 1, 5, 3), 5), ((4, 3), 1), ((4, 2, 7), 2), ((2, 3, 2, 2, 2), 1),
)  # fmt: skip
"""Shapes of kernels, and their groups."""


def norm_on_a_grid(kernel: Any, groups: int) -> float:
    points = [4 * k for k in kernel.shape[2:]]
    blocks = np.split(kernel.astype(np.float64), groups)
    return max(float(values_on_grid(block, points).max()) for block in blocks) * (1 - 1e-13)


def attack(lib: Lib, rounds: int, bound: float = 1.0) -> int:
    count = 0
    for shape, groups in SHAPES[: 3 if lib.compiles and rounds == 1 else None]:
        random = np.random.RandomState(len(shape) + shape[0])
        gradients = np.stack([make(random, shape) for _ in range(rounds) for make in ATTACKS.values()]).astype("f4")
        geometries = [{"groups": groups}] * len(gradients)
        found = lmo_many([lib.asarray(x) for x in gradients], bound=bound, geometries=geometries)
        directions = np.stack([lib.to_numpy(x) for x in found])
        assert np.isfinite(directions).all()
        for gradient, direction in zip(gradients, directions, strict=True):
            assert norm_on_a_grid(direction, groups) <= bound
            assert (direction * np.sign(gradient)).sum() >= 0
        assert not directions[(gradients == 0).all(axis=tuple(range(1, gradients.ndim)))].any()
        count += len(gradients)
    return count


@pytest.mark.libraries
def test_no_gradient_leads_out_of_the_ball(xp: Lib) -> None:
    attack(xp, 1)


@pytest.mark.libraries
@pytest.mark.nightly
def test_ten_thousand_gradients(xp: Lib) -> None:
    assert attack(xp, 30) >= 2500
    for bound in (1e-3, 1e4):
        attack(xp, 1, bound=bound)


def test_every_geometry() -> None:
    def check(layer: Layer) -> None:
        direction = specnorm.lmo(layer.kernel, bound=0.7, **layer.geometry)
        assert direction.dtype == layer.kernel.dtype
        assert dense_norm(direction, layer.input_shape, **layer.geometry).lo <= 0.7

    with opened("numpy") as lib:
        for_all(lib, layers(), check, share=2.0)


def reshaped(gradient: Any) -> Any:
    return gradient.astype(np.float64).reshape(len(gradient), -1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [(16, 8), (8, 16), (48, 48)], ids=str)
@pytest.mark.parametrize("smooth", [10.0, 0.0])
def test_directions_are_nearly_the_best(channels: tuple[int, int], dtype: str, smooth: float) -> None:
    """At least as good as the best reshaped kernel, the polar factor over the root of the taps, by what the window
    gains; and no better than a direction could be that reaches the bound at every frequency."""
    random = np.random.RandomState(0)
    gradient = smooth * random.standard_normal((*channels, 1, 1)) + random.standard_normal((*channels, 3, 3))
    gradient = gradient.astype(dtype)
    direction = specnorm.lmo(gradient)
    value = float(np.vdot(direction, gradient))
    gain = 1.25 if channels == (48, 48) and not smooth else 1.0
    assert value >= 0.95 * gain * np.linalg.svd(reshaped(gradient), compute_uv=False).sum() / 3
    symbols = np.moveaxis(np.fft.fft2(gradient, (16, 16)), (0, 1), (2, 3))
    assert value <= np.linalg.svd(symbols, compute_uv=False).sum() / 16**2
    assert specnorm.enclose(direction).lower >= (0.95 if smooth or gain > 1 else 0.6)


def test_the_scale_of_a_gradient_does_not_matter() -> None:
    gradient = np.random.RandomState(0).standard_normal((5, 4, 3, 3)).astype("f4")
    direction = specnorm.lmo(gradient)
    for exponent in (-100, -30, 30, 100):
        np.testing.assert_array_equal(specnorm.lmo(np.ldexp(gradient, exponent)), direction)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named(bad: float) -> None:
    gradient = np.ones((3, 2, 3))
    gradient[0, 1, 2] = bad
    with pytest.raises(KernelError, match=r"gradient of shape \(3, 2, 3\) holds 1 non-finite value"):
        specnorm.lmo(gradient)
    stack = lmo_many([gradient, np.ones((3, 2, 3))], bound=1.0, geometries=[{}, {}])
    assert np.isnan(stack[0]).any()
    assert np.isfinite(stack[1]).all()


def test_half_precision_is_counted(torch: Any) -> None:
    """In float16 and bfloat16 the rounding of the answer alone may lift a norm by several percent."""
    for dtype in (torch.float16, torch.bfloat16):
        for seed in range(20):
            random = np.random.RandomState(seed)
            gradient = torch.tensor(random.standard_normal((16, 16, 3, 3)) + 3 * random.standard_normal((16, 16, 1, 1)))
            direction = specnorm.lmo(gradient.to(dtype))
            assert direction.dtype == dtype
            assert 0.9 <= norm_on_a_grid(direction.double().numpy(), 1) <= 1


def test_a_derivative_is_refused(torch: Any) -> None:
    kernel = torch.ones(2, 2, 3, requires_grad=True)
    with pytest.raises(MethodError, match="a derivative through lmo"):
        specnorm.lmo(kernel).sum().backward()


GRADIENTS = np.random.RandomState(0).standard_normal((2, 6, 2, 3)).astype("f4")


def in_groups(x: Any) -> Any:
    return specnorm.lmo(x, groups=3)


def assert_as_good(found: Any, eager: Any) -> None:
    """Directions of equal value within the bound. Their entries may differ: small singular values of a gradient are
    lost in its rounding, and a polar factor lifts them to 1."""
    value, expected = (np.sum(GRADIENTS * x, axis=tuple(range(1, found.ndim))) for x in (found, eager))
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    assert max(norm_on_a_grid(x, 3) for x in found) <= 1


@pytest.mark.usefixtures("jax32")
def test_traced_by_jax(jax: Any) -> None:
    eager = np.stack([in_groups(x) for x in GRADIENTS])
    for transformed in (jax.jit(jax.vmap(in_groups)), jax.vmap(in_groups)):
        found = np.asarray(transformed(jax.numpy.asarray(GRADIENTS)))
        assert_as_good(found, eager)
    bad = jax.jit(specnorm.lmo)(jax.numpy.asarray(GRADIENTS[0]).at[0, 0, 0].set(np.nan))
    assert np.isnan(np.asarray(bad)).all()


@pytest.mark.usefixtures("fresh_torch")
@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.nightly)])
def test_traced_by_torch(torch: Any, compiler: str) -> None:
    eager = np.stack([in_groups(x) for x in GRADIENTS])
    compiled = torch.compile(in_groups, fullgraph=True, backend=compiler)
    given = torch.tensor(GRADIENTS)
    for found in (torch.stack([compiled(x) for x in given]), torch.func.vmap(in_groups)(given)):
        assert_as_good(found.numpy(), eager)


# -- a step ------------------------------------------------------------------------------------------------------------
def norm_at_some_sizes(kernel: Any, geometry: dict[str, Any]) -> float:
    """Upper bound of the norm at every size without padding, and at a few sizes with it."""
    words = ("stride", "groups", "transposed")
    unpadded = sigma_star(kernel, **{word: geometry[word] for word in words if word in geometry}).hi
    sizes = (1, 2, 5) if "padding" in geometry else ()
    return max(unpadded, *(dense_norm(kernel, n, **geometry).hi for n in sizes), 0.0)


@pytest.mark.parametrize("rate", [1.0, 0.1, 1e-3, 1e-7])
@pytest.mark.parametrize(
    ("shape", "geometry"),
    [
        ((8, 8, 3), {}),
        ((3, 1, 5), {"groups": 3}),
        ((3, 6, 2, 2), {"stride": 2, "transposed": True}),
        # A pixel at a border is repeated 40 times, so that rounding errors of equal sign add up; the kernel's entries
        # cancel each other there.
        ((1, 1, 2), {"padding": 40, "padding_mode": "replicate"}),
    ],
    ids=str,
)  # fmt: skip
def test_a_step_shrinks_a_kernel_by_more_than_its_rounding(
    shape: tuple[int, ...], geometry: dict[str, Any], rate: float
) -> None:
    random = np.random.RandomState(0)
    for _ in range(10):
        signs = np.sign(random.standard_normal((*shape[:-1], 1))) * (-1.0) ** np.arange(shape[-1])
        kernel = (signs * random.uniform(0.5, 0.55, size=shape)).astype("f4")
        gradient = random.standard_normal(shape).astype("f4")
        bound = norm_at_some_sizes(kernel, geometry)
        (update,) = updates_in_ball([kernel], [gradient], rate, bound=bound, geometries=[geometry])
        direction = specnorm.lmo(gradient, bound=bound, **geometry).astype(np.float64)
        part = float(np.float32(rate))
        shrinkage = float(np.float32(shrinkage_of_step(np.float32(part), ConvSpec.of(shape, **geometry), 2.0**-24)))
        part = min(part, float(np.float32(1) - np.float32(shrinkage)))
        error = (kernel + update).astype(np.float64) - ((1 - part - shrinkage) * kernel - part * direction)
        assert 0 < norm_at_some_sizes(error, geometry) < shrinkage * bound


def test_a_size_below_the_kernels_is_refused() -> None:
    """At size 1, the two taps of a circular layer cancel, and rounding is all that is left."""
    kernel, geometry = np.array([[[1.0, -1.0]]]), {"input_shape": 1}
    with pytest.raises(GeometryError, match=r"input_shape=\(1,\) is too small.*Leave input_shape out"):
        updates_in_ball([kernel], [kernel], 0.1, bound=1.0, geometries=[geometry])


# -- the proof ---------------------------------------------------------------------------------------------------------
def test_a_power_that_overflows_bounds_nothing() -> None:
    matrices: Any = np.stack([2 * np.eye(3), np.eye(3)]).astype("f4")
    with np.errstate(all="ignore"):
        (bound,) = proof.matrix_norms_up([matrices], xp=OPS.xp)
    assert bound[0] == math.inf
    assert 1 <= bound[1] <= 1.001


def test_padding_is_counted() -> None:
    direction = specnorm.lmo(np.ones((1, 1, 3)), padding_mode="reflect", padding=1)
    assert dense_norm(direction, 4, padding_mode="reflect", padding=1).lo <= 1


def test_windows_are_positive() -> None:
    """Of gradients whose best direction is joined by the window, one frequency of which has a short factor."""
    random = np.random.RandomState(0)
    gradients = [random.standard_normal((4, 4, 3, 3)) for _ in range(3)]
    gradients.append(gradients[0] - gradients[0].sum(axis=(2, 3), keepdims=True) * np.eye(3)[1][:, None] * np.eye(3)[1])
    for gradient in gradients:
        assert sigma_star(specnorm.lmo(gradient)).lo <= 1
