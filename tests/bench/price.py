"""What a proof costs: specnorm against textbook estimates, interleaved in one run.

    python -m bench.price --threads 1 --out docs/benchmarks/price-1.jsonl

Each line is one measurement: medians of interleaved repeats, in seconds, with everything needed to repeat it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import specnorm
from bench import facts
from bench.kernels import flat, trained
from bench.yardsticks import fft_svd, hopm, hopm_lean

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for one thread on a busy machine")
    parser.add_argument("--without", nargs="*", default=[], help="contestants to leave out")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    rows = []
    for channels in given.channels:
        kernels = [("trained", *pair) for pair in trained(channels)] + [("flat", "gaussian", flat(channels))]
        for family, name, kernel in kernels:
            rows.append(measure(family, name, kernel, given.threads, given.repeats, given.clock, given.without))
            print(summary(rows[-1]), flush=True)
    given.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(table(rows))


def measure(
    family: str, name: str, kernel: np.ndarray, threads: int, repeats: int, clock: str, without: list[str]
) -> dict[str, Any]:
    """Interleave all contestants on one kernel."""
    x = torch.tensor(kernel)
    contestants: dict[str, Callable[[], Any]] = {
        "hopm": lambda: hopm(x),
        "hopm_lean": lambda: hopm_lean(x),
        "enclose": lambda: specnorm.enclose(x),
        "tn_certified": lambda: specnorm.tn_bound(x),
        "tn_estimate": lambda: specnorm.tn_bound(x, certified=False),
        "f4": lambda: specnorm.f4_bound(x),
        "enclose_n32": lambda: specnorm.enclose(x, 32),
        "enclose_n1024": lambda: specnorm.enclose(x, 1024),
    }
    if kernel.shape[0] >= 512:
        del contestants["f4"]
    if family == "flat" and kernel.shape[0] >= 256:
        repeats = 1  # seconds each
        del contestants["enclose_n32"], contestants["enclose_n1024"]
    if kernel.shape[0] <= 64:
        contestants["fft_svd_n32"] = lambda: fft_svd(x, 32)
        contestants["conv_norm_n32"] = lambda: specnorm.conv_norm(x, 32)
        contestants["conv_norm_n112"] = lambda: specnorm.conv_norm(x, 112)
    contestants = {key: run for key, run in contestants.items() if key not in without}
    seconds: dict[str, list[float]] = {key: [] for key in contestants}
    values: dict[str, Any] = {key: run() for key, run in contestants.items()}  # warm-up
    for _ in range(min(repeats, 3 if kernel.shape[0] > 128 else repeats)):
        for key, run in contestants.items():
            begin = CLOCKS[clock]()
            run()
            seconds[key].append(CLOCKS[clock]() - begin)
    found = values["enclose"]
    return {
        "family": family,
        "name": name,
        "shape": list(kernel.shape),
        "threads": threads,
        "clock": clock,
        "seconds": {key: statistics.median(times) for key, times in seconds.items()},
        "ratio_to_hopm": ratios(seconds, "hopm"),
        "ratio_to_hopm_lean": ratios(seconds, "hopm_lean") if "hopm_lean" in seconds else None,
        "ratio_to_fft_svd_n32": ratios(seconds, "fft_svd_n32") if "fft_svd_n32" in seconds else None,
        "lower": float(found.lower),
        "upper": float(found.upper),
        "cells": found.cells,
        "status": found.status,
        "hopm_value": float(values["hopm"]),
        "tn_value": float(values["tn_certified"]),
        "f4_value": float(values["f4"]) if "f4" in values else None,
        "machine": facts.processor(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "commit": facts.commit(),
        "dirty": bool(facts.git("status", "--porcelain")),
        "date": facts.date(),
    }


def ratios(seconds: dict[str, list[float]], yardstick: str) -> dict[str, float]:
    """Medians of paired ratios to one contestant."""
    return {
        key: statistics.median(t / y for t, y in zip(times, seconds[yardstick], strict=True))
        for key, times in seconds.items()
    }


def summary(row: dict[str, Any]) -> str:
    ratios = "  ".join(f"{key} {value:.2f}" for key, value in row["ratio_to_hopm"].items() if key != "hopm")
    hopm_ms = 1e3 * row["seconds"]["hopm"]
    fft = row["ratio_to_fft_svd_n32"] or {}
    # Half the grid at n = 112 has 11.7 times the points: so much longer is FFT and SVD.
    speedup = [
        f"conv_norm_n{n} {times / fft[f'conv_norm_n{n}']:.0f}x"
        for n, times in ((32, 1), (112, 112 * 57 / (32 * 17)))
        if fft
    ]
    ratios = "  ".join([ratios, *speedup])
    return f"{row['shape'][0]:4d} {row['family']:8s} hopm {hopm_ms:.1f} ms  {ratios}  ({row['cells']} cells)"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown for docs/benchmarks/price.md: medians over the kernels of one size and family."""
    columns = ("enclose", "enclose_n32", "enclose_n1024", "tn_certified", "tn_estimate", "f4")
    lines = [
        "| channels | kernels | HOPM, ms | " + " | ".join(columns) + " | cells |",
        "|---" * (4 + len(columns)) + "|",
    ]
    for family in ("trained", "flat"):
        for channels in sorted({row["shape"][0] for row in rows}):
            these = [row for row in rows if row["shape"][0] == channels and row["family"] == family]
            if not these:
                continue
            cells = "-".join(str(f(row["cells"] for row in these)) for f in ((min, max) if len(these) > 1 else (max,)))
            hopm_ms = statistics.median(row["seconds"]["hopm"] for row in these) * 1e3
            ratio = [[r["ratio_to_hopm"][c] for r in these if c in r["ratio_to_hopm"]] for c in columns]
            figures = [f"{statistics.median(x):.2f} ({max(x):.2f})" if x else "" for x in ratio]
            lines.append(
                f"| {channels} | {family}, {len(these)} | {hopm_ms:.1f} | " + " | ".join(figures) + f" | {cells} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
