"""A pool of threads over the matrices of one large layer changes no bit of an answer."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import specnorm_numpy
from specnorm_numpy import threads

import specnorm


@pytest.mark.parametrize("count", [2, 3])
def test_answers_do_not_depend_on_the_number_of_threads(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = np.random.RandomState(0).standard_normal((128, 128, 3)).astype(np.float32)
    took_part: set[int] = set()
    factorised = specnorm_numpy._factorised

    def noted(flat: Any) -> Any:
        took_part.add(threading.get_ident())
        return factorised(flat)

    monkeypatch.setattr(specnorm_numpy, "_factorised", noted)
    monkeypatch.setattr(specnorm_numpy, "_LARGE", 40)  # how wide the matrices are depends on the processor
    monkeypatch.setattr(threads, "workers", lambda: 1)
    alone = specnorm.enclose(kernel, rtol=1e-3)
    assert took_part == {threading.get_ident()}
    monkeypatch.setattr(threads, "workers", lambda: count)
    shared = specnorm.enclose(kernel, rtol=1e-3)
    assert len(took_part) > 1, "other threads take part"
    assert (shared.lower, shared.upper, shared.cells) == (alone.lower, alone.upper, alone.cells)
    assert all(np.array_equal(a, b) for a, b in zip(shared.witness, alone.witness, strict=True))


def test_matrices_without_a_factor_are_found_in_every_share(monkeypatch: pytest.MonkeyPatch) -> None:
    matrices = np.stack([np.eye(130) * (-1 if j in (0, 3, 6) else 1) for j in range(7)])
    monkeypatch.setattr(threads, "workers", lambda: 3)
    with np.errstate(all="raise"):
        found = specnorm_numpy.BACKEND.cholesky_ok(matrices)
    assert found.tolist() == [j not in (0, 3, 6) for j in range(7)]


def test_what_fails_in_a_thread_is_raised_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "workers", lambda: 2)
    found = threads.in_order(lambda x: 1 / x, [1, 2, 0, 4])
    assert [next(found), next(found)] == [1.0, 0.5]
    with pytest.raises(ZeroDivisionError):
        next(found)
