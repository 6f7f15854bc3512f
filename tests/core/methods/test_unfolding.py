"""Unfolding bounds: every split of the axes, each an upper bound; the plain reshape alone is a lower one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from helpers.cases import Layer, Recipe
from helpers.checks import assert_valid
from helpers.libraries import Lib
from helpers.oracle import scale_to_one, sigma_star
from helpers.promises import for_all, layers_for, rounded
from numpy.typing import NDArray

import specnorm
from specnorm.methods import FantasticFour, Unfoldings
from specnorm.symbols.lanczos import Lanczos
from specnorm.unfoldings import search as constant


def plain_unfoldings(kernel: NDArray[Any]) -> tuple[list[float], list[float]]:
    """sqrt(taps) times every unfolding's norm by SVD: those that separate the channels, and the others."""
    scaled, exponent = scale_to_one(kernel)
    root = math.sqrt(math.prod(scaled.shape[2:]))
    separating: list[float] = []
    others: list[float] = []
    for count in range(1, scaled.ndim):
        for rows in itertools.combinations(range(scaled.ndim), count):
            if 0 not in rows:
                continue  # the same split, transposed
            moved = np.moveaxis(scaled, rows, range(count))
            matrix = moved.reshape(math.prod(moved.shape[:count]), -1)
            value = math.ldexp(root * float(np.linalg.norm(matrix, 2)), exponent)
            (others if 1 in rows else separating).append(value)
    return sorted(separating), sorted(others)


@pytest.mark.widths
def test_every_split_of_the_axes_has_its_norm(xp: Lib) -> None:
    """2**d values that separate the channels, then the other 2**d - 1; each the split's norm, from above."""

    def check(layer: Layer) -> None:
        kernel = layer.kernel
        result = specnorm.measure(xp.asarray(kernel), Unfoldings())
        assert result.kind == "upper"
        values = xp.to_numpy(result.value)
        half = 2 ** (kernel.ndim - 2)
        assert values.shape == (2 * half - 1,)
        truth = sigma_star(kernel, max_cells=3000)
        for value in values:
            assert_valid(value, "upper", truth)
        separating, others = plain_unfoldings(kernel)
        ours = [*np.sort(values[:half]), *np.sort(values[half:])]
        rounding = rounded(truth, layer.recipe, xp)
        slack = (rounding.hi - rounding.lo) * math.sqrt(math.prod(kernel.shape[2:]))
        for value, plain in zip(ours, [*separating, *others], strict=True):
            assert plain * (1 - 1e-13) <= value <= plain * (1 + 8 * layer.recipe.eps) + slack

    for_all(xp, layers_for(xp), check)


def clustered(size: int, spread: float) -> NDArray[Any]:
    """A 1x1 kernel whose singular values are 1 and just below."""
    random = np.random.RandomState(5)
    u, v = (np.linalg.qr(random.standard_normal((size, size)))[0] for _ in range(2))
    return np.asarray(((u * (1 - spread * np.arange(size))) @ v)[:, :, None, None])


LARGE: dict[str, NDArray[Any]] = {
    "iterated": Recipe((80, 72, 3, 3), seed=1).kernel, "wide": Recipe((24, 160, 3, 3), seed=2).kernel,
    "float32 search": Recipe((130, 128, 3, 3), seed=3).kernel, "one dimension": Recipe((90, 80, 5), seed=4).kernel,
    "every value equal": clustered(90, 0.0), "clustered": clustered(90, 1e-9),
    "loosely clustered": clustered(200, 1e-5),
    "rank one": np.outer(np.arange(1.0, 101.0), np.arange(1.0, 91.0))[:, :, None, None],
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_large_kernels_are_proven_just_above_their_smallest_norm(name: str) -> None:
    """By Lanczos and one proof; and the gradient is u v^T of that unfolding, where its largest value is simple."""
    kernel = LARGE[name]
    smallest = min(itertools.chain(*plain_unfoldings(kernel)))
    value, gradient = specnorm.value_and_grad(kernel, FantasticFour())
    assert smallest * (1 - 1e-13) <= value <= smallest * (1 + (2e-6 if kernel.size >= constant.FLOAT32_FROM else 1e-9))
    assert abs(float(np.sum(kernel * gradient)) / smallest - 1) < 1e-6


@pytest.mark.parametrize("noise", [0.0, 0.01, 100.0])
def test_what_lanczos_found_is_not_trusted(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second vector: the proof fails, and eigenvalues take its place. A poor one: the value is what was proven."""
    kernel = LARGE["iterated"]
    smallest = min(itertools.chain(*plain_unfoldings(kernel)))

    def wrong(self: Lanczos) -> NDArray[Any]:
        tall: Any = self.tall[0, ...]
        _, vectors = np.linalg.eigh(tall.T @ tall)
        if not noise:
            return np.asarray(vectors[None, :, -2])
        drawn = np.random.RandomState(3).standard_normal((1, self.size))
        return np.asarray(vectors[None, :, -1] + noise * drawn / np.linalg.norm(drawn))

    monkeypatch.setattr(Lanczos, "short_side_vectors", wrong)
    value = float(specnorm.f4_bound(kernel))
    assert smallest <= value <= smallest * (1 + noise if 0 < noise < 1 else 1.5 if noise else 1 + 1e-9)
