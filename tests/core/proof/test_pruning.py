"""Frequencies are left out of a largest bound by proof alone, and leaving them out changes no value."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from specnorm_numpy import BACKEND

import specnorm
from specnorm import Gram, Grid
from specnorm.certified.matrices.norms import GramIterates, gram_iteration_up
from specnorm.certified.symbol import symbols
from specnorm.certified.symbol.grid import LargestBound
from specnorm.certified.symbol.symbols import Symbol
from specnorm.problem.frequencies import half_grid
from specnorm.search import pruned
from specnorm.search.pruned import leave_out
from specnorm.types import ArrayOps

OPS = ArrayOps(BACKEND, BACKEND.namespace(None))


def decaying(seed: int, *shape: int) -> NDArray[np.float32]:
    """Spectra that fall as a trained layer's do."""
    kernel = np.random.RandomState(seed).standard_normal(shape)
    kernel += 2 * kernel.mean(axis=tuple(range(2, kernel.ndim)), keepdims=True)
    return np.asarray(kernel * (0.8 ** np.arange(shape[1])).reshape(1, -1, *[1] * (kernel.ndim - 2)), dtype=np.float32)


def norms(blocks: NDArray[np.float64], sizes: tuple[int, ...]) -> NDArray[np.float64]:
    """At the frequencies of the half grid, by an FFT and dense singular values."""
    symbols = np.moveaxis(np.fft.fftn(blocks[0], s=sizes, axes=range(2, blocks.ndim - 1)), (0, 1), (-2, -1))
    where = half_grid(sizes).numerators
    return np.asarray(np.linalg.norm(symbols[tuple(where.T)], ord=2, axis=(-2, -1)))


@pytest.mark.parametrize("at", range(4))
def test_a_bound_that_is_no_number_is_not_passed_over(at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it comes up, by itself or among others: the largest is no number either, and nothing is left out."""
    blocks: Any = decaying(0, 6, 5, 3, 2).astype(np.float64)[None] / 4
    frequencies = half_grid((4, 2))
    poor: Any = Symbol(blocks, frequencies[at : at + 1], ops=OPS).phase

    def bound(symbol: Symbol, *, ops: Any = OPS) -> Any:
        found: Any = gram_iteration_up(symbol.matrices(), 12, 1e-9, xp=ops.xp)
        here: Any = symbol.phase
        return np.where((here == poor).all(axis=1), np.nan, found)

    monkeypatch.setattr(symbols, "chunk_length", lambda *_, **__: 1)
    assert math.isnan(float(symbols.largest(bound, blocks, frequencies, ops=OPS)[0][0]))
    largest = LargestBound(bound, blocks, frequencies, ops=OPS)
    every = np.arange(len(frequencies))
    for index in np.split(every, len(every)):
        largest.visit(index)
    assert math.isnan(float(largest.result()[0][0]))
    assert len(leave_out(largest, every, 4, 0)) == len(every)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_left_out_is_no_larger_than_what_was_met(seed: int) -> None:
    blocks: Any = decaying(seed, 6, 5, 3, 2).astype(np.float64)[None] / 4
    sizes = (16, 12)
    truth, frequencies = norms(blocks, sizes), half_grid(sizes)
    for products in (1, 2, 4, 7):
        largest = LargestBound(
            lambda symbol, ops: gram_iteration_up(symbol.matrices(), 12, 1e-9, xp=ops.xp), blocks, frequencies, ops=OPS
        )
        largest.visit(np.asarray([int(np.argsort(truth)[-20])]))
        met = truth[np.argsort(truth)[-20]]
        every = np.arange(len(frequencies))
        left = leave_out(largest, every[:60], products, 0)
        # The best of these are visited on the way.
        met = max(met * 6**2.0**-13, truth[:60].max() * 6**2.0**-13)
        out = np.setdiff1d(every[:60], left)
        assert len(out) > 0
        assert truth[out].max() <= met * (1 + 1e-8)
        with pytest.raises(ValueError, match="neither visited nor left out"):
            largest.result()
        largest.visit(np.union1d(left, every[60:]))
        value, _ = largest.result()
        assert truth.max() <= float(value[0]) <= truth.max() * 6**2.0**-13 + 1e-8


@pytest.mark.parametrize("dtype", ["complex64", "complex128", "float32", "float64"])
@pytest.mark.parametrize("size", [1e-12, 1.0, 1e15])
def test_iterates_bound_the_norm_after_every_product(dtype: str, size: float) -> None:
    state = np.random.RandomState(3)
    a = state.standard_normal((9, 7, 5)) + 1j * state.standard_normal((9, 7, 5))
    a[4] = 0
    stack = (a.real if dtype.startswith("float") else a).astype(dtype) * np.asarray(size, dtype=dtype)
    index = np.arange(9)
    iterates = GramIterates(stack, xp=OPS.xp)
    for product in range(8):
        exact = np.linalg.norm(stack[index].astype(np.complex128), ord=2, axis=(-2, -1))
        bound = iterates.norms_up()
        assert (bound >= exact).all()
        assert (bound <= exact * 5**2.0 ** -(product + 1) * (1 + 1e-4)).all()
        if product == 3:
            index = index[1::2]
            iterates.take(np.arange(9)[1::2], ops=OPS)
        iterates.square()


def test_products_that_lose_every_small_term_are_allowed_for() -> None:
    """1 + e**2 + e**2 + ... with e**2 half a unit: a sum that meets the 1 stays as it is, beyond other roundings."""
    small = np.float32(2.0**-12.5)
    column = np.full((1, 2**16, 1), small)
    column[0, 0, 0] = 1
    truth = math.sqrt(1 + (2**16 - 1) * float(small) ** 2)
    iterates = GramIterates(column, xp=OPS.xp)  # type: ignore[arg-type]
    iterates.square()
    assert truth <= float(iterates.norms_up()[0]) <= 1.02 * truth


@pytest.mark.parametrize("shape", [(12, 16, 3, 3), (16, 12, 3), (3, 8, 8, 2, 2)])
def test_values_and_gradients_are_those_of_a_visit_to_all(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    """Groups too: (groups, out, in, taps)."""
    groups = shape[0] if len(shape) == 5 else 1
    kernel = decaying(5, shape[0] * shape[1], *shape[2:]) if groups > 1 else decaying(5, *shape)
    size = 600 if kernel.ndim == 3 else 40
    methods: list[tuple[Any, Any]] = [(Gram(n_iter=t), size) for t in (0, 1, 5, 12)] + [(Grid(n=size), None)]
    for method, n in methods:
        found = []
        for worth in (1, 10**12):
            monkeypatch.setattr(pruned, "_WORTH", worth)
            found.append(specnorm.value_and_grad(kernel, method, input_shape=n, groups=groups))
        (value, gradient), (whole, expected) = found
        np.testing.assert_allclose(value, whole, rtol=1e-12)
        np.testing.assert_allclose(gradient, expected, atol=1e-6 * np.abs(expected).max())
