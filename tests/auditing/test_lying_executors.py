"""Executors whose answers are of another layer, of nothing, or no numbers: believed of no layer."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from specnorm.auditing import audit, gates

ARRAYS = {f"{i}.weight": np.random.RandomState(i).standard_normal((4, 3, 3, 3)) * (i + 1) for i in range(3)}
SIZES: dict[str, Any] = {"input_shape": 8, "methods": ("tn", "f4", "reshaped", "circular")}

Answer = Any
"""What a worker returns: a mark of the request, and the row."""


class _Liar(Executor):
    """Works as asked, and answers something else."""

    def __init__(self, lie: Callable[[Answer, list[Answer]], Answer], honest_at: int | None = None) -> None:
        self.lie, self.honest_at = lie, honest_at
        self.answers: list[Answer] = []

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        truth = function(*pickle.loads(pickle.dumps(arguments)))
        told = truth if len(self.answers) == self.honest_at else self.lie(truth, self.answers)
        self.answers.append(truth)
        future.set_result(told)
        return future


def _changed(**fields: Any) -> Callable[[Answer, list[Answer]], Answer]:
    return lambda truth, _: (truth[0], replace(truth[1], **fields))


def _first(_: Answer, before: list[Answer]) -> Answer:
    """The answer to the first request, whatever is asked; to that one, 42."""
    return before[0] if before else 42


def _renamed(truth: Answer, _: list[Answer]) -> Answer:
    """The row of a layer that there is not."""
    return (truth[0], replace(truth[1], name="9.weight"))


def _borrowed(truth: Answer, before: list[Answer]) -> Answer:
    """Another request's mark and numbers, and this layer's description."""
    mark, row = before[0] if before else ("", truth[1])
    return mark, replace(truth[1], lower=row.lower, upper=row.upper, values=row.values)


LIES: dict[str, Callable[[Answer, list[Answer]], Answer]] = {
    "42": lambda *_: 42,
    "None": lambda *_: None,
    "a dict": lambda truth, _: truth[1].to_dict(),
    "a text": lambda truth, _: str(truth),
    "a row alone": lambda truth, _: truth[1],
    "another pair": lambda truth, _: (truth[1], truth[0]),
    "the first layer's": _first,
    "another name": _renamed,
    "another's mark": _borrowed,
    "another shape": _changed(shape=(1, 1, 1, 1)),
    "another geometry": _changed(spec=None),
    "NaN below": _changed(lower=np.nan),
    "NaN above": _changed(upper=np.nan),
    "NaN": _changed(lower=np.nan, upper=np.nan),
    "infinite": _changed(upper=np.inf),
    "minus infinite": _changed(lower=-np.inf),
    "crossed": _changed(lower=2.0, upper=1.0),
    "a text for a number": _changed(lower="0", upper="0"),
    "integers": _changed(lower=0, upper=True),
    "no bounds, no reason": _changed(lower=None, upper=None),
    "a column that is NaN": _changed(values=dict.fromkeys(("tn", "f4", "reshaped", "circular"), np.nan)),
    "columns of another request": _changed(values={"power": 1.0}),
    "no columns": _changed(values={}, promises={}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_asked_again_and_then_an_error(lie: str) -> None:
    """Whoever lies always gets no number into the report."""
    report = audit(ARRAYS, executor=_Liar(LIES[lie]), **SIZES)
    assert [row.name for row in report.layers] == list(ARRAYS)
    for row in report.layers:
        assert (row.lower, row.upper) == (None, None)
        assert "the executor failed with Disbelieved: its answer" in str(row.reason)
    assert gates.norms(report, 1e300).outcome == "failed"


def test_rows_that_are_exchanged_are_no_rows() -> None:
    """Two kernels of one name and shape, in two audits: "at most 9.4" was said of a layer of norm 11.6."""
    held: list[Answer] = []

    def late(truth: Answer, _: list[Answer]) -> Answer:
        held.append(truth)
        return held[0]

    one, two = ({"a.weight": ARRAYS[name]} for name in ("0.weight", "2.weight"))
    first, second = (audit(arrays, executor=_Liar(late)).layers[0] for arrays in (one, two))
    assert first.status == "ok"
    assert second.status == "error"
