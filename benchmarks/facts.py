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
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "benchmarks"


def git(*words: str) -> str:
    """Return the output of a git command; an empty text if it fails."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()


def processors() -> str:
    """Return Linux's description of the processors; an empty text on other systems."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def instructions() -> str:
    """Return the vector instructions that libraries use: the machine's, unless ATEN_CPU_CAPABILITY allows fewer."""
    text = processors()
    is_restricted = os.environ.get("ATEN_CPU_CAPABILITY", "").lower() == "avx2"
    if "avx512f" in text and not is_restricted:
        return "AVX-512"
    return "AVX2" if "avx2" in text else platform.machine()


def about(*packages: str) -> Row:
    """Return the fields of a row that say when, where and with which versions it was measured.

    If the tree has no history of git, SPECNORM_COMMIT is taken as the commit. A commit with a + had changed files.

    Parameters
    ----------
    *packages : str
        Packages whose versions are recorded, if they are installed.
    """
    commit = git("rev-parse", "--short", "HEAD") or os.environ.get("SPECNORM_COMMIT", "unknown")
    changed = "+" if git("status", "--porcelain", "--", ":/specnorm", ":/plugins", ":/packages") else ""
    names = re.findall(r"model name\s*: (.*)", processors()) or [platform.processor() or platform.machine()]
    installed = {it.metadata["Name"]: it.version for it in importlib.metadata.distributions()}
    versions = {name: installed[name] for name in packages if name in installed}
    return {
        "date": time.strftime("%Y-%m-%d"), "commit": commit + changed,
        "machine": f"{names[0]}, {os.cpu_count()} cores, {instructions()}",
        "processor": " ".join([names[0], *re.findall(r"(?:cpu family|model)\t+: (\d+)", processors())[:2]]),
        "versions": {"python": platform.python_version(), **versions},
    }  # fmt: skip


def interleaved(
    runs: dict[Any, Callable[[], Any]], quick: bool = False, clock: Callable[[], float] = time.process_time
) -> dict[Any, list[float]]:
    """Return the seconds of several runs, made in turn so that other load on the machine slows all of them down."""
    seconds: dict[Any, list[float]] = {key: [] for key in runs}
    least, most, budget = (2, 3, 0.3) if quick else (3, 15, 1.0)
    spent = 0.0
    for j in range(most):
        # A slow run is repeated once or twice only.
        if spent > (budget if j >= least else 3 * budget):
            break
        for key, run in runs.items():
            start = clock()
            run()
            seconds[key].append(clock() - start)
        spent = sum(map(sum, seconds.values()))
    return seconds


def timing(times: list[float], base: list[float] | None) -> Row:
    """Return the fields of a row for some repeats: median seconds, and ratios to the yardstick's of the same turns.

    A ratio is the yardstick's seconds divided by the run's: ``faster`` is the median, ``faster_range`` the quartiles.

    Parameters
    ----------
    times : list of float
        Seconds of the run.
    base : list of float, optional
        Seconds of the yardstick in the same turns.
    """
    row: Row = {"seconds": statistics.median(times), "repeats": len(times)}
    if base is not None:
        ratios = sorted(b / t for b, t in zip(base, times, strict=True))
        quarter = len(ratios) // 4
        row |= {"faster": statistics.median(ratios), "faster_range": [ratios[quarter], ratios[-1 - quarter]]}
    return row


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write(path: Path, rows: list[Row]) -> None:
    """Write all rows to a new file, and put it in place of the old one, so that a stopped run loses no rows."""
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    new.replace(path)
