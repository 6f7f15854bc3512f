"""What more cores bring: `enclose` of large kernels and an audit of ResNet-50's shapes, on 1, 2, 4, 8 and 16 of them.

    python -m bench scaling --out FILE
    python -m bench.scaling --page                # docs/benchmarks/scaling.md and its picture, of scaling.jsonl

Each measurement is a process of its own that may use so many cores (its affinity), and nothing else is set: BLAS takes
the threads, and ``--jobs auto`` the processes, that fit them. Linux alone tells which cores a process has.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import facts, kernels

Row = dict[str, Any]
FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
LINES = "scaling.jsonl"
CORES = (1, 2, 4, 8, 16)
KERNELS = {"256, trained-like": 3, "256, flat": 3, "512, trained-like": 3, "512, flat": 1}
"""Channels and family -> repeats."""
AUDIT = "audit, ResNet-50's shapes"
ENCLOSE = """
import sys, time, json
import numpy as np, specnorm
from bench import facts
kernel = np.load(sys.argv[1])["kernel"]
specnorm.enclose(kernel[:16, :16])
times = []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    found = specnorm.enclose(kernel)
    times.append(time.perf_counter() - start)
peak = facts.peak_bytes(lambda: specnorm.enclose(kernel)) if times[0] < 4 else None
print(json.dumps({"times": times, "peak_bytes": peak, "upper": float(found.upper)}))
"""


ON_CORES = """
import os, sys
os.sched_setaffinity(0, map(int, sys.argv[1].split(",")))
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Takes some cores and becomes another command."""


def prepare(folder: Path, names: list[str], smoke: bool) -> None:
    """A file for each task."""
    for name in names:
        if name == AUDIT:
            layers = kernels.resnet50(smoke)
            found = {
                f"{layer}.{j}".replace(", ", "+"): k for layer, every in layers.items() for j, k in enumerate(every)
            }
            np.savez(folder / f"{name}.npz", allow_pickle=False, **found)
        else:
            channels = 16 if smoke else int(name.split(",")[0])
            make = kernels.flat if name.endswith("flat") else lambda c: kernels.like_trained((c, c, 3, 3))
            np.savez(folder / f"{name}.npz", allow_pickle=False, kernel=make(channels))


def measure(name: str, file: Path, cores: int) -> Row:
    """Seconds, and bytes at most, of one task on so many cores."""
    if name == AUDIT:
        command = [sys.executable, "-m", "specnorm", "audit", str(file), "--format", "json"]
        seconds, peak, _ = watched(command, cores)
        return {"seconds": seconds, "repeats": 1, "peak_bytes": peak}
    script = [sys.executable, "-c", ENCLOSE, str(file), str(KERNELS[name])]
    _, whole, text = watched(script, cores)
    told = json.loads(text.splitlines()[-1])
    return {
        "seconds": statistics.median(told["times"]), "repeats": len(told["times"]),
        "peak_bytes": told["peak_bytes"] or whole, "upper": told["upper"],
    }  # fmt: skip


def watched(command: list[str], cores: int) -> tuple[float, int | None, str]:
    """Seconds of a command on so many cores, memory of all its processes at most, and what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    mine = ",".join(map(str, sorted(os.sched_getaffinity(0))[:cores]))
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-ISc", ON_CORES, mine, *command],
            stdout=out, stderr=errors, env=environment, cwd=Path(__file__).parents[1],
        )  # fmt: skip
        peak = 0
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        if process.returncode:
            errors.seek(0)
            raise RuntimeError(f"{' '.join(command[:4])} ended with {process.returncode}: {errors.read()[-500:]}")
        out.seek(0)
        return seconds, peak or None, out.read()


