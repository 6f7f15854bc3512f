"""Symmetric borders: the norm of a layer beside the bound by the parts of its kernel (`running.proofs.padding`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.oracle import dense_norm

import specnorm


@pytest.mark.parametrize("seed", range(8))
def test_no_layer_is_above_its_bound(seed: int) -> None:
    """Kernels of one parity an axis, nearly so, or of none; paddings up to one pixel more than the kernel's reach."""
    rng = np.random.default_rng(seed)
    for _ in range(12):
        ndim = int(rng.integers(1, 3))
        shape, dilation = rng.integers(1, 5, ndim), tuple(rng.integers(1, 4, ndim).tolist())
        kernel = rng.standard_normal((*rng.integers(1, 3, 2), *shape))
        if seed % 4:
            for axis in range(2, 2 + ndim):
                kernel = kernel + rng.choice([1.0, 1.0, -1.0]) * np.flip(kernel, axis)
        kernel = kernel + (0.05 * rng.standard_normal(kernel.shape) if seed % 4 == 2 else 0.0)
        reach = np.array(dilation) * (shape - 1)
        before = reach // 2 if rng.random() < 0.6 else rng.integers(0, reach + 1)
        after = reach - before + rng.integers(-1, 2, ndim)
        padding = [(int(p), max(int(q), 0)) for p, q in zip(before, after, strict=True)]
        stride = (1,) * ndim if rng.random() < 0.8 else (2,) * ndim
        mode = "reflect" if seed % 4 == 3 and rng.random() < 0.5 else "symmetric"
        least = [max(r + 1 - sum(p), *p) + (mode == "reflect") for r, p in zip(reach, padding, strict=True)]
        sizes = tuple(max(int(rng.integers(1, 6)), int(n)) for n in least)
        geometry: Any = {"padding": padding, "padding_mode": mode, "dilation": dilation, "stride": stride}
        truth = dense_norm(kernel, sizes, **geometry)
        at_size, everywhere = (specnorm.enclose(kernel, n, **geometry) for n in (sizes, None))
        assert float(at_size.lower) <= truth.hi, (kernel.shape, sizes, geometry)
        assert truth.lo <= min(float(at_size.upper), float(everywhere.upper)), (kernel.shape, sizes, geometry)


def blur(taps: int) -> Any:
    window = np.hanning(taps + 2)[1:-1]
    return np.outer(window, window) / window.sum() ** 2


@pytest.mark.parametrize(
    ("kernel", "norm"),
    [
        (blur(7), 1.0),
        (np.outer([1.0, 2, 1], [1.0, 0, -1]) / 8, 1.0),
        (np.array([[0, 1.0, 0], [1, -4, 1], [0, 1, 0]]), 8.0),
    ],
    ids=["blur", "sobel", "laplacian"],
)
def test_filters_of_one_parity_have_the_norm_of_their_symbol(kernel: np.ndarray, norm: float) -> None:
    layer = kernel[None, None]
    for size in (512, None):
        upper = float(specnorm.enclose(layer, size, padding_mode="symmetric").upper)
        assert 0.999 * norm <= upper <= 1.002 * norm
        assert specnorm.certify(layer, 1.002 * norm, input_shape=size, padding_mode="symmetric")
    gradient = specnorm.value_and_grad(layer, specnorm.methods.Enclose(), padding_mode="symmetric")[1]
    assert float(np.sum(gradient * layer)) == pytest.approx(norm, rel=2e-3)


@pytest.mark.parametrize(
    ("taps", "n", "mode", "norm"),
    [((1.0, 0, 0), 4, "symmetric", np.sqrt(2)), ((0.25, 0.5, 0.25), 3, "reflect", 1.0606)],
)
def test_borders_that_lift_the_norm_keep_their_factor(taps: Any, n: int, mode: Any, norm: float) -> None:
    """A kernel of both parities under symmetric padding, and an even one under reflect padding."""
    kernel = np.array(taps)[None, None]
    truth = dense_norm(kernel, n, padding_mode=mode, padding=1)
    assert truth.lo == pytest.approx(norm, rel=1e-4)
    assert float(specnorm.enclose(kernel, padding_mode=mode).upper) >= truth.lo
