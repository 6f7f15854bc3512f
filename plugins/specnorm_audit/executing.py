"""Where layers are measured: here, by an executor, or in processes of our own. None is lost, none comes twice."""

from __future__ import annotations

import math
import os
import warnings
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specnorm.backends import backend_for
from specnorm.errors import BackendError, SpecnormError
from specnorm.types import ArrayObject
from specnorm_audit.layers import Layer
from specnorm_audit.measuring import Settings, describe, fill
from specnorm_audit.processes import Worker, WorkerLost, Workers
from specnorm_audit.rows import Row

IN_FLIGHT = 512 * 2**20
"""Bytes of kernels that an executor is given before its answers are waited for; one kernel may be larger."""


def measured(found: Sequence[Layer], settings: Settings, executor: Executor | None) -> Generator[Row, None, None]:
    """Measure layers and give their rows in order; `IN_FLIGHT` bytes of kernels are in memory at once.

    Without an executor, or with `Workers` that are not worth it: here, one layer after the other. A row's note says how
    a layer was measured that the executor lost.
    """
    worth = executor.worth if isinstance(executor, Workers) else 0
    if executor is None or (worth and (len(found) < 2 or sum(map(_bytes, found)) < worth)):
        for layer in found:
            yield fill(*_loaded(layer, settings), settings)
        return
    run = _Run(executor, settings)
    waiting: deque[_Given] = deque()
    busy: list[_Given] = []
    size = 0
    try:
        for layer in found:
            while busy and size + _bytes(layer) > IN_FLIGHT:
                wait([given.future for given in busy if given.future is not None], return_when=FIRST_COMPLETED)
                busy = [given for given in busy if not given.is_done]
                size = sum(_bytes(given.layer) for given in busy)
            while waiting and waiting[0].is_done:
                yield run.row(waiting.popleft())
            waiting.append(run.give(layer))
            busy.append(waiting[-1])
            size += _bytes(layer)
        while waiting:
            yield run.row(waiting.popleft())
    finally:
        for given in waiting:
            if given.future is not None:
                given.future.cancel()
        run.close()


@dataclass(frozen=True)
class _Given:
    """A layer that was given to the executor, or that it did not take."""

    layer: Layer
    row: Row
    mark: str = ""
    future: Future[Any] | None = None
    refusal: BaseException | None = None

    @property
    def is_done(self) -> bool:
        return self.future is None or self.future.done()


def _bytes(layer: Layer) -> int:
    """Memory of a layer's kernel; half precision counts as the float32 that it becomes."""
    return math.prod(layer.tensor.shape) * (8 if "64" in layer.tensor.dtype else 4)


class _Run:
    """One audit with an executor, and what takes over where that fails."""

    def __init__(self, executor: Executor, settings: Settings) -> None:
        self.executor = executor
        self.settings = settings
        self.own: Worker | None = None

    def give(self, layer: Layer) -> _Given:
        """Load a layer and give it to the executor."""
        row, kernel = _loaded(layer, self.settings)
        if row.reason is not None:
            return _Given(layer, row)
        try:
            task = os.urandom(16).hex()
            mark = _mark(row, kernel, self.settings, task)
            return _Given(layer, row, mark, self.executor.submit(_fill, row, kernel, self.settings, task))
        except Exception as error:  # broken, shut down, or the kernel cannot be sent: every executor has its own errors
            return _Given(layer, row, refusal=error)

    def row(self, given: _Given) -> Row:
        """Wait for a layer's row; give the layer to somebody else as often as it is lost."""
        lost = given.refusal
        for resubmit in (True, False):
            if given.future is None:
                break
            answer = _answer(given, given.future)
            if isinstance(answer, Row):
                return answer if lost is None else _noted(answer, "measured at the second attempt", lost)
            lost = answer
            if resubmit:
                given = self.give(given.layer)
        if given.row.reason is not None:
            return given.row
        if isinstance(lost, Disbelieved):
            return replace(given.row, reason=f"{_said(lost)}. Measure with another executor, or with none.")
        return self._without(given.layer, lost)

    def _without(self, layer: Layer, lost: BaseException | None) -> Row:
        """Measure a layer without the executor: in a process of its own, since it may be what killed the others."""
        row, kernel = _loaded(layer, self.settings)
        if row.reason is not None:
            return row
        try:
            self.own = self.own or Worker()
            row = self.own.call(fill, row, kernel, self.settings)
            return _noted(row, "measured in a process of its own", lost)
        except WorkerLost as error:
            self.own = None
            return replace(row, reason=f"the process that measures it dies: {error}. Before, {_said(lost)}.")
        except Exception:  # no process can be started here, or the kernel cannot be sent to one
            self.close()
            return _noted(fill(row, kernel, self.settings), "measured in this process", lost)

    def close(self) -> None:
        """End the process of its own, if there is one."""
        if self.own is not None:
            self.own.close()
            self.own = None


