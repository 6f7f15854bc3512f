"""Completion: whatever kernel H it is given, the lemma's bound is never below the norm; searched H bring it close."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import sigma_star
from strategies import Recipe, recipes

from specnorm.backends import backend_for
from specnorm.certified import completion
from specnorm.runtime.execution import Execution
from specnorm.search import completion as search

HOSTILE: dict[str, Any] = {
    "zeros": lambda h: 0 * h,
    "huge": lambda h: np.full_like(h, np.finfo(h.dtype).max / 4),
    "tiny": lambda h: np.full_like(h, np.finfo(h.dtype).smallest_subnormal),
    "nan": lambda h: np.where(h > 0, np.nan, h),
    "infinite": lambda h: np.where(h > 0, np.inf, h),
    "random": lambda h: h * 10,
    "one row": lambda h: h[:, :1],
}


def rule(blocks: Any, h: Any) -> float:
    """The lemma alone, on narrow blocks and any H."""
    ops = Execution.of(backend_for(blocks), blocks)
    with np.errstate(all="ignore"):
        own, beside = (completion.lags(x, ops=ops) for x in (blocks, h))
        return float(completion.norms_up(own, beside, ops=ops)[0])


@pytest.mark.parametrize("name", HOSTILE)
@given(recipe=recipes(), seed=st.integers(0, 99))
def test_the_lemma_holds_for_any_completion(name: str, recipe: Recipe, seed: int) -> None:
    """At H from a search, of another layer, and at hostile H, in both precisions."""
    blocks: Any = search.narrow(recipe.kernel[None], xp=np)  # type: ignore[arg-type]
    largest = float(np.max(np.abs(blocks)))
    blocks = blocks / np.asarray(2.0 ** np.floor(np.log2(largest)) if largest else 1, dtype=blocks.dtype)
    shape = (1, search.row_count(blocks.shape[2]), *blocks.shape[2:])
    h = np.random.RandomState(seed).standard_normal(shape).astype(blocks.dtype)
    got, truth = rule(blocks, HOSTILE[name](h)), sigma_star(blocks[0], max_cells=3000)
    assert truth.lo <= got < np.inf


def test_one_entry_is_rounded_up() -> None:
    """Norm |k|, whose square is rounded: below it in half of all draws, if rounding were not counted."""
    for k in np.random.RandomState(0).uniform(1, 2, 200).astype(np.float32):
        assert rule(np.full((1, 1, 1), k), np.zeros((1, 1, 1), np.float32)) >= k
