"""How much slower specnorm is beside busy processes, within four minutes.

    python -m bench.load --out FILE
    python -m bench.load --page                  # docs/benchmarks/load.md, of load.jsonl

Each task runs in a process of its own with threads as they come (no variable is set), alone and beside 2 and 4
processes that multiply and add in pure Python without end; as specnorm is, with one BLAS thread for small kernels, and
as it was before, with as many as NumPy takes. The yardstick is a loop of one thread in C, or in Python where no
compiler is found.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench import facts

Row = dict[str, Any]
FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
LINES = "load.jsonl"
BESIDE = (0, 2, 4)
BUSY = "while True:\n    x = 1.0\n    for i in range(10**6):\n        x = x * 0.5 + i"
LOOP = "a loop of one thread"
IN_C = """
#include <stdio.h>
int main(void) { double x = 1.0; for (long i = 0; i < 300000000L; i++) x = x * 0.5 + i; printf("%g\\n", x); return 0; }
"""
IN_PYTHON = "x = 1.0\nfor i in range(2 * 10**7):\n    x = x * 0.5 + i"
KERNELS = """
import numpy as np, specnorm
rng = np.random.default_rng(0)
kernels = [rng.standard_normal((64, 64, 3, 3)).astype(np.float32) for _ in range(24)]
specnorm.enclose(kernels[0][:8, :8])
"""
MODEL = Path(__file__).parents[1] / "data" / "dncnn25" / "dncnn_25.pth"
TASKS = {
    "enclose, 24 kernels of 64 channels": (KERNELS, "for kernel in kernels: specnorm.enclose(kernel)"),
    "audit of dncnn25, 17 layers": ("import specnorm", f"specnorm.audit({str(MODEL)!r})"),
}
BEFORE = "import specnorm_numpy\nassert specnorm_numpy._SMALL\nspecnorm_numpy._SMALL = 0\n"
"""No kernel is small: BLAS has its threads, as it had until commit 2f8796e."""
MOST = 30.0
"""Seconds after which a task is given up."""


@contextlib.contextmanager
def beside(busy: int) -> Iterator[None]:
    """So many processes at work."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def command(task: str, before: bool, folder: Path) -> list[str]:
    """What runs a task and prints its seconds, without its imports."""
    if task == LOOP:
        ready, timed = "", IN_PYTHON
        compiler = shutil.which("cc")
        if compiler:
            (folder / "loop.c").write_text(IN_C)
            subprocess.run([compiler, "-O1", "-o", str(folder / "loop"), str(folder / "loop.c")], check=True)
            ready = "import subprocess"
            timed = f"subprocess.run([{str(folder / 'loop')!r}], capture_output=True, check=True)"
    else:
        ready, timed = TASKS[task]
    ahead = BEFORE if before else ""
    script = f"{ahead}{ready}\nimport time\nstart = time.perf_counter()\n{timed}\nprint(time.perf_counter() - start)"
    return [sys.executable, "-c", script]


def seconds(words: list[str], most: float) -> float | None:
    """Wall time of a task; None where it takes more."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    try:
        done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment, timeout=most)
    except subprocess.TimeoutExpired:
        return None
    return float(done.stdout.splitlines()[-1])


def several(words: list[str], busy: int, repeats: int, end: float, most: float) -> Row:
    """Seconds of a task beside so many processes; once at least, and no more where it is late or the time is up."""
    row: Row = {"seconds": None}
    times: list[float] = []
    with beside(busy):
        while len(times) < repeats and (not times or time.monotonic() < end):
            limit = min(most, max(5.0, end - time.monotonic()))
            found = seconds(words, limit)
            if found is None:
                row["given_up_after"] = limit
                break
            times.append(found)
    if times:
        row["seconds"] = statistics.median(times)
    return row | {"repeats": len(times)}


def run(out: Path, repeats: int, minutes: float, most: float = MOST) -> list[Row]:
    """Every task now, then as it was before; fewer repeats where the time runs out."""
    end = time.monotonic() + 60 * minutes
    about = {
        "date": facts.date(), "commit": facts.commit(), "machine": f"{facts.processor()}, {os.cpu_count()} cores",
        "versions": facts.versions("numpy", "threadpoolctl"), "loop": "C" if shutil.which("cc") else "Python",
    }  # fmt: skip
    rows: list[Row] = []
    every = [(LOOP, False), *((task, False) for task in TASKS), *((task, True) for task in TASKS)]
    with tempfile.TemporaryDirectory() as folder:
        for task, before in every:
            words = command(task, before, Path(folder))
            for busy in BESIDE:
                # What was before is slow, and its spread is no matter.
                row = {"task": task, "before": before, "busy": busy}
                row |= several(words, busy, 1 if before else repeats, end, most)
                rows.append(row | about)
                out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                print(f"{task:38s} {'before' if before else 'now':7s} beside {busy}: {row['seconds']}", flush=True)
    return rows


def write(folder: Path) -> None:
    """load.md, from the lines."""
    from bench.page import table

    rows = [json.loads(line) for line in (folder / LINES).read_text(encoding="utf-8").splitlines()]
    first = rows[0]
    lines = []
    for task, before in dict.fromkeys((row["task"], row["before"]) for row in rows):
        mine = {row["busy"]: row for row in rows if (row["task"], row["before"]) == (task, before)}
        alone = mine[0]["seconds"]
        cells = []
        for busy in BESIDE:
            here = mine[busy]["seconds"] if busy in mine else None
            late = mine[busy].get("given_up_after") if busy in mine else None
            told = f"more than {late:.0f} s" if late else "-"
            if here:
                told = f"{here / alone:.1f} times" if busy and alone else f"{here:.2f} s"
            cells.append(told)
        when = "" if task == LOOP else ", before" if before else ", now"
        lines.append([(f"{task} in {first['loop']}" if task == LOOP else task) + when, *cells])
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    header = ["", "alone", *(f"beside {busy}" for busy in BESIDE[1:])]
    most = max(row["repeats"] for row in rows)
    page = (
        "# Beside busy processes\n\n"
        "How much longer a task takes beside processes that compute without end than alone. Nothing is set: *now*, "
        "specnorm takes one BLAS thread for kernels of at most 2²⁰ entries; *before*, BLAS took as many as it "
        "liked, which commit 2f8796e ended, and which a switch brings back here. The aim is no more than a loop of one "
        f"thread takes, and never ten times.\n\n{table(header, lines)}\n"
        f"Measured {first['date']} at commit {first['commit']} on {first['machine']}, {versions}; wall time, "
        f"medians of up to {most}, *before* once. Lines in [{LINES}]({LINES}). `python -m "
        "bench.load --out FILE` in `tests` measures again, `python -m bench.load --page` makes this page.\n"
    )
    (folder / "load.md").write_text(page, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=3.5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the page and its lines")
    given = parser.parse_args()
    if given.page:
        write(given.folder)
    elif given.out is None:
        parser.error("--out FILE says where the lines go")
    else:
        run(given.out, given.repeats, given.minutes)


if __name__ == "__main__":
    main()