class Disbelieved(RuntimeError):
    """An executor's answer is not the row that was asked for; says why."""


def _fill(row: Row, kernel: ArrayObject | None, settings: Settings, task: str) -> tuple[str, Row]:
    """Measure a layer in a worker, and say of what. Dask takes calls with equal arguments for one: ``task`` differs."""
    return _mark(row, kernel, settings, task), fill(row, kernel, settings)


def _mark(row: Row, kernel: ArrayObject | None, settings: Settings, task: str) -> str:
    """Digest of a request: the layer's name and geometry, its kernel, how it is measured, which attempt this is."""
    import hashlib  # for other processes alone

    found = hashlib.sha256(repr((task, row, settings)).encode("utf-8", "backslashreplace"))
    try:
        host = np.ascontiguousarray(backend_for(kernel).to_numpy(kernel))
    except BackendError:  # it cannot be measured
        return found.hexdigest()
    found.update(repr((host.shape, host.dtype)).encode())
    found.update(host.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _answer(given: _Given, future: Future[Any]) -> Row | BaseException:
    """The row that an executor answered, or what became of it; measuring itself raises nothing."""
    try:
        error = future.exception()
        if error is None:
            return _believed(future.result(), given)
    except Exception as other:  # it was cancelled, or is not believed
        return other
    if isinstance(error, KeyboardInterrupt):
        raise error
    return error


def _believed(answer: Any, given: _Given) -> Row:
    """The row in an executor's answer: of the layer, kernel and request that were given, with numbers that can be."""
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Row)):
        raise Disbelieved(f"its answer is a {type(answer).__name__} and no row")
    mark, row = str(answer[0]), answer[1]
    measured = ("lower", "upper", "values", "promises", "reason", "note", "origins")
    if mark != given.mark or replace(given.row, **{name: getattr(row, name) for name in measured}) != row:
        raise Disbelieved("its answer is about another layer, kernel or request")
    columns: list[Any] = [x for value in row.values.values() for x in (value if isinstance(value, tuple) else (value,))]
    ends: list[Any] = [x for x in (row.lower, row.upper) if x is not None]
    if not (
        row.values.keys() == given.row.values.keys() >= row.promises.keys()
        and all(isinstance(x, float) and not math.isnan(x) for x in (*ends, *(x for x in columns if x is not None)))
        and all(math.isfinite(x) and x >= 0 for x in ends)
        and (row.reason if len(ends) < 2 else ends[0] <= ends[1])
    ):
        raise Disbelieved(f"its answer holds what is no bound: {row.lower!r} to {row.upper!r}")
    return row


def _noted(row: Row, how: str, lost: BaseException | None) -> Row:
    note = f"{how}; {_said(lost)}"
    return replace(row, note=note if row.note is None else f"{row.note}; {note}")


def _said(lost: BaseException | None) -> str:
    first = str(lost).strip().partition("\n")[0].rstrip(".")
    return f"the executor failed with {type(lost).__name__}{first and ': '}{first}"


def _loaded(layer: Layer, settings: Settings) -> tuple[Row, ArrayObject | None]:
    row = describe(layer, settings)
    if row.reason is not None:
        return row, None
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            kernel = layer.tensor.load()
        return replace(row, note=_warned(said)), kernel
    except SpecnormError as error:
        return replace(row, reason=str(error)), None
    except Exception as error:  # a damaged array must not lose the others
        return replace(row, reason=f"cannot be read: {type(error).__name__}: {error}"), None


def _warned(said: Sequence[warnings.WarningMessage]) -> str | None:
    """What libraries warned of while a kernel was read."""
    words = dict.fromkeys(f"{w.category.__name__}: {str(w.message).partition(chr(10))[0]}" for w in said)
    return f"while it was read, a library warned: {'; '.join(words)}" if words else None
