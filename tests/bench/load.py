"""How much slower specnorm is beside busy processes: ``python -m bench.load`` prints a table, in Markdown.

Each task runs in a process of its own with threads as they come (no variable is set), alone and beside 2 and 4
processes that multiply and add in pure Python without end; once with one BLAS thread for small kernels, as specnorm
has it, and once with as many as NumPy takes. The yardstick is such a loop of a fixed length.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from bench import facts

BUSY = "while True:\n    x = 1.0\n    for i in range(10**6):\n        x = x * 0.5 + i"
LOOP = "x = 1.0\nfor i in range(3 * 10**7):\n    x = x * 0.5 + i"
KERNELS = """
import numpy as np, specnorm
rng = np.random.default_rng(0)
kernels = [rng.standard_normal((64, 64, 3, 3)).astype(np.float32) for _ in range(8)]
specnorm.enclose(kernels[0][:8, :8])
"""
MODEL = Path(__file__).parents[1] / "data" / "dncnn25" / "dncnn_25.pth"
TASKS = {
    "a loop in Python": ("", LOOP),
    "enclose, eight kernels of 64 channels": (KERNELS, "for kernel in kernels: specnorm.enclose(kernel)"),
    "audit of dncnn25": ("import specnorm", f"specnorm.audit({str(MODEL)!r})"),
}
AS_IT_COMES = "import specnorm_numpy\nspecnorm_numpy._SMALL = 0\n"
"""No kernel is small."""


def seconds(task: str, busy: int, ahead: str = "") -> float:
    """Wall time of a task beside some busy processes, without the imports."""
    before, timed = TASKS[task]
    script = f"{ahead}{before}\nimport time\nstart = time.perf_counter()\n{timed}\nprint(time.perf_counter() - start)"
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(busy)]
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment
        )
    finally:
        for other in others:
            other.kill()
            other.wait()
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions("numpy", "threadpoolctl").items())
    print(f"{facts.date()}, commit {facts.commit()}, {facts.processor()}, {os.cpu_count()} cores, {versions}\n")
    print("| | alone | beside 2 | beside 4 |\n|---|---|---|---|")
    for task in TASKS:
        for ahead, said in (("", ""), (AS_IT_COMES, ", threads as NumPy takes them")):
            if ahead and task.startswith("a loop"):
                continue
            times = [statistics.median(seconds(task, busy, ahead) for _ in range(given.repeats)) for busy in (0, 2, 4)]
            cells = [f"{times[0]:.2f} s", *(f"{t / times[0]:.1f} times" for t in times[1:])]
            print(f"| {task}{said} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
