"""Lines of figures: where and when each was measured, repeats in turn, memory, processes of their own, files."""

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
TESTS = Path(__file__).parents[1]
FOLDER = TESTS.parent / "docs" / "benchmarks"


def git(*words: str) -> str:
    """What a git command prints; nothing where there is none."""
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()


def processors() -> str:
    """What Linux tells about the processors; nothing elsewhere."""
    told = Path("/proc/cpuinfo")
    return told.read_text() if told.exists() else ""


def instructions() -> str:
    """The vector instructions that libraries use: the machine's, unless ATEN_CPU_CAPABILITY allows fewer."""
    told = processors()
    is_restricted = os.environ.get("ATEN_CPU_CAPABILITY", "").lower() == "avx2"
    if "avx512f" in told and not is_restricted:
        return "AVX-512"
    return "AVX2" if "avx2" in told else platform.machine()


def about(*packages: str) -> Row:
    """Date, commit, machine, and versions of Python and of those packages that are installed.

    Where the tree was copied without its history, SPECNORM_COMMIT names the commit. A + says that files differ from it.
    """
    commit = git("rev-parse", "--short", "HEAD") or os.environ.get("SPECNORM_COMMIT", "unknown")
    changed = "+" if git("status", "--porcelain", "--", ":/specnorm", ":/plugins") else ""
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
    """Seconds of each in turn, so that whatever else the machine does falls on all of them."""
    seconds: dict[Any, list[float]] = {key: [] for key in runs}
    least, most, budget = (2, 3, 0.3) if quick else (3, 15, 1.0)
    spent = 0.0
    for j in range(most):
        # One or two are enough of something slow.
        if spent > (budget if j >= least else 3 * budget):
            break
        for key, run in runs.items():
            start = clock()
            run()
            seconds[key].append(clock() - start)
        spent = sum(map(sum, seconds.values()))
    return seconds


def timing(times: list[float], base: list[float] | None) -> Row:
    """Median; paired ratio to the textbook method, above 1 if that is slower, with its lowest and highest quarter."""
    row: Row = {"seconds": statistics.median(times), "repeats": len(times)}
    if base is not None:
        ratios = sorted(b / t for b, t in zip(base, times, strict=True))
        quarter = len(ratios) // 4
        row |= {"faster": statistics.median(ratios), "faster_range": [ratios[quarter], ratios[-1 - quarter]]}
    return row


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def write(path: Path, rows: list[Row]) -> None:
    """A whole new file in place of the old one: what is measured is not lost where a long run is stopped."""
    new = path.with_suffix(".new")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    new.replace(path)
