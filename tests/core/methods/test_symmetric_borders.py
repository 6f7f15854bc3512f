"""Symmetric borders: the norm of a layer beside the bound by the parts of its kernel (`running.proofs.padding`)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.oracle import dense_norm

import specnorm


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