def memory(pid: int) -> int:
    """Bytes of a process and its children, pages that they share counted in parts; 0 where Linux does not tell."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    except OSError:
        return 0
    here = sum(1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return here + sum(memory(int(child)) for child in children.split())


def run(out: Path, smoke: bool = False) -> list[Row]:
    """Every task on every number of cores that is here; what is measured is in the file at once."""
    here = len(os.sched_getaffinity(0))
    about = {
        "date": facts.date(), "commit": facts.commit(), "machine": f"{facts.processor()}, {here} cores",
        "versions": facts.versions("numpy"),
    }  # fmt: skip
    rows: list[Row] = []
    names = [*KERNELS, AUDIT]
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder), names, smoke)
        for cores in (c for c in CORES if c <= here):
            for name in names:
                try:
                    found = measure(name, Path(folder) / f"{name}.npz", cores)
                except RuntimeError as error:
                    print(f"{cores:2d} cores  {name:28s} {error}", flush=True)
                    continue
                row = {"task": name, "cores": cores, **found, **about}
                rows.append(row)
                out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                print(f"{cores:2d} cores  {name:28s} {row['seconds']:.3f} s", flush=True)
    return rows


# -- the page --------------------------------------------------------------------------------------------------------
def write(folder: Path) -> None:
    """scaling.md and its picture, from the lines."""
    from bench.page import span, table

    rows = [json.loads(line) for line in (folder / LINES).read_text(encoding="utf-8").splitlines()]
    cores = sorted({row["cores"] for row in rows})
    lines, memories = [], []
    for name in dict.fromkeys(row["task"] for row in rows):
        mine = {row["cores"]: row for row in rows if row["task"] == name}
        if cores[0] not in mine:
            continue
        alone = mine[cores[0]]["seconds"]
        label = name if name == AUDIT else f"`enclose`, {name.replace(',', ' channels,')}"
        lines.append([
            label, span(alone), *(f"{alone / mine[c]['seconds']:.2f}" if c in mine else "-" for c in cores[1:]),
        ])  # fmt: skip
        bytes_ = [mine[c]["peak_bytes"] if c in mine else None for c in cores]
        memories.append([label, *(f"{b / 2**20:.0f}" if b else "-" for b in bytes_)])
    first = rows[0]
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    versions = ", ".join(f"{key} {value}" for key, value in first["versions"].items())
    page = (
        "# More cores\n\n"
        f"Kernels are 3x3, float32, `enclose` to 1e-3 over every size; the audit is the command line's, of {AUDIT[7:]} "
        "(53 layers), start of the interpreter included. Each is a process that may use so many cores; nothing else is "
        f"set. Measured {first['date']} at commit {commits} on {first['machine']}; {versions}; wall time, medians. "
        f"Every line: [{LINES}]({LINES}). `python -m bench scaling --out FILE` in `tests` measures again, `python -m "
        "bench.scaling --page` makes this page.\n\n![seconds against cores](scaling.svg)\n\n"
        + table(["", "on 1 core", *(f"times as fast on {c}" for c in cores[1:])], lines)
        + "\nMemory at most, MiB: of a call beyond what was there before it (of the whole process where a call takes "
        "longer than four seconds); of the audit, all its processes with the interpreter.\n\n"
        + table(["", *(f"{c} core{'s' if c > 1 else ''}" for c in cores)], memories)
    )
    (folder / "scaling.md").write_text(page, encoding="utf-8")
    picture(rows, folder)


def picture(rows: list[Row], folder: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "specnorm"  # the same figures give the same file
    from matplotlib import pyplot as plt

    from bench.page import save

    figure, axes = plt.subplots(figsize=(7, 4))
    for j, name in enumerate(dict.fromkeys(row["task"] for row in rows)):
        points = sorted((row["cores"], row["seconds"]) for row in rows if row["task"] == name)
        axes.loglog(*zip(*points, strict=True), "o-", base=2, color=f"C{j}", label=name)
        first = points[0][1]
        axes.loglog([c for c, _ in points], [first / c for c, _ in points], ":", base=2, color=f"C{j}", linewidth=0.8)
    axes.set_xlabel("cores (dotted: as many times as fast)")
    axes.set_ylabel("seconds")
    axes.set_xticks(sorted({row["cores"] for row in rows}), [str(c) for c in sorted({row["cores"] for row in rows})])
    axes.legend(fontsize=8)
    save(figure, folder / "scaling.svg")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", required=True)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    write(parser.parse_args().folder)


if __name__ == "__main__":
    main()
