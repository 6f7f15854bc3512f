"""Audits elsewhere: every executor, workers that die, layers that kill, and interruptions."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from specnorm_audit import audit
from specnorm_audit.processes import WorkerLost, Workers
from specnorm_audit.report import Report

from audit import files
from audit.deadly import deadly

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's signals and /proc")


def _kernels(count: int) -> dict[str, NDArray[np.float64]]:
    random = np.random.RandomState(0)
    return {f"{i}.weight": random.standard_normal((3, 2, 3)) for i in range(count)}


EXECUTORS: dict[str, Callable[[], Executor]] = {
    "threads": lambda: ThreadPoolExecutor(2),
    "spawn": lambda: ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")),
    "own": lambda: Workers(2),
}


def _assert_complete(report: Report, arrays: dict[str, Any], plain: dict[str, Any]) -> None:
    """Every layer once, in order, with the numbers of an audit without executor."""
    assert [row.name for row in report.layers] == list(arrays)
    alone = audit(plain)
    for row, other in zip(report.layers, alone.layers, strict=True):
        if row.status == "ok":
            assert (row.lower, row.upper, row.values) == (other.lower, other.upper, other.values)


# -- every executor ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", EXECUTORS)
def test_rows_are_those_of_an_audit_here(name: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {**_kernels(5), "nan.weight": np.full((2, 2), np.nan)}
    path = files.save_npz(tmp_path / "model.npz", arrays)
    with EXECUTORS[name]() as pool:
        there = audit(path, executor=pool)
    assert there.to_dict() == audit(path).to_dict()
    assert [row.note for row in there.layers] == [None] * 6


# -- workers that die ----------------------------------------------------------------------------------------------
@LINUX
def test_a_worker_that_dies_loses_its_layer_alone() -> None:
    plain = _kernels(6)
    arrays: dict[str, Any] = {**plain, "2.weight": deadly(plain["2.weight"])}
    with Workers(2) as pool:
        report = audit(arrays, executor=pool)
    _assert_complete(report, arrays, plain)
    reasons = [row.reason for row in report.layers]
    assert reasons.pop(2) == "the process that measures it died: SIGKILL, often for lack of memory."
    assert reasons == [None] * 5


class _Told(Executor):
    """Refuses, cancels or raises as told, and then answers what ``changed`` makes of a call's number and its answer."""

    def __init__(self, *plan: BaseException | str, changed: Callable[[int, Any], Any] = lambda _, row: row) -> None:
        self.plan, self.changed, self.asked = plan, changed, 0

    def submit(self, function: Any, /, *arguments: Any, **_: Any) -> Future[Any]:
        at, self.asked = self.asked, self.asked + 1
        step = self.plan[at] if at < len(self.plan) else "answer"
        future: Future[Any] = Future()
        if step == "refuse":
            raise RuntimeError("cannot schedule new futures after shutdown")
        if step == "cancel":
            future.cancel()
        elif step == "answer":
            future.set_result(self.changed(at, function(*arguments)))
        elif isinstance(step, BaseException):
            future.set_exception(step)
        return future


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("cancel", "CancelledError"), (OSError("gone\naway"), "OSError: gone"), (SystemExit(3), "SystemExit: 3"),
        ("refuse", "RuntimeError: cannot schedule"),
    ],
)  # fmt: skip
def test_every_way_to_lose_a_layer(step: Any, words: str) -> None:
    arrays = _kernels(2)
    report = audit(arrays, executor=_Told(step))
    _assert_complete(report, arrays, arrays)
    assert [row.status for row in report.layers] == ["error", "ok"]
    assert str(report.layers[0].reason).startswith(f"the executor failed with {words}")


def test_a_row_is_about_its_layer() -> None:
    """The first row for every call; a row of the same name and another kernel, of another geometry; no row."""
    arrays = _kernels(3)
    first = audit({"0.weight": arrays["0.weight"]}, executor=_Told()).layers[0]
    report = audit(arrays, executor=_Told(changed=lambda *_: first))
    assert [row.status for row in report.layers] == ["ok", "error", "error"]
    assert [row for row in report.layers[1:] if "returned another row (of 0.weight)" not in str(row.reason)] == []
    assert [row for row in report.layers[1:] if row.upper is not None] == []
    scaled = audit({"0.weight": 2 * arrays["0.weight"]}, executor=_Told(changed=lambda *_: first))
    assert scaled.layers[0].status == "error"
    strided = audit(arrays, geometry={"*": {"stride": 2}}, executor=_Told(changed=lambda *_: first))
    assert {row.status for row in strided.layers} == {"error"}
    nothing = audit(arrays, executor=_Told(changed=lambda at, row: row if at else None))
    assert [row.status for row in nothing.layers] == ["error", "ok", "ok"]


@LINUX
def test_own_workers_do_not_outlive_an_interruption() -> None:
    """A layer that takes a minute is not waited for."""
    pool = Workers(1)
    with pool:
        running, waiting = pool.submit(time.sleep, 60), pool.submit(time.sleep, 60)
        while not pool.workers:
            time.sleep(0.01)
        process = pool.workers[0].process.pid
        pool.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert isinstance(running.exception(), WorkerLost)
    assert waiting.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


# -- dask: last, since forks after its threads have started are not safe -----------------------------------------------
@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed: Any = pytest.importorskip("distributed", reason="not installed: pip install distributed")
    dask: Any = pytest.importorskip("dask")
    workers: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(**workers) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.mark.nightly
def test_rows_by_dask_are_those_of_an_audit_here(cluster: Any) -> None:
    arrays: dict[str, Any] = {**_kernels(5), "nan.weight": np.full((2, 2), np.nan)}
    assert audit(arrays, executor=cluster.get_executor()).to_dict() == audit(arrays).to_dict()


@pytest.mark.nightly
def test_a_worker_of_dask_that_dies_is_an_error_row(cluster: Any) -> None:
    """Here no other worker tries the layer again; layers that waited for the same worker may share its fate."""
    plain = _kernels(3)
    arrays: dict[str, Any] = {**plain, "1.weight": deadly(plain["1.weight"])}
    rows = {row.name: row for row in audit(arrays, executor=cluster.get_executor()).layers}
    assert len(rows) == 3
    assert rows["1.weight"].status == "error"
    assert "KilledWorker" in str(rows["1.weight"].reason)
    assert all(row.status == "ok" or "KilledWorker" in str(row.reason) for row in rows.values())
