"""One thread against two: the wall time of the main calls in two processes, whose libraries have 1 and 2 threads.

``python -m bench threads`` writes the lines from which ``python -m bench page`` makes the table. The processes take
turns, call by call, so that whatever else the machine does falls on both. A ratio is that of two calls in turn; the
table has its median.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import page
from bench.facts import Row, about, write

TESTS = Path(__file__).parents[1]
VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
COUNTS = (1, 2)
CHANNELS = (16, 64, 128, 256, 512)
LEAST_SECONDS = 4.0
"""For which the two processes take turns on one call."""
MOST_REPEATS = 61
LEAST_REPEATS, LEAST_QUICK_REPEATS = 7, 3


def kernel(channels: int) -> Any:
    """A trained-like 3x3 kernel as a tensor."""
    import torch

    from bench import kernels

    return torch.from_numpy(kernels.like_trained((channels, channels, 3, 3)).astype("float32"))


def step_of(constraint: Callable[[Any], Any], channels: int) -> Callable[[], Any]:
    """One training step of a torch layer under a constraint: its weight, forward and backward."""
    import torch

    layer = constraint(torch.nn.Conv2d(channels, channels, 3, padding=1))

    def step() -> None:
        layer.zero_grad()
        layer.weight.sum().backward()

    return step


def returned(call: Callable[[], Any]) -> Callable[[], Any]:
    """Return a call that needs no preparation."""
    return call


def calls() -> dict[str, Callable[[], Callable[[], Any]]]:
    """For each name, a function that prepares the call."""
    import specnorm_torch
    import torch

    import specnorm

    def plain(function: Callable[..., Any], channels: int, **options: Any) -> Callable[[], Callable[[], Any]]:
        return lambda: functools.partial(function, kernel(channels), **options)

    prepared = {}
    for channels in CHANNELS:
        prepared[f"tn_bound, {channels} channels"] = plain(specnorm.tn_bound, channels)
        prepared[f"enclose, {channels} channels"] = plain(specnorm.enclose, channels)
    for channels in (64, 256):
        prepared[f"conv_norm, n = 32, {channels} channels"] = plain(specnorm.conv_norm, channels, input_shape=32)
        prepared[f"symbol_norm, {channels} channels"] = plain(specnorm.symbol_norm, channels)
        prepared[f"rescale, {channels} channels"] = plain(specnorm.rescale, channels)
        array = functools.partial(specnorm.rescale, kernel(channels).numpy())
        prepared[f"rescale, {channels} channels, NumPy"] = functools.partial(returned, array)
    for channels in (64, 128):
        prepared[f"gram_bound, {channels} channels"] = plain(specnorm.gram_bound, channels)
    for channels in (16, 64, 256, 512):
        ours, torchs = specnorm_torch.spectral_norm, torch.nn.utils.parametrizations.spectral_norm
        prepared[f"step of a constraint, {channels} channels"] = functools.partial(step_of, ours, channels)
        prepared[f"torch's spectral_norm, {channels} channels"] = functools.partial(step_of, torchs, channels)
    return prepared


def serve() -> None:
    """In a process of its own: read the name of a call from each line, and print its wall seconds."""
    import torch

    torch.set_num_threads(int(os.environ[VARIABLES[0]]))
    every = calls()
    ready: dict[str, Callable[[], Any]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in ready:
            ready.clear()
            ready[name] = every[name]()
            ready[name]()
        start = time.perf_counter()
        ready[name]()
        print(time.perf_counter() - start, flush=True)


class Worker:
    """A process whose libraries have so many threads."""

    def __init__(self, threads: int) -> None:
        environment = os.environ | dict.fromkeys(VARIABLES, str(threads))
        command = [sys.executable, "-c", "from bench import threads; threads.serve()"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS, env=environment
        )

    def seconds(self, name: str) -> float:
        """Wall seconds of one call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process, which reads no further line."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measured(names: list[str], quick: bool) -> Iterator[Row]:
    """A row for each call; a quick run makes the fewest repeats alone."""
    seconds_in_turn = 0.0 if quick else LEAST_SECONDS
    least_repeats = LEAST_QUICK_REPEATS if quick else LEAST_REPEATS
    workers = [Worker(count) for count in COUNTS]
    try:
        for name in names:
            for worker in workers:
                worker.seconds(name)
            pairs: list[list[float]] = []
            while len(pairs) < least_repeats or (len(pairs) < MOST_REPEATS and sum(map(sum, pairs)) < seconds_in_turn):
                # Each goes first in every other pair.
                order = workers if len(pairs) % 2 == 0 else workers[::-1]
                seconds = {worker: worker.seconds(name) for worker in order}
                pairs.append([seconds[worker] for worker in workers])
            ratios = sorted(two / one for one, two in pairs)
            quarter = len(ratios) // 4
            yield {
                "call": name,
                "seconds": [statistics.median(column) for column in zip(*pairs, strict=True)],
                "ratio": statistics.median(ratios),
                "ratio_range": [ratios[quarter], ratios[-1 - quarter]],
                "repeats": len(pairs),
                "quick": quick,
            }
    finally:
        for worker in workers:
            worker.close()


def show(only: Sequence[str], quick: bool, out: Path | None) -> None:
    """Measure every call, or those whose names contain one of these words; print the table, and write lines of JSON."""
    names = [name for name in calls() if not only or any(word in name for word in only)]
    facts = about("numpy", "scipy", "torch", "threadpoolctl")
    rows = []
    for row in measured(names, quick):
        rows.append({**facts, **row})
        print(json.dumps(row), file=sys.stderr, flush=True)
        if out:
            write(out, rows)
    print(page.threads(rows))
