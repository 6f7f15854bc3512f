"""Circular padding with a stride: what is promised of every input size holds there, or says which sizes it means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import specnorm
from specnorm.problem.spec import ConvSpec, at_every_size

ONES = np.ones((1, 1, 3))


def circular_norm(kernel: NDArray[Any], n: int, stride: int) -> float:
    """Of a one-axis layer padded by one pixel on each side, from its matrix: every size there is."""
    cout, cin, taps = kernel.shape
    outputs = (n - 1) // stride + 1
    matrix = np.zeros((outputs, cout, n, cin))
    for m in range(outputs):
        for k in range(taps):
            matrix[m, :, (stride * m + k - 1) % n, :] += kernel[:, :, k]
    return float(np.linalg.norm(matrix.reshape(outputs * cout, n * cin), 2))


def test_the_condition_is_needed_and_stride_1_has_none() -> None:
    """Three ones with stride 2 on three pixels: sqrt(6), above every bound of even sizes."""
    assert circular_norm(ONES, 3, 2) == pytest.approx(6**0.5)
    found = specnorm.enclose(ONES, stride=2)
    assert float(found.upper) < 2.24
    assert "every input size that the stride divides" in found.status
    assert "divides" not in specnorm.enclose(ONES).status
    for n in range(2, 9):
        upper = float(specnorm.enclose(ONES, stride=1).upper)
        assert circular_norm(ONES, n, 2) <= (upper if n % 2 else float(found.upper))


CASES: list[tuple[dict[str, Any], bool]] = [
    ({"stride": 2}, True),
    ({}, False),
    ({"stride": 2, "padding_mode": "zeros"}, False),
    ({"stride": 2, "padding_mode": "reflect"}, False),
    ({"stride": 2, "padding": 0}, False),
    ({"stride": 2, "padding": 1}, True),
    ({"stride": 2, "transposed": True}, False),
]


@pytest.mark.parametrize(("geometry", "divided"), CASES)
def test_a_result_says_which_sizes(geometry: dict[str, Any], divided: bool) -> None:
    words = "every input size that the stride divides" if divided else "every input size"
    spec = ConvSpec.of((2, 2, 3), **geometry)
    assert spec.sizes == words
    assert not ConvSpec.of((2, 2, 3), **at_every_size(geometry)).divided
    if not divided:
        assert at_every_size(geometry) == geometry


def test_certify_in_place_means_every_size() -> None:
    """A circular layer with a stride is shrunk by what bounds sizes that the stride does not divide, too."""
    torch = pytest.importorskip("torch")
    specnorm_torch = pytest.importorskip("specnorm_torch")
    layer = torch.nn.Conv1d(1, 1, 3, stride=2, padding=1, padding_mode="circular", bias=False, dtype=torch.float64)
    layer.weight.data.fill_(1.0)
    specnorm_torch.rescale_(torch.nn.Sequential(layer), 1.0)
    kernel = layer.weight.detach().numpy()
    assert max(circular_norm(kernel, n, 2) for n in range(2, 12)) <= 1 + 1e-12
    assert circular_norm(kernel, 3, 2) > 0.8
