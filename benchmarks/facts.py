"""Rows of measurements: date, machine and versions, repeats in turn, and files with one row a line."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "benchmarks"
LEAST, MOST, BUDGET = 3, 15, 1.0
"""Numbers of turns, and their seconds."""


def git(*words: str) -> str:
    """Return the output of a git command; an empty text if it fails."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()


def about(*packages: str) -> Row:
    """Return the fields of a row that say when, where and with which versions of packages it was measured.

    If the tree has no history of git, SPECNORM_COMMIT is taken as the commit. A commit with a + had changed files.
    Vector instructions are the machine's, unless ATEN_CPU_CAPABILITY allows fewer.
    """
    commit = git("rev-parse", "--short", "HEAD") or os.environ.get("SPECNORM_COMMIT", "unknown")
    changed = "+" if git("status", "--porcelain", "--", ":/specnorm", ":/plugins", ":/packages") else ""
    linux = Path("/proc/cpuinfo")
    processors = linux.read_text() if linux.exists() else ""
    name, *_ = [*re.findall(r"model name\s*: (.*)", processors), platform.processor() or platform.machine()]
    has_512 = "avx512f" in processors and os.environ.get("ATEN_CPU_CAPABILITY", "").lower() != "avx2"
    instructions = "AVX-512" if has_512 else "AVX2" if "avx2" in processors else platform.machine()
    installed = {it.metadata["Name"]: it.version for it in importlib.metadata.distributions()}
    versions = {name: installed[name] for name in packages if name in installed}
    return {
        "date": time.strftime("%Y-%m-%d"), "commit": commit + changed,
        "machine": f"{name}, {os.cpu_count()} cores, {instructions}",
        "versions": {"python": platform.python_version(), **versions},
    }  # fmt: skip


def paired(
    runs: dict[str, Callable[[], Any]],
    turns: int | None = None,
    *,
    warm: int = 0,
    clock: Callable[[], float] = time.process_time,
    wait: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Return the seconds of several runs, made in turn so that other load on the machine slows all of them down.

    Parameters
    ----------
    runs : dict of str to callable
    turns : int, optional
        Number of turns; None: three to fifteen, within a second, of slow runs one or two.
    warm : int
        Number of turns before them that are not counted.
    clock : callable
    wait : callable
        Called before and after each run: waits until a device has finished.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(warm + (turns or MOST)):
        spent = sum(map(sum, seconds.values()))
        if turns is None and spent > (BUDGET if turn >= LEAST else LEAST * BUDGET):
            break
        for name, run in runs.items():
            wait()
            begin = clock()
            run()
            wait()
            if turn >= warm:
                seconds[name].append(clock() - begin)
    return seconds


def timing(times: list[float], base: list[float]) -> Row:
    """Return the fields of a row for some repeats: median seconds, and ratios to the yardstick's of the same turns.

    A ratio is the yardstick's seconds divided by the run's: ``faster`` is the median.

    Parameters
    ----------
    times : list of float
        Seconds of the run.
    base : list of float
        Seconds of the yardstick in the same turns.
    """
    faster = statistics.median(b / t for b, t in zip(base, times, strict=True))
    return {"seconds": statistics.median(times), "faster": faster}


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write(path: Path, rows: Iterable[Row]) -> None:
    """Write all rows to a new file, and put it in place of the old one, so that a stopped run loses no rows."""
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    new.replace(path)


def record(rows: Iterable[Row], path: Path | None, key: Sequence[str] = ()) -> None:
    """Print rows as JSON, and put each into a file as soon as it is there, in place of the row with its ``key``.

    Without a key, the rows of the file are replaced by the new ones.
    """
    known: dict[str, Row] = {}

    def key_of(row: Row) -> str:
        return repr([row[name] for name in key] if key else len(known))

    if path and key:
        known = {key_of(row): row for row in read(path)}
    for row in rows:
        print(json.dumps(row), flush=True)
        known[key_of(row)] = row
        if path:
            write(path, known.values())
