"""The exact circular norm and the whole spectrum, against dense matrices and plain FFTs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.cases import Recipe
from helpers.oracle import dense_matrix

import specnorm
from specnorm.methods import ExactFFT


def test_the_gradient_of_an_exact_norm_is_that_at_the_maximum() -> None:
    """To far more digits than the tolerance asks of the value: it is off by what the frequency is."""
    kernel = np.random.RandomState(0).standard_normal((12, 10, 3, 3))
    _, loose = specnorm.value_and_grad(kernel, ExactFFT(rtol=1e-6))
    _, close = specnorm.value_and_grad(kernel, ExactFFT(rtol=1e-11))
    assert np.linalg.norm(loose - close) <= 1e-5 * np.linalg.norm(close)


def test_the_norms_gradient_is_that_of_the_dense_matrix(torch: Any) -> None:
    kernel = Recipe((3, 2, 3, 3), seed=4).kernel
    layers: list[tuple[Any, dict[str, Any]]] = [("zeros", {"dilation": 2}), ("zeros", {"stride": 2}), ("reflect", {})]
    for mode, options in layers:
        given = torch.tensor(kernel, requires_grad=True)
        specnorm.conv_norm(given, 7, padding_mode=mode, **options).backward()
        step, direction = 1e-6, Recipe(kernel.shape, seed=5).kernel
        ahead, back = (
            np.linalg.norm(dense_matrix(kernel + s * direction, 7, padding_mode=mode, **options), 2)
            for s in (step, -step)
        )
        assert abs(float((given.grad.numpy() * direction).sum()) - (ahead - back) / (2 * step)) < 1e-5 * abs(ahead)


@pytest.mark.parametrize("size", [(24, 36), (60, 90)])
@pytest.mark.parametrize("sign", ["nonnegative", "signed"])
def test_a_filter_as_large_as_its_image(size: tuple[int, int], sign: str) -> None:
    """Lensless imaging: one evaluation on the whole grid, or the sum of the taps; a search ended at 1.01036 for 1."""
    psf = np.random.default_rng(0).standard_normal(size)
    psf = np.abs(psf) if sign == "nonnegative" else psf
    true = np.abs(np.fft.fft2(psf)).max()
    found = specnorm.enclose(psf[None, None], size, rtol=1e-6)
    assert found.status.startswith("converged")
    assert float(found.lower) <= true * (1 + 1e-14)
    assert true * (1 - 1e-14) <= float(found.upper) <= true * (1 + 1e-6)
    assert float(specnorm.conv_norm(psf[None, None], size)) == pytest.approx(true, rel=1e-6)
    if sign == "nonnegative":
        assert float(specnorm.enclose(psf[None, None], rtol=1e-6).upper) == pytest.approx(psf.sum(), rel=1e-6)


@pytest.mark.parametrize("channels", [(1, 1), (2, 3)])
def test_taps_that_wrap_around_are_added_up(channels: tuple[int, int]) -> None:
    """Kernels longer than the input, against a loop; and taps that cancel exactly ([0, 2.28] was proven of 0)."""
    random = np.random.default_rng(0)
    for size in ((1, 2), (3, 4), (7, 2)):
        kernel = random.standard_normal((*channels, 7, 5))
        pixels = np.zeros((*channels, *size))
        for a, b in np.ndindex(7, 5):
            pixels[:, :, a % size[0], b % size[1]] += kernel[:, :, a, b]
        true = np.linalg.norm(np.fft.fft2(pixels).transpose(2, 3, 0, 1), 2, axis=(2, 3)).max()
        found = specnorm.enclose(kernel, size, rtol=1e-6)
        assert float(found.lower) <= true * (1 + 1e-14)
        assert true * (1 - 1e-14) <= float(found.upper) <= true * (1 + 1.1e-6)
    cancelling = np.zeros((*channels, 5))
    cancelling[..., 0], cancelling[..., 4] = 0.3, -0.3
    for n in (2, 4):
        found = specnorm.enclose(cancelling, n)
        assert (float(found.lower), float(found.upper)) == (0.0, 0.0)
