"""An audit of many wide layers, by a process pool and by dask: what a row takes is bounded, in time and memory.

    python -m bench.many [--layers 100] [--channels 640] [--budget 20]

Kernels are `kernels.decaying`, asked for to 1 %; each worker is a process with one BLAS thread. Seconds are wall time.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import specnorm
from bench import kernels

WORKERS = 2


@contextmanager
def pool() -> Iterator[Executor]:
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as found:
        yield found


@contextmanager
def dask() -> Iterator[Executor]:
    distributed: Any = import_module("distributed")

    given: dict[str, Any] = {"n_workers": WORKERS, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**given, memory_limit=0) as local, distributed.Client(local) as client:
        yield client.get_executor()


def peak(_: int) -> tuple[int, int]:
    """A worker and its largest resident size, in KiB; `getrusage` would count what its parent held when it began."""
    time.sleep(0.2)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return os.getpid(), int(status.partition("VmHWM:")[2].split()[0])


def measure(name: str, made: Callable[[], Any], model: dict[str, np.ndarray], budget: float) -> None:
    """One line."""
    with made() as executor:
        before = dict(executor.map(peak, range(4 * WORKERS)))
        begin, ends = time.perf_counter(), []
        progress = lambda *_: ends.append(time.perf_counter() - begin)  # noqa: E731
        report = specnorm.audit(model, rtol=1e-2, budget=budget, methods=(), executor=executor, progress=progress)
        after = dict(executor.map(peak, range(4 * WORKERS)))
    gaps = sorted(row.upper / row.lower - 1 for row in report.layers if row.upper and row.lower)
    print(
        f"{name}: {len(model)} layers, {ends[-1]:.0f} s, {ends[-1] * WORKERS / len(model):.1f} s a row; gaps "
        f"{gaps[0]:.2%} to {gaps[-1]:.2%}; a worker {max(before.values()) >> 10} to {max(after.values()) >> 10} MiB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("layers", 100), ("channels", 640), ("budget", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    os.environ.update({f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")})
    model = {f"{j}.weight": kernels.decaying(given.channels, j) for j in range(given.layers)}
    for name, made in (("pool", pool), ("dask", dask)):
        measure(name, made, model, given.budget)


if __name__ == "__main__":
    main()
