"""What a proof costs: specnorm against textbook estimates, interleaved in one run.

    python -m bench.price --threads 1 --out docs/benchmarks/price-1.jsonl
    python -m bench.price --page                    # the tables of docs/benchmarks/price.md, from its two files

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
from bench.compare import replaced
from bench.kernels import flat, trained
from bench.yardsticks import hopm_einsum, hopm_lean, rfft_svd

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
YARDSTICK = "hopm_einsum"
AIMS = {"trained": {64: 0.7, 256: 1.0, 512: 1.5}, "flat": {256: 6.0, 512: 8.0}}
"""Of `enclose`, in times of the published method as its authors write it: `hopm_einsum`."""
HALVES = {32: 32 * 17, 112: 112 * 57}
"""Frequencies of half a grid."""
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for one thread on a busy machine")
    parser.add_argument("--without", nargs="*", default=[], help="contestants to leave out")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--page", action="store_true", help="measure nothing; write the page's tables")
    given = parser.parse_args()
    if given.page:
        write(FOLDER)
        return
    if given.out is None:
        parser.error("--out FILE says where the lines go")
    torch.set_num_threads(given.threads)
    rows = []
    for channels in given.channels:
        kernels = [("trained", *pair) for pair in trained(channels)] + [("flat", "gaussian", flat(channels))]
        for family, name, kernel in kernels:
            rows.append(measure(family, name, kernel, given.threads, given.repeats, given.clock, given.without))
            print(summary(rows[-1]), flush=True)
            # What is measured is not lost where a long run is stopped.
            given.out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(table(rows))


def measure(
    family: str, name: str, kernel: np.ndarray, threads: int, repeats: int, clock: str, without: list[str]
) -> dict[str, Any]:
    """Interleave all contestants on one kernel."""
    x = torch.tensor(kernel)
    contestants: dict[str, Callable[[], Any]] = {
        "hopm_einsum": lambda: hopm_einsum(x),
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
        contestants["rfft_svd_n32"] = lambda: rfft_svd(x, 32)
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
        "yardstick": YARDSTICK,
        "ratio": ratios(seconds, YARDSTICK),
        "ratio_to_rfft_svd_n32": ratios(seconds, "rfft_svd_n32") if "rfft_svd_n32" in seconds else None,
        "lower": float(found.lower),
        "upper": float(found.upper),
        "cells": found.cells,
        "status": found.status,
        "hopm_value": float(values[YARDSTICK]),
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
    told = [f"{key} {value:.2f}" for key, value in row["ratio"].items() if key != YARDSTICK]
    told += [f"conv_norm_n{n} {value:.1f}x" for n, value in against_fft(row).items()]
    hopm_ms = 1e3 * row["seconds"][YARDSTICK]
    return f"{row['shape'][0]:4d} {row['family']:8s} hopm {hopm_ms:.1f} ms  {'  '.join(told)}  ({row['cells']} cells)"


def against_fft(row: dict[str, Any]) -> dict[int, float]:
    """How many times as fast as FFT and SVD `conv_norm` is; these take as much longer as there are frequencies."""
    found = row.get("ratio_to_rfft_svd_n32") or {}
    return {n: points / HALVES[32] / found[f"conv_norm_n{n}"] for n, points in HALVES.items() if found}


def write(folder: Path) -> None:
    """The tables of price.md, from the committed lines, with where and when they were measured."""
    page = (folder / "price.md").read_text(encoding="utf-8")
    for threads, title in ((1, "1 thread"), (2, "2 threads")):
        text = (folder / f"price-{threads}.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()]
        first = rows[0]
        versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
        where = f"{title}: {first['date']} at commit {first['commit']}, {first['machine']}, {first['clock']} time"
        parts = [f"{where}; {versions}.", table(rows), aims(rows), circular(rows)]
        page = replaced(page, title, "\n\n".join(part for part in parts if part) + "\n")
    (folder / "price.md").write_text(page, encoding="utf-8")


def medians(rows: list[dict[str, Any]], family: str, channels: int, contestant: str) -> float:
    """Of the ratios to the yardstick, over the kernels of a family and size."""
    these = [row for row in rows if row["family"] == family and row["shape"][0] == channels]
    return float(statistics.median(row["ratio"][contestant] for row in these))


def aims(rows: list[dict[str, Any]]) -> str:
    """`enclose` and its aims, where all of these sizes were measured."""
    measured = {(row["family"], row["shape"][0]) for row in rows if row["yardstick"] == YARDSTICK}
    lines = [
        f"| {channels} | {family} | {most:g} | {medians(rows, family, channels, 'enclose'):.2f} |"
        for family, every in AIMS.items() for channels, most in every.items() if (family, channels) in measured
    ]  # fmt: skip
    return (
        "\n".join(["| `enclose`: channels | kernels | aim, at most | reached |", "|---|---|---|---|", *lines])
        if lines
        else ""
    )


def circular(rows: list[dict[str, Any]]) -> str:
    """`conv_norm` beside FFT and SVD; nothing of lines that had another yardstick."""
    parts = []
    for family in ("trained", "flat"):
        found = [
            told for row in rows if row["family"] == family and row["shape"][0] == 64 and (told := against_fft(row))
        ]
        if found:
            each = ", ".join(f"{statistics.median(told[n] for told in found):.2g} at n = {n}" for n in HALVES)
            parts.append(f"{family} {each}")
    text = "`conv_norm` to 1e-6 at 64 channels, times as fast as `rfft2` and `svdvals` in float32 (aims 10 and 100): "
    return text + "; ".join(parts) + "." if parts else ""


def with_largest(values: list[float]) -> str:
    """Median, and the largest in parentheses where that is another."""
    if not values:
        return ""
    middle, most = (f"{x:.2f}" for x in (statistics.median(values), max(values)))
    return middle if middle == most else f"{middle} ({most})"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown for docs/benchmarks/price.md: medians over the kernels of one size and family."""
    columns = ["enclose", "enclose_n32", "enclose_n1024", "tn_certified", "tn_estimate", "f4"]
    columns += ["hopm_lean"] if rows[0]["yardstick"] == YARDSTICK else []
    lines = [
        f"| channels | kernels | `{rows[0]['yardstick']}`, ms | " + " | ".join(columns) + " | cells |",
        "|---" * (4 + len(columns)) + "|",
    ]
    for family in ("trained", "flat"):
        for channels in sorted({row["shape"][0] for row in rows}):
            these = [row for row in rows if row["shape"][0] == channels and row["family"] == family]
            if not these:
                continue
            cells = "-".join(str(f(row["cells"] for row in these)) for f in ((min, max) if len(these) > 1 else (max,)))
            hopm_ms = statistics.median(row["seconds"][row["yardstick"]] for row in these) * 1e3
            ratio = [[r["ratio"][c] for r in these if c in r["ratio"]] for c in columns]
            figures = [with_largest(x) for x in ratio]
            lines.append(
                f"| {channels} | {family}, {len(these)} | {hopm_ms:.1f} | " + " | ".join(figures) + f" | {cells} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
