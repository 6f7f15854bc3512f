"""Where and when a figure was measured: what every file of figures says of itself."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np


def date() -> str:
    """Today."""
    return time.strftime("%Y-%m-%d")


def git(*words: str) -> str:
    """What a git command prints; nothing where there is none."""
    try:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def commit() -> str:
    """Short name of the commit; where the tree was copied without its history, what SPECNORM_COMMIT says."""
    return git("rev-parse", "--short", "HEAD") or os.environ.get("SPECNORM_COMMIT", "unknown")


def processor() -> str:
    """Name of the processor, as Linux tells it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def versions(*names: str) -> dict[str, str]:
    """Of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def gemm_gflops(size: int = 768, dtype: str = "float64") -> float:
    """Rate of a square product in NumPy, the best of five: what bounds everything else on this machine."""
    a = np.random.RandomState(0).standard_normal((size, size)).astype(dtype)
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begin)
    return 2 * size**3 / min(times) / 1e9


def peak_bytes(run: Callable[[], object]) -> int | None:
    """What the process grows by at most during a call; None where Linux does not tell."""
    try:
        give_back: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
        give_back(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _memory("VmRSS")
        run()
        return _memory("VmHWM") - before
    except (OSError, AttributeError):
        return None


def _memory(field: str) -> int:
    """One line of the process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise OSError(field)
