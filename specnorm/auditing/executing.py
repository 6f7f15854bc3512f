"""Where layers are measured: here, by an executor, or in processes of our own. None is lost, none comes twice."""

from __future__ import annotations

import math
import uuid
import warnings
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace

from specnorm.auditing.layers import Layer
from specnorm.auditing.measuring import Settings, describe, fill
from specnorm.auditing.processes import Worker, WorkerLost, Workers
from specnorm.auditing.report import Row
from specnorm.errors import SpecnormError
from specnorm.types import ArrayObject

IN_FLIGHT = 512 * 2**20
"""Bytes of kernels that an executor is given before its answers are waited for; one kernel may be larger."""


def measured(found: Sequence[Layer], settings: Settings, executor: Executor | None) -> Generator[Row, None, None]:
    """Measure layers and give their rows in order; `IN_FLIGHT` bytes of kernels are in memory at once.

    Parameters
    ----------
    executor : Executor or None
        None, or `Workers` that are not worth it: here, one layer after the other.

    Yields
    ------
    Row
        ``note`` says how a layer was measured that the executor lost.
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
    future: Future[Row] | None = None
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
            return _Given(layer, row, self.executor.submit(_fill, row, kernel, self.settings, uuid.uuid4().hex))
        except Exception as error:  # broken, shut down, or the kernel cannot be sent: every executor has its own errors
            return _Given(layer, row, refusal=error)

    def row(self, given: _Given) -> Row:
        """Wait for a layer's row; give the layer to somebody else as often as it is lost."""
        lost: BaseException | None = None
        for resubmit in (True, False):
            if given.future is None:
                break
            error = _error(given.future)
            if error is None:
                row = given.future.result()
                return row if lost is None else _noted(row, "measured at the second attempt", lost)
            lost = error
            if resubmit:
                given = self.give(given.layer)
        if given.row.reason is not None:
            return given.row
        return self._without(given.layer, lost or given.refusal)

    def _without(self, layer: Layer, lost: BaseException | None) -> Row:
        """Measure a layer without the executor: in a process of its own, since it may be what killed the others."""
        row, kernel = _loaded(layer, self.settings)
        if row.reason is not None:
            return row
        try:
            self.own = self.own or Worker()
            return _noted(self.own.call(fill, row, kernel, self.settings), "measured in a process of its own", lost)
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


def _fill(row: Row, kernel: ArrayObject | None, settings: Settings, task: str) -> Row:
    """Measure a layer in a worker. Dask takes calls with equal arguments for one: ``task`` is another each time."""
    del task
    return fill(row, kernel, settings)


def _error(future: Future[Row]) -> BaseException | None:
    """What became of a future instead of a row; measuring itself raises nothing."""
    try:
        error = future.exception()
    except Exception as cancelled:
        return cancelled
    if isinstance(error, KeyboardInterrupt):
        raise error
    return error


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
