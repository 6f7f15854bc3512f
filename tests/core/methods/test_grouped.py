"""Layers with several groups of several channels: bounds of all groups at once, in a batch and not in a loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.cases import Recipe
from helpers.checks import calls
from helpers.libraries import OPS

import specnorm
from specnorm.grid import proof as grid
from specnorm.grid import search
from specnorm.grid.proof import LargestBound
from specnorm.grid.search import largest_bound, leave_out
from specnorm.proofs.bound import HypothesisError, known
from specnorm.proofs.frequencies import Frequencies

FUNCTIONS: dict[str, tuple[Callable[..., object], float]] = {
    "tn_bound": (lambda kernel, groups: specnorm.tn_bound(kernel, groups=groups), 1.6),
    "enclose": (lambda kernel, groups: specnorm.enclose(kernel, groups=groups), 6),
    # At a size at which even two groups are searched.
    "conv_norm": (lambda kernel, groups: specnorm.conv_norm(kernel, 128, groups=groups), 7),
    "gram_bound": (lambda kernel, groups: specnorm.gram_bound(kernel, groups=groups), 1.5),
    "gram_bound at a size": (lambda kernel, groups: specnorm.gram_bound(kernel, 32, groups=groups), 3.5),
    "grid_bound": (lambda kernel, groups: specnorm.grid_bound(kernel, groups=groups), 2.5),
}
"""Each function, and by what its calls may grow from 2 to 32 groups. Those of searches grow if more groups have nearly
the largest norm; no factor comes near 16, which a loop over the groups would bring."""


@pytest.mark.parametrize("equal", [False, True], ids=["different norms", "equal norms"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_calls_do_not_grow_with_the_groups(name: str, equal: bool) -> None:
    function, factor = FUNCTIONS[name]
    kernel: Any = np.random.RandomState(3).standard_normal((32 * 16, 16, 3, 3)).astype(np.float32)
    if equal:
        kernel = np.tile(kernel[:16], (32, 1, 1, 1))
    function(kernel[:32], 2)
    few = calls(lambda: function(kernel[:32], 2))
    many = calls(lambda: function(kernel, 32))
    assert many <= factor * few


def grouped(seed: int, groups: int, m: int = 5, p: int = 4, taps: tuple[int, ...] = (3, 2)) -> Any:
    """Blocks with norms that differ by factors of up to a thousand, one of them zero, two of them equal."""
    blocks = np.stack([Recipe((m, p, *taps), "normal", seed=seed + j).kernel for j in range(groups)])
    factors = 10.0 ** np.random.RandomState(seed).uniform(-3, 0, groups)
    blocks = blocks / np.abs(blocks).max() * factors.reshape(-1, 1, 1, 1, 1)
    blocks[1] = 0
    blocks[3] = blocks[2]
    return blocks


def norms(blocks: Any, sizes: tuple[int, ...]) -> np.ndarray:
    """At the frequencies of the half grid, by an FFT and dense singular values, shape (b, f)."""
    symbols = np.moveaxis(np.fft.fftn(blocks, s=sizes, axes=(3, 4)), (1, 2), (-2, -1))
    where = Frequencies.half_grid(sizes).numerators
    return np.asarray(np.linalg.norm(symbols[(slice(None), *where.T)], ord=2, axis=(-2, -1)))


@pytest.mark.parametrize(("seed", "memory"), [(0, 2**28), (1, 2**17)])
def test_each_group_has_the_bound_of_its_own(seed: int, memory: int) -> None:
    """Whatever the memory, and so however the groups and frequencies are cut into parts."""
    blocks = grouped(seed, 9, 12, 9)
    sizes = (64, 48)
    ops = dataclasses.replace(OPS, memory=memory)
    found, phase, uppers = largest_bound(grid.symbol_norms_up, blocks, sizes, ops=ops)
    values, phases = np.asarray(found), np.asarray(phase)
    truth = norms(blocks, sizes)
    assert (values >= truth.max(axis=1)).all()
    assert [claim.value for claim in known(uppers).claims(ops=ops)] == values.tolist()
    np.testing.assert_allclose(values, truth.max(axis=1), rtol=1e-12)
    matrices = np.einsum("bmpt,bt->bmp", blocks.reshape(9, 12, 9, -1), phases)
    np.testing.assert_allclose(np.linalg.norm(matrices, ord=2, axis=(1, 2)), truth.max(axis=1), rtol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_are_compared_with_their_own_group(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weak group's frequency stays open until that group has met a norm as large, however large others are."""
    blocks = grouped(seed, 6)
    sizes = (16, 12)
    count = len(Frequencies.half_grid(sizes))
    truth = norms(blocks, sizes)
    largest = LargestBound(grid.symbol_norms_up, blocks, sizes, ops=OPS)
    # Each group has another number of pairs, the last one none.
    pairs = np.concatenate([b * count + np.arange(b, 20 * b + 21) for b in range(5)])
    monkeypatch.setattr(search, "_FEW_FREQUENCIES", 2)
    left = leave_out(largest, pairs, 4)
    assert np.isin(left, pairs).all()
    assert len(left) < len(pairs)
    out = np.setdiff1d(pairs, left)
    met = np.repeat(largest.values, count)
    assert (truth.reshape(-1)[out] <= met[out]).all()
    assert largest.values[5] == -np.inf
    with pytest.raises(HypothesisError, match="neither visited nor left out"):
        largest.result()
    largest.visit(np.setdiff1d(np.arange(6 * count), out))
    values, _, _ = largest.result()
    assert (np.asarray(values) >= truth.max(axis=1)).all()
    np.testing.assert_allclose(np.asarray(values), truth.max(axis=1), rtol=1e-12)
