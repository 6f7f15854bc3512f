"""Sums of plane waves on a layer's pixels: inner products without a pass over them, and what they prove from below."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from helpers.libraries import OPS
from helpers.oracle import dense_matrix
from numpy.typing import NDArray

import specnorm
from specnorm.at_size import layer_tuning
from specnorm.at_size.proofs.waves import Waves, quotient_of_waves_down
from specnorm.geometry.spec import ConvSpec
from specnorm.geometry.taps import Axis
from specnorm.proofs import rounding

SHAPES: list[tuple[tuple[int, ...], tuple[int, ...], tuple[tuple[int, int], ...]]] = [
    ((2, 3, 3), (7,), ((1, 1),)), ((3, 1, 4), (5,), ((3, 0),)), ((2, 2, 3, 2), (4, 5), ((1, 2), (0, 1))),
    ((1, 2, 5, 1), (3, 4), ((4, 4), (0, 0))), ((2, 2, 2, 3, 2), (3, 4, 3), ((1, 0), (1, 1), (0, 1))),
]  # fmt: skip


def drawn(seed: int = 0) -> Iterator[tuple[Any, ConvSpec, NDArray[np.float64]]]:
    """Kernels, geometries, and the matrix from the large side to the small one."""
    for shape, sizes, pads in SHAPES:
        for transposed in (False, True):
            kernel = np.random.RandomState(seed).standard_normal(shape)
            spec = ConvSpec.of(shape, input_shape=sizes, padding_mode="zeros", padding=pads, transposed=transposed)
            given: dict[str, Any] = {"padding_mode": "zeros", "padding": pads, "transposed": transposed}
            try:
                matrix = dense_matrix(kernel, sizes, **given)
            except ValueError:
                continue
            yield kernel, spec, matrix.T if transposed else matrix


def factors_of(spec: ConvSpec, seed: int) -> list[NDArray[np.complex128]]:
    """One to three arbitrary factors an axis."""
    random = np.random.RandomState(seed)
    counts = [1 + (seed + j) % 3 for j in range(spec.ndim)]
    shapes = list(zip(counts, spec.sides[0], strict=True))
    return [random.standard_normal(shape) + 1j * random.standard_normal(shape) for shape in shapes]


def written_out(a: NDArray[np.complex128], factors: list[Any]) -> NDArray[np.complex128]:
    """The sum at every pixel, wave by wave."""
    total: Any = 0.0
    for wave, index in enumerate(itertools.product(*(range(len(x)) for x in factors))):
        vector: Any = a[wave]
        for j, i in enumerate(index):
            vector = np.multiply.outer(vector, factors[j][i])
        total = total + vector
    return np.asarray(total).reshape(-1)


def test_inner_products_are_those_of_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        monkeypatch.setattr(Axis, "PART", (2**14, 3, 1)[seed])  # long axes are summed part by part
        for kernel, spec, matrix in drawn(seed):
            factors = factors_of(spec, seed)
            waves = Waves(kernel[None], spec, factors, ops=OPS)
            random = np.random.RandomState(seed)
            shape = (2, waves.count, kernel.shape[1])
            a: Any = random.standard_normal(shape) + 1j * random.standard_normal(shape)
            x = np.stack([written_out(one, factors) for one in a])
            images = x @ matrix.T
            inner, image_inner = np.asarray(waves.inner(a)), np.asarray(waves.image_inner(a))
            np.testing.assert_allclose(inner, x.conj() @ x.T, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(image_inner, images.conj() @ images.T, rtol=1e-11, atol=1e-11)
            exact = float(np.linalg.norm(images[0]) / np.linalg.norm(x[0]))
            found = quotient_of_waves_down(waves, a[:1], ops=OPS)
            assert exact * (1 - 1e-9) <= found <= exact * (1 + 1e-14)


# -- rounding: rational numbers ---------------------------------------------------------------------------------------
def cancelling(seed: int) -> tuple[Waves, Any, Fraction]:
    """Channels that cancel but for 2**-40, on constant waves; and the square of the quotient, exactly."""
    random = np.random.RandomState(seed)
    n, k = 4 + seed % 3, 3
    taps = random.standard_normal(k)
    kernel: Any = np.stack([taps, taps])[None]
    spec = ConvSpec.of(kernel.shape, input_shape=(n,), padding_mode="zeros", padding=((1, 1),))
    a = random.standard_normal()
    channels = np.asarray([[[a, -a * (1 + 2.0**-40)]]], dtype=np.complex128)
    left, right = (Fraction(float(x)) for x in channels[0, 0].real)
    fractions = [Fraction(float(x)) for x in taps]
    outputs = [sum((t for j, t in enumerate(fractions) if 0 <= m + j - 1 < n), Fraction(0)) for m in range(n)]
    square = sum((x * x for x in outputs), Fraction(0)) * (left + right) ** 2 / (n * (left**2 + right**2))
    return Waves(kernel[None], spec, [np.ones((1, n), dtype=np.complex128)], ops=OPS), channels, square


def above_the_quotient() -> list[str]:
    found = []
    for seed in range(40):
        waves, channels, square = cancelling(seed)
        value = quotient_of_waves_down(waves, channels, ops=OPS)
        if Fraction(value) ** 2 > square:
            found.append(f"{seed}: {value}, {math.sqrt(square)}")
    return found


def test_no_quotient_is_rounded_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where channels cancel, and without the allowance some are."""
    assert above_the_quotient() == []
    monkeypatch.setattr(rounding, "gamma", lambda *_: 0.0)
    assert above_the_quotient()


# -- large layers -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(3000,), (70, 200), (300, 300, 300)])
def test_layers_that_are_too_large_for_a_vector(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Taps [a, b, a] an axis: the norm is known. A step over all pixels of the last one would take seconds."""
    monkeypatch.setattr(layer_tuning, "IMMEDIATE_WORK", -1)
    monkeypatch.setattr(layer_tuning, "WITNESS_ENTRIES", -1)
    random = np.random.RandomState(0)
    kernel = random.standard_normal((2, 3))
    norm = float(np.linalg.norm(kernel, 2))
    for n in sizes:
        a, b = random.uniform(0.2, 1.0, size=2).tolist()
        kernel = np.multiply.outer(kernel, np.array([a, b, a]))
        norm *= b + 2 * a * math.cos(math.pi / (n + 1))
    found = specnorm.enclose(kernel, sizes, padding_mode="zeros", padding="same")
    assert norm * (1 - 1e-3) <= float(found.lower) <= norm * (1 + 1e-12)
    assert norm * (1 - 1e-12) <= float(found.upper) <= norm * (1 + 1.1e-3)
