"""Program identity: one program a problem, however it is written, and no more of them than are in use."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

import specnorm
from specnorm.runtime import program as programs
from specnorm.runtime.program import Program, program_for

SHAPE = (4, 3, 3, 3)


def planned(method: specnorm.Method | None = None, dtype: str = "float64", **geometry: Any) -> Program:
    return program_for(method or specnorm.Gram(), SHAPE, dtype, tuple(geometry.items()))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"input_shape": 8}, {"input_shape": (8, 8)}),
        ({"input_shape": [8, 8]}, {"input_shape": (8, 8)}),
        ({"padding": "same"}, {"padding": ((1, 1), (1, 1))}),
        ({"padding": 1}, {}),
        ({"stride": 2, "groups": 1}, {"groups": 1, "stride": (2, 2)}),
        ({"layout": "OIHW"}, {"layout": None}),
    ],
    ids=str,
)
def test_one_problem_has_one_program(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert planned(**one) is planned(**other)
    assert planned(dtype="torch.float64", **one) is planned(**other)
    assert planned(specnorm.Gram(n_iter=4), **one) is not planned(**other)
    assert planned(dtype="float32", **one) is not planned(**other)


def test_programs_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound that changes at every call makes a new program each time: the old ones go."""
    monkeypatch.setattr(programs, "LIMIT", 20)
    kept = planned(input_shape=5)
    kernel = np.cos(np.arange(108.0)).reshape(SHAPE)
    for j in range(60):
        assert specnorm.certify(kernel, 100.0 + j)
    gc.collect()
    uncounted = len(programs._compiled)
    assert len(programs._programs) <= 20 + uncounted
    assert len(programs._keys) <= 20
    assert len(programs._alive) <= 20 + uncounted + 50  # those of other tests' objects that still live
    assert programs.program(kept.key) is kept  # held by this test
    assert planned(input_shape=5) is kept


@pytest.mark.nightly
def test_a_torch_graph_outlives_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backward needs its program after a thousand others were made, and so does what a compiler has traced."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(programs, "LIMIT", 4)
    kernel = torch.cos(torch.arange(108.0, dtype=torch.float64)).reshape(SHAPE).requires_grad_()
    traced = torch.compile(lambda k: specnorm.f4_bound(k, stride=(1, 2)), fullgraph=True, backend="aot_eager")
    before = traced(kernel)
    values = specnorm.unfolding_bounds(kernel, stride=(2, 1))
    for j in range(12):
        planned(specnorm.ExactFFT(), input_shape=20 + j)
    gc.collect()
    values.sum().backward()
    assert float(kernel.grad.abs().sum()) > 0
    for j in range(12):
        planned(specnorm.ExactFFT(), input_shape=20 + j)
    assert float(traced(kernel)) == float(before)
