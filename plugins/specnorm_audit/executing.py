"""Where layers are measured: here, one after the other, or by an executor."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import replace

from specnorm import MethodError, SpecnormError
from specnorm.proof import ArrayObject
from specnorm_audit.layers import Layer
from specnorm_audit.measuring import Settings, describe, fill
from specnorm_audit.processes import WorkerLost, Workers
from specnorm_audit.rows import Row

IN_FLIGHT = 512 * 2**20
"""Bytes of kernels that an executor is given before its answers are waited for; one kernel may be larger."""


def check_executor(executor: object) -> None:
    """Refuse what is no `concurrent.futures.Executor`, and say what is one."""
    if executor is None or isinstance(executor, Executor):
        return
    kind = type(executor)
    name = repr(executor) if isinstance(executor, int | str) else f"a {kind.__module__}.{kind.__name__}"
    raise MethodError(
        f"executor={name} is no concurrent.futures.Executor. Give concurrent.futures.ProcessPoolExecutor(n), joblib's "
        "loky.get_reusable_executor(), dask's Client.get_executor(), or one around another pool, as docs/scale.md does."
    )


def measured(found: Sequence[Layer], settings: Settings, executor: Executor | None) -> Generator[Row, None, None]:
    """Measure layers and give their rows in order; `IN_FLIGHT` bytes of kernels are in memory at once.

    Without an executor, or with `Workers` that are not worth it: here, one layer after the other. A layer that the
    executor loses is a row that says how.
    """
    worth = executor.worth if isinstance(executor, Workers) else 0
    if executor is None or (worth and (len(found) < 2 or sum(map(_bytes, found)) < worth)):
        for layer in found:
            yield fill(*_loaded(layer, settings), settings)
        return
    waiting: deque[tuple[Layer, Future[Row]]] = deque()
    busy: list[tuple[Layer, Future[Row]]] = []
    try:
        for layer in found:
            while busy and _bytes(layer) + sum(_bytes(given) for given, _ in busy) > IN_FLIGHT:
                wait([future for _, future in busy], return_when=FIRST_COMPLETED)
                busy = [(given, future) for given, future in busy if not future.done()]
            while waiting and waiting[0][1].done():
                yield _row(*waiting.popleft(), settings)
            waiting.append((layer, _submitted(layer, settings, executor)))
            busy.append(waiting[-1])
        while waiting:
            yield _row(*waiting.popleft(), settings)
    finally:
        for _, future in waiting:
            future.cancel()


def _bytes(layer: Layer) -> int:
    """Memory of a layer's kernel; half precision counts as the float32 that it becomes."""
    return math.prod(layer.tensor.shape) * (8 if "64" in layer.tensor.dtype else 4)


def _submitted(layer: Layer, settings: Settings, executor: Executor) -> Future[Row]:
    row, kernel = _loaded(layer, settings)
    known: Future[Row] = Future()
    if row.reason is not None:
        known.set_result(row)
        return known
    try:
        return executor.submit(fill, row, kernel, settings)
    except Exception as error:  # broken, shut down, or the kernel cannot be sent: every executor has its own errors
        known.set_exception(error)
        return known


def _row(layer: Layer, future: Future[Row], settings: Settings) -> Row:
    """Wait for a layer's row; measuring itself raises nothing, so what is raised is the executor's."""
    try:
        lost = future.exception()
    except Exception as error:  # it was cancelled
        lost = error
    if lost is None:
        row: Row = future.result()
        return row
    if isinstance(lost, KeyboardInterrupt):
        raise lost
    row = describe(layer, settings)
    if isinstance(lost, WorkerLost):
        return replace(row, reason=f"the process that measures it dies: {lost}.")
    first = str(lost).strip().partition("\n")[0].rstrip(".")
    return replace(row, reason=f"the executor failed with {type(lost).__name__}{first and ': '}{first}.")


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
    words = dict.fromkeys(f"{w.category.__name__}: {str(w.message).partition(chr(10))[0]}" for w in said)
    return f"while it was read, a library warned: {'; '.join(words)}" if words else None
